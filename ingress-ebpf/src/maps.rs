//! Every map, with what it holds and who writes it. Keys and values are laid out in `ingress_common::abi`.

use aya_ebpf::macros::map;
use aya_ebpf::maps::{HashMap, PerCpuArray, SockMap};
use ingress_common::abi::{MAX_SERVED, MAX_SERVED_KEYS, MAX_SLOTS, Served, ServedKey, SteerCounts};

/// The addresses and ports that are steered. The agent writes.
#[map]
pub static SERVED: HashMap<ServedKey, Served> = HashMap::with_max_entries(MAX_SERVED_KEYS, 0);

/// Listening sockets, one a worker, listener and family. The agent writes; a slot empties by itself when its socket closes.
#[map]
pub static SOCKETS: SockMap = SockMap::with_max_entries(MAX_SLOTS, 0);

/// What became of new connections, by `Served::counter`. The kernel's side writes.
#[map]
pub static STEER_COUNTS: PerCpuArray<SteerCounts> = PerCpuArray::with_max_entries(MAX_SERVED, 0);
