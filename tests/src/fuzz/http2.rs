//! The reader of h2 frames and header blocks against one that has all bytes at hand.

use std::time::Instant;

use bytes::BytesMut;
use ingress_agent::proxy::wire::Limits;
use ingress_agent::proxy::wire::detect::H2_PREFACE;
use ingress_agent::proxy::wire::h2::{ErrorCode, Follower, H2Refusal};

use super::{Target, cuts, outcome};

pub static HTTP2: Target = Target {
    name: "http2",
    executions: 10_000,
    longest: 3000,
    words: &[
        b"\0\0\0\x04\0\0\0\0\0",
        b"\0\0\0\x04\x01\0\0\0\0",
        b"\0\0\x08\x06\0\0\0\0\0",
        b"\0\0\0\x01\x05\0\0\0\x01",
        b"\0\0\0\x01\0\0\0\0\x03",
        b"\0\0\0\x09\0\0\0\0\x03",
        b"\0\0\0\x09\x04\0\0\0\x03",
        b"\0\0\0\0\0\0\0\0\x01",
        b"\0\0\0\0\x01\0\0\0\x01",
        b"\0\0\x04\x03\0\0\0\0\x01",
        b"\0\0\x04\x08\0\0\0\0\0",
        b"\0\0\x05\x02\0\0\0\0\x05",
        b"\0\x40\0\0\0\0\0\0\x01",
        b"\0\x40\x01\0\0\0\0\0\x01",
        b"\xff\xff\xff",
        b"\x80\0\0\x01",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        &[STRUCTURED],
        b"\x01\x04",
        b"\x01\0",
        b"\x09\0",
        b"\x09\x04",
        b"\x04\0\0\0",
        b"\x82\x86\x84\x41\x0fwww.example.com",
        b"\x82\x86\x84\x41\x8c\xf1\xe3\xc2\xe5\xf2\x3a\x6b\xa0\xab\x90\xf4\xff",
        b"\xbe\xbf",
        b"\x40\x03x-a\x01b",
        b"\x10\x08password\x06secret",
        b"\x3f\xe1\x1f",
        b"\x20",
    ],
    check,
};

/// Begins an input of four bytes a frame, kind, flags, stream and length: mutations can't break where frames begin.
const STRUCTURED: u8 = 0xfe;
/// Several of the largest frames.
const MOST_BYTES: usize = 100_000;
/// Of a header block.
const BLOCK: usize = 48;
/// Frames of zeros can be long, and teach nothing byte by byte.
const MOST_SINGLE_BYTES: usize = 4096;

fn check(input: &[u8]) -> u64 {
    let mut frames: Vec<u8> = match input {
        [STRUCTURED, list @ ..] => list.chunks_exact(4).flat_map(frame).collect(),
        _ => input.to_vec(),
    };
    frames.truncate(MOST_BYTES);
    let mut client = frames.clone();
    if !frames.starts_with(b"PRI") {
        client.splice(0..0, H2_PREFACE.iter().copied());
    }
    let verdict = check_client(&client);
    let blocks = check_blocks(&frames);
    outcome((verdict.err().map(|r| r.refusal.detail), blocks))
}

/// A frame of zeros; the largest two lengths are the bound and one above.
fn frame(description: &[u8]) -> Vec<u8> {
    let [kind, flags, stream, length] = *description else {
        return Vec::new();
    };
    let length = match length {
        254 => 16_384,
        255 => 16_385,
        length => u32::from(length),
    };
    let [_, l2, l1, l0] = length.to_be_bytes();
    let mut frame = vec![l2, l1, l0, kind, flags, 0, 0, 0, stream];
    frame.extend((0..length).map(|_| 0));
    frame
}

fn check_client(bytes: &[u8]) -> Result<(), H2Refusal> {
    let limits = Limits::default();
    let now = Instant::now();
    let read = |ends: &[usize]| {
        let mut follower = Follower::new(&limits, now);
        let mut input = BytesMut::new();
        let mut frames = Vec::new();
        let verdict: Result<(), H2Refusal> = pieces(bytes, ends).try_for_each(|piece| {
            input.extend_from_slice(piece);
            while let Some((frame, payload)) = follower.next(&mut input, now)? {
                frames.push((frame, payload));
            }
            Ok(())
        });
        (
            verdict,
            frames,
            follower.in_head(),
            verdict.is_ok() && !input.is_empty(),
        )
    };
    let whole = read(&[bytes.len()]);
    assert_eq!(read(&cuts(bytes)), whole, "cut into some pieces");
    if bytes.len() <= MOST_SINGLE_BYTES {
        let each: Vec<usize> = (1..=bytes.len()).collect();
        assert_eq!(read(&each), whole, "cut into bytes");
    }
    let naive = naive_client(bytes, &limits);
    match whole.0 {
        Ok(()) => assert_eq!(naive, Ok(whole.3), "within a frame, or what breaks RFC 9113"),
        Err(refusal) if refusal.code != ErrorCode::EnhanceYourCalm => assert!(naive.is_err(), "{refusal:?}"),
        Err(_) => {}
    }
    whole.0
}

/// The input as header blocks of one connection: never a panic, and never more than the bounds allow.
fn check_blocks(bytes: &[u8]) -> u64 {
    let limits = Limits::default();
    let mut follower = Follower::new(&limits, Instant::now());
    let mut read = 0;
    for block in bytes.chunks(BLOCK) {
        match follower.request(block, &limits) {
            Ok(Ok(asked)) => {
                read += 1;
                let fields = asked.head.fields.len();
                assert!(fields <= limits.head_fields + 1, "{fields} fields");
            }
            Ok(Err(_malformed)) => {}
            Err(refusal) => {
                assert_eq!(refusal.code, ErrorCode::Compression);
                break;
            }
        }
    }
    read
}

fn pieces<'b>(bytes: &'b [u8], ends: &[usize]) -> impl Iterator<Item = &'b [u8]> {
    let starts = std::iter::once(0).chain(ends.iter().copied());
    let ranges: Vec<_> = starts.zip(ends.iter().copied()).collect();
    ranges
        .into_iter()
        .map(|(start, end)| bytes.get(start..end).unwrap_or_default())
}

/// Length, kind, flags and stream of each frame whose header is there, and whether the last one is whole.
fn frames(mut bytes: &[u8]) -> (Vec<(usize, u8, u8, u32)>, bool) {
    let mut frames = Vec::new();
    while let [l2, l1, l0, kind, flags, s3, s2, s1, s0, rest @ ..] = bytes {
        let length = usize::from(*l2) << 16 | usize::from(*l1) << 8 | usize::from(*l0);
        let stream = u32::from_be_bytes([*s3 & 0x7f, *s2, *s1, *s0]);
        frames.push((length, *kind, *flags, stream));
        let Some(after) = rest.get(length..) else {
            return (frames, false);
        };
        bytes = after;
    }
    (frames, bytes.is_empty())
}

const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const CONTINUATION: u8 = 9;

/// Whether the stream ends within a frame, or what breaks RFC 9113 in it.
fn naive_client(bytes: &[u8], limits: &Limits) -> Result<bool, &'static str> {
    if bytes.len() < H2_PREFACE.len() && H2_PREFACE.starts_with(bytes) {
        return Ok(false);
    }
    let (frames, whole) = frames(bytes.strip_prefix(H2_PREFACE).ok_or("the preface, 3.4")?);
    let mut block = None;
    for (at, (length, kind, flags, stream)) in frames.into_iter().enumerate() {
        if at == 0 && (kind != SETTINGS || flags & 1 != 0) {
            return Err("SETTINGS comes first, 3.4");
        }
        if u32::try_from(length).is_ok_and(|length| length > limits.h2_frame_bytes) {
            return Err("a frame's size, 4.2");
        }
        match block {
            Some(open) if kind != CONTINUATION || stream != open => return Err("an interrupted block, 4.3"),
            None if kind == CONTINUATION => return Err("CONTINUATION without a block, 6.10"),
            _ => {}
        }
        if matches!(kind, HEADERS | CONTINUATION) {
            block = (flags & 4 == 0).then_some(stream);
        }
    }
    Ok(!whole)
}
