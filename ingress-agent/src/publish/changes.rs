//! What differs between two states of the source, by identity: an object that did not change kept its `Arc`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ingress_core::diagnostic::Diagnostic;
use ingress_core::name::{Kind, ObjectRef};
use ingress_core::resource::ClusterKey;
use k8s_openapi::api::discovery::v1::EndpointSlice;

use crate::objects::{Key, Objects, Set};
use crate::translate::endpoints::{PORT_NOT_FOUND, SERVICE_LABEL};

/// EndpointSlices that differ, and the Services that they were or are of.
#[derive(Debug, Default)]
pub(super) struct EndpointChanges {
    slices: BTreeSet<Key>,
    /// Names by namespace: looked up for every cluster, without making a key.
    services: BTreeMap<String, BTreeSet<String>>,
}

impl EndpointChanges {
    pub(super) fn between(old: &Objects, new: &Objects) -> Self {
        let mut changes = Self::default();
        changes.one_way(&old.endpoint_slices, &new.endpoint_slices);
        changes.one_way(&new.endpoint_slices, &old.endpoint_slices);
        changes
    }

    pub(super) fn concern(&self, cluster: &ClusterKey) -> bool {
        self.has_service(&cluster.service)
    }

    /// Whether a problem that was found before has to be found again to stand.
    pub(super) fn outdate(&self, diagnostic: &Diagnostic) -> bool {
        let object = &diagnostic.object;
        match object.kind {
            Kind::EndpointSlice => self.slices.contains(&key(object)),
            Kind::Service => diagnostic.reason == PORT_NOT_FOUND && self.has_service(object),
            _ => false,
        }
    }

    fn has_service(&self, service: &ObjectRef) -> bool {
        let names = self.services.get(&*service.namespace);
        names.is_some_and(|names| names.contains(&*service.name))
    }

    fn one_way(&mut self, from: &Set<EndpointSlice>, to: &Set<EndpointSlice>) {
        // Both are sorted: one walk over the two, no search.
        let mut others = to.iter().peekable();
        for (key, slice) in from {
            while others.next_if(|(other, _)| *other < key).is_some() {}
            let same = others.next_if(|(other, _)| *other == key);
            if same.is_some_and(|(_, other)| Arc::ptr_eq(slice, other)) {
                continue;
            }
            self.slices.insert(key.clone());
            let labels = slice.metadata.labels.as_ref();
            if let Some(service) = labels.and_then(|labels| labels.get(SERVICE_LABEL)) {
                let names = self.services.entry(key.namespace.clone()).or_default();
                names.insert(service.clone());
            }
        }
    }
}

fn key(object: &ObjectRef) -> Key {
    Key::new(object.namespace.as_ref(), object.name.as_ref())
}

/// Whether everything but the EndpointSlices is the same.
pub(super) fn only_endpoints_differ(old: &Objects, new: &Objects) -> bool {
    old.ingresses.is_same(&new.ingresses)
        && old.ingress_classes.is_same(&new.ingress_classes)
        && old.services.is_same(&new.services)
        && old.secrets.is_same(&new.secrets)
        && old.config_maps.is_same(&new.config_maps)
        && old.namespaces.is_same(&new.namespaces)
        && old.nodes.is_same(&new.nodes)
}
