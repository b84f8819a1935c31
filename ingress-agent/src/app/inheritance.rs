//! Listening sockets that are bound, and go from agent to agent: those of the agent before, and ours for the one after.

use std::collections::BTreeSet;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::sync::{Mutex, PoisonError};

use crate::config::Config;
use crate::kernel::control::{self, MOST_PASSED};

/// What the agent before gave us, and nobody has taken yet.
#[derive(Debug, Default)]
pub(super) struct Inherited(control::Inherited);

impl Inherited {
    /// Asks the agents of this network namespace. Only for addresses with a fixed port, which somebody else could have.
    pub(super) fn ask(config: &Config) -> Self {
        let wanted = config.http.iter().chain(&config.https);
        if wanted.into_iter().all(|address| address.port() == 0) {
            return Self::default();
        }
        // That agents cannot meet is said when this one takes over.
        let place = control::meeting_place(&config.kernel.run_dir);
        Self(place.map(|place| control::listeners(&place)).unwrap_or_default())
    }

    pub(super) fn has(&self, address: SocketAddr) -> bool {
        self.0.iter().any(|(held, _)| *held == address)
    }

    /// The sockets of an address by worker: each has a worker, and each worker has one; where there are too few, several share a queue.
    pub(super) fn take(&mut self, address: SocketAddr, workers: usize) -> io::Result<Vec<Vec<TcpListener>>> {
        let (ours, rest): (control::Inherited, _) = std::mem::take(&mut self.0)
            .into_iter()
            .partition(|(held, _)| *held == address);
        self.0 = rest;
        // It is theirs as well as ours, and was so before; but nobody here may ever wait in it.
        ours.iter()
            .try_for_each(|(_, socket)| socket.set_nonblocking(true))?;
        spread(ours, workers)
    }
}

fn spread(sockets: control::Inherited, workers: usize) -> io::Result<Vec<Vec<TcpListener>>> {
    let mut all: Vec<Vec<TcpListener>> = (0..workers).map(|_| Vec::new()).collect();
    let count = sockets.len();
    let mut shared = Vec::new();
    for (worker, index) in (count..workers).zip((0..count).cycle()) {
        if let Some((_, socket)) = sockets.get(index) {
            shared.push((worker, socket.try_clone()?));
        }
    }
    let own = sockets
        .into_iter()
        .enumerate()
        .map(|(index, (_, socket))| (index % workers.max(1), socket));
    for (worker, socket) in own.chain(shared) {
        if let Some(sockets) = all.get_mut(worker) {
            sockets.push(socket);
        }
    }
    Ok(all)
}

/// Our own bound sockets, for an agent that takes over; until this one drains.
#[derive(Debug, Default)]
pub(super) struct Heirlooms {
    sockets: Mutex<Vec<(SocketAddr, TcpListener)>>,
    /// Addresses whose sockets came from the agent before.
    adopted: BTreeSet<SocketAddr>,
}

impl Heirlooms {
    pub(super) fn keep(&self, address: SocketAddr, socket: &TcpListener) -> io::Result<()> {
        let socket = socket.try_clone()?;
        self.lock().push((address, socket));
        Ok(())
    }

    /// The address is not served any more: whoever still comes is refused, and does not wait in a queue that nobody looks into.
    pub(super) fn forget(&self, address: SocketAddr) {
        self.lock().retain(|(kept, _)| *kept != address);
    }

    pub(super) fn adopted(&mut self, address: SocketAddr) {
        self.adopted.insert(address);
    }

    /// Addresses that an agent before us has too.
    pub(super) fn adopted_addresses(&self) -> Vec<SocketAddr> {
        self.adopted.iter().copied().collect()
    }

    /// How many sockets are accepted from there.
    pub(super) fn loops(&self) -> usize {
        let sockets = self.lock();
        let shared = sockets
            .iter()
            .filter(|(address, _)| self.adopted.contains(address));
        shared.count()
    }

    /// Addresses that are bound, and not steered.
    pub(super) fn addresses(&self) -> BTreeSet<SocketAddr> {
        self.lock().iter().map(|(address, _)| *address).collect()
    }

    /// So many that a line has room for, and how many come after them; without those that another agent has taken already.
    pub(super) fn some(&self, skip: usize, taken: &[SocketAddr]) -> io::Result<(Vec<OwnedFd>, usize)> {
        let sockets = self.lock();
        let ours = sockets.iter().filter(|(address, _)| !taken.contains(address));
        let rest: Vec<_> = ours.skip(skip).collect();
        let some = rest
            .iter()
            .take(MOST_PASSED)
            .map(|(_, socket)| Ok(socket.try_clone()?.into()))
            .collect::<io::Result<Vec<OwnedFd>>>()?;
        let more = rest.len() - some.len();
        Ok((some, more))
    }

    /// They end with the workers, and are nobody's to inherit any more.
    pub(super) fn close(&self) {
        self.lock().clear();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<(SocketAddr, TcpListener)>> {
        self.sockets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sockets(count: usize) -> control::Inherited {
        let bound = || TcpListener::bind("127.0.0.1:0").unwrap();
        let sockets = (0..count).map(|_| bound());
        sockets
            .map(|socket| (socket.local_addr().unwrap(), socket))
            .collect()
    }

    #[test]
    fn no_inherited_socket_and_no_worker_is_left_out_whatever_their_numbers() {
        for (count, workers) in [(1, 1), (2, 3), (3, 2), (1, 4), (5, 2), (4, 4)] {
            let all = spread(sockets(count), workers).unwrap();
            assert_eq!(all.len(), workers);
            assert!(all.iter().all(|sockets| !sockets.is_empty()), "{count} {workers}");
            let served: BTreeSet<_> = all
                .iter()
                .flatten()
                .map(|socket| socket.local_addr().unwrap())
                .collect();
            assert_eq!(served.len(), count, "{count} sockets for {workers}");
        }
    }

    #[test]
    fn a_page_of_sockets_says_how_many_are_left() {
        let all = Heirlooms::default();
        for (address, socket) in sockets(MOST_PASSED + 3) {
            all.keep(address, &socket).unwrap();
        }
        let (first, more) = all.some(0, &[]).unwrap();
        assert_eq!((first.len(), more), (MOST_PASSED, 3));
        let (last, none) = all.some(MOST_PASSED, &[]).unwrap();
        assert_eq!((last.len(), none), (3, 0));
        let taken: Vec<_> = all.addresses().into_iter().skip(1).collect();
        assert_eq!(all.some(0, &taken).unwrap().0.len(), 1, "what nobody has taken");
        all.forget(taken[0]);
        assert_eq!(all.some(0, &[]).unwrap().1, 2, "one is not served any more");
        all.close();
        assert_eq!(all.some(0, &[]).unwrap().0.len(), 0);
    }
}
