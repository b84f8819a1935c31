//! A map from host patterns, asked with a request's host: exact, else a wildcard of one label, else any.

use std::sync::Arc;

use serde::Serialize;

use crate::fast_map::FastMap;
use crate::host::{HostPattern, wildcard_suffix};

/// Which kind of pattern a request's host fell under.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum HostMatch {
    Exact,
    Wildcard,
    Any,
}

/// Values by host pattern. Lookups neither allocate nor build a pattern.
#[derive(Debug)]
pub(crate) struct HostMap<T> {
    exact: FastMap<Arc<str>, T>,
    wildcard: FastMap<Arc<str>, T>,
    any: Option<T>,
}

impl<T> Default for HostMap<T> {
    fn default() -> Self {
        Self {
            exact: FastMap::default(),
            wildcard: FastMap::default(),
            any: None,
        }
    }
}

impl<T> HostMap<T> {
    /// The value of the most specific pattern that covers a request's host.
    pub(crate) fn get(&self, host: &str) -> Option<(HostMatch, &T)> {
        if let Some(value) = self.exact.get(host) {
            return Some((HostMatch::Exact, value));
        }
        if let Some(value) = wildcard_suffix(host).and_then(|suffix| self.wildcard.get(suffix)) {
            return Some((HostMatch::Wildcard, value));
        }
        Some((HostMatch::Any, self.any.as_ref()?))
    }

    pub(crate) fn any(&self) -> Option<&T> {
        self.any.as_ref()
    }

    /// The value under exactly this pattern.
    pub(crate) fn of_pattern(&self, pattern: &HostPattern) -> Option<&T> {
        match pattern {
            HostPattern::Exact(name) => self.exact.get(name),
            HostPattern::Wildcard(suffix) => self.wildcard.get(suffix),
            HostPattern::Any => self.any.as_ref(),
        }
    }

    pub(crate) fn insert(&mut self, pattern: HostPattern, value: T) {
        match pattern {
            HostPattern::Exact(name) => drop(self.exact.insert(name, value)),
            HostPattern::Wildcard(suffix) => drop(self.wildcard.insert(suffix, value)),
            HostPattern::Any => self.any = Some(value),
        }
    }

    /// Everything, sorted by pattern.
    pub(crate) fn sorted(&self) -> Vec<(HostPattern, &T)> {
        let exact = self
            .exact
            .iter()
            .map(|(name, value)| (HostPattern::Exact(Arc::clone(name)), value));
        let wildcard = self
            .wildcard
            .iter()
            .map(|(suffix, value)| (HostPattern::Wildcard(Arc::clone(suffix)), value));
        let any = self.any.iter().map(|value| (HostPattern::Any, value));
        let mut all: Vec<_> = exact.chain(wildcard).chain(any).collect();
        all.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        all
    }

    /// Gives spare capacity back after the last insert.
    pub(crate) fn shrink(&mut self) {
        self.exact.shrink_to_fit();
        self.wildcard.shrink_to_fit();
    }
}
