//! HTTP between TLS (or TCP) and the service: the HTTP/1 server and the HTTP/2 server.
//!
//! Owns: where HTTP/1.1 messages and h2 frames begin and end, what is refused before a service sees it, the bounds on
//! heads, waits and frames, and the agent's answers to what no service will see. May not know: routes, snapshots, upstreams.
//! Nothing that is ambiguous under RFC 9112 or RFC 9113 passes.

pub mod detect;
pub mod gate;
pub mod h1;
pub mod h2;

use std::fmt;
use std::time::Duration;

use ingress_core::reason::Reason;

use super::message::Head;
use crate::error::ProxyError;

pub use gate::GateHandle;
pub(crate) use gate::{ClientBody, ClientStream, End, Server, http2};

/// Why the gate broke off a connection or a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What the client, the access log and metrics are told.
    pub reason: Reason,
    /// Which rule was broken, for the log.
    pub detail: &'static str,
}

impl Refusal {
    pub(crate) const fn bad(detail: &'static str) -> Self {
        Self {
            reason: Reason::BadRequest,
            detail,
        }
    }

    pub(crate) const fn new(reason: Reason, detail: &'static str) -> Self {
        Self { reason, detail }
    }
}

impl From<Refusal> for ProxyError {
    fn from(refusal: Refusal) -> Self {
        match refusal.reason {
            Reason::BadRequest => Self::BadRequest(refusal.detail),
            reason => Self::Answered(reason),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.reason.code(), self.detail)
    }
}

impl std::error::Error for Refusal {}

/// The bounds of one connection. Sizes are bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// A whole request head, line ends included: 431 above. For h2, one header block as sent.
    pub head_bytes: usize,
    /// Header fields of a request: 431 above.
    pub head_fields: usize,
    /// The request line: 414 above.
    pub request_line: usize,
    /// One header line: 431 above.
    pub field_line: usize,
    /// From the first byte of a head to its last; for the first head of a connection, from its acceptance: 408 above.
    pub head_wait: Duration,
    /// Between two requests: closed silently above.
    pub idle_wait: Duration,
    /// Between two reads of a body that is waited for: 408 above.
    pub body_gap: Duration,
    /// Without progress while a response is to be written: closed above.
    pub write_stall: Duration,
    /// How long the client may go on sending after a refusal until it is cut off.
    pub linger_wait: Duration,
    /// How much the client may go on sending after a refusal until it is cut off.
    pub linger_bytes: usize,
    /// The largest h2 frame payload that is accepted (`SETTINGS_MAX_FRAME_SIZE`, RFC 9113 6.5.2).
    pub h2_frame_bytes: u32,
    /// Whether our own answers carry `x-ingress-agent-reason`.
    pub reason_header: bool,
    /// How many h2 requests a client may take back within 10 seconds, beyond those that were answered.
    pub h2_resets: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            head_bytes: 64 * 1024,
            head_fields: 100,
            request_line: 16 * 1024,
            field_line: 32 * 1024,
            head_wait: Duration::from_secs(10),
            idle_wait: Duration::from_secs(75),
            body_gap: Duration::from_secs(60),
            write_stall: Duration::from_secs(60),
            linger_wait: Duration::from_secs(1),
            linger_bytes: 256 * 1024,
            h2_frame_bytes: 16 * 1024,
            reason_header: true,
            h2_resets: 200,
        }
    }
}

/// A whole HTTP/1.1 answer to a connection that gets no gate: plain HTTP on a TLS port, one connection too many.
pub fn last_answer(refusal: Refusal, limits: &Limits) -> Vec<u8> {
    gate::answer(refusal, limits.reason_header)
}

/// What the gate checks of an HTTP/1 head and cannot see in h2's compressed one: bounds and characters of a head that h2 has unpacked.
pub(crate) fn check_h2_head(head: &Head, limits: &Limits) -> Result<(), Refusal> {
    let target = head.target();
    if target.len() > limits.request_line {
        return Err(Refusal::new(
            Reason::UriTooLong,
            "the path is longer than allowed",
        ));
    }
    let size = |(name, value): (&[u8], &[u8])| name.len().saturating_add(value.len()).saturating_add(4);
    let fields = &head.fields;
    let all = fields.iter().map(size).fold(target.len(), usize::saturating_add);
    let longest = fields.iter().map(size).max().unwrap_or(0);
    if fields.len() > limits.head_fields || longest > limits.field_line || all > limits.head_bytes {
        return Err(Refusal::new(
            Reason::HeadersTooLarge,
            "the request head is larger than allowed",
        ));
    }
    h1::check_method_and_target(head.method.as_str(), target)
}
