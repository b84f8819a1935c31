use std::vec::Vec;

use super::*;
use crate::window::Head;

fn read(frame: &[u8]) -> Packet {
    let mut head: Head = [0xee; _];
    let len = frame.len().min(HEAD_BYTES);
    head[..len].copy_from_slice(&frame[..len]);
    parse(
        &Window::new(&head, u32::try_from(len).unwrap()),
        u32::try_from(frame.len()).unwrap(),
    )
}

fn ethernet(tags: &[u16], kind: u16) -> Vec<u8> {
    let mut frame = std::vec![2; 12];
    for tag in tags {
        frame.extend(tag.to_be_bytes());
        frame.extend([0, 7]);
    }
    frame.extend(kind.to_be_bytes());
    frame
}

fn tcp(options: usize, flags: u32, payload: &[u8]) -> Vec<u8> {
    let flags = u8::try_from(flags).unwrap();
    let mut bytes = Vec::from([0xc0, 1, 1, 0xbb, 0, 0, 0, 9, 0, 0, 0, 5]);
    bytes.extend([
        u8::try_from((20 + options) / 4 * 16).unwrap(),
        flags,
        1,
        0,
        0,
        0,
        0,
        0,
    ]);
    bytes.extend(std::vec![1; options]);
    bytes.extend(payload);
    bytes
}

fn ipv4(options: usize, fragment: u16, protocol: u8, inner: &[u8]) -> Vec<u8> {
    let total = u16::try_from(20 + options + inner.len()).unwrap();
    let mut bytes = Vec::from([0x40 + u8::try_from((20 + options) / 4).unwrap(), 0]);
    bytes.extend(total.to_be_bytes());
    bytes.extend([0, 1]);
    bytes.extend(fragment.to_be_bytes());
    bytes.extend([64, protocol, 0, 0, 192, 0, 2, 1, 198, 51, 100, 2]);
    bytes.extend(std::vec![1; options]);
    bytes.extend(inner);
    bytes
}

fn ipv6(next: u8, inner: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::from([0x60, 0, 0, 0]);
    bytes.extend(u16::try_from(inner.len()).unwrap().to_be_bytes());
    bytes.extend([next, 64]);
    bytes.extend([0x20; 16]);
    bytes.extend([0x30; 16]);
    bytes.extend(inner);
    bytes
}

fn joined(parts: &[&[u8]]) -> Vec<u8> {
    parts.concat()
}

fn segment(packet: Packet) -> Segment {
    match packet {
        Packet::Tcp(segment) => segment,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_segment_is_found_behind_tags_and_options_of_ip_and_tcp() {
    for tags in [&[][..], &[0x8100], &[0x88a8, 0x8100]] {
        for (ip_options, tcp_options) in [(0, 0), (4, 0), (40, 40), (0, 12)] {
            let inner = tcp(tcp_options, ACK, b"hello");
            let frame = joined(&[&ethernet(tags, 0x0800), &ipv4(ip_options, 0x4000, 6, &inner)]);
            let read = segment(read(&frame));
            assert_eq!(read.to.source, mapped([192, 0, 2, 1]));
            assert_eq!(read.to.address, mapped([198, 51, 100, 2]));
            assert_eq!((read.source_port, read.to.port), (0xc001, 443));
            assert_eq!((read.sequence, read.acknowledged, read.payload_len), (9, 5, 5));
            let at = usize::try_from(read.payload_at).unwrap();
            assert_eq!(&frame[at..], b"hello");
            assert!(read.says() && !read.opens() && read.is_ipv4());
        }
    }
}

#[test]
fn a_segment_is_found_behind_extension_headers_that_change_nothing() {
    let extension = |next: u8, units: u8| {
        let mut bytes = Vec::from([next, units, 43, 0]);
        bytes.resize((usize::from(units) + 1) * 8, 0);
        bytes
    };
    let inner = tcp(0, SYN, b"");
    let frame = joined(&[
        &ethernet(&[], 0x86dd),
        &ipv6(
            0,
            &joined(&[&extension(60, 0), &extension(43, 2), &extension(6, 1), &inner]),
        ),
    ]);
    let found = segment(read(&frame));
    assert_eq!((found.to.source, found.to.address), ([0x20; 16], [0x30; 16]));
    assert!(found.opens() && !found.says() && !found.is_ipv4());

    let mut routed = extension(6, 2);
    routed[3] = 1;
    let many: Vec<u8> = core::iter::repeat_n(extension(60, 0), 9).flatten().collect();
    for (next, inner, why) in [
        (43, joined(&[&routed, &inner]), NotTcp::Unusual),
        (44, joined(&[&extension(6, 0), &inner]), NotTcp::Fragment),
        (60, joined(&[&many, &inner]), NotTcp::Unusual),
        (17, inner.clone(), NotTcp::Foreign),
        (51, joined(&[&extension(6, 0), &inner]), NotTcp::Foreign),
        (60, extension(6, 200), NotTcp::Truncated),
    ] {
        let frame = joined(&[&ethernet(&[], 0x86dd), &ipv6(next, &inner)]);
        assert_eq!(read(&frame), Packet::Other(why), "{next}");
    }
}

#[test]
fn fragments_foreign_protocols_and_three_tags_are_left_alone() {
    let inner = tcp(0, ACK, b"x");
    for (kind, ip, why) in [
        (0x0800, ipv4(0, 0x2000, 6, &inner), NotTcp::Fragment),
        (0x0800, ipv4(0, 0x0001, 6, &inner), NotTcp::Fragment),
        (0x0800, ipv4(0, 0x0100, 6, &inner), NotTcp::Fragment),
        (0x0800, ipv4(0, 0, 17, &inner), NotTcp::Foreign),
        (0x0806, ipv4(0, 0, 6, &inner), NotTcp::Foreign),
        (0x0800, ipv6(6, &inner), NotTcp::Unusual),
        (0x86dd, ipv4(0, 0, 6, &inner), NotTcp::Unusual),
    ] {
        assert_eq!(
            read(&joined(&[&ethernet(&[], kind), &ip])),
            Packet::Other(why),
            "{kind:x}"
        );
    }
    let three = joined(&[&ethernet(&[0x8100; 3], 0x0800), &ipv4(0, 0, 6, &inner)]);
    assert_eq!(read(&three), Packet::Other(NotTcp::Foreign));
}

#[test]
fn flags_and_lengths_that_no_tcp_sends_are_malformed() {
    for flags in [0, SYN | FIN, SYN | RST, SYN | ACK | FIN, 0x08] {
        let frame = joined(&[&ethernet(&[], 0x0800), &ipv4(0, 0, 6, &tcp(0, flags, b""))]);
        assert!(
            matches!(read(&frame), Packet::MalformedTcp(to) if to.port == 443),
            "{flags:x}"
        );
    }
    for offset in [0, 0x40, 0x60, 0xf0] {
        let mut inner = tcp(0, ACK, b"");
        inner[12] = offset;
        let frame = joined(&[&ethernet(&[], 0x0800), &ipv4(0, 0, 6, &inner)]);
        assert!(matches!(read(&frame), Packet::MalformedTcp(_)), "{offset:x}");
    }
}

#[test]
fn a_frame_cut_anywhere_is_never_taken_for_a_whole_one() {
    let inner = tcp(12, ACK, b"hello");
    let short = ipv4(8, 0, 6, &inner);
    let long = ipv6(60, &joined(&[&[6, 0, 0, 0, 0, 0, 0, 0], &inner]));
    for (kind, ip) in [(0x0800, short), (0x86dd, long)] {
        let frame = joined(&[&ethernet(&[0x8100], kind), &ip]);
        for cut in 0..frame.len() {
            assert_eq!(
                read(&frame[..cut]),
                Packet::Other(NotTcp::Truncated),
                "{kind:x} cut at {cut}"
            );
        }
        let padded = joined(&[&frame, &[0; 20]]);
        assert_eq!(read(&padded), read(&frame), "padding is no payload");
    }
}
