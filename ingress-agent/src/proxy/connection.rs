//! What all requests of a connection share: whose it is, how it came, and what the handshake settled. Knows no request.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;

use http::HeaderValue;

use super::wire::GateHandle;
use super::worker::Worker;
use crate::account::ClientLine;
use crate::listener::Listener;
use crate::telemetry::record::TlsVersion;

/// What all requests of a connection share.
pub(crate) struct Connection {
    pub(crate) worker: Rc<Worker>,
    pub(crate) listener: Listener,
    /// The other end of the TCP connection.
    pub(crate) peer: SocketAddr,
    /// Who connects, as far as the transport tells: the PROXY protocol's word where it is believed, else `peer`.
    pub(crate) client: SocketAddr,
    /// Our end of the TCP connection.
    pub(crate) local: SocketAddr,
    /// The client's address and our port as forwarded headers have them.
    pub(crate) client_text: HeaderValue,
    pub(crate) local_port_text: HeaderValue,
    pub(crate) tls: Option<TlsFacts>,
    /// Whose the connection is, for accounting.
    pub(crate) line: Rc<ClientLine>,
    pub(crate) gate: GateHandle,
    /// The gate's refusal is in a request's own account.
    pub(crate) refusal_told: Cell<bool>,
}

/// What the handshake settled.
pub(crate) struct TlsFacts {
    pub(crate) version: TlsVersion,
    /// Lower case.
    pub(crate) server_name: Option<Box<str>>,
}
