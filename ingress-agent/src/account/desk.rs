//! A worker's side of accounting: it tags sockets where the tag changes, and samples a part of the requests.
//!
//! A client's connection belongs to the route of its latest request; where requests of many routes come by one connection, it changes hands at
//! most ten times a second. A connection to an endpoint belongs to that endpoint for its whole life. Both cost the ordinary request nothing.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, RawFd};
use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use foldhash::fast::RandomState;
use ingress_common::account::{NOBODY, Tag};
use ingress_core::snapshot::Route;
use tokio::net::{TcpSocket, TcpStream};

use super::{Accounts, BACKEND, CLIENT, Owner, Samples};
use crate::kernel::account::{Accounting, TcpInfo, monotonic, tcp_info};
use crate::listener::Listener;

/// One a worker.
pub struct Desk {
    accounts: Arc<Accounts>,
    /// By the route's place in memory, which a weak reference keeps anybody else from having.
    routes: RefCell<HashMap<usize, Known, RandomState>>,
    endpoints: RefCell<HashMap<SocketAddr, Arc<Owner>, RandomState>>,
}

/// A route's owner; the route itself may go meanwhile.
type Known = (Weak<Route>, Arc<Owner>);

/// Entries that a worker remembers before it starts anew: what is not used any more goes with that.
const REMEMBERED: usize = 1024;
/// Of this many requests of a connection one is looked at, and each that is slow.
const ONE_OF: u32 = 16;
/// From here on a request is slow enough to be looked at in any case.
const SLOW: Duration = Duration::from_millis(100);
/// A connection changes its route at most once in this time.
const CHANGES: Duration = Duration::from_millis(100);
/// How often a worker's lateness is measured.
const LAG_EVERY: Duration = Duration::from_millis(250);

impl Desk {
    pub(super) fn new(accounts: Arc<Accounts>) -> Rc<Self> {
        Rc::new(Self {
            accounts,
            routes: RefCell::default(),
            endpoints: RefCell::default(),
        })
    }

    /// A client's connection, just accepted.
    pub fn client(self: &Rc<Self>, stream: &TcpStream, listener: Listener) -> Rc<ClientLine> {
        Rc::new(ClientLine {
            desk: Rc::clone(self),
            socket: Cell::new(Some(stream.as_raw_fd())),
            listener,
            accepted: self.kernel().map_or(0, |_| monotonic()),
            route: RefCell::default(),
            requests: Turns::default(),
            seen: Cell::default(),
        })
    }

    /// Opens a connection to an endpoint, which counts from its first packet on.
    ///
    /// # Errors
    /// When it can't be opened.
    pub async fn connect(&self, address: SocketAddr) -> io::Result<TcpStream> {
        let Some(kernel) = self.kernel() else {
            return TcpStream::connect(address).await;
        };
        let socket = match address {
            SocketAddr::V4(_) => TcpSocket::new_v4(),
            SocketAddr::V6(_) => TcpSocket::new_v6(),
        }?;
        let tag = Tag {
            side: BACKEND,
            owner: self.owner_of(address).number,
            ..Tag::default()
        };
        kernel.tag(socket.as_raw_fd(), &tag);
        socket.connect(address).await
    }

    pub fn endpoint(&self, address: SocketAddr) -> EndpointLine {
        EndpointLine {
            owner: self.owner_of(address),
            uses: Turns::default(),
            seen: Cell::default(),
        }
    }

    /// Measures how late this worker comes to what is due, for as long as somebody holds its desk.
    pub async fn watch_lag(desk: std::rc::Weak<Self>) {
        loop {
            let due = tokio::time::Instant::now() + LAG_EVERY;
            tokio::time::sleep_until(due).await;
            let Some(desk) = desk.upgrade() else { return };
            // The timer's own steps are a millisecond.
            let late = due.elapsed().saturating_sub(Duration::from_millis(1));
            desk.accounts.lag.own.observe(micros(late));
        }
    }

    fn kernel(&self) -> Option<&Accounting> {
        self.accounts.kernel()
    }

    fn owner_of(&self, address: SocketAddr) -> Arc<Owner> {
        let mut known = self.endpoints.borrow_mut();
        if known.len() > REMEMBERED {
            known.clear();
        }
        let owner = known
            .entry(address)
            .or_insert_with(|| self.accounts.endpoint(address));
        Arc::clone(owner)
    }

    fn owner_of_route(&self, route: &Arc<Route>) -> Arc<Owner> {
        let mut known = self.routes.borrow_mut();
        if known.len() > REMEMBERED {
            known.clear();
        }
        let place = Arc::as_ptr(route).addr();
        let (_, owner) = known
            .entry(place)
            .or_insert_with(|| (Arc::downgrade(route), self.accounts.route(route)));
        Arc::clone(owner)
    }
}

impl std::fmt::Debug for Desk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Desk").finish_non_exhaustive()
    }
}

/// A client's connection. Knows its socket only as long as that is open: see [`Self::guard`].
pub struct ClientLine {
    desk: Rc<Desk>,
    socket: Cell<Option<RawFd>>,
    listener: Listener,
    accepted: u64,
    route: RefCell<Option<Belongs>>,
    requests: Turns,
    seen: Cell<Seen>,
}

struct Belongs {
    route: Weak<Route>,
    owner: Arc<Owner>,
    since: Instant,
}

/// What was counted of a connection already.
#[derive(Clone, Copy, Default)]
struct Seen {
    segments: u32,
    retransmits: u32,
    window_limited: u64,
}

/// When a connection is looked at: the first times more often, since many have no more.
#[derive(Default)]
struct Turns(Cell<u32>);

impl Turns {
    fn is_due(&self) -> bool {
        let turn = self.0.get().wrapping_add(1);
        self.0.set(turn);
        turn.is_multiple_of(ONE_OF) || (turn < ONE_OF && turn.is_power_of_two())
    }
}

/// A request at its end.
#[derive(Clone, Copy, Debug)]
pub struct Finished {
    pub duration: Duration,
    /// Until the head of the answer was there; `None` without one.
    pub head: Option<Duration>,
    pub connect: Option<Duration>,
    /// Of the endpoint; `None` where none answered, or the request's body was waited for.
    pub first_byte: Option<Duration>,
    /// One attempt, so that what is left of the time is the agent's own.
    pub once: bool,
}

/// What the access log tells of the client's connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientTcp {
    pub rtt: Duration,
    pub least_rtt: Duration,
    /// Since the connection began.
    pub retransmits: u32,
}

impl ClientLine {
    /// Goes with the socket and before it: from then on the line knows no socket, whoever still holds it.
    pub fn guard(self: &Rc<Self>) -> LineGuard {
        LineGuard(Rc::clone(self))
    }

    /// A request of this connection has its route.
    pub fn routed(&self, route: &Arc<Route>, now: Instant) {
        let mut belongs = self.route.borrow_mut();
        if let Some(belongs) = &*belongs {
            let early = now.saturating_duration_since(belongs.since) < CHANGES;
            if early || Weak::as_ptr(&belongs.route) == Arc::as_ptr(route) {
                return;
            }
        }
        let owner = self.desk.owner_of_route(route);
        let is_same = belongs
            .as_ref()
            .is_some_and(|belongs| belongs.owner.number == owner.number);
        if let (false, Some(kernel), Some(socket)) = (is_same, self.desk.kernel(), self.socket.get()) {
            kernel.tag(socket, &self.tag(owner.number));
        }
        *belongs = Some(Belongs {
            route: Arc::downgrade(route),
            owner,
            since: now,
        });
    }

    fn tag(&self, owner: u32) -> Tag {
        Tag {
            side: CLIENT,
            listener: listener_number(self.listener),
            owner,
            accepted: self.accepted,
            ..Tag::default()
        }
    }

    /// A request of this route has ended; `None` where it was not looked at.
    pub fn finished(&self, route: &Arc<Route>, request: &Finished) -> Option<ClientTcp> {
        let is_due = self.requests.is_due();
        if request.duration < SLOW && !is_due {
            return None;
        }
        let owner = self.desk.owner_of_route(route);
        owner.samples.request(request);
        self.look(&owner.samples)
    }

    /// The client's network, now.
    fn look(&self, samples: &Samples) -> Option<ClientTcp> {
        let socket = self.socket.get()?;
        let info = tcp_info(socket)?;
        self.seen.set(samples.network(&info, self.seen.get()));
        Some(ClientTcp {
            rtt: Duration::from_micros(info.rtt.into()),
            least_rtt: Duration::from_micros(info.least_rtt.into()),
            retransmits: info.retransmits,
        })
    }
}

/// Listeners' numbers in tags; 0 is none.
pub(super) fn listener_number(listener: Listener) -> u32 {
    match listener {
        Listener::Http => 1,
        Listener::Https => 2,
    }
}

/// What a listener's sockets are tagged with, and those begin with that they accept.
pub(crate) fn listener_tag(listener: Listener) -> Tag {
    Tag {
        side: CLIENT,
        listener: listener_number(listener),
        owner: NOBODY,
        ..Tag::default()
    }
}

/// See [`ClientLine::guard`].
pub struct LineGuard(Rc<ClientLine>);

impl Drop for LineGuard {
    fn drop(&mut self) {
        // What was sent again after the last look; connections without any request are the kernel's to count.
        if let Some(belongs) = &*self.0.route.borrow() {
            self.0.look(&belongs.owner.samples);
        }
        self.0.socket.set(None);
    }
}

/// A kept connection to an endpoint.
pub struct EndpointLine {
    owner: Arc<Owner>,
    uses: Turns,
    seen: Cell<Seen>,
}

impl EndpointLine {
    /// An exchange is over.
    pub fn used(&self, socket: RawFd) {
        if !self.uses.is_due() {
            return;
        }
        if let Some(info) = tcp_info(socket) {
            let info = TcpInfo {
                rtt: info.request_rtt(),
                ..info
            };
            self.seen.set(self.owner.samples.network(&info, self.seen.get()));
        }
    }
}

impl Samples {
    fn request(&self, request: &Finished) {
        if let Some(connect) = request.connect {
            self.connect.observe(micros(connect));
        }
        if let Some(first_byte) = request.first_byte {
            self.first_byte.observe(micros(first_byte));
        }
        if let (true, Some(head), Some(first_byte)) = (request.once, request.head, request.first_byte) {
            let endpoint = first_byte + request.connect.unwrap_or_default();
            self.own.observe(micros(head.saturating_sub(endpoint)));
        }
    }

    fn network(&self, info: &TcpInfo, seen: Seen) -> Seen {
        if info.rtt > 0 {
            self.rtt.observe(info.rtt.into());
        }
        self.segments
            .fetch_add(info.segments_out.wrapping_sub(seen.segments).into(), Relaxed);
        self.retransmits
            .fetch_add(info.retransmits.wrapping_sub(seen.retransmits).into(), Relaxed);
        self.window_limited
            .fetch_add(info.window_limited.saturating_sub(seen.window_limited), Relaxed);
        Seen {
            segments: info.segments_out,
            retransmits: info.retransmits,
            window_limited: info.window_limited,
        }
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
