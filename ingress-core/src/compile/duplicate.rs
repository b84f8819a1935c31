//! Routes that ask for the same requests: the oldest wins, the others are told.

use std::collections::hash_map::Entry;

use crate::diagnostic::{Diagnostic, Severity};
use crate::fast_map::FastMap;
use crate::host::HostPattern;
use crate::matching::Rank;
use crate::resource::RouteSpec;

/// The routes that have effect, sorted by host and, within a host, by rank.
pub(super) fn settle<'a>(routes: &'a [RouteSpec], diagnostics: &mut Vec<Diagnostic>) -> Vec<&'a RouteSpec> {
    let mut sorted: Vec<_> = routes
        .iter()
        .map(|spec| (&spec.host, Rank::of(spec), spec))
        .collect();
    sorted.sort_unstable_by(|(host_a, rank_a, spec_a), (host_b, rank_b, spec_b)| {
        (host_a, rank_a, &spec_a.field).cmp(&(host_b, rank_b, &spec_b.field))
    });
    let mut winners = Winners::default();
    let keeps = |(_, _, spec): (_, _, &'a RouteSpec)| match winners.admit(spec) {
        Ok(()) => Some(spec),
        Err(winner) => {
            diagnostics.push(conflict(spec, winner));
            None
        }
    };
    sorted.into_iter().filter_map(keeps).collect()
}

/// The routes of one host that were admitted so far, by path.
#[derive(Default)]
struct Winners<'a> {
    host: Option<&'a HostPattern>,
    by_path: FastMap<(bool, (u8, &'a str)), Vec<&'a RouteSpec>>,
}

impl<'a> Winners<'a> {
    fn admit(&mut self, spec: &'a RouteSpec) -> Result<(), &'a RouteSpec> {
        if self.host != Some(&spec.host) {
            self.host = Some(&spec.host);
            self.by_path.clear();
        }
        match self.by_path.entry((spec.fallback, spec.path.key())) {
            Entry::Vacant(vacant) => drop(vacant.insert(vec![spec])),
            Entry::Occupied(mut occupied) => {
                let earlier = occupied
                    .get()
                    .iter()
                    .find(|other| other.conditions == spec.conditions);
                if let Some(winner) = earlier {
                    return Err(winner);
                }
                occupied.get_mut().push(spec);
            }
        }
        Ok(())
    }
}

fn conflict(loser: &RouteSpec, winner: &RouteSpec) -> Diagnostic {
    let what = match loser.fallback {
        true => format!("the default backend of host {}", loser.host),
        false => format!("host {} with path {}", loser.host, loser.path),
    };
    let why = match (loser.seniority.is_leaving(), winner.seniority.is_leaving()) {
        (true, false) => "which stays, while the namespace of this one is being deleted",
        _ => "which is older",
    };
    let message = format!(
        "{what} belongs to {} {}, {why}; this one has no effect",
        winner.seniority.object, winner.field
    );
    Diagnostic::new(
        Severity::Warning,
        &loser.seniority.object,
        loser.field.as_str(),
        "RouteConflict",
        message,
    )
}
