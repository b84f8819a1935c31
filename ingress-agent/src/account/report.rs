//! What is shown: of late, route by route, with the verdict; and in all, by Ingress and by Service, for the metrics.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use foldhash::fast::RandomState;
use ingress_common::account as kept;
use ingress_common::account::{BUCKETS, NOBODY, Sums};
use ingress_core::name::ObjectRef;
use ingress_core::slow::{Evidence, Network, Slow, Times, verdict};
use ingress_core::snapshot::{Cluster, Route, Snapshot, Target};
use serde::{Deserialize, Serialize};

use super::samples::Sample;
use super::{Accounting, Accounts, BACKEND, CLIENT, Name, Owner, Reading, RouteName, lock};
use crate::kernel::account::Untold;
use crate::series::LiveSeries;

/// A route as it went of late (one to two minutes).
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RouteFigures {
    pub host: String,
    pub path: String,
    pub namespace: String,
    pub ingress: String,
    /// `client`, `proxy`, `backend_network`, `pod` or `nothing`.
    pub slow: Slow,
    /// What each takes of a mean request.
    pub client_ms: f64,
    pub proxy_ms: f64,
    pub backend_network_ms: f64,
    pub pod_ms: f64,
    /// Requests that were looked at.
    pub requests: u64,
    /// To the response's first byte, as the backend let us wait.
    pub first_byte_ms: Option<f64>,
    /// What nine in ten stayed below.
    pub most_first_byte_ms: Option<f64>,
    pub connect_ms: Option<f64>,
    pub client: NetworkFigures,
    pub backends: Vec<BackendFigures>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct BackendFigures {
    pub namespace: String,
    pub service: String,
    #[serde(flatten)]
    pub network: NetworkFigures,
}

/// One side's network. The kernel's numbers are of connections that ended in this time, and left out where it does not count.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct NetworkFigures {
    pub rtt_ms: Option<f64>,
    pub segments: u64,
    pub retransmits: u64,
    /// How long the other side's full receive window held us up.
    pub window_limited_ms: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connections: Option<Ends>,
    /// From SYN to established (backend), from established to accepted (client).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub setup_ms: Option<f64>,
}

/// How connections ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ends {
    pub all: u64,
    pub failed: u64,
    pub reset_by_peer: u64,
    pub reset: u64,
    pub timed_out: u64,
}

impl Ends {
    pub fn of(sums: &Sums) -> Self {
        Self {
            all: sums.get(kept::CONNECTIONS),
            failed: sums.get(kept::FAILED),
            reset_by_peer: sums.get(kept::RESET_BY_PEER),
            reset: sums.get(kept::RESET),
            timed_out: sums.get(kept::TIMED_OUT),
        }
    }
}

/// One Ingress's clients or one Service's endpoints, since the start.
#[derive(Clone, Copy, Debug, Default)]
pub struct Totals {
    pub sums: Sums,
    pub sample: Sample,
}

impl Totals {
    fn merge(&mut self, other: &Self) {
        self.sums.merge(&other.sums);
        self.sample.merge(&other.sample);
    }
}

/// For the metrics. A name that no object has stands for what has none.
#[derive(Clone, Debug, Default)]
pub struct TcpTotals {
    /// Whether the kernel's side counts.
    pub counted: bool,
    /// Connections that it did not tell one by one.
    pub untold: Untold,
    pub client: BTreeMap<(String, String), Totals>,
    pub backend: BTreeMap<(String, String), Totals>,
}

/// What was told so far. Only differences are added, so that nothing goes down when an endpoint leaves its Service.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    ingresses: HashMap<Arc<ObjectRef>, Totals, RandomState>,
    services: HashMap<Arc<ObjectRef>, Totals, RandomState>,
    unrouted: Totals,
    others: [Totals; 2],
    told: Reading,
    /// Where an endpoint was seen last; it stays there for the connections that end later.
    belongs: HashMap<SocketAddr, Vec<Arc<ObjectRef>>, RandomState>,
}

impl Accounts {
    /// Every route of the snapshot that anything is known of.
    pub fn routes(&self, snapshot: &Snapshot) -> Vec<RouteFigures> {
        let owners = self.owners();
        let now = self.read(&owners);
        let history = lock(&self.history);
        let [earlier, _] = &history.earlier;
        let mut recent = Recent {
            by_owner: now.since(earlier),
            lag: now.lag.since(&earlier.lag),
            counted: self.kernel().is_some(),
            ..Recent::default()
        };
        for owner in &owners {
            match &owner.name {
                Name::Route(name) => drop(recent.routes.insert(name, owner.number)),
                Name::Endpoint(address) => drop(recent.endpoints.insert(*address, owner.number)),
                Name::Others => {}
            }
        }
        let figures = snapshot.routes().filter_map(|route| recent.route(route));
        figures.collect()
    }

    /// Everything since the start.
    pub fn totals(&self, snapshot: &Snapshot, live: &LiveSeries) -> TcpTotals {
        let owners = self.owners();
        let mut history = lock(&self.history);
        // Read behind the lock: an older reading after a newer one would count the difference twice.
        let now = self.read(&owners);
        history.ledger.settle(now, &owners, snapshot, live);
        let mut totals = history.ledger.totals(self.kernel().is_some());
        totals.untold = self.kernel().map(Accounting::untold).unwrap_or_default();
        totals
    }
}

/// What came since an earlier reading, by side and number.
type ByOwner = HashMap<(u32, u32), Totals>;

impl Reading {
    fn since(&self, earlier: &Self) -> ByOwner {
        let mut all = ByOwner::new();
        for (key, sums) in &self.sums {
            let before = earlier.sums.get(key).copied().unwrap_or_default();
            let own = all.entry((key.side, key.owner)).or_default();
            own.sums.merge(&sums.since(&before));
        }
        for (place, sample) in &self.samples {
            let before = earlier.samples.get(place).copied().unwrap_or_default();
            all.entry(*place).or_default().sample = sample.since(&before);
        }
        all
    }
}

#[derive(Default)]
struct Recent<'a> {
    routes: HashMap<&'a RouteName, u32>,
    endpoints: HashMap<SocketAddr, u32>,
    by_owner: ByOwner,
    lag: Sample,
    counted: bool,
}

impl Recent<'_> {
    fn route(&self, route: &Route) -> Option<RouteFigures> {
        let number = self.routes.get(&RouteName::of(route))?;
        let own = self.of(CLIENT, *number);
        let backends = self.backends(route);
        let mut network = Network::default();
        for (_, totals) in &backends {
            merge(&mut network, totals);
        }
        let mut client = Network::default();
        merge(&mut client, &own);
        let evidence = Evidence {
            client,
            backend: network,
            connect: own.sample.connect,
            first_byte: own.sample.first_byte,
            own: own.sample.own,
            lag: self.lag.own,
            accept: times(&own.sums, kept::SETUP),
        };
        let verdict = verdict(&evidence);
        Some(RouteFigures {
            host: route.host.to_string(),
            path: route.path.to_string(),
            namespace: route.object.namespace.to_string(),
            ingress: route.object.name.to_string(),
            slow: verdict.slow,
            client_ms: millis(verdict.client),
            proxy_ms: millis(verdict.proxy),
            backend_network_ms: millis(verdict.backend_network),
            pod_ms: millis(verdict.pod),
            requests: own.sample.own.count(),
            first_byte_ms: own.sample.first_byte.mean().map(millis),
            most_first_byte_ms: own.sample.first_byte.most().map(millis),
            connect_ms: own.sample.connect.mean().map(millis),
            client: self.network(&own),
            backends: backends
                .iter()
                .map(|(service, totals)| self.backend(service, totals))
                .collect(),
        })
    }

    fn backend(&self, service: &ObjectRef, totals: &Totals) -> BackendFigures {
        BackendFigures {
            namespace: service.namespace.to_string(),
            service: service.name.to_string(),
            network: self.network(totals),
        }
    }

    fn network(&self, totals: &Totals) -> NetworkFigures {
        let mut network = Network::default();
        merge(&mut network, totals);
        let sample = &totals.sample;
        NetworkFigures {
            rtt_ms: network.rtt.mean().map(millis),
            // Not both: a connection that is sampled ends one day, and would count twice.
            segments: sample.segments.max(totals.sums.get(kept::SEGMENTS_OUT)),
            retransmits: sample.retransmits.max(totals.sums.get(kept::RETRANSMITS)),
            window_limited_ms: millis(Duration::from_micros(sample.window_limited)),
            connections: self.counted.then(|| Ends::of(&totals.sums)),
            setup_ms: times(&totals.sums, kept::SETUP).mean().map(millis),
        }
    }

    /// Services of the route's clusters, each with what its endpoints did.
    fn backends(&self, route: &Route) -> Vec<(Arc<ObjectRef>, Totals)> {
        let mut all: BTreeMap<Arc<ObjectRef>, Totals> = BTreeMap::new();
        for cluster in clusters(route) {
            let totals = all.entry(Arc::clone(&cluster.key.service)).or_default();
            for address in addresses(cluster) {
                if let Some(number) = self.endpoints.get(&address) {
                    totals.merge(&self.of(BACKEND, *number));
                }
            }
        }
        all.into_iter().collect()
    }

    fn of(&self, side: u32, number: u32) -> Totals {
        self.by_owner.get(&(side, number)).copied().unwrap_or_default()
    }
}

impl Ledger {
    /// Adds what is new.
    fn settle(&mut self, now: Reading, owners: &[Arc<Owner>], snapshot: &Snapshot, live: &LiveSeries) {
        self.place(snapshot);
        let known: HashMap<(u32, u32), &Name> = owners
            .iter()
            .map(|owner| ((owner.side, owner.number), &owner.name))
            .collect();
        for (place, totals) in now.since(&self.told) {
            let (side, number) = place;
            match known.get(&place) {
                Some(Name::Route(name)) => self.ingress(&name.object, live).merge(&totals),
                Some(Name::Endpoint(address)) => self.endpoint(address, &totals, live),
                _ if side == BACKEND => self.others[1].merge(&totals),
                _ if number == NOBODY => self.unrouted.merge(&totals),
                _ => self.others[0].merge(&totals),
            }
        }
        self.told = now;
        let addresses = known.values().filter_map(|name| match name {
            Name::Endpoint(address) => Some(address),
            _ => None,
        });
        let addresses: HashSet<_> = addresses.collect();
        self.belongs.retain(|address, _| addresses.contains(address));
        self.ingresses.retain(|object, _| live.has_route(object));
        self.services.retain(|object, _| live.has_service(object));
    }

    fn place(&mut self, snapshot: &Snapshot) {
        let mut now: HashMap<SocketAddr, Vec<Arc<ObjectRef>>, RandomState> = HashMap::default();
        for cluster in snapshot.clusters() {
            for address in addresses(cluster) {
                let services = now.entry(address).or_default();
                if !services.contains(&cluster.key.service) {
                    services.push(Arc::clone(&cluster.key.service));
                }
            }
        }
        self.belongs.extend(now);
    }

    fn ingress(&mut self, object: &Arc<ObjectRef>, live: &LiveSeries) -> &mut Totals {
        match live.has_route(object) {
            true => self.ingresses.entry(Arc::clone(object)).or_default(),
            false => &mut self.others[0],
        }
    }

    /// An endpoint that two Services have counts for both.
    fn endpoint(&mut self, address: &SocketAddr, totals: &Totals, live: &LiveSeries) {
        let services = self.belongs.get(address).cloned().unwrap_or_default();
        let mut told = false;
        for service in services.iter().filter(|service| live.has_service(service)) {
            self.services
                .entry(Arc::clone(service))
                .or_default()
                .merge(totals);
            told = true;
        }
        if !told {
            self.others[1].merge(totals);
        }
    }

    fn totals(&self, counted: bool) -> TcpTotals {
        let named = |all: &HashMap<Arc<ObjectRef>, Totals, RandomState>| -> BTreeMap<_, _> {
            let name = |object: &ObjectRef| (object.namespace.to_string(), object.name.to_string());
            all.iter()
                .map(|(object, totals)| (name(object), *totals))
                .collect()
        };
        let special = |name: &str| (name.to_owned(), name.to_owned());
        let [others_client, others_backend] = self.others;
        let mut totals = TcpTotals {
            counted,
            untold: Untold::default(),
            client: named(&self.ingresses),
            backend: named(&self.services),
        };
        totals.client.insert(special("_none"), self.unrouted);
        totals.client.insert(special("_other"), others_client);
        totals.backend.insert(special("_other"), others_backend);
        totals
    }
}

fn clusters(route: &Route) -> Vec<&Arc<Cluster>> {
    match &route.target {
        Target::Forward { canaries, backends } => backends
            .iter()
            .map(|backend| &backend.cluster)
            .chain(canaries.iter().map(|canary| &canary.cluster))
            .collect(),
        Target::Fail(_) => Vec::new(),
    }
}

pub(super) fn addresses(cluster: &Cluster) -> Vec<SocketAddr> {
    let endpoints = cluster.endpoints();
    let all = endpoints.active().iter().chain(endpoints.passive());
    all.map(|endpoint| endpoint.endpoint.address).collect()
}

/// The kernel's numbers and the samples tell of the same network: for the ratio both count. Of round trips the samples are closer to requests: the
/// kernel's are smoothed, and of connections that have ended.
fn merge(network: &mut Network, totals: &Totals) {
    network.rtt.merge(&match totals.sample.rtt.count() {
        0 => times(&totals.sums, kept::RTT),
        _ => totals.sample.rtt,
    });
    network.segments += totals.sample.segments + totals.sums.get(kept::SEGMENTS_OUT);
    network.retransmits += totals.sample.retransmits + totals.sums.get(kept::RETRANSMITS);
}

fn times(sums: &Sums, place: usize) -> Times {
    let counts: [u64; BUCKETS] = sums.histogram(place);
    Times {
        counts,
        micros: sums.total(place),
    }
}

pub(super) fn millis(time: Duration) -> f64 {
    (time.as_secs_f64() * 1_000_000.0).round() / 1000.0
}
