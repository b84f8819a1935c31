//! One worker's numbers. Touched by that worker's thread alone; others get copies.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use foldhash::fast::RandomState;
use ingress_core::name::ObjectRef;
use ingress_core::reason::Reason;

use super::histogram::Histogram;
use crate::listener::Listener;
use crate::series::SharedSeries;
use crate::telemetry::record::{HttpVersion, RequestRecord, UpstreamRecord};

/// Counts for one worker. Share it within the worker by `Rc`.
#[derive(Debug)]
pub struct Shard {
    live: SharedSeries,
    numbers: RefCell<ShardSnapshot>,
    recent: RefCell<Recent>,
}

/// What was counted since somebody last asked, by the address of its object: names are long to hash. Each object is held meanwhile, so that
/// no other one gets its address.
#[derive(Debug, Default)]
struct Recent {
    routes: ByAddress<RouteSeries>,
    services: ByAddress<ServiceSeries>,
}

type ByAddress<T> = HashMap<usize, (Arc<ObjectRef>, T), RandomState>;

/// With more objects than this the recent counts go to where the names are, also when nobody asks.
const MOST_RECENT: usize = 256;

/// A copy of a shard's numbers; several add up.
#[derive(Clone, Debug, Default)]
pub struct ShardSnapshot {
    pub routes: HashMap<Arc<ObjectRef>, RouteSeries, RandomState>,
    /// Requests that no route took.
    pub unrouted: RouteSeries,
    /// Routes beyond the bound, all together.
    pub other_routes: RouteSeries,
    pub services: HashMap<Arc<ObjectRef>, ServiceSeries, RandomState>,
    pub other_services: ServiceSeries,
    /// By [`Reason`], in the order of `Reason::ALL`.
    pub answers: [u64; REASONS],
    /// Open now, by listener and what is spoken on it (`None` first: not known yet).
    pub connections: [[i64; PROTOCOLS]; 2],
    pub connections_opened: [u64; 2],
    pub refused: [u64; 4],
    pub tls_handshakes: [u64; 3],
    pub upstream_events: [u64; UpstreamEvent::COUNT],
    pub upstream_pool: UpstreamPool,
}

const REASONS: usize = Reason::ALL.len();
/// "unknown" and each [`HttpVersion`].
const PROTOCOLS: usize = 1 + HttpVersion::ALL.len();

/// What is counted for each route object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RouteSeries {
    /// 1xx to 5xx; what has no status (the client left) stands first.
    pub by_class: [u64; 6],
    pub duration: Histogram,
    pub request_bytes: u64,
    pub response_bytes: u64,
}

/// What is counted for each backend Service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceSeries {
    pub connect: Histogram,
    pub first_byte: Histogram,
    pub retries: u64,
}

/// Why a connection was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// `max-connections`.
    Limit,
    /// `max-connections-per-source`.
    SourceLimit,
    /// Its source is banned.
    Banned,
    /// `memory-limit`.
    Memory,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsOutcome {
    Ok,
    Failed,
    TimedOut,
}

/// What happens to connections with backends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpstreamEvent {
    ConnectFailed,
    /// An endpoint was taken out because it kept failing.
    Ejected,
}

/// What a worker's pool counts by itself; asked for with each copy of the numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UpstreamPool {
    pub created: u64,
    pub reused: u64,
    /// Open now and unused.
    pub idle: u64,
}

impl Shard {
    pub fn new(live: SharedSeries) -> Rc<Self> {
        Rc::new(Self {
            live,
            numbers: RefCell::default(),
            recent: RefCell::default(),
        })
    }

    /// Counts a finished request.
    pub fn record(&self, record: &RequestRecord<'_>) {
        match record.route.map(|route| &route.object) {
            Some(object) => self.recent(|recent| &mut recent.routes, object, |series| series.count(record)),
            None => self.numbers.borrow_mut().unrouted.count(record),
        }
        if let Some(upstream) = &record.upstream {
            let service = &upstream.cluster.service;
            self.recent(
                |recent| &mut recent.services,
                service,
                |series| series.count(upstream),
            );
        }
        if let Some(reason) = record.reason {
            bump(&mut self.numbers.borrow_mut().answers, reason as usize);
        }
    }

    /// Counts in the recent series of an object.
    fn recent<T: Default>(
        &self,
        of: impl Fn(&mut Recent) -> &mut ByAddress<T>,
        object: &Arc<ObjectRef>,
        count: impl FnOnce(&mut T),
    ) {
        let mut recent = self.recent.borrow_mut();
        let address = Arc::as_ptr(object).addr();
        if let Some((_, series)) = of(&mut recent).get_mut(&address) {
            return count(series);
        }
        if of(&mut recent).len() >= MOST_RECENT {
            self.settle(&mut recent);
        }
        let (_, series) = of(&mut recent)
            .entry(address)
            .or_insert_with(|| (Arc::clone(object), T::default()));
        count(series);
    }

    /// Adds what was counted by address to what is counted by name.
    fn settle(&self, recent: &mut Recent) {
        let mut numbers = self.numbers.borrow_mut();
        for (_, (object, series)) in recent.routes.drain() {
            numbers.route(&object, &self.live).add(&series);
        }
        for (_, (object, series)) in recent.services.drain() {
            numbers.service(&object, &self.live).add(&series);
        }
    }

    /// A client connection; it counts as open until the value is dropped.
    pub fn connection(self: &Rc<Self>, listener: Listener) -> Connection {
        let mut numbers = self.numbers.borrow_mut();
        bump(&mut numbers.connections_opened, listener as usize);
        drop(numbers);
        self.shift(listener, None, 1);
        Connection {
            shard: Rc::clone(self),
            listener,
            speaks: None,
        }
    }

    pub fn refused(&self, refusal: Refusal) {
        bump(&mut self.numbers.borrow_mut().refused, refusal as usize);
    }

    pub fn tls_handshake(&self, outcome: TlsOutcome) {
        bump(&mut self.numbers.borrow_mut().tls_handshakes, outcome as usize);
    }

    pub fn upstream(&self, event: UpstreamEvent) {
        bump(&mut self.numbers.borrow_mut().upstream_events, event as usize);
    }

    /// A copy, after what belongs to vanished objects has been let go.
    pub fn snapshot(&self) -> ShardSnapshot {
        self.settle(&mut self.recent.borrow_mut());
        let mut numbers = self.numbers.borrow_mut();
        numbers.sweep(&self.live);
        numbers.clone()
    }

    /// Route and service series held now, without the sweep that a snapshot makes.
    #[cfg(test)]
    pub(super) fn series(&self) -> (usize, usize) {
        self.settle(&mut self.recent.borrow_mut());
        let numbers = self.numbers.borrow();
        (numbers.routes.len(), numbers.services.len())
    }

    fn shift(&self, listener: Listener, speaks: Option<HttpVersion>, by: i64) {
        let mut numbers = self.numbers.borrow_mut();
        let place = speaks.map_or(0, |version| 1 + version as usize);
        let row = numbers.connections.get_mut(listener as usize);
        if let Some(gauge) = row.and_then(|row| row.get_mut(place)) {
            *gauge += by;
        }
    }
}

/// Counts one open client connection while it lives.
#[derive(Debug)]
pub struct Connection {
    shard: Rc<Shard>,
    listener: Listener,
    speaks: Option<HttpVersion>,
}

impl Connection {
    /// Tells what is spoken on it, once that is known.
    pub fn speaks(&mut self, version: HttpVersion) {
        if self.speaks != Some(version) {
            self.shard.shift(self.listener, self.speaks, -1);
            self.shard.shift(self.listener, Some(version), 1);
            self.speaks = Some(version);
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.shard.shift(self.listener, self.speaks, -1);
    }
}

impl UpstreamPool {
    fn add(&mut self, other: Self) {
        self.created += other.created;
        self.reused += other.reused;
        self.idle += other.idle;
    }
}

impl UpstreamEvent {
    pub const COUNT: usize = 2;
}

impl ShardSnapshot {
    /// Adds another worker's numbers.
    pub fn add(&mut self, other: Self) {
        for (object, series) in other.routes {
            self.routes.entry(object).or_default().add(&series);
        }
        for (object, series) in other.services {
            self.services.entry(object).or_default().add(&series);
        }
        self.unrouted.add(&other.unrouted);
        self.other_routes.add(&other.other_routes);
        self.other_services.add(&other.other_services);
        add_all(&mut self.answers, &other.answers);
        add_all(&mut self.connections_opened, &other.connections_opened);
        add_all(&mut self.refused, &other.refused);
        add_all(&mut self.tls_handshakes, &other.tls_handshakes);
        add_all(&mut self.upstream_events, &other.upstream_events);
        self.upstream_pool.add(other.upstream_pool);
        for (mine, theirs) in self
            .connections
            .iter_mut()
            .flatten()
            .zip(other.connections.iter().flatten())
        {
            *mine += theirs;
        }
    }

    pub fn upstream_event(&self, event: UpstreamEvent) -> u64 {
        self.upstream_events
            .get(event as usize)
            .copied()
            .unwrap_or_default()
    }

    /// The series of an object, or the common one when the object has none of its own.
    fn route(&mut self, object: &Arc<ObjectRef>, live: &SharedSeries) -> &mut RouteSeries {
        if !self.routes.contains_key(object) {
            let live = live.load();
            if !live.has_route(object) {
                return &mut self.other_routes;
            }
            // Vanished objects must not pile up where nobody scrapes.
            if self.routes.len() >= live.route_count() {
                self.routes.retain(|object, _| live.has_route(object));
            }
        }
        self.routes.entry(Arc::clone(object)).or_default()
    }

    fn service(&mut self, object: &Arc<ObjectRef>, live: &SharedSeries) -> &mut ServiceSeries {
        if !self.services.contains_key(object) {
            let live = live.load();
            if !live.has_service(object) {
                return &mut self.other_services;
            }
            // Vanished objects must not pile up where nobody scrapes.
            if self.services.len() >= live.service_count() {
                self.services.retain(|object, _| live.has_service(object));
            }
        }
        self.services.entry(Arc::clone(object)).or_default()
    }

    fn sweep(&mut self, live: &SharedSeries) {
        let live = live.load();
        self.routes.retain(|object, _| live.has_route(object));
        self.services.retain(|object, _| live.has_service(object));
        self.routes.shrink_to(self.routes.len() * 2);
        self.services.shrink_to(self.services.len() * 2);
    }
}

impl RouteSeries {
    fn count(&mut self, record: &RequestRecord<'_>) {
        let class = usize::from(record.status / 100);
        bump(&mut self.by_class, if class < 6 { class } else { 0 });
        self.duration.observe(record.duration);
        self.request_bytes = self.request_bytes.saturating_add(record.request_bytes);
        self.response_bytes = self.response_bytes.saturating_add(record.response_bytes);
    }

    fn add(&mut self, other: &Self) {
        add_all(&mut self.by_class, &other.by_class);
        self.duration.add(&other.duration);
        self.request_bytes = self.request_bytes.saturating_add(other.request_bytes);
        self.response_bytes = self.response_bytes.saturating_add(other.response_bytes);
    }
}

impl ServiceSeries {
    fn count(&mut self, upstream: &UpstreamRecord<'_>) {
        if let Some(connect) = upstream.connect {
            self.connect.observe(connect);
        }
        if let Some(first_byte) = upstream.first_byte {
            self.first_byte.observe(first_byte);
        }
        self.retries += u64::from(upstream.attempts.saturating_sub(1));
    }

    fn add(&mut self, other: &Self) {
        self.connect.add(&other.connect);
        self.first_byte.add(&other.first_byte);
        self.retries += other.retries;
    }
}

fn bump(counters: &mut [u64], place: usize) {
    if let Some(counter) = counters.get_mut(place) {
        *counter += 1;
    }
}

fn add_all(mine: &mut [u64], theirs: &[u64]) {
    for (mine, theirs) in mine.iter_mut().zip(theirs) {
        *mine += theirs;
    }
}
