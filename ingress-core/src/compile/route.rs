//! The tables of routes, host by host; unchanged routes and tables stay the same objects.

use std::sync::Arc;

use super::Clusters;
use super::canary::CanariesByPath;
use super::certificate::{self, Certificates};
use crate::fast_map::FastMap;
use crate::matching::{HostMap, PathTable};
use crate::name::ObjectRef;
use crate::reason::Reason;
use crate::resource::{Action, CanarySpec, Conditions, RouteSpec, WeightedCluster};
use crate::snapshot::{Canary, Cluster, Route, Snapshot, Target, WeightedBackend};

/// Everything that a route is made of besides its spec.
pub(super) struct Builder<'b, 'a> {
    pub(super) clusters: &'b Clusters,
    pub(super) certificates: &'b Certificates,
    pub(super) canaries: &'b mut CanariesByPath<'a>,
    pub(super) previous: &'b Snapshot,
}

impl<'a> Builder<'_, 'a> {
    /// Takes routes sorted by host and rank.
    pub(super) fn build(&mut self, sorted: &[&'a RouteSpec]) -> HostMap<Arc<PathTable>> {
        let mut tables = HostMap::default();
        for specs in sorted.chunk_by(|a, b| a.host == b.host) {
            if let Some(first) = specs.first() {
                tables.insert(first.host.clone(), self.table(specs));
            }
        }
        tables.shrink();
        tables
    }

    fn table(&mut self, specs: &[&'a RouteSpec]) -> Arc<PathTable> {
        let Some(host) = specs.first().map(|spec| &spec.host) else {
            return Arc::default();
        };
        let has_certificate = certificate::covers(self.certificates, host);
        let routes = specs.iter().map(|spec| self.route(spec, has_certificate));
        let routes: Vec<Route> = routes.collect();
        let Some(before) = self.previous.hosts.tables.of_pattern(host) else {
            return Arc::new(PathTable::new(routes.into_iter().map(Arc::new).collect()));
        };
        if before.routes().len() == routes.len() && before.routes().iter().map(|r| &**r).eq(&routes) {
            return Arc::clone(before);
        }
        Arc::new(PathTable::new(keep_unchanged(routes, before)))
    }

    fn route(&mut self, spec: &'a RouteSpec, has_certificate: bool) -> Route {
        Route {
            object: Arc::clone(&spec.seniority.object),
            field: spec.field.clone(),
            host: spec.host.clone(),
            path: spec.path.clone(),
            conditions: (spec.conditions != Conditions::default()).then(|| Box::new(spec.conditions.clone())),
            policy: Arc::clone(&spec.policy),
            target: self.target(spec),
            has_certificate,
            fallback: spec.fallback,
        }
    }

    fn target(&mut self, spec: &'a RouteSpec) -> Target {
        let backends = match &spec.action {
            Action::Fail(reason) => return Target::Fail(*reason),
            Action::Forward(backends) => backends,
        };
        let backends: Vec<_> = backends
            .iter()
            .filter_map(|b| backend(self.clusters, b))
            .collect();
        if backends.is_empty() {
            return Target::Fail(Reason::RouteInvalid);
        }
        let canaries = match spec.fallback {
            true => &[],
            false => self.canaries.attach(&spec.host, &spec.path),
        };
        let clusters = self.clusters;
        let canaries = canaries
            .iter()
            .filter_map(|spec| canary(clusters, spec))
            .collect();
        Target::Forward { canaries, backends }
    }
}

fn backend(clusters: &Clusters, spec: &WeightedCluster) -> Option<WeightedBackend> {
    Some(WeightedBackend {
        cluster: Arc::clone(clusters.get(&spec.cluster)?),
        weight: spec.weight,
    })
}

fn canary(clusters: &Clusters, spec: &CanarySpec) -> Option<Canary> {
    Some(Canary {
        object: Arc::clone(&spec.seniority.object),
        when: spec.when.clone(),
        cluster: Arc::clone(clusters.get(&spec.cluster)?),
    })
}

/// The routes, with the `Arc` of the table before wherever an equal one was there.
fn keep_unchanged(routes: Vec<Route>, before: &PathTable) -> Vec<Arc<Route>> {
    let mut known: FastMap<(&ObjectRef, &str), Vec<&Arc<Route>>> = FastMap::default();
    for route in before.routes() {
        known
            .entry((&*route.object, &*route.field))
            .or_default()
            .push(route);
    }
    let known_as = |route: &Route| -> Option<Arc<Route>> {
        let same_place = known.get(&(&*route.object, &*route.field))?;
        let equal = same_place.iter().find(|other| ****other == *route)?;
        Some(Arc::clone(equal))
    };
    let keep = |route: Route| known_as(&route).unwrap_or_else(|| Arc::new(route));
    routes.into_iter().map(keep).collect()
}

/// Whether a request would see a difference, or an operator. Clusters are compared as objects: an equal key that was gone
/// for a while is another cluster.
impl PartialEq for Route {
    fn eq(&self, other: &Self) -> bool {
        self.object == other.object
            && self.field == other.field
            && self.host == other.host
            && self.path == other.path
            && self.conditions == other.conditions
            && (Arc::ptr_eq(&self.policy, &other.policy) || self.policy == other.policy)
            && self.target == other.target
            && self.has_certificate == other.has_certificate
            && self.fallback == other.fallback
    }
}

impl PartialEq for Target {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Fail(a), Self::Fail(b)) => a == b,
            (
                Self::Forward { canaries, backends },
                Self::Forward {
                    canaries: other_canaries,
                    backends: other_backends,
                },
            ) => canaries == other_canaries && backends == other_backends,
            _ => false,
        }
    }
}

impl PartialEq for Canary {
    fn eq(&self, other: &Self) -> bool {
        self.object == other.object && self.when == other.when && is_same(&self.cluster, &other.cluster)
    }
}

impl PartialEq for WeightedBackend {
    fn eq(&self, other: &Self) -> bool {
        self.weight == other.weight && is_same(&self.cluster, &other.cluster)
    }
}

fn is_same(a: &Arc<Cluster>, b: &Arc<Cluster>) -> bool {
    Arc::ptr_eq(a, b)
}
