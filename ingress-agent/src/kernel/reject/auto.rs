//! When names that nobody serves are rejected instead of counted: while they come faster than a rate, and for some calm time after.
//!
//! Pure: time and the count are arguments.

use std::time::Duration;

/// Over how long the rate is taken.
const WINDOW: Duration = Duration::from_secs(1);
/// How long it has to be calm (below half the rate) before strangers get an answer again.
const CALM: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(super) struct Auto {
    above: u32,
    /// Begin of the window, and the count then.
    window: (Duration, u64),
    /// Since when it has been calm, while rejecting.
    calm_since: Option<Duration>,
    rejecting: bool,
}

impl Auto {
    /// `above` so many a second.
    pub(super) fn new(above: u32) -> Self {
        Self {
            above,
            window: (Duration::ZERO, 0),
            calm_since: None,
            rejecting: false,
        }
    }

    /// Whether to reject from now on. `unmatched` counts since the beginning.
    pub(super) fn look(&mut self, now: Duration, unmatched: u64) -> bool {
        let (begin, before) = self.window;
        let elapsed = now.saturating_sub(begin);
        if elapsed < WINDOW {
            // A flood need not wait for the window's end.
            let came = unmatched.saturating_sub(before);
            if !self.rejecting && came > u64::from(self.above) {
                self.begin_rejecting();
            }
            return self.rejecting;
        }
        let came = unmatched.saturating_sub(before) as f64 / elapsed.as_secs_f64();
        self.window = (now, unmatched);
        if came > f64::from(self.above) {
            self.begin_rejecting();
        } else if came > f64::from(self.above) / 2.0 {
            self.calm_since = None;
        } else if self.rejecting && now.saturating_sub(*self.calm_since.get_or_insert(begin)) >= CALM {
            self.rejecting = false;
        }
        self.rejecting
    }

    fn begin_rejecting(&mut self) {
        self.rejecting = true;
        self.calm_since = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What it says after each 200 ms with so many strangers a second.
    fn run(auto: &mut Auto, clock: &mut (Duration, u64), seconds: u64, a_second: u64) -> Vec<bool> {
        (0..seconds * 5)
            .map(|_| {
                clock.0 += Duration::from_millis(200);
                clock.1 += a_second / 5;
                auto.look(clock.0, clock.1)
            })
            .collect()
    }

    #[test]
    fn it_rejects_within_a_second_of_a_flood_and_answers_again_after_ten_calm_ones() {
        let (mut auto, mut clock) = (Auto::new(100), (Duration::ZERO, 0));
        assert!(run(&mut auto, &mut clock, 30, 90).iter().all(|on| !on));
        let flood = run(&mut auto, &mut clock, 3, 1000);
        assert!(flood[1..].iter().all(|on| *on), "{flood:?}");
        assert!(
            run(&mut auto, &mut clock, 30, 60).iter().all(|on| *on),
            "not calm enough"
        );
        let calm = run(&mut auto, &mut clock, 15, 10);
        assert!(calm[..40].iter().all(|on| *on) && !calm[70], "{calm:?}");
    }

    #[test]
    fn a_single_stranger_is_answered() {
        let (mut auto, mut clock) = (Auto::new(100), (Duration::ZERO, 0));
        clock.1 = 1;
        assert!(run(&mut auto, &mut clock, 5, 0).iter().all(|on| !on));
    }
}
