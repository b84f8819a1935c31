//! The request head as HTTP/1.1 bytes, and how its body will be framed (RFC 9112, 6).

use http::header::{CONNECTION, CONTENT_LENGTH, EXPECT, HOST, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderName, HeaderValue, Method};
use http_body::Body;
use ingress_core::filter::Edit;

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
            .headers
            .get(EXPECT)
            .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"))
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
    out.extend_from_slice(head.method.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(head.target.as_bytes());
    out.extend_from_slice(b" HTTP/1.1\r\n");
    write_field(out, &HOST, head.host);
    for (name, value) in head.headers {
        if !is_ours(name) && (name != EXPECT || framing != UploadFraming::None) {
            write_field(out, name, value);
        }
    }
    for (name, value) in head.extra.iter().filter_map(Edit::field) {
        write_field(out, name, value);
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

/// Fields that this module writes itself.
fn is_ours(name: &HeaderName) -> bool {
    [CONTENT_LENGTH, TRANSFER_ENCODING, HOST, CONNECTION, UPGRADE].contains(name)
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
    head.headers.contains_key(CONTENT_LENGTH)
        || [Method::POST, Method::PUT, Method::PATCH].contains(head.method)
}

fn write_length(out: &mut Vec<u8>, length: u64) {
    out.extend_from_slice(b"content-length: ");
    out.extend_from_slice(length.to_string().as_bytes());
    out.extend_from_slice(b"\r\n");
}

pub(super) fn write_field(out: &mut Vec<u8>, name: &HeaderName, value: &HeaderValue) {
    out.extend_from_slice(name.as_str().as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value.as_bytes());
    out.extend_from_slice(b"\r\n");
}
