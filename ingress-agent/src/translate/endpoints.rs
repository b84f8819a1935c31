//! EndpointSlices (and ExternalName) to the endpoints of clusters.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ingress_core::diagnostic::Diagnostic;
use ingress_core::name::{Kind, ObjectRef};
use ingress_core::nearness::{Hinted, Place};
use ingress_core::resource::Nearness;
use ingress_core::resource::{ClusterKey, Endpoint, EndpointCondition, EndpointList};
use k8s_openapi::api::discovery::v1::{
    Endpoint as SliceEndpoint, EndpointConditions, EndpointPort, EndpointSlice,
};

use super::ExternalName;
use super::nearness;
use super::notes::{Notes, excerpt};
use super::service::{ServingPort, external_name, find_port};
use crate::objects::{Key, Objects};

pub(crate) const SERVICE_LABEL: &str = "kubernetes.io/service-name";

/// The one problem of endpoints that is told of their Service.
pub(crate) const PORT_NOT_FOUND: &str = "EndpointPortNotFound";

/// What is behind the clusters.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) endpoints: BTreeMap<ClusterKey, EndpointList>,
    pub(super) external_names: Vec<ExternalName>,
    pub(super) diagnostics: Vec<Diagnostic>,
}

pub(super) fn find(objects: &Objects, place: &Place, clusters: &[ClusterKey]) -> Found {
    let mut search = Search::new(objects, place, clusters);
    for cluster in clusters {
        search.cluster(cluster);
    }
    search.found
}

type Slices<'a> = Vec<(&'a Key, &'a EndpointSlice)>;

struct Search<'a> {
    objects: &'a Objects,
    place: &'a Place,
    /// By namespace and name of the Service; only those that a cluster asks for.
    slices: HashMap<(&'a str, &'a str), Slices<'a>>,
    /// Zone and node names, which many endpoints share.
    names: BTreeSet<Arc<str>>,
    /// Slices already complained about: several clusters may read one.
    told: BTreeSet<ObjectRef>,
    found: Found,
}

impl<'a> Search<'a> {
    fn new(objects: &'a Objects, place: &'a Place, clusters: &'a [ClusterKey]) -> Self {
        let mut slices: HashMap<_, Slices<'a>> =
            clusters.iter().map(|key| (service_of(key), Vec::new())).collect();
        let mut ownerless = Vec::new();
        for (key, slice) in &objects.endpoint_slices {
            let service = slice
                .metadata
                .labels
                .as_ref()
                .and_then(|labels| labels.get(SERVICE_LABEL));
            let Some(service) = service else {
                ownerless.push((key, slice.metadata.generation));
                continue;
            };
            if let Some(list) = slices.get_mut(&(key.namespace.as_str(), service.as_str())) {
                list.push((key, slice));
            }
        }
        let mut found = Found::default();
        tell_ownerless(&ownerless, &mut found.diagnostics);
        Self {
            objects,
            place,
            slices,
            names: BTreeSet::new(),
            told: BTreeSet::new(),
            found,
        }
    }

    fn cluster(&mut self, cluster: &ClusterKey) {
        let (namespace, name) = service_of(cluster);
        let service = self.objects.services.get(&Key::new(namespace, name));
        let list = match find_port(service.map(Arc::as_ref), &cluster.port, &cluster.service) {
            Err(problem) => EndpointList {
                endpoints: Vec::new(),
                missing: Some(problem.missing),
            },
            Ok(port) => match external_name(port.service) {
                None => self.in_slices(cluster, &port),
                Some(name) => match self.by_external_name(cluster, name, port.target_number()) {
                    Some(list) => list,
                    None => return,
                },
            },
        };
        self.found.endpoints.insert(cluster.clone(), list);
    }

    fn in_slices(&mut self, cluster: &ClusterKey, port: &ServingPort<'_>) -> EndpointList {
        let mut merged = BTreeMap::new();
        let slices = self.slices.get(&service_of(cluster)).cloned().unwrap_or_default();
        for (key, slice) in &slices {
            self.slice(key, slice, port, &mut merged);
        }
        if merged.is_empty() {
            self.explain_empty(cluster, port, &slices);
        }
        let wish = nearness::wish(port.service);
        if let Some(why) = nearness::unknown(wish, self.place) {
            let message = format!("has no effect on this node: {why}");
            let mut notes = Notes::new(Arc::clone(&cluster.service), None);
            notes.info("spec.trafficDistribution", "PlaceUnknown", message);
            notes.finish(&mut self.found.diagnostics);
        }
        EndpointList {
            endpoints: self.place.settle(wish, merged.into_values().collect()),
            missing: None,
        }
    }

    fn slice(
        &mut self,
        key: &Key,
        slice: &EndpointSlice,
        port: &ServingPort<'_>,
        merged: &mut BTreeMap<SocketAddr, Hinted>,
    ) {
        let numbers: Vec<u16> = matching_ports(slice, port).collect();
        if numbers.is_empty() {
            return;
        }
        let (addresses, bad) = read_addresses(slice);
        if !bad.is_empty() {
            self.complain(key, slice, bad);
        }
        for (ip, endpoint) in addresses {
            let (zone, node) = (self.share(&endpoint.zone), self.share(&endpoint.node_name));
            let by_hints = nearness::by_hints(self.place, endpoint.hints.as_ref());
            for number in &numbers {
                let address = SocketAddr::new(ip, *number);
                let new = Endpoint {
                    address,
                    state: condition(endpoint.conditions.as_ref()),
                    zone: zone.clone(),
                    node: node.clone(),
                    nearness: Nearness::default(),
                };
                keep_better(
                    merged,
                    Hinted {
                        endpoint: new,
                        by_hints,
                    },
                );
            }
        }
    }

    /// A name is left to the caller (`None`); an address needs no resolution.
    fn by_external_name(&mut self, cluster: &ClusterKey, name: &str, port: u16) -> Option<EndpointList> {
        if let Ok(ip) = name.parse::<IpAddr>() {
            let address = SocketAddr::new(ip, port);
            let endpoint = Endpoint {
                address,
                state: EndpointCondition::Ready,
                zone: None,
                node: None,
                nearness: Nearness::default(),
            };
            return Some(EndpointList {
                endpoints: Vec::from([endpoint]),
                missing: None,
            });
        }
        let bare = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
        if let Err(why) = check_external_name(&bare) {
            let message = format!("{} {why}; nothing can be sent there", excerpt(name));
            self.complain_about(
                &cluster.service,
                None,
                "spec.externalName",
                "InvalidExternalName",
                message,
            );
            return Some(EndpointList::default());
        }
        self.found.external_names.push(ExternalName {
            cluster: cluster.clone(),
            name: bare,
            port,
        });
        None
    }

    /// Slices that carry other ports only are the usual mistake with hand-made ones.
    fn explain_empty(&mut self, cluster: &ClusterKey, port: &ServingPort<'_>, slices: &Slices<'_>) {
        let has_endpoints = |(_, slice): &&(&Key, &EndpointSlice)| !slice.endpoints.is_empty();
        let carried: BTreeSet<&str> = slices
            .iter()
            .filter(has_endpoints)
            .flat_map(|(_, slice)| port_names(slice))
            .collect();
        if carried.is_empty() || carried.contains(port.slice_port_name()) {
            return;
        }
        let carried: Vec<_> = carried.iter().take(5).map(|name| excerpt(name)).collect();
        let message = format!(
            "its EndpointSlices have no port named {}, as this Service's port is; they have {}",
            excerpt(port.slice_port_name()),
            carried.join(", ")
        );
        self.complain_about(&cluster.service, None, "spec.ports", PORT_NOT_FOUND, message);
    }

    fn complain(&mut self, key: &Key, slice: &EndpointSlice, bad: Vec<(usize, String)>) {
        let object = ObjectRef::new(Kind::EndpointSlice, key.namespace.as_str(), key.name.as_str());
        if !self.told.insert(object.clone()) {
            return;
        }
        let mut notes = Notes::new(object.into(), slice.metadata.generation);
        for (index, message) in bad {
            notes.warning(
                &format!("endpoints[{index}].addresses"),
                "InvalidAddress",
                message,
            );
        }
        notes.finish(&mut self.found.diagnostics);
    }

    fn complain_about(
        &mut self,
        object: &Arc<ObjectRef>,
        generation: Option<i64>,
        field: &str,
        reason: &'static str,
        message: String,
    ) {
        let mut notes = Notes::new(Arc::clone(object), generation);
        notes.warning(field, reason, message);
        notes.finish(&mut self.found.diagnostics);
    }

    fn share(&mut self, name: &Option<String>) -> Option<Arc<str>> {
        let name = name.as_deref().filter(|name| !name.is_empty())?;
        if let Some(shared) = self.names.get(name) {
            return Some(Arc::clone(shared));
        }
        let shared: Arc<str> = name.into();
        self.names.insert(Arc::clone(&shared));
        Some(shared)
    }
}

/// Forgetting the label is easy in a slice made by hand, and then nothing happens at all.
fn tell_ownerless(slices: &[(&Key, Option<i64>)], into: &mut Vec<Diagnostic>) {
    for (key, generation) in slices {
        let object = ObjectRef::new(Kind::EndpointSlice, key.namespace.as_str(), key.name.as_str());
        let mut notes = Notes::new(object.into(), *generation);
        let message = format!("belongs to no Service, as it has no label {SERVICE_LABEL}");
        notes.info("metadata.labels", "EndpointSliceWithoutService", message);
        notes.finish(into);
    }
}

fn service_of(cluster: &ClusterKey) -> (&str, &str) {
    (&cluster.service.namespace, &cluster.service.name)
}

/// The numbers of a slice's ports that bear the Service port's name; several are possible, and legal.
fn matching_ports(slice: &EndpointSlice, port: &ServingPort<'_>) -> impl Iterator<Item = u16> {
    let (name, target) = (port.slice_port_name().to_owned(), i32::from(port.target_number()));
    let fitting = tcp_ports(slice).filter(move |port| port.name.as_deref().unwrap_or_default() == name);
    // "If this is not specified, ports are not restricted": then the Service's own word counts.
    let numbers = fitting.map(move |port| port.port.unwrap_or(target));
    numbers.filter_map(|number| u16::try_from(number).ok().filter(|number| *number != 0))
}

fn tcp_ports(slice: &EndpointSlice) -> impl Iterator<Item = &EndpointPort> {
    let ports = slice.ports.as_deref().unwrap_or_default().iter();
    ports.filter(|port| port.protocol.as_deref().is_none_or(|protocol| protocol == "TCP"))
}

fn port_names(slice: &EndpointSlice) -> impl Iterator<Item = &str> {
    tcp_ports(slice).map(|port| port.name.as_deref().unwrap_or_default())
}

type Addresses<'s> = Vec<(IpAddr, &'s SliceEndpoint)>;

/// The addresses of a slice, and what is wrong with the others.
fn read_addresses(slice: &EndpointSlice) -> (Addresses<'_>, Vec<(usize, String)>) {
    let mut good = Vec::with_capacity(slice.endpoints.len());
    let mut bad = Vec::new();
    for (index, endpoint) in slice.endpoints.iter().enumerate() {
        for address in &endpoint.addresses {
            match read_address(address, &slice.address_type) {
                Ok(ip) => good.push((ip, endpoint)),
                Err(why) => bad.push((index, format!("{} {why}; it is left out", excerpt(address)))),
            }
        }
    }
    (good, bad)
}

/// As the API server checks them, but for loopback and link-local: the folder source may have these.
fn read_address(text: &str, address_type: &str) -> Result<IpAddr, &'static str> {
    let ip: IpAddr = text.parse().map_err(|_| match address_type {
        "FQDN" => "is a name, and addressType FQDN is not supported",
        _ => "is not an IP address",
    })?;
    match (address_type, ip) {
        ("IPv4", IpAddr::V6(_)) => Err("is not IPv4, as addressType says"),
        ("IPv6", IpAddr::V4(_)) => Err("is not IPv6, as addressType says"),
        _ if ip.is_unspecified() => Err("is the unspecified address"),
        _ if ip.is_multicast() => Err("is a multicast address"),
        _ => Ok(ip),
    }
}

/// `ready: nil` means true, and `serving: nil` as much as `ready` (EndpointConditions). What serves without being ready
/// is terminating.
fn condition(conditions: Option<&EndpointConditions>) -> EndpointCondition {
    let ready = conditions.and_then(|all| all.ready).unwrap_or(true);
    let serving = conditions.and_then(|all| all.serving).unwrap_or(false);
    match (ready, serving) {
        (true, _) => EndpointCondition::Ready,
        (false, true) => EndpointCondition::Draining,
        (false, false) => EndpointCondition::NotReady,
    }
}

/// An endpoint that moves from slice to slice is in both for a moment: the better state counts.
fn keep_better(merged: &mut BTreeMap<SocketAddr, Hinted>, new: Hinted) {
    match merged.get(&new.endpoint.address) {
        Some(old) if old.endpoint.state <= new.endpoint.state => {}
        _ => {
            merged.insert(new.endpoint.address, new);
        }
    }
}

fn check_external_name(name: &str) -> Result<(), &'static str> {
    let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
    let label_fits = |label: &str| !label.is_empty() && label.len() <= 63 && label.bytes().all(fits);
    if name.is_empty() || name.len() > 253 || !name.split('.').all(label_fits) {
        return Err("is not a DNS name");
    }
    Ok(())
}
