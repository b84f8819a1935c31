//! Listening sockets: one a worker and address, sharing the port by SO_REUSEPORT.

use std::io::{self, BufRead};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};

use crate::listener::{BACKLOG, Listener};

/// One served address: as many sockets as there are workers.
#[derive(Debug)]
pub struct BoundListener {
    pub listener: Listener,
    /// With the real port when port 0 was asked for.
    pub address: SocketAddr,
    pub sockets: Vec<TcpListener>,
}

impl BoundListener {
    /// Binds `workers` sockets to one address.
    ///
    /// # Errors
    /// When the address is in use or may not be bound; the caller names the flag.
    pub fn bind(listener: Listener, address: SocketAddr, workers: usize) -> io::Result<Self> {
        let mut address = usable(address, has_ipv6());
        // Of its own accord the kernel chooses no port that anybody has; to look first and bind then would let somebody come between.
        if address.port() != 0 {
            probe(address)?;
        }
        let mut sockets = Vec::with_capacity(workers);
        for _ in 0..workers {
            let socket = open(address)?;
            socket.set_reuse_port(true)?;
            socket.bind(&address.into())?;
            socket.listen(BACKLOG)?;
            let socket = TcpListener::from(socket);
            address = socket.local_addr()?;
            sockets.push(socket);
        }
        Ok(Self {
            listener,
            address,
            sockets,
        })
    }
}

/// Whether somebody else has an address, as far as it can be known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    Nobody,
    Somebody,
}

/// Asked before steering takes an address without binding it.
pub(crate) fn owner(address: SocketAddr) -> Owner {
    match probe(address) {
        Ok(_) => Owner::Nobody,
        // Perhaps only connections of a process that is gone stand in the way; or there is no right to bind it (CAP_NET_BIND_SERVICE); or
        // it is not this node's address yet: the kernel's list of listeners knows.
        Err(_) if is_listed(address) => Owner::Somebody,
        Err(_) => Owner::Nobody,
    }
}

fn is_listed(address: SocketAddr) -> bool {
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"];
    tables.iter().any(|table| {
        let Ok(file) = std::fs::File::open(table) else {
            return false;
        };
        let lines = io::BufReader::new(file).lines().map_while(Result::ok);
        // Listening sockets come first.
        let mut listening = lines.skip(1).map_while(|line| listed(&line));
        listening.any(|other| overlap(address, other))
    })
}

/// Address and port of a line of /proc/net/tcp or tcp6 that listens: `0: 0100007F:1F90 00000000:0000 0A …`.
fn listed(line: &str) -> Option<SocketAddr> {
    let mut fields = line.split_whitespace().skip(1);
    let (address, port) = fields.next()?.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    if fields.nth(1)? != "0A" {
        return None;
    }
    // Words of four bytes, each printed as a number of the machine's own byte order.
    let word = |n: usize| {
        let digits = address.get(n * 8..n * 8 + 8)?;
        u32::from_str_radix(digits, 16).ok().map(u32::to_ne_bytes)
    };
    let ip = match address.len() {
        8 => IpAddr::from(word(0)?),
        32 => {
            let mut bytes = [0; 16];
            for n in 0..4 {
                bytes[n * 4..n * 4 + 4].copy_from_slice(&word(n)?);
            }
            IpAddr::from(bytes).to_canonical()
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

fn overlap(one: SocketAddr, other: SocketAddr) -> bool {
    let (a, b) = (one.ip().to_canonical(), other.ip());
    one.port() == other.port() && (a == b || a.is_unspecified() || b.is_unspecified())
}

/// `[::]` means every address of the node; where the kernel has no IPv6, that is `0.0.0.0`.
pub(crate) fn usable(address: SocketAddr, has_ipv6: bool) -> SocketAddr {
    if has_ipv6 || address.ip() != IpAddr::V6(Ipv6Addr::UNSPECIFIED) {
        return address;
    }
    let instead = SocketAddr::from((Ipv4Addr::UNSPECIFIED, address.port()));
    tracing::warn!("this node has no IPv6: listening on {instead} instead of {address}");
    instead
}

pub(crate) fn has_ipv6() -> bool {
    let socket = Socket::new(Domain::IPV6, Type::STREAM, Some(Protocol::TCP));
    socket.is_ok_and(|socket| {
        let any = SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0));
        socket.bind(&any.into()).is_ok()
    })
}

/// Finds out whether somebody else has the port, which SO_REUSEPORT would hide between processes of one user.
fn probe(address: SocketAddr) -> io::Result<()> {
    let socket = open(address)?;
    socket.bind(&address.into())?;
    socket.listen(1)
}

fn open(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        // `[::]` serves IPv4 too, whatever net.ipv6.bindv6only says.
        socket.set_only_v6(false)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// What every accepted connection gets. Failures are not worth the connection.
pub(crate) fn prepare(stream: &tokio::net::TcpStream) {
    let _ = stream.set_nodelay(true);
    let keepalive = TcpKeepalive::new()
        .with_time(Duration::from_secs(60))
        .with_interval(Duration::from_secs(15))
        .with_retries(4);
    let _ = SockRef::from(stream).set_tcp_keepalive(&keepalive);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_that_another_process_shares_by_the_same_option_is_in_use() {
        let local = "127.0.0.1:0".parse().unwrap();
        let first = BoundListener::bind(Listener::Http, local, 2).unwrap();
        let port = first.address.port();
        for taken in [
            first.address,
            SocketAddr::from(([0; 4], port)),
            SocketAddr::from(([0u16; 8], port)),
        ] {
            let error = BoundListener::bind(Listener::Http, taken, 1).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::AddrInUse, "{taken}");
        }
    }

    #[test]
    fn a_port_is_free_again_as_soon_as_its_listener_is_gone() {
        let is_free_again = || {
            let bound = BoundListener::bind(Listener::Http, "127.0.0.1:0".parse().unwrap(), 2).unwrap();
            let again = bound.address;
            drop(bound);
            BoundListener::bind(Listener::Http, again, 1).is_ok()
        };
        // The kernel may give a port to somebody else in between, but not every time.
        assert!((0..10).any(|_| is_free_again()));
    }

    #[test]
    fn who_has_a_port_is_known_by_binding_and_by_the_kernels_list() {
        let mine = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = mine.local_addr().unwrap();
        let any = SocketAddr::from(([0u16; 8], address.port()));
        for asked in [address, any] {
            assert_eq!(owner(asked), Owner::Somebody);
            assert!(is_listed(asked), "{asked}");
        }
        drop(mine);
        assert!(!is_listed(address));
        assert_eq!(owner(address), Owner::Nobody);
        let line = "   0: 00000000000000000000000001000000:0050 00000000000000000000000000000000:0000 0A 0";
        assert_eq!(listed(line), Some("[::1]:80".parse().unwrap()));
        assert_eq!(listed("   0: 0100007F:0050 0100007F:1234 01 0"), None);
    }

    #[test]
    fn every_address_means_every_ipv4_address_where_there_is_no_ipv6() {
        let any: SocketAddr = "[::]:80".parse().unwrap();
        assert_eq!(usable(any, true), any);
        assert_eq!(usable(any, false), "0.0.0.0:80".parse().unwrap());
        let one: SocketAddr = "[2001:db8::1]:80".parse().unwrap();
        assert_eq!(usable(one, false), one, "a certain address is never another one");
    }
}
