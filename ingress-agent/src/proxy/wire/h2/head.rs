//! From the fields of a header block to the head of a request (RFC 9113, 8.3), or to trailers. Pure.
//!
//! A head that is larger than allowed is still a request, with one field too many: the service refuses it with a reason, and what is
//! behind that field is read for the table's sake and forgotten.

use http::header::{CONTENT_LENGTH, TE};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, Version};

use super::hpack::Field;
use crate::proxy::wire::Limits;

/// Gathers the fields of one block.
pub(super) struct Head<'a> {
    limits: &'a Limits,
    method: Option<Method>,
    scheme: Option<Scheme>,
    authority: Option<Authority>,
    path: Option<PathAndQuery>,
    headers: HeaderMap,
    bytes: usize,
    full: bool,
    malformed: Option<&'static str>,
}

/// A request's head, and the length of its body as far as it is announced.
#[derive(Debug)]
pub struct Asked {
    pub request: Request<()>,
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
            scheme: None,
            authority: None,
            path: None,
            headers: HeaderMap::with_capacity(16),
            bytes: 0,
            full: false,
            malformed: None,
        }
    }

    /// The next field, and the bytes of its name and value.
    pub(super) fn take(&mut self, field: &Field, bytes: usize) {
        let once = match field {
            Field::Header(name, value) => return self.header(name, value, bytes),
            Field::Malformed(how) => return self.malformed(how),
            Field::Method(method) => put(&mut self.method, method),
            Field::Scheme(scheme) => put(&mut self.scheme, scheme),
            Field::Authority(authority) => put(&mut self.authority, authority),
            Field::Path(path) => put(&mut self.path, path),
        };
        if !once || !self.headers.is_empty() {
            self.malformed("a pseudo-header field twice, or behind other fields");
        }
    }

    fn header(&mut self, name: &HeaderName, value: &HeaderValue, bytes: usize) {
        if *name == TE && !value.as_bytes().eq_ignore_ascii_case(b"trailers") {
            return self.malformed("te may only name trailers");
        }
        if self.full {
            return;
        }
        self.bytes = self.bytes.saturating_add(bytes).saturating_add(4);
        let kept = self.headers.try_append(name, value.clone()).is_ok();
        self.full =
            !kept || self.bytes > self.limits.head_bytes || self.headers.len() > self.limits.head_fields;
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
        let length = content_length(&self.headers)?;
        let mut uri = http::uri::Parts::default();
        if method != Method::CONNECT {
            let scheme = self.scheme.ok_or(Malformed("no scheme"))?;
            let path = self.path.ok_or(Malformed("no path"))?;
            // Without an authority a scheme cannot be told; Host stands in then.
            uri.scheme = self.authority.is_some().then_some(scheme);
            uri.path_and_query = Some(path);
        }
        uri.authority = self.authority;
        let mut request = Request::new(());
        *request.method_mut() = method;
        *request.uri_mut() = Uri::from_parts(uri).map_err(|_| Malformed("no valid target"))?;
        *request.version_mut() = Version::HTTP_2;
        *request.headers_mut() = self.headers;
        Ok(Asked { request, length })
    }

    /// The block was what follows a body.
    pub(super) fn trailers(self) -> Result<HeaderMap, Malformed> {
        let has_pseudo =
            self.method.is_some() || self.scheme.is_some() || self.authority.is_some() || self.path.is_some();
        match self.malformed {
            Some(how) => Err(Malformed(how)),
            None if has_pseudo => Err(Malformed("a pseudo-header field in trailers")),
            None if self.full => Err(Malformed("trailers are larger than allowed")),
            None => Ok(self.headers),
        }
    }
}

/// False when something was there already.
fn put<T: Clone>(place: &mut Option<T>, value: &T) -> bool {
    place.replace(value.clone()).is_none()
}

/// One plain number, or none (RFC 9110, 8.6).
fn content_length(headers: &HeaderMap) -> Result<Option<u64>, Malformed> {
    const HOW: Malformed = Malformed("a content-length that is not one number");
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    let Some(length) = lengths.next() else {
        return Ok(None);
    };
    let digits = length.as_bytes();
    if lengths.next().is_some() || digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return Err(HOW);
    }
    let length = std::str::from_utf8(digits)
        .ok()
        .and_then(|digits| digits.parse().ok());
    length.map(Some).ok_or(HOW)
}
