//! How many retries a cluster may have: a share of its requests and a little more, so that retries never become the load.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use super::learned::micros;

/// What one retry costs, in the unit of the bucket.
const RETRY: u64 = 1000;
/// What one request pays in: a retry for every five requests.
const DEPOSIT: u64 = RETRY / 5;
/// What time pays in: ten retries a second, for clusters with few requests.
const PER_SECOND: u64 = 10 * RETRY;
/// A burst of a hundred retries at most.
const FULL: u64 = 100 * RETRY;

/// A bucket of retries. Starts with one second's worth.
#[derive(Debug)]
pub struct RetryBudget {
    tokens: AtomicU64,
    /// When time last paid in, in microseconds.
    paid: AtomicU64,
}

impl Default for RetryBudget {
    fn default() -> Self {
        Self {
            tokens: AtomicU64::new(PER_SECOND),
            paid: AtomicU64::new(0),
        }
    }
}

impl RetryBudget {
    /// Counts a request (not a retry). Writes nothing while the bucket is full, which is nearly always.
    pub fn deposit(&self) {
        if self.tokens.load(Relaxed) < FULL {
            self.add(DEPOSIT);
        }
    }

    /// Whether a retry may be made now; if so, it is paid for.
    pub fn withdraw(&self, now: Duration) -> bool {
        self.pay_for_time(now);
        let less = |tokens: u64| tokens.checked_sub(RETRY);
        self.tokens.fetch_update(Relaxed, Relaxed, less).is_ok()
    }

    fn pay_for_time(&self, now: Duration) {
        let now = micros(now);
        let before = self.paid.fetch_max(now, Relaxed);
        let elapsed = now.saturating_sub(before);
        self.add((elapsed.saturating_mul(PER_SECOND) / 1_000_000).min(FULL));
    }

    fn add(&self, tokens: u64) {
        let more = |old: u64| Some(old.saturating_add(tokens).min(FULL));
        let _ = self.tokens.fetch_update(Relaxed, Relaxed, more);
    }
}
