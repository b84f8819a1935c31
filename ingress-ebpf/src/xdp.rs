//! Early rejection before the kernel makes a packet buffer (XDP, Linux 4.8; natively by the driver): what the headers show.

use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS};
use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;
use ingress_common::verdict::Verdict;

use crate::early;
use crate::packet::{self, Frame, OTHER};
use crate::tables::{self, Maps};

/// Drops, and answers nothing: where an answer is asked for, tc judges.
#[xdp(frags)]
pub fn ingress_gate(context: XdpContext) -> u32 {
    try_gate(Frame::Xdp(context.ctx)).unwrap_or(XDP_PASS)
}

/// Passes everything: what an agent leaves in its place when it ends, so that the device is not set up again by the next one.
#[xdp(frags)]
pub fn ingress_pass(_: XdpContext) -> u32 {
    XDP_PASS
}

#[inline(always)]
fn try_gate(frame: Frame) -> Option<u32> {
    // Pinned, it outlives an agent that was killed, whose tables nobody keeps any more.
    if !tables::is_alive() {
        return None;
    }
    let maps = Maps::new(frame)?;
    let scratch = packet::scratch()?;
    if early::is_settled(&maps, scratch, true, false) {
        return None;
    }
    let kind = packet::read(frame, scratch);
    if kind == OTHER {
        return None;
    }
    // A verdict alone: what has to be read further has none yet.
    let verdict = tables::headers(&maps, kind, scratch) as u32;
    if verdict == Verdict::Untouched as u32 {
        return None;
    }
    tables::settle(&maps, verdict, scratch, 0, 0).then_some(XDP_DROP)
}
