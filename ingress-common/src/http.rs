//! The Host of a plain HTTP/1 request whose whole head lies in one segment (RFC 9112, 3.2; RFC 9110, 7.2).
//!
//! Stricter than the agent's own reading: whatever two readers could take differently is not judged.

use core::hint::black_box;

use crate::names::Walk;
use crate::tls::Bytes;

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
    hosts: u32,
    /// Where the host begins.
    pub host_at: u32,
    padding: u32,
}

const _: () = assert!(size_of::<Line>() == 16);

/// How much of a request's head is read. Each byte costs the verifier some hundred instructions; a stranger's head is short.
pub const MOST_HEAD: u32 = 1024;

/// Whether it is worth proving that this is a connection's first segment.
#[inline(always)]
pub fn looks_like(bytes: &Bytes<'_>) -> bool {
    matches!(bytes.u8(0), Some(b'A'..=b'Z')) && matches!(bytes.u8(1), Some(b'A'..=b'Z'))
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
    while at < MOST_HEAD {
        // Keeps the values in memory: only `at` is left for the verifier to count.
        (line, walk) = (black_box(line), black_box(walk));
        let Some(byte) = bytes.u8(at) else {
            return Request::Split;
        };
        let state = line.state;
        // A table and not a match: every branch here is one that the verifier takes for every byte.
        let next = u32::from(NEXT[(state & 31) as usize][byte as usize]);
        line.state = next;
        if next >= FIRST_END {
            return conclude(next, line, walk);
        }
        if next == BEFORE_HOST {
            line.hosts += u32::from(byte == b':');
            line.host_at = at + 1;
        }
        if next == IN_HOST && !walk.take(byte) {
            return Request::Unusual;
        }
        at += 1;
    }
    Request::Split
}

#[inline(always)]
fn conclude(end: u32, line: &Line, walk: &Walk) -> Request {
    match end {
        DONE if line.hosts == 0 => Request::NoHost,
        DONE if line.hosts == 1 && walk.is_name() => Request::Host,
        FOREIGN => Request::Foreign,
        _ => Request::Unusual,
    }
}

const METHOD: u32 = 0;
const TARGET_START: u32 = 1;
const TARGET: u32 = 2;
/// `HTTP/1.x` and the carriage return: nine states.
const VERSION: u32 = 3;
const LINE_START: u32 = 12;
/// So many bytes of `host` were read: four states, and one for all of it.
const NAME: u32 = 13;
const WHOLE_NAME: u32 = 17;
const OTHER_NAME: u32 = 18;
const VALUE: u32 = 19;
const BEFORE_HOST: u32 = 20;
const IN_HOST: u32 = 21;
const PORT: u32 = 22;
const AFTER_HOST: u32 = 23;
const LINE_END: u32 = 24;
const HEAD_END: u32 = 25;
const FIRST_END: u32 = 26;
const DONE: u32 = 26;
const FOREIGN: u32 = 27;
const UNUSUAL: u32 = 28;

/// From state and byte to the next state.
#[allow(clippy::cast_possible_truncation, reason = "states and bytes are below 256")]
static NEXT: [[u8; 256]; 32] = {
    let mut table = [[UNUSUAL as u8; 256]; 32];
    let mut state = 0;
    while state < FIRST_END {
        let mut byte = 0;
        while byte < 256 {
            let next = next(state, byte as u8) as u8;
            table[state as usize][byte] = next;
            byte += 1;
        }
        state += 1;
    }
    table
};

const fn next(state: u32, byte: u8) -> u32 {
    match (state, byte) {
        (METHOD, b'A'..=b'Z') => METHOD,
        (METHOD, b' ') => TARGET_START,
        // Origin form alone: the others name a host, or none, of their own (RFC 9112, 3.2).
        (TARGET_START, b'/') => TARGET,
        (METHOD | TARGET_START, _) => FOREIGN,
        (TARGET, b' ') => VERSION,
        (TARGET, 0x21..=0x7e) => TARGET,
        (VERSION..LINE_START, _) => version(state, byte),
        (LINE_START, b'\r') => HEAD_END,
        (LINE_START, b':') => UNUSUAL,
        (LINE_START, _) => name(NAME, byte),
        (WHOLE_NAME, b':') => BEFORE_HOST,
        (NAME..=OTHER_NAME, b':') => VALUE,
        (NAME..=OTHER_NAME, _) => name(state, byte),
        (VALUE, b'\t' | 0x20..=0x7e | 0x80..=0xff) => VALUE,
        (BEFORE_HOST, b' ' | b'\t') => BEFORE_HOST,
        (IN_HOST | PORT | AFTER_HOST, b' ' | b'\t') => AFTER_HOST,
        (BEFORE_HOST | IN_HOST, b':') => PORT,
        (PORT, b'0'..=b'9') => PORT,
        (VALUE | BEFORE_HOST | IN_HOST | PORT | AFTER_HOST, b'\r') => LINE_END,
        (BEFORE_HOST | IN_HOST, 0x21..=0x7e) => IN_HOST,
        // Only a line feed may follow a carriage return.
        (LINE_END, b'\n') => LINE_START,
        (HEAD_END, b'\n') => DONE,
        _ => UNUSUAL,
    }
}

const fn version(state: u32, byte: u8) -> u32 {
    let expected = match state - VERSION {
        0 => byte == b'H',
        1 | 2 => byte == b'T',
        3 => byte == b'P',
        4 => byte == b'/',
        5 => byte == b'1',
        6 => byte == b'.',
        7 => byte == b'1' || byte == b'0',
        _ => byte == b'\r',
    };
    match (expected, state - VERSION) {
        (false, _) => UNUSUAL,
        (true, 8) => LINE_END,
        (true, _) => state + 1,
    }
}

/// RFC 9110, 5.6.2: a token, right before the colon.
const fn name(state: u32, byte: u8) -> u32 {
    let continues = match state - NAME {
        0 => byte | 0x20 == b'h',
        1 => byte | 0x20 == b'o',
        2 => byte | 0x20 == b's',
        3 => byte | 0x20 == b't',
        _ => false,
    };
    if continues {
        return state + 1;
    }
    let token = byte.is_ascii_alphanumeric()
        || matches!(
            byte,
            b'-' | b'_'
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
                | b'~'
        );
    if token { OTHER_NAME } else { UNUSUAL }
}

#[cfg(test)]
mod tests;
