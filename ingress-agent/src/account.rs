//! Who a connection belongs to, and what is known of each owner: sums of the kernel's side and samples of our own.
//!
//! Owners are routes and endpoints. Each gets a number when a worker meets it first; a number is never given twice in the life of a process, so
//! what comes late is never added to somebody else. Workers touch this only through their [`Desk`]: no lock on the way of a request.

mod desk;
mod report;
mod samples;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use foldhash::fast::RandomState;
use ingress_common::account::{BACKEND, CLIENT, NOBODY, OTHERS, SumKey, Sums};
use ingress_core::host::HostPattern;
use ingress_core::name::ObjectRef;
use ingress_core::snapshot::Route;

use crate::kernel::account::Accounting;

pub(crate) use self::desk::listener_tag;
pub use self::desk::{ClientLine, ClientTcp, Desk, EndpointLine, Finished, LineGuard};
pub use self::report::{BackendFigures, Ends, NetworkFigures, RouteFigures, TcpTotals, Totals};
use self::samples::{Sample, Samples};

/// Shared by the workers, the admin pages and the metrics.
pub struct Accounts {
    kernel: Option<Arc<Accounting>>,
    book: Mutex<Book>,
    /// How late workers are.
    lag: Samples,
    /// Ends the thread below.
    stop: Mutex<Option<Sender<()>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// A route or an endpoint, as the kernel's side and our samples know it.
#[derive(Debug)]
pub struct Owner {
    number: u32,
    samples: Samples,
}

#[derive(Debug, Default)]
struct Book {
    routes: HashMap<RouteName, Arc<Owner>, RandomState>,
    endpoints: HashMap<SocketAddr, Arc<Owner>, RandomState>,
    /// The last that was given.
    last: u32,
    /// One for all that there is no room for.
    others: Option<Arc<Owner>>,
    /// The readings before: what is shown as recent is what came since the older one.
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
    samples: HashMap<u32, Sample>,
    lag: Sample,
}

/// Routes and endpoints that are told apart; the kernel's table has room for as many, and for both listeners of some.
const MOST_OWNERS: usize = 8_192;
/// How often the window of what is recent moves on: it holds one to two of these.
const WINDOW: Duration = Duration::from_secs(60);

impl Accounts {
    /// `None`: by samples alone.
    pub fn new(kernel: Option<Arc<Accounting>>) -> Arc<Self> {
        Arc::new(Self {
            kernel,
            book: Mutex::default(),
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
                while stopped.recv_timeout(WINDOW) == Err(RecvTimeoutError::Timeout) {
                    match accounts.upgrade() {
                        Some(accounts) => accounts.turn(),
                        None => return,
                    }
                }
            })?;
        *lock(&self.stop) = Some(stop);
        *lock(&self.thread) = Some(thread);
        Ok(())
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

    fn kernel(&self) -> Option<&Accounting> {
        self.kernel.as_deref()
    }

    fn route(&self, route: &Route) -> Arc<Owner> {
        let mut book = lock(&self.book);
        let name = RouteName::of(route);
        if let Some(known) = book.routes.get(&name) {
            return Arc::clone(known);
        }
        let owner = book.admit();
        if owner.number != OTHERS {
            book.routes.insert(name, Arc::clone(&owner));
        }
        owner
    }

    fn endpoint(&self, address: SocketAddr) -> Arc<Owner> {
        let mut book = lock(&self.book);
        if let Some(known) = book.endpoints.get(&address) {
            return Arc::clone(known);
        }
        let owner = book.admit();
        if owner.number != OTHERS {
            book.endpoints.insert(address, Arc::clone(&owner));
        }
        owner
    }

    /// The window moves on, and owners that nobody holds and nothing came from are forgotten.
    fn turn(&self) {
        let sums = self.kernel().map(Accounting::sums).unwrap_or_default();
        let mut book = lock(&self.book);
        let gone = book.forget_idle(&sums);
        let now = book.reading(sums, &self.lag);
        book.earlier.swap(0, 1);
        if let Some(newer) = book.earlier.get_mut(1) {
            *newer = now;
        }
        drop(book);
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

impl Book {
    fn admit(&mut self) -> Arc<Owner> {
        if self.routes.len() + self.endpoints.len() >= MOST_OWNERS || self.last >= OTHERS - 1 {
            let others = self.others.get_or_insert_with(|| Owner::numbered(OTHERS));
            return Arc::clone(others);
        }
        self.last += 1;
        Owner::numbered(self.last)
    }

    fn owners(&self) -> impl Iterator<Item = &Arc<Owner>> {
        self.routes.values().chain(self.endpoints.values())
    }

    fn reading(&self, sums: HashMap<SumKey, Sums>, lag: &Samples) -> Reading {
        Reading {
            sums,
            samples: self
                .owners()
                .map(|owner| (owner.number, owner.samples.read()))
                .collect(),
            lag: lag.read(),
        }
    }

    /// An owner goes when no worker holds it and nothing was counted for it in the window; and so do sums of owners that went before.
    fn forget_idle(&mut self, sums: &HashMap<SumKey, Sums>) -> Vec<SumKey> {
        let [older, _] = &self.earlier;
        let of = |sums: &HashMap<SumKey, Sums>, number: u32| -> u64 {
            let own = sums.iter().filter(|(key, _)| key.owner == number);
            own.map(|(_, sums)| sums.get(ingress_common::account::CONNECTIONS))
                .sum()
        };
        let full = self.routes.len() + self.endpoints.len() > MOST_OWNERS / 2;
        let keep = |owner: &Arc<Owner>| {
            !full
                || Arc::strong_count(owner) > 1
                || older.samples.get(&owner.number) != Some(&owner.samples.read())
                || of(&older.sums, owner.number) != of(sums, owner.number)
        };
        self.routes.retain(|_, owner| keep(owner));
        self.endpoints.retain(|_, owner| keep(owner));
        let known: std::collections::HashSet<u32> = self
            .owners()
            .map(|owner| owner.number)
            .chain([NOBODY, OTHERS])
            .collect();
        sums.keys()
            .filter(|key| !known.contains(&key.owner))
            .copied()
            .collect()
    }
}

impl Owner {
    fn numbered(number: u32) -> Arc<Self> {
        Arc::new(Self {
            number,
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
