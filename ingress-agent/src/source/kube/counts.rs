//! What is counted of the cluster source, for metrics and readiness.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwapOption;

use super::resource::Resource;

/// Shared by the source, which counts, and the admin pages, which show.
#[derive(Debug, Default)]
pub struct SourceCounts {
    connected: AtomicBool,
    /// Seconds since 1970; 0 while connected.
    disconnected_since: AtomicU64,
    by_resource: [Counts; Resource::ALL.len()],
    publications: AtomicU64,
    /// Seconds since 1970; 0 while the state in force is the cluster's own.
    stored: AtomicU64,
    /// Why there is no first state yet.
    waiting: ArcSwapOption<String>,
}

#[derive(Debug, Default)]
struct Counts {
    events: AtomicU64,
    lists: AtomicU64,
    failures: AtomicU64,
}

impl SourceCounts {
    pub(super) fn new() -> Self {
        let counts = Self::default();
        counts.disconnected_since.store(unix_now(), Ordering::Relaxed);
        counts
    }

    pub(super) fn event(&self, resource: Resource) {
        add(&self.of(resource).events);
    }

    pub(super) fn list(&self, resource: Resource) {
        add(&self.of(resource).lists);
    }

    pub(super) fn failure(&self, resource: Resource) {
        add(&self.of(resource).failures);
    }

    pub(super) fn publication(&self) {
        add(&self.publications);
    }

    pub(super) fn set_connected(&self, connected: bool) {
        let before = self.connected.swap(connected, Ordering::Relaxed);
        if connected {
            self.disconnected_since.store(0, Ordering::Relaxed);
        } else if before {
            self.disconnected_since.store(unix_now(), Ordering::Relaxed);
        }
    }

    pub(super) fn set_stored(&self, saved: u64) {
        self.stored.store(saved, Ordering::Relaxed);
    }

    pub(super) fn set_waiting(&self, why: Option<String>) {
        self.waiting.store(why.map(Into::into));
    }

    /// Every watch is up.
    pub fn is_connected(&self) -> bool {
        self.connected.load(Ordering::Relaxed)
    }

    /// Seconds since 1970; 0 while connected.
    pub fn disconnected_since(&self) -> u64 {
        self.disconnected_since.load(Ordering::Relaxed)
    }

    pub fn events(&self, resource: Resource) -> u64 {
        self.of(resource).events.load(Ordering::Relaxed)
    }

    /// Complete lists received, the first included.
    pub fn lists(&self, resource: Resource) -> u64 {
        self.of(resource).lists.load(Ordering::Relaxed)
    }

    pub fn failures(&self, resource: Resource) -> u64 {
        self.of(resource).failures.load(Ordering::Relaxed)
    }

    /// When the state in force was saved, if it is one that was kept on the node; seconds since 1970, else 0.
    pub fn stored(&self) -> u64 {
        self.stored.load(Ordering::Relaxed)
    }

    /// States handed to the publisher.
    pub fn publications(&self) -> u64 {
        self.publications.load(Ordering::Relaxed)
    }

    /// Why there is no first state yet.
    pub fn waiting(&self) -> Option<String> {
        self.waiting.load().as_deref().cloned()
    }

    fn of(&self, resource: Resource) -> &Counts {
        // In the order of `Resource::ALL`, which is that of its variants.
        &self.by_resource[resource as usize]
    }
}

fn add(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

fn unix_now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs()
}
