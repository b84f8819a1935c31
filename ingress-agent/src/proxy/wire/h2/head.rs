//! From the fields of a header block to the head of a request (RFC 9113, 8.3), or to trailers. Pure.
//!
//! A head that is larger than allowed is still a request, with one field too many: the service refuses it with a reason, and what is
//! behind that field is read for the table's sake and forgotten.

use std::ops::Range;

use http::{HeaderMap, Method};
use ingress_core::fields::{Block, FieldLine, Fields, HeadText};

use super::hpack::{Field, Kind};
use crate::proxy::message;
use crate::proxy::wire::Limits;

/// Gathers the fields of one block.
pub(super) struct Head<'a> {
    limits: &'a Limits,
    method: Option<Method>,
    has_scheme: bool,
    authority: Option<Range<usize>>,
    path: Option<Range<usize>>,
    /// What the pseudo-header fields say, then the others as HTTP/1.1 has them, so that they can go on as they are.
    text: Vec<u8>,
    lines: Vec<FieldLine>,
    bytes: usize,
    full: bool,
    malformed: Option<&'static str>,
}

/// A request's head, and the length of its body as far as it is announced.
pub struct Asked {
    pub head: Box<message::Head>,
    pub length: Option<u64>,
}

/// A request that breaks RFC 9113 8.1: its stream ends with PROTOCOL_ERROR. The text says how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

impl<'a> Head<'a> {
    pub(super) fn new(limits: &'a Limits) -> Self {
        Self {
            limits,
            method: None,
            has_scheme: false,
            authority: None,
            path: None,
            text: Vec::with_capacity(512),
            lines: Vec::with_capacity(16),
            bytes: 0,
            full: false,
            malformed: None,
        }
    }

    /// The next field, and the bytes of its name and value.
    pub(super) fn take(&mut self, field: Field<'_>, bytes: usize) {
        // Nothing will be made of it: what still comes is read for the table's sake and takes no memory.
        if self.malformed.is_some() {
            return;
        }
        let once = match field.kind {
            Kind::Header => return self.header(field, bytes),
            Kind::Malformed(how) => return self.malformed(how),
            Kind::Method => {
                let before = self.method.take();
                self.method = Method::from_bytes(field.value).ok();
                before.is_none()
            }
            Kind::Scheme => !std::mem::replace(&mut self.has_scheme, true),
            Kind::Authority => {
                let place = self.put(field.value);
                self.authority.replace(place).is_none()
            }
            Kind::Path => {
                let place = self.put(field.value);
                self.path.replace(place).is_none()
            }
        };
        if !once || !self.lines.is_empty() {
            self.malformed("a pseudo-header field twice, or behind other fields");
        }
    }

    fn header(&mut self, field: Field<'_>, bytes: usize) {
        let Field { name, value, .. } = field;
        if name == b"te" && !value.eq_ignore_ascii_case(b"trailers") {
            return self.malformed("te may only name trailers");
        }
        if self.full {
            return;
        }
        self.bytes = self.bytes.saturating_add(bytes).saturating_add(4);
        let name = self.put(name);
        self.text.extend_from_slice(b": ");
        let value = self.put(value);
        self.text.extend_from_slice(b"\r\n");
        let line = FieldLine::new(name, value).never_indexed(field.never_indexed);
        self.lines.push(line);
        self.full = self.bytes > self.limits.head_bytes || self.lines.len() > self.limits.head_fields;
    }

    /// Where it stands now.
    fn put(&mut self, text: &[u8]) -> Range<usize> {
        let start = self.text.len();
        self.text.extend_from_slice(text);
        start..self.text.len()
    }

    fn malformed(&mut self, how: &'static str) {
        self.malformed.get_or_insert(how);
    }

    /// The block was a request's head.
    pub(super) fn request(self) -> Result<Asked, Malformed> {
        if let Some(how) = self.malformed {
            return Err(Malformed(how));
        }
        let method = self.method.ok_or(Malformed("no method"))?;
        let block: Block = self.text.into();
        let path = match method {
            Method::CONNECT => None,
            _ if !self.has_scheme => return Err(Malformed("no scheme")),
            _ => Some(text(&block, self.path.ok_or(Malformed("no path"))?)?),
        };
        let authority = self.authority.map(|place| text(&block, place)).transpose()?;
        let fields = Fields::of_lines(block, self.lines);
        let length = content_length(&fields)?;
        let head = message::Head::of_http2(method, (authority, path), fields);
        Ok(Asked {
            head: Box::new(head),
            length,
        })
    }

    /// The block was what follows a body.
    pub(super) fn trailers(self) -> Result<HeaderMap, Malformed> {
        let has_pseudo =
            self.method.is_some() || self.has_scheme || self.authority.is_some() || self.path.is_some();
        match self.malformed {
            Some(how) => Err(Malformed(how)),
            None if has_pseudo => Err(Malformed("a pseudo-header field in trailers")),
            None if self.full => Err(Malformed("trailers are larger than allowed")),
            None => Ok((&Fields::of_lines(self.text.into(), self.lines)).into()),
        }
    }
}

/// Of what was judged before; a path may hold what the service refuses with an answer.
fn text(block: &Block, place: Range<usize>) -> Result<HeadText, Malformed> {
    let odd = || {
        std::str::from_utf8(block.get(place.clone())?)
            .ok()
            .map(HeadText::copied)
    };
    let text = HeadText::new(block, place.clone()).or_else(odd);
    text.ok_or(Malformed("no valid target"))
}

/// One plain number, or none (RFC 9110, 8.6).
fn content_length(fields: &Fields) -> Result<Option<u64>, Malformed> {
    const HOW: Malformed = Malformed("a content-length that is not one number");
    let mut lengths = fields.get_all("content-length");
    let Some(digits) = lengths.next() else {
        return Ok(None);
    };
    if lengths.next().is_some() || digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return Err(HOW);
    }
    let length = std::str::from_utf8(digits)
        .ok()
        .and_then(|digits| digits.parse().ok());
    length.map(Some).ok_or(HOW)
}
