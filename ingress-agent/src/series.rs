//! Which objects have series of their own: those in the snapshot, up to a bound. The rest is counted together.

use std::collections::HashSet;
use std::sync::Arc;

use arc_swap::ArcSwap;
use foldhash::fast::RandomState;
use ingress_core::name::ObjectRef;
use ingress_core::snapshot::Snapshot;

/// Objects of each kind that get series of their own unless told otherwise.
pub const DEFAULT_LIMIT: usize = 2_000;

/// Made by the publisher from each new snapshot, before the snapshot is put in force. The same for all workers, so the bound holds for the process.
#[derive(Debug, Default)]
pub struct LiveSeries {
    routes: HashSet<Arc<ObjectRef>, RandomState>,
    services: HashSet<Arc<ObjectRef>, RandomState>,
    folded: usize,
}

/// What all shards share. Read by a shard only when it meets an object for the first time.
pub type SharedSeries = Arc<ArcSwap<LiveSeries>>;

impl LiveSeries {
    /// The first `limit` route objects and services of the snapshot, in its own order, which does not change without need.
    pub fn of(snapshot: &Snapshot, limit: usize) -> Self {
        let routes = snapshot.routes().map(|route| &route.object);
        let services = snapshot.clusters().map(|cluster| &cluster.key.service);
        Self::from_objects(routes, services, limit)
    }

    pub fn from_objects<'a>(
        routes: impl Iterator<Item = &'a Arc<ObjectRef>>,
        services: impl Iterator<Item = &'a Arc<ObjectRef>>,
        limit: usize,
    ) -> Self {
        let (routes, folded_routes) = first(routes, limit);
        let (services, folded_services) = first(services, limit);
        Self {
            routes,
            services,
            folded: folded_routes + folded_services,
        }
    }

    pub fn has_route(&self, object: &ObjectRef) -> bool {
        self.routes.contains(object)
    }

    pub fn has_service(&self, object: &ObjectRef) -> bool {
        self.services.contains(object)
    }

    pub fn route_count(&self) -> usize {
        self.routes.len()
    }

    pub fn service_count(&self) -> usize {
        self.services.len()
    }

    /// Objects that are counted together because the bound is reached.
    pub fn folded(&self) -> usize {
        self.folded
    }
}

fn first<'a>(
    objects: impl Iterator<Item = &'a Arc<ObjectRef>>,
    limit: usize,
) -> (HashSet<Arc<ObjectRef>, RandomState>, usize) {
    let mut chosen = HashSet::default();
    let mut folded: HashSet<&ObjectRef, RandomState> = HashSet::default();
    for object in objects {
        if chosen.contains(object) {
            continue;
        }
        if chosen.len() < limit {
            chosen.insert(Arc::clone(object));
        } else {
            folded.insert(object);
        }
    }
    (chosen, folded.len())
}
