//! One object of any of the kinds that the agent reads.

use std::sync::Arc;

use ingress_core::name::{Kind, ObjectRef};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Node, Secret, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::{Ingress, IngressClass};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Serialize};

use crate::objects::{Key, Objects};

/// An object, cheap to clone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", content = "object")]
pub(in crate::source) enum Object {
    Ingress(Arc<Ingress>),
    IngressClass(Arc<IngressClass>),
    Service(Arc<Service>),
    EndpointSlice(Arc<EndpointSlice>),
    Secret(Arc<Secret>),
    ConfigMap(Arc<ConfigMap>),
    Namespace(Arc<Namespace>),
    Node(Arc<Node>),
}

/// Runs the same expression on whatever object it is.
macro_rules! each {
    ($object:expr, $inner:ident => $result:expr) => {
        match $object {
            Object::Ingress($inner) => $result,
            Object::IngressClass($inner) => $result,
            Object::Service($inner) => $result,
            Object::EndpointSlice($inner) => $result,
            Object::Secret($inner) => $result,
            Object::ConfigMap($inner) => $result,
            Object::Namespace($inner) => $result,
            Object::Node($inner) => $result,
        }
    };
}

impl Object {
    pub(in crate::source) fn kind(&self) -> Kind {
        match self {
            Self::Ingress(_) => Kind::Ingress,
            Self::IngressClass(_) => Kind::IngressClass,
            Self::Service(_) => Kind::Service,
            Self::EndpointSlice(_) => Kind::EndpointSlice,
            Self::Secret(_) => Kind::Secret,
            Self::ConfigMap(_) => Kind::ConfigMap,
            Self::Namespace(_) => Kind::Namespace,
            Self::Node(_) => Kind::Node,
        }
    }

    pub(in crate::source) fn metadata(&self) -> &ObjectMeta {
        each!(self, object => &object.metadata)
    }

    pub(in crate::source) fn reference(&self) -> ObjectRef {
        let metadata = self.metadata();
        let namespace = metadata.namespace.as_deref().unwrap_or_default();
        ObjectRef::new(
            self.kind(),
            namespace,
            metadata.name.as_deref().unwrap_or_default(),
        )
    }

    /// The earlier object, when nothing about it changed: work on it is remembered by pointer.
    pub(in crate::source) fn or_same(self, earlier: Option<Object>) -> Object {
        earlier.filter(|earlier| *earlier == self).unwrap_or(self)
    }

    /// Finds the object that `reference` names.
    pub(in crate::source) fn find(objects: &Objects, reference: &ObjectRef) -> Option<Object> {
        let key = key_of(reference);
        match reference.kind {
            Kind::Ingress => objects.ingresses.get(&key).cloned().map(Self::Ingress),
            Kind::IngressClass => objects.ingress_classes.get(&key).cloned().map(Self::IngressClass),
            Kind::Service => objects.services.get(&key).cloned().map(Self::Service),
            Kind::EndpointSlice => objects
                .endpoint_slices
                .get(&key)
                .cloned()
                .map(Self::EndpointSlice),
            Kind::Secret => objects.secrets.get(&key).cloned().map(Self::Secret),
            Kind::ConfigMap => objects.config_maps.get(&key).cloned().map(Self::ConfigMap),
            Kind::Namespace => objects.namespaces.get(&key).cloned().map(Self::Namespace),
            Kind::Node => objects.nodes.get(&key).cloned().map(Self::Node),
            Kind::File => None,
        }
    }

    /// Whether both are the very same object.
    pub(in crate::source) fn is(&self, other: &Object) -> bool {
        match (self, other) {
            (Self::Ingress(a), Self::Ingress(b)) => Arc::ptr_eq(a, b),
            (Self::IngressClass(a), Self::IngressClass(b)) => Arc::ptr_eq(a, b),
            (Self::Service(a), Self::Service(b)) => Arc::ptr_eq(a, b),
            (Self::EndpointSlice(a), Self::EndpointSlice(b)) => Arc::ptr_eq(a, b),
            (Self::Secret(a), Self::Secret(b)) => Arc::ptr_eq(a, b),
            (Self::ConfigMap(a), Self::ConfigMap(b)) => Arc::ptr_eq(a, b),
            (Self::Namespace(a), Self::Namespace(b)) => Arc::ptr_eq(a, b),
            (Self::Node(a), Self::Node(b)) => Arc::ptr_eq(a, b),
            _ => false,
        }
    }

    /// Takes the object that `reference` names out of the set.
    pub(in crate::source) fn remove(objects: &mut Objects, reference: &ObjectRef) {
        let key = key_of(reference);
        match reference.kind {
            Kind::Ingress => drop(objects.ingresses.remove(&key)),
            Kind::IngressClass => drop(objects.ingress_classes.remove(&key)),
            Kind::Service => drop(objects.services.remove(&key)),
            Kind::EndpointSlice => drop(objects.endpoint_slices.remove(&key)),
            Kind::Secret => drop(objects.secrets.remove(&key)),
            Kind::ConfigMap => drop(objects.config_maps.remove(&key)),
            Kind::Namespace => drop(objects.namespaces.remove(&key)),
            Kind::Node => drop(objects.nodes.remove(&key)),
            Kind::File => {}
        }
    }

    /// Adds the object to the set.
    pub(in crate::source) fn insert(self, objects: &mut Objects) {
        let key = key_of(&self.reference());
        match self {
            Self::Ingress(object) => drop(objects.ingresses.insert(key, object)),
            Self::IngressClass(object) => drop(objects.ingress_classes.insert(key, object)),
            Self::Service(object) => drop(objects.services.insert(key, object)),
            Self::EndpointSlice(object) => drop(objects.endpoint_slices.insert(key, object)),
            Self::Secret(object) => drop(objects.secrets.insert(key, object)),
            Self::ConfigMap(object) => drop(objects.config_maps.insert(key, object)),
            Self::Namespace(object) => drop(objects.namespaces.insert(key, object)),
            Self::Node(object) => drop(objects.nodes.insert(key, object)),
        }
    }
}

fn key_of(reference: &ObjectRef) -> Key {
    Key::new(&*reference.namespace, &*reference.name)
}
