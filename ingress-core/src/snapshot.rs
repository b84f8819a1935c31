//! What the data plane reads: immutable, and built by [`crate::compile`] alone.

mod view;

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::balance::{EndpointSet, RetryBudget};
use crate::host::HostPattern;
use crate::matching::{HostMap, HostTable};
use crate::name::ObjectRef;
use crate::reason::Reason;
use crate::resource::{
    CanaryWhen, CertificateKey, ClusterKey, Conditions, PathMatch, RoutePolicy, UnownedHost,
};
use arc_swap::ArcSwap;

pub use view::{BackendView, CanaryView, CertificateView, ClusterView, RouteView, SnapshotView};

/// One consistent view of all routing. Requests resolve on one and then keep only their `Arc<Route>`.
#[derive(Debug)]
pub struct Snapshot {
    pub(crate) hosts: HostTable,
    pub(crate) clusters: BTreeMap<ClusterKey, Arc<Cluster>>,
    /// Who serves which name, most senior first.
    pub(crate) certificates: HostMap<Box<[CertificateKey]>>,
    pub(crate) unowned: HostMap<Arc<UnownedHost>>,
}

/// A route as the request path sees it.
#[derive(Debug)]
pub struct Route {
    pub object: Arc<ObjectRef>,
    pub field: String,
    pub host: HostPattern,
    pub path: PathMatch,
    /// Boxed: hardly any route has some.
    pub(crate) conditions: Option<Box<Conditions>>,
    pub policy: Arc<RoutePolicy>,
    pub target: Target,
    /// The host has a certificate of its own, so plain HTTP may be redirected.
    pub has_certificate: bool,
    /// From `spec.defaultBackend`: takes what no rule of its host takes.
    pub fallback: bool,
}

#[derive(Debug)]
pub enum Target {
    Forward {
        canaries: Vec<Canary>,
        backends: Vec<WeightedBackend>,
    },
    Fail(Reason),
}

#[derive(Debug)]
pub struct Canary {
    pub object: Arc<ObjectRef>,
    pub when: CanaryWhen,
    pub cluster: Arc<Cluster>,
}

#[derive(Debug)]
pub struct WeightedBackend {
    pub cluster: Arc<Cluster>,
    pub weight: u32,
}

/// A backend service's port. Lives on from snapshot to snapshot as long as its key does; its endpoints are swapped beneath.
#[derive(Debug)]
pub struct Cluster {
    pub key: ClusterKey,
    /// Keeps retries a small share of the requests, whatever happens.
    pub retry_budget: RetryBudget,
    endpoints: ArcSwap<EndpointSet>,
}

impl Cluster {
    pub(crate) fn new(key: ClusterKey) -> Self {
        Self {
            key,
            retry_budget: RetryBudget::default(),
            endpoints: ArcSwap::from_pointee(EndpointSet::default()),
        }
    }

    pub fn endpoints(&self) -> arc_swap::Guard<Arc<EndpointSet>> {
        self.endpoints.load()
    }

    /// The endpoints' own lane; only the publisher calls it.
    pub fn set_endpoints(&self, set: Arc<EndpointSet>) {
        self.endpoints.store(set);
    }
}

impl Snapshot {
    /// Serves nothing: what is in force before the first objects have arrived.
    pub fn empty() -> Self {
        Self {
            hosts: HostTable::default(),
            clusters: BTreeMap::new(),
            certificates: HostMap::default(),
            unowned: HostMap::default(),
        }
    }

    pub fn clusters(&self) -> impl Iterator<Item = &Arc<Cluster>> {
        self.clusters.values()
    }

    pub fn cluster(&self, key: &ClusterKey) -> Option<&Arc<Cluster>> {
        self.clusters.get(key)
    }

    /// All routes, host by host, in the order in which they are tried.
    pub fn routes(&self) -> impl Iterator<Item = &Arc<Route>> {
        self.hosts.routes()
    }

    /// The certificates bound to a server name (lower case), most senior first: those of the exact name, else of the
    /// wildcard, else those bound to every name.
    pub fn certificates_for(&self, name: &str) -> &[CertificateKey] {
        self.certificates.get(name).map_or(&[], |(_, keys)| keys)
    }

    /// All bindings, sorted by host.
    pub fn certificate_bindings(&self) -> impl Iterator<Item = (HostPattern, &[CertificateKey])> {
        let sorted = self.certificates.sorted();
        sorted.into_iter().map(|(host, keys)| (host, &**keys))
    }

    /// The hosts of Ingresses that nobody owns, sorted.
    pub fn unowned_hosts(&self) -> impl Iterator<Item = &Arc<UnownedHost>> {
        self.unowned.sorted().into_iter().map(|(_, unowned)| unowned)
    }
}
