//! Socket steering: private listeners on loopback, and the program that gives them the connections to served addresses.
//!
//! Prepared first (loaded, filled, tried), attached last, in one step: until then nobody's traffic changes.

mod loads;
mod private;

use std::fs::File;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener};
use std::time::Instant;

use aya::Ebpf;
use aya::maps::{Array, HashMap, MapData, PerCpuArray, SockMap};
use aya::programs::SkLookup;
use aya::programs::sk_lookup::SkLookupLink;
use ingress_common::abi::{
    Address, FLAG_LOOPBACK, MAX_SERVED, MAX_SLOTS, Served, ServedKey, SteerCounts, WHOLE,
};
use ingress_common::steer::mapped;
use serde::{Deserialize, Serialize};

use self::loads::Told;
use self::private::PrivateListeners;
use super::account::queues::cookies_sent;
use super::object;
use super::rights;
use super::trouble::{Hook, Step, Trouble};
use crate::listener::Listener;

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
    loads: Array<MapData, u32>,
    told: Told,
    /// Keeps the slots; the sockets themselves are the workers'.
    sockets: SockMap<MapData>,
    plan: Plan,
    private: PrivateListeners,
    workers: usize,
    /// Attaching and changing shares go by descriptors alone.
    needs_no_right: bool,
}

/// What the map of served addresses says.
#[derive(Clone, Debug, Default)]
struct Plan {
    share: u32,
    seed: u32,
    entries: Vec<Entry>,
    /// In the order of `Served::counter`; a place is free again when its address goes.
    counted: Vec<Option<Counted>>,
}

#[derive(Clone, Copy, Debug)]
struct Counted {
    address: SocketAddr,
    /// What its counters said when it got them.
    before: SteerCounts,
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
const MAPS: [&str; 4] = ["SERVED", "SOCKETS", "LOADS", "STEER_COUNTS"];

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
        let mut private = PrivateListeners::default();
        private.add(wanted, workers).map_err(listen_trouble)?;
        let plan = Plan {
            share: share.min(WHOLE),
            seed: fastrand::u32(..),
            ..Plan::default()
        };
        let mut steering = Self {
            served: object::take(Hook::Steering, &mut program, "SERVED")?,
            counts: object::take(Hook::Steering, &mut program, "STEER_COUNTS")?,
            loads: object::take(Hook::Steering, &mut program, "LOADS")?,
            told: Told::new(cookies_sent()),
            sockets: object::take(Hook::Steering, &mut program, "SOCKETS")?,
            program,
            link: None,
            plan: plan.next(wanted, &private, |_| SteerCounts::default())?,
            private,
            workers,
            needs_no_right: false,
        };
        steering.fill_slots()?;
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
        let sockets = steering.private.take_sockets(workers);
        Ok((steering, sockets))
    }

    pub(super) fn needs_no_right(&self) -> bool {
        self.needs_no_right
    }

    /// Every private listener answers a request.
    pub(super) fn check_itself(&mut self) -> Result<(), Trouble> {
        let answered = self.private.ask();
        answered.map_err(|error| Trouble::io(Hook::Steering, Step::Check, &error))
    }

    /// Private listeners of kinds and families that were not served so far, for the workers. Nothing comes there before [`Self::serve`].
    pub(super) fn make_room(&mut self, wanted: &[Wanted]) -> Result<Sockets, Trouble> {
        self.private.add(wanted, self.workers).map_err(listen_trouble)?;
        self.fill_slots()?;
        // Their slots know of none yet.
        self.told.forget();
        Ok(self.private.take_sockets(self.workers))
    }

    /// From here on these addresses are served and no others, by the map alone. What is open or waits at a worker stays.
    pub(super) fn serve(&mut self, wanted: &[Wanted]) -> Result<(), Trouble> {
        self.check_itself()?;
        let next = self
            .plan
            .next(wanted, &self.private, |counter| self.counts(counter))?;
        let before = std::mem::replace(&mut self.plan, next);
        if let Err(trouble) = self.fill() {
            let next = std::mem::replace(&mut self.plan, before);
            self.remove_all_but(&next.entries);
            return Err(trouble);
        }
        self.remove_all_but(&before.entries);
        Ok(())
    }

    /// Of these entries those that the plan doesn't have.
    fn remove_all_but(&mut self, entries: &[Entry]) {
        let kept = |key: &ServedKey| self.plan.entries.iter().any(|kept| kept.key == *key);
        let gone: Vec<_> = entries.iter().filter(|entry| !kept(&entry.key)).collect();
        for entry in gone {
            // Not there any more is as good.
            let _ = self.served.remove(&entry.key);
        }
    }

    fn fill_slots(&mut self) -> Result<(), Trouble> {
        for (slot, socket) in self.private.slots() {
            let set = self.sockets.set(slot, socket, 0);
            set.map_err(|error| Trouble::from_aya(Hook::Steering, Step::Fill, &error))?;
        }
        Ok(())
    }

    /// One step: from here new connections to every served address come to us.
    pub(super) fn attach(&mut self) -> Result<(), Trouble> {
        self.link = Some(attach(&mut self.program)?);
        Ok(())
    }

    /// How much each worker has to do, in steps that are only compared: of two that a new connection could go to, the one with less gets it.
    /// Not while SYN cookies are under way: see [`Told`].
    pub(super) fn set_loads(&mut self, loads: &[u32]) -> Result<(), Trouble> {
        if !self.told.is_to_be_told(loads, cookies_sent, Instant::now()) {
            return Ok(());
        }
        let written = self.write_loads(loads);
        if written.is_err() {
            self.told.forget();
        }
        written
    }

    fn write_loads(&mut self, loads: &[u32]) -> Result<(), Trouble> {
        for first in self.private.first_slots() {
            for (slot, load) in (first..).zip(loads) {
                let set = self.loads.set(slot, load, 0);
                set.map_err(|error| Trouble::from_aya(Hook::Steering, Step::Fill, &error))?;
            }
        }
        Ok(())
    }

    pub(super) fn set_share(&mut self, share: u32) -> Result<(), Trouble> {
        self.plan.share = share.min(WHOLE);
        for entry in &mut self.plan.entries {
            entry.served.share = self.plan.share;
        }
        self.fill()
    }

    pub(super) fn addresses(&self) -> Vec<AddressView> {
        let view = |(index, counted): (usize, &Option<Counted>)| {
            let Counted { address, before } = (*counted)?;
            let now = self.counts(index);
            Some(AddressView {
                address,
                share: self.plan.share,
                steered: now.steered.saturating_sub(before.steered),
                left: now.left.saturating_sub(before.left),
                unclaimed: now.unclaimed.saturating_sub(before.unclaimed),
                refused: now.refused.saturating_sub(before.refused),
            })
        };
        self.plan.counted.iter().enumerate().filter_map(view).collect()
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
        for Entry { key, served } in &self.plan.entries {
            let inserted = self.served.insert(key, served, 0);
            inserted.map_err(|error| Trouble::from_aya(Hook::Steering, Step::Fill, &error))?;
        }
        Ok(())
    }
}

impl std::fmt::Debug for Steering {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Steering")
            .field("addresses", &self.plan.counted)
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

fn listen_trouble(error: std::io::Error) -> Trouble {
    Trouble::io(Hook::Steering, Step::Listen, &error)
}

impl Plan {
    /// The same for these addresses. Those that stay keep their counters; `counts` says what a counter begins with.
    fn next(
        &self,
        wanted: &[Wanted],
        listeners: &PrivateListeners,
        counts: impl Fn(usize) -> SteerCounts,
    ) -> Result<Self, Trouble> {
        let unfit = |what: String| Trouble::unfit(Hook::Steering, Step::Fill, what);
        let most = usize::try_from(MAX_SERVED).unwrap_or(usize::MAX);
        if wanted.len() > most {
            return Err(unfit(format!("{} addresses are more than {most}", wanted.len())));
        }
        let mut next = Self {
            entries: Vec::new(),
            ..self.clone()
        };
        for place in &mut next.counted {
            place.take_if(|counted| wanted.iter().all(|wanted| wanted.address != counted.address));
        }
        for wanted in wanted {
            let counter = next.counter(wanted.address, &counts);
            for (key, is_v6) in keys(wanted.address) {
                let Some((first_slot, slots)) = listeners.group(wanted.listener, is_v6) else {
                    continue;
                };
                if next.entries.iter().any(|entry| entry.key == key) {
                    return Err(unfit(format!("{} is asked for twice", wanted.address)));
                }
                let flags = if wanted.loopback { FLAG_LOOPBACK } else { 0 };
                let served = Served {
                    first_slot,
                    slots,
                    share: self.share,
                    seed: self.seed,
                    counter: u32::try_from(counter).map_err(|error| unfit(error.to_string()))?,
                    flags,
                };
                next.entries.push(Entry { key, served });
            }
        }
        Ok(next)
    }

    /// The place of an address among the counters; a new one gets the first that is free.
    fn counter(&mut self, address: SocketAddr, counts: &impl Fn(usize) -> SteerCounts) -> usize {
        let has_it = |place: &Option<Counted>| place.is_some_and(|counted| counted.address == address);
        if let Some(place) = self.counted.iter().position(has_it) {
            return place;
        }
        let free = self.counted.iter().position(Option::is_none);
        let place = free.unwrap_or(self.counted.len());
        let before = counts(place);
        let counted = Some(Counted { address, before });
        match self.counted.get_mut(place) {
            Some(free) => *free = counted,
            None => self.counted.push(counted),
        }
        place
    }
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

    fn plan(wanted: &[Wanted], workers: usize) -> Result<Plan, Trouble> {
        let mut listeners = PrivateListeners::default();
        listeners.add(wanted, workers).unwrap();
        Plan::default().next(wanted, &listeners, |_| SteerCounts::default())
    }

    #[test]
    fn an_address_that_is_asked_for_twice_is_told() {
        let trouble = plan(&[wanted("[::]:80"), wanted("0.0.0.0:80")], 1).unwrap_err();
        assert!(
            trouble.to_string().contains("0.0.0.0:80 is asked for twice"),
            "{trouble}"
        );
        let apart = [wanted("0.0.0.0:80"), wanted("10.0.0.5:80"), wanted("0.0.0.0:81")];
        assert_eq!(plan(&apart, 1).unwrap().entries.len(), 3);
    }

    #[test]
    fn more_addresses_than_the_maps_hold_are_told() {
        let many: Vec<_> = (1..400).map(|port| wanted(&format!("10.0.0.5:{port}"))).collect();
        let trouble = plan(&many, 1).unwrap_err();
        assert!(trouble.to_string().contains("more than 256"));
    }

    #[test]
    fn an_address_that_stays_keeps_its_counters_and_one_that_comes_begins_at_zero() {
        let all = [wanted("10.0.0.5:80"), wanted("10.0.0.5:81")];
        let mut listeners = PrivateListeners::default();
        listeners.add(&all, 2).unwrap();
        let counts = |_| SteerCounts {
            steered: 7,
            ..SteerCounts::default()
        };
        let first = Plan::default().next(&all, &listeners, |_| SteerCounts::default());
        let later = [wanted("10.0.0.5:81"), wanted("10.0.0.5:82")];
        let next = first.unwrap().next(&later, &listeners, counts).unwrap();
        let counters: Vec<_> = next.entries.iter().map(|entry| entry.served.counter).collect();
        assert_eq!(counters, [1, 0], "the place of the one that went");
        let before: Vec<_> = next
            .counted
            .iter()
            .flatten()
            .map(|counted| counted.before.steered)
            .collect();
        assert_eq!(before, [7, 0]);
    }
}
