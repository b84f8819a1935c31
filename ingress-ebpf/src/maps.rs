//! Every map, with what it holds and who writes it. Keys and values are laid out in `ingress_common::abi`.

use aya_ebpf::bindings::bpf_map_type::BPF_MAP_TYPE_SK_STORAGE;
use aya_ebpf::bindings::{BPF_F_CLONE, BPF_F_NO_PREALLOC};
use aya_ebpf::macros::{btf_map, map};
use aya_ebpf::maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, PerCpuHashMap, RingBuf, SockMap};
use ingress_common::abi::{MAX_SERVED, MAX_SERVED_KEYS, MAX_SLOTS, Served, ServedKey, SteerCounts};
use ingress_common::account::{CONNECTIONS_BYTES, LOSSES, Life, MAX_SUMS, SumKey, Sums, Tag, WHYS};
use ingress_common::names::NameKey;
use ingress_common::verdict::{
    CountKey, Judged, JudgedKey, MAX_BANS, MAX_BUDGETS, MAX_COUNTS, MAX_INGRESS, MAX_JUDGED, MAX_NAMES,
    MAX_SOURCES, SAMPLES_BYTES, Scratch, Settings, SourceKey,
};

/// The addresses and ports that are steered. The agent writes.
#[map]
pub static SERVED: HashMap<ServedKey, Served> = HashMap::with_max_entries(MAX_SERVED_KEYS, 0);

/// Listening sockets, one a worker, listener and family. The agent writes; a slot empties by itself when its socket closes.
#[map]
pub static SOCKETS: SockMap = SockMap::with_max_entries(MAX_SLOTS, 0);

/// How much each socket's worker has to do: only compared. The agent writes.
#[map]
pub static LOADS: Array<u32> = Array::with_max_entries(MAX_SLOTS, 0);

/// What became of new connections, by `Served::counter`. The kernel's side writes.
#[map]
pub static STEER_COUNTS: PerCpuArray<SteerCounts> = PerCpuArray::with_max_entries(MAX_SERVED, 0);

/// What is switched on, at 0. The agent writes.
#[map]
pub static REJECT_SETTINGS: Array<Settings> = Array::with_max_entries(1, 0);

/// Until when the agent is taken for alive, at 0 (nanoseconds of the clock that never goes back): XDP may outlive it. The agent writes.
#[map]
pub static ALIVE: Array<u64> = Array::with_max_entries(1, 0);

/// The addresses and ports that are judged, and how. The agent writes.
#[map]
pub static JUDGED: HashMap<JudgedKey, Judged> = HashMap::with_max_entries(MAX_JUDGED, BPF_F_NO_PREALLOC);

/// Lists of sources: of several networks the smallest decides. The agent writes.
#[map]
pub static SOURCES: LpmTrie<SourceKey, u32> = LpmTrie::with_max_entries(MAX_SOURCES, 0);

/// Addresses on which unserved ports are refused. The agent writes.
#[map]
pub static INGRESS: HashMap<[u8; 16], u32> = HashMap::with_max_entries(MAX_INGRESS, BPF_F_NO_PREALLOC);

/// Every name that is known, exact and wildcard. The agent writes.
#[map]
pub static NAMES: HashMap<NameKey, u32> = HashMap::with_max_entries(MAX_NAMES, BPF_F_NO_PREALLOC);

/// Sources that are banned, each with the end of its time (nanoseconds of the clock that never goes back). The agent writes.
#[map]
pub static BANS: HashMap<[u8; 16], u64> = HashMap::with_max_entries(MAX_BANS, BPF_F_NO_PREALLOC);

/// When a source's bucket of new connections is full again. The kernel's side writes, and forgets.
#[map]
pub static BUDGETS: LruHashMap<[u8; 16], u64> = LruHashMap::with_max_entries(MAX_BUDGETS, 0);

/// The same for all sources together, at 0, and for samples, at 1.
#[map]
pub static BUCKETS: Array<u64> = Array::with_max_entries(2, 0);

/// Verdicts by interface. The kernel's side writes.
#[map]
pub static REJECT_COUNTS: PerCpuHashMap<CountKey, u64> = PerCpuHashMap::with_max_entries(MAX_COUNTS, 0);

/// Rejected packets for the log; what finds no room is lost. The kernel's side writes, the agent reads.
#[map]
pub static SAMPLES: RingBuf = RingBuf::with_byte_size(SAMPLES_BYTES, 0);

/// Where a packet is judged: its bytes don't fit on the stack.
#[map]
pub static SCRATCH: PerCpuArray<Scratch> = PerCpuArray::with_max_entries(1, 0);

/// Values that belong to sockets and go with them. Not aya's own type: that one has no room for BPF_F_CLONE.
#[repr(C)]
pub struct SocketStorage<T, const FLAGS: usize> {
    r#type: *const [i32; BPF_MAP_TYPE_SK_STORAGE as usize],
    key: *const i32,
    value: *const T,
    max_entries: *const [i32; 0],
    map_flags: *const [i32; FLAGS],
}

impl<T, const FLAGS: usize> SocketStorage<T, FLAGS> {
    const fn new() -> Self {
        Self {
            r#type: core::ptr::null(),
            key: core::ptr::null(),
            value: core::ptr::null(),
            max_entries: core::ptr::null(),
            map_flags: core::ptr::null(),
        }
    }
}

// SAFETY: the pointers only tell the loader types and numbers; nothing is ever read through them.
unsafe impl<T, const FLAGS: usize> Sync for SocketStorage<T, FLAGS> {}

/// Whose a socket is. The agent writes; sockets that a listener accepts begin with the listener's.
#[btf_map]
pub static TAGS: SocketStorage<Tag, { (BPF_F_NO_PREALLOC | BPF_F_CLONE) as usize }> = SocketStorage::new();

/// What is known of a tagged socket so far. The kernel's side writes.
#[btf_map]
pub static LIVES: SocketStorage<Life, { BPF_F_NO_PREALLOC as usize }> = SocketStorage::new();

/// Figures of connections that have ended, by owner. The kernel's side adds, by atomic instructions: a copy for each CPU would multiply
/// the memory by their number. The agent reads, and removes what nobody owns any more.
#[map]
pub static SUMS: HashMap<SumKey, Sums> = HashMap::with_max_entries(MAX_SUMS, BPF_F_NO_PREALLOC);

/// Zeros, at 0. Nobody writes.
#[map]
pub static EMPTY_SUMS: Array<Sums> = Array::with_max_entries(1, 0);

/// What could not be counted as it should, by reason. The kernel's side writes.
#[map]
pub static LOST: Array<u64> = Array::with_max_entries(LOSSES, 0);

/// Connections that have ended, one by one; what finds no room is lost, and counted in `LOST`. The kernel's side writes, the agent reads.
#[map]
pub static ENDED: RingBuf = RingBuf::with_byte_size(CONNECTIONS_BYTES, 0);

/// Buckets for those, by why they are told. The kernel's side writes.
#[map]
pub static ENDED_BUCKETS: Array<u64> = Array::with_max_entries(WHYS, 0);
