//! A judged head as the service gets it: pure.

use std::ops::Range;

use http::Method;
use ingress_core::fields::{Block, Fields};

use crate::proxy::message::Head;
use crate::proxy::wire::Refusal;
use crate::proxy::wire::h1::{HeadInfo, HeadLines, Version};

/// What the answer needs to know of its request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    pub(super) is_head: bool,
    pub(super) http10: bool,
    /// The client ends the connection after this exchange, or expects us to.
    pub(super) close: bool,
    pub(super) takes_trailers: bool,
}

/// Makes the request of the lines that the reader found; all of it shares the head's bytes.
///
/// The reader has judged every byte, so that an error here is a difference between two readers: the request is not served.
pub(super) fn build(block: Block, lines: HeadLines, info: &HeadInfo) -> Result<(Box<Head>, Asked), Refusal> {
    const ODD: Refusal = Refusal::bad("a head that is understood in two ways");
    let slice = |range: Range<usize>| block.get(range).ok_or(ODD);
    let method = Method::from_bytes(slice(lines.method.clone())?).map_err(|_| ODD)?;
    let fields = Fields::of_lines(Block::clone(&block), lines.fields);
    let asked = Asked {
        is_head: method == Method::HEAD,
        http10: info.version == Version::Http10,
        close: info.close,
        // RFC 9110, 6.5.1: trailers go to clients that say so.
        takes_trailers: fields
            .members("te")
            .any(|coding| coding.eq_ignore_ascii_case(b"trailers")),
    };
    let version = match info.version {
        Version::Http10 => http::Version::HTTP_10,
        Version::Http11 => http::Version::HTTP_11,
    };
    let head = Head::new((method, version), (&block, lines.target), fields).ok_or(ODD)?;
    Ok((Box::new(head), asked))
}
