//! Listening sockets: one a worker and address, sharing the port by SO_REUSEPORT.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};

use crate::telemetry::record::Listener;

/// One served address: as many sockets as there are workers.
#[derive(Debug)]
pub struct BoundListener {
    pub listener: Listener,
    /// With the real port when port 0 was asked for.
    pub address: SocketAddr,
    pub sockets: Vec<TcpListener>,
}

const BACKLOG: i32 = 4096;

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

/// `[::]` means every address of the node; where the kernel has no IPv6, that is `0.0.0.0`.
fn usable(address: SocketAddr, has_ipv6: bool) -> SocketAddr {
    if has_ipv6 || address.ip() != IpAddr::V6(Ipv6Addr::UNSPECIFIED) {
        return address;
    }
    let instead = SocketAddr::from((Ipv4Addr::UNSPECIFIED, address.port()));
    tracing::warn!("this node has no IPv6: listening on {instead} instead of {address}");
    instead
}

fn has_ipv6() -> bool {
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
    fn every_address_means_every_ipv4_address_where_there_is_no_ipv6() {
        let any: SocketAddr = "[::]:80".parse().unwrap();
        assert_eq!(usable(any, true), any);
        assert_eq!(usable(any, false), "0.0.0.0:80".parse().unwrap());
        let one: SocketAddr = "[2001:db8::1]:80".parse().unwrap();
        assert_eq!(usable(one, false), one, "a certain address is never another one");
    }
}
