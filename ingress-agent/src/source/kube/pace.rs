//! When to hand on what has changed: soon for one change, seldom for many. A state machine that takes the time as an argument.
//!
//! Endpoints have a lane of their own: they neither wait for rules nor take unfinished changes of rules along.

use std::time::{Duration, Instant};

use super::store::Touched;

/// How long a lone change waits for its siblings (rules come as several objects), and how much lies between two states when changes
/// keep coming.
const ENDPOINTS: Times = Times {
    quiet: Duration::from_millis(2),
    gap: Duration::from_millis(40),
};
const RULES: Times = Times {
    quiet: Duration::from_millis(15),
    gap: Duration::from_millis(100),
};

struct Times {
    quiet: Duration,
    gap: Duration,
}

/// What waits to be handed on.
#[derive(Debug, Default)]
pub(super) struct Pace {
    endpoints: Lane,
    rules: Lane,
}

#[derive(Debug, Default)]
struct Lane {
    due: Option<Instant>,
    sent: Option<Instant>,
}

impl Lane {
    /// The first change of a batch says when it is due.
    fn note(&mut self, times: &Times, now: Instant) {
        let soonest = self.sent.map_or(now, |sent| sent + times.gap);
        self.due.get_or_insert(soonest.max(now + times.quiet));
    }

    fn is_due(&self, now: Instant) -> bool {
        self.due.is_some_and(|due| due <= now)
    }

    fn sent(&mut self, now: Instant) {
        self.due = None;
        self.sent = Some(now);
    }
}

impl Pace {
    pub(super) fn note(&mut self, touched: Touched, now: Instant) {
        match touched {
            Touched::Nothing => {}
            Touched::Endpoints => self.endpoints.note(&ENDPOINTS, now),
            Touched::Rules => self.rules.note(&RULES, now),
        }
    }

    /// When something is to be handed on next.
    pub(super) fn due(&self) -> Option<Instant> {
        [self.endpoints.due, self.rules.due].into_iter().flatten().min()
    }

    /// What is to be handed on now; it counts as done. Rules take the endpoints along.
    pub(super) fn take(&mut self, now: Instant) -> Touched {
        if self.rules.is_due(now) {
            self.rules.sent(now);
            self.endpoints.sent(now);
            Touched::Rules
        } else if self.endpoints.is_due(now) {
            self.endpoints.sent(now);
            Touched::Endpoints
        } else {
            Touched::Nothing
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lone_change_of_endpoints_is_handed_on_after_two_milliseconds() {
        let (mut pace, now) = (Pace::default(), Instant::now());
        pace.note(Touched::Nothing, now);
        assert_eq!(pace.due(), None);
        pace.note(Touched::Endpoints, now);
        assert_eq!(pace.due(), Some(now + ENDPOINTS.quiet));
        assert_eq!(pace.take(now), Touched::Nothing);
        assert_eq!(pace.take(now + ENDPOINTS.quiet), Touched::Endpoints);
        assert_eq!(pace.due(), None);
    }

    #[test]
    fn a_thousand_changes_within_a_second_become_at_most_twenty_six_states() {
        let (mut pace, start) = (Pace::default(), Instant::now());
        let mut sent = 0;
        for millisecond in 0..1000 {
            let now = start + Duration::from_millis(millisecond);
            sent += u32::from(pace.take(now) == Touched::Endpoints);
            pace.note(Touched::Endpoints, now);
        }
        assert!((20..=26).contains(&sent), "{sent}");
    }

    #[test]
    fn endpoints_do_not_wait_for_rules_and_rules_take_endpoints_along() {
        let (mut pace, now) = (Pace::default(), Instant::now());
        pace.note(Touched::Rules, now);
        pace.note(Touched::Endpoints, now);
        assert_eq!(pace.take(now + ENDPOINTS.quiet), Touched::Endpoints);
        assert_eq!(pace.due(), Some(now + RULES.quiet));
        pace.note(Touched::Endpoints, now + RULES.quiet);
        assert_eq!(pace.take(now + RULES.quiet), Touched::Rules);
        assert_eq!(pace.due(), None);
    }
}
