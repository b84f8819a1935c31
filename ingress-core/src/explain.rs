//! The same match as [`Snapshot::find`], told step by step: what was tried, what won, what lost and why.
//!
//! Each step asks the very functions that the request path asks; only the index of long tables is left out, so that every
//! path gets a line.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use crate::balance::LiveEndpoint;
use crate::matching::{HostMatch, Miss, RequestView, Unmet};
use crate::resource::Endpoint;
use crate::snapshot::{Cluster, Route, Snapshot, Target};

/// One line of the story.
#[derive(Debug, Serialize)]
#[serde(tag = "step", rename_all = "snake_case")]
pub enum Step {
    /// The routes of this pattern are looked at, and no others but the fallback of all.
    HostKnown {
        host: String,
        by: HostMatch,
    },
    /// No route names this host.
    HostUnknown {
        host: String,
    },
    /// Nothing of the host matched: the default backend of all is asked.
    FallbackOfAll,
    /// A route that a request could have gone to, and why it did not.
    Lost {
        route: RouteLine,
        unmet: Unmet,
    },
    Won {
        route: RouteLine,
    },
    /// The winner answers by itself with this reason.
    Fails {
        reason: &'static str,
    },
    Canary {
        object: String,
        cluster: String,
        when: String,
    },
    Backend {
        cluster: String,
        weight: u32,
    },
    Endpoint(EndpointLine),
    /// The cluster above has no endpoint that takes requests; the reason of the answer.
    NoEndpoint {
        reason: &'static str,
    },
    /// Nothing matched: the reason of the 404.
    Miss {
        reason: &'static str,
        why: Option<String>,
    },
}

/// A route in a few words.
#[derive(Debug, Serialize)]
pub struct RouteLine {
    pub object: String,
    pub field: String,
    pub host: String,
    pub path: String,
    pub fallback: bool,
}

/// An endpoint with what is known of it.
#[derive(Debug, Serialize)]
pub struct EndpointLine {
    #[serde(flatten)]
    pub endpoint: Endpoint,
    /// Whether requests go there at the moment.
    pub active: bool,
    pub in_flight: u32,
    pub latency_ms: Option<f64>,
    pub ejected_seconds: Option<f64>,
}

/// Why a request goes where it goes. `now` as in [`crate::balance::PickRequest`].
pub fn explain(snapshot: &Snapshot, request: &RequestView<'_>, now: Duration) -> Vec<Step> {
    let mut steps = Vec::new();
    match search(snapshot, request, &mut steps) {
        Some(route) => {
            steps.push(Step::Won { route: line(route) });
            tell_target(&route.target, now, &mut steps);
        }
        None => steps.extend(snapshot.find(request).err().map(miss)),
    }
    steps
}

/// [`Snapshot::find`], talking.
fn search<'s>(
    snapshot: &'s Snapshot,
    request: &RequestView<'_>,
    steps: &mut Vec<Step>,
) -> Option<&'s Arc<Route>> {
    let tables = &snapshot.hosts.tables;
    let known = tables.get(request.host);
    let host = request.host.to_owned();
    steps.push(match known {
        Some((by, _)) => Step::HostKnown { host, by },
        None => Step::HostUnknown { host },
    });
    if let Some(route) = known.and_then(|(_, table)| first(table.routes(), request, steps)) {
        return Some(route);
    }
    let fallbacks = tables.any().map_or(&[][..], |table| table.fallbacks());
    if !matches!(known, None | Some((HostMatch::Any, _))) && !fallbacks.is_empty() {
        steps.push(Step::FallbackOfAll);
        return first(fallbacks, request, steps);
    }
    None
}

fn first<'s>(
    routes: &'s [Arc<Route>],
    request: &RequestView<'_>,
    steps: &mut Vec<Step>,
) -> Option<&'s Arc<Route>> {
    routes.iter().find(|route| match route.check(request) {
        Ok(()) => true,
        Err(unmet) => {
            steps.push(Step::Lost {
                route: line(route),
                unmet,
            });
            false
        }
    })
}

fn tell_target(target: &Target, now: Duration, steps: &mut Vec<Step>) {
    let (canaries, backends) = match target {
        Target::Fail(reason) => {
            steps.push(Step::Fails {
                reason: reason.code(),
            });
            return;
        }
        Target::Forward { canaries, backends } => (canaries, backends),
    };
    for canary in canaries {
        steps.push(Step::Canary {
            object: canary.object.to_string(),
            cluster: canary.cluster.key.to_string(),
            when: canary.when.to_string(),
        });
        tell_endpoints(&canary.cluster, now, steps);
    }
    for backend in backends {
        steps.push(Step::Backend {
            cluster: backend.cluster.key.to_string(),
            weight: backend.weight,
        });
        tell_endpoints(&backend.cluster, now, steps);
    }
}

fn tell_endpoints(cluster: &Cluster, now: Duration, steps: &mut Vec<Step>) {
    let set = cluster.endpoints();
    if let Some(reason) = set.why_empty() {
        steps.push(Step::NoEndpoint {
            reason: reason.code(),
        });
    }
    let active = set.active().iter().map(|endpoint| (endpoint, true));
    let passive = set.passive().iter().map(|endpoint| (endpoint, false));
    steps.extend(
        active
            .chain(passive)
            .map(|(e, active)| Step::Endpoint(EndpointLine::of(e, active, now))),
    );
}

impl EndpointLine {
    pub(crate) fn of(live: &LiveEndpoint, active: bool, now: Duration) -> Self {
        Self {
            endpoint: live.endpoint.clone(),
            active,
            in_flight: live.in_flight(),
            latency_ms: live.latency(now).map(|latency| latency.as_secs_f64() * 1000.0),
            ejected_seconds: live.ejected_for(now).map(|left| left.as_secs_f64()),
        }
    }
}

fn line(route: &Route) -> RouteLine {
    RouteLine {
        object: route.object.to_string(),
        field: route.field.clone(),
        host: route.host.to_string(),
        path: route.path.to_string(),
        fallback: route.fallback,
    }
}

fn miss(miss: Miss) -> Step {
    Step::Miss {
        reason: miss.reason().code(),
        why: match &miss {
            Miss::HostUnowned(host) => Some(format!("{}: {}", host.object, host.why)),
            Miss::HostUnknown | Miss::PathUnmatched => None,
        },
    }
}

#[cfg(test)]
mod tests;
