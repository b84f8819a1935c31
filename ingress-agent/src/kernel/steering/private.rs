//! The listeners that steering gives connections to: on loopback ports that the kernel chooses, one a worker, family and kind.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

use super::{Sockets, Wanted, keys, most_slots};
use crate::proxy::listener::BACKLOG;
use crate::telemetry::record::Listener;

/// Groups one after the other in the slots, each with a socket for every worker.
#[derive(Debug)]
pub(super) struct PrivateListeners(Vec<Group>);

#[derive(Debug)]
struct Group {
    listener: Listener,
    is_v6: bool,
    first_slot: u32,
    sockets: Vec<TcpListener>,
}

impl PrivateListeners {
    /// For every kind and family that is wanted; IPv6 only where the kernel has it.
    pub(super) fn open(wanted: &[Wanted], workers: usize) -> io::Result<Self> {
        let mut groups: Vec<Group> = Vec::new();
        for wanted in wanted {
            for (_, is_v6) in keys(wanted.address) {
                let known = |group: &Group| group.listener == wanted.listener && group.is_v6 == is_v6;
                if groups.iter().any(known) {
                    continue;
                }
                let first_slot = groups.len() * workers;
                if first_slot + workers > most_slots() {
                    return Err(io::Error::other(format!("{workers} workers are too many")));
                }
                match open_all(is_v6, workers) {
                    Ok(sockets) => groups.push(Group {
                        listener: wanted.listener,
                        is_v6,
                        first_slot: u32::try_from(first_slot).map_err(io::Error::other)?,
                        sockets,
                    }),
                    // `[::]` on a node without IPv6 is IPv4's.
                    Err(_) if is_v6 && wanted.address.ip().is_unspecified() => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(Self(groups))
    }

    /// First slot and number of slots.
    pub(super) fn group(&self, listener: Listener, is_v6: bool) -> Option<(u32, u32)> {
        let wanted = |group: &&Group| group.listener == listener && group.is_v6 == is_v6;
        let group = self.0.iter().find(wanted)?;
        Some((group.first_slot, u32::try_from(group.sockets.len()).ok()?))
    }

    pub(super) fn slots(&self) -> impl Iterator<Item = (u32, &TcpListener)> {
        self.0
            .iter()
            .flat_map(|group| (group.first_slot..).zip(&group.sockets))
    }

    pub(super) fn addresses(&self) -> Vec<SocketAddr> {
        self.slots()
            .filter_map(|(_, socket)| socket.local_addr().ok())
            .collect()
    }

    pub(super) fn by_worker(self, workers: usize) -> Sockets {
        let mut all: Sockets = (0..workers).map(|_| Vec::new()).collect();
        for group in self.0 {
            for (worker, socket) in all.iter_mut().zip(group.sockets) {
                worker.push((group.listener, socket));
            }
        }
        all
    }
}

fn open_all(is_v6: bool, workers: usize) -> io::Result<Vec<TcpListener>> {
    (0..workers).map(|_| open(is_v6)).collect()
}

fn open(is_v6: bool) -> io::Result<TcpListener> {
    let (domain, loopback) = if is_v6 {
        (Domain::IPV6, IpAddr::from(Ipv6Addr::LOCALHOST))
    } else {
        (Domain::IPV4, IpAddr::from(Ipv4Addr::LOCALHOST))
    };
    let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.bind(&SocketAddr::new(loopback, 0).into())?;
    // Accepted sockets inherit it. They stand on the served port, and would keep anybody, us included, from binding it. Set after the
    // bind, so that the kernel chooses a port that nobody else is about to listen on.
    socket.set_reuse_address(true)?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// A request of the agent to itself. Whatever answers is a worker that runs: plain HTTP gets its 404, a TLS listener sends an alert.
pub(super) fn ask(address: SocketAddr) -> io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&address, ANSWER_WITHIN)?;
    stream.set_read_timeout(Some(ANSWER_WITHIN))?;
    stream.set_write_timeout(Some(ANSWER_WITHIN))?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: self-check.invalid\r\nConnection: close\r\n\r\n")?;
    match stream.read(&mut [0; 64])? {
        0 => Err(io::Error::other(format!("{address}: closed without an answer"))),
        _ => Ok(()),
    }
}
