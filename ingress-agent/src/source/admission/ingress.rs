//! Ingress and IngressClass (`pkg/apis/networking/validation`). Nothing is defaulted: `pathType` is required.

use k8s_openapi::api::core::v1::TypedLocalObjectReference;
use k8s_openapi::api::networking::v1::{
    HTTPIngressPath, Ingress, IngressBackend, IngressClass, IngressClassParametersReference, IngressRule,
    IngressServiceBackend, IngressSpec, IngressTLS,
};

use super::field::{Errors, FieldError, Path};
use super::metadata::{self, Scope};
use super::names;

const CLASS_ANNOTATION: &str = "kubernetes.io/ingress.class";
const PATH_TYPES: &[&str] = &["Exact", "ImplementationSpecific", "Prefix"];
const FORBIDDEN_IN_PATHS: &[&str] = &["//", "/./", "/../", "%2f", "%2F"];
const FORBIDDEN_AT_THE_END: &[&str] = &["/..", "/."];
const MAX_CONTROLLER_BYTES: usize = 250;

pub(super) fn validate_ingress(ingress: &Ingress) -> Result<(), Vec<FieldError>> {
    let mut errors = Errors::default();
    metadata::validate(
        &ingress.metadata,
        Scope::Namespace,
        names::dns_subdomain,
        &mut errors,
    );
    let default = IngressSpec::default();
    let spec = ingress.spec.as_ref().unwrap_or(&default);
    validate_spec(spec, &mut errors);
    validate_class_annotation(ingress, spec, &mut errors);
    errors.into_result()
}

pub(super) fn validate_ingress_class(class: &IngressClass) -> Result<(), Vec<FieldError>> {
    let mut errors = Errors::default();
    metadata::validate(&class.metadata, Scope::Cluster, names::dns_subdomain, &mut errors);
    let spec = class.spec.as_ref();
    let path = Path::new("spec");
    let controller = spec
        .and_then(|spec| spec.controller.as_deref())
        .unwrap_or_default();
    validate_controller(controller, &path.child("controller"), &mut errors);
    if let Some(parameters) = spec.and_then(|spec| spec.parameters.as_ref()) {
        validate_parameters(parameters, &path.child("parameters"), &mut errors);
    }
    errors.into_result()
}

fn validate_spec(spec: &IngressSpec, errors: &mut Errors) {
    let path = Path::new("spec");
    let rules = spec.rules.as_deref().unwrap_or_default();
    if rules.is_empty() && spec.default_backend.is_none() {
        let shown = if spec.rules.is_some() { "[]" } else { "null" };
        let detail = "either `defaultBackend` or `rules` must be specified";
        errors.invalid(&path, shown.to_owned(), detail);
    }
    if let Some(backend) = &spec.default_backend {
        validate_backend(backend, &path.child("defaultBackend"), errors);
    }
    for (index, rule) in rules.iter().enumerate() {
        validate_rule(rule, &path.child("rules").index(index), errors);
    }
    for (index, tls) in spec.tls.iter().flatten().enumerate() {
        validate_tls(tls, &path.child("tls").index(index), errors);
    }
    if let Some(class) = &spec.ingress_class_name {
        errors.invalid_each(
            &path.child("ingressClassName"),
            class.as_str(),
            names::dns_subdomain(class),
        );
    }
}

/// The API server's rule for objects that are created.
fn validate_class_annotation(ingress: &Ingress, spec: &IngressSpec, errors: &mut Errors) {
    let annotation = ingress
        .metadata
        .annotations
        .as_ref()
        .and_then(|all| all.get(CLASS_ANNOTATION));
    if let (Some(annotation), Some(class)) = (annotation, &spec.ingress_class_name)
        && annotation != class
    {
        let path = Path::new("annotations").child(CLASS_ANNOTATION);
        errors.invalid(
            &path,
            annotation.as_str(),
            "must match `ingressClassName` when both are specified",
        );
    }
}

fn validate_rule(rule: &IngressRule, path: &Path, errors: &mut Errors) {
    let host = rule.host.as_deref().unwrap_or_default();
    if !host.is_empty() {
        let path = path.child("host");
        if names::is_ip(host) {
            errors.invalid(&path, host, "must be a DNS name, not an IP address");
        }
        errors.invalid_each(&path, host, host_errors(host));
    }
    let Some(http) = &rule.http else { return };
    let path = path.child("http").child("paths");
    if http.paths.is_empty() {
        errors.required(&path, "");
    }
    for (index, http_path) in http.paths.iter().enumerate() {
        validate_path(http_path, &path.index(index), errors);
    }
}

fn host_errors(host: &str) -> Vec<String> {
    if host.contains('*') {
        names::wildcard_subdomain(host)
    } else {
        names::dns_subdomain(host)
    }
}

fn validate_tls(tls: &IngressTLS, path: &Path, errors: &mut Errors) {
    for (index, host) in tls.hosts.iter().flatten().enumerate() {
        errors.invalid_each(
            &path.child("hosts").index(index),
            host.as_str(),
            host_errors(host),
        );
    }
    let secret = tls.secret_name.as_deref().unwrap_or_default();
    if !secret.is_empty() {
        errors.invalid_each(&path.child("secretName"), secret, names::dns_subdomain(secret));
    }
}

fn validate_path(http_path: &HTTPIngressPath, path: &Path, errors: &mut Errors) {
    let text = http_path.path.as_deref().unwrap_or_default();
    let at = path.child("path");
    match http_path.path_type.as_str() {
        "" => return errors.required(&path.child("pathType"), "pathType must be specified"),
        "Exact" | "Prefix" => validate_path_text(text, &at, errors),
        "ImplementationSpecific" if text.is_empty() || text.starts_with('/') => {}
        "ImplementationSpecific" => errors.invalid(&at, text, "must be an absolute path"),
        other => errors.unsupported(&path.child("pathType"), other, PATH_TYPES),
    }
    validate_backend(&http_path.backend, &path.child("backend"), errors);
}

fn validate_path_text(text: &str, path: &Path, errors: &mut Errors) {
    if !text.starts_with('/') {
        errors.invalid(path, text, "must be an absolute path");
    }
    for sequence in FORBIDDEN_IN_PATHS
        .iter()
        .filter(|sequence| text.contains(**sequence))
    {
        errors.invalid(path, text, format_args!("must not contain '{sequence}'"));
    }
    for suffix in FORBIDDEN_AT_THE_END
        .iter()
        .filter(|suffix| text.ends_with(**suffix))
    {
        errors.invalid(path, text, format_args!("cannot end with '{suffix}'"));
    }
}

fn validate_backend(backend: &IngressBackend, path: &Path, errors: &mut Errors) {
    match (&backend.service, &backend.resource) {
        (Some(_), Some(_)) => errors.invalid(path, "", "cannot set both resource and service backends"),
        (None, Some(resource)) => validate_resource(resource, &path.child("resource"), errors),
        (Some(service), None) => validate_service(service, path, errors),
        (None, None) => errors.invalid(path, "", "resource or service backend is required"),
    }
}

fn validate_service(service: &IngressServiceBackend, path: &Path, errors: &mut Errors) {
    let at = path.child("service");
    match service.name.as_str() {
        "" => errors.required(&at.child("name"), ""),
        name => errors.invalid_each(&at.child("name"), name, names::dns_label(name)),
    }
    let port = service.port.as_ref();
    let name = port.and_then(|port| port.name.as_deref()).unwrap_or_default();
    let number = port.and_then(|port| port.number).unwrap_or_default();
    let at = at.child("port");
    match (name, number) {
        ("", 0) => errors.required(path, "port name or number is required"),
        ("", number) => errors.invalid_each(&at.child("number"), number, names::port_number(number)),
        (name, 0) => errors.invalid_each(&at.child("name"), name, names::port_name(name)),
        _ => errors.invalid(path, "", "cannot set both port name & port number"),
    }
}

fn validate_resource(resource: &TypedLocalObjectReference, path: &Path, errors: &mut Errors) {
    if let Some(group) = &resource.api_group {
        errors.invalid_each(
            &path.child("apiGroup"),
            group.as_str(),
            names::dns_subdomain(group),
        );
    }
    validate_segment(&resource.kind, &path.child("kind"), errors);
    validate_segment(&resource.name, &path.child("name"), errors);
}

fn validate_segment(text: &str, path: &Path, errors: &mut Errors) {
    if text.is_empty() {
        errors.required(path, "");
    } else {
        errors.invalid_each(path, text, names::path_segment(text));
    }
}

fn validate_controller(controller: &str, path: &Path, errors: &mut Errors) {
    if controller.is_empty() {
        return errors.required(path, "");
    }
    if controller.len() > MAX_CONTROLLER_BYTES {
        errors.too_long(path, MAX_CONTROLLER_BYTES);
    }
    match controller.split_once('/') {
        Some((host, rest)) if !host.is_empty() && !rest.is_empty() => {
            errors.invalid_each(path, host, names::dns_subdomain(host));
            let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"/-._~%!$&'()*+,;=:".contains(&byte);
            if !rest.bytes().all(allowed) {
                let detail = r"Invalid path (regex used for validation is '[A-Za-z0-9/\-._~%!$&'()*+,;=:]+')";
                errors.invalid(path, rest, detail);
            }
        }
        _ => errors.invalid(
            path,
            controller,
            r#"must be a domain-prefixed path (such as "acme.io/foo")"#,
        ),
    }
}

fn validate_parameters(parameters: &IngressClassParametersReference, path: &Path, errors: &mut Errors) {
    if let Some(group) = &parameters.api_group {
        errors.invalid_each(
            &path.child("apiGroup"),
            group.as_str(),
            names::dns_subdomain(group),
        );
    }
    validate_segment(&parameters.kind, &path.child("kind"), errors);
    validate_segment(&parameters.name, &path.child("name"), errors);
    let namespace = path.child("namespace");
    // A missing scope is defaulted to Cluster.
    match (
        parameters.scope.as_deref().unwrap_or("Cluster"),
        &parameters.namespace,
    ) {
        ("Namespace", None) => errors.required(&namespace, "`parameters.scope` is set to 'Namespace'"),
        ("Namespace", Some(text)) => errors.invalid_each(&namespace, text.as_str(), names::dns_label(text)),
        ("Cluster", Some(_)) => errors.forbidden(&namespace, "`parameters.scope` is set to 'Cluster'"),
        ("Cluster", None) => {}
        (other, _) => errors.unsupported(&path.child("scope"), other, &["Cluster", "Namespace"]),
    }
}
