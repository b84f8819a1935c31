//! Endpoints that lead back to our own listeners: they are left out and told, because a request would go round for ever.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr, UdpSocket};

use foldhash::fast::RandomState;

/// Our own addresses.
#[derive(Debug, Default)]
pub(super) struct Ourselves {
    listeners: Vec<SocketAddr>,
    /// Whether an address is this node's; asking costs a system call.
    local: HashMap<IpAddr, bool, RandomState>,
}

/// Addresses that are remembered; beyond that the memory is cleared.
const REMEMBERED: usize = 100_000;

impl Ourselves {
    pub(super) fn new(listeners: Vec<SocketAddr>) -> Self {
        Self {
            listeners,
            local: HashMap::default(),
        }
    }

    /// Whether a connection to this address would come back to us.
    pub(super) fn is(&mut self, address: SocketAddr) -> bool {
        let ip = address.ip().to_canonical();
        let mut same_port = self
            .listeners
            .iter()
            .filter(|l| l.port() == address.port())
            .map(|l| l.ip().to_canonical());
        let exactly = same_port.clone().any(|listener| listener == ip);
        let on_all = same_port.any(|listener| listener.is_unspecified());
        exactly || (on_all && self.is_local(ip))
    }

    /// Only a local address can be bound. On a node that allows non-local binds (`net.ipv4.ip_nonlocal_bind`) every address looks
    /// local, and endpoints on a port that is listened on at all addresses are left out.
    fn is_local(&mut self, ip: IpAddr) -> bool {
        if ip.is_loopback() || ip.is_unspecified() {
            return true;
        }
        if self.local.len() >= REMEMBERED {
            self.local.clear();
        }
        *self
            .local
            .entry(ip)
            .or_insert_with(|| UdpSocket::bind((ip, 0)).is_ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_at_our_own_listener_is_ours_and_one_beside_it_is_not() {
        let mut ourselves = Ourselves::new(vec![
            "127.0.0.1:8080".parse().unwrap(),
            "[::]:443".parse().unwrap(),
        ]);
        for ours in ["127.0.0.1:8080", "127.0.0.2:443", "[::1]:443"] {
            assert!(ourselves.is(ours.parse().unwrap()), "{ours}");
        }
        for other in ["127.0.0.1:8081", "127.0.0.2:8080", "192.0.2.1:443"] {
            assert!(!ourselves.is(other.parse().unwrap()), "{other}");
        }
    }
}
