//! Records and routes for tests.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use ingress_core::compile::compile;
use ingress_core::host::HostPattern;
use ingress_core::name::{Kind, ObjectRef};
use ingress_core::resource::{
    Action, Balance, ClusterKey, ClusterSpec, Conditions, PathMatch, PortRef, Protocol, Resources,
    RoutePolicy, RouteSpec, Seniority, WeightedCluster,
};
use ingress_core::snapshot::Snapshot;

use super::record::{HttpVersion, RequestRecord};
use crate::listener::Listener;

/// `Ingress shop/NAME` for the host `NAME.example`, each with a Service of the same name.
pub(crate) fn snapshot(names: &[&str]) -> Snapshot {
    snapshot_with(names, &RoutePolicy::default())
}

pub(crate) fn snapshot_with(names: &[&str], policy: &RoutePolicy) -> Snapshot {
    let mut resources = Resources::default();
    for name in names {
        let key = cluster(name);
        resources.clusters.push(ClusterSpec { key: key.clone() });
        resources.routes.push(RouteSpec {
            seniority: Seniority::new(
                None,
                Arc::new(ObjectRef::new(Kind::Ingress, "shop", *name)),
                (0, 0),
            ),
            field: "spec.rules[0].http.paths[0]".into(),
            host: HostPattern::parse(&format!("{name}.example")).unwrap(),
            path: PathMatch::Prefix("".into()),
            conditions: Conditions::default(),
            action: Action::Forward(vec![WeightedCluster {
                cluster: key,
                weight: 1,
            }]),
            policy: Arc::new(policy.clone()),
            fallback: false,
        });
    }
    compile(&resources, &Snapshot::empty()).0
}

pub(crate) fn cluster(name: &str) -> ClusterKey {
    ClusterKey {
        service: Arc::new(ObjectRef::new(Kind::Service, "shop", name)),
        port: PortRef::Number(80),
        protocol: Protocol::Http,
        balance: Balance::default(),
    }
}

/// A plain GET that was answered 200 after 3 ms.
pub(crate) fn record() -> RequestRecord<'static> {
    RequestRecord {
        started: SystemTime::UNIX_EPOCH + Duration::from_millis(1_709_210_096_789),
        duration: Duration::from_micros(3_042),
        client: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7)),
        peer: SocketAddr::from(([10, 0, 0, 1], 40_000)),
        listener: Listener::Http,
        protocol: HttpVersion::Http11,
        tls: None,
        method: b"GET",
        host: b"web.example",
        target: b"/a?b=c",
        status: 200,
        reason: None,
        route: None,
        client_tcp: None,
        upstream: None,
        request_bytes: 0,
        response_bytes: 12,
        request_id: b"",
        user_agent: None,
        referer: None,
        error: None,
        unowned: None,
    }
}
