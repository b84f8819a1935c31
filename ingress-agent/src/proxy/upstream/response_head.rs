//! The response head of HTTP/1.1, strictly (RFC 9112): everything that two readers could understand differently is refused.
//!
//! Pure: bytes in, head or reason out. httparse splits and checks the characters; line ends and framing are checked here.

use std::mem::MaybeUninit;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};

/// Largest head, status line included, in bytes.
pub(super) const MAX_HEAD: usize = 64 * 1024;
/// Most fields in one head.
pub(super) const MAX_FIELDS: usize = 200;

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
        while let Some(offset) = buffer
            .get(self.seen..)
            .and_then(|rest| rest.iter().position(|byte| *byte == b'\n'))
        {
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

fn parse(head: &Bytes, asked: Asked) -> Result<ResponseHead, &'static str> {
    let mut fields = [const { MaybeUninit::uninit() }; MAX_FIELDS];
    let mut response = httparse::Response::new(&mut []);
    let parsed = httparse::ParserConfig::default()
        .parse_response_with_uninit_headers(&mut response, head, &mut fields)
        .map_err(parse_error)?;
    if parsed != httparse::Status::Complete(head.len()) {
        return Err("an incomplete head");
    }
    let status = response
        .code
        .and_then(|code| StatusCode::from_u16(code).ok())
        .ok_or("a status code that is none")?;
    let mut connection = ConnectionFields::default();
    let mut headers = collect(head, response.headers, &mut connection)?;
    let framing = framing(status, &connection, &headers, response.version, asked)?;
    let persistence = persistence(status, &connection, framing, response.version);
    if status == StatusCode::SWITCHING_PROTOCOLS {
        accept_upgrade(&mut headers, &connection, asked)?;
    } else {
        connection.remove_nominated(&mut headers);
    }
    if status == StatusCode::NO_CONTENT {
        headers.remove(CONTENT_LENGTH);
    }
    Ok(ResponseHead {
        status,
        headers,
        framing,
        persistence,
    })
}

fn parse_error(error: httparse::Error) -> &'static str {
    match error {
        httparse::Error::HeaderName => "a bad field name",
        httparse::Error::HeaderValue => "a bad field value",
        httparse::Error::NewLine => "a bad line end",
        httparse::Error::Status => "a bad status line",
        httparse::Error::TooManyHeaders => "too many fields",
        httparse::Error::Version => "an unknown HTTP version",
        httparse::Error::Token => "a bad character in the status line",
    }
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

/// Builds the header map with values that share the head's bytes.
fn collect(
    head: &Bytes,
    fields: &[httparse::Header<'_>],
    connection: &mut ConnectionFields,
) -> Result<HeaderMap, &'static str> {
    let mut headers = HeaderMap::with_capacity(fields.len());
    for field in fields {
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| "a bad field name")?;
        let value =
            HeaderValue::from_maybe_shared(head.slice_ref(field.value)).map_err(|_| "a bad field value")?;
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
    minor_version: Option<u8>,
    asked: Asked,
) -> Result<Framing, &'static str> {
    if connection.chunked && headers.contains_key(CONTENT_LENGTH) {
        return Err("both Content-Length and Transfer-Encoding");
    }
    if connection.chunked && minor_version == Some(0) {
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
    minor_version: Option<u8>,
) -> Persistence {
    // A 204 that announces a body (RFC 9110, 8.6; RFC 9112, 6.1): a backend that means it would send it before the next response.
    let dubious = status == StatusCode::NO_CONTENT
        && (connection.chunked || connection.length.is_some_and(|length| length > 0));
    let close = connection.close || minor_version != Some(1) || framing == Framing::UntilClose || dubious;
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
    let mut fields = [httparse::EMPTY_HEADER; 64];
    let (length, fields) = match httparse::parse_headers(block, &mut fields).map_err(parse_error)? {
        httparse::Status::Complete(done) => done,
        httparse::Status::Partial => return Err("incomplete trailers"),
    };
    if length != block.len() {
        return Err("bytes after the trailers");
    }
    let mut connection = ConnectionFields::default();
    let mut trailers = collect(block, fields, &mut connection)?;
    connection.remove_nominated(&mut trailers);
    trailers.remove(CONTENT_LENGTH);
    trailers.remove(http::header::HOST);
    Ok(trailers)
}
