//! The response head of HTTP/1.1, strictly (RFC 9112): everything that two readers could understand differently is refused.
//!
//! Pure: bytes in, head or reason out. The lines are read as those of requests are ([`h1::field`]); framing is checked here.

use std::time::Duration;

use bytes::{Buf, BytesMut};
use http::header::{CONNECTION, UPGRADE};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use ingress_core::fields::{Block, FieldLine, Fields};

use crate::proxy::wire::h1::{self, Field};

/// Largest head, status line included, in bytes.
pub(super) const MAX_HEAD: usize = 64 * 1024;
/// Most fields in one head.
pub(super) const MAX_FIELDS: usize = 200;
/// Most fields after a body.
const MAX_TRAILERS: usize = 64;

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
    pub(super) fields: Fields,
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
                return Err(BARE_LINE_FEED);
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

/// Reads a head that may arrive in pieces. Lines that were read are not looked at again.
#[derive(Debug, Default)]
pub(super) struct HeadReader {
    /// Where the present line begins.
    at: usize,
    /// How far the present line was looked at.
    scanned: usize,
    /// Minor version and status.
    status: Option<(u8, StatusCode)>,
    fields: FieldReader,
}

/// Takes a whole head off the front of `buffer`, or says that there is more to come.
pub(super) fn take_head(
    buffer: &mut BytesMut,
    reader: &mut HeadReader,
    asked: Asked,
) -> Result<Option<ResponseHead>, &'static str> {
    let Some(end) = reader.advance(buffer)? else {
        return Ok(None);
    };
    let block = Block::from(buffer.get(..end).unwrap_or_default());
    buffer.advance(block.len());
    std::mem::take(reader).conclude(block, asked).map(Some)
}

impl HeadReader {
    /// The head's length, once all of it is there and read.
    fn advance(&mut self, head: &[u8]) -> Result<Option<usize>, &'static str> {
        const START: &[u8] = b"HTTP/";
        let window = head.get(..MAX_HEAD).unwrap_or(head);
        let new = window.get(self.scanned..).unwrap_or_default();
        // A long line that comes byte by byte is looked at again only when it ends: no quadratic work.
        let goes_on = self.scanned.saturating_sub(self.at) > LONG_LINE
            && head.len() <= MAX_HEAD
            && line_feed(new).is_none();
        self.scanned = window.len();
        if self.status.is_none() && head.iter().zip(START).any(|(is, must)| is != must) {
            return Err("not an HTTP/1.x status line");
        }
        let ended =
            !goes_on && self.read_status(window)? && self.fields.read(window, &mut self.at, MAX_FIELDS)?;
        if ended {
            return Ok(Some(self.at));
        }
        if head.len() > MAX_HEAD {
            return Err("the head is too large");
        }
        Ok(None)
    }

    /// Whether the status line is there.
    fn read_status(&mut self, head: &[u8]) -> Result<bool, &'static str> {
        if self.status.is_some() {
            return Ok(true);
        }
        let Some(end) = line_feed(head) else {
            return Ok(false);
        };
        let line = head.get(..end).unwrap_or_default();
        let line = line.strip_suffix(b"\r").ok_or(BARE_LINE_FEED)?;
        self.status = Some(status_line(line)?);
        self.at = end.saturating_add(1);
        Ok(true)
    }

    fn conclude(self, block: Block, asked: Asked) -> Result<ResponseHead, &'static str> {
        let (minor_version, status) = self.status.ok_or("an empty head")?;
        let FieldReader {
            lines, connection, ..
        } = self.fields;
        let mut fields = Fields::of_lines(block, lines);
        let framing = framing(status, &connection, minor_version, asked)?;
        let persistence = persistence(status, &connection, framing, minor_version);
        if status == StatusCode::SWITCHING_PROTOCOLS {
            accept_upgrade(&mut fields, &connection, asked)?;
        } else {
            connection.remove_nominated(&mut fields);
        }
        // RFC 9110, 8.6: neither has content, and neither may say otherwise.
        if status == StatusCode::NO_CONTENT || status.is_informational() {
            fields.remove("content-length");
        }
        Ok(ResponseHead {
            status,
            fields,
            framing,
            persistence,
        })
    }
}

/// The fields of a block, line by line.
#[derive(Debug, Default)]
struct FieldReader {
    /// All that were read, those that are not passed on too.
    count: usize,
    lines: Vec<FieldLine>,
    connection: ConnectionFields,
}

impl FieldReader {
    /// Reads from `at` on as many lines as are there; whether the empty one that ends them is.
    fn read(&mut self, block: &[u8], at: &mut usize, most: usize) -> Result<bool, &'static str> {
        loop {
            let line = block.get(*at..).unwrap_or_default();
            let (field, used) = match h1::field(line).map_err(|refusal| refusal.detail)? {
                None => return Ok(false),
                Some(read) => read,
            };
            let start = *at;
            *at = start.saturating_add(used);
            let Field::Pair(name, value) = field else {
                return Ok(true);
            };
            if self.count >= most {
                return Err("too many fields");
            }
            self.count = self.count.saturating_add(1);
            let trimmed = h1::trim(value);
            if self.connection.is_passed_on(name, trimmed)? {
                if self.lines.is_empty() {
                    self.lines.reserve(12);
                }
                self.lines.push(h1::place(start, (name, value, trimmed)));
            }
        }
    }
}

const BARE_LINE_FEED: &str = "a line ends without a carriage return";
/// Up to here an incomplete line is looked at anew at each read.
const LONG_LINE: usize = 1024;

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

/// The fields that are about the connection and not the response: read, and not passed on.
#[derive(Debug, Default)]
struct ConnectionFields {
    close: bool,
    upgrade: bool,
    /// The one protocol is `websocket`.
    to_websocket: bool,
    nominated: Vec<String>,
    keep_alive: Option<Duration>,
    chunked: bool,
    length: Option<u64>,
}

impl ConnectionFields {
    fn is_passed_on(&mut self, name: &[u8], value: &[u8]) -> Result<bool, &'static str> {
        let is = |known: &[u8]| name.eq_ignore_ascii_case(known);
        match name.len() {
            14 if is(b"content-length") => {
                if self.length.replace(decimal(value)?).is_some() {
                    return Err("a repeated Content-Length");
                }
                return Ok(true);
            }
            17 if is(b"transfer-encoding") => self.read_transfer_encoding(value)?,
            10 if is(b"connection") => self.read_connection(value)?,
            7 if is(b"upgrade") => self.to_websocket = value.eq_ignore_ascii_case(b"websocket"),
            10 if is(b"keep-alive") => self.keep_alive = keep_alive_timeout(value),
            16 if is(b"proxy-connection") => {}
            _ => return Ok(true),
        }
        Ok(false)
    }

    fn read_transfer_encoding(&mut self, value: &[u8]) -> Result<(), &'static str> {
        if self.chunked || !value.eq_ignore_ascii_case(b"chunked") {
            return Err("a Transfer-Encoding other than chunked");
        }
        self.chunked = true;
        Ok(())
    }

    fn read_connection(&mut self, value: &[u8]) -> Result<(), &'static str> {
        for option in value.split(|byte| *byte == b',') {
            let option = option.trim_ascii();
            if option.eq_ignore_ascii_case(b"close") {
                self.close = true;
            } else if option.eq_ignore_ascii_case(b"upgrade") {
                self.upgrade = true;
            } else if option.eq_ignore_ascii_case(b"keep-alive") {
                // A field of this name is not passed on anyway.
            } else if self.nominated.len() >= h1::MOST_CONNECTION_OPTIONS {
                return Err("too many names in Connection");
            } else if let Ok(name) = std::str::from_utf8(option) {
                self.nominated.push(name.to_owned());
            }
        }
        Ok(())
    }

    /// RFC 9110, 7.6.1: fields that Connection names end here. Content-Length stays: the framing was decided with it.
    fn remove_nominated(&self, fields: &mut Fields) {
        let length = |name: &&String| name.eq_ignore_ascii_case("content-length");
        for name in self.nominated.iter().filter(|name| !length(name)) {
            fields.remove(name);
        }
    }
}

fn framing(
    status: StatusCode,
    connection: &ConnectionFields,
    minor_version: u8,
    asked: Asked,
) -> Result<Framing, &'static str> {
    if connection.chunked && connection.length.is_some() {
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
    fields: &mut Fields,
    connection: &ConnectionFields,
    asked: Asked,
) -> Result<(), &'static str> {
    if !asked.websocket {
        return Err("a 101 that was not asked for");
    }
    if !connection.upgrade || !connection.to_websocket {
        return Err("a 101 without the upgrade that was asked for");
    }
    if connection.chunked || connection.length.is_some() {
        return Err("a 101 that announces a body");
    }
    fields.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    fields.insert(UPGRADE, HeaderValue::from_static("websocket"));
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
pub(super) fn parse_trailers(block: &[u8]) -> Result<HeaderMap, &'static str> {
    let mut reader = FieldReader::default();
    if !reader.read(block, &mut 0, MAX_TRAILERS)? {
        return Err("trailers without an end");
    }
    let mut trailers = Fields::of_lines(block.into(), reader.lines);
    reader.connection.remove_nominated(&mut trailers);
    trailers.remove("content-length");
    trailers.remove("host");
    Ok((&trailers).into())
}
