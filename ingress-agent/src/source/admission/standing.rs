//! Namespace and Node: their names, labels and annotations (`ValidateNamespace` and `ValidateNode` of `pkg/apis/core/validation`). Of the rest
//! nothing is used but a Node's addresses, which are read one by one.

use k8s_openapi::api::core::v1::{Namespace, Node};

use super::field::{Errors, FieldError};
use super::metadata::{self, Scope};
use super::names;

pub(super) fn validate_namespace(namespace: &Namespace) -> Result<(), Vec<FieldError>> {
    let mut errors = Errors::default();
    metadata::validate(&namespace.metadata, Scope::Cluster, names::dns_label, &mut errors);
    errors.into_result()
}

pub(super) fn validate_node(node: &Node) -> Result<(), Vec<FieldError>> {
    let mut errors = Errors::default();
    metadata::validate(&node.metadata, Scope::Cluster, names::dns_subdomain, &mut errors);
    errors.into_result()
}
