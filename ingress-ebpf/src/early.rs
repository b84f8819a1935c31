//! A glance first: the plain segments of connections that have begun leave here, before they cost a reading and its lookups.

use ingress_common::early::{self, Glance, Plain, PlainV4, PlainV6, SHIFT, V4_BYTES, V6_BYTES};
use ingress_common::verdict::Scratch;

use crate::packet::Frame;
use crate::tables::{self, Maps};

/// Whether nothing judges this packet. `headers`, `words`: what the program judges. A function of its own, so that the verifier has one state
/// where the full reading begins, and not one for each way through here.
#[inline(never)]
pub fn is_settled(maps: &Maps, scratch: &mut Scratch, headers: bool, words: bool) -> bool {
    let len = maps.frame.len() as u32;
    let mut head = PlainV4::default();
    if !maps.frame.copy(V4_BYTES, &raw mut head, SHIFT) {
        return false;
    }
    let Some(plain) = head.plain(len) else {
        return is_settled_v6(maps, scratch, headers, words);
    };
    match early::glance(maps.settings, &plain, headers, words) {
        Glance::Settled => true,
        Glance::Unsure => false,
        Glance::Says => {
            head.ends(&mut scratch.segment);
            cannot_begin(maps.frame, &plain) || has_begun(maps, scratch)
        }
    }
}

#[inline(never)]
fn is_settled_v6(maps: &Maps, scratch: &mut Scratch, headers: bool, words: bool) -> bool {
    let mut head = PlainV6::default();
    if !maps.frame.copy(V6_BYTES, &raw mut head, SHIFT) {
        return false;
    }
    let Some(plain) = head.plain(maps.frame.len() as u32) else {
        return false;
    };
    match early::glance(maps.settings, &plain, headers, words) {
        Glance::Settled => true,
        Glance::Unsure => false,
        Glance::Says => {
            head.ends(&mut scratch.segment);
            cannot_begin(maps.frame, &plain) || has_begun(maps, scratch)
        }
    }
}

#[inline(always)]
fn cannot_begin(frame: Frame, plain: &Plain) -> bool {
    let mut first = 0u8;
    frame.copy_from(plain.payload_at, &raw mut first) && !early::may_begin(first)
}

/// Nothing is judged there, or by the socket: it has received data before.
#[inline(always)]
fn has_begun(maps: &Maps, scratch: &Scratch) -> bool {
    !tables::is_judged(&scratch.segment) || tables::has_received(maps, &scratch.segment)
}
