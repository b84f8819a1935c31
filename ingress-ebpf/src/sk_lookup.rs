//! Socket steering: a new connection to a served address gets a socket of ours, wherever that socket is bound (Linux 5.9).
//!
//! Runs once for each packet that finds no established connection and is for this node itself, before the kernel looks for a listener.

use aya_ebpf::bindings::{
    BPF_SK_LOOKUP_F_NO_REUSEPORT, BPF_SK_LOOKUP_F_REPLACE, bpf_sk_lookup, sk_action::SK_PASS,
};
use aya_ebpf::macros::sk_lookup;
use aya_ebpf::programs::SkLookupContext;
use ingress_common::abi::{Served, SteerCounts};
use ingress_common::steer::{self, Opening, Steer, mapped};

use crate::maps::{LOADS, SERVED, SOCKETS, STEER_COUNTS};

const AF_INET: u32 = 2;
const IPPROTO_TCP: u32 = 6;
const ENOENT: i32 = 2;

/// NO_REUSEPORT: the slot decides, not the group that its socket may be in. REPLACE: an agent that attached later takes what an
/// earlier one chose; its slots empty with its death, and then the earlier choice stands again.
const FLAGS: u64 = (BPF_SK_LOOKUP_F_NO_REUSEPORT | BPF_SK_LOOKUP_F_REPLACE) as u64;

/// Always SK_PASS: what is not ours goes on to whoever has the port; nothing is ever dropped here.
#[sk_lookup]
pub fn ingress_steer(context: SkLookupContext) -> u32 {
    if let Some(opening) = opening(&context) {
        try_steer(&context, &opening);
    }
    SK_PASS
}

#[inline(always)]
fn try_steer(context: &SkLookupContext, opening: &Opening) {
    // SAFETY: an entry that is replaced or removed meanwhile stays readable until the program ends (RCU), at worst half old.
    let (served, decision) = match unsafe { SERVED.get(opening.exact()) } {
        Some(served) => (served, steer::to_this(served, opening)),
        // SAFETY: as above.
        None => match unsafe { SERVED.get(opening.any()) } {
            Some(served) => (served, steer::to_any(served, opening)),
            None => return,
        },
    };
    match decision {
        // Outside the share, or loopback that nobody asked for: whoever has the port gets it.
        Steer::Leave => count(served, |counts| &mut counts.left),
        Steer::Take { start } => take(context, served, start),
    }
}

#[inline(always)]
fn take(context: &SkLookupContext, served: &Served, start: u32) {
    let start = steer::lighter(served, start, |slot| LOADS.get(slot).copied().unwrap_or(0));
    let mut attempt = 0;
    while attempt < steer::TRIES {
        match SOCKETS.redirect_sk_lookup(context, steer::slot(served, start, attempt), FLAGS) {
            Ok(()) => return count(served, |counts| &mut counts.steered),
            // The worker has ended: the next one takes it.
            Err(error) if error == -ENOENT => attempt += 1,
            Err(_) => return count(served, |counts| &mut counts.refused),
        }
    }
    count(served, |counts| &mut counts.unclaimed);
}

#[inline(always)]
fn count(served: &Served, which: impl FnOnce(&mut SteerCounts) -> &mut u64) {
    if let Some(counts) = STEER_COUNTS.get_ptr_mut(served.counter) {
        // SAFETY: a per-CPU value, and this program is not preempted by itself on one CPU (it runs with migration and softirqs off).
        let number = which(unsafe { &mut *counts });
        *number = number.wrapping_add(1);
    }
}

/// `None`: not TCP.
#[inline(always)]
fn opening(context: &SkLookupContext) -> Option<Opening> {
    let lookup: *const bpf_sk_lookup = context.lookup;
    // All fields are read before anything is decided, and volatile: LLVM would otherwise choose between the addresses of two fields, and
    // the verifier takes no computed pointer into a context ("dereference of modified ctx ptr").
    macro_rules! read {
        ($($field:tt)+) => {
            // SAFETY: the kernel gives a valid context; the verifier checks every offset.
            unsafe { core::ptr::read_volatile(&raw const (*lookup).$($field)+) }
        };
    }
    if read!(protocol) != IPPROTO_TCP {
        return None;
    }
    let is_v4 = read!(family) == AF_INET;
    let (local4, remote4) = (read!(local_ip4), read!(remote_ip4));
    let local6 = [
        read!(local_ip6[0]),
        read!(local_ip6[1]),
        read!(local_ip6[2]),
        read!(local_ip6[3]),
    ];
    let remote6 = [
        read!(remote_ip6[0]),
        read!(remote_ip6[1]),
        read!(remote_ip6[2]),
        read!(remote_ip6[3]),
    ];
    let (local, remote) = if is_v4 {
        (mapped(local4), mapped(remote4))
    } else {
        (local6, remote6)
    };
    Some(Opening {
        local,
        // Host order here, network order there (linux/bpf.h, struct bpf_sk_lookup).
        local_port: read!(local_port),
        remote,
        remote_port: u16::from_be(read!(remote_port)) as u32,
    })
}
