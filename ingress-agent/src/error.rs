//! The data plane's one error type, and its one mapping to answers, logs and retries.

use std::fmt;

use ingress_core::reason::Reason;

/// Who is at fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Client,
    Upstream,
    Agent,
}

/// Why a request could not be served as asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProxyError {
    // The client's side.
    /// Breaks RFC 9112 or 9113; the text says how.
    BadRequest(&'static str),
    BodyTooLarge,
    /// The request body did not go on in time.
    RequestTimeout,
    ClientClosed,
    // The backend's side.
    /// No connection: refused, unreachable.
    ConnectFailed(std::io::ErrorKind),
    ConnectTimeout,
    /// The TLS handshake with the backend failed.
    UpstreamTls(String),
    /// The connection ended before a whole response head; `idle` when a reused connection had just been closed by the backend.
    UpstreamReset {
        idle: bool,
    },
    /// The backend broke the protocol; the text says how.
    UpstreamProtocol(&'static str),
    ResponseTimeout,
    // The agent's side: its own decision, with its reason.
    Answered(Reason),
}

impl ProxyError {
    pub fn side(&self) -> Side {
        match self {
            Self::BadRequest(_) | Self::BodyTooLarge | Self::RequestTimeout | Self::ClientClosed => {
                Side::Client
            }
            Self::ConnectFailed(_)
            | Self::ConnectTimeout
            | Self::UpstreamTls(_)
            | Self::UpstreamReset { .. }
            | Self::UpstreamProtocol(_)
            | Self::ResponseTimeout => Side::Upstream,
            Self::Answered(_) => Side::Agent,
        }
    }

    pub fn reason(&self) -> Reason {
        match self {
            Self::BadRequest(_) => Reason::BadRequest,
            Self::BodyTooLarge => Reason::BodyTooLarge,
            Self::RequestTimeout => Reason::RequestTimeout,
            Self::ClientClosed => Reason::ClientClosed,
            Self::ConnectFailed(_) => Reason::UpstreamRefused,
            Self::ConnectTimeout => Reason::ConnectTimeout,
            Self::UpstreamTls(_) => Reason::UpstreamTls,
            Self::UpstreamReset { .. } => Reason::UpstreamReset,
            Self::UpstreamProtocol(_) => Reason::UpstreamProtocol,
            Self::ResponseTimeout => Reason::ResponseTimeout,
            Self::Answered(reason) => *reason,
        }
    }

    /// Whether no connection with the backend came about.
    pub fn is_no_connection(&self) -> bool {
        matches!(
            self,
            Self::ConnectFailed(_) | Self::ConnectTimeout | Self::UpstreamTls(_)
        )
    }

    /// Whether another endpoint may be asked, given whether any byte of the request may have reached this one.
    ///
    /// A request that was never sent is always safe; one that may have been seen is safe when its method is idempotent (RFC 9110, 9.2.2).
    pub fn may_retry(&self, sent: bool, idempotent: bool) -> bool {
        match self {
            _ if self.is_no_connection() => true,
            Self::UpstreamReset { .. } => !sent || idempotent,
            _ => false,
        }
    }
}

impl fmt::Display for ProxyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadRequest(how) => write!(f, "bad request: {how}"),
            Self::BodyTooLarge => f.write_str("the request body is larger than the route allows"),
            Self::RequestTimeout => f.write_str("the request did not arrive in time"),
            Self::ClientClosed => f.write_str("the client closed the connection"),
            Self::ConnectFailed(kind) => write!(f, "connecting to the backend failed: {kind}"),
            Self::ConnectTimeout => f.write_str("the backend did not accept the connection in time"),
            Self::UpstreamTls(why) => write!(f, "TLS with the backend failed: {why}"),
            Self::UpstreamReset { idle: true } => f.write_str("the backend closed a reused connection"),
            Self::UpstreamReset { idle: false } => {
                f.write_str("the backend closed the connection before it answered")
            }
            Self::UpstreamProtocol(how) => write!(f, "the backend broke the protocol: {how}"),
            Self::ResponseTimeout => f.write_str("the backend did not answer in time"),
            Self::Answered(reason) => write!(f, "answered: {}", reason.code()),
        }
    }
}

impl std::error::Error for ProxyError {}
