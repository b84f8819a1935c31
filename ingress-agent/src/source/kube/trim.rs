//! What is kept of an object: the rest would fill memory, and make a change of what nobody reads.
//!
//! An Ingress whose status was written, or an object whose `managedFields` moved, is equal to what is held, and nothing is published.

use std::fmt::Debug;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Node, NodeStatus, Secret, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::{Ingress, IngressClass};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::de::DeserializeOwned;

use crate::source::manifest::object::Object;
use crate::translate::nearness::ZONE_LABEL;

/// kubectl keeps a second copy of the object here.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// A kind that is watched.
pub(super) trait Kept:
    kube::Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static
{
    /// Takes off what nobody reads.
    fn trim(&mut self);
    fn into_object(self) -> Object;
}

impl Kept for Ingress {
    fn trim(&mut self) {
        trim_metadata(&mut self.metadata);
        self.status = None;
    }

    fn into_object(self) -> Object {
        Object::Ingress(Arc::new(self))
    }
}

impl Kept for IngressClass {
    fn trim(&mut self) {
        trim_metadata(&mut self.metadata);
    }

    fn into_object(self) -> Object {
        Object::IngressClass(Arc::new(self))
    }
}

impl Kept for Service {
    fn trim(&mut self) {
        trim_metadata(&mut self.metadata);
        self.status = None;
    }

    fn into_object(self) -> Object {
        Object::Service(Arc::new(self))
    }
}

impl Kept for EndpointSlice {
    fn trim(&mut self) {
        trim_metadata(&mut self.metadata);
        self.metadata.annotations = None;
        for endpoint in &mut self.endpoints {
            endpoint.target_ref = None;
            endpoint.deprecated_topology = None;
            endpoint.hostname = None;
        }
        self.endpoints.shrink_to_fit();
    }

    fn into_object(self) -> Object {
        Object::EndpointSlice(Arc::new(self))
    }
}

impl Kept for Secret {
    fn trim(&mut self) {
        trim_metadata(&mut self.metadata);
        if self.type_.as_deref() == Some("kubernetes.io/tls")
            && let Some(data) = &mut self.data
        {
            data.retain(|name, _| {
                matches!(
                    name.as_str(),
                    "tls.crt" | "tls.key" | "tls.ocsp-staple" | "ca.crt"
                )
            });
        }
    }

    fn into_object(self) -> Object {
        Object::Secret(Arc::new(self))
    }
}

impl Kept for ConfigMap {
    fn trim(&mut self) {
        trim_metadata(&mut self.metadata);
        self.binary_data = None;
    }

    fn into_object(self) -> Object {
        Object::ConfigMap(Arc::new(self))
    }
}

/// Whether it is about to go is all that its status says, too.
impl Kept for Namespace {
    fn trim(&mut self) {
        let going = self.metadata.deletion_timestamp.take();
        trim_metadata(&mut self.metadata);
        self.metadata.deletion_timestamp = going;
        self.metadata.annotations = None;
        self.spec = None;
        self.status = None;
    }

    fn into_object(self) -> Object {
        Object::Namespace(Arc::new(self))
    }
}

/// Its zone and addresses. The kubelet writes the rest of its status every few minutes, and whenever images come and go.
impl Kept for Node {
    fn trim(&mut self) {
        trim_metadata(&mut self.metadata);
        self.metadata.annotations = None;
        if let Some(labels) = &mut self.metadata.labels {
            labels.retain(|name, _| name == ZONE_LABEL);
        }
        self.spec = None;
        self.status = self.status.take().map(|status| NodeStatus {
            addresses: status.addresses,
            ..NodeStatus::default()
        });
    }

    fn into_object(self) -> Object {
        Object::Node(Arc::new(self))
    }
}

/// Name, namespace, uid, generation, age, labels and annotations stay.
fn trim_metadata(metadata: &mut ObjectMeta) {
    metadata.managed_fields = None;
    metadata.owner_references = None;
    metadata.finalizers = None;
    metadata.resource_version = None;
    metadata.self_link = None;
    metadata.generate_name = None;
    metadata.deletion_timestamp = None;
    metadata.deletion_grace_period_seconds = None;
    if let Some(annotations) = &mut metadata.annotations {
        annotations.remove(LAST_APPLIED);
        if annotations.is_empty() {
            metadata.annotations = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ingress(metadata: serde_json::Value, status: serde_json::Value) -> Ingress {
        let mut ingress: Ingress =
            serde_json::from_value(serde_json::json!({"metadata": metadata, "status": status})).unwrap();
        ingress.trim();
        ingress
    }

    #[test]
    fn what_others_write_into_an_ingress_changes_nothing_of_what_is_kept() {
        let before = ingress(
            serde_json::json!({"name": "web", "namespace": "shop", "resourceVersion": "1", "generation": 1}),
            serde_json::json!({}),
        );
        let after = ingress(
            serde_json::json!({
                "name": "web", "namespace": "shop", "resourceVersion": "2", "generation": 1,
                "managedFields": [{"manager": "other"}],
                "annotations": {LAST_APPLIED: "{}"},
            }),
            serde_json::json!({"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}}),
        );
        assert_eq!(before, after);
    }

    #[test]
    fn of_a_node_its_zone_and_addresses_are_kept_and_of_a_namespace_that_it_is_about_to_go() {
        let node = |image: &str| {
            let mut node: Node = serde_json::from_value(serde_json::json!({
                "metadata": {"name": "n1", "resourceVersion": image, "annotations": {"a": "b"},
                    "labels": {ZONE_LABEL: "a", "other": image}},
                "spec": {"podCIDR": "10.0.0.0/24"},
                "status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.1"}], "images": [{"names": [image]}]},
            }))
            .unwrap();
            node.trim();
            node
        };
        assert_eq!(node("1"), node("2"));
        assert_eq!(node("1").metadata.labels.unwrap().len(), 1);
        assert!(node("1").status.unwrap().addresses.is_some());
        let mut namespace: Namespace = serde_json::from_value(serde_json::json!({
            "metadata": {"name": "shop", "labels": {"team": "web"}, "deletionTimestamp": "2026-01-01T00:00:00Z"},
            "status": {"phase": "Terminating"},
        }))
        .unwrap();
        namespace.trim();
        assert!(namespace.metadata.deletion_timestamp.is_some() && namespace.metadata.labels.is_some());
        assert_eq!(namespace.status, None);
    }

    #[test]
    fn of_a_tls_secret_only_the_fields_that_tls_uses_are_kept() {
        let mut secret: Secret = serde_json::from_value(serde_json::json!({
            "type": "kubernetes.io/tls",
            "data": {"tls.crt": "", "tls.key": "", "tls.ocsp-staple": "", "ca.crt": "", "keystore.jks": "AAAA"},
        }))
        .unwrap();
        secret.trim();
        let kept: Vec<_> = secret.data.unwrap().into_keys().collect();
        assert_eq!(kept, ["ca.crt", "tls.crt", "tls.key", "tls.ocsp-staple"]);
    }
}
