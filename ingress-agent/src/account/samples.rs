//! What the agent measures of an owner by itself: relaxed atomics, since every worker adds to them, now and then.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use ingress_common::account::{BUCKETS, bucket};
use ingress_core::slow::Times;

#[derive(Debug)]
pub(super) struct AtomicTimes {
    counts: [AtomicU64; BUCKETS],
    micros: AtomicU64,
}

impl Default for AtomicTimes {
    fn default() -> Self {
        Self {
            counts: std::array::from_fn(|_| AtomicU64::new(0)),
            micros: AtomicU64::new(0),
        }
    }
}

impl AtomicTimes {
    pub(super) fn observe(&self, micros: u64) {
        if let Some(count) = self.counts.get(bucket(micros)) {
            count.fetch_add(1, Relaxed);
        }
        self.micros.fetch_add(micros, Relaxed);
    }

    fn read(&self) -> Times {
        let count = |n: usize| self.counts.get(n).map_or(0, |count| count.load(Relaxed));
        Times {
            counts: std::array::from_fn(count),
            micros: self.micros.load(Relaxed),
        }
    }
}

/// Of a route: its clients' network, and its requests; of an endpoint: the network to it alone.
#[derive(Debug, Default)]
pub(super) struct Samples {
    pub(super) rtt: AtomicTimes,
    pub(super) connect: AtomicTimes,
    pub(super) first_byte: AtomicTimes,
    pub(super) own: AtomicTimes,
    pub(super) segments: AtomicU64,
    pub(super) retransmits: AtomicU64,
    /// Microseconds that a full receive window on the other side held us up.
    pub(super) window_limited: AtomicU64,
}

/// A copy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sample {
    pub rtt: Times,
    pub connect: Times,
    pub first_byte: Times,
    pub own: Times,
    pub segments: u64,
    pub retransmits: u64,
    pub window_limited: u64,
}

impl Samples {
    pub(super) fn read(&self) -> Sample {
        Sample {
            rtt: self.rtt.read(),
            connect: self.connect.read(),
            first_byte: self.first_byte.read(),
            own: self.own.read(),
            segments: self.segments.load(Relaxed),
            retransmits: self.retransmits.load(Relaxed),
            window_limited: self.window_limited.load(Relaxed),
        }
    }
}

impl Sample {
    pub(super) fn merge(&mut self, other: &Self) {
        self.rtt.merge(&other.rtt);
        self.connect.merge(&other.connect);
        self.first_byte.merge(&other.first_byte);
        self.own.merge(&other.own);
        self.segments += other.segments;
        self.retransmits += other.retransmits;
        self.window_limited += other.window_limited;
    }

    pub(super) fn since(&self, earlier: &Self) -> Self {
        Self {
            rtt: self.rtt.since(&earlier.rtt),
            connect: self.connect.since(&earlier.connect),
            first_byte: self.first_byte.since(&earlier.first_byte),
            own: self.own.since(&earlier.own),
            segments: self.segments.saturating_sub(earlier.segments),
            retransmits: self.retransmits.saturating_sub(earlier.retransmits),
            window_limited: self.window_limited.saturating_sub(earlier.window_limited),
        }
    }
}
