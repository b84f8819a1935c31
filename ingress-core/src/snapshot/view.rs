//! The snapshot as `/config` shows it: sorted, so that two dumps can be compared, and without key material, which a snapshot
//! never has.

use std::time::Duration;

use serde::Serialize;

use super::{Canary, Cluster, Route, Snapshot, Target};
use crate::explain::EndpointLine;
use crate::host::HostPattern;
use crate::reason::Reason;
use crate::resource::{CanaryWhen, CertificateKey, ClusterKey, PathMatch, UnownedHost};

/// All of a snapshot.
#[derive(Debug, Serialize)]
pub struct SnapshotView<'a> {
    pub routes: Vec<RouteView<'a>>,
    pub clusters: Vec<ClusterView<'a>>,
    pub certificates: Vec<CertificateView<'a>>,
    pub unowned_hosts: Vec<&'a UnownedHost>,
}

#[derive(Debug, Serialize)]
pub struct RouteView<'a> {
    pub host: &'a HostPattern,
    pub path: &'a PathMatch,
    pub object: String,
    pub field: &'a str,
    pub fallback: bool,
    pub has_certificate: bool,
    pub canaries: Vec<CanaryView<'a>>,
    pub backends: Vec<BackendView>,
    /// Answered with this reason instead of being forwarded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fails: Option<Reason>,
}

#[derive(Debug, Serialize)]
pub struct CanaryView<'a> {
    pub object: String,
    pub cluster: String,
    /// The header, if one is asked for.
    pub header: Option<&'a str>,
    #[serde(flatten)]
    pub when: &'a CanaryWhen,
}

#[derive(Debug, Serialize)]
pub struct BackendView {
    pub cluster: String,
    pub weight: u32,
}

#[derive(Debug, Serialize)]
pub struct ClusterView<'a> {
    #[serde(flatten)]
    pub key: &'a ClusterKey,
    /// Why it takes no requests, if it takes none.
    pub unavailable: Option<Reason>,
    pub endpoints: Vec<EndpointLine>,
}

#[derive(Debug, Serialize)]
pub struct CertificateView<'a> {
    pub host: HostPattern,
    /// The Secrets, most senior first.
    pub secrets: Vec<&'a CertificateKey>,
}

impl Snapshot {
    /// The view that `/config` serialises. `now` as in [`crate::balance::PickRequest`].
    pub fn view(&self, now: Duration) -> SnapshotView<'_> {
        let certificates = self.certificate_bindings().map(|(host, keys)| CertificateView {
            host,
            secrets: keys.iter().collect(),
        });
        SnapshotView {
            routes: self.routes().map(|route| RouteView::of(route)).collect(),
            clusters: self
                .clusters()
                .map(|cluster| ClusterView::of(cluster, now))
                .collect(),
            certificates: certificates.collect(),
            unowned_hosts: self.unowned_hosts().map(|host| &**host).collect(),
        }
    }
}

impl<'a> RouteView<'a> {
    fn of(route: &'a Route) -> Self {
        let (canaries, backends, fails) = match &route.target {
            Target::Forward { canaries, backends } => (&**canaries, &**backends, None),
            Target::Fail(reason) => (&[][..], &[][..], Some(*reason)),
        };
        let backend = |backend: &super::WeightedBackend| BackendView {
            cluster: backend.cluster.key.to_string(),
            weight: backend.weight,
        };
        Self {
            host: &route.host,
            path: &route.path,
            object: route.object.to_string(),
            field: &route.field,
            fallback: route.fallback,
            has_certificate: route.has_certificate,
            canaries: canaries.iter().map(CanaryView::of).collect(),
            backends: backends.iter().map(backend).collect(),
            fails,
        }
    }
}

impl<'a> CanaryView<'a> {
    fn of(canary: &'a Canary) -> Self {
        Self {
            object: canary.object.to_string(),
            cluster: canary.cluster.key.to_string(),
            header: canary.when.header.as_ref().map(|header| header.name.as_str()),
            when: &canary.when,
        }
    }
}

impl<'a> ClusterView<'a> {
    fn of(cluster: &'a Cluster, now: Duration) -> Self {
        let set = cluster.endpoints();
        let active = set.active().iter().map(|endpoint| (endpoint, true));
        let passive = set.passive().iter().map(|endpoint| (endpoint, false));
        let mut endpoints: Vec<_> = active
            .chain(passive)
            .map(|(endpoint, active)| EndpointLine::of(endpoint, active, now))
            .collect();
        endpoints.sort_by(|a, b| a.endpoint.cmp(&b.endpoint));
        Self {
            key: &cluster.key,
            unavailable: set.why_empty(),
            endpoints,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compile::compile;
    use crate::fixture::*;

    #[test]
    fn the_dump_names_every_route_and_cluster_in_an_order_that_does_not_depend_on_the_input() {
        let mut routes = vec![
            route("blog", "blog.example", "Prefix /"),
            route("web", "shop.example", "Exact /x"),
            route("any", "", "Prefix /"),
            fallback("own", "shop.example"),
        ];
        let dump = |routes: &[crate::resource::RouteSpec]| {
            let (snapshot, _) = compile(&resources(routes.to_vec()), &Snapshot::empty());
            serde_json::to_string(&snapshot.view(Duration::ZERO)).unwrap()
        };
        let first = dump(&routes);
        routes.reverse();
        assert_eq!(dump(&routes), first);
        for text in [
            "Exact /x",
            "Prefix /",
            "Service shop/web:80",
            "Ingress shop/own",
            "\"no_endpoints\"",
        ] {
            assert!(first.contains(text), "{text} in {first}");
        }
    }
}
