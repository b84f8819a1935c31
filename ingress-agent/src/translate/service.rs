//! From an Ingress' backend to a Service, its port and what is spoken there.

use std::collections::HashMap;
use std::collections::btree_map::{BTreeMap, Entry};
use std::sync::Arc;

use ingress_core::name::{Kind, ObjectRef};
use ingress_core::reason::Reason;
use ingress_core::resource::{Balance, ClusterKey, PortRef, Protocol};
use k8s_openapi::api::core::v1::{Service, ServicePort};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::notes::excerpt;
use crate::objects::{Key, Objects};

/// The Services that routes name, each looked up once, and the clusters made of them.
#[derive(Debug)]
pub(super) struct Backends<'a> {
    objects: &'a Objects,
    known: HashMap<Key, (Arc<ObjectRef>, Option<&'a Service>)>,
    clusters: BTreeMap<ClusterKey, Result<(), Problem>>,
}

/// How a route wants its backend spoken to; shared by the paths of one Ingress.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Speech {
    /// From an annotation; without one the Service port's `appProtocol` decides.
    pub(super) protocol: Option<Protocol>,
    pub(super) balance: Balance,
}

/// Why a backend has nowhere to go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Problem {
    /// [`Reason::ServiceMissing`] or [`Reason::PortMissing`].
    pub(super) missing: Reason,
    pub(super) message: String,
}

impl Problem {
    /// The word for Diagnostics.
    pub(super) fn reason(&self) -> &'static str {
        match self.missing {
            Reason::ServiceMissing => "ServiceNotFound",
            _ => "ServicePortNotFound",
        }
    }
}

impl<'a> Backends<'a> {
    pub(super) fn new(objects: &'a Objects) -> Self {
        Self {
            objects,
            known: HashMap::new(),
            clusters: BTreeMap::new(),
        }
    }

    /// The cluster of a backend. There always is one: a missing Service may come, and its route must be there already.
    pub(super) fn cluster(
        &mut self,
        service: Key,
        port: PortRef,
        speech: Speech,
    ) -> (ClusterKey, Result<(), Problem>) {
        let objects = self.objects;
        let (object, service) = self.known.entry(service).or_insert_with_key(|key| {
            let object = ObjectRef::new(Kind::Service, key.namespace.as_str(), key.name.as_str());
            (object.into(), objects.services.get(key).map(Arc::as_ref))
        });
        let found = find_port(*service, &port, object);
        let spoken = match &found {
            Ok(ServingPort {
                listed: Some(port), ..
            }) => by_app_protocol(port),
            _ => Protocol::Http,
        };
        let key = ClusterKey {
            service: Arc::clone(object),
            port,
            protocol: speech.protocol.unwrap_or(spoken),
            balance: speech.balance,
        };
        match self.clusters.entry(key) {
            Entry::Occupied(entry) => (entry.key().clone(), entry.get().clone()),
            Entry::Vacant(entry) => {
                let key = entry.key().clone();
                (key, entry.insert(found.map(|_| ())).clone())
            }
        }
    }

    /// Every cluster that was asked for, in order.
    pub(super) fn into_clusters(self) -> Vec<ClusterKey> {
        self.clusters.into_keys().collect()
    }
}

/// A port of a Service as a backend named it.
#[derive(Clone, Copy, Debug)]
pub(super) struct ServingPort<'a> {
    pub(super) service: &'a Service,
    /// `None`: an ExternalName Service may be asked for any number.
    pub(super) listed: Option<&'a ServicePort>,
    number: u16,
}

impl ServingPort<'_> {
    /// The name that EndpointSlice ports are found by.
    pub(super) fn slice_port_name(&self) -> &str {
        self.listed
            .and_then(|port| port.name.as_deref())
            .unwrap_or_default()
    }

    /// The number behind the Service, where the Service itself says it.
    pub(super) fn target_number(&self) -> u16 {
        match self.listed.and_then(|port| port.target_port.as_ref()) {
            Some(IntOrString::Int(number)) => u16::try_from(*number).unwrap_or(self.number),
            _ => self.number,
        }
    }
}

/// Finds a port by number or name.
pub(super) fn find_port<'a>(
    service: Option<&'a Service>,
    port: &PortRef,
    object: &ObjectRef,
) -> Result<ServingPort<'a>, Problem> {
    let Some(service) = service else {
        return Err(Problem {
            missing: Reason::ServiceMissing,
            message: format!("{object} does not exist"),
        });
    };
    let listed = tcp_ports(service).find(|candidate| match port {
        PortRef::Number(number) => candidate.port == i32::from(*number),
        PortRef::Name(name) => candidate.name.as_deref() == Some(&**name),
    });
    let number = match (listed.map(|port| u16::try_from(port.port)), port) {
        (Some(Ok(number)), _) => number,
        (None, PortRef::Number(number)) if external_name(service).is_some() => *number,
        _ => return Err(port_missing(service, port, object)),
    };
    Ok(ServingPort {
        service,
        listed,
        number,
    })
}

/// `spec.externalName` of a Service of that type.
pub(super) fn external_name(service: &Service) -> Option<&str> {
    let spec = service.spec.as_ref()?;
    (spec.type_.as_deref() == Some("ExternalName"))
        .then_some(spec.external_name.as_deref().unwrap_or_default())
}

fn tcp_ports(service: &Service) -> impl Iterator<Item = &ServicePort> {
    let ports = service.spec.as_ref().and_then(|spec| spec.ports.as_deref());
    let ports = ports.unwrap_or_default().iter();
    ports.filter(|port| port.protocol.as_deref().is_none_or(|protocol| protocol == "TCP"))
}

fn port_missing(service: &Service, port: &PortRef, object: &ObjectRef) -> Problem {
    let existing: Vec<_> = tcp_ports(service).take(10).map(describe_port).collect();
    let existing = match existing.as_slice() {
        [] => "it has no TCP port at all".to_owned(),
        ports => format!("it has {}", ports.join(", ")),
    };
    let wanted = match port {
        PortRef::Number(number) => format!("number {number}"),
        PortRef::Name(name) => format!("named {}", excerpt(name)),
    };
    Problem {
        missing: Reason::PortMissing,
        message: format!("{object} has no port {wanted}; {existing}"),
    }
}

fn describe_port(port: &ServicePort) -> String {
    match &port.name {
        Some(name) => format!("{} ({name:?})", port.port),
        None => port.port.to_string(),
    }
}

/// KEP-3726 and IANA service names; what is unknown is spoken to as HTTP/1.1.
fn by_app_protocol(port: &ServicePort) -> Protocol {
    match port.app_protocol.as_deref() {
        Some("kubernetes.io/h2c" | "grpc") => Protocol::H2c,
        Some("https" | "kubernetes.io/wss") => Protocol::Https,
        _ => Protocol::Http,
    }
}
