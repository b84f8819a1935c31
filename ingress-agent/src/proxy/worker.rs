//! One worker: a thread with its own runtime, listening sockets, upstream connections and numbers. Nothing in here is shared but
//! the live state, the limits and the order to drain.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use foldhash::fast::RandomState;
use ingress_core::filter::Forwarding;
use tokio::net::TcpListener;
use tokio::task::{JoinSet, spawn_local};

use super::bell::{Bell, Stroke};
use super::moment;
use super::roster::{Post, Roster, Seat};
use super::serve;
use super::tunnel;
use super::turn_away::{self, TurnedAway};
use super::upstream::{IdleBudget, Settings, Upstreams};
use super::wire;
use crate::account::{Accounts, Desk};
use crate::bans::{Penalties, Teller};
use crate::config::Config;
use crate::drain::{Drain, Ended, Watcher};
use crate::listener::Listener;
use crate::live::Live;
use crate::memory::{self, pressure::Pressure};
use crate::series::SharedSeries;
use crate::telemetry::access_log::{self, AccessLog};
use crate::telemetry::metrics::{self, Inbox, Shard};
use crate::telemetry::record::RequestRecord;

/// What all workers share.
pub struct Shared {
    pub config: Config,
    pub live: Arc<ArcSwap<Live>>,
    pub tls: Arc<rustls::ServerConfig>,
    /// For connections that are only told that there are too many.
    pub tls_to_turn_away: Arc<rustls::ServerConfig>,
    pub limits: Arc<wire::Limits>,
    pub forwarding: Forwarding,
    pub idle_budget: Arc<IdleBudget>,
    pub accounts: Arc<Accounts>,
    pub series: SharedSeries,
    pub drain: Arc<Drain>,
    pub penalties: Arc<Penalties>,
    pub roster: Arc<Roster>,
    pub pressure: Arc<Pressure>,
    /// Open client connections of the whole process.
    pub connections: AtomicUsize,
    /// Where clients reach us by HTTPS.
    pub https_port: AtomicU16,
    pub started: Instant,
}

/// What one worker is given at its start.
pub struct Equipment {
    pub shared: Arc<Shared>,
    /// Its place in the roster, where its sockets are.
    pub index: usize,
    pub access_log: access_log::Sink,
    pub inbox: Inbox,
}

/// The state that a worker's connections and requests share.
pub(crate) struct Worker {
    pub(crate) shared: Arc<Shared>,
    index: usize,
    pub(crate) upstreams: Upstreams,
    pub(crate) shard: Rc<Shard>,
    pub(crate) bans: Teller,
    pub(crate) desk: Rc<Desk>,
    access_log: Rc<AccessLog>,
    /// Rings when an order to drain or to end has come: cheaper to listen to than the order itself, on every poll of every connection.
    pub(crate) bell: Rc<Bell>,
    /// How long an answer that has begun may go on after the order to end.
    pub(crate) grace: Cell<Duration>,
    pub(crate) scratch: tunnel::Scratch,
    wall_clock: Cell<(Instant, SystemTime)>,
    random: RefCell<fastrand::Rng>,
    open: Cell<usize>,
    pub(crate) turned_away: TurnedAway,
    by_source: RefCell<HashMap<IpAddr, usize, RandomState>>,
}

/// Serves until drained. Returns when the last connection has ended.
pub fn run(equipment: Equipment) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .event_interval(31)
        .build_local(tokio::runtime::LocalOptions::default())?;
    runtime.block_on(serve_all(equipment))
}

async fn serve_all(equipment: Equipment) -> io::Result<()> {
    let Equipment {
        shared,
        index,
        access_log,
        inbox,
    } = equipment;
    let upstream = &shared.config.upstream;
    let desk = shared.accounts.desk();
    let settings = Settings {
        idle_timeout: upstream.idle_timeout,
        desk: Some(Rc::clone(&desk)),
        ..Settings::default()
    };
    let worker = Rc::new(Worker {
        upstreams: Upstreams::new(settings, Arc::clone(&shared.idle_budget)),
        shard: Shard::new(Arc::clone(&shared.series)),
        bans: Teller::new(Arc::clone(&shared.penalties)),
        shared,
        index,
        desk,
        access_log: access_log.worker(),
        bell: Rc::default(),
        grace: Cell::default(),
        scratch: tunnel::Scratch::default(),
        wall_clock: Cell::new((Instant::now(), SystemTime::now())),
        random: RefCell::new(fastrand::Rng::new()),
        open: Cell::new(0),
        turned_away: TurnedAway::default(),
        by_source: RefCell::default(),
    });
    let upstreams = worker.upstreams.clone();
    spawn_local(inbox.serve(Rc::clone(&worker.shard), move || pool_numbers(&upstreams)));
    spawn_local(memory::keep_giving_back());
    spawn_local(AccessLog::keep_flushing(Rc::downgrade(&worker.access_log)));
    spawn_local(Desk::watch_lag(Rc::downgrade(&worker.desk)));
    let drained = serve_listeners(&worker);
    spawn_local(ring_orders(Rc::clone(&worker)));
    let mut drain = worker.drain_watcher();
    tokio::select! {
        ended = drained => ended,
        () = drain.cut() => Ok(()),
    }
}

/// Passes the orders on to the connections.
async fn ring_orders(worker: Rc<Worker>) {
    let (bell, mut drain) = (&worker.bell, worker.drain_watcher());
    let spread = drain.ordered().await;
    tokio::select! {
        () = bell.ring_over(Stroke::Drain, spread) => {}
        () = drain.hastened(spread) => bell.ring(Stroke::Drain),
    }
    let (spread, grace) = drain.ending().await;
    worker.grace.set(grace);
    tokio::select! {
        () = bell.ring_over(Stroke::End, spread) => {}
        () = drain.hurried(spread) => {
            worker.grace.set(drain.ending().await.1);
            bell.ring(Stroke::End);
        }
    }
}

fn pool_numbers(upstreams: &Upstreams) -> metrics::UpstreamPool {
    let stats = upstreams.stats();
    metrics::UpstreamPool {
        created: stats.created,
        reused: stats.reused,
        idle: u64::try_from(stats.idle).unwrap_or(u64::MAX),
    }
}

/// Accepts from every listener there is, and takes what waits at other workers that don't. Returns when drained.
async fn serve_listeners(worker: &Rc<Worker>) -> io::Result<()> {
    let roster = Arc::clone(&worker.shared.roster);
    let seat = worker.seat(&roster)?;
    seat.sit_down();
    let mut drain = worker.drain_watcher();
    let mut accepting = JoinSet::new();
    let mut known: Vec<std::sync::Weak<Post>> = Vec::new();
    loop {
        known.retain(|post| post.strong_count() > 0);
        for post in seat.posts().iter() {
            let is_new = known
                .iter()
                .all(|known| !std::ptr::eq(known.as_ptr(), Arc::as_ptr(post)));
            if is_new {
                known.push(Arc::downgrade(post));
                accepting.spawn_local(accept(Rc::clone(worker), Arc::clone(post)));
            }
        }
        tokio::select! {
            Some(ended) = accepting.join_next() => {
                // A panic in one accept loop must not pass for a drain, nor go unseen while the others run.
                ended.map_err(io::Error::other)??;
            }
            () = seat.called() => roster.take(worker.index, |listener, stream, peer| worker.take_std(listener, stream, peer)),
            _ = drain.ordered(), if accepting.is_empty() => break,
        }
    }
    while worker.open.get() > 0 {
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    Ok(())
}

/// Accepts until the listener is taken away or the order to drain comes, and beyond that one for as long as there is something to finish
/// anyway (but not for more than half of `drain-timeout`): whoever still comes here is answered. At the end takes what the kernel has
/// already queued.
async fn accept(worker: Rc<Worker>, post: Arc<Post>) -> io::Result<()> {
    let Some(socket) = post.socket() else {
        return Ok(());
    };
    let listener = post.listener;
    let socket = TcpListener::from_std(socket?)?;
    let roster = Arc::clone(&worker.shared.roster);
    let seat = worker.seat(&roster)?;
    let mut drain = worker.drain_watcher();
    let mut door = roster.doors.door(socket.local_addr()?);
    let drains = loop {
        if door.is_closed() {
            tokio::select! {
                biased;
                _ = drain.ordered() => break true,
                () = post.closing() => break false,
                () = door.open() => {}
            }
        }
        tokio::select! {
            biased;
            _ = drain.ordered() => break true,
            () = post.closing() => break false,
            () = door.changed() => {}
            accepted = socket.accept() => {
                seat.accepted();
                worker.accepted(listener, accepted).await;
            }
        }
    };
    if drains && door.is_closed() {
        // Another agent has the same socket, and takes what is in its queue.
        seat.leave(&post);
        return Ok(());
    }
    let last_call = tokio::time::sleep(worker.shared.config.drain_timeout / 2);
    let mut last_call = std::pin::pin!(last_call);
    while drains && worker.open.get() > 0 {
        tokio::select! {
            biased;
            () = last_call.as_mut() => break,
            accepted = socket.accept() => {
                seat.accepted();
                worker.accepted(listener, accepted).await;
            }
            () = tokio::time::sleep(LOOK_AGAIN) => {}
        }
    }
    seat.leave(&post);
    // Straight from the kernel: the reactor may not have heard of them yet.
    let socket = socket.into_std()?;
    while let Ok((stream, peer)) = socket.accept() {
        worker.take_std(listener, stream, peer)?;
    }
    Ok(())
}

/// While draining, between two looks at whether all is done.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// A connection that was reset in the queue costs nothing; running out of descriptors or memory is waited out.
async fn accept_failed(error: &io::Error) {
    let transient = matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted
    );
    if !transient {
        tracing::error!(%error, "accepting connections fails; trying again in 50 ms");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

impl Worker {
    async fn accepted(
        self: &Rc<Self>,
        listener: Listener,
        accepted: io::Result<(tokio::net::TcpStream, SocketAddr)>,
    ) {
        match accepted {
            Ok((stream, peer)) => self.take(listener, stream, peer),
            Err(error) => accept_failed(&error).await,
        }
    }

    fn seat<'a>(&self, roster: &'a Roster) -> io::Result<&'a Seat> {
        let seat = roster.seat(self.index);
        seat.ok_or_else(|| io::Error::other("there is no seat for this worker"))
    }

    /// As it comes from the kernel.
    fn take_std(
        self: &Rc<Self>,
        listener: Listener,
        stream: std::net::TcpStream,
        peer: SocketAddr,
    ) -> io::Result<()> {
        stream.set_nonblocking(true)?;
        self.take(listener, tokio::net::TcpStream::from_std(stream)?, peer);
        Ok(())
    }

    fn take(self: &Rc<Self>, listener: Listener, stream: tokio::net::TcpStream, peer: SocketAddr) {
        // Without a word, as the kernel does it.
        if self.bans.is_banned(peer.ip()) {
            return self.shard.refused(metrics::Refusal::Banned);
        }
        match ConnectionSlot::take(self, peer.ip().to_canonical()) {
            Ok(slot) => {
                let counted = self.shard.connection(listener);
                let accepted = serve::Accepted {
                    listener,
                    stream,
                    counted,
                    slot,
                };
                spawn_local(serve::connection(Rc::clone(self), accepted));
            }
            Err(refusal) => {
                self.shard.refused(refusal);
                turn_away::turn_away(self, listener, (stream, peer), refusal);
            }
        }
    }

    /// Whether this is a load balancer in front of us (`trusted-proxies`).
    pub(crate) fn trusts(&self, peer: IpAddr) -> bool {
        let trusted = &self.shared.config.trusted_proxies;
        trusted.iter().any(|network| network.contains(&peer))
    }

    pub(crate) fn limits(&self) -> &Arc<wire::Limits> {
        &self.shared.limits
    }

    pub(crate) fn drain_watcher(&self) -> Watcher {
        self.shared.drain.watcher()
    }

    /// When something that has no end of its own has to end because the agent does: clients that come back at once should not all come at once.
    pub(crate) async fn end_of_the_endless(&self) {
        let spread = self.drain_watcher().winding_up().await;
        let share = f64::from(u32::try_from(self.random() >> 32).unwrap_or(0)) / f64::from(u32::MAX);
        tokio::time::sleep(spread.mul_f64(share)).await;
        self.shared.drain.ended(Ended::WebSocket);
    }

    /// Time since the process started: what the balancer counts in.
    pub(crate) fn now(&self) -> Duration {
        self.since_start(moment::now().into_std())
    }

    pub(crate) fn since_start(&self, moment: Instant) -> Duration {
        moment.saturating_duration_since(self.shared.started)
    }

    /// What the clock on the wall said at a moment: asked once a second, and reckoned in between. Without an access log nobody wants to know: the epoch.
    pub(crate) fn wall_clock(&self, moment: Instant) -> SystemTime {
        if self.access_log.is_off() {
            return SystemTime::UNIX_EPOCH;
        }
        let (mut read_at, mut wall) = self.wall_clock.get();
        if moment.saturating_duration_since(read_at) > Duration::from_secs(1) {
            (read_at, wall) = (Instant::now(), SystemTime::now());
            self.wall_clock.set((read_at, wall));
        }
        match moment.checked_duration_since(read_at) {
            Some(later) => wall + later,
            None => wall - read_at.saturating_duration_since(moment),
        }
    }

    pub(crate) fn random(&self) -> u64 {
        self.random.borrow_mut().u64(..)
    }

    /// The end of a request: numbers and log.
    pub(crate) fn finished(&self, record: &RequestRecord<'_>) {
        self.shard.record(record);
        self.bans.finished(record);
        self.access_log.log(record);
    }
}

/// A connection's place within the limits; given back when dropped.
pub(crate) struct ConnectionSlot {
    worker: Rc<Worker>,
    /// `None` for a trusted proxy, whose connections are many clients'.
    source: Option<IpAddr>,
}

impl ConnectionSlot {
    fn take(worker: &Rc<Worker>, peer: IpAddr) -> Result<Self, metrics::Refusal> {
        if worker.shared.pressure.is_short() {
            return Err(metrics::Refusal::Memory);
        }
        let mut slot = Self {
            worker: Rc::clone(worker),
            source: None,
        };
        let open = &worker.shared.connections;
        worker.open.set(worker.open.get() + 1);
        if open.fetch_add(1, Ordering::Relaxed) >= worker.shared.config.limits.max_connections {
            return Err(metrics::Refusal::Limit);
        }
        slot.count_for(peer)?;
        Ok(slot)
    }

    /// From now on the connection counts as this address's: the peer's, then the client's that a PROXY header names.
    pub(crate) fn count_for(&mut self, source: IpAddr) -> Result<(), metrics::Refusal> {
        let worker = Rc::clone(&self.worker);
        if self.source == Some(source) || worker.trusts(source) {
            return Ok(());
        }
        let limits = &worker.shared.config.limits;
        // Sources spread over the workers by their port, so each worker watches its share.
        let per_source = limits
            .max_connections_per_source
            .div_ceil(worker.shared.config.workers);
        let mut by_source = worker.by_source.borrow_mut();
        let held = by_source.entry(source).or_insert(0);
        if *held >= per_source {
            return Err(metrics::Refusal::SourceLimit);
        }
        *held += 1;
        drop(by_source);
        self.uncount();
        self.source = Some(source);
        Ok(())
    }

    fn uncount(&mut self) {
        let Some(source) = self.source.take() else {
            return;
        };
        let mut by_source = self.worker.by_source.borrow_mut();
        if let Some(held) = by_source.get_mut(&source) {
            *held = held.saturating_sub(1);
            if *held == 0 {
                by_source.remove(&source);
            }
        }
    }
}

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        self.uncount();
        let worker = &self.worker;
        worker.open.set(worker.open.get().saturating_sub(1));
        worker.shared.connections.fetch_sub(1, Ordering::Relaxed);
    }
}
