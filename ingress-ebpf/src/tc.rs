//! Early rejection at tc's ingress (tcx, Linux 6.6): what a connection's first segment says, and, where XDP isn't, what its headers say.
//!
//! A rejected first segment is told to both ends at once: a reset goes back to the client, and the segment itself becomes the client's
//! reset for our socket, so that nothing stays behind.

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::bindings::tcx_action_base::{TCX_DROP, TCX_NEXT, TCX_REDIRECT};
use aya_ebpf::helpers::generated::bpf_redirect;
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use ingress_common::verdict::{SETTING_ANSWER, Scratch, Verdict};

use crate::early;
use crate::packet::{self, Frame, OTHER, TCP};
use crate::reset;
use crate::tables::{self, Maps};

/// All checks, for interfaces without our XDP program.
#[classifier]
pub fn ingress_gate_tc(context: TcContext) -> i32 {
    try_gate(context.skb.skb, true).unwrap_or(TCX_NEXT)
}

/// Names alone: XDP has judged the headers.
#[classifier]
pub fn ingress_words(context: TcContext) -> i32 {
    try_gate(context.skb.skb, false).unwrap_or(TCX_NEXT)
}

/// `None` and TCX_NEXT: on to the next program, or to the kernel.
#[inline(always)]
fn try_gate(skb: *mut __sk_buff, judge_headers: bool) -> Option<i32> {
    let frame = Frame::Tc(skb);
    let maps = Maps::new(frame)?;
    let scratch = packet::scratch()?;
    if early::is_settled(&maps, scratch, judge_headers, true) {
        return None;
    }
    let kind = packet::read(frame, scratch);
    if kind == OTHER {
        return None;
    }
    let step = tables::headers(&maps, kind, scratch);
    let flags = (step >> 32) as u32;
    if flags != 0 {
        return by_words(skb, &maps, scratch, flags);
    }
    let verdict = step as u32;
    if verdict == Verdict::Untouched as u32 || !judge_headers {
        return None;
    }
    tables::settle(&maps, verdict, scratch, 0, 0).then(|| refuse(skb, &maps, scratch, kind))
}

/// A reset instead of silence, for who wants to open a connection, if the settings say so.
#[inline(always)]
fn refuse(skb: *mut __sk_buff, maps: &Maps, scratch: &Scratch, kind: u32) -> i32 {
    let opens = kind == TCP && scratch.segment.opens();
    if !opens || maps.settings.flags & SETTING_ANSWER == 0 || !reset::answer(skb, scratch) {
        return TCX_DROP;
    }
    // SAFETY: the context is valid; 0: out of the interface that it came in by.
    let action = unsafe { bpf_redirect((*skb).ifindex, 0) };
    if action == TCX_REDIRECT as i64 {
        TCX_REDIRECT
    } else {
        TCX_DROP
    }
}

#[inline(always)]
fn by_words(skb: *mut __sk_buff, maps: &Maps, scratch: &mut Scratch, flags: u32) -> Option<i32> {
    let len = packet::payload(maps.frame, scratch)?;
    let verdict = tables::words(maps, flags, len, scratch);
    if verdict == Verdict::Untouched as u32 {
        return None;
    }
    let name_at = if verdict == Verdict::TlsNameUnknown as u32 {
        scratch.reading.place.name_at
    } else {
        scratch.reading.line.host_at
    };
    let name_len = scratch.reading.walk.len();
    if !tables::settle(maps, verdict, scratch, name_at, name_len) {
        return None;
    }
    Some(if reset::tell_both(skb, scratch) {
        TCX_NEXT
    } else {
        TCX_DROP
    })
}
