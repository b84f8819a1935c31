//! A judged head as an [`http::Request`]: pure.

use bytes::Bytes;
use http::header::{HeaderMap, HeaderName, HeaderValue, TE};
use http::{Method, Request, Uri, Version};

use crate::proxy::wire::Refusal;
use crate::proxy::wire::h1::{HeadInfo, HeadLines, Version as HttpVersion};

/// What the answer needs to know of its request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    pub(super) is_head: bool,
    pub(super) http10: bool,
    /// The client ends the connection after this exchange, or expects us to.
    pub(super) close: bool,
    pub(super) takes_trailers: bool,
}

/// Builds the request from the lines that the reader found; values share the head's bytes.
///
/// The reader has judged every byte, so that an error here is a difference between two readers: the request is not served.
pub(super) fn build(
    head: &Bytes,
    lines: &HeadLines,
    info: &HeadInfo,
) -> Result<(Request<()>, Asked), Refusal> {
    const ODD: Refusal = Refusal::bad("a head that is understood in two ways");
    let slice = |range: std::ops::Range<usize>| match range.end <= head.len() && range.start <= range.end {
        true => Ok(head.slice(range)),
        false => Err(ODD),
    };
    let method = Method::from_bytes(&slice(lines.method.clone())?).map_err(|_| ODD)?;
    let uri = Uri::from_maybe_shared(slice(lines.target.clone())?).map_err(|_| ODD)?;
    let mut headers = HeaderMap::with_capacity(lines.fields.len());
    let mut takes_trailers = false;
    for field in &lines.fields {
        let name = head.get(field.name()).ok_or(ODD)?;
        let name = HeaderName::from_bytes(name).map_err(|_| ODD)?;
        let value = HeaderValue::from_maybe_shared(slice(field.value())?).map_err(|_| ODD)?;
        takes_trailers |= name == TE && says_trailers(&value);
        headers.try_append(name, value).map_err(|_| ODD)?;
    }
    let asked = Asked {
        is_head: method == Method::HEAD,
        http10: info.version == HttpVersion::Http10,
        close: info.close,
        takes_trailers,
    };
    let mut request = Request::new(());
    *request.method_mut() = method;
    *request.uri_mut() = uri;
    *request.headers_mut() = headers;
    *request.version_mut() = match info.version {
        HttpVersion::Http10 => Version::HTTP_10,
        HttpVersion::Http11 => Version::HTTP_11,
    };
    Ok((request, asked))
}

/// RFC 9110, 6.5.1: trailers go to clients that say so.
fn says_trailers(te: &HeaderValue) -> bool {
    let mut codings = te.as_bytes().split(|byte| *byte == b',');
    codings.any(|coding| coding.trim_ascii().eq_ignore_ascii_case(b"trailers"))
}
