//! The listeners that steering gives connections to: on loopback ports that the kernel chooses, one a worker, family and kind.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

use super::{Sockets, Wanted, keys, most_slots};
use crate::listener::{BACKLOG, Listener};

/// Groups one after the other in the slots, each with a socket for every worker.
#[derive(Debug, Default)]
pub(super) struct PrivateListeners(Vec<Group>);

#[derive(Debug)]
struct Group {
    listener: Listener,
    is_v6: bool,
    first_slot: u32,
    slots: u32,
    addresses: Vec<SocketAddr>,
    /// Until the workers have them.
    sockets: Vec<TcpListener>,
    /// All of them have answered once.
    answers: bool,
}

impl PrivateListeners {
    /// For every kind and family that is wanted and not there yet; IPv6 only where the kernel has it.
    pub(super) fn add(&mut self, wanted: &[Wanted], workers: usize) -> io::Result<()> {
        for wanted in wanted {
            for (_, is_v6) in keys(wanted.address) {
                if self.group(wanted.listener, is_v6).is_some() {
                    continue;
                }
                let first_slot = self.0.len() * workers;
                if first_slot + workers > most_slots() {
                    return Err(io::Error::other(format!("{workers} workers are too many")));
                }
                match Group::open(wanted.listener, is_v6, first_slot, workers) {
                    Ok(group) => self.0.push(group),
                    // `[::]` on a node without IPv6 is IPv4's.
                    Err(_) if is_v6 && wanted.address.ip().is_unspecified() => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
    }

    /// First slot and number of slots.
    pub(super) fn group(&self, listener: Listener, is_v6: bool) -> Option<(u32, u32)> {
        let wanted = |group: &&Group| group.listener == listener && group.is_v6 == is_v6;
        let group = self.0.iter().find(wanted)?;
        Some((group.first_slot, group.slots))
    }

    /// Of each group, with as many slots as there are workers.
    pub(super) fn first_slots(&self) -> impl Iterator<Item = u32> {
        self.0.iter().map(|group| group.first_slot)
    }

    /// Those that the workers don't have yet.
    pub(super) fn slots(&self) -> impl Iterator<Item = (u32, &TcpListener)> {
        self.0
            .iter()
            .flat_map(|group| (group.first_slot..).zip(&group.sockets))
    }

    pub(super) fn take_sockets(&mut self, workers: usize) -> Sockets {
        let mut all: Sockets = (0..workers).map(|_| Vec::new()).collect();
        for group in &mut self.0 {
            for (worker, socket) in all.iter_mut().zip(std::mem::take(&mut group.sockets)) {
                worker.push((group.listener, socket));
            }
        }
        all
    }

    /// Every listener that has not done so yet answers a request: workers, parser and configuration are there.
    pub(super) fn ask(&mut self) -> io::Result<()> {
        for group in self.0.iter_mut().filter(|group| !group.answers) {
            group.addresses.iter().copied().try_for_each(ask)?;
            group.answers = true;
        }
        Ok(())
    }
}

impl Group {
    fn open(listener: Listener, is_v6: bool, first_slot: usize, workers: usize) -> io::Result<Self> {
        let sockets = open_all(is_v6, workers)?;
        let addresses: io::Result<_> = sockets.iter().map(TcpListener::local_addr).collect();
        Ok(Self {
            listener,
            is_v6,
            first_slot: u32::try_from(first_slot).map_err(io::Error::other)?,
            slots: u32::try_from(workers).map_err(io::Error::other)?,
            addresses: addresses?,
            sockets,
            answers: false,
        })
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
fn ask(address: SocketAddr) -> io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&address, ANSWER_WITHIN)?;
    stream.set_read_timeout(Some(ANSWER_WITHIN))?;
    stream.set_write_timeout(Some(ANSWER_WITHIN))?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: self-check.invalid\r\nConnection: close\r\n\r\n")?;
    match stream.read(&mut [0; 64])? {
        0 => Err(io::Error::other(format!("{address}: closed without an answer"))),
        _ => Ok(()),
    }
}
