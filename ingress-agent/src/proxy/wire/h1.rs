//! The strict HTTP/1.1 request reader: pure, over bytes, no I/O.
//!
//! Owns: what a request head and body may look like (RFC 9112), and where they end. It judges and points; it never mends,
//! copies or builds header maps: what it lets pass goes on as it came. Response heads are read by the same line reader ([`field`]). May not know: sockets, time, routes.
//!
//! The verdict depends on the bytes alone, never on how they were cut into reads: the first offending byte decides.

mod body;
mod bytes;
mod chunked;
mod facts;
mod head;
mod target;
#[cfg(test)]
mod tests;

pub use body::Body;
pub(crate) use bytes::trim;
pub(in crate::proxy) use bytes::{is_field_value, is_token};
pub use chunked::Chunked;
pub use chunked::is_forbidden_trailer;
pub(in crate::proxy) use facts::MOST_CONNECTION_OPTIONS;
pub(in crate::proxy) use head::is_target;
pub use head::{Field, HeadLines, HeadReader, check_head, check_method_and_target, field, place};

/// How the end of the request's body is found (RFC 9112 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    None,
    Length(u64),
    Chunked,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    Http10,
    Http11,
}

/// What the gate needs to know of a valid head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadInfo {
    /// Where the body or the next head begins.
    pub end: usize,
    pub version: Version,
    pub framing: Framing,
    pub expect_continue: bool,
    /// A valid WebSocket handshake request (RFC 6455 4.1): what follows it may not be HTTP.
    pub upgrade_websocket: bool,
    /// The client asked to close after this exchange.
    pub close: bool,
}
