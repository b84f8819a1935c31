//! Writing header blocks (RFC 7541): the static table alone, so that no state is kept and none can be lost. Pure.

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};

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
pub(crate) fn fields(block: &mut Vec<u8>, fields: &HeaderMap) {
    for (name, value) in fields {
        if !is_of_the_connection(name) {
            field(block, name, value);
        }
    }
}

/// A field that this side makes by itself.
pub(crate) fn own_field(block: &mut Vec<u8>, name: &HeaderName, value: &[u8]) {
    name_of(block, 0, name);
    string(block, value);
}

fn field(block: &mut Vec<u8>, name: &HeaderName, value: &HeaderValue) {
    // Never indexed, by whoever stands between (RFC 7541, 7.1.3).
    let pattern = if value.is_sensitive() { 0x10 } else { 0 };
    name_of(block, pattern, name);
    string(block, value.as_bytes());
}

fn is_of_the_connection(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "connection" | "keep-alive" | "proxy-connection" | "transfer-encoding" | "upgrade"
    )
}

fn name_of(block: &mut Vec<u8>, pattern: u8, name: &HeaderName) {
    match static_index(name) {
        0 => {
            block.push(pattern);
            string(block, name.as_str().as_bytes());
        }
        index => literal_name(block, pattern, index),
    }
}

/// The names that responses have.
fn static_index(name: &HeaderName) -> u8 {
    match *name {
        header::ACCEPT_RANGES => 18,
        header::ACCESS_CONTROL_ALLOW_ORIGIN => 20,
        header::AGE => 21,
        header::ALLOW => 22,
        header::CACHE_CONTROL => 24,
        header::CONTENT_DISPOSITION => 25,
        header::CONTENT_ENCODING => 26,
        header::CONTENT_LANGUAGE => 27,
        header::CONTENT_LENGTH => 28,
        header::CONTENT_LOCATION => 29,
        header::CONTENT_RANGE => 30,
        header::CONTENT_TYPE => 31,
        header::DATE => 33,
        header::ETAG => 34,
        header::EXPIRES => 36,
        header::LAST_MODIFIED => 44,
        header::LINK => 45,
        header::LOCATION => 46,
        header::RETRY_AFTER => 53,
        header::SERVER => 54,
        header::SET_COOKIE => 55,
        header::STRICT_TRANSPORT_SECURITY => 56,
        header::VARY => 59,
        header::VIA => 60,
        header::WWW_AUTHENTICATE => 61,
        _ => 0,
    }
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
