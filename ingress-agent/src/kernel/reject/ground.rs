//! On which interfaces packets are judged. Pure.

use std::net::IpAddr;

use ingress_core::datapath::Ground;

use super::Wanted;
use super::links::Link;

/// Whether packets are to be judged on an interface: where it is named, or where clients reach what is served.
pub(super) fn is_wanted(wanted: &Wanted, link: &Link) -> bool {
    if !wanted.interfaces.is_empty() {
        return wanted.interfaces.contains(&link.name);
    }
    link.up && !link.loopback && link.addresses.iter().any(|ip| is_served(&wanted.ground, ip))
}

/// Every interface has a link-local address, and no client comes by it, unless it is served by name.
fn is_served(ground: &Ground, ip: &IpAddr) -> bool {
    let link_local = match ip {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    let mut listeners = ground.listeners.iter().map(|listener| listener.address.ip());
    listeners.any(|served| {
        let all = served.is_unspecified() && (served.is_ipv6() || ip.is_ipv4()) && !link_local;
        all || served.to_canonical() == *ip
    })
}
