//! The clusters of a snapshot: those that translate found and those that any route names.

use std::sync::Arc;

use super::Clusters;
use crate::resource::{Action, ClusterKey, Resources};
use crate::snapshot::{Cluster, Snapshot};

/// Every cluster by key; one that existed before stays the same object.
pub(super) fn collect(resources: &Resources, previous: &Snapshot) -> Clusters {
    let mut clusters = Clusters::new();
    for key in keys(resources) {
        if !clusters.contains_key(key) {
            let cluster = match previous.clusters.get(key) {
                Some(cluster) => Arc::clone(cluster),
                None => Arc::new(Cluster::new(key.clone())),
            };
            clusters.insert(cluster.key.clone(), cluster);
        }
    }
    clusters
}

fn keys(resources: &Resources) -> impl Iterator<Item = &ClusterKey> {
    let of_routes = resources.routes.iter().flat_map(|route| match &route.action {
        Action::Forward(backends) => backends.as_slice(),
        Action::Fail(_) => &[],
    });
    let found = resources.clusters.iter().map(|spec| &spec.key);
    let of_canaries = resources.canaries.iter().map(|canary| &canary.cluster);
    found
        .chain(of_routes.map(|backend| &backend.cluster))
        .chain(of_canaries)
}
