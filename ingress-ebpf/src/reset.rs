//! A packet turned into a reset, in place: for the client (RFC 9293, 3.5.2) or for our own socket.
//!
//! Headers keep their lengths, IP options and extension headers their place; what follows the TCP header is cut off. Swapping addresses
//! and ports changes no checksum, so only the lengths and the TCP header itself are computed again.

use core::ffi::c_void;

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::generated::{
    bpf_clone_redirect, bpf_l3_csum_replace, bpf_skb_change_tail, bpf_skb_store_bytes,
};
use ingress_common::packet::{ACK, RST, Segment};
use ingress_common::verdict::Scratch;
use ingress_common::window::{Head, Window};

const TCP_HEADER: u32 = 20;
const RECOMPUTE: u64 = 1;

/// Whom it is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum For {
    /// Who sent the packet, and acknowledged something.
    Client,
    /// Who sent the packet, to open a connection.
    Opener,
    /// Our socket: as if the client had sent it.
    Us,
}

/// Turns a first segment into a reset for the client, sends a clone of that, and makes the segment our socket's reset. What is returned:
/// whether our socket may have the packet; once it is changed there is no way back.
#[inline(never)]
pub fn tell_both(skb: *mut __sk_buff, scratch: &Scratch) -> bool {
    let Scratch { segment, head, .. } = scratch;
    if !cut(skb, segment, head) {
        return false;
    }
    if write(skb, segment, head, For::Client) {
        // SAFETY: the context is valid; 0: out of the interface that it came in by. What becomes of the clone is not ours to see.
        unsafe { bpf_clone_redirect(skb, (*skb).ifindex, 0) };
    }
    write(skb, segment, head, For::Us)
}

/// Turns a packet that opens a connection into a reset for its sender; false when it can only be dropped.
#[inline(never)]
pub fn answer(skb: *mut __sk_buff, scratch: &Scratch) -> bool {
    let Scratch { segment, head, .. } = scratch;
    cut(skb, segment, head) && write(skb, segment, head, For::Opener)
}

/// Cuts the packet behind its TCP header and says so in the IP header. Once for a packet, before the first [`write`].
#[inline(always)]
fn cut(skb: *mut __sk_buff, segment: &Segment, head: &Head) -> bool {
    let end = segment.tcp_at + TCP_HEADER;
    let len_at = segment.ip_at + if segment.is_ipv4() { 2 } else { 4 };
    let new = end - segment.ip_at - if segment.is_ipv4() { 0 } else { 40 };
    let window = Window::new(head, u32::MAX);
    let Some(old) = window.u16(len_at) else {
        return false;
    };
    let bytes = (new as u16).to_be_bytes();
    // SAFETY: the context is valid, the helpers check offsets; the bytes are on the stack.
    unsafe {
        bpf_skb_change_tail(skb, end, 0) == 0
            && store(skb, len_at, &bytes, 0)
            && (!segment.is_ipv4()
                || bpf_l3_csum_replace(
                    skb,
                    segment.ip_at + 10,
                    old.to_be() as u64,
                    (new as u16).to_be() as u64,
                    2,
                ) == 0)
    }
}

/// Writes addresses and the TCP header.
#[inline(never)]
fn write(skb: *mut __sk_buff, segment: &Segment, head: &Head, to: For) -> bool {
    let window = Window::new(head, u32::MAX);
    let (Some(destination_mac), Some(source_mac)) = (window.array::<6>(0), window.array::<6>(6)) else {
        return false;
    };
    let back = to != For::Us;
    let macs = if back {
        pair::<6, 12>(&source_mac, &destination_mac)
    } else {
        pair::<6, 12>(&destination_mac, &source_mac)
    };
    store(skb, 0, &macs, 0)
        && addresses(skb, segment, back)
        && store(skb, segment.tcp_at, &header(segment, to), RECOMPUTE)
}

#[inline(always)]
fn addresses(skb: *mut __sk_buff, segment: &Segment, back: bool) -> bool {
    let (from, to) = if back {
        (&segment.to.address, &segment.to.source)
    } else {
        (&segment.to.source, &segment.to.address)
    };
    if segment.is_ipv4() {
        let both = pair::<4, 8>(&last(from), &last(to));
        store(skb, segment.ip_at + 12, &both, 0)
    } else {
        let both = pair::<16, 32>(from, to);
        store(skb, segment.ip_at + 8, &both, 0)
    }
}

#[inline(always)]
fn last(address: &[u8; 16]) -> [u8; 4] {
    [address[12], address[13], address[14], address[15]]
}

#[inline(always)]
fn pair<const N: usize, const BOTH: usize>(first: &[u8; N], second: &[u8; N]) -> [u8; BOTH] {
    const { assert!(BOTH == 2 * N) };
    let mut both = [0; BOTH];
    let mut i = 0;
    while i < N {
        both[i] = first[i];
        both[N + i] = second[i];
        i += 1;
    }
    both
}

/// The 20 bytes, with their checksum.
#[inline(always)]
fn header(segment: &Segment, to: For) -> [u8; 20] {
    let (source, destination) = if to == For::Us {
        (segment.source_port, segment.to.port)
    } else {
        (segment.to.port, segment.source_port)
    };
    let (sequence, acknowledged, flags) = match to {
        For::Client => (segment.acknowledged, 0, RST),
        For::Opener => (
            0,
            segment.sequence.wrapping_add(1 + segment.payload_len),
            RST | ACK,
        ),
        For::Us => (segment.sequence, 0, RST),
    };
    let sum = checksum(segment, source, destination, sequence, acknowledged, flags);
    let [a, b] = source.to_be_bytes();
    let [c, d] = destination.to_be_bytes();
    let [e, f, g, h] = sequence.to_be_bytes();
    let [i, j, k, l] = acknowledged.to_be_bytes();
    let [m, n] = sum.to_be_bytes();
    [
        a,
        b,
        c,
        d,
        e,
        f,
        g,
        h,
        i,
        j,
        k,
        l,
        0x50,
        flags as u8,
        0,
        0,
        m,
        n,
        0,
        0,
    ]
}

/// RFC 9293, 3.1, over the pseudo header and a header without options.
#[inline(always)]
fn checksum(
    segment: &Segment,
    source: u16,
    destination: u16,
    sequence: u32,
    acknowledged: u32,
    flags: u32,
) -> u16 {
    // A mapped address adds 0xffff for its prefix, which is zero in one's complement: IPv4 needs no case of its own.
    let mut sum = half_words(&segment.to.source) + half_words(&segment.to.address);
    sum += 6 + TCP_HEADER as u64;
    sum += source as u64 + destination as u64;
    sum += (sequence >> 16) as u64 + (sequence & 0xffff) as u64;
    sum += (acknowledged >> 16) as u64 + (acknowledged & 0xffff) as u64;
    sum += 0x5000 + flags as u64;
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    !(sum as u16)
}

#[inline(always)]
fn half_words(address: &[u8; 16]) -> u64 {
    let mut sum = 0;
    let mut i = 0;
    while i < 16 {
        sum += u16::from_be_bytes([address[i], address[i + 1]]) as u64;
        i += 2;
    }
    sum
}

#[inline(always)]
fn store<const N: usize>(skb: *mut __sk_buff, at: u32, bytes: &[u8; N], flags: u64) -> bool {
    // SAFETY: N bytes on the stack; the helper checks the packet's end.
    unsafe { bpf_skb_store_bytes(skb, at, bytes.as_ptr().cast::<c_void>(), N as u32, flags) == 0 }
}
