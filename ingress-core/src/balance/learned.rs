//! What happens to one endpoint from request to request.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use arc_swap::ArcSwapOption;

use super::{Attempt, Latency, Learned, LiveEndpoint, hash};
use crate::resource::Endpoint;

/// How long an endpoint that joins others takes to get its full share (a JVM is slow at first).
pub(super) const SLOW_START: Duration = Duration::from_secs(10);

/// No endpoint that takes part gets less than this share of its share: with none it would never warm up.
const LEAST_SHARE: f64 = 0.1;

/// Seconds. Differences far below this are chance: a near pod wins by more.
const NOISE: f64 = 0.000_2;

impl LiveEndpoint {
    /// Counts a request in flight; call before connecting.
    pub fn begin(&self) {
        self.learned.load.in_flight.fetch_add(1, Relaxed);
    }

    /// Takes the request out of flight and learns from how it went. Says whether that ejected the endpoint.
    pub fn end(&self, attempt: Attempt, now: Duration) -> bool {
        let learned = &self.learned;
        let less = |count: u32| Some(count.saturating_sub(1));
        let _ = learned.load.in_flight.fetch_update(Relaxed, Relaxed, less);
        match attempt {
            Attempt::Abandoned => false,
            Attempt::Failed => learned.health.failed(now, || learned.may_be_ejected(now)),
            Attempt::Answered { status, latency } => {
                learned.health.answered(now);
                learned.latency.learn(latency, now, status < 500);
                false
            }
        }
    }

    /// What an affinity cookie remembers: 16 hexadecimal digits, the same on every node.
    pub fn sticky_id(&self) -> String {
        format!("{:016x}", self.id)
    }

    pub fn in_flight(&self) -> u32 {
        self.learned.load.in_flight.load(Relaxed)
    }

    /// The peak EWMA of the time to a response's head, if anything was measured yet.
    pub fn latency(&self, now: Duration) -> Option<Duration> {
        let seconds = self.learned.latency.seconds(now)?;
        Duration::try_from_secs_f64(seconds).ok()
    }

    /// How much longer passive health keeps it out, if it does.
    pub fn ejected_for(&self, now: Duration) -> Option<Duration> {
        self.learned.health.ejected_for(now)
    }

    pub(super) fn is_ejected(&self, now: Duration) -> bool {
        self.ejected_for(now).is_some()
    }

    /// The share of its full load that it may get, up to 1.
    pub(super) fn share(&self, now: Duration) -> f64 {
        self.learned.load.share(now)
    }

    pub(super) fn id(&self) -> u64 {
        self.id
    }

    /// The expected cost of one more request; `unknown` stands in while nothing was measured.
    pub(super) fn cost(&self, now: Duration, unknown: f64) -> f64 {
        let seconds = self.learned.latency.seconds(now).unwrap_or(unknown);
        (seconds + NOISE) * (f64::from(self.in_flight()) + 1.0)
    }

    /// The same by the last measurement, however long ago that was: what is not asked for fades, and would seem ever cheaper than what is.
    pub(super) fn lasting_cost(&self, other: &Self) -> f64 {
        let own = self.learned.latency.last().or(other.learned.latency.last());
        (own.unwrap_or(1.0) + NOISE) * (f64::from(self.in_flight()) + 1.0)
    }

    pub(super) fn measured(&self, now: Duration) -> Option<f64> {
        self.learned.latency.seconds(now)
    }

    pub(super) fn new(endpoint: Endpoint, learned: Arc<Learned>) -> Self {
        Self {
            id: hash::endpoint_id(endpoint.address),
            endpoint,
            learned,
        }
    }
}

impl Learned {
    pub(super) fn new() -> Self {
        Self {
            load: Load::default(),
            latency: Latency::default(),
            health: Arc::default(),
            peers: ArcSwapOption::empty(),
        }
    }

    /// At most half of the peers are out at a time, so that a fault of our own does not empty the set.
    fn may_be_ejected(&self, now: Duration) -> bool {
        self.peers.load().as_ref().is_some_and(|peers| {
            let out = peers.iter().filter(|peer| peer.ejected_for(now).is_some());
            (out.count() + 1) * 2 <= peers.len()
        })
    }
}

/// Requests in flight, and since when there may be any.
#[derive(Debug)]
pub(super) struct Load {
    in_flight: AtomicU32,
    /// Microseconds; [`NOT_READY`], or 0 for one that never had to start slowly.
    ready_since: AtomicU64,
}

const NOT_READY: u64 = u64::MAX;

impl Default for Load {
    fn default() -> Self {
        Self {
            in_flight: AtomicU32::new(0),
            ready_since: AtomicU64::new(NOT_READY),
        }
    }
}

impl Load {
    pub(super) fn is_ready(&self) -> bool {
        self.ready_since.load(Relaxed) != NOT_READY
    }

    /// It takes requests from `now` on; slowly at first when it joins others.
    pub(super) fn set_ready(&self, now: Duration, joins_others: bool) {
        let since = if joins_others { micros(now).max(1) } else { 0 };
        self.ready_since.store(since, Relaxed);
    }

    pub(super) fn set_not_ready(&self) {
        self.ready_since.store(NOT_READY, Relaxed);
    }

    fn share(&self, now: Duration) -> f64 {
        match self.ready_since.load(Relaxed) {
            0 | NOT_READY => 1.0,
            since => {
                let age = now.saturating_sub(Duration::from_micros(since));
                (age.as_secs_f64() / SLOW_START.as_secs_f64()).clamp(LEAST_SHARE, 1.0)
            }
        }
    }
}

/// Whole microseconds; more than half a million years saturate.
pub(super) fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
