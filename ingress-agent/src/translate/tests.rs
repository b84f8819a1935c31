//! What translate promises, object by object. A world is written as the YAML that a user would apply.

mod backends;
mod certificates;
mod hostile;
mod nearness;
mod ownership;
mod rules;

use std::sync::Arc;

use ingress_core::diagnostic::{Diagnostic, Severity};
use serde_json::Value;

use super::{Memory, Options, Translation, translate};
use crate::objects::{Key, Objects};

pub(crate) const NOW: i64 = 1_800_000_000;

pub(crate) fn options() -> Options {
    Options {
        controllers: vec!["ingress-agent.io/controller".into()],
        class: "ingress-agent".into(),
        classless: false,
        default_backend: None,
        default_certificate: None,
        place: Default::default(),
        now_unix: NOW,
    }
}

/// Objects of several YAML documents; the namespace is `shop` where none is given.
pub(crate) fn world(yaml: &str) -> Objects {
    let mut objects = Objects::default();
    add(&mut objects, yaml);
    objects
}

pub(crate) fn add(objects: &mut Objects, yaml: &str) {
    for document in yaml
        .split("\n---\n")
        .filter(|document| !document.trim().is_empty())
    {
        let value: Value = serde_saphyr::from_str(document).unwrap();
        let kind = value["kind"].as_str().unwrap().to_owned();
        let name = value["metadata"]["name"].as_str().unwrap().to_owned();
        let namespace = value["metadata"]["namespace"]
            .as_str()
            .unwrap_or("shop")
            .to_owned();
        let key = Key::new(
            if matches!(kind.as_str(), "IngressClass" | "Namespace" | "Node") {
                ""
            } else {
                &namespace
            },
            name,
        );
        match kind.as_str() {
            "Ingress" => drop(objects.ingresses.insert(key, read(value))),
            "IngressClass" => drop(objects.ingress_classes.insert(key, read(value))),
            "Service" => drop(objects.services.insert(key, read(value))),
            "EndpointSlice" => drop(objects.endpoint_slices.insert(key, read(value))),
            "Secret" => drop(objects.secrets.insert(key, read(value))),
            "ConfigMap" => drop(objects.config_maps.insert(key, read(value))),
            "Namespace" => drop(objects.namespaces.insert(key, read(value))),
            "Node" => drop(objects.nodes.insert(key, read(value))),
            other => panic!("{other}"),
        }
    }
}

fn read<T: serde::de::DeserializeOwned>(value: Value) -> Arc<T> {
    Arc::new(serde_json::from_value(value).unwrap())
}

/// Our class, and a Service `web` with port 80 named `http`, that has one endpoint.
pub(super) const BASE: &str = "
kind: IngressClass
metadata: {name: ingress-agent}
spec: {controller: ingress-agent.io/controller}
---
kind: Service
metadata: {name: web}
spec: {ports: [{name: http, port: 80, targetPort: 8080}]}
---
kind: EndpointSlice
metadata: {name: web-1, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{name: http, port: 8080}]
endpoints: [{addresses: [10.0.0.1]}]
---
";

/// An Ingress of ours named `web`: annotations as YAML flow mapping, and spec as YAML after `ingressClassName`.
pub(super) fn ingress(annotations: &str, spec: &str) -> String {
    format!(
        "kind: Ingress\nmetadata:\n  name: web\n  annotations: {annotations}\nspec:\n  ingressClassName: ingress-agent\n{spec}\n---\n"
    )
}

/// One rule `shop.example` with `pathType` and `path` to Service web:80.
pub(super) fn one_rule(path_type: &str, path: &str) -> String {
    format!(
        "  rules:\n  - host: shop.example\n    http:\n      paths:\n      - {{path: '{path}', pathType: {path_type}, backend: {{service: {{name: web, port: {{number: 80}}}}}}}}"
    )
}

pub(super) fn run(yaml: &str) -> Translation {
    translate(&world(yaml), &options(), &mut Memory::default())
}

/// The base and an Ingress.
pub(super) fn with_ingress(annotations: &str, spec: &str) -> Translation {
    run(&format!("{BASE}{}", ingress(annotations, spec)))
}

pub(super) fn told<'a>(translation: &'a Translation, reason: &str) -> Option<&'a Diagnostic> {
    translation
        .diagnostics
        .iter()
        .find(|diagnostic| diagnostic.reason == reason)
}

pub(super) fn assert_clean(translation: &Translation) {
    assert_eq!(translation.diagnostics, [], "nothing is wrong with this world");
}

pub(super) fn assert_told(translation: &Translation, severity: Severity, reason: &str, words: &[&str]) {
    let diagnostic =
        told(translation, reason).unwrap_or_else(|| panic!("{reason}: {:#?}", translation.diagnostics));
    assert_eq!(diagnostic.severity, severity, "{diagnostic}");
    let text = diagnostic.to_string();
    for word in words {
        assert!(text.contains(word), "{word:?} in {text}");
    }
}
