//! The bag of Kubernetes objects that every source yields and translate reads.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ConfigMap, Secret, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::{Ingress, IngressClass};

/// Namespace (empty for cluster-scoped kinds) and name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    pub namespace: String,
    pub name: String,
}

impl Key {
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }
}

/// All objects of one moment. An object that did not change keeps its `Arc`, so that work on it can be remembered by pointer.
#[derive(Clone, Debug, Default)]
pub struct Objects {
    pub ingresses: BTreeMap<Key, Arc<Ingress>>,
    pub ingress_classes: BTreeMap<Key, Arc<IngressClass>>,
    pub services: BTreeMap<Key, Arc<Service>>,
    pub endpoint_slices: BTreeMap<Key, Arc<EndpointSlice>>,
    pub secrets: BTreeMap<Key, Arc<Secret>>,
    pub config_maps: BTreeMap<Key, Arc<ConfigMap>>,
}

/// What a source tells: the whole set, and what is wrong with its input.
#[derive(Clone, Debug, Default)]
pub struct SourceState {
    pub objects: Objects,
    pub diagnostics: Vec<ingress_core::diagnostic::Diagnostic>,
}
