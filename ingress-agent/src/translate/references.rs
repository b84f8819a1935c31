//! Which Secrets and ConfigMaps our Ingresses name: a source that can't have all of them asks for these.

use std::collections::BTreeSet;

use k8s_openapi::api::networking::v1::Ingress;

use super::Options;
use super::annotations::PREFIXES;
use crate::objects::{Key, Objects};

/// What is named, whether it exists or not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct References {
    pub secrets: BTreeSet<Key>,
    pub config_maps: BTreeSet<Key>,
}

/// Annotations (without prefix) whose value is `name` or `namespace/name`.
const SECRETS: [&str; 3] = ["auth-secret", "auth-tls-secret", "proxy-ssl-secret"];
const CONFIG_MAPS: [&str; 1] = ["custom-headers"];

/// What the objects that are ours name, and the options.
pub fn references(objects: &Objects, options: &Options) -> References {
    let mut references = References::default();
    for (key, ingress) in super::owned(objects, options) {
        of_ingress(key, ingress, &mut references);
    }
    if let Some((namespace, name)) = &options.default_certificate {
        references
            .secrets
            .insert(Key::new(namespace.as_str(), name.as_str()));
    }
    references
}

fn of_ingress(key: &Key, ingress: &Ingress, references: &mut References) {
    let tls = ingress.spec.as_ref().and_then(|spec| spec.tls.as_ref());
    for name in tls
        .into_iter()
        .flatten()
        .filter_map(|tls| tls.secret_name.as_deref())
    {
        add(&mut references.secrets, key, name);
    }
    for (annotation, value) in ingress.metadata.annotations.iter().flatten() {
        let Some(name) = PREFIXES.iter().find_map(|prefix| annotation.strip_prefix(prefix)) else {
            continue;
        };
        if SECRETS.contains(&name) {
            add(&mut references.secrets, key, value);
        } else if CONFIG_MAPS.contains(&name) {
            add(&mut references.config_maps, key, value);
        }
    }
}

/// Only in the namespace of the Ingress: an Ingress gets at no other's Secrets.
fn add(into: &mut BTreeSet<Key>, ingress: &Key, value: &str) {
    let name = match value.trim().split_once('/') {
        Some((namespace, name)) if namespace == ingress.namespace => name,
        Some(_) => return,
        None => value.trim(),
    };
    // RFC 1123 subdomain: anything else can't be asked for, and would be a path in the request.
    let is_name = !name.is_empty()
        && name.len() <= 253
        && name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.')
        && name.starts_with(|c: char| c.is_ascii_alphanumeric());
    if is_name {
        into.insert(Key::new(ingress.namespace.as_str(), name));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::translate::tests::{options, world};

    #[test]
    fn secrets_and_config_maps_are_those_that_our_ingresses_name_in_their_own_namespace() {
        let objects = world(
            r#"
kind: IngressClass
metadata: {name: ingress-agent}
spec: {controller: ingress-agent.io/controller}
---
kind: Ingress
metadata:
  name: web
  annotations:
    nginx.ingress.kubernetes.io/custom-headers: shop/headers
    ingress-agent.io/auth-secret: other/users
    nginx.ingress.kubernetes.io/auth-tls-secret: ../../pods
spec:
  ingressClassName: ingress-agent
  tls: [{secretName: web-tls}, {secretName: Not_A_Name}, {hosts: [a.example]}]
---
kind: Ingress
metadata: {name: theirs}
spec: {ingressClassName: other, tls: [{secretName: their-tls}]}
"#,
        );
        let found = references(&objects, &options());
        assert_eq!(found.secrets, BTreeSet::from([Key::new("shop", "web-tls")]));
        assert_eq!(found.config_maps, BTreeSet::from([Key::new("shop", "headers")]));
    }
}
