//! The node's network interfaces and their addresses, and word of every change: by rtnetlink(7), which asks for no right.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::OwnedFd;

use rustix::net::{RecvFlags, recv};

use crate::kernel::netlink::{self, Family, attributes, text, u32};

/// An interface with what attaching to it depends on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) index: u32,
    pub(super) name: String,
    pub(super) up: bool,
    pub(super) loopback: bool,
    /// What drives it, as far as is known: the kind of a virtual interface, else the bus of the device.
    pub(super) driver: String,
    pub(super) addresses: Vec<IpAddr>,
    /// Whosever XDP program is on it.
    pub(super) xdp: Option<Xdp>,
}

/// An XDP program on an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Xdp {
    pub(super) program: u32,
    pub(super) generic: bool,
}

/// All interfaces of this network namespace.
///
/// # Errors
/// When the kernel does not answer.
pub(super) fn all() -> io::Result<Vec<Link>> {
    let socket = netlink::open(Family::Route, 0)?;
    let links = netlink::dump(&socket, RTM_GETLINK, RTM_NEWLINK, &EVERYTHING)?;
    let mut links: Vec<Link> = links.iter().filter_map(|body| link(body)).collect();
    for body in netlink::dump(&socket, RTM_GETADDR, RTM_NEWADDR, &EVERYTHING)? {
        if let Some((index, address)) = address(&body)
            && let Some(link) = links.iter_mut().find(|link| link.index == index)
        {
            link.addresses.push(address);
        }
    }
    Ok(links)
}

/// Hears of interfaces and addresses that come and go.
#[derive(Debug)]
pub(super) struct Changes(OwnedFd);

impl Changes {
    pub(super) fn listen() -> io::Result<Self> {
        let groups = RTMGRP_LINK | RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR;
        netlink::open(Family::Route, groups).map(Self)
    }

    /// Whether there was one since the last time. What was lost because it came too fast counts as well.
    pub(super) fn any(&self) -> bool {
        let mut any = false;
        // Bounded: whoever changes faster than this is looked at again in a moment.
        for _ in 0..256 {
            match recv(
                &self.0,
                &mut [0u8; 64][..],
                RecvFlags::DONTWAIT | RecvFlags::TRUNC,
            ) {
                Err(rustix::io::Errno::AGAIN) => break,
                _ => any = true,
            }
        }
        any
    }
}

const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const RTM_NEWADDR: u16 = 20;
const RTM_GETADDR: u16 = 22;
const RTMGRP_LINK: u32 = 1;
const RTMGRP_IPV4_IFADDR: u32 = 0x10;
const RTMGRP_IPV6_IFADDR: u32 = 0x100;
/// Of any family and interface.
const EVERYTHING: [u8; 16] = [0; 16];

/// From a `struct ifinfomsg` and its attributes.
fn link(body: &[u8]) -> Option<Link> {
    const IFLA_IFNAME: u16 = 3;
    const IFLA_LINKINFO: u16 = 18;
    const IFLA_INFO_KIND: u16 = 1;
    const IFLA_XDP: u16 = 43;
    const IFLA_PARENT_DEV_BUS_NAME: u16 = 57;
    const IFF_UP: u32 = 1;
    const IFF_LOOPBACK: u32 = 8;
    let flags = u32(body, 8)?;
    let mut link = Link {
        index: u32(body, 4)?,
        name: String::new(),
        up: flags & IFF_UP != 0,
        loopback: flags & IFF_LOOPBACK != 0,
        driver: String::new(),
        addresses: Vec::new(),
        xdp: None,
    };
    for (kind, value) in attributes(body.get(16..)?) {
        match kind {
            IFLA_IFNAME => link.name = text(value),
            IFLA_LINKINFO => {
                let of_kind = attributes(value).find(|(kind, _)| *kind == IFLA_INFO_KIND);
                link.driver = of_kind.map_or_else(String::new, |(_, kind)| text(kind));
            }
            IFLA_XDP => link.xdp = xdp(value),
            IFLA_PARENT_DEV_BUS_NAME if link.driver.is_empty() => link.driver = text(value),
            _ => {}
        }
    }
    (!link.name.is_empty()).then_some(link)
}

/// From the attributes of IFLA_XDP.
fn xdp(nested: &[u8]) -> Option<Xdp> {
    const IFLA_XDP_ATTACHED: u16 = 2;
    const IFLA_XDP_PROG_ID: u16 = 4;
    const XDP_ATTACHED_SKB: u8 = 2;
    let of_kind =
        |wanted| attributes(nested).find_map(move |(kind, value)| (kind == wanted).then_some(value));
    Some(Xdp {
        program: u32(of_kind(IFLA_XDP_PROG_ID)?, 0)?,
        generic: of_kind(IFLA_XDP_ATTACHED)?.first() == Some(&XDP_ATTACHED_SKB),
    })
}

/// From a `struct ifaddrmsg` and its attributes: whose it is, and the node's own address (of a point-to-point link, not its peer's).
fn address(body: &[u8]) -> Option<(u32, IpAddr)> {
    const IFA_ADDRESS: u16 = 1;
    const IFA_LOCAL: u16 = 2;
    let index = u32(body, 4)?;
    let all = || attributes(body.get(8..).unwrap_or_default());
    let value = all()
        .find(|(kind, _)| *kind == IFA_LOCAL)
        .or_else(|| all().find(|(kind, _)| *kind == IFA_ADDRESS))?
        .1;
    let ip = match value.len() {
        4 => IpAddr::V4(Ipv4Addr::from(*value.first_chunk::<4>()?)),
        16 => IpAddr::V6(Ipv6Addr::from(*value.first_chunk::<16>()?)),
        _ => return None,
    };
    Some((index, ip))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let length = u16::try_from(4 + value.len()).unwrap();
        let mut bytes = length.to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    #[test]
    fn the_nodes_own_loopback_is_among_its_interfaces() {
        let links = all().unwrap();
        let lo = links.iter().find(|link| link.loopback).unwrap();
        assert_eq!(lo.name, "lo");
        assert!(links.iter().all(|link| link.index > 0));
    }

    #[test]
    fn an_interface_is_read_with_its_driver_and_address_and_cut_short_it_is_nothing() {
        let mut body = vec![0; 16];
        body[4] = 7;
        body[8] = 1;
        body.extend(attribute(3, b"eth0\0"));
        body.extend(attribute(18, &attribute(1, b"veth")));
        let on_it = [attribute(2, &[2]), attribute(4, &7_u32.to_ne_bytes())].concat();
        body.extend(attribute(43 | 1 << 15, &on_it));
        let read = link(&body).unwrap();
        let (program, generic) = (7, true);
        assert_eq!(read.xdp, Some(Xdp { program, generic }));
        assert_eq!(
            (read.index, &*read.name, &*read.driver, read.up, read.loopback),
            (7, "eth0", "veth", true, false)
        );
        for end in 0..body.len() {
            let _ = link(&body[..end]);
            let _ = address(&body[..end]);
        }
        let mut body = vec![0; 8];
        body[4] = 7;
        body.extend(attribute(1, &[10, 0, 0, 9]));
        body.extend(attribute(2, &[10, 0, 0, 5]));
        assert_eq!(address(&body), Some((7, "10.0.0.5".parse().unwrap())));
    }
}
