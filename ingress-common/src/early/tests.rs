use std::vec::Vec;

use proptest::prelude::*;

use super::*;
use crate::bucket::Rate;
use crate::http;
use crate::names::NameKey;
use crate::packet::{self, Packet};
use crate::tls;
use crate::verdict::{self, DENIED, Judged, JudgedKey, REJECT, Step, Tables, Verdict};
use crate::window::{HEAD_BYTES, Head, PAYLOAD_BYTES, Payload, Window};

/// Rejects whatever may be rejected.
struct Harsh(Settings);

impl Tables for Harsh {
    fn settings(&self) -> Settings {
        self.0
    }
    fn judged(&self, _: &JudgedKey) -> Option<Judged> {
        Some(Judged { list: 1, flags: 7 })
    }
    fn listed(&self, _: u32, _: &[u8; 16]) -> u32 {
        DENIED
    }
    fn is_banned(&self, _: &[u8; 16]) -> bool {
        true
    }
    fn is_ingress(&self, _: &[u8; 16]) -> bool {
        true
    }
    fn has_socket(&self, _: &Segment) -> bool {
        false
    }
    fn is_first(&self, _: &Segment) -> bool {
        true
    }
    fn knows(&self, _: NameKey) -> bool {
        false
    }
    fn spend_of(&self, _: &Rate, _: &[u8; 16]) -> bool {
        false
    }
    fn spend(&self, _: &Rate) -> bool {
        false
    }
}

fn parsed(frame: &[u8]) -> Packet {
    let mut head: Head = [0xee; _];
    let len = frame.len().min(HEAD_BYTES);
    head[..len].copy_from_slice(&frame[..len]);
    let window = Window::new(&head, u32::try_from(len).unwrap());
    packet::parse(&window, u32::try_from(frame.len()).unwrap())
}

/// What the program in the kernel does first; it copies the bytes in one go.
fn plain(frame: &[u8]) -> Option<(Plain, Segment)> {
    let len = u32::try_from(frame.len()).unwrap();
    let mut segment = Segment::default();
    let v4 = frame.first_chunk::<V4_BYTES>().map(v4);
    if let Some((plain, head)) = v4.and_then(|head| Some((head.plain(len)?, head))) {
        head.ends(&mut segment);
        return Some((plain, segment));
    }
    let head = v6(frame.first_chunk::<V6_BYTES>()?);
    let plain = head.plain(len)?;
    head.ends(&mut segment);
    Some((plain, segment))
}

fn two(bytes: &[u8], at: usize) -> u16 {
    u16::from_ne_bytes(*bytes[at..].first_chunk().unwrap())
}

fn four(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes(*bytes[at..].first_chunk().unwrap())
}

fn v4(bytes: &[u8; V4_BYTES]) -> PlainV4 {
    PlainV4 {
        kind: two(bytes, 12),
        version: bytes[14],
        total: two(bytes, 16),
        fragment: two(bytes, 20),
        protocol: bytes[23],
        source: *bytes[26..].first_chunk().unwrap(),
        address: *bytes[30..].first_chunk().unwrap(),
        tcp: tcp_of(&bytes[34..]),
        ..PlainV4::default()
    }
}

fn v6(bytes: &[u8; V6_BYTES]) -> PlainV6 {
    PlainV6 {
        kind: two(bytes, 12),
        version: bytes[14],
        payload: two(bytes, 18),
        next: bytes[20],
        source: *bytes[22..].first_chunk().unwrap(),
        address: *bytes[38..].first_chunk().unwrap(),
        tcp: tcp_of(&bytes[54..]),
        ..PlainV6::default()
    }
}

fn tcp_of(bytes: &[u8]) -> PlainTcp {
    PlainTcp {
        source_port: two(bytes, 0),
        port: two(bytes, 2),
        sequence: four(bytes, 4),
        acknowledged: four(bytes, 8),
        offset: bytes[12],
        flags: bytes[13],
        ..PlainTcp::default()
    }
}

fn frame(v6: bool, flags: u8, options: u8, payload: &[u8]) -> Vec<u8> {
    let mut tcp = Vec::from([0xc0, 1, 0, 80, 0, 0, 0, 9, 0, 0, 0, 5]);
    tcp.extend([(5 + options) * 16, flags, 1, 0, 0, 0, 0, 0]);
    tcp.extend(std::vec![1; usize::from(options) * 4]);
    tcp.extend(payload);
    let mut frame = std::vec![2; 12];
    if v6 {
        frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
        frame.extend(u16::try_from(tcp.len()).unwrap().to_be_bytes());
        frame.extend([6, 64]);
        frame.extend([0x20; 16]);
        frame.extend([0x30; 16]);
    } else {
        frame.extend([8, 0, 0x45, 0]);
        frame.extend(u16::try_from(20 + tcp.len()).unwrap().to_be_bytes());
        frame.extend([0, 1, 0, 0, 64, 6, 0, 0, 192, 0, 2, 1, 198, 51, 100, 2]);
    }
    frame.extend(tcp);
    frame
}

fn some_frame() -> impl Strategy<Value = Vec<u8>> {
    let flags = prop::sample::select(std::vec![0x10u8, 0x10, 0x18, 0x11, 0x14, 2, 0x12, 0]);
    let damage = prop::option::weighted(0.4, (12usize..90, any::<u8>()));
    let payload = prop::collection::vec(any::<u8>(), 0..30);
    (any::<bool>(), flags, 0u8..11, payload, damage, 0usize..30).prop_map(
        |(v6, flags, options, payload, damage, cut)| {
            let mut frame = frame(v6, flags, options, &payload);
            if let Some((at, value)) = damage
                && let Some(byte) = frame.get_mut(at)
            {
                *byte = value;
            }
            frame.truncate(frame.len() - cut.saturating_sub(24));
            frame
        },
    )
}

proptest! {
    #[test]
    fn what_a_glance_takes_for_plain_is_what_the_full_reading_finds(frame in some_frame()) {
        if let Some((plain, ends)) = plain(&frame) {
            let Packet::Tcp(segment) = parsed(&frame) else {
                return Err(TestCaseError::fail("no TCP at all"));
            };
            prop_assert_eq!((segment.to, segment.source_port), (ends.to, ends.source_port));
            let read = Plain {
                flags: segment.flags,
                payload_at: segment.payload_at,
                payload_len: segment.payload_len,
            };
            prop_assert_eq!(read, plain);
        }
    }

    #[test]
    fn what_a_glance_settles_is_rejected_by_no_table_whatsoever(
        frame in some_frame(),
        modes in prop::array::uniform6(prop::sample::select(std::vec![OFF, REJECT])),
        (headers, words) in prop::sample::select(std::vec![(true, false), (false, true), (true, true)]),
    ) {
        let [names, sources, unserved, budgets, malformed, bans] = modes;
        let settings = Settings {
            names, sources, unserved, budgets, malformed, bans,
            by_source: Rate::new(1, 1),
            in_total: Rate::new(1, 1),
            ..Settings::default()
        };
        let Some((plain, _)) = plain(&frame) else { return Ok(()) };
        let packet = parsed(&frame);
        let step = verdict::headers(&Harsh(settings), &packet);
        match glance(&settings, &plain, headers, words) {
            Glance::Unsure => {}
            // A program that judges words alone has the headers judged by another, and the other way round.
            Glance::Settled => match step {
                Step::Final(verdict) => prop_assert!(verdict == Verdict::Untouched || !headers),
                Step::Words(_) => prop_assert!(!words),
            },
            Glance::Says => {
                let says = matches!(packet, Packet::Tcp(segment) if segment.says());
                prop_assert!(words && says);
            }
        }
    }

    #[test]
    fn no_first_word_that_is_judged_is_missed_by_its_first_byte(bytes in prop::collection::vec(any::<u8>(), 1..8)) {
        let mut payload: Payload = [0; _];
        payload[..bytes.len()].copy_from_slice(&bytes);
        let window = Window::<{ PAYLOAD_BYTES + crate::window::SLACK }>::new(&payload, u32::try_from(bytes.len()).unwrap());
        if tls::looks_like(&window) || http::looks_like(&window) {
            prop_assert!(may_begin(bytes[0]));
        }
    }
}

#[test]
fn the_usual_segments_of_both_families_are_plain_and_an_opening_one_is_not() {
    for v6 in [false, true] {
        for (flags, is_plain) in [
            (0x10, true),
            (0x18, true),
            (0x11, true),
            (2, false),
            (0x12, false),
            (4, false),
        ] {
            let seen = plain(&frame(v6, flags, 3, b"GET /"));
            assert_eq!(seen.is_some(), is_plain, "IPv6: {v6}, flags {flags:#x}");
        }
    }
}
