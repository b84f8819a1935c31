//! The log of problems with objects: each once when it comes and once when it goes, within a bound for each reason, so that ten thousand
//! alike don't fill a disk. What is left out is counted, and said; `/diagnostics` has them all. Knows no clock.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use ingress_core::diagnostic::{Diagnostic, Severity};

/// Lines of one reason: so many at once, and one more each interval.
const BURST: u32 = 20;
const INTERVAL: Duration = Duration::from_millis(500);
/// Between two lines that say how many were left out.
const SUM_UP: Duration = Duration::from_secs(10);

/// What a line says of a problem.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Said {
    Found,
    Resolved,
}

#[derive(Debug, Default)]
pub(super) struct ProblemLog {
    reasons: BTreeMap<(&'static str, Said), Bucket>,
}

#[derive(Debug)]
struct Bucket {
    left: u32,
    refilled: Instant,
    left_out: u64,
    /// None while nothing was left out yet.
    summed_up: Option<Instant>,
}

impl ProblemLog {
    pub(super) fn found(&mut self, diagnostic: &Diagnostic, now: Instant) {
        if self.admits(diagnostic.reason, Said::Found, now) {
            log(diagnostic);
        }
    }

    pub(super) fn resolved(&mut self, diagnostic: &Diagnostic, now: Instant) {
        if self.admits(diagnostic.reason, Said::Resolved, now) {
            let Diagnostic {
                field,
                reason,
                message,
                ..
            } = diagnostic;
            // Not by `%`: a file's name may hold line ends, which a quoted string escapes.
            let object = diagnostic.object.to_string();
            tracing::info!(object, field, reason, "resolved: {message}");
        }
    }

    /// Says how many were left out, where that is due.
    pub(super) fn sum_up(&mut self, now: Instant) {
        for (reason, said, left_out) in self.due_sums(now) {
            match said {
                Said::Found => tracing::warn!(
                    reason,
                    left_out,
                    "more problems of this reason were found than are logged; /diagnostics has all"
                ),
                Said::Resolved => tracing::info!(
                    reason,
                    left_out,
                    "more problems of this reason were resolved than are logged"
                ),
            }
        }
    }

    /// How long until something has to be summed up; none while nothing was left out.
    pub(super) fn due_in(&self, now: Instant) -> Option<Duration> {
        let waiting = self.reasons.values().filter(|bucket| bucket.left_out > 0);
        let moments = waiting.map(|bucket| bucket.summed_up.map_or(now, |last| last + SUM_UP));
        moments.min().map(|moment| moment.saturating_duration_since(now))
    }

    fn admits(&mut self, reason: &'static str, said: Said, now: Instant) -> bool {
        let bucket = self.reasons.entry((reason, said)).or_insert(Bucket {
            left: BURST,
            refilled: now,
            left_out: 0,
            summed_up: None,
        });
        bucket.refill(now);
        if bucket.left == 0 {
            bucket.left_out += 1;
            return false;
        }
        bucket.left -= 1;
        true
    }

    fn due_sums(&mut self, now: Instant) -> Vec<(&'static str, Said, u64)> {
        let is_due = |bucket: &Bucket| {
            let rested = |last| now.saturating_duration_since(last) >= SUM_UP;
            bucket.left_out > 0 && bucket.summed_up.is_none_or(rested)
        };
        let due = self.reasons.iter_mut().filter(|(_, bucket)| is_due(bucket));
        due.map(|((reason, said), bucket)| {
            bucket.summed_up = Some(now);
            (*reason, *said, std::mem::take(&mut bucket.left_out))
        })
        .collect()
    }
}

impl Bucket {
    fn refill(&mut self, now: Instant) {
        while self.left < BURST && now.saturating_duration_since(self.refilled) >= INTERVAL {
            self.left += 1;
            self.refilled += INTERVAL;
        }
        if self.left == BURST {
            self.refilled = now;
        }
    }
}

fn log(diagnostic: &Diagnostic) {
    let object = diagnostic.object.to_string();
    let Diagnostic {
        field,
        reason,
        message,
        ..
    } = diagnostic;
    match diagnostic.severity {
        Severity::Error => tracing::error!(object, field, reason, "{message}"),
        Severity::Warning => tracing::warn!(object, field, reason, "{message}"),
        Severity::Info => tracing::info!(object, field, reason, "{message}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FOUND: Said = Said::Found;

    #[test]
    fn ten_thousand_problems_of_one_reason_are_twenty_lines_and_a_count() {
        let (mut log, start) = (ProblemLog::default(), Instant::now());
        let said = (0..10_000).filter(|_| log.admits("SecretNotFound", FOUND, start));
        assert_eq!(said.count(), 20);
        assert!(
            log.admits("RouteConflict", FOUND, start),
            "another reason has its own"
        );
        assert_eq!(log.due_sums(start), [("SecretNotFound", FOUND, 9_980)]);
        assert_eq!(log.due_in(start), None);
    }

    #[test]
    fn problems_that_keep_coming_are_two_lines_a_second_and_a_count_every_ten_seconds() {
        let (mut log, start) = (ProblemLog::default(), Instant::now());
        let (mut lines, mut sums, mut counted) = (0, 0, 0);
        for millisecond in 0..60_000 {
            let now = start + Duration::from_millis(millisecond);
            lines += u32::from(log.admits("SecretNotFound", FOUND, now));
            for (_, _, left_out) in log.due_sums(now) {
                sums += 1;
                counted += left_out;
            }
        }
        assert!((138..=141).contains(&lines), "{lines}");
        assert_eq!(sums, 6);
        assert!(counted > 49_000, "none is forgotten: {counted}");
        assert!(log.due_in(start + Duration::from_secs(60)) < Some(SUM_UP));
    }
}
