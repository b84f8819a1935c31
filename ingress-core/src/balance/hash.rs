//! Stable hashes: the same on every node and in every version, so that agents agree where a client belongs.

use std::net::{IpAddr, SocketAddr};

/// From here on a table is cheaper than hashing with every endpoint.
const TABLE_FROM: usize = 32;

/// Hashes what a balance hashes by: a source address's or URI's bytes. Not for hash tables.
pub fn hash_bytes(bytes: &[u8]) -> u64 {
    const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0100_0000_01b3;
    let fnv = bytes
        .iter()
        .fold(OFFSET, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(PRIME));
    mix(fnv)
}

/// The identity of an endpoint in affinity cookies and consistent hashing.
pub(super) fn endpoint_id(address: SocketAddr) -> u64 {
    const SEED: u64 = 0x7f4a_7c15_9e37_79b9;
    let ip = match address.ip() {
        IpAddr::V4(ip) => hash_bytes(&ip.octets()),
        IpAddr::V6(ip) => hash_bytes(&ip.octets()),
    };
    mix(ip ^ SEED ^ mix(u64::from(address.port())))
}

/// Reads an affinity cookie's value; anything but what [`super::LiveEndpoint::sticky_id`] writes is nobody's.
pub(super) fn parse_id(text: &str) -> Option<u64> {
    let digits = text.len() == 16 && text.bytes().all(|b| b.is_ascii_hexdigit());
    digits.then(|| u64::from_str_radix(text, 16).ok()).flatten()
}

/// A bijection that spreads every bit over all others (the finaliser of SplitMix64).
pub(super) fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// How much a key belongs to an endpoint (rendezvous hashing: the highest takes it).
pub(super) fn affinity(key: u64, endpoint: u64) -> u64 {
    mix(key ^ endpoint)
}

/// A lookup table of endpoint indices (Maglev): one read a request, and few keys move when an endpoint comes or goes.
#[derive(Debug)]
pub(super) struct Table(Box<[u16]>);

impl Table {
    /// `None` for a set that is small enough without, or too large for the table.
    pub(super) fn new(ids: &[u64]) -> Option<Self> {
        if ids.len() < TABLE_FROM {
            return None;
        }
        let size = [4099_usize, 16411, 65537]
            .into_iter()
            .find(|size| size / ids.len() >= 64)?;
        Some(Self(fill(ids, size)))
    }

    pub(super) fn get(&self, key: u64) -> Option<usize> {
        let at = scale(mix(key), self.0.len());
        self.0.get(at).map(|index| usize::from(*index))
    }
}

/// Every endpoint in turn takes the next free slot of its own permutation, until all are taken. `size` is a prime.
fn fill(ids: &[u64], size: usize) -> Box<[u16]> {
    const FREE: u16 = u16::MAX;
    let mut slots = vec![FREE; size];
    let mut walks: Vec<_> = ids
        .iter()
        .map(|id| (scale(*id, size), 1 + scale(mix(*id), size - 1)))
        .collect();
    let mut left = size;
    'all: loop {
        for (index, (at, step)) in walks.iter_mut().enumerate() {
            while slots.get(*at).is_some_and(|slot| *slot != FREE) {
                *at = (*at + *step) % size;
            }
            if let Some(slot) = slots.get_mut(*at) {
                *slot = u16::try_from(index).unwrap_or_default();
            }
            left -= 1;
            if left == 0 {
                break 'all;
            }
        }
    }
    slots.into_boxed_slice()
}

/// Maps a random `u64` evenly to `0..size`.
pub(super) fn scale(random: u64, size: usize) -> usize {
    let size = u128::try_from(size).unwrap_or_default();
    usize::try_from((u128::from(random) * size) >> 64).unwrap_or_default()
}
