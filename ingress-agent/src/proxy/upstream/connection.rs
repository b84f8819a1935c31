//! An HTTP/1.1 connection that waits for its next request, and what makes two connections interchangeable.

use std::net::SocketAddr;
use std::rc::Rc;

use ingress_core::resource::Protocol;

use super::io::Transport;
use super::open::OpenGuard;
use crate::account::EndpointLine;
use crate::proxy::timer::Timer;

/// What makes two connections interchangeable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ConnectionKey {
    pub(super) address: SocketAddr,
    pub(super) protocol: Protocol,
    pub(super) server_name: Option<Rc<str>>,
}

impl ConnectionKey {
    pub(super) fn is(&self, protocol: Protocol, server_name: Option<&str>) -> bool {
        self.protocol == protocol && self.server_name.as_deref() == server_name
    }
}

/// An HTTP/1.1 connection between two requests.
pub(super) struct Connection {
    pub(super) transport: Transport,
    pub(super) timer: Timer,
    pub(super) key: ConnectionKey,
    /// For accounting.
    pub(super) line: Option<EndpointLine>,
    /// Made for one request alone.
    pub(super) single_use: bool,
    pub(super) open: OpenGuard,
}
