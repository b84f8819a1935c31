//! How long to wait before the next attempt: exponential, with jitter, so that thousands of agents don't come back at once.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(400);
const LONGEST: Duration = Duration::from_secs(30);

/// The attempts since the last success.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// Something went well.
    pub(super) fn reset(&mut self) {
        self.failures = 0;
    }

    /// The wait after one more failure; `random` is from 0 to 1, `asked` is what the server wants at least (Retry-After).
    pub(super) fn next(&mut self, random: f64, asked: Option<Duration>) -> Duration {
        let ceiling = FIRST.saturating_mul(1 << self.failures.min(10)).min(LONGEST);
        self.failures = self.failures.saturating_add(1);
        // Half of it for certain, the rest by chance.
        let wait = ceiling.mul_f64(f64::midpoint(1.0, random.clamp(0.0, 1.0)));
        // A server that asks for hours is not obeyed to the letter.
        let asked = asked.unwrap_or_default().min(LONGEST * 4);
        wait.max(asked.mul_f64(1.0 + random.clamp(0.0, 1.0) / 2.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_half_a_minute_and_differ_by_chance() {
        let mut backoff = Backoff::default();
        let waits: Vec<_> = (0..12).map(|_| backoff.next(1.0, None)).collect();
        assert_eq!(waits[0], FIRST);
        assert!(waits.windows(2).all(|pair| pair[0] <= pair[1]));
        assert_eq!(waits[11], LONGEST);
        assert_eq!(backoff.next(0.0, None), LONGEST / 2);
        backoff.reset();
        assert_eq!(backoff.next(1.0, None), FIRST);
    }

    #[test]
    fn a_server_that_names_a_time_gets_it_within_reason() {
        let asked = |seconds| Backoff::default().next(0.0, Some(Duration::from_secs(seconds)));
        assert_eq!(asked(7), Duration::from_secs(7));
        assert_eq!(asked(86_400), LONGEST * 4);
    }
}
