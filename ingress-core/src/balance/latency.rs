//! The peak EWMA of an endpoint's latency: rises at once with a slow answer, falls over seconds with fast ones.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use super::learned::micros;

/// The time in which an old measurement loses all but 1/e of its weight.
const DECAY: Duration = Duration::from_secs(10);

/// A measurement of 0 would make an endpoint free, whatever is in flight.
const FLOOR: f64 = 1e-6;

/// Two atomics rather than one: a reader that sees one new and one old misjudges a single choice.
#[derive(Debug, Default)]
pub(super) struct Latency {
    /// Seconds, as the bits of an `f64`; 0 until something was measured.
    seconds: AtomicU64,
    /// When that was, in microseconds.
    at: AtomicU64,
}

impl Latency {
    /// Takes a measurement in. `may_fall` is false for a server error: failing fast must not attract requests.
    pub(super) fn learn(&self, latency: Duration, now: Duration, may_fall: bool) {
        let measured = latency.as_secs_f64().max(FLOOR);
        let next = match self.last() {
            None if may_fall => measured,
            None => return,
            Some(old) if measured >= old => measured,
            Some(_) if !may_fall => return,
            Some(old) => measured + (old - measured) * self.weight_left(now),
        };
        self.seconds.store(next.to_bits(), Relaxed);
        self.at.store(micros(now), Relaxed);
    }

    /// The expected latency. Fades while nothing is measured, so that a slow endpoint gets another chance.
    pub(super) fn seconds(&self, now: Duration) -> Option<f64> {
        let stored = self.last()?;
        Some((stored * self.weight_left(now)).max(FLOOR))
    }

    /// The last one, without fading.
    pub(super) fn last(&self) -> Option<f64> {
        match self.seconds.load(Relaxed) {
            0 => None,
            bits => Some(f64::from_bits(bits)),
        }
    }

    fn weight_left(&self, now: Duration) -> f64 {
        let age = now.saturating_sub(Duration::from_micros(self.at.load(Relaxed)));
        fading(age.as_secs_f64() / DECAY.as_secs_f64())
    }
}

/// `e` to the power of `-x`, for `x` from 0 on. Where traffic is, the last measurement is a moment old: there the first terms of the series
/// say the same for a fraction of the cost.
fn fading(x: f64) -> f64 {
    const NEAR: f64 = 0.1;
    if x > NEAR {
        return (-x).exp();
    }
    1.0 - x * (1.0 - x / 2.0 * (1.0 - x / 3.0 * (1.0 - x / 4.0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fading_is_the_exponential_to_seven_digits() {
        for step in 0..=2000 {
            let x = f64::from(step) / 1000.0;
            assert!((fading(x) / (-x).exp() - 1.0).abs() < 1e-7, "{x}");
        }
    }
}
