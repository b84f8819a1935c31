//! What an API server does to an object before it keeps it: fills in defaults, and refuses what breaks a rule.
//!
//! The rules and their words are those of Kubernetes 1.36 for objects that are created. A folder has no API server, so that this stands
//! in for it; objects from a cluster never come here. Two things differ, and are meant to: addresses of EndpointSlices may be loopback,
//! and `generateName` alone is no name.

mod endpoint_slice;
mod field;
mod ingress;
mod metadata;
mod names;
mod secret;
mod service;
mod standing;

use std::sync::Arc;

pub(super) use self::field::FieldError;
use super::manifest::object::Object;

/// Defaults the object, and gives it back if an API server would take it.
pub(super) fn admit(object: Object) -> Result<Object, Vec<FieldError>> {
    match object {
        Object::Ingress(ingress) => {
            ingress::validate_ingress(&ingress)?;
            Ok(Object::Ingress(ingress))
        }
        Object::IngressClass(mut class) => {
            // What is not of the request's place is taken out of the object.
            Arc::make_mut(&mut class).metadata.namespace = None;
            ingress::validate_ingress_class(&class)?;
            Ok(Object::IngressClass(class))
        }
        Object::Service(mut service) => {
            service::default_service(Arc::make_mut(&mut service));
            service::validate_service(&service)?;
            Ok(Object::Service(service))
        }
        Object::EndpointSlice(mut slice) => {
            endpoint_slice::default_endpoint_slice(Arc::make_mut(&mut slice));
            endpoint_slice::validate_endpoint_slice(&slice)?;
            Ok(Object::EndpointSlice(slice))
        }
        Object::Secret(mut secret) => {
            secret::default_secret(Arc::make_mut(&mut secret));
            secret::validate_secret(&secret)?;
            Ok(Object::Secret(secret))
        }
        Object::ConfigMap(map) => {
            secret::validate_config_map(&map)?;
            Ok(Object::ConfigMap(map))
        }
        Object::Namespace(mut namespace) => {
            Arc::make_mut(&mut namespace).metadata.namespace = None;
            standing::validate_namespace(&namespace)?;
            Ok(Object::Namespace(namespace))
        }
        Object::Node(mut node) => {
            Arc::make_mut(&mut node).metadata.namespace = None;
            standing::validate_node(&node)?;
            Ok(Object::Node(node))
        }
    }
}

#[cfg(test)]
mod tests;
