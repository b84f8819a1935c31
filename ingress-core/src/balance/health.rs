//! Passive health: failures in a row take an endpoint out for a while.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use super::learned::micros;

/// So many failures in a row eject.
const THRESHOLD: u32 = 5;
/// The first ejection; each further one takes twice as long.
const FIRST: Duration = Duration::from_secs(10);
const LONGEST: Duration = Duration::from_secs(300);

#[derive(Debug, Default)]
pub(super) struct Health {
    /// Failures since the last answer.
    failures: AtomicU32,
    /// Ejections that were not yet forgiven.
    ejections: AtomicU32,
    /// Microseconds.
    ejected_until: AtomicU64,
}

impl Health {
    /// An attempt failed; says whether that ejects. `may_eject` is asked only when it comes to that.
    pub(super) fn failed(&self, now: Duration, may_eject: impl FnOnce() -> bool) -> bool {
        let failures = self.failures.load(Relaxed).saturating_add(1);
        self.failures.store(failures, Relaxed);
        if failures < THRESHOLD || self.ejected_for(now).is_some() || !may_eject() {
            return false;
        }
        let before = self.ejections.load(Relaxed);
        let time = FIRST
            .saturating_mul(1_u32.checked_shl(before.min(16)).unwrap_or(1))
            .min(LONGEST);
        self.ejections.store(before.saturating_add(1), Relaxed);
        self.ejected_until
            .store(micros(now.saturating_add(time)), Relaxed);
        // When it comes back, one more failure is enough.
        self.failures.store(THRESHOLD - 1, Relaxed);
        true
    }

    /// An attempt got an answer: the endpoint is well; past ejections are forgiven after a long good time.
    pub(super) fn answered(&self, now: Duration) {
        if self.failures.load(Relaxed) != 0 {
            self.failures.store(0, Relaxed);
        }
        if self.ejections.load(Relaxed) != 0 {
            let end = Duration::from_micros(self.ejected_until.load(Relaxed));
            if now.saturating_sub(end) >= LONGEST {
                self.ejections.store(0, Relaxed);
            }
        }
    }

    pub(super) fn ejected_for(&self, now: Duration) -> Option<Duration> {
        match self.ejected_until.load(Relaxed) {
            0 => None,
            until => Duration::from_micros(until)
                .checked_sub(now)
                .filter(|left| !left.is_zero()),
        }
    }
}
