//! Who a connection belongs to, and what is known of each owner: sums of the kernel's side and samples of our own.
//!
//! Owners are routes and endpoints. Each gets a number when a worker meets it first; a number is never given twice in the life of a process, so
//! what comes late is never added to somebody else. Workers touch this only through their [`Desk`]: no lock on the way of a request.

mod connections;
mod desk;
mod report;
mod samples;

use std::collections::{HashMap, HashSet};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsRawFd;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use foldhash::fast::RandomState;
use ingress_common::account::{BACKEND, CLIENT, CONNECTIONS, NOBODY, OTHERS, SumKey, Sums};
use ingress_core::host::HostPattern;
use ingress_core::name::ObjectRef;
use ingress_core::snapshot::Route;

use crate::kernel::account::queues::Queues;
use crate::kernel::account::{Accounting, MOST_OWNERS};
use crate::listener::Listener;

pub use self::connections::{ConnectionFigures, ConnectionsView, Ending, Reason, RouteOf, Side};
pub(crate) use self::desk::listener_tag;
pub use self::desk::{ClientLine, ClientTcp, Desk, EndpointLine, Finished, LineGuard};
pub use self::report::{BackendFigures, Ends, NetworkFigures, RouteFigures, TcpTotals, Totals};
use self::samples::{Sample, Samples};

/// Shared by the workers, the admin pages and the metrics.
pub struct Accounts {
    kernel: Option<Arc<Accounting>>,
    queues: Option<Arc<Queues>>,
    /// Held for moments: a worker that meets a route first waits for it.
    book: Mutex<Book>,
    /// Held while figures are made.
    history: Mutex<History>,
    /// Held while what the kernel's side tells is read.
    remembered: Mutex<connections::Remembered>,
    /// How late workers are.
    lag: Samples,
    /// Ends the thread below.
    stop: Mutex<Option<Sender<()>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// A route or an endpoint, as the kernel's side and our samples know it.
#[derive(Debug)]
pub struct Owner {
    side: u32,
    number: u32,
    name: Name,
    samples: Samples,
}

#[derive(Debug)]
enum Name {
    Route(RouteName),
    Endpoint(SocketAddr),
    /// All that there is no room for.
    Others,
}

#[derive(Debug)]
struct Book {
    routes: HashMap<RouteName, Arc<Owner>, RandomState>,
    endpoints: HashMap<SocketAddr, Arc<Owner>, RandomState>,
    /// The last that was given.
    last: u32,
    /// Clients, then backends.
    others: [Arc<Owner>; 2],
}

/// What was read before.
#[derive(Debug, Default)]
struct History {
    /// What is shown as recent is what came since the older one, which stands first.
    earlier: [Reading; 2],
    ledger: report::Ledger,
}

/// What a route is, whatever snapshot it stands in.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct RouteName {
    object: Arc<ObjectRef>,
    host: HostPattern,
    path: (u8, Box<str>),
}

/// Everything at one moment.
#[derive(Debug, Default)]
struct Reading {
    sums: HashMap<SumKey, Sums>,
    /// By side and number.
    samples: HashMap<(u32, u32), Sample>,
    lag: Sample,
}

/// How often the window of what is recent moves on: it holds one to two of these.
const LOOKS_IN_WINDOW: u32 = 60;
/// How often the listeners' queues are looked at.
const LOOKS_AT_QUEUES: u32 = 5;
/// How often single connections are read: the kernel's side has room for what comes in this time.
const LOOK: Duration = Duration::from_secs(1);

impl Accounts {
    /// `kernel`: `None` is by samples alone. `queues` are looked at from time to time.
    pub fn new(kernel: Option<Arc<Accounting>>, queues: Option<Arc<Queues>>) -> Arc<Self> {
        Arc::new(Self {
            kernel,
            queues,
            book: Mutex::default(),
            history: Mutex::default(),
            remembered: Mutex::default(),
            lag: Samples::default(),
            stop: Mutex::default(),
            thread: Mutex::default(),
        })
    }

    /// The window moves on from here; without it everything since the start is recent.
    ///
    /// # Errors
    /// When the thread can't be made.
    pub fn start(self: &Arc<Self>) -> std::io::Result<()> {
        let (stop, stopped) = channel();
        let accounts = Arc::downgrade(self);
        let thread = std::thread::Builder::new()
            .name("account".into())
            .spawn(move || {
                let mut looks = 0_u32;
                while stopped.recv_timeout(LOOK) == Err(RecvTimeoutError::Timeout) {
                    let Some(accounts) = accounts.upgrade() else {
                        return;
                    };
                    looks = looks.wrapping_add(1);
                    accounts.look(looks);
                }
            })?;
        *lock(&self.stop) = Some(stop);
        *lock(&self.thread) = Some(thread);
        Ok(())
    }

    /// What is due once a second, and what at some of these times.
    fn look(&self, looks: u32) {
        if let Some(kernel) = self.kernel() {
            self.hear(kernel);
        }
        if looks.is_multiple_of(LOOKS_IN_WINDOW) {
            self.turn();
        }
        if let (Some(queues), true) = (&self.queues, looks.is_multiple_of(LOOKS_AT_QUEUES)) {
            queues.look();
        }
    }

    /// Ends the thread.
    pub fn stop(&self) {
        drop(lock(&self.stop).take());
        if let Some(thread) = lock(&self.thread).take() {
            let _ = thread.join();
        }
    }

    /// What a worker has of all this.
    pub fn desk(self: &Arc<Self>) -> std::rc::Rc<Desk> {
        Desk::new(Arc::clone(self))
    }

    /// Before a listening socket's first connection: what it accepts counts from its first packet on.
    pub(crate) fn listens(&self, listener: Listener, socket: &TcpListener) {
        if let Some(kernel) = self.kernel() {
            kernel.tag(socket.as_raw_fd(), &listener_tag(listener));
        }
        if let Some(queues) = &self.queues {
            queues.watch(listener.as_str(), socket);
        }
    }

    fn kernel(&self) -> Option<&Accounting> {
        self.kernel.as_deref()
    }

    fn route(&self, route: &Route) -> Arc<Owner> {
        let mut book = lock(&self.book);
        let name = RouteName::of(route);
        if let Some(known) = book.routes.get(&name) {
            return Arc::clone(known);
        }
        let Some(number) = book.next() else {
            let [clients, _] = &book.others;
            return Arc::clone(clients);
        };
        let owner = Owner::new(CLIENT, number, Name::Route(name.clone()));
        book.routes.insert(name, Arc::clone(&owner));
        owner
    }

    fn endpoint(&self, address: SocketAddr) -> Arc<Owner> {
        let mut book = lock(&self.book);
        if let Some(known) = book.endpoints.get(&address) {
            return Arc::clone(known);
        }
        let Some(number) = book.next() else {
            let [_, backends] = &book.others;
            return Arc::clone(backends);
        };
        let owner = Owner::new(BACKEND, number, Name::Endpoint(address));
        book.endpoints.insert(address, Arc::clone(&owner));
        owner
    }

    fn owners(&self) -> Vec<Arc<Owner>> {
        lock(&self.book).owners().cloned().collect()
    }

    /// Everything, now; the sums are those of the kernel's side.
    fn read(&self, owners: &[Arc<Owner>]) -> Reading {
        let sample = |owner: &Arc<Owner>| ((owner.side, owner.number), owner.samples.read());
        Reading {
            sums: self.kernel().map(Accounting::sums).unwrap_or_default(),
            samples: owners.iter().map(sample).collect(),
            lag: self.lag.read(),
        }
    }

    /// The window moves on, and owners that nobody holds and nothing came from are forgotten.
    fn turn(&self) {
        let now = self.read(&self.owners());
        let mut history = lock(&self.history);
        let [older, _] = &history.earlier;
        let gone = lock(&self.book).forget_idle(older, &now);
        history.earlier.swap(0, 1);
        let [_, newer] = &mut history.earlier;
        *newer = now;
        drop(history);
        if let Some(kernel) = self.kernel() {
            gone.iter().for_each(|key| kernel.forget(key));
        }
    }
}

impl std::fmt::Debug for Accounts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Accounts")
            .field("kernel", &self.kernel)
            .finish_non_exhaustive()
    }
}

impl Default for Book {
    fn default() -> Self {
        Self {
            routes: HashMap::default(),
            endpoints: HashMap::default(),
            last: NOBODY,
            others: [CLIENT, BACKEND].map(|side| Owner::new(side, OTHERS, Name::Others)),
        }
    }
}

impl Book {
    /// `None` where there is no room for one more.
    fn next(&mut self) -> Option<u32> {
        if self.len() >= MOST_OWNERS || self.last >= OTHERS - 1 {
            return None;
        }
        self.last += 1;
        Some(self.last)
    }

    fn len(&self) -> usize {
        self.routes.len() + self.endpoints.len()
    }

    fn owners(&self) -> impl Iterator<Item = &Arc<Owner>> {
        self.routes
            .values()
            .chain(self.endpoints.values())
            .chain(&self.others)
    }

    /// When half of the room is taken, an owner goes that no worker holds and nothing was counted for in the window. Says which sums nobody
    /// asks for any more.
    fn forget_idle(&mut self, older: &Reading, now: &Reading) -> Vec<SumKey> {
        let (before, after) = (older.connections(), now.connections());
        let is_half_full = self.len() > MOST_OWNERS / 2;
        let keep = |owner: &Arc<Owner>| {
            let place = (owner.side, owner.number);
            !is_half_full
                || Arc::strong_count(owner) > 1
                || older.samples.get(&place) != now.samples.get(&place)
                || before.get(&place) != after.get(&place)
        };
        self.routes.retain(|_, owner| keep(owner));
        self.endpoints.retain(|_, owner| keep(owner));
        let numbers = self.owners().map(|owner| owner.number);
        let known: HashSet<u32> = numbers.chain([NOBODY]).collect();
        let unknown = now.sums.keys().filter(|key| !known.contains(&key.owner));
        unknown.copied().collect()
    }
}

impl Reading {
    /// By side and owner, over all listeners.
    fn connections(&self) -> HashMap<(u32, u32), u64> {
        let mut all = HashMap::new();
        for (key, sums) in &self.sums {
            *all.entry((key.side, key.owner)).or_default() += sums.get(CONNECTIONS);
        }
        all
    }
}

impl Owner {
    fn new(side: u32, number: u32, name: Name) -> Arc<Self> {
        Arc::new(Self {
            side,
            number,
            name,
            samples: Samples::default(),
        })
    }
}

impl RouteName {
    fn of(route: &Route) -> Self {
        let (kind, path) = route.path.key();
        Self {
            object: Arc::clone(&route.object),
            host: route.host.clone(),
            path: (kind, path.into()),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
