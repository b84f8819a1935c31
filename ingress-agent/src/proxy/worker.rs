//! What a worker's connections and requests share, and a connection's place within the limits. Nothing in here is shared between workers
//! but the live state, the limits and the order to drain.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use foldhash::fast::RandomState;
use ingress_core::filter::Forwarding;

use super::bell::Bell;
use super::moment;
use super::roster::{Roster, Seat};
use super::tunnel;
use super::turned_away::TurnedAway;
use super::upstream::{IdleBudget, Settings, Upstreams};
use super::wire;
use crate::account::{Accounts, Desk};
use crate::bans::{Penalties, Teller};
use crate::config::Config;
use crate::drain::{Drain, Ended, Watcher};
use crate::live::Live;
use crate::memory::pressure::Pressure;
use crate::series::SharedSeries;
use crate::telemetry::access_log::AccessLog;
use crate::telemetry::metrics::{self, Shard};
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

/// The state that a worker's connections and requests share.
pub(crate) struct Worker {
    pub(crate) shared: Arc<Shared>,
    pub(super) index: usize,
    pub(crate) upstreams: Upstreams,
    pub(crate) shard: Rc<Shard>,
    pub(crate) bans: Teller,
    pub(crate) desk: Rc<Desk>,
    pub(super) access_log: Rc<AccessLog>,
    /// Rings when an order to drain or to end has come: cheaper to listen to than the order itself, on every poll of every connection.
    pub(crate) bell: Rc<Bell>,
    /// How long an answer that has begun may go on after the order to end.
    pub(crate) grace: Cell<Duration>,
    pub(crate) scratch: tunnel::Scratch,
    wall_clock: Cell<(Instant, SystemTime)>,
    random: RefCell<fastrand::Rng>,
    /// Client connections of this worker.
    pub(super) open: Cell<usize>,
    pub(crate) turned_away: TurnedAway,
    by_source: RefCell<HashMap<IpAddr, usize, RandomState>>,
}

impl Worker {
    pub(super) fn new(shared: Arc<Shared>, index: usize, access_log: Rc<AccessLog>) -> Rc<Self> {
        let desk = shared.accounts.desk();
        let settings = Settings {
            idle_timeout: shared.config.upstream.idle_timeout,
            desk: Some(Rc::clone(&desk)),
            ..Settings::default()
        };
        Rc::new(Self {
            upstreams: Upstreams::new(settings, Arc::clone(&shared.idle_budget)),
            shard: Shard::new(Arc::clone(&shared.series)),
            bans: Teller::new(Arc::clone(&shared.penalties)),
            shared,
            index,
            desk,
            access_log,
            bell: Rc::default(),
            grace: Cell::default(),
            scratch: tunnel::Scratch::default(),
            wall_clock: Cell::new((Instant::now(), SystemTime::now())),
            random: RefCell::new(fastrand::Rng::new()),
            open: Cell::new(0),
            turned_away: TurnedAway::default(),
            by_source: RefCell::default(),
        })
    }

    pub(super) fn seat<'a>(&self, roster: &'a Roster) -> io::Result<&'a Seat> {
        let seat = roster.seat(self.index);
        seat.ok_or_else(|| io::Error::other("there is no seat for this worker"))
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
    pub(super) fn take(worker: &Rc<Worker>, peer: IpAddr) -> Result<Self, metrics::Refusal> {
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
