//! Byte classes, as tables made at compile time, and the runs over them.

const TOKEN: u8 = 1;
const METHOD: u8 = 2;
const PATH: u8 = 4;
const QUERY: u8 = 8;
const VALUE: u8 = 16;
const HOST: u8 = 32;

/// `PATH` and `QUERY` are what `http::Uri` takes: hyper would otherwise refuse in its own words.
const CLASSES: [u8; 256] = {
    let mut table = [0; 256];
    let mut byte = 0u8;
    loop {
        let mut class = 0;
        if byte.is_ascii_alphanumeric()
            || matches!(
                byte,
                b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`'
            )
            || matches!(byte, b'|' | b'~')
        {
            class |= TOKEN;
        }
        if byte.is_ascii_uppercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_') {
            class |= METHOD;
        }
        if matches!(byte, 0x21 | 0x22 | 0x24..=0x3b | 0x3d | 0x40..=0x5f | 0x61..=0x7e) {
            class |= PATH;
        }
        if matches!(byte, 0x21 | 0x24..=0x3b | 0x3d | 0x3f..=0x7e) {
            class |= QUERY;
        }
        if is_value(byte) {
            class |= VALUE;
        }
        // reg-name and IPv4 address (RFC 3986 3.2.2).
        if byte.is_ascii_alphanumeric()
            || matches!(
                byte,
                b'-' | b'.' | b'_' | b'~' | b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+'
            )
            || matches!(byte, b';' | b'=' | b'%')
        {
            class |= HOST;
        }
        table[byte as usize] = class;
        if byte == u8::MAX {
            break;
        }
        byte += 1;
    }
    table
};

/// field-vchar, SP and HTAB (RFC 9110 5.5).
const fn is_value(byte: u8) -> bool {
    (byte >= 0x20 && byte != 0x7f) || byte == b'\t'
}

fn is(byte: u8, class: u8) -> bool {
    CLASSES.get(usize::from(byte)).is_some_and(|c| c & class != 0)
}

fn run(bytes: &[u8], class: u8) -> usize {
    bytes.iter().position(|b| !is(*b, class)).unwrap_or(bytes.len())
}

/// How many bytes from the start belong to a token (RFC 9110 5.6.2).
pub(super) fn token_run(bytes: &[u8]) -> usize {
    run(bytes, TOKEN)
}

pub(in crate::proxy) fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && token_run(bytes) == bytes.len()
}

pub(super) fn is_token_byte(byte: u8) -> bool {
    is(byte, TOKEN)
}

/// Methods are case-sensitive, and all registered ones are upper-case (RFC 9110 16.1): a `get` would mean different things to
/// different backends.
pub(super) fn method_run(bytes: &[u8]) -> usize {
    run(bytes, METHOD)
}

pub(super) fn path_run(bytes: &[u8]) -> usize {
    run(bytes, PATH)
}

pub(super) fn query_run(bytes: &[u8]) -> usize {
    run(bytes, QUERY)
}

pub(super) fn host_run(bytes: &[u8]) -> usize {
    run(bytes, HOST)
}

pub(super) fn is_value_byte(byte: u8) -> bool {
    is_value(byte)
}

/// How many bytes from the start may stand in a field's value. Values are most of a head: they are read eight bytes at a time.
pub(super) fn value_run(bytes: &[u8]) -> usize {
    let mut at = 0;
    while let Some(word) = bytes.get(at..).and_then(<[u8]>::first_chunk) {
        let odd = odd_bytes(u64::from_le_bytes(*word));
        if odd == 0 {
            at += 8;
            continue;
        }
        at += first_marked(odd);
        // HTAB counts as odd up to here.
        if bytes.get(at) != Some(&b'\t') {
            return at;
        }
        at += 1;
    }
    let rest = bytes.get(at..).unwrap_or_default();
    at + run(rest, VALUE)
}

/// Marks by its highest bit the first byte that is a control character, DEL included; what it marks behind that one says nothing.
fn odd_bytes(word: u64) -> u64 {
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    const HIGHEST: u64 = ONES << 7;
    let control = word.wrapping_sub(ONES * 0x20) & !word;
    let delete = word ^ (ONES * 0x7f);
    let delete = delete.wrapping_sub(ONES) & !delete;
    (control | delete) & HIGHEST
}

/// Which byte it is, the first being the lowest.
fn first_marked(marks: u64) -> usize {
    usize::try_from(marks.trailing_zeros() / 8).unwrap_or(0)
}

/// Whether all of it may stand in a field's value.
pub(in crate::proxy) fn is_field_value(bytes: &[u8]) -> bool {
    value_run(bytes) == bytes.len()
}

/// Without the optional whitespace around it.
pub(crate) fn trim(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = value {
        value = rest;
    }
    while let [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

/// The members of a comma-separated list (RFC 9110 5.6.1), empty ones left out.
pub(super) fn members(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|b| *b == b',').map(trim).filter(|m| !m.is_empty())
}
