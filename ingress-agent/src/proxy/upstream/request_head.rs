//! The request head as HTTP/1.1 bytes, and how its body will be framed (RFC 9112, 6).

use http::Method;
use http_body::Body;
use ingress_core::fields::{write_field, write_number};

use super::RequestHead;
use crate::error::ProxyError;
use crate::proxy::body::RequestBody;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum UploadFraming {
    None,
    /// Bytes that are still to come.
    Length(u64),
    Chunked,
}

impl UploadFraming {
    pub(super) fn of(body: &RequestBody) -> Self {
        match body.size_hint().exact() {
            Some(0) => Self::None,
            Some(length) => Self::Length(length),
            None => Self::Chunked,
        }
    }
}

/// Whether the body has to wait for the backend's 100 (RFC 9110, 10.1.1).
pub(super) fn expects_continue(head: &RequestHead<'_>, framing: UploadFraming) -> bool {
    framing != UploadFraming::None
        && head
            .fields
            .get("expect")
            .is_some_and(|value| value.eq_ignore_ascii_case(b"100-continue"))
}

/// Appends the whole head. `close` asks the backend to end the connection after its response.
pub(super) fn write_head(
    out: &mut Vec<u8>,
    head: &RequestHead<'_>,
    framing: UploadFraming,
    close: bool,
) -> Result<(), ProxyError> {
    // What was matched is what is sent; nothing that could split the line may come this far.
    if head.target.is_empty() || head.target.bytes().any(|byte| byte <= b' ' || byte == 0x7f) {
        return Err(ProxyError::BadRequest("a target that cannot be sent"));
    }
    // Room for nearly all heads at once; growing step by step costs more than writing does.
    out.reserve(768);
    out.extend_from_slice(head.method.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(head.target.as_bytes());
    out.extend_from_slice(b" HTTP/1.1\r\n");
    write_field(out, b"host", head.host);
    head.fields.write(out, |name| is_ours(name, framing));
    for (name, value) in head.extra.iter().flat_map(|extra| extra.fields()) {
        write_field(out, name.as_bytes(), value);
    }
    write_framing(out, head, framing);
    if head.websocket {
        out.extend_from_slice(b"connection: Upgrade\r\nupgrade: websocket\r\n");
    } else if close {
        out.extend_from_slice(b"connection: close\r\n");
    }
    out.extend_from_slice(b"\r\n");
    Ok(())
}

/// Fields that this module writes itself, and an expectation without a body. Their length sorts out nearly all others.
fn is_ours(name: &[u8], framing: UploadFraming) -> bool {
    let is = |known: &[u8]| name.eq_ignore_ascii_case(known);
    match name.len() {
        4 => is(b"host"),
        6 => framing == UploadFraming::None && is(b"expect"),
        7 => is(b"upgrade"),
        10 => is(b"connection"),
        14 => is(b"content-length"),
        17 => is(b"transfer-encoding"),
        _ => false,
    }
}

fn write_framing(out: &mut Vec<u8>, head: &RequestHead<'_>, framing: UploadFraming) {
    match framing {
        UploadFraming::Chunked => out.extend_from_slice(b"transfer-encoding: chunked\r\n"),
        UploadFraming::Length(length) => write_length(out, length),
        // RFC 9110, 8.6: a method that means something by its body says that there is none.
        UploadFraming::None if says_empty(head) => write_length(out, 0),
        UploadFraming::None => {}
    }
}

fn says_empty(head: &RequestHead<'_>) -> bool {
    head.fields.contains("content-length") || [Method::POST, Method::PUT, Method::PATCH].contains(head.method)
}

fn write_length(out: &mut Vec<u8>, length: u64) {
    out.extend_from_slice(b"content-length: ");
    write_number(out, length);
    out.extend_from_slice(b"\r\n");
}
