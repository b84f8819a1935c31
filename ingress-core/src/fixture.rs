//! Short ways to resources for the tests of this crate.

use std::sync::Arc;

use http::Method;

use crate::fields::Fields;

use crate::compile::compile;
use crate::host::HostPattern;
use crate::matching::RequestView;
use crate::name::{Kind, ObjectRef};
use crate::resource::*;
use crate::snapshot::{Route, Snapshot};

pub(crate) fn ingress(name: &str) -> Arc<ObjectRef> {
    Arc::new(ObjectRef::new(Kind::Ingress, "shop", name))
}

pub(crate) fn cluster(name: &str) -> ClusterKey {
    ClusterKey {
        service: Arc::new(ObjectRef::new(Kind::Service, "shop", name)),
        port: PortRef::Number(80),
        protocol: Protocol::Http,
        balance: Balance::default(),
    }
}

/// `Exact /a`, `Prefix /a` (`Prefix /` for the root), `Regex /a.*`
pub(crate) fn path(text: &str) -> PathMatch {
    match text.split_once(' ').unwrap() {
        ("Exact", text) => PathMatch::Exact(text.into()),
        ("Prefix", text) => PathMatch::Prefix(text.trim_end_matches('/').into()),
        ("Regex", source) => PathMatch::Regex(Arc::new(PathRegex::new(source).unwrap())),
        (kind, _) => panic!("no path type {kind}"),
    }
}

/// A route of an Ingress and to a Service that both have this name. Without a creation time, so
/// the order of names is the order of age.
pub(crate) fn route(name: &str, host: &str, path_text: &str) -> RouteSpec {
    RouteSpec {
        seniority: Seniority::new(None, ingress(name), (0, 0)),
        field: "spec.rules[0].http.paths[0]".to_owned(),
        host: HostPattern::parse(host).unwrap(),
        path: path(path_text),
        conditions: Conditions::default(),
        action: Action::Forward(vec![WeightedCluster {
            cluster: cluster(name),
            weight: 1,
        }]),
        policy: Arc::default(),
        fallback: false,
    }
}

pub(crate) fn fallback(name: &str, host: &str) -> RouteSpec {
    RouteSpec {
        fallback: true,
        field: "spec.defaultBackend".to_owned(),
        ..route(name, host, "Prefix /")
    }
}

pub(crate) fn resources(routes: Vec<RouteSpec>) -> Resources {
    Resources {
        routes,
        ..Resources::default()
    }
}

pub(crate) fn snapshot(routes: Vec<RouteSpec>) -> Snapshot {
    compile(&resources(routes), &Snapshot::empty()).0
}

/// One route, compiled with this policy.
pub(crate) fn route_with(path_text: &str, policy: RoutePolicy) -> Arc<Route> {
    let spec = RouteSpec {
        policy: Arc::new(policy),
        ..route("web", "shop.example", path_text)
    };
    Arc::clone(snapshot(vec![spec]).routes().next().unwrap())
}

pub(crate) fn get<'a>(host: &'a str, path: &'a str, headers: &'a Fields) -> RequestView<'a> {
    RequestView {
        method: &Method::GET,
        host,
        path,
        query: None,
        headers,
    }
}

/// The name of the Ingress that serves a request, or the reason why none does.
pub(crate) fn served_by(snapshot: &Snapshot, host: &str, path: &str) -> String {
    match snapshot.find(&get(host, path, &Fields::default())) {
        Ok(route) => route.object.name.to_string(),
        Err(miss) => miss.reason().code().to_owned(),
    }
}
