//! One finished request, as the data plane describes it. Borrowed: making one costs nothing.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, SystemTime};

use crate::account::ClientTcp;
use crate::listener::Listener;
use ingress_core::reason::Reason;
use ingress_core::resource::{ClusterKey, UnownedHost};
use ingress_core::snapshot::Route;

/// Everything that the access log and metrics may say about a request. Bytes are as received: hostile until escaped.
#[derive(Clone, Copy)]
pub struct RequestRecord<'a> {
    /// When the head's first byte was read.
    pub started: SystemTime,
    /// Until the response's last byte was handed over, or the request was given up.
    pub duration: Duration,
    /// The client as trusted proxies tell it; the peer where there are none.
    pub client: IpAddr,
    /// The other end of the connection.
    pub peer: SocketAddr,
    pub listener: Listener,
    pub protocol: HttpVersion,
    pub tls: Option<TlsRecord<'a>>,
    /// Empty where no method was understood.
    pub method: &'a [u8],
    /// `Host` or `:authority` as received; empty where there was none.
    pub host: &'a [u8],
    /// Path and query as received; empty where no target was understood.
    pub target: &'a [u8],
    /// 0 where nothing was answered (the client had left).
    pub status: u16,
    /// Why the agent answered by itself.
    pub reason: Option<Reason>,
    pub route: Option<&'a Route>,
    /// The client's connection at the end of the request, where it was looked at.
    pub client_tcp: Option<ClientTcp>,
    pub upstream: Option<UpstreamRecord<'a>>,
    /// Of the request's body, without framing.
    pub request_bytes: u64,
    /// Of the response's body, without framing.
    pub response_bytes: u64,
    pub request_id: &'a [u8],
    pub user_agent: Option<&'a [u8]>,
    pub referer: Option<&'a [u8]>,
    /// What went wrong, in words ([`crate::error::ProxyError`] is one).
    pub error: Option<&'a dyn fmt::Display>,
    /// For `host_unowned`: the Ingress that has the host, and why nobody serves it.
    pub unowned: Option<&'a UnownedHost>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TlsRecord<'a> {
    pub version: TlsVersion,
    /// The server name of the handshake, lower case.
    pub server_name: Option<&'a str>,
}

/// How the request fared with its backend.
#[derive(Clone, Copy, Debug)]
pub struct UpstreamRecord<'a> {
    pub cluster: &'a ClusterKey,
    /// The last endpoint that was tried.
    pub endpoint: Option<SocketAddr>,
    /// 0 where none could be picked.
    pub attempts: u32,
    /// `None` where no connection was opened.
    pub connect: Option<Duration>,
    /// From the end of connecting to the response's first byte.
    pub first_byte: Option<Duration>,
    pub reused: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HttpVersion {
    Http10,
    Http11,
    Http2,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsVersion {
    Tls12,
    Tls13,
}

impl HttpVersion {
    pub const ALL: [Self; 3] = [Self::Http10, Self::Http11, Self::Http2];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http10 => "HTTP/1.0",
            Self::Http11 => "HTTP/1.1",
            Self::Http2 => "HTTP/2",
        }
    }
}

impl TlsVersion {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tls12 => "TLSv1.2",
            Self::Tls13 => "TLSv1.3",
        }
    }
}

impl RequestRecord<'_> {
    /// Whether an operator would call this a failure: redirects and preflights of our own are not.
    pub fn is_error(&self) -> bool {
        let own_success = matches!(
            self.reason,
            Some(Reason::RedirectHttps | Reason::Redirect | Reason::CorsPreflight)
        );
        self.status >= 400 || (self.reason.is_some() && !own_success)
    }
}
