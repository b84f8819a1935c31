//! A glance at a packet before it is read: most are plain segments of connections that have begun long ago, and nothing judges those.
//!
//! Knows one shape alone, the usual one. Whatever it is not sure of is read in full, so that nothing here can reject, and nothing that would
//! be rejected is let pass: a settled packet is one for which [`crate::verdict`] has no rejection.

use crate::packet::{ACK, RST, SYN, Segment, is_mapped, mapped};
use crate::verdict::{OFF, Settings};

/// The usual IPv4 packet's headers, where each field lies as its type wants it: the kernel's virtual machine reads a field by one instruction
/// then, and else byte by byte. Numbers are in network order.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct PlainV4 {
    /// No part of the packet, which begins behind it.
    shift: u16,
    ethernet: [u16; 6],
    kind: u16,
    version: u8,
    service: u8,
    total: u16,
    id: u16,
    fragment: u16,
    hops: u8,
    protocol: u8,
    checksum: u16,
    source: [u8; 4],
    address: [u8; 4],
    tcp: PlainTcp,
}

/// The same of IPv6.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct PlainV6 {
    shift: u16,
    ethernet: [u16; 6],
    kind: u16,
    version: u8,
    flow: [u8; 3],
    payload: u16,
    next: u8,
    hops: u8,
    source: [u8; 16],
    address: [u8; 16],
    tcp: PlainTcp,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
struct PlainTcp {
    source_port: u16,
    port: u16,
    sequence: u32,
    acknowledged: u32,
    offset: u8,
    flags: u8,
    window: u16,
    checksum: u16,
    urgent: u16,
}

/// Bytes before the packet's first one.
pub const SHIFT: usize = 2;
/// Bytes of the packet: Ethernet without a tag, IPv4 without options, TCP.
pub const V4_BYTES: usize = 14 + 20 + 20;
/// Ethernet without a tag, IPv6 without extensions, TCP.
pub const V6_BYTES: usize = 14 + 40 + 20;

const _: () = assert!(size_of::<PlainV4>() == SHIFT + V4_BYTES && size_of::<PlainV6>() == SHIFT + V6_BYTES);

/// A segment that neither opens nor is malformed, as far as a glance tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plain {
    pub flags: u32,
    pub payload_at: u32,
    pub payload_len: u32,
}

impl PlainV4 {
    /// `None`: to be read in full. Takes nothing for plain that [`crate::packet::parse`] takes for something else.
    #[inline(always)]
    pub fn plain(&self, frame_len: u32) -> Option<Plain> {
        // More fragments, or not the first one (RFC 791, 3.1).
        let is_fragment = u16::from_be(self.fragment) & 0x3fff != 0;
        if u16::from_be(self.kind) != 0x0800 || self.version != 0x45 || self.protocol != 6 || is_fragment {
            return None;
        }
        self.tcp
            .plain(34, 14 + u16::from_be(self.total) as u32, frame_len)
    }

    /// Who speaks to whom.
    #[inline(always)]
    pub fn ends(&self, segment: &mut Segment) {
        segment.to.source = mapped(self.source);
        segment.to.address = mapped(self.address);
        self.tcp.ends(segment);
    }
}

impl PlainV6 {
    #[inline(always)]
    pub fn plain(&self, frame_len: u32) -> Option<Plain> {
        let is_v6 = u16::from_be(self.kind) == 0x86dd && self.version >> 4 == 6;
        // No length is a jumbogram's, and a mapped address nobody's: the full reading says so.
        if !is_v6 || self.next != 6 || is_mapped(&self.source) || is_mapped(&self.address) {
            return None;
        }
        self.tcp
            .plain(54, 54 + u16::from_be(self.payload) as u32, frame_len)
    }

    #[inline(always)]
    pub fn ends(&self, segment: &mut Segment) {
        segment.to.source = self.source;
        segment.to.address = self.address;
        self.tcp.ends(segment);
    }
}

impl PlainTcp {
    #[inline(always)]
    fn plain(&self, at: u32, end: u32, frame_len: u32) -> Option<Plain> {
        let (length, flags) = ((self.offset >> 4) as u32 * 4, self.flags as u32);
        let is_whole = end <= frame_len && length >= 20 && at + length <= end;
        // With ACK and without SYN no flags contradict each other, and nothing is opened.
        if !is_whole || flags & (SYN | ACK) != ACK {
            return None;
        }
        Some(Plain {
            flags,
            payload_at: at + length,
            payload_len: end - at - length,
        })
    }

    #[inline(always)]
    fn ends(&self, segment: &mut Segment) {
        segment.source_port = u16::from_be(self.source_port);
        segment.to.port = u16::from_be(self.port);
    }
}

/// What a glance comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Glance {
    /// Nothing judges it.
    Settled,
    /// To be read in full.
    Unsure,
    /// It passes unless it is the first data of a connection to a listener that judges names.
    Says,
}

/// `headers`, `words`: what the program judges.
#[inline(always)]
pub fn glance(settings: &Settings, plain: &Plain, headers: bool, words: bool) -> Glance {
    // Lists and bans hold for every packet of a source.
    if headers && (settings.sources != OFF || settings.bans != OFF) {
        return Glance::Unsure;
    }
    // As in `Segment::says`.
    let says = plain.payload_len > 0 && plain.flags & RST == 0;
    if words && settings.names != OFF && says {
        return Glance::Says;
    }
    Glance::Settled
}

/// Whether a connection's first byte is one that [`crate::tls::looks_like`] or [`crate::http::looks_like`] goes on after.
#[inline(always)]
pub fn may_begin(first: u8) -> bool {
    first == 0x16 || first.is_ascii_uppercase()
}

#[cfg(test)]
mod tests;
