//! Resources to a snapshot: total, deterministic and independent of the order in which objects arrive.
//!
//! The only place that builds a [`Snapshot`]. A route that cannot be served as its author meant costs only itself and is
//! told as a [`Diagnostic`]; what did not change keeps its `Arc` from the snapshot before.

mod canary;
mod certificate;
mod cluster;
mod duplicate;
mod route;

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::diagnostic::Diagnostic;
use crate::matching::{HostMap, HostTable};
use crate::resource::{ClusterKey, Resources, UnownedHost};
use crate::snapshot::{Cluster, Snapshot};

use canary::CanariesByPath;

/// Builds the snapshot; what did not change keeps its `Arc` from `previous`.
///
/// A cluster keeps its `Arc`, and with it its endpoints, as long as its key exists.
pub fn compile(resources: &Resources, previous: &Snapshot) -> (Snapshot, Vec<Diagnostic>) {
    let mut diagnostics = Vec::new();
    let clusters = cluster::collect(resources, previous);
    let certificates = certificate::collect(&resources.certificates);
    let mut canaries = CanariesByPath::new(&resources.canaries, &mut diagnostics);
    let winners = duplicate::settle(&resources.routes, &mut diagnostics);
    let hosts = {
        let mut builder = route::Builder {
            clusters: &clusters,
            certificates: &certificates,
            canaries: &mut canaries,
            previous,
        };
        builder.build(&winners)
    };
    canaries.report_unused(&mut diagnostics);
    diagnostics.sort_unstable();
    let snapshot = Snapshot {
        hosts: HostTable { tables: hosts },
        clusters,
        certificates,
        unowned: collect_unowned(&resources.unowned),
    };
    (snapshot, diagnostics)
}

type Clusters = BTreeMap<ClusterKey, Arc<Cluster>>;

/// Of several Ingresses with one host, the first by name explains it.
fn collect_unowned(unowned: &[UnownedHost]) -> HostMap<Arc<UnownedHost>> {
    let mut sorted: Vec<_> = unowned.iter().collect();
    sorted.sort_unstable_by_key(|host| (&host.object, &host.why));
    let mut map = HostMap::default();
    for host in sorted.into_iter().rev() {
        map.insert(host.host.clone(), Arc::new(host.clone()));
    }
    map.shrink();
    map
}

#[cfg(test)]
mod tests;
