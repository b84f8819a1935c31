//! The PROXY protocol, version 2, towards backends (HAProxy's proxy-protocol.txt, section 2.2).

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// Version 2, command PROXY.
const VERSION_COMMAND: u8 = 0x21;
const TCP_OVER_IPV4: u8 = 0x11;
const TCP_OVER_IPV6: u8 = 0x21;

/// Who really connected, and to what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProxyHeader {
    pub source: SocketAddr,
    pub destination: SocketAddr,
}

impl ProxyHeader {
    /// Appends the header. Addresses of two families both become IPv6 (IPv4-mapped).
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&SIGNATURE);
        out.push(VERSION_COMMAND);
        match (self.source.ip(), self.destination.ip()) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                out.push(TCP_OVER_IPV4);
                out.extend_from_slice(&12_u16.to_be_bytes());
                out.extend_from_slice(&source.octets());
                out.extend_from_slice(&destination.octets());
            }
            (source, destination) => {
                out.push(TCP_OVER_IPV6);
                out.extend_from_slice(&36_u16.to_be_bytes());
                out.extend_from_slice(&as_ipv6(source).octets());
                out.extend_from_slice(&as_ipv6(destination).octets());
            }
        }
        out.extend_from_slice(&self.source.port().to_be_bytes());
        out.extend_from_slice(&self.destination.port().to_be_bytes());
    }
}

fn as_ipv6(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ipv4_header_is_the_28_bytes_that_the_specification_shows() {
        let mut out = Vec::new();
        let header = ProxyHeader {
            source: "192.0.2.1:4660".parse().unwrap(),
            destination: "198.51.100.2:443".parse().unwrap(),
        };
        header.encode(&mut out);
        let expected =
            b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c\xc0\x00\x02\x01\xc6\x33\x64\x02\x12\x34\x01\xbb";
        assert_eq!(out, expected);
    }

    #[test]
    fn addresses_of_two_families_are_both_told_as_ipv6() {
        let mut out = Vec::new();
        let header = ProxyHeader {
            source: "192.0.2.1:1".parse().unwrap(),
            destination: "[2001:db8::1]:2".parse().unwrap(),
        };
        header.encode(&mut out);
        assert_eq!(out.len(), 16 + 36);
        assert_eq!(out[13..16], [0x21, 0, 36]);
        assert_eq!(out[26..32], [0xff, 0xff, 192, 0, 2, 1]);
    }
}
