//! A packet's headers to the TCP segment in it: Ethernet, up to two VLAN tags, IPv4 with options, IPv6 with extension headers,
//! TCP with options. Knows no ports, no addresses and no verdicts; what it is not sure of it names and leaves alone.

use crate::window::{HEAD_BYTES, SLACK, Window};

/// The copied headers.
pub type Headers<'a> = Window<'a, { HEAD_BYTES + SLACK }>;

/// What a packet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packet {
    Tcp(Segment),
    /// TCP to this place, but with a header that no TCP sends: contradicting flags, or a length that can't be.
    MalformedTcp(Destination),
    Other(NotTcp),
}

/// Why a packet is none that can be judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotTcp {
    /// Not IP, or not TCP.
    Foreign,
    /// Any fragment, the first one too: the rest may say something else.
    Fragment,
    /// Shorter than its headers say.
    Truncated,
    /// More headers than are followed, a header that is not known, a route that is not at its end.
    Unusual,
}

/// Where it goes. IPv4 stands as `::ffff:a.b.c.d`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Destination {
    pub source: [u8; 16],
    pub address: [u8; 16],
    pub port: u16,
}

/// A TCP segment within a packet. In map memory in the kernel: with everything else it would not fit on the stack.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Segment {
    pub to: Destination,
    pub source_port: u16,
    pub sequence: u32,
    pub acknowledged: u32,
    pub flags: u32,
    /// Offsets from the packet's first byte.
    pub ip_at: u32,
    pub tcp_at: u32,
    pub payload_at: u32,
    pub payload_len: u32,
}

pub const FIN: u32 = 0x01;
pub const SYN: u32 = 0x02;
pub const RST: u32 = 0x04;
pub const ACK: u32 = 0x10;

const _: () = assert!(size_of::<Segment>() == 64);

impl Segment {
    #[inline(always)]
    pub fn is_ipv4(&self) -> bool {
        is_mapped(&self.to.address)
    }

    /// Wants to open a connection.
    #[inline(always)]
    pub fn opens(&self) -> bool {
        self.flags & (SYN | ACK | RST | FIN) == SYN
    }

    /// Could be the first that the client says: data that acknowledges, and neither opens nor ends.
    #[inline(always)]
    pub fn says(&self) -> bool {
        self.payload_len > 0 && self.flags & (SYN | ACK | RST) == ACK
    }
}

/// The bytes of an IPv4 address as they stand in keys.
#[inline(always)]
pub const fn mapped([a, b, c, d]: [u8; 4]) -> [u8; 16] {
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d]
}

#[inline(always)]
pub fn is_mapped(address: &[u8; 16]) -> bool {
    let [a, b, c, d, e, f, g, h, i, j, k, l, ..] = *address;
    (a | b | c | d | e | f | g | h | i | j) == 0 && (k & l) == 0xff
}

/// Whether an address stands for an IPv4 one behind a translator (NAT64): `64:ff9b::/96` (RFC 6052, 2.1) or `64:ff9b:1::/48` (RFC 8215).
#[inline(always)]
pub fn is_translated(address: &[u8; 16]) -> bool {
    let [a, b, c, d, e, f, g, h, i, j, k, l, ..] = *address;
    let prefix = a == 0 && b == 0x64 && c == 0xff && d == 0x9b && e == 0;
    prefix && (f == 1 || (f | g | h | i | j | k | l) == 0)
}

const ETHERNET: u32 = 14;
const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
/// IEEE 802.1Q and 802.1ad.
const TAGS: [u16; 2] = [0x8100, 0x88a8];
const MOST_TAGS: u32 = 2;
const MOST_EXTENSIONS: u32 = 8;
const TCP: u8 = 6;

/// Where the TCP header begins and the IP packet ends.
struct Ip {
    source: [u8; 16],
    destination: [u8; 16],
    at: u32,
    tcp_at: u32,
    end: u32,
}

/// Reads the headers of an Ethernet frame of `frame_len` bytes, the first of which are in `headers`.
#[inline(always)]
pub fn parse(headers: &Headers<'_>, frame_len: u32) -> Packet {
    match network(headers, frame_len) {
        Ok(ip) => transport(headers, &ip).unwrap_or(Packet::Other(NotTcp::Truncated)),
        Err(why) => Packet::Other(why),
    }
}

#[inline(always)]
fn network(headers: &Headers<'_>, frame_len: u32) -> Result<Ip, NotTcp> {
    let mut at = ETHERNET - 2;
    let mut kind = headers.u16(at).ok_or(NotTcp::Truncated)?;
    let mut tags = 0;
    while tags < MOST_TAGS && (kind == TAGS[0] || kind == TAGS[1]) {
        at += 4;
        kind = headers.u16(at).ok_or(NotTcp::Truncated)?;
        tags += 1;
    }
    let ip = match kind {
        IPV4 => ipv4(headers, at + 2)?,
        IPV6 => ipv6(headers, at + 2)?,
        _ => return Err(NotTcp::Foreign),
    };
    // Shorter frames are filled up to Ethernet's minimum, so only a missing part tells something.
    if ip.end > frame_len {
        return Err(NotTcp::Truncated);
    }
    Ok(ip)
}

/// RFC 791, 3.1.
#[inline(always)]
fn ipv4(headers: &Headers<'_>, at: u32) -> Result<Ip, NotTcp> {
    let [first, _, high, low, _, _, fragment, offset, _, protocol]: [u8; 10] =
        headers.array(at).ok_or(NotTcp::Truncated)?;
    let length = u32::from(first & 0x0f) * 4;
    let total = u32::from(u16::from_be_bytes([high, low]));
    if first >> 4 != 4 || length < 20 || total < length {
        return Err(NotTcp::Unusual);
    }
    // More fragments, or not the first one.
    if fragment & 0x3f != 0 || offset != 0 {
        return Err(NotTcp::Fragment);
    }
    if protocol != TCP {
        return Err(NotTcp::Foreign);
    }
    Ok(Ip {
        source: mapped(headers.array(at + 12).ok_or(NotTcp::Truncated)?),
        destination: mapped(headers.array(at + 16).ok_or(NotTcp::Truncated)?),
        at,
        tcp_at: at + length,
        end: at + total,
    })
}

/// RFC 8200, 3 and 4.
#[inline(always)]
fn ipv6(headers: &Headers<'_>, at: u32) -> Result<Ip, NotTcp> {
    let [first, _, _, _, high, low, next]: [u8; 7] = headers.array(at).ok_or(NotTcp::Truncated)?;
    let length = u32::from(u16::from_be_bytes([high, low]));
    // A length of zero is a jumbogram (RFC 2675).
    if first >> 4 != 6 || length == 0 {
        return Err(NotTcp::Unusual);
    }
    let end = at + 40 + length;
    let tcp_at = extensions(headers, next, at + 40)?;
    if tcp_at > end {
        return Err(NotTcp::Unusual);
    }
    let source: [u8; 16] = headers.array(at + 8).ok_or(NotTcp::Truncated)?;
    let destination: [u8; 16] = headers.array(at + 24).ok_or(NotTcp::Truncated)?;
    // An IPv4-mapped address on the wire is nobody's (RFC 4291, 2.5.5.2), and would look like IPv4 here.
    if is_mapped(&source) || is_mapped(&destination) {
        return Err(NotTcp::Unusual);
    }
    Ok(Ip {
        source,
        destination,
        at,
        tcp_at,
        end,
    })
}

/// Follows the chain of extension headers to TCP.
#[inline(always)]
fn extensions(headers: &Headers<'_>, first: u8, first_at: u32) -> Result<u32, NotTcp> {
    const HOP_BY_HOP: u8 = 0;
    const ROUTING: u8 = 43;
    const FRAGMENT: u8 = 44;
    const OPTIONS: u8 = 60;
    let mut kind = first;
    let mut at = first_at;
    let mut followed = 0;
    while followed < MOST_EXTENSIONS {
        match kind {
            TCP => return Ok(at),
            FRAGMENT => return Err(NotTcp::Fragment),
            HOP_BY_HOP | ROUTING | OPTIONS => {}
            // UDP, ICMPv6 and what else there is; AH and ESP are not looked into.
            _ => return Err(NotTcp::Foreign),
        }
        let [next, units, _, segments_left]: [u8; 4] = headers.array(at).ok_or(NotTcp::Truncated)?;
        if kind == ROUTING && segments_left != 0 {
            return Err(NotTcp::Unusual);
        }
        kind = next;
        at += (u32::from(units) + 1) * 8;
        followed += 1;
    }
    Err(NotTcp::Unusual)
}

/// RFC 9293, 3.1. None when the copy ends before the header does.
#[inline(always)]
fn transport(headers: &Headers<'_>, ip: &Ip) -> Option<Packet> {
    let room = ip.end - ip.tcp_at.min(ip.end);
    if room < 4 {
        return None;
    }
    let to = Destination {
        source: ip.source,
        address: ip.destination,
        port: headers.u16(ip.tcp_at + 2)?,
    };
    if room < 20 {
        return Some(Packet::MalformedTcp(to));
    }
    let [a, b, c, d, e, f, g, h, offset, flags]: [u8; 10] = headers.array(ip.tcp_at + 4)?;
    let (length, flags) = (u32::from(offset >> 4) * 4, u32::from(flags));
    if length < 20 || length > room || contradict(flags) {
        return Some(Packet::MalformedTcp(to));
    }
    Some(Packet::Tcp(Segment {
        to,
        source_port: headers.u16(ip.tcp_at)?,
        sequence: u32::from_be_bytes([a, b, c, d]),
        acknowledged: u32::from_be_bytes([e, f, g, h]),
        flags,
        ip_at: ip.at,
        tcp_at: ip.tcp_at,
        payload_at: ip.tcp_at + length,
        payload_len: room - length,
    }))
}

/// Flags that no implementation sends and every one discards: opening together with an end, or none at all.
#[inline(always)]
fn contradict(flags: u32) -> bool {
    let opens_and_ends = flags & SYN != 0 && flags & (FIN | RST) != 0;
    opens_and_ends || flags & (SYN | ACK | RST | FIN) == 0
}

#[cfg(test)]
mod tests;
