//! The writing side of an HTTP/1 connection: one response, gathered into as few writes as possible.

use std::fmt;
use std::io::{self, IoSlice, Write as _};
use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use http::header::CONNECTION;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use http_body::Body;
use ingress_core::fields::{Fields, write_field, write_number};

use super::inbound::Wire;
use super::request::Asked;
use crate::proxy::message::Response;
use crate::proxy::wire::gate::answer::with_date;

/// Data up to here is copied behind the head instead of written from its own place.
const COPIED: usize = 2 * 1024;
/// More than this is written before the body is asked for more.
const GATHERED: usize = 64 * 1024;

/// How the client finds the end of the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Framing {
    /// What is left of an announced length.
    Length(u64),
    Chunked,
    UntilClose,
    /// Whatever there is of it stays here: HEAD, 204, 304.
    Nothing,
}

/// One response on its way out.
pub(super) struct Outbound<B> {
    body: Option<B>,
    framing: Framing,
    /// Names that may be sent as trailers.
    trailers: Option<Vec<HeaderName>>,
    /// Written after the connection's `out`, and before `tail`.
    data: Bytes,
    tail: &'static [u8],
    /// The connection ends after this response.
    pub(super) close: bool,
}

impl<B> Outbound<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: fmt::Display,
{
    /// Queues the head, and so much of the body as is there.
    pub(super) fn new(wire: &mut Wire, asked: Asked, response: Response<B>) -> Self {
        let Response {
            status,
            mut fields,
            body,
        } = response;
        let switches = status == StatusCode::SWITCHING_PROTOCOLS;
        let framing = framing(status, asked, &body);
        let close = !switches && (asked.close || says_close(&fields) || framing == Framing::UntilClose);
        if asked.http10 && !close && !switches {
            fields.insert(CONNECTION, HeaderValue::from_static("keep-alive"));
        } else if close && !asked.http10 {
            fields.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        wire.queue_informational();
        write_head(&mut wire.out, (status, &fields), asked, framing);
        let sends_trailers = framing == Framing::Chunked && asked.takes_trailers;
        Self {
            body: is_awaited(framing, &body).then_some(body),
            framing,
            trailers: sends_trailers.then(|| announced_trailers(&fields)),
            data: Bytes::new(),
            tail: b"",
            close,
        }
        .ended_if_empty(wire)
    }

    fn ended_if_empty(mut self, wire: &mut Wire) -> Self {
        if self.body.is_none() && self.framing == Framing::Chunked {
            wire.out.extend_from_slice(b"0\r\n\r\n");
        }
        if self.body.is_none() {
            self.framing = Framing::Nothing;
        }
        self
    }

    /// The body's next frame is queued when it is there; Pending when it has to be waited for.
    ///
    /// # Errors
    /// When the body breaks off, or isn't as long as was said: then the connection must not end cleanly.
    pub(super) fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<BodyFrame>>> {
        let Some(body) = &mut self.body else {
            return Poll::Ready(Ok(None));
        };
        match ready!(Pin::new(body).poll_frame(cx)) {
            Some(Ok(frame)) => Poll::Ready(Ok(Some(match frame.into_data() {
                Ok(data) => BodyFrame::Data(data),
                Err(frame) => BodyFrame::Trailers(frame.into_trailers().unwrap_or_default()),
            }))),
            Some(Err(error)) => Poll::Ready(Err(io::Error::other(error.to_string()))),
            None => {
                self.body = None;
                Poll::Ready(Ok(Some(BodyFrame::End)))
            }
        }
    }

    pub(super) fn queue(&mut self, wire: &mut Wire, frame: BodyFrame) -> io::Result<()> {
        match (frame, &mut self.framing) {
            (BodyFrame::Data(data), _) if data.is_empty() => {}
            (BodyFrame::Data(data), Framing::Length(left)) => {
                *left = left.checked_sub(data.len() as u64).ok_or_else(|| {
                    io::Error::other("the response's body is longer than its Content-Length")
                })?;
                // Asking once more would only tell what is known; a body that isn't asked must not be held either.
                if *left == 0 {
                    self.body = None;
                }
                self.queue_data(wire, data);
            }
            (BodyFrame::Data(data), Framing::Chunked) => {
                // Writing to a Vec cannot fail.
                let _ = write!(wire.out, "{:x}\r\n", data.len());
                self.tail = b"\r\n";
                self.queue_data(wire, data);
            }
            (BodyFrame::Data(data), _) => self.queue_data(wire, data),
            (BodyFrame::Trailers(trailers), Framing::Chunked) => {
                self.body = None;
                self.queue_end(wire, &trailers);
            }
            (BodyFrame::End, Framing::Chunked) => self.queue_end(wire, &HeaderMap::new()),
            (BodyFrame::End | BodyFrame::Trailers(_), Framing::Length(1..)) => {
                return Err(io::Error::other(
                    "the response's body is shorter than its Content-Length",
                ));
            }
            (BodyFrame::Trailers(_), _) => self.body = None,
            (BodyFrame::End, _) => {}
        }
        Ok(())
    }

    fn queue_data(&mut self, wire: &mut Wire, data: Bytes) {
        if data.len() > COPIED {
            self.data = data;
            return;
        }
        wire.out.extend_from_slice(&data);
        wire.out.extend_from_slice(mem::take(&mut self.tail));
    }

    fn queue_end(&self, wire: &mut Wire, trailers: &HeaderMap) {
        wire.out.extend_from_slice(b"0\r\n");
        for (name, value) in trailers {
            if self.trailers.as_ref().is_some_and(|names| names.contains(name)) {
                write_field(&mut wire.out, name.as_str().as_bytes(), value.as_bytes());
            }
        }
        wire.out.extend_from_slice(b"\r\n");
    }

    /// Nothing but the connection's end tells the client that this was all.
    pub(super) fn ends_with_connection(&self) -> bool {
        self.framing == Framing::UntilClose
    }

    /// The whole body is queued or written.
    pub(super) fn is_complete(&self) -> bool {
        self.body.is_none()
    }

    /// Whether the body may be asked for more before what is queued is written.
    pub(super) fn has_room(&self, wire: &Wire) -> bool {
        self.data.is_empty() && self.tail.is_empty() && wire.out.len() < GATHERED
    }

    /// Writes all that is queued.
    pub(super) fn poll_write(&mut self, wire: &mut Wire, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.data.is_empty() && self.tail.is_empty() {
            return wire.poll_out(cx);
        }
        loop {
            let front = wire.out.get(wire.written..).unwrap_or_default();
            let left = front.len() + self.data.len() + self.tail.len();
            if left == 0 {
                break;
            }
            wire.unflushed = true;
            let slices = [front, &self.data, self.tail].map(IoSlice::new);
            let written = ready!(wire.t.poll_write(cx, &slices))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.advance(wire, written);
        }
        wire.out.clear();
        wire.written = 0;
        wire.poll_out(cx)
    }

    fn advance(&mut self, wire: &mut Wire, written: usize) {
        let front = written.min(wire.out.len() - wire.written);
        wire.written += front;
        let data = (written - front).min(self.data.len());
        self.data.advance(data);
        if self.data.is_empty() {
            // Lets go of the backend's buffer.
            drop(mem::take(&mut self.data));
        }
        self.tail = self.tail.get(written - front - data..).unwrap_or_default();
    }
}

pub(super) enum BodyFrame {
    Data(Bytes),
    Trailers(HeaderMap),
    End,
}

fn says_close(fields: &Fields) -> bool {
    fields
        .members("connection")
        .any(|option| option.eq_ignore_ascii_case(b"close"))
}

/// RFC 9112, 6.3.
fn framing(status: StatusCode, asked: Asked, body: &impl Body) -> Framing {
    if asked.is_head
        || status == StatusCode::NO_CONTENT
        || status == StatusCode::NOT_MODIFIED
        || status.is_informational()
    {
        return Framing::Nothing;
    }
    match body.size_hint().exact() {
        Some(length) => Framing::Length(length),
        None if asked.http10 => Framing::UntilClose,
        None => Framing::Chunked,
    }
}

/// A body that has ended although it was to have a length is asked all the same: it has to say that it broke off.
fn is_awaited(framing: Framing, body: &impl Body) -> bool {
    match framing {
        Framing::Nothing => false,
        Framing::Length(1..) => true,
        Framing::Length(0) | Framing::Chunked | Framing::UntilClose => !body.is_end_stream(),
    }
}

fn announced_trailers(fields: &Fields) -> Vec<HeaderName> {
    fields
        .members("trailer")
        .filter_map(|name| HeaderName::from_bytes(name).ok())
        .filter(|name| !crate::proxy::wire::h1::is_forbidden_trailer(name.as_str()))
        .collect()
}

fn write_head(out: &mut Vec<u8>, (status, fields): (StatusCode, &Fields), asked: Asked, framing: Framing) {
    out.reserve(512);
    write_status_line(out, status, asked);
    fields.write(out, is_framing);
    match framing {
        Framing::Length(length) => write_length(out, length),
        Framing::Chunked => out.extend_from_slice(b"transfer-encoding: chunked\r\n"),
        // Only where there is no body is the field a statement of its own (RFC 9110, 8.6).
        Framing::Nothing if status != StatusCode::NO_CONTENT && !status.is_informational() => {
            if let Some(length) = fields.get("content-length") {
                write_field(out, b"content-length", length);
            }
        }
        Framing::UntilClose | Framing::Nothing => {}
    }
    if !status.is_informational() && !fields.contains("date") {
        with_date(|date| write_field(out, b"date", date));
    }
    out.extend_from_slice(b"\r\n");
}

fn write_status_line(out: &mut Vec<u8>, status: StatusCode, asked: Asked) {
    if status == StatusCode::OK && !asked.http10 {
        return out.extend_from_slice(b"HTTP/1.1 200 OK\r\n");
    }
    out.extend_from_slice(if asked.http10 { b"HTTP/1.0 " } else { b"HTTP/1.1 " });
    out.extend_from_slice(status.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(status.canonical_reason().unwrap_or_default().as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// What the body says counts, and not what a field says of it.
fn is_framing(name: &[u8]) -> bool {
    match name.len() {
        14 => name.eq_ignore_ascii_case(b"content-length"),
        17 => name.eq_ignore_ascii_case(b"transfer-encoding"),
        _ => false,
    }
}

fn write_length(out: &mut Vec<u8>, length: u64) {
    out.extend_from_slice(b"content-length: ");
    write_number(out, length);
    out.extend_from_slice(b"\r\n");
}
