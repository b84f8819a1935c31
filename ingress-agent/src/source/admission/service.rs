//! Service (`ValidateService` of `pkg/apis/core/validation`, defaults of `pkg/apis/core/v1`).

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::field::{Errors, FieldError, Path};
use super::metadata::{self, Scope};
use super::names;

const TYPES: &[&str] = &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
const PROTOCOLS: &[&str] = &["SCTP", "TCP", "UDP"];
const AFFINITIES: &[&str] = &["ClientIP", "None"];
const DISTRIBUTIONS: &[&str] = &["PreferClose", "PreferSameZone", "PreferSameNode"];

/// Type ClusterIP, no affinity, protocol TCP, `targetPort` as `port`.
pub(super) fn default_service(service: &mut Service) {
    let spec = service.spec.get_or_insert_default();
    fill(&mut spec.type_, "ClusterIP");
    fill(&mut spec.session_affinity, "None");
    for port in spec.ports.iter_mut().flatten() {
        fill(&mut port.protocol, "TCP");
        let unset = match &port.target_port {
            None | Some(IntOrString::Int(0)) => true,
            Some(IntOrString::String(name)) => name.is_empty(),
            Some(IntOrString::Int(_)) => false,
        };
        if unset {
            port.target_port = Some(IntOrString::Int(port.port));
        }
    }
}

pub(super) fn validate_service(service: &Service) -> Result<(), Vec<FieldError>> {
    let mut errors = Errors::default();
    metadata::validate(
        &service.metadata,
        Scope::Namespace,
        // Since 1.36 (RelaxedServiceNameValidation) it may begin with a digit.
        names::dns_label,
        &mut errors,
    );
    let default = ServiceSpec::default();
    let spec = service.spec.as_ref().unwrap_or(&default);
    let path = Path::new("spec");
    validate_type(spec, &path, &mut errors);
    validate_ports(spec, &path.child("ports"), &mut errors);
    metadata::labels(
        spec.selector.iter().flatten(),
        &path.child("selector"),
        &mut errors,
    );
    let affinity = spec.session_affinity.as_deref().unwrap_or("None");
    one_of(affinity, AFFINITIES, &path.child("sessionAffinity"), &mut errors);
    if let Some(distribution) = &spec.traffic_distribution {
        one_of(
            distribution,
            DISTRIBUTIONS,
            &path.child("trafficDistribution"),
            &mut errors,
        );
    }
    errors.into_result()
}

/// Sets what is missing or empty.
pub(super) fn fill(field: &mut Option<String>, value: &str) {
    if field.as_deref().unwrap_or_default().is_empty() {
        *field = Some(value.to_owned());
    }
}

pub(super) fn validate_protocol(protocol: Option<&str>, path: &Path, errors: &mut Errors) {
    match protocol {
        None => errors.required(path, ""),
        Some(protocol) => one_of(protocol, PROTOCOLS, path, errors),
    }
}

fn one_of(value: &str, supported: &[&str], path: &Path, errors: &mut Errors) {
    if !supported.contains(&value) {
        errors.unsupported(path, value, supported);
    }
}

fn kind_of(spec: &ServiceSpec) -> &str {
    spec.type_.as_deref().unwrap_or("ClusterIP")
}

fn is_headless(spec: &ServiceSpec) -> bool {
    spec.cluster_ip.as_deref() == Some("None")
}

fn validate_type(spec: &ServiceSpec, path: &Path, errors: &mut Errors) {
    let kind = kind_of(spec);
    one_of(kind, TYPES, &path.child("type"), errors);
    let address = spec.cluster_ip.as_deref().unwrap_or_default();
    let at = path.child("clusterIPs").index(0);
    match kind {
        "ExternalName" => validate_external_name(spec, path, errors),
        "LoadBalancer" | "NodePort" if is_headless(spec) => {
            errors.invalid(
                &at,
                "None",
                format_args!("may not be set to 'None' for {kind} services"),
            );
        }
        _ if address.is_empty() || is_headless(spec) || names::is_ip(address) => {}
        _ => errors.invalid(
            &at,
            address,
            "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
        ),
    }
}

fn validate_external_name(spec: &ServiceSpec, path: &Path, errors: &mut Errors) {
    if spec
        .cluster_ip
        .as_deref()
        .is_some_and(|address| !address.is_empty())
    {
        errors.forbidden(
            &path.child("clusterIPs"),
            "may not be set for ExternalName services",
        );
    }
    let name = spec.external_name.as_deref().unwrap_or_default();
    let at = path.child("externalName");
    match name.strip_suffix('.').unwrap_or(name) {
        "" => errors.required(&at, ""),
        name => errors.invalid_each(&at, name, names::dns_subdomain(name)),
    }
}

fn validate_ports(spec: &ServiceSpec, path: &Path, errors: &mut Errors) {
    let ports = spec.ports.as_deref().unwrap_or_default();
    if ports.is_empty() && !is_headless(spec) && kind_of(spec) != "ExternalName" {
        errors.required(path, "");
    }
    let mut names = BTreeSet::new();
    let mut numbers = BTreeSet::new();
    for (index, port) in ports.iter().enumerate() {
        let path = path.index(index);
        validate_name(port, ports.len() > 1, &mut names, &path.child("name"), errors);
        validate_port(port, &path, errors);
        let protocol = port.protocol.as_deref().unwrap_or_default();
        if !numbers.insert((protocol, port.port)) {
            // The server prints its own type, with all that the comparison leaves out.
            let shown = format!(
                r#"{{"Name":"","Protocol":{protocol:?},"AppProtocol":null,"Port":{},"TargetPort":0,"NodePort":0}}"#,
                port.port
            );
            errors.duplicate(&path, shown);
        }
    }
}

fn validate_name<'p>(
    port: &'p ServicePort,
    required: bool,
    seen: &mut BTreeSet<&'p str>,
    path: &Path,
    errors: &mut Errors,
) {
    match port.name.as_deref().unwrap_or_default() {
        "" if required => errors.required(path, ""),
        "" => {}
        name => {
            errors.invalid_each(path, name, names::dns_label(name));
            if !seen.insert(name) {
                errors.duplicate(path, name);
            }
        }
    }
}

fn validate_port(port: &ServicePort, path: &Path, errors: &mut Errors) {
    errors.invalid_each(&path.child("port"), port.port, names::port_number(port.port));
    validate_protocol(port.protocol.as_deref(), &path.child("protocol"), errors);
    let at = path.child("targetPort");
    match &port.target_port {
        Some(IntOrString::Int(number)) => errors.invalid_each(&at, *number, names::port_number(*number)),
        Some(IntOrString::String(name)) => errors.invalid_each(&at, name.as_str(), names::port_name(name)),
        None => {}
    }
    if let Some(protocol) = &port.app_protocol {
        errors.invalid_each(
            &path.child("appProtocol"),
            protocol.as_str(),
            names::qualified_name(protocol),
        );
    }
}
