//! Endpoints that are left out and told: those that lead back to our own listeners, because a request would go round for ever; and in a
//! cluster those at addresses that mean this node itself, which whoever may write a slice or a DNS record could reach through us.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr, UdpSocket};

use foldhash::fast::RandomState;

/// Who wrote the endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// Whoever writes the folder of this node may name addresses of this node.
    Folder,
    /// Anybody with rights in some namespace of the cluster, while we are on the host's network.
    Cluster,
}

/// Why an endpoint is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    Ourselves,
    Loopback,
    LinkLocal,
    /// Unspecified, multicast or broadcast.
    NoHost,
}

impl Refusal {
    pub(super) fn reason(self) -> &'static str {
        match self {
            Self::Ourselves => "EndpointIsOurselves",
            Self::Loopback | Self::LinkLocal | Self::NoHost => "EndpointAddressRefused",
        }
    }

    pub(super) fn what(self) -> &'static str {
        match self {
            Self::Ourselves => "is this agent itself",
            Self::Loopback => "is a loopback address",
            Self::LinkLocal => "is a link-local address",
            Self::NoHost => "is no host's address",
        }
    }

    pub(super) fn why(self) -> &'static str {
        match self {
            Self::Ourselves => ": a request would go round for ever",
            Self::Loopback => ": it would be the node's own, not a pod's",
            Self::LinkLocal => ": node services such as the cloud's metadata are there",
            Self::NoHost => "",
        }
    }
}

/// Our own addresses.
#[derive(Debug)]
pub(super) struct Ourselves {
    listeners: Vec<SocketAddr>,
    trust: Trust,
    /// Whether an address is this node's; asking costs a system call.
    local: HashMap<IpAddr, bool, RandomState>,
}

/// Addresses that are remembered; beyond that the memory is cleared.
const REMEMBERED: usize = 100_000;

impl Ourselves {
    pub(super) fn new(listeners: Vec<SocketAddr>, trust: Trust) -> Self {
        Self {
            listeners,
            trust,
            local: HashMap::default(),
        }
    }

    /// Elsewhere from now on.
    pub(super) fn listen(&mut self, listeners: Vec<SocketAddr>) {
        self.listeners = listeners;
    }

    /// Why nothing is sent to this address.
    pub(super) fn refuses(&mut self, address: SocketAddr) -> Option<Refusal> {
        let special = match self.trust {
            Trust::Folder => None,
            Trust::Cluster => special(address.ip().to_canonical()),
        };
        special.or_else(|| self.is(address).then_some(Refusal::Ourselves))
    }

    /// Whether a connection to this address would come back to us.
    fn is(&mut self, address: SocketAddr) -> bool {
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

/// What no pod and no server elsewhere can have; the API server refuses most of these in slices, but DNS names anything.
fn special(ip: IpAddr) -> Option<Refusal> {
    let (link_local, broadcast) = match ip {
        IpAddr::V4(ip) => (ip.is_link_local(), ip.is_broadcast() || ip.octets()[0] == 0),
        IpAddr::V6(ip) => (ip.is_unicast_link_local(), false),
    };
    if ip.is_loopback() {
        Some(Refusal::Loopback)
    } else if link_local {
        Some(Refusal::LinkLocal)
    } else if ip.is_unspecified() || ip.is_multicast() || broadcast {
        Some(Refusal::NoHost)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_at_our_own_listener_is_ours_and_one_beside_it_is_not() {
        let mut ourselves = Ourselves::new(
            vec!["127.0.0.1:8080".parse().unwrap(), "[::]:443".parse().unwrap()],
            Trust::Folder,
        );
        for ours in ["127.0.0.1:8080", "127.0.0.2:443", "[::1]:443"] {
            assert!(ourselves.is(ours.parse().unwrap()), "{ours}");
        }
        for other in ["127.0.0.1:8081", "127.0.0.2:8080", "192.0.2.1:443"] {
            assert!(!ourselves.is(other.parse().unwrap()), "{other}");
        }
    }

    #[test]
    fn in_a_cluster_no_endpoint_may_be_an_address_of_the_node_alone() {
        let mut ourselves = Ourselves::new(vec!["192.0.2.9:9090".parse().unwrap()], Trust::Cluster);
        let cases = [
            ("127.0.0.1:10250", Some(Refusal::Loopback)),
            ("[::1]:80", Some(Refusal::Loopback)),
            ("[::ffff:127.0.0.1]:80", Some(Refusal::Loopback)),
            ("169.254.169.254:80", Some(Refusal::LinkLocal)),
            ("[::ffff:169.254.169.254]:80", Some(Refusal::LinkLocal)),
            ("[fe80::1]:80", Some(Refusal::LinkLocal)),
            ("0.0.0.0:80", Some(Refusal::NoHost)),
            ("255.255.255.255:80", Some(Refusal::NoHost)),
            ("224.0.0.1:80", Some(Refusal::NoHost)),
            ("192.0.2.9:9090", Some(Refusal::Ourselves)),
            ("192.0.2.9:9091", None),
            ("10.1.2.3:80", None),
            ("[fd00::1]:80", None),
        ];
        for (address, expected) in cases {
            assert_eq!(ourselves.refuses(address.parse().unwrap()), expected, "{address}");
        }
    }
}
