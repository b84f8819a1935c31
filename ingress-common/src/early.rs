//! A glance at a packet before it is read: most are plain segments of connections that have begun long ago, and nothing judges those.
//!
//! Knows one shape alone, the usual one. Whatever it is not sure of is read in full, so that nothing here can reject, and nothing that would
//! be rejected is let pass: a settled packet is one for which [`crate::verdict`] has no rejection.

use crate::packet::{ACK, SYN, Segment, is_mapped, mapped};
use crate::verdict::{OFF, Settings};

/// Ethernet without a tag, IPv4 without options, TCP.
pub const HEAD_V4: usize = 14 + 20 + 20;
/// Ethernet without a tag, IPv6 without extensions, TCP.
pub const HEAD_V6: usize = 14 + 40 + 20;

/// Reads a plain segment of a connection that exists, as [`crate::packet::parse`] would. False: read it in full.
#[inline(always)]
pub fn plain_v4(head: &[u8; HEAD_V4], frame_len: u32, segment: &mut Segment) -> bool {
    let [
        [kind_high, kind_low],
        [version, _],
        [high, low],
        [fragment, offset],
        [_, protocol],
    ] = [
        pair(head, 12),
        pair(head, 14),
        pair(head, 16),
        pair(head, 20),
        pair(head, 22),
    ];
    // More fragments, or not the first one, is the full parser's.
    if (kind_high, kind_low, version, protocol) != (0x08, 0x00, 0x45, 6)
        || fragment & 0x3f != 0
        || offset != 0
    {
        return false;
    }
    segment.to.source = mapped(quarter(head, 26));
    segment.to.address = mapped(quarter(head, 30));
    let total = u16::from_be_bytes([high, low]) as u32;
    transport(head, 14, 34, 14 + total, frame_len, segment)
}

/// The same for IPv6.
#[inline(always)]
pub fn plain_v6(head: &[u8; HEAD_V6], frame_len: u32, segment: &mut Segment) -> bool {
    let [[kind_high, kind_low], [version, _], [high, low], [next, _]] =
        [pair(head, 12), pair(head, 14), pair(head, 18), pair(head, 20)];
    if (kind_high, kind_low, version >> 4, next) != (0x86, 0xdd, 6, 6) {
        return false;
    }
    segment.to.source = whole(head, 22);
    segment.to.address = whole(head, 38);
    if is_mapped(&segment.to.source) || is_mapped(&segment.to.address) {
        return false;
    }
    let payload = u16::from_be_bytes([high, low]) as u32;
    transport(head, 14, 54, 54 + payload, frame_len, segment)
}

#[inline(always)]
fn transport<const N: usize>(
    head: &[u8; N],
    ip_at: u32,
    at: usize,
    end: u32,
    frame_len: u32,
    segment: &mut Segment,
) -> bool {
    let [offset, flags] = pair(head, at + 12);
    let (length, flags) = ((offset >> 4) as u32 * 4, flags as u32);
    let tcp_at = at as u32;
    let is_whole = end <= frame_len && length >= 20 && tcp_at + length <= end;
    // With ACK and without SYN no flags contradict each other, and nothing is opened.
    if !is_whole || flags & (SYN | ACK) != ACK {
        return false;
    }
    segment.to.port = u16::from_be_bytes(pair(head, at + 2));
    segment.source_port = u16::from_be_bytes(pair(head, at));
    segment.sequence = u32::from_be_bytes(quarter(head, at + 4));
    segment.acknowledged = u32::from_be_bytes(quarter(head, at + 8));
    segment.flags = flags;
    segment.ip_at = ip_at;
    segment.tcp_at = tcp_at;
    segment.payload_at = tcp_at + length;
    segment.payload_len = end - tcp_at - length;
    true
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

/// Of a plain segment. `headers`, `words`: what the program judges.
#[inline(always)]
pub fn glance(settings: &Settings, segment: &Segment, headers: bool, words: bool) -> Glance {
    // Lists and bans hold for every packet of a source.
    if headers && (settings.sources != OFF || settings.bans != OFF) {
        return Glance::Unsure;
    }
    if words && settings.names != OFF && segment.says() {
        return Glance::Says;
    }
    Glance::Settled
}

/// Whether a connection's first byte is one that [`crate::tls::looks_like`] or [`crate::http::looks_like`] goes on after.
#[inline(always)]
pub fn may_begin(first: u8) -> bool {
    first == 0x16 || first.is_ascii_uppercase()
}

#[inline(always)]
fn pair<const N: usize>(head: &[u8; N], at: usize) -> [u8; 2] {
    [head[at], head[at + 1]]
}

#[inline(always)]
fn quarter<const N: usize>(head: &[u8; N], at: usize) -> [u8; 4] {
    [head[at], head[at + 1], head[at + 2], head[at + 3]]
}

#[inline(always)]
fn whole<const N: usize>(head: &[u8; N], at: usize) -> [u8; 16] {
    let mut address = [0; 16];
    let mut i = 0;
    while i < 16 {
        address[i] = head[at + i];
        i += 1;
    }
    address
}

#[cfg(test)]
mod tests;
