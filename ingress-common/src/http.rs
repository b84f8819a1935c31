//! The Host of a plain HTTP/1 request whose whole head lies in one segment (RFC 9112, 3.2; RFC 9110, 7.2).
//!
//! Stricter than the agent's own reading: whatever two readers could take differently is not judged.

use core::hint::black_box;

use crate::names::Walk;
use crate::tls::Bytes;
use crate::window::PAYLOAD_BYTES;

/// What a connection's first segment says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// A host, read into the walk.
    Host,
    /// Not a request in origin form: TLS, the HTTP/2 preface, a PROXY header, an absolute target, anything else.
    Foreign,
    /// The head goes on beyond what was copied.
    Split,
    NoHost,
    /// Several Host fields, folded lines, bare CR or LF, a host that is no plain host name.
    Unusual,
}

/// Where the reading stands. In map memory, as [`Walk`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Line {
    /// Of the constants below.
    state: u32,
    /// Bytes of the part that is being read; while in a field name that may be `host`, how much of it was.
    count: u32,
    hosts: u32,
    /// Where the host begins.
    pub host_at: u32,
}

const _: () = assert!(size_of::<Line>() == 16);

const METHOD: u32 = 0;
const TARGET: u32 = 1;
const VERSION: u32 = 2;
const LINE_START: u32 = 3;
const FIELD_NAME: u32 = 4;
const FIELD_VALUE: u32 = 5;
const BEFORE_HOST: u32 = 6;
const IN_HOST: u32 = 7;
const PORT: u32 = 8;
const AFTER_HOST: u32 = 9;
const LINE_END: u32 = 10;
const HEAD_END: u32 = 11;
const TARGET_START: u32 = 12;

/// The longest method that a registered one or WebDAV needs, with room.
const LONGEST_METHOD: u32 = 20;

/// Whether it is worth proving that this is a connection's first segment.
#[inline(always)]
pub fn looks_like(bytes: &Bytes<'_>) -> bool {
    matches!(bytes.u8(0), Some(b'A'..=b'Z')) && matches!(bytes.u8(1), Some(b'A'..=b'Z'))
}

/// What a byte leads to.
#[derive(PartialEq, Eq)]
enum Step {
    On,
    Done,
    Foreign,
    Unusual,
}

/// Reads a first segment.
#[inline(always)]
pub fn host(bytes: &Bytes<'_>, line: &mut Line, walk: &mut Walk) -> Request {
    if !looks_like(bytes) {
        return Request::Foreign;
    }
    let (mut line, mut walk) = (line, walk);
    *line = Line::default();
    walk.begin();
    let mut at = 0;
    #[allow(clippy::cast_possible_truncation, reason = "2048")]
    let most = PAYLOAD_BYTES as u32;
    while at < most {
        // Keeps the values in memory: only `at` is left for the verifier to count.
        (line, walk) = (black_box(line), black_box(walk));
        let Some(byte) = bytes.u8(at) else {
            return Request::Split;
        };
        if line.state == BEFORE_HOST {
            line.host_at = at;
        }
        match step(byte, line, walk) {
            Step::On => {}
            Step::Done => return conclude(line, walk),
            Step::Foreign => return Request::Foreign,
            Step::Unusual => return Request::Unusual,
        }
        at += 1;
    }
    Request::Split
}

#[inline(always)]
fn conclude(line: &Line, walk: &Walk) -> Request {
    if line.hosts == 0 {
        Request::NoHost
    } else if walk.is_name() {
        Request::Host
    } else {
        Request::Unusual
    }
}

#[inline(always)]
fn step(byte: u8, line: &mut Line, walk: &mut Walk) -> Step {
    match line.state {
        METHOD => method(byte, line),
        TARGET_START => target_start(byte, line),
        TARGET => target(byte, line),
        VERSION => version(byte, line),
        LINE_START => line_start(byte, line),
        FIELD_NAME => field_name(byte, line),
        FIELD_VALUE => value(byte, line),
        BEFORE_HOST | IN_HOST => in_host(byte, line, walk),
        PORT => port(byte, line),
        AFTER_HOST => after_host(byte, line),
        LINE_END => end(byte, line, LINE_START, Step::On),
        _ => end(byte, line, HEAD_END, Step::Done),
    }
}

#[inline(always)]
fn go(line: &mut Line, state: u32) -> Step {
    line.state = state;
    line.count = 0;
    Step::On
}

#[inline(always)]
fn method(byte: u8, line: &mut Line) -> Step {
    line.count += 1;
    match byte {
        b'A'..=b'Z' if line.count <= LONGEST_METHOD => Step::On,
        b' ' => go(line, TARGET_START),
        _ => Step::Foreign,
    }
}

/// Origin form alone: the others name a host, or none, of their own (RFC 9112, 3.2).
#[inline(always)]
fn target_start(byte: u8, line: &mut Line) -> Step {
    if byte == b'/' {
        go(line, TARGET)
    } else {
        Step::Foreign
    }
}

#[inline(always)]
fn target(byte: u8, line: &mut Line) -> Step {
    match byte {
        b' ' => go(line, VERSION),
        0x21..=0x7e => Step::On,
        _ => Step::Unusual,
    }
}

#[inline(always)]
fn version(byte: u8, line: &mut Line) -> Step {
    let expected = match line.count {
        0..=3 => byte == [b'H', b'T', b'T', b'P'][(line.count & 3) as usize],
        4 => byte == b'/',
        5 => byte == b'1',
        6 => byte == b'.',
        7 => byte == b'1' || byte == b'0',
        _ if byte == b'\r' => return go(line, LINE_END),
        _ => false,
    };
    line.count += 1;
    if expected { Step::On } else { Step::Unusual }
}

#[inline(always)]
fn line_start(byte: u8, line: &mut Line) -> Step {
    if byte == b'\r' {
        return go(line, HEAD_END);
    }
    line.state = FIELD_NAME;
    line.count = 0;
    field_name(byte, line)
}

/// Longer than `host`, or something else.
const NOT_HOST: u32 = 5;

/// RFC 9110, 5.6.2: a token, right before the colon.
#[inline(always)]
fn field_name(byte: u8, line: &mut Line) -> Step {
    let lower = byte | 0x20;
    match byte {
        b':' if line.count == 0 => Step::Unusual,
        b':' if line.count == 4 => {
            line.hosts += 1;
            if line.hosts > 1 {
                return Step::Unusual;
            }
            go(line, BEFORE_HOST)
        }
        b':' => go(line, FIELD_VALUE),
        b'A'..=b'Z' | b'a'..=b'z' => {
            let next = match line.count {
                0 => lower == b'h',
                1 => lower == b'o',
                2 => lower == b's',
                3 => lower == b't',
                _ => false,
            };
            line.count = if next { line.count + 1 } else { NOT_HOST };
            Step::On
        }
        b'0'..=b'9'
        | b'-'
        | b'_'
        | b'.'
        | b'!'
        | b'#'
        | b'$'
        | b'%'
        | b'&'
        | b'\''
        | b'*'
        | b'+'
        | b'^'
        | b'`'
        | b'|'
        | b'~' => {
            line.count = NOT_HOST;
            Step::On
        }
        _ => Step::Unusual,
    }
}

#[inline(always)]
fn value(byte: u8, line: &mut Line) -> Step {
    match byte {
        b'\r' => go(line, LINE_END),
        b'\t' | 0x20..=0x7e | 0x80..=0xff => Step::On,
        _ => Step::Unusual,
    }
}

#[inline(always)]
fn in_host(byte: u8, line: &mut Line, walk: &mut Walk) -> Step {
    match byte {
        b' ' | b'\t' if line.state == BEFORE_HOST => Step::On,
        b' ' | b'\t' => go(line, AFTER_HOST),
        b':' => go(line, PORT),
        b'\r' => go(line, LINE_END),
        _ if walk.take(byte) => go(line, IN_HOST),
        _ => Step::Unusual,
    }
}

#[inline(always)]
fn port(byte: u8, line: &mut Line) -> Step {
    line.count += 1;
    match byte {
        b'0'..=b'9' if line.count <= 5 => Step::On,
        b' ' | b'\t' => go(line, AFTER_HOST),
        b'\r' => go(line, LINE_END),
        _ => Step::Unusual,
    }
}

#[inline(always)]
fn after_host(byte: u8, line: &mut Line) -> Step {
    match byte {
        b' ' | b'\t' => Step::On,
        b'\r' => go(line, LINE_END),
        _ => Step::Unusual,
    }
}

/// Only a line feed may follow a carriage return.
#[inline(always)]
fn end(byte: u8, line: &mut Line, state: u32, then: Step) -> Step {
    if byte != b'\n' {
        return Step::Unusual;
    }
    line.state = state;
    line.count = 0;
    then
}

#[cfg(test)]
mod tests;
