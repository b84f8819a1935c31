//! Which watches are up, and what is said of those that are not: each problem once, then at a bounded rate, and its end.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::counts::SourceCounts;
use super::failure::{Cause, Failure};
use super::resource::Scope;
use super::watch::FeedId;

/// Between two lines about the same problem.
const REMIND: Duration = Duration::from_secs(300);

/// What is wrong now.
#[derive(Debug)]
pub(super) struct Health {
    counts: Arc<SourceCounts>,
    /// The watches that are down, with the words for it.
    down: BTreeMap<FeedId, String>,
    /// Those of them that may be.
    optional: std::collections::BTreeSet<FeedId>,
    /// Watches that have been up.
    up: std::collections::BTreeSet<FeedId>,
    /// By words: several watches fail for one reason.
    problems: BTreeMap<String, Problem>,
}

#[derive(Debug)]
struct Problem {
    since: Instant,
    said: Instant,
}

impl Health {
    pub(super) fn new(counts: Arc<SourceCounts>) -> Self {
        Self {
            counts,
            down: BTreeMap::new(),
            optional: std::collections::BTreeSet::new(),
            up: std::collections::BTreeSet::new(),
            problems: BTreeMap::new(),
        }
    }

    pub(super) fn failed(&mut self, id: FeedId, scope: &Scope, failure: &Failure) {
        let words = failure.describe(scope);
        let now = Instant::now();
        let off = scope
            .resource
            .without()
            .filter(|_| matches!(failure.cause, Cause::Forbidden(_)));
        self.down.insert(id, words.clone());
        // What the agent can do without is a choice of whoever gave it its rights.
        match off {
            Some(_) => drop(self.optional.insert(id)),
            None => drop(self.optional.remove(&id)),
        }
        self.tell_counts();
        self.forget_solved();
        if matches!(failure.cause, Cause::TooOld | Cause::TooNew) {
            // It happens, after a while without a connection above all, and mends itself.
            tracing::debug!("{words}");
            return;
        }
        self.problems.entry(words).or_insert_with_key(|words| {
            let consequence = if let Some(off) = off {
                off
            } else if self.up.is_empty() {
                "trying again"
            } else {
                "what was read stays in force; trying again"
            };
            tracing::warn!("{words} ({consequence})");
            Problem {
                since: now,
                said: now,
            }
        });
    }

    pub(super) fn well(&mut self, id: FeedId) {
        self.up.insert(id);
        if self.down.remove(&id).is_some() {
            self.forget_solved();
        }
        self.optional.remove(&id);
        self.tell_counts();
    }

    /// The watch has ended.
    pub(super) fn forget(&mut self, id: FeedId) {
        self.up.remove(&id);
        if self.down.remove(&id).is_some() {
            self.forget_solved();
        }
        self.optional.remove(&id);
        self.tell_counts();
    }

    fn tell_counts(&self) {
        let is_well = self.down.keys().all(|id| self.optional.contains(id));
        self.counts.set_connected(is_well && !self.up.is_empty());
    }

    /// One of the problems there are now.
    pub(super) fn worst(&self) -> Option<&str> {
        self.down.values().next().map(String::as_str)
    }

    /// Says again what has been wrong for long; never ends where nothing is.
    pub(super) async fn remind(&mut self) {
        let Some(next) = self.problems.values().map(|problem| problem.said + REMIND).min() else {
            return std::future::pending().await;
        };
        tokio::time::sleep_until(next.into()).await;
        let now = Instant::now();
        for (words, problem) in &mut self.problems {
            if problem.said + REMIND <= now {
                problem.said = now;
                let seconds = problem.since.elapsed().as_secs();
                tracing::warn!(seconds, "still: {words}");
            }
        }
    }

    fn forget_solved(&mut self) {
        let down = &self.down;
        self.problems.retain(|words, problem| {
            let stands = down.values().any(|other| other == words);
            if !stands {
                let seconds = problem.since.elapsed().as_secs();
                let short = words.split(": ").next().unwrap_or(words);
                tracing::info!(seconds, "over: {short}");
            }
            stands
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::kube::resource::Resource;

    #[test]
    fn the_source_is_connected_when_every_watch_is_up_and_says_since_when_it_is_not() {
        let counts = Arc::new(SourceCounts::new());
        let mut health = Health::new(Arc::clone(&counts));
        assert!(counts.disconnected_since() > 0);
        health.well(0);
        health.well(1);
        assert!(counts.is_connected());
        assert_eq!(counts.disconnected_since(), 0);
        let scope = Scope {
            resource: Resource::Services,
            namespace: None,
            name: None,
        };
        let gone = || Failure::from(Cause::Unreachable("refused".into()));
        health.failed(0, &scope, &gone());
        health.failed(1, &scope, &gone());
        assert_eq!(health.problems.len(), 1);
        assert!(counts.disconnected_since() > 0);
        health.well(0);
        assert!(!counts.is_connected());
        health.forget(1);
        assert!(counts.is_connected());
        assert!(health.problems.is_empty());
    }

    #[test]
    fn what_the_agent_may_not_read_and_can_do_without_is_told_and_is_no_outage() {
        let counts = Arc::new(SourceCounts::new());
        let mut health = Health::new(Arc::clone(&counts));
        let scope = Scope {
            resource: Resource::Namespaces,
            namespace: None,
            name: None,
        };
        let forbidden = Failure::from(Cause::Forbidden("no".into()));
        health.failed(0, &scope, &forbidden);
        assert!(!counts.is_connected(), "nothing has been read yet");
        health.well(1);
        assert!(counts.is_connected());
        assert_eq!(health.problems.len(), 1);
        health.failed(0, &scope, &Failure::from(Cause::Unreachable("refused".into())));
        assert!(!counts.is_connected());
    }
}
