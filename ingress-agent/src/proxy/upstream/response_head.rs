//! The response head of HTTP/1.1, strictly (RFC 9112): everything that two readers could understand differently is refused.
//!
//! Pure: bytes in, head or reason out. Line ends and framing are checked here; `http` checks the characters of names and values.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};

/// Largest head, status line included, in bytes.
pub(super) const MAX_HEAD: usize = 64 * 1024;
/// Most fields in one head.
pub(super) const MAX_FIELDS: usize = 200;
/// Most fields after a body.
const MAX_TRAILERS: usize = 64;

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// How the end of the body is found (RFC 9112, 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    None,
    Length(u64),
    Chunked,
    UntilClose,
}

/// Whether the connection may serve another request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Persistence {
    Close,
    /// The backend's own idle limit, if it told one (`Keep-Alive: timeout`).
    Keep(Option<Duration>),
}

/// A response head without its connection-level fields, but for a 101, which keeps `Connection` and `Upgrade`.
#[derive(Debug, PartialEq)]
pub(super) struct ResponseHead {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) framing: Framing,
    pub(super) persistence: Persistence,
}

/// What was asked, as far as it decides how the answer is read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    pub(super) head_method: bool,
    pub(super) websocket: bool,
}

impl Asked {
    pub(super) fn new(method: &Method, websocket: bool) -> Self {
        Self {
            head_method: method == Method::HEAD,
            websocket,
        }
    }
}

/// Looks for the empty line that ends a block of fields, each byte once however often it is asked.
#[derive(Debug, Default)]
pub(super) struct EndOfFields {
    /// Everything before was seen.
    seen: usize,
    /// Where the present line begins.
    line: usize,
}

impl EndOfFields {
    /// The length of the block with its empty line, once all of it is there. Every line must end in CRLF (RFC 9112, 2.2 lets a reader accept a bare LF; two
    /// readers that differ in this make smuggling possible).
    pub(super) fn find(&mut self, buffer: &[u8], limit: usize) -> Result<Option<usize>, &'static str> {
        while let Some(offset) = buffer.get(self.seen..).and_then(line_feed) {
            let end = self.seen + offset;
            let line = buffer.get(self.line..end).unwrap_or_default();
            if line.last() != Some(&b'\r') {
                return Err("a line ends without a carriage return");
            }
            self.seen = end + 1;
            self.line = self.seen;
            if self.seen > limit {
                return Err("the head is too large");
            }
            if line.len() == 1 {
                return Ok(Some(self.seen));
            }
        }
        self.seen = buffer.len();
        if self.seen > limit {
            return Err("the head is too large");
        }
        Ok(None)
    }
}

/// Takes a whole head off the front of `buffer`, or says that there is more to come.
pub(super) fn take_head(
    buffer: &mut BytesMut,
    end: &mut EndOfFields,
    asked: Asked,
) -> Result<Option<ResponseHead>, &'static str> {
    const START: &[u8] = b"HTTP/";
    if buffer.iter().zip(START).any(|(is, must)| is != must) {
        return Err("not an HTTP/1.x status line");
    }
    let Some(length) = end.find(buffer, MAX_HEAD)? else {
        return Ok(None);
    };
    *end = EndOfFields::default();
    parse(&buffer.split_to(length).freeze(), asked).map(Some)
}

/// Where the next line feed is. Blocks of sixteen compile to vector code.
fn line_feed(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    for block in bytes.chunks_exact(16) {
        if block.iter().fold(false, |any, byte| any | (*byte == b'\n')) {
            break;
        }
        at += 16;
    }
    let rest = bytes.get(at..)?.iter().position(|byte| *byte == b'\n')?;
    Some(at + rest)
}

/// The lines of a block whose end [`EndOfFields`] has found, without their line ends and the empty last one, by their places.
fn lines(block: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let rest = block.get(at..)?;
        let end = line_feed(rest)?;
        let begin = at;
        at += end + 1;
        rest.get(..end.checked_sub(1)?)
            .filter(|line| !line.is_empty())
            .map(|line| (begin, line))
    })
}

/// `HTTP/1.x SP 3DIGIT [SP reason-phrase]` (RFC 9112, 4): minor version and status.
fn status_line(line: &[u8]) -> Result<(u8, StatusCode), &'static str> {
    const BAD: &str = "a bad status line";
    let rest = line.strip_prefix(b"HTTP/1.").ok_or("an unknown HTTP version")?;
    let (minor, rest) = match rest {
        [b'0', b' ', rest @ ..] => (0, rest),
        [b'1', b' ', rest @ ..] => (1, rest),
        _ => return Err("an unknown HTTP version"),
    };
    let (code, reason) = rest.split_at_checked(3).ok_or(BAD)?;
    let status = StatusCode::from_bytes(code).map_err(|_| "a status code that is none")?;
    let is_text = |byte: &u8| (*byte >= b' ' && *byte != 0x7f) || *byte == b'\t';
    match reason {
        [] => Ok((minor, status)),
        [b' ', reason @ ..] if reason.iter().all(is_text) => Ok((minor, status)),
        _ => Err(BAD),
    }
}

fn parse(head: &Bytes, asked: Asked) -> Result<ResponseHead, &'static str> {
    let mut lines = lines(head);
    let (_, first) = lines.next().ok_or("an empty head")?;
    let (minor_version, status) = status_line(first)?;
    let mut connection = ConnectionFields::default();
    let mut headers = collect(head, lines, MAX_FIELDS, &mut connection)?;
    let framing = framing(status, &connection, &headers, minor_version, asked)?;
    let persistence = persistence(status, &connection, framing, minor_version);
    if status == StatusCode::SWITCHING_PROTOCOLS {
        accept_upgrade(&mut headers, &connection, asked)?;
    } else {
        connection.remove_nominated(&mut headers);
    }
    // RFC 9110, 8.6: neither has content, and neither may say otherwise.
    if status == StatusCode::NO_CONTENT || status.is_informational() {
        headers.remove(CONTENT_LENGTH);
    }
    Ok(ResponseHead {
        status,
        headers,
        framing,
        persistence,
    })
}

/// The fields that are about the connection and not the response: read, and not passed on.
#[derive(Default)]
struct ConnectionFields {
    close: bool,
    upgrade: bool,
    upgrade_to: Option<HeaderValue>,
    nominated: Vec<HeaderName>,
    keep_alive: Option<Duration>,
    chunked: bool,
    length: Option<u64>,
}

/// Builds the header map with values that share the block's bytes.
fn collect<'a>(
    block: &Bytes,
    lines: impl Iterator<Item = (usize, &'a [u8])>,
    most: usize,
    connection: &mut ConnectionFields,
) -> Result<HeaderMap, &'static str> {
    let mut headers = HeaderMap::with_capacity(12);
    for (count, (at, line)) in lines.enumerate() {
        if count >= most {
            return Err("too many fields");
        }
        // A name that begins or ends in a blank, or a folded line, is no name.
        let colon = line
            .iter()
            .position(|byte| *byte == b':')
            .ok_or("a bad field name")?;
        let (name, value) = line.split_at_checked(colon).ok_or("a bad field name")?;
        let name = HeaderName::from_bytes(name).map_err(|_| "a bad field name")?;
        let value = value.get(1..).unwrap_or_default();
        let blank = |byte: &&u8| matches!(byte, b' ' | b'\t');
        let before = value.iter().take_while(blank).count();
        let after = value.iter().skip(before).rev().take_while(blank).count();
        let begin = at + colon + 1 + before;
        let value = block.slice(begin..begin + value.len() - before - after);
        let value = HeaderValue::from_maybe_shared(value).map_err(|_| "a bad field value")?;
        if connection.is_passed_on(&name, &value)? {
            headers.try_append(name, value).map_err(|_| "too many fields")?;
        }
    }
    Ok(headers)
}

impl ConnectionFields {
    fn is_passed_on(&mut self, name: &HeaderName, value: &HeaderValue) -> Result<bool, &'static str> {
        if name == CONTENT_LENGTH {
            if self.length.replace(decimal(value.as_bytes())?).is_some() {
                return Err("a repeated Content-Length");
            }
            return Ok(true);
        }
        if name == TRANSFER_ENCODING {
            self.read_transfer_encoding(value)?;
        } else if name == CONNECTION {
            self.read_connection(value);
        } else if name == UPGRADE {
            self.upgrade_to = Some(value.clone());
        } else if name == KEEP_ALIVE {
            self.keep_alive = keep_alive_timeout(value.as_bytes());
        } else {
            return Ok(name != PROXY_CONNECTION);
        }
        Ok(false)
    }

    fn read_transfer_encoding(&mut self, value: &HeaderValue) -> Result<(), &'static str> {
        if self.chunked || !value.as_bytes().eq_ignore_ascii_case(b"chunked") {
            return Err("a Transfer-Encoding other than chunked");
        }
        self.chunked = true;
        Ok(())
    }

    fn read_connection(&mut self, value: &HeaderValue) {
        for option in value.as_bytes().split(|byte| *byte == b',') {
            let option = option.trim_ascii();
            if option.eq_ignore_ascii_case(b"close") {
                self.close = true;
            } else if option.eq_ignore_ascii_case(b"upgrade") {
                self.upgrade = true;
            } else if let Ok(name) = HeaderName::from_bytes(option) {
                self.nominated.push(name);
            }
        }
    }

    /// RFC 9110, 7.6.1: fields that Connection names end here. Content-Length stays: the framing was decided with it.
    fn remove_nominated(&self, headers: &mut HeaderMap) {
        for name in self.nominated.iter().filter(|name| **name != CONTENT_LENGTH) {
            headers.remove(name);
        }
    }
}

fn framing(
    status: StatusCode,
    connection: &ConnectionFields,
    headers: &HeaderMap,
    minor_version: u8,
    asked: Asked,
) -> Result<Framing, &'static str> {
    if connection.chunked && headers.contains_key(CONTENT_LENGTH) {
        return Err("both Content-Length and Transfer-Encoding");
    }
    if connection.chunked && minor_version == 0 {
        return Err("Transfer-Encoding in HTTP/1.0");
    }
    let bodiless = asked.head_method
        || status.is_informational()
        || status == StatusCode::NO_CONTENT
        || status == StatusCode::NOT_MODIFIED;
    Ok(match connection.length {
        _ if bodiless => Framing::None,
        _ if connection.chunked => Framing::Chunked,
        Some(length) => Framing::Length(length),
        None => Framing::UntilClose,
    })
}

fn persistence(
    status: StatusCode,
    connection: &ConnectionFields,
    framing: Framing,
    minor_version: u8,
) -> Persistence {
    // A 204 that announces a body (RFC 9110, 8.6; RFC 9112, 6.1): a backend that means it would send it before the next response.
    let dubious = status == StatusCode::NO_CONTENT
        && (connection.chunked || connection.length.is_some_and(|length| length > 0));
    let close = connection.close || minor_version != 1 || framing == Framing::UntilClose || dubious;
    if close {
        Persistence::Close
    } else {
        Persistence::Keep(connection.keep_alive)
    }
}

fn accept_upgrade(
    headers: &mut HeaderMap,
    connection: &ConnectionFields,
    asked: Asked,
) -> Result<(), &'static str> {
    if !asked.websocket {
        return Err("a 101 that was not asked for");
    }
    let to = connection.upgrade_to.as_ref().map(HeaderValue::as_bytes);
    if !connection.upgrade || !to.is_some_and(|to| to.eq_ignore_ascii_case(b"websocket")) {
        return Err("a 101 without the upgrade that was asked for");
    }
    if connection.chunked || connection.length.is_some() {
        return Err("a 101 that announces a body");
    }
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    Ok(())
}

/// Digits alone: no sign, no list, no space (RFC 9110, 8.6).
fn decimal(value: &[u8]) -> Result<u64, &'static str> {
    const BAD: &str = "a bad Content-Length";
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return Err(BAD);
    }
    std::str::from_utf8(value)
        .ok()
        .and_then(|digits| digits.parse().ok())
        .ok_or(BAD)
}

fn keep_alive_timeout(value: &[u8]) -> Option<Duration> {
    value
        .split(|byte| *byte == b',')
        .find_map(|parameter| parameter.trim_ascii().strip_prefix(b"timeout="))
        .and_then(|seconds| decimal(seconds).ok())
        .map(Duration::from_secs)
}

/// The fields after the last chunk. Those that would change framing or routing are not trailers (RFC 9110, 6.5.1) and are dropped.
pub(super) fn parse_trailers(block: &Bytes) -> Result<HeaderMap, &'static str> {
    let mut connection = ConnectionFields::default();
    let mut trailers = collect(block, lines(block), MAX_TRAILERS, &mut connection)?;
    connection.remove_nominated(&mut trailers);
    trailers.remove(CONTENT_LENGTH);
    trailers.remove(http::header::HOST);
    Ok(trailers)
}
