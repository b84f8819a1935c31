//! The bag of Kubernetes objects that every source yields and translate reads.

use std::collections::BTreeMap;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Node, Secret, Service};
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

/// All objects of one moment. An object that did not change keeps its `Arc`, so that work on it can be remembered by pointer; so does a
/// kind of which nothing changed.
#[derive(Clone, Debug, Default)]
pub struct Objects {
    pub ingresses: Set<Ingress>,
    pub ingress_classes: Set<IngressClass>,
    pub services: Set<Service>,
    pub endpoint_slices: Set<EndpointSlice>,
    pub secrets: Set<Secret>,
    pub config_maps: Set<ConfigMap>,
    /// Those that can be read; without them, none is about to go.
    pub namespaces: Set<Namespace>,
    /// From a cluster, the agent's own alone.
    pub nodes: Set<Node>,
}

/// The objects of one kind: a sorted map that is shared until it is written to, so that a clone costs nothing.
#[derive(Debug)]
pub struct Set<T>(Arc<BTreeMap<Key, Arc<T>>>);

impl<T> Set<T> {
    /// Whether the two hold the very same objects; by the map's own identity where it was not written to in between.
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
            || (self.len() == other.len()
                && self
                    .iter()
                    .zip(other.iter())
                    .all(|((key, a), (other, b))| Arc::ptr_eq(a, b) && key == other))
    }
}

impl<T> Clone for Set<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> Default for Set<T> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<T> Deref for Set<T> {
    type Target = BTreeMap<Key, Arc<T>>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

/// The first write after a clone copies the map (not the objects).
impl<T> DerefMut for Set<T> {
    fn deref_mut(&mut self) -> &mut Self::Target {
        Arc::make_mut(&mut self.0)
    }
}

impl<'a, T> IntoIterator for &'a Set<T> {
    type Item = (&'a Key, &'a Arc<T>);
    type IntoIter = std::collections::btree_map::Iter<'a, Key, Arc<T>>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

impl<T> FromIterator<(Key, Arc<T>)> for Set<T> {
    fn from_iter<I: IntoIterator<Item = (Key, Arc<T>)>>(objects: I) -> Self {
        Self(Arc::new(objects.into_iter().collect()))
    }
}

/// What a source tells: the whole set, and what is wrong with its input.
#[derive(Clone, Debug, Default)]
pub struct SourceState {
    pub objects: Objects,
    pub diagnostics: Vec<ingress_core::diagnostic::Diagnostic>,
}
