//! The maps of early rejection: writing what [`ingress_core::datapath`] says, reading what the programs counted.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aya::Ebpf;
use aya::maps::lpm_trie::Key;
use aya::maps::{Array, HashMap, LpmTrie, MapData, MapError, PerCpuHashMap, RingBuf};
use ingress_common::names::NameKey;
use ingress_common::verdict::{CountKey, Judged, JudgedKey, SETTING_ALLOW_LIST, Settings, SourceKey};
use ingress_core::datapath::Operation;

use super::sample::Sample;
use crate::kernel::object;
use crate::kernel::trouble::{Hook, Step, Trouble};

/// Every map of the programs.
pub(super) const MAPS: [&str; 12] = [
    "REJECT_SETTINGS",
    "ALIVE",
    "JUDGED",
    "SOURCES",
    "INGRESS",
    "NAMES",
    "BANS",
    "BUDGETS",
    "BUCKETS",
    "REJECT_COUNTS",
    "SAMPLES",
    "SCRATCH",
];

pub(super) struct Tables {
    settings: Array<MapData, Settings>,
    heart: Arc<Heart>,
    judged: HashMap<MapData, JudgedKey, Judged>,
    sources: LpmTrie<MapData, SourceKey, u32>,
    ingress: HashMap<MapData, [u8; 16], u32>,
    names: HashMap<MapData, NameKey, u32>,
    bans: HashMap<MapData, [u8; 16], u64>,
    counts: PerCpuHashMap<MapData, CountKey, u64>,
    samples: RingBuf<MapData>,
}

/// Apart from the other maps, because it must not wait: whoever writes a large table does so at low priority, on a machine with much to do.
pub(super) struct Heart(Mutex<Array<MapData, u64>>);

impl Heart {
    /// For so long from now on XDP judges, whatever becomes of this process.
    pub(super) fn beat(&self, time: Duration) -> Result<(), Trouble> {
        let until = clock().saturating_add(time.as_nanos().try_into().unwrap_or(u64::MAX));
        let mut alive = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        alive.set(0, until, 0).map_err(|error| filling(&error))
    }

    #[cfg(test)]
    pub(super) fn until(&self) -> u64 {
        let alive = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        alive.get(&0, 0).unwrap()
    }
}

/// Samples that are read at once; the rest waits for the next time.
const MOST_SAMPLES: usize = 64;

impl Tables {
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self, Trouble> {
        Ok(Self {
            settings: object::take(Hook::Reject, ebpf, "REJECT_SETTINGS")?,
            heart: Arc::new(Heart(Mutex::new(object::take(Hook::Reject, ebpf, "ALIVE")?))),
            judged: object::take(Hook::Reject, ebpf, "JUDGED")?,
            sources: object::take(Hook::Reject, ebpf, "SOURCES")?,
            ingress: object::take(Hook::Reject, ebpf, "INGRESS")?,
            names: object::take(Hook::Reject, ebpf, "NAMES")?,
            bans: object::take(Hook::Reject, ebpf, "BANS")?,
            counts: object::take(Hook::Reject, ebpf, "REJECT_COUNTS")?,
            samples: object::take(Hook::Reject, ebpf, "SAMPLES")?,
        })
    }

    pub(super) fn set(&mut self, settings: &Settings) -> Result<(), Trouble> {
        self.settings.set(0, settings, 0).map_err(|error| filling(&error))
    }

    pub(super) fn heart(&self) -> Arc<Heart> {
        Arc::clone(&self.heart)
    }

    /// In their order; stops at the first that fails.
    pub(super) fn apply(&mut self, operations: &[Operation], settings: &mut Settings) -> Result<(), Trouble> {
        for operation in operations {
            self.write(operation, settings).map_err(|error| filling(&error))?;
        }
        Ok(())
    }

    fn write(&mut self, operation: &Operation, settings: &mut Settings) -> Result<(), MapError> {
        match *operation {
            Operation::AddName(name) => self.names.insert(name, 1, 0),
            Operation::RemoveName(name) => gone(self.names.remove(&name)),
            Operation::Judge(place, judged) => self.judged.insert(place.key(), judged, 0),
            Operation::LeaveAlone(place) => gone(self.judged.remove(&place.key())),
            Operation::List(network, entry) => {
                let key = Key::new(network.prefix_bits, network.key);
                self.sources.insert(&key, entry, 0)
            }
            Operation::Unlist(network) => {
                gone(self.sources.remove(&Key::new(network.prefix_bits, network.key)))
            }
            Operation::AddIngress(address) => self.ingress.insert(address, 1, 0),
            Operation::RemoveIngress(address) => gone(self.ingress.remove(&address)),
            Operation::AllowList(on) => {
                settings.flags &= !SETTING_ALLOW_LIST;
                if on {
                    settings.flags |= SETTING_ALLOW_LIST;
                }
                self.settings.set(0, *settings, 0)
            }
        }
    }

    /// Until this time of the clock that never goes back, in nanoseconds.
    pub(super) fn ban(&mut self, source: &[u8; 16], until: u64) -> Result<(), Trouble> {
        self.bans
            .insert(source, until, 0)
            .map_err(|error| filling(&error))
    }

    pub(super) fn lift(&mut self, source: &[u8; 16]) -> Result<(), Trouble> {
        gone(self.bans.remove(source)).map_err(|error| filling(&error))
    }

    /// Summed over the CPUs.
    pub(super) fn counts(&self) -> Vec<(CountKey, u64)> {
        let entries = self.counts.iter().filter_map(Result::ok);
        entries.map(|(key, each)| (key, each.iter().sum())).collect()
    }

    /// Lets go of a count that nothing is added to any more; whether it is gone.
    pub(super) fn forget(&mut self, key: &CountKey) -> bool {
        self.counts.remove(key).is_ok()
    }

    pub(super) fn samples(&mut self) -> Vec<Sample> {
        let mut samples = Vec::new();
        while samples.len() < MOST_SAMPLES
            && let Some(entry) = self.samples.next()
        {
            samples.extend(Sample::read(&entry));
        }
        samples
    }
}

/// What the programs compare ends of bans with (bpf_ktime_get_ns), in nanoseconds.
pub(super) fn clock() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let seconds = u64::try_from(now.tv_sec).unwrap_or_default();
    seconds
        .saturating_mul(1_000_000_000)
        .saturating_add(u64::try_from(now.tv_nsec).unwrap_or_default())
}

/// What is not there need not be removed.
fn gone(removed: Result<(), MapError>) -> Result<(), MapError> {
    match removed {
        Err(MapError::KeyNotFound) => Ok(()),
        other => other,
    }
}

fn filling(error: &MapError) -> Trouble {
    Trouble::from_aya(Hook::Reject, Step::Fill, error)
}
