//! Socket steering: private listeners on loopback, and the program that gives them the connections to served addresses.
//!
//! Prepared first (loaded, filled, tried), attached last, in one step: until then nobody's traffic changes.

mod private;

use std::fs::File;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener};

use aya::Ebpf;
use aya::maps::{HashMap, MapData, PerCpuArray, SockMap};
use aya::programs::SkLookup;
use aya::programs::sk_lookup::SkLookupLink;
use ingress_common::abi::{
    Address, FLAG_LOOPBACK, MAX_SERVED, MAX_SLOTS, Served, ServedKey, SteerCounts, WHOLE,
};
use ingress_common::steer::mapped;
use serde::{Deserialize, Serialize};

use self::private::PrivateListeners;
use super::object;
use super::rights;
use super::trouble::{Hook, Step, Trouble};
use crate::telemetry::record::Listener;

/// An address to be served by steering.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    pub listener: Listener,
    /// With a port other than 0; `[::]` means IPv4 too.
    pub address: SocketAddr,
    /// Where the address means all: take loopback addresses too.
    pub loopback: bool,
}

/// Sockets by worker, as the data plane takes them.
pub type Sockets = Vec<Vec<(Listener, TcpListener)>>;

/// Everything that the kernel keeps for us, by descriptors: dropping it removes it all.
pub struct Steering {
    program: Ebpf,
    /// In force while it is held.
    link: Option<SkLookupLink>,
    served: HashMap<MapData, ServedKey, Served>,
    counts: PerCpuArray<MapData, SteerCounts>,
    /// Keeps the slots; the sockets themselves are the workers'.
    _sockets: SockMap<MapData>,
    entries: Vec<Entry>,
    /// In the order of `Served::counter`.
    addresses: Vec<SocketAddr>,
    private: Vec<SocketAddr>,
    /// Attaching and changing shares go by descriptors alone.
    needs_no_right: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    key: ServedKey,
    served: Served,
}

/// A served address and what became of new connections to it since steering began.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddressView {
    pub address: SocketAddr,
    /// Of 10000 sources.
    pub share: u32,
    /// Given to this agent.
    pub steered: u64,
    /// Left to whoever else has the port: outside the share, or to loopback.
    pub left: u64,
    /// No worker's socket was there.
    pub unclaimed: u64,
    /// The kernel refused the socket.
    pub refused: u64,
}

const PROGRAM: &str = "ingress_steer";
const MAPS: [&str; 3] = ["SERVED", "SOCKETS", "STEER_COUNTS"];

impl Steering {
    /// Loads and fills everything and tries to attach, but leaves all traffic where it is.
    ///
    /// # Errors
    /// With the step that failed; nothing is left behind then.
    pub fn prepare(wanted: &[Wanted], workers: usize, share: u32) -> Result<(Self, Sockets), Trouble> {
        let mut program = object::load(Hook::Steering, &MAPS)?;
        load_program(&mut program)?;
        // An attached program without entries leaves everything: what the kernel or a policy refuses shows now, not at the last step.
        drop(attach(&mut program)?);
        let listeners = PrivateListeners::open(wanted, workers)
            .map_err(|error| Trouble::io(Hook::Steering, Step::Listen, &error))?;
        let entries = entries(wanted, &listeners, share)?;
        let mut steering = Self {
            served: object::take(Hook::Steering, &mut program, "SERVED")?,
            counts: object::take(Hook::Steering, &mut program, "STEER_COUNTS")?,
            _sockets: sockets(&mut program, &listeners)?,
            program,
            link: None,
            entries,
            addresses: wanted.iter().map(|wanted| wanted.address).collect(),
            private: listeners.addresses(),
            needs_no_right: false,
        };
        // As at the last step. Before Linux 5.19 all of bpf(2) asks for CAP_BPF where kernel.unprivileged_bpf_disabled is set. Attached while
        // there are no entries, here too: with them every connection of that moment would be ours, and nobody accepts it yet.
        let later = rights::without(|| {
            attach(&mut steering.program).map(drop)?;
            steering.fill()
        });
        steering.needs_no_right = matches!(later, Ok(Ok(())));
        if !steering.needs_no_right {
            steering.fill()?;
        }
        Ok((steering, listeners.by_worker(workers)))
    }

    pub(super) fn needs_no_right(&self) -> bool {
        self.needs_no_right
    }

    /// Every private listener answers a request: workers, parser and configuration are there.
    pub(super) fn check_itself(&self) -> Result<(), Trouble> {
        for address in &self.private {
            private::ask(*address).map_err(|error| Trouble::io(Hook::Steering, Step::Check, &error))?;
        }
        Ok(())
    }

    /// One step: from here new connections to every served address come to us.
    pub(super) fn attach(&mut self) -> Result<(), Trouble> {
        self.link = Some(attach(&mut self.program)?);
        Ok(())
    }

    pub(super) fn set_share(&mut self, share: u32) -> Result<(), Trouble> {
        for entry in &mut self.entries {
            entry.served.share = share.min(WHOLE);
        }
        self.fill()
    }

    pub(super) fn addresses(&self) -> Vec<AddressView> {
        let view = |(index, address): (usize, &SocketAddr)| {
            let of_this = |entry: &&Entry| usize::try_from(entry.served.counter) == Ok(index);
            let share = self
                .entries
                .iter()
                .find(of_this)
                .map_or(0, |entry| entry.served.share);
            let counts = self.counts(index);
            AddressView {
                address: *address,
                share,
                steered: counts.steered,
                left: counts.left,
                unclaimed: counts.unclaimed,
                refused: counts.refused,
            }
        };
        self.addresses.iter().enumerate().map(view).collect()
    }

    /// Summed over the CPUs.
    fn counts(&self, index: usize) -> SteerCounts {
        let mut sum = SteerCounts::default();
        let Some(each) = u32::try_from(index)
            .ok()
            .and_then(|index| self.counts.get(&index, 0).ok())
        else {
            return sum;
        };
        for cpu in each.iter() {
            sum.steered += cpu.steered;
            sum.left += cpu.left;
            sum.unclaimed += cpu.unclaimed;
            sum.refused += cpu.refused;
        }
        sum
    }

    fn fill(&mut self) -> Result<(), Trouble> {
        for Entry { key, served } in &self.entries {
            let inserted = self.served.insert(key, served, 0);
            inserted.map_err(|error| Trouble::from_aya(Hook::Steering, Step::Fill, &error))?;
        }
        Ok(())
    }
}

impl std::fmt::Debug for Steering {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Steering")
            .field("addresses", &self.addresses)
            .field("attached", &self.link.is_some())
            .finish_non_exhaustive()
    }
}

fn load_program(ebpf: &mut Ebpf) -> Result<(), Trouble> {
    program(ebpf)?
        .load()
        .map_err(|error| Trouble::from_aya(Hook::Steering, Step::Load, &error))
}

fn attach(ebpf: &mut Ebpf) -> Result<SkLookupLink, Trouble> {
    let trouble =
        |error: &(dyn std::error::Error + 'static)| Trouble::from_aya(Hook::Steering, Step::Attach, error);
    let namespace = File::open("/proc/thread-self/ns/net").map_err(|error| trouble(&error))?;
    let program = program(ebpf)?;
    let link = program.attach(namespace).map_err(|error| trouble(&error))?;
    program.take_link(link).map_err(|error| trouble(&error))
}

fn program(ebpf: &mut Ebpf) -> Result<&mut SkLookup, Trouble> {
    ebpf.program_mut(PROGRAM)
        .and_then(|program| <&mut SkLookup>::try_from(program).ok())
        .ok_or_else(|| {
            Trouble::unfit(
                Hook::Steering,
                Step::Load,
                format!("the object has no program {PROGRAM}"),
            )
        })
}

fn sockets(ebpf: &mut Ebpf, listeners: &PrivateListeners) -> Result<SockMap<MapData>, Trouble> {
    let mut map: SockMap<MapData> = object::take(Hook::Steering, ebpf, "SOCKETS")?;
    for (slot, socket) in listeners.slots() {
        map.set(slot, socket, 0)
            .map_err(|error| Trouble::from_aya(Hook::Steering, Step::Fill, &error))?;
    }
    Ok(map)
}

/// What the maps say of the wanted addresses.
fn entries(wanted: &[Wanted], listeners: &PrivateListeners, share: u32) -> Result<Vec<Entry>, Trouble> {
    let unfit = |what: String| Trouble::unfit(Hook::Steering, Step::Fill, what);
    let most = usize::try_from(MAX_SERVED).unwrap_or(usize::MAX);
    if wanted.len() > most {
        return Err(unfit(format!("{} addresses are more than {most}", wanted.len())));
    }
    let seed = fastrand::u32(..);
    let mut entries: Vec<Entry> = Vec::new();
    for (counter, wanted) in (0..).zip(wanted) {
        for (key, is_v6) in keys(wanted.address) {
            let Some((first_slot, slots)) = listeners.group(wanted.listener, is_v6) else {
                continue;
            };
            if entries.iter().any(|entry| entry.key == key) {
                return Err(unfit(format!("{} is asked for twice", wanted.address)));
            }
            let flags = if wanted.loopback { FLAG_LOOPBACK } else { 0 };
            let served = Served {
                first_slot,
                slots,
                share: share.min(WHOLE),
                seed,
                counter,
                flags,
            };
            entries.push(Entry { key, served });
        }
    }
    Ok(entries)
}

/// As the program asks for them, each with whether it is IPv6's.
fn keys(address: SocketAddr) -> Vec<(ServedKey, bool)> {
    let port = u32::from(address.port());
    let key = |address: Address| ServedKey { address, port };
    match address.ip().to_canonical() {
        IpAddr::V4(v4) => vec![(key(mapped(u32::from_ne_bytes(v4.octets()))), false)],
        IpAddr::V6(v6) if v6.is_unspecified() => vec![(key(mapped(0)), false), (key([0; 4]), true)],
        IpAddr::V6(v6) => vec![(key(words(v6)), true)],
    }
}

fn words(address: Ipv6Addr) -> Address {
    let [a, b, c, d] = [0, 2, 4, 6].map(|n| {
        let [high, low] = [address.segments()[n], address.segments()[n + 1]].map(u32::from);
        (high << 16 | low).to_be()
    });
    [a, b, c, d]
}

/// What the maps have room for.
fn most_slots() -> usize {
    usize::try_from(MAX_SLOTS).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod test_run;

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(address: &str) -> Wanted {
        Wanted {
            listener: Listener::Http,
            address: address.parse().unwrap(),
            loopback: true,
        }
    }

    #[test]
    fn every_address_means_both_families_and_one_address_means_one() {
        let shown = |address: &str| -> Vec<_> {
            let keys = keys(address.parse().unwrap());
            keys.iter()
                .map(|(key, is_v6)| (u32::from_be(key.address[3]), key.port, *is_v6))
                .collect()
        };
        assert_eq!(shown("[::]:80"), [(0, 80, false), (0, 80, true)]);
        assert_eq!(shown("10.0.0.5:81"), [(0x0a00_0005, 81, false)]);
        assert_eq!(shown("[::ffff:10.0.0.5]:81"), [(0x0a00_0005, 81, false)]);
        assert_eq!(shown("[::1]:81"), [(1, 81, true)]);
    }

    #[test]
    fn an_address_that_is_asked_for_twice_is_told() {
        let both = [wanted("[::]:80"), wanted("0.0.0.0:80")];
        let listeners = PrivateListeners::open(&both, 1).unwrap();
        let trouble = entries(&both, &listeners, WHOLE).unwrap_err();
        assert!(
            trouble.to_string().contains("0.0.0.0:80 is asked for twice"),
            "{trouble}"
        );
        let apart = [wanted("0.0.0.0:80"), wanted("10.0.0.5:80"), wanted("0.0.0.0:81")];
        assert_eq!(entries(&apart, &listeners, WHOLE).unwrap().len(), 3);
    }

    #[test]
    fn more_addresses_than_the_maps_hold_are_told() {
        let many: Vec<_> = (1..400).map(|port| wanted(&format!("10.0.0.5:{port}"))).collect();
        let listeners = PrivateListeners::open(&many, 1).unwrap();
        assert!(
            entries(&many, &listeners, WHOLE)
                .unwrap_err()
                .to_string()
                .contains("more than 256")
        );
    }
}
