//! The shared decisions' view of the maps, the counters and the samples.

use aya_ebpf::bindings::{bpf_sock, bpf_sock_tuple};
use aya_ebpf::helpers::generated::{bpf_ktime_get_ns, bpf_sk_release, bpf_skc_lookup_tcp, bpf_tcp_sock};
use aya_ebpf::maps::lpm_trie::Key;
use ingress_common::bucket::Rate;
use ingress_common::names::NameKey;
use ingress_common::packet::{Packet, Segment};
use ingress_common::verdict::{
    self, CountKey, Judged, JudgedKey, NOT_LISTED, REJECT, SAMPLE_NAME, Sample, Scratch, Settings, SourceKey,
    Step, Tables, is_reject, mode,
};
use ingress_common::window::Window;

use crate::maps::{
    ALIVE, BANS, BUCKETS, BUDGETS, INGRESS, JUDGED, NAMES, REJECT_COUNTS, REJECT_SETTINGS, SAMPLES, SOURCES,
};
use crate::packet::{Frame, TCP};

/// The maps, for one packet.
pub struct Maps {
    pub frame: Frame,
    /// Read once, where the kind of context is known: the verifier takes no computed offset into one.
    interface: u32,
    pub settings: &'static Settings,
}

impl Maps {
    /// `None`: the agent has not written its settings yet.
    #[inline(always)]
    pub fn new(frame: Frame) -> Option<Self> {
        Some(Self {
            frame,
            interface: frame.interface(),
            settings: REJECT_SETTINGS.get(0)?,
        })
    }
}

const TOTAL: u32 = 0;
const SAMPLE: u32 = 1;

impl Tables for Maps {
    #[inline(always)]
    fn settings(&self) -> Settings {
        *self.settings
    }

    #[inline(always)]
    fn judged(&self, key: &JudgedKey) -> Option<Judged> {
        // SAFETY: an entry that is replaced meanwhile stays readable until the program ends (RCU).
        unsafe { JUDGED.get(key) }.copied()
    }

    #[inline(always)]
    fn listed(&self, list: u32, source: &[u8; 16]) -> u32 {
        let key = Key::new(
            160,
            SourceKey {
                list: list.to_be_bytes(),
                address: *source,
            },
        );
        SOURCES.get(&key).copied().unwrap_or(NOT_LISTED)
    }

    #[inline(always)]
    fn is_banned(&self, source: &[u8; 16]) -> bool {
        // SAFETY: as above.
        match unsafe { BANS.get(source) } {
            Some(until) => now() < *until,
            None => false,
        }
    }

    #[inline(always)]
    fn is_ingress(&self, address: &[u8; 16]) -> bool {
        // SAFETY: as above.
        unsafe { INGRESS.get(address) }.is_some()
    }

    #[inline(always)]
    fn has_socket(&self, segment: &Segment) -> bool {
        let socket = lookup(self.frame, segment);
        if socket.is_null() {
            return false;
        }
        release(socket);
        true
    }

    /// An established connection of this node that has received nothing yet, and expects exactly this byte next.
    #[inline(always)]
    fn is_first(&self, segment: &Segment) -> bool {
        const ESTABLISHED: u32 = 1;
        let socket = lookup(self.frame, segment);
        if socket.is_null() {
            return false;
        }
        // SAFETY: a referenced socket; bpf_tcp_sock gives null for what is no full socket (a half-open connection, one in TIME_WAIT).
        let first = unsafe {
            let established = (*socket).state == ESTABLISHED;
            let tcp = bpf_tcp_sock(socket);
            established && !tcp.is_null() && (*tcp).bytes_received == 0 && (*tcp).rcv_nxt == segment.sequence
        };
        release(socket);
        first
    }

    #[inline(always)]
    fn knows(&self, name: NameKey) -> bool {
        // SAFETY: as above.
        unsafe { NAMES.get(name) }.is_some()
    }

    #[inline(always)]
    fn spend_of(&self, rate: &Rate, source: &[u8; 16]) -> bool {
        let now = now();
        match BUDGETS.get_ptr_mut(source) {
            Some(bucket) => take(rate, bucket, now),
            // A table without room means no limit, not none allowed.
            None => match rate.take(0, now) {
                Some(first) => {
                    let _ = BUDGETS.insert(source, first, 0);
                    true
                }
                None => true,
            },
        }
    }

    #[inline(always)]
    fn spend(&self, rate: &Rate) -> bool {
        BUCKETS
            .get_ptr_mut(TOTAL)
            .is_none_or(|bucket| take(rate, bucket, now()))
    }
}

/// Whether there is an agent that keeps the tables.
#[inline(always)]
pub fn is_alive() -> bool {
    ALIVE.get(0).is_some_and(|until| now() < *until)
}

/// Whether anything there is judged.
#[inline(always)]
pub fn is_judged(segment: &Segment) -> bool {
    let key = JudgedKey {
        address: segment.to.address,
        port: segment.to.port,
        padding: 0,
    };
    JUDGED.get_ptr(&key).is_some()
}

/// Whether the segment's connection has received data before, so that no segment of it is its first. Never true where [`Tables::is_first`] is.
#[inline(always)]
pub fn has_received(maps: &Maps, segment: &Segment) -> bool {
    let socket = lookup(maps.frame, segment);
    if socket.is_null() {
        return false;
    }
    // SAFETY: a referenced socket; bpf_tcp_sock gives null for what is no full socket.
    let received = unsafe {
        let tcp = bpf_tcp_sock(socket);
        !tcp.is_null() && (*tcp).bytes_received != 0
    };
    release(socket);
    received
}

#[inline(always)]
fn now() -> u64 {
    // SAFETY: no arguments.
    unsafe { bpf_ktime_get_ns() }
}

#[inline(always)]
fn take(rate: &Rate, bucket: *mut u64, now: u64) -> bool {
    // SAFETY: a word in a map: another CPU may race, and then a token too many is given.
    match rate.take(unsafe { *bucket }, now) {
        Some(next) => {
            // SAFETY: as above.
            unsafe { *bucket = next };
            true
        }
        None => false,
    }
}

/// The socket of this network namespace that would take the segment, referenced; or null.
#[inline(never)]
fn lookup(frame: Frame, segment: &Segment) -> *mut bpf_sock {
    const CURRENT_NAMESPACE: u64 = u64::MAX;
    let mut tuple = [0u32; 9];
    let ports = u32::from_ne_bytes({
        let [a, b] = segment.source_port.to_be_bytes();
        let [c, d] = segment.to.port.to_be_bytes();
        [a, b, c, d]
    });
    let (source, local) = (quarters(&segment.to.source), quarters(&segment.to.address));
    let size = if segment.is_ipv4() {
        tuple[0] = source[3];
        tuple[1] = local[3];
        tuple[2] = ports;
        12
    } else {
        [tuple[0], tuple[1], tuple[2], tuple[3]] = source;
        [tuple[4], tuple[5], tuple[6], tuple[7]] = local;
        tuple[8] = ports;
        36
    };
    let tuple = tuple.as_mut_ptr().cast::<bpf_sock_tuple>();
    // SAFETY: the tuple is initialised for its whole size; both program types have the helper (Linux 5.2).
    unsafe { bpf_skc_lookup_tcp(frame.context(), tuple, size, CURRENT_NAMESPACE, 0) }
}

#[inline(always)]
fn release(socket: *mut bpf_sock) {
    // SAFETY: given by bpf_skc_lookup_tcp and not null; released once.
    unsafe { bpf_sk_release(socket.cast()) };
}

#[inline(always)]
fn quarters(address: &[u8; 16]) -> [u32; 4] {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = *address;
    [
        u32::from_ne_bytes([a, b, c, d]),
        u32::from_ne_bytes([e, f, g, h]),
        u32::from_ne_bytes([i, j, k, l]),
        u32::from_ne_bytes([m, n, o, p]),
    ]
}

/// Judges the headers in `scratch.segment`. Above 32 bits: how what follows is to be judged; below: the verdict.
#[inline(never)]
pub fn headers(maps: &Maps, kind: u32, scratch: &Scratch) -> u64 {
    let packet = if kind == TCP {
        Packet::Tcp(scratch.segment)
    } else {
        Packet::MalformedTcp(scratch.segment.to)
    };
    match verdict::headers(maps, &packet) {
        Step::Final(verdict) => verdict as u64,
        Step::Words(judged) => (judged.flags as u64) << 32,
    }
}

/// Judges the copied payload by these flags.
#[inline(never)]
pub fn words(maps: &Maps, flags: u32, len: u32, scratch: &mut Scratch) -> u32 {
    let judged = Judged { list: 0, flags };
    let bytes = Window::new(&scratch.payload, len);
    verdict::words(maps, &scratch.segment, judged, &bytes, &mut scratch.reading) as u32
}

/// Counts a verdict, keeps a sample of a rejection, and says whether to reject. `name`: where in the payload, and how long.
#[inline(never)]
pub fn settle(maps: &Maps, verdict: u32, scratch: &Scratch, name_at: u32, name_len: u32) -> bool {
    count(maps, verdict);
    if !is_reject(verdict) {
        return false;
    }
    let reject = mode(verdict, maps.settings) == REJECT;
    sample(maps, verdict, reject, scratch, (name_at, name_len));
    reject
}

#[inline(always)]
fn count(maps: &Maps, verdict: u32) {
    let key = CountKey {
        interface: maps.interface,
        verdict,
    };
    match REJECT_COUNTS.get_ptr_mut(key) {
        // SAFETY: a per-CPU value.
        Some(count) => unsafe { *count = (*count).wrapping_add(1) },
        None => {
            let _ = REJECT_COUNTS.insert(key, 1, 0);
        }
    }
}

/// If it is time for one.
#[inline(always)]
fn sample(maps: &Maps, verdict: u32, rejected: bool, scratch: &Scratch, (at, len): (u32, u32)) {
    let Some(bucket) = BUCKETS.get_ptr_mut(SAMPLE) else {
        return;
    };
    if !maps.settings.samples.is_limited() || !take(&maps.settings.samples, bucket, now()) {
        return;
    }
    let Some(mut entry) = SAMPLES.reserve::<Sample>(0) else {
        return;
    };
    let sample = entry.as_mut_ptr();
    let window = Window::new(&scratch.payload, u32::MAX);
    // SAFETY: the reserved room is one sample's; every byte of it is written here, field by field, without one on the stack.
    unsafe {
        (&raw mut (*sample).source).write(scratch.segment.to.source);
        (&raw mut (*sample).interface).write(maps.interface);
        (&raw mut (*sample).verdict).write(verdict);
        (&raw mut (*sample).port).write(scratch.segment.to.port);
        (&raw mut (*sample).rejected).write(rejected as u16);
        (&raw mut (*sample).name_len).write(len);
        let name = (&raw mut (*sample).name).cast::<u8>();
        let mut i = 0;
        while i < SAMPLE_NAME as u32 {
            name.add(i as usize).write(window.u8(at + i).unwrap_or(0));
            i += 1;
        }
    }
    entry.submit(0);
}
