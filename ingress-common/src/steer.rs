//! Which socket gets a new connection: what the sk_lookup program decides once it has looked up the served address.

use crate::abi::{Address, FLAG_LOOPBACK, Served, ServedKey, WHOLE};

/// A connection that somebody wants to open; ports in host order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opening {
    pub local: Address,
    pub local_port: u32,
    pub remote: Address,
    pub remote_port: u32,
}

/// What becomes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Steer {
    /// It is nobody's business here: the kernel goes on as if there were no agent.
    Leave,
    /// To the socket in [`slot`]`(served, start, 0)`, or, while one is empty, to the next.
    Take { start: u32 },
}

/// How many slots are tried before a connection is unclaimed: a worker that ended leaves its slot empty.
pub const TRIES: u32 = 4;

/// An IPv4 address, a word as it stands in the packet.
#[inline(always)]
pub const fn mapped(v4: u32) -> Address {
    [0, 0, MAPPED, v4]
}

const MAPPED: u32 = 0x0000_ffff_u32.to_be();

impl Opening {
    /// What is asked first: this very address.
    #[inline(always)]
    pub const fn exact(&self) -> ServedKey {
        ServedKey {
            address: self.local,
            port: self.local_port,
        }
    }

    /// What is asked next: every address of the family.
    #[inline(always)]
    pub const fn any(&self) -> ServedKey {
        let address = if is_mapped(&self.local) { mapped(0) } else { [0; 4] };
        ServedKey {
            address,
            port: self.local_port,
        }
    }

    /// 127.0.0.0/8 and ::1.
    #[inline(always)]
    pub const fn is_to_loopback(&self) -> bool {
        let [high, middle, low, last] = self.local;
        let last = u32::from_be(last);
        if is_mapped(&self.local) {
            return last >> 24 == 127;
        }
        high == 0 && middle == 0 && low == 0 && last == 1
    }
}

/// For an entry found by [`Opening::exact`].
#[inline(always)]
pub const fn to_this(served: &Served, opening: &Opening) -> Steer {
    if served.slots == 0 || share_of(&opening.remote) >= served.share {
        return Steer::Leave;
    }
    Steer::Take {
        start: spread(served.seed, opening),
    }
}

/// For an entry found by [`Opening::any`]: loopback is another process's ground unless the flag says otherwise.
#[inline(always)]
pub const fn to_any(served: &Served, opening: &Opening) -> Steer {
    if served.flags & FLAG_LOOPBACK == 0 && opening.is_to_loopback() {
        return Steer::Leave;
    }
    to_this(served, opening)
}

/// The slot of the `attempt`th try.
#[inline(always)]
pub const fn slot(served: &Served, start: u32, attempt: u32) -> u32 {
    // A remainder, not a shift: the number of workers is any number.
    let count = if served.slots == 0 { 1 } else { served.slots };
    served
        .first_slot
        .wrapping_add(start.wrapping_add(attempt) % count)
}

/// Where to start instead: of the two slots that a connection's hash names, the one whose worker has less to do. What has as much keeps
/// connections spread by hash alone.
#[inline(always)]
pub fn lighter(served: &Served, start: u32, load: impl Fn(u32) -> u32) -> u32 {
    let other = finish(start ^ OTHER_SEED);
    if load(slot(served, other, 0)) < load(slot(served, start, 0)) {
        other
    } else {
        start
    }
}

const OTHER_SEED: u32 = 0x5eed_0002;

/// Where a source stands among [`WHOLE`]: always the same for the same address, whatever agent asks, so that a share is sticky.
#[inline(always)]
pub const fn share_of(source: &Address) -> u32 {
    finish(address_hash(SHARE_SEED, source)) % WHOLE
}

const SHARE_SEED: u32 = 0x5eed_0001;

#[inline(always)]
const fn spread(seed: u32, opening: &Opening) -> u32 {
    let hash = address_hash(seed, &opening.remote);
    finish(mix(hash, opening.remote_port))
}

#[inline(always)]
const fn address_hash(seed: u32, address: &Address) -> u32 {
    let [first, second, third, last] = *address;
    mix(mix(mix(mix(seed, first), second), third), last)
}

#[inline(always)]
const fn mix(hash: u32, word: u32) -> u32 {
    // The multipliers of MurmurHash3 (public domain): a well spread hash in a few instructions.
    let word = word
        .wrapping_mul(0xcc9e_2d51)
        .rotate_left(15)
        .wrapping_mul(0x1b87_3593);
    (hash ^ word)
        .rotate_left(13)
        .wrapping_mul(5)
        .wrapping_add(0xe654_6b64)
}

#[inline(always)]
const fn finish(mut hash: u32) -> u32 {
    hash ^= hash >> 16;
    hash = hash.wrapping_mul(0x85eb_ca6b);
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(0xc2b2_ae35);
    hash ^ (hash >> 16)
}

#[inline(always)]
const fn is_mapped(address: &Address) -> bool {
    address[0] == 0 && address[1] == 0 && address[2] == MAPPED
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec;

    const ALL: Served = Served {
        first_slot: 8,
        slots: 4,
        share: WHOLE,
        seed: 7,
        counter: 0,
        flags: 0,
    };

    fn from(source: u32, port: u32) -> Opening {
        Opening {
            local: mapped(0x0a4d_0002_u32.to_be()),
            local_port: 80,
            remote: mapped(source.to_be()),
            remote_port: port,
        }
    }

    #[test]
    fn connections_spread_evenly_over_the_slots() {
        for slots in [1, 2, 3, 8, 64] {
            let served = Served { slots, ..ALL };
            let mut hits = vec![0u32; slots as usize];
            // One client with many ports and many clients with one.
            for n in 0..20_000u32 {
                for opening in [from(0x0a4d_0001, n), from(0x0a4d_0000 + n, 40_000)] {
                    let Steer::Take { start } = to_this(&served, &opening) else {
                        panic!("left")
                    };
                    hits[(slot(&served, start, 0) - 8) as usize] += 1;
                }
            }
            let fair = 40_000 / slots;
            for hit in hits {
                assert!(
                    hit.abs_diff(fair) < fair / 5 + 20,
                    "{hit} of {fair} with {slots} slots"
                );
            }
        }
    }

    #[test]
    fn a_worker_with_more_to_do_gets_only_what_names_nobody_else() {
        // As many as name it twice: one of sixteen with four slots; the others share the rest.
        let busy = |slot| u32::from(slot == 9);
        let mut hits = [0u32; 4];
        for n in 0..16_000 {
            let Steer::Take { start } = to_this(&ALL, &from(n, 40_000)) else {
                panic!("left")
            };
            hits[(slot(&ALL, lighter(&ALL, start, busy), 0) - 8) as usize] += 1;
            assert_eq!(lighter(&ALL, start, |_| 3), start);
        }
        assert!((700..1_300).contains(&hits[1]), "{hits:?}");
        let others = [hits[0], hits[2], hits[3]];
        assert!(others.iter().all(|hit| (4_500..5_500).contains(hit)), "{hits:?}");
    }

    #[test]
    fn tries_go_round_within_the_slots_of_the_entry() {
        let tried: vec::Vec<_> = (0..5).map(|n| slot(&ALL, u32::MAX - 1, n)).collect();
        assert!(tried.iter().all(|slot| (8..12).contains(slot)), "{tried:?}");
        assert_eq!(slot(&Served::default(), 5, 0), 0);
    }

    #[test]
    fn a_share_takes_that_part_of_the_sources_and_always_the_same_ones() {
        for (share, least, most) in [
            (0, 0, 0),
            (500, 400, 600),
            (5_000, 4_700, 5_300),
            (WHOLE, 10_000, 10_000),
        ] {
            let served = Served { share, ..ALL };
            let other = Served { seed: 99, ..served };
            let mut taken = 0;
            for n in 0..10_000u32 {
                let first = to_this(&served, &from(0x0a00_0000 + n, 1)) != Steer::Leave;
                let again = to_this(&other, &from(0x0a00_0000 + n, 50_000)) != Steer::Leave;
                assert_eq!(first, again, "source {n} changed sides");
                taken += u32::from(first);
            }
            assert!((least..=most).contains(&taken), "{taken} at share {share}");
        }
    }

    #[test]
    fn a_smaller_share_takes_no_source_that_a_larger_one_leaves() {
        for n in 0..2_000u32 {
            let at = |share| to_this(&Served { share, ..ALL }, &from(n, 1)) != Steer::Leave;
            assert!(!at(2_000) || at(4_000));
        }
    }

    #[test]
    fn loopback_is_taken_by_a_listener_for_all_addresses_only_with_the_flag() {
        let loopbacks = [
            mapped(0x7f00_0001_u32.to_be()),
            mapped(0x7f09_0909_u32.to_be()),
            [0, 0, 0, 1_u32.to_be()],
        ];
        for local in loopbacks {
            let opening = Opening { local, ..from(1, 1) };
            assert_eq!(to_any(&ALL, &opening), Steer::Leave);
            assert_ne!(to_this(&ALL, &opening), Steer::Leave);
            let asked = Served {
                flags: FLAG_LOOPBACK,
                ..ALL
            };
            assert_ne!(to_any(&asked, &opening), Steer::Leave);
        }
        assert_ne!(to_any(&ALL, &from(1, 1)), Steer::Leave);
    }

    #[test]
    fn every_address_is_asked_in_the_connections_own_family() {
        assert_eq!(from(1, 1).any().address, mapped(0));
        let mut six = from(1, 1);
        six.local = [0x2001_0db8_u32.to_be(), 0, 0, 1_u32.to_be()];
        assert_eq!(six.any().address, [0; 4]);
        assert_eq!(six.exact().address, six.local);
    }

    #[test]
    fn an_entry_without_sockets_takes_nothing() {
        assert_eq!(to_this(&Served { slots: 0, ..ALL }, &from(1, 1)), Steer::Leave);
    }
}
