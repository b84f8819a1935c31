//! Writing header blocks (RFC 7541): the static table alone, so that no state is kept and none can be lost. Pure.

use http::{HeaderMap, StatusCode};
use ingress_core::fields::Fields;

/// The instruction that makes the reader's table empty (RFC 7541, 6.3).
pub(crate) const EMPTY_TABLE: u8 = 0x20;

/// Begins a response's block.
pub(crate) fn status(block: &mut Vec<u8>, status: StatusCode) {
    let indexed = match status.as_u16() {
        200 => 8,
        204 => 9,
        206 => 10,
        304 => 11,
        400 => 12,
        404 => 13,
        500 => 14,
        _ => {
            literal_name(block, 0, 8);
            return string(block, status.as_str().as_bytes());
        }
    };
    block.push(0x80 | indexed);
}

/// All fields but those that HTTP/2 does not have (RFC 9113, 8.2.2).
pub(crate) fn fields(block: &mut Vec<u8>, fields: &Fields) {
    for (name, value, never_indexed) in fields.entries() {
        field(block, name, value, never_indexed);
    }
}

/// The same of trailers.
pub(crate) fn map(block: &mut Vec<u8>, map: &HeaderMap) {
    for (name, value) in map {
        field(
            block,
            name.as_str().as_bytes(),
            value.as_bytes(),
            value.is_sensitive(),
        );
    }
}

/// One field; its name goes out in lower case (RFC 9113, 8.2.1).
pub(crate) fn field(block: &mut Vec<u8>, name: &[u8], value: &[u8], never_indexed: bool) {
    // Never indexed, by whoever stands between (RFC 7541, 7.1.3).
    let pattern = if never_indexed { 0x10 } else { 0 };
    match known(name) {
        Known::OfTheConnection => return,
        Known::Index(index) => literal_name(block, pattern, index),
        Known::Not => {
            block.push(pattern);
            string(block, name);
            let start = block.len().saturating_sub(name.len());
            if let Some(written) = block.get_mut(start..) {
                written.make_ascii_lowercase();
            }
        }
    }
    string(block, value);
}

/// What is known of a name.
#[derive(Clone, Copy)]
enum Known {
    /// Where the static table has it, for names that responses have.
    Index(u8),
    OfTheConnection,
    Not,
}

fn known(name: &[u8]) -> Known {
    let candidates: &[(&[u8], Known)] = match name.len() {
        3 => &[(b"age", Known::Index(21)), (b"via", Known::Index(60))],
        4 => &[
            (b"date", Known::Index(33)),
            (b"etag", Known::Index(34)),
            (b"vary", Known::Index(59)),
            (b"link", Known::Index(45)),
        ],
        5 => &[(b"allow", Known::Index(22))],
        6 => &[(b"server", Known::Index(54))],
        7 => &[
            (b"expires", Known::Index(36)),
            (b"upgrade", Known::OfTheConnection),
        ],
        8 => &[(b"location", Known::Index(46))],
        10 => &[
            (b"set-cookie", Known::Index(55)),
            (b"connection", Known::OfTheConnection),
            (b"keep-alive", Known::OfTheConnection),
        ],
        11 => &[(b"retry-after", Known::Index(53))],
        12 => &[(b"content-type", Known::Index(31))],
        13 => &[
            (b"cache-control", Known::Index(24)),
            (b"last-modified", Known::Index(44)),
            (b"accept-ranges", Known::Index(18)),
            (b"content-range", Known::Index(30)),
        ],
        14 => &[(b"content-length", Known::Index(28))],
        16 => &[
            (b"content-encoding", Known::Index(26)),
            (b"content-language", Known::Index(27)),
            (b"content-location", Known::Index(29)),
            (b"www-authenticate", Known::Index(61)),
            (b"proxy-connection", Known::OfTheConnection),
        ],
        17 => &[(b"transfer-encoding", Known::OfTheConnection)],
        19 => &[(b"content-disposition", Known::Index(25))],
        25 => &[(b"strict-transport-security", Known::Index(56))],
        27 => &[(b"access-control-allow-origin", Known::Index(20))],
        _ => &[],
    };
    let is_it = |(known, _): &&(&[u8], Known)| name.eq_ignore_ascii_case(known);
    candidates
        .iter()
        .find(is_it)
        .map_or(Known::Not, |(_, known)| *known)
}

/// A literal that the table is not to keep, its name by index (RFC 7541, 6.2.2).
fn literal_name(block: &mut Vec<u8>, pattern: u8, index: u8) {
    match index.checked_sub(15) {
        None => block.push(pattern | index),
        Some(rest) => block.extend_from_slice(&[pattern | 15, rest]),
    }
}

/// As it is: packing it would cost both sides more than a few bytes do.
fn string(block: &mut Vec<u8>, text: &[u8]) {
    match u8::try_from(text.len()) {
        Ok(length @ ..127) => block.push(length),
        _ => {
            block.push(127);
            let mut rest = text.len().saturating_sub(127);
            while rest >= 128 {
                block.push(u8::try_from(rest & 0x7f).unwrap_or_default() | 0x80);
                rest >>= 7;
            }
            block.push(u8::try_from(rest).unwrap_or_default());
        }
    }
    block.extend_from_slice(text);
}
