//! Accounting by connection: when a tagged socket ends, its figures are added to its owner's sums (sock_ops Linux 5.2 with socket storage), and
//! told by itself where it ended badly, was slow, or is due as a sample (ring buffer: Linux 5.8).
//!
//! Sockets without a tag are nobody's business here, whosever they are: the program returns at once. Which side reset a connection is told
//! by the tracepoint tcp_receive_reset, which runs before the socket changes its state; without it all resets look alike.

use core::arch::asm;

use aya_ebpf::bindings::{
    BPF_ANY, BPF_NOEXIST, BPF_SK_STORAGE_GET_F_CREATE, BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB,
    BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB, BPF_SOCK_OPS_STATE_CB, BPF_SOCK_OPS_STATE_CB_FLAG,
    BPF_SOCK_OPS_TCP_CONNECT_CB, bpf_sock, bpf_tcp_sock,
};
use aya_ebpf::helpers::generated::{
    bpf_ktime_get_ns, bpf_map_update_elem, bpf_sk_storage_get, bpf_tcp_sock as tcp_sock_of,
};
use aya_ebpf::macros::{btf_tracepoint, sock_ops};
use aya_ebpf::programs::{BtfTracePointContext, SockOpsContext};
use ingress_common::account::{
    BUCKETS, CLOSE, Connection, Ended, LOST_BUFFER_FULL, LOST_NO_ROOM, LOST_RATE, Life, Place, SumKey, Sums,
    Tag, Why,
};

use crate::maps::{EMPTY_SUMS, ENDED, ENDED_BUCKETS, LIVES, LOST, SUMS, TAGS};

/// Always 1: nothing is ever changed here.
#[sock_ops]
pub fn ingress_account(context: SockOpsContext) -> u32 {
    let _ = try_account(&context);
    1
}

/// `None`: the socket is not ours.
#[inline(always)]
fn try_account(context: &SockOpsContext) -> Option<()> {
    match context.op() {
        BPF_SOCK_OPS_TCP_CONNECT_CB => begin(context, false),
        BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB => begin(context, true),
        BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB => {
            let life = life(socket(context)?, 0)?;
            // SAFETY: storage lives as long as its socket, which is locked while this runs.
            unsafe { (*life).established = now() };
            Some(())
        }
        BPF_SOCK_OPS_STATE_CB if context.arg(1) == CLOSE => end(context),
        _ => None,
    }
}

/// From here on the program hears of the socket's states. What other programs want to hear of stays: they share these flags.
#[inline(always)]
fn begin(context: &SockOpsContext, established: bool) -> Option<()> {
    let socket = socket(context)?;
    tag(socket)?;
    let life = life(socket, BPF_SK_STORAGE_GET_F_CREATE as u64)?;
    let now = now();
    // SAFETY: as above.
    unsafe {
        (*life).began = now;
        (*life).established = if established { now } else { 0 };
    }
    let _ = context.set_cb_flags((context.cb_flags() | BPF_SOCK_OPS_STATE_CB_FLAG) as i32);
    Some(())
}

#[inline(always)]
fn end(context: &SockOpsContext) -> Option<()> {
    let socket = socket(context)?;
    let (tag, life) = (tag(socket)?, life(socket, 0)?);
    // SAFETY: storage lives as long as its socket.
    let scratch = unsafe { &raw mut (*life).scratch };
    // SAFETY: the helper takes a full socket and gives null or its figures, valid while the program runs.
    let tcp = unsafe { tcp_sock_of(socket).as_ref() }?;
    // SAFETY: as above.
    let ended = unsafe { figures(context, *tag, *life, tcp) };
    tell(context, &ended);
    let sums = sums(SumKey::of(&ended.tag))?;
    ended.charge(|place, amount| add(sums, scratch, place, amount));
    Some(())
}

/// Hands the connection over by itself, as far as its kind's rate and the buffer allow.
#[inline(always)]
fn tell(context: &SockOpsContext, ended: &Ended) {
    let why = ended.why();
    if !is_time(why, ended.now) {
        // That most of the others are not told is what a sample is.
        if !matches!(why, Why::Sample) {
            lose(LOST_RATE);
        }
        return;
    }
    let Some(mut room) = ENDED.reserve::<Connection>(0) else {
        lose(LOST_BUFFER_FULL);
        return;
    };
    let at = room.as_mut_ptr();
    // SAFETY: the reserved room is one connection's; every byte of it is written here. Both kinds of address are read, whatever the family
    // is: a choice between two fields of the context would become a computed pointer into it, which the verifier refuses.
    unsafe {
        (&raw mut (*at).ended).write(*ended);
        (&raw mut (*at).why).write(why as u32);
        (&raw mut (*at).family).write(context.family());
        (&raw mut (*at).local_port).write(context.local_port());
        (&raw mut (*at).remote_port).write(context.remote_port());
        (&raw mut (*at).local_ip4).write(context.local_ip4());
        (&raw mut (*at).remote_ip4).write(context.remote_ip4());
        let (local, remote) = (
            (&raw mut (*at).local_ip6).cast::<u32>(),
            (&raw mut (*at).remote_ip6).cast::<u32>(),
        );
        // Word by word: a copy of a whole array becomes a function that computes with pointers, which the verifier refuses.
        local.write_volatile((&raw const (*context.ops).local_ip6[0]).read_volatile());
        local
            .add(1)
            .write_volatile((&raw const (*context.ops).local_ip6[1]).read_volatile());
        local
            .add(2)
            .write_volatile((&raw const (*context.ops).local_ip6[2]).read_volatile());
        local
            .add(3)
            .write_volatile((&raw const (*context.ops).local_ip6[3]).read_volatile());
        remote.write_volatile((&raw const (*context.ops).remote_ip6[0]).read_volatile());
        remote
            .add(1)
            .write_volatile((&raw const (*context.ops).remote_ip6[1]).read_volatile());
        remote
            .add(2)
            .write_volatile((&raw const (*context.ops).remote_ip6[2]).read_volatile());
        remote
            .add(3)
            .write_volatile((&raw const (*context.ops).remote_ip6[3]).read_volatile());
    }
    room.submit(0);
}

#[inline(always)]
fn is_time(why: Why, now: u64) -> bool {
    let Some(bucket) = ENDED_BUCKETS.get_ptr_mut(why as u32) else {
        return false;
    };
    // SAFETY: a word in a map: another CPU may race, and then a token too many is given.
    match why.rate().take(unsafe { *bucket }, now) {
        Some(next) => {
            // SAFETY: as above.
            unsafe { *bucket = next };
            true
        }
        None => false,
    }
}

#[inline(always)]
fn lose(reason: u32) {
    if let Some(lost) = LOST.get_ptr_mut(reason) {
        // SAFETY: a value of an array map, always there.
        unsafe { add_atomic(lost, 1) };
    }
}

#[inline(always)]
fn figures(context: &SockOpsContext, tag: Tag, life: Life, tcp: &bpf_tcp_sock) -> Ended {
    Ended {
        left: context.arg(0),
        now: now(),
        life,
        tag,
        unanswered: tcp.icsk_retransmits,
        srtt_by_8: tcp.srtt_us,
        least_rtt: tcp.rtt_min,
        retransmits: tcp.total_retrans,
        segments_in: tcp.segs_in,
        segments_out: tcp.segs_out,
        _padding: 0,
        bytes_in: tcp.bytes_received,
        bytes_out: tcp.bytes_acked,
    }
}

/// The owner's numbers, made from zeros for its first connection; those of all others where there is no room.
#[inline(always)]
fn sums(key: SumKey) -> Option<*mut u64> {
    found(&key).or_else(|| made(&key)).or_else(|| {
        lose(LOST_NO_ROOM);
        let others = key.others();
        found(&others).or_else(|| made(&others))
    })
}

#[inline(always)]
fn found(key: &SumKey) -> Option<*mut u64> {
    SUMS.get_ptr_mut(key).map(<*mut Sums>::cast)
}

#[inline(always)]
fn made(key: &SumKey) -> Option<*mut u64> {
    // From a map, because so many zeros have no room on the stack.
    let empty = EMPTY_SUMS.get_ptr(0)?;
    // SAFETY: key and value are the map's types. That another CPU was first is as good.
    unsafe {
        bpf_map_update_elem(
            (&raw const SUMS).cast_mut().cast(),
            (&raw const *key).cast(),
            empty.cast(),
            BPF_NOEXIST as u64,
        )
    };
    found(key)
}

#[inline(always)]
fn add(sums: *mut u64, scratch: *mut u32, place: Place, amount: u64) {
    let number = match place {
        // SAFETY: a constant within the map's value.
        Place::At(place) => unsafe { sums.add(place) },
        Place::Bucket(histogram, bucket) => {
            // By way of a map's memory, which the verifier does not follow: where it knows the bucket on some paths and not on others, only
            // CAP_PERFMON may add it to a pointer ("tried to add from different maps, paths or scalars").
            // SAFETY: the field of a socket's storage, which is locked while this runs.
            let bucket = unsafe {
                scratch.write_volatile(bucket as u32);
                scratch.read_volatile()
            };
            if bucket >= BUCKETS as u32 {
                return;
            }
            // SAFETY: within the histogram, which is within the map's value.
            unsafe { sums.add(histogram).add(bucket as usize) }
        }
    };
    // SAFETY: within the map's value.
    unsafe { add_atomic(number, amount) };
}

/// Other CPUs add to the same owner. rustc has no atomics for this target, which has had this one always.
///
/// # Safety
/// `number` points to eight bytes of a map's value.
#[inline(always)]
unsafe fn add_atomic(number: *mut u64, amount: u64) {
    // SAFETY: as above; the verifier checks it again.
    unsafe {
        asm!("lock *(u64 *)({number} + 0) += {amount}", number = in(reg) number, amount = in(reg) amount, options(nostack));
    }
}

/// The other side has sent a reset that the socket takes.
#[btf_tracepoint(function = "tcp_receive_reset")]
pub fn ingress_reset_seen(context: BtfTracePointContext) -> i32 {
    let socket: *mut bpf_sock = context.arg::<*mut core::ffi::c_void>(0).cast();
    if let Some(life) = life(socket, 0) {
        // SAFETY: storage lives as long as its socket.
        unsafe { (*life).reset_by_peer = 1 };
    }
    0
}

/// `None` for what is not a full socket yet.
#[inline(always)]
fn socket(context: &SockOpsContext) -> Option<*mut bpf_sock> {
    // SAFETY: the kernel gives a valid context.
    let socket = unsafe { (*context.ops).__bindgen_anon_2.sk };
    (!socket.is_null()).then_some(socket)
}

#[inline(always)]
fn tag(socket: *mut bpf_sock) -> Option<*mut Tag> {
    // SAFETY: the map is one of socket storage, the socket a full one.
    let tag = unsafe {
        bpf_sk_storage_get(
            (&raw const TAGS).cast_mut().cast(),
            socket.cast(),
            core::ptr::null_mut(),
            BPF_ANY as u64,
        )
    };
    (!tag.is_null()).then_some(tag.cast())
}

#[inline(always)]
fn life(socket: *mut bpf_sock, flags: u64) -> Option<*mut Life> {
    // SAFETY: as above.
    let life = unsafe {
        bpf_sk_storage_get(
            (&raw const LIVES).cast_mut().cast(),
            socket.cast(),
            core::ptr::null_mut(),
            flags,
        )
    };
    (!life.is_null()).then_some(life.cast())
}

#[inline(always)]
fn now() -> u64 {
    // SAFETY: no argument, no condition.
    unsafe { bpf_ktime_get_ns() }
}
