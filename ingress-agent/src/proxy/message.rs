//! A request's head and a response as the proxy handles them, whatever HTTP they came by.
//!
//! Owns their shape alone; knows nothing of connections or routes. HTTP/2 backends are asked with the `http` crate's types: the way from
//! those to these is here.

use std::ops::Range;

use http::{Method, StatusCode, Version};
use ingress_core::fields::{Block, Fields, HeadText};

/// What a client asks for.
pub struct Head {
    pub method: Method,
    pub version: Version,
    /// `:authority`, or that of an absolute-form target.
    pub authority: Option<HeadText>,
    target: Option<HeadText>,
    pub fields: Fields,
}

impl Head {
    /// `target` is where in the fields' block the request target stands; `None` when it has a byte that no target has.
    pub fn new(
        (method, version): (Method, Version),
        (block, target): (&Block, Range<usize>),
        fields: Fields,
    ) -> Option<Self> {
        let (authority, path) = split_target(block.get(target.clone())?);
        let place = |part: Range<usize>| {
            let start = target.start.saturating_add(part.start);
            HeadText::new(block, start..target.start.saturating_add(part.end))
        };
        Some(Self {
            method,
            version,
            authority: match authority {
                Some(authority) => Some(place(authority)?),
                None => None,
            },
            target: Some(place(path)?),
            fields,
        })
    }

    /// Of an HTTP/2 head: where in the fields' block `:authority` and `:path` stand, as far as there are any.
    pub fn of_http2(
        method: Method,
        (authority, path): (Option<HeadText>, Option<HeadText>),
        fields: Fields,
    ) -> Self {
        Self {
            method,
            version: Version::HTTP_2,
            authority,
            target: path,
            fields,
        }
    }

    /// Path and query as the client wrote them, or `*`. An absolute target may have a query and no path (RFC 9110, 4.2.3).
    pub fn target(&self) -> &str {
        match self.target.as_ref().map(HeadText::as_str) {
            None | Some("") => "/",
            Some(target) => target,
        }
    }

    pub fn target_bytes(&self) -> &[u8] {
        match self.target.as_ref().map(HeadText::as_bytes) {
            None | Some(b"") => b"/",
            Some(target) => target,
        }
    }

    /// The same to keep, in origin form: with the path that RFC 9112, 3.2.1 wants. `None` where there is nothing but a `/`.
    pub fn origin_form(&self) -> Option<HeadText> {
        match self.target_bytes() {
            b"/" => None,
            [b'?', ..] => Some(HeadText::copied(&format!("/{}", self.target()))),
            _ => self.target.clone(),
        }
    }

    #[cfg(test)]
    pub(crate) fn into_http<B>(self, body: B) -> http::Request<B> {
        let mut uri = http::Uri::builder().path_and_query(self.target());
        if let Some(authority) = &self.authority {
            uri = uri.scheme("http").authority(authority.as_bytes());
        }
        let mut request = http::Request::new(body);
        *request.uri_mut() = uri.build().unwrap();
        *request.method_mut() = self.method;
        *request.version_mut() = self.version;
        *request.headers_mut() = (&self.fields).into();
        request
    }

    /// The host as the client wrote it; `Host` where the target names none.
    pub fn host(&self) -> Option<&[u8]> {
        match &self.authority {
            Some(authority) => Some(authority.as_bytes()),
            None => self.fields.get("host"),
        }
    }
}

/// Authority and path of an absolute target (RFC 9112, 3.2.2), or the path that all of it is.
fn split_target(target: &[u8]) -> (Option<Range<usize>>, Range<usize>) {
    let whole = 0..target.len();
    if matches!(target, [b'/' | b'*', ..] | []) {
        return (None, whole);
    }
    let Some(colon) = target.windows(3).position(|three| three == b"://") else {
        return (None, whole);
    };
    let start = colon.saturating_add(3);
    let after = target.get(start..).unwrap_or_default();
    let length = after.iter().position(|byte| matches!(byte, b'/' | b'?'));
    let end = length.map_or(target.len(), |length| start.saturating_add(length));
    (Some(start..end), end..target.len())
}

/// What a client or a backend gets as an answer.
#[derive(Debug)]
pub struct Response<B> {
    pub status: StatusCode,
    pub fields: Fields,
    pub body: B,
}

impl<B> Response<B> {
    pub fn new(status: StatusCode, body: B) -> Self {
        Self {
            status,
            fields: Fields::default(),
            body,
        }
    }

    pub fn map<C>(self, change: impl FnOnce(B) -> C) -> Response<C> {
        Response {
            status: self.status,
            fields: self.fields,
            body: change(self.body),
        }
    }
}

#[cfg(test)]
impl<B> From<Response<B>> for http::Response<B> {
    fn from(response: Response<B>) -> Self {
        let mut http = Self::new(response.body);
        *http.status_mut() = response.status;
        *http.headers_mut() = (&response.fields).into();
        http
    }
}

impl<B> From<http::Response<B>> for Response<B> {
    fn from(response: http::Response<B>) -> Self {
        let (parts, body) = response.into_parts();
        Self {
            status: parts.status,
            fields: parts.headers.into(),
            body,
        }
    }
}
