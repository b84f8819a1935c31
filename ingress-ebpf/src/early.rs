//! A glance first: the plain segments of connections that have begun leave here, before they cost a reading and its lookups.

use ingress_common::early::{self, Glance, HEAD_V4, HEAD_V6};
use ingress_common::verdict::{Scratch, Verdict};

use crate::packet::{self, Frame};
use crate::tables::{self, Maps};

/// Whether nothing judges this packet. `headers`, `words`: what the program judges. A function of its own, so that the verifier has one state
/// where the full reading begins, and not one for each way through here.
#[inline(never)]
pub fn is_settled(maps: &Maps, scratch: &mut Scratch, headers: bool, words: bool) -> bool {
    if !is_plain(maps.frame, scratch) {
        return false;
    }
    match early::glance(maps.settings, &scratch.segment, headers, words) {
        Glance::Settled => true,
        Glance::Unsure => false,
        Glance::Says => cannot_begin(maps.frame, scratch) || has_begun(maps, scratch),
    }
}

/// A function of its own: the copies would not fit on one stack frame with what follows.
#[inline(never)]
fn is_plain(frame: Frame, scratch: &mut Scratch) -> bool {
    let len = frame.len() as u32;
    if let Some(head) = packet::bytes::<HEAD_V4>(frame, 0)
        && early::plain_v4(&head, len, &mut scratch.segment)
    {
        return true;
    }
    match packet::bytes::<HEAD_V6>(frame, 0) {
        Some(head) => early::plain_v6(&head, len, &mut scratch.segment),
        None => false,
    }
}

#[inline(always)]
fn cannot_begin(frame: Frame, scratch: &Scratch) -> bool {
    match packet::bytes::<1>(frame, scratch.segment.payload_at) {
        Some([first]) => !early::may_begin(first),
        None => false,
    }
}

/// By the socket, which has received data before; counted as the full reading counts it.
#[inline(always)]
fn has_begun(maps: &Maps, scratch: &Scratch) -> bool {
    if !tables::is_judged(&scratch.segment) {
        return true;
    }
    let begun = tables::has_received(maps, &scratch.segment);
    if begun {
        tables::settle(maps, Verdict::NotFirst as u32, scratch, 0, 0);
    }
    begun
}
