//! EndpointSlice (`pkg/apis/discovery/validation`).
//!
//! One documented exception: addresses may be loopback, as a folder often describes backends on the same machine.

use std::collections::BTreeSet;
use std::net::IpAddr;

use k8s_openapi::api::discovery::v1::{Endpoint, EndpointHints, EndpointPort, EndpointSlice};

use super::field::{Errors, FieldError, Path};
use super::metadata::{self, Scope};
use super::{names, service};

const MAX_ENDPOINTS: usize = 1000;
const MAX_ADDRESSES: usize = 100;
const MAX_PORTS: usize = 20_000;
const MAX_HINTS: usize = 8;

/// A port without a name has the empty one; protocol TCP.
pub(super) fn default_endpoint_slice(slice: &mut EndpointSlice) {
    for port in slice.ports.iter_mut().flatten() {
        port.name.get_or_insert_default();
        port.protocol.get_or_insert_with(|| "TCP".to_owned());
    }
}

pub(super) fn validate_endpoint_slice(slice: &EndpointSlice) -> Result<(), Vec<FieldError>> {
    let mut errors = Errors::default();
    metadata::validate(
        &slice.metadata,
        Scope::Namespace,
        names::dns_subdomain,
        &mut errors,
    );
    let address_type = Path::new("addressType");
    match slice.address_type.as_str() {
        "" => errors.required(&address_type, ""),
        "IPv4" | "IPv6" | "FQDN" => {}
        other => errors.unsupported(&address_type, other, &["FQDN", "IPv4", "IPv6"]),
    }
    validate_endpoints(slice, &Path::new("endpoints"), &mut errors);
    validate_ports(
        slice.ports.as_deref().unwrap_or_default(),
        &Path::new("ports"),
        &mut errors,
    );
    errors.into_result()
}

fn validate_endpoints(slice: &EndpointSlice, path: &Path, errors: &mut Errors) {
    if slice.endpoints.len() > MAX_ENDPOINTS {
        return errors.too_many(path, slice.endpoints.len(), MAX_ENDPOINTS);
    }
    for (index, endpoint) in slice.endpoints.iter().enumerate() {
        validate_endpoint(endpoint, &slice.address_type, &path.index(index), errors);
    }
}

fn validate_endpoint(endpoint: &Endpoint, address_type: &str, path: &Path, errors: &mut Errors) {
    let at = path.child("addresses");
    match endpoint.addresses.len() {
        0 => errors.required(&at, "must contain at least 1 address"),
        count if count > MAX_ADDRESSES => errors.too_many(&at, count, MAX_ADDRESSES),
        _ => {}
    }
    for (index, address) in endpoint.addresses.iter().enumerate() {
        // A hundred of them say enough.
        if index < MAX_ADDRESSES {
            validate_address(address, address_type, &at, index, errors);
        }
    }
    if let Some(node) = &endpoint.node_name {
        errors.invalid_each(&path.child("nodeName"), node.as_str(), names::dns_subdomain(node));
    }
    if let Some(hostname) = &endpoint.hostname {
        errors.invalid_each(
            &path.child("hostname"),
            hostname.as_str(),
            names::dns_label(hostname),
        );
    }
    if let Some(hints) = &endpoint.hints {
        validate_hints(hints, &path.child("hints"), errors);
    }
}

fn validate_hints(hints: &EndpointHints, path: &Path, errors: &mut Errors) {
    let zones = hints.for_zones.iter().flatten().map(|zone| zone.name.as_str());
    let nodes = hints.for_nodes.iter().flatten().map(|node| node.name.as_str());
    let is_fine = validate_hint_names(zones, names::label_value, &path.child("forZones"), errors);
    if is_fine {
        validate_hint_names(nodes, names::dns_subdomain, &path.child("forNodes"), errors);
    }
}

/// Whether there are not too many of them.
fn validate_hint_names<'a>(
    all: impl Iterator<Item = &'a str> + Clone,
    rule: fn(&str) -> Vec<String>,
    path: &Path,
    errors: &mut Errors,
) -> bool {
    let count = all.clone().count();
    if count > MAX_HINTS {
        errors.too_many(path, count, MAX_HINTS);
        return false;
    }
    let mut seen = BTreeSet::new();
    for (index, name) in all.enumerate() {
        let at = path.index(index).child("name");
        if !seen.insert(name) {
            errors.duplicate(&at, name);
        }
        errors.invalid_each(&at, name, rule(name));
    }
    true
}

fn validate_address(address: &str, address_type: &str, all: &Path, index: usize, errors: &mut Errors) {
    let path = &all.index(index);
    let is_v4 = match address_type {
        "IPv4" => true,
        "IPv6" => false,
        "FQDN" if address.is_empty() => return errors.required(path, ""),
        "FQDN" => {
            if let Some((part, detail)) = names::fully_qualified(address) {
                errors.invalid(path, part, detail);
            }
            return;
        }
        _ => return,
    };
    let Some(ip) = names::lenient_ip(address) else {
        let detail = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
        return errors.invalid(path, address, detail);
    };
    // IPv6 has to be written as it would be printed, too.
    if !validate_strictly(address, (!is_v4).then_some(ip), path, errors) {
        return;
    }
    if ip.is_ipv4() != is_v4 {
        let detail = if is_v4 {
            "must be an IPv4 address"
        } else {
            "must be an IPv6 address"
        };
        errors.invalid(all, address, detail);
    }
    for detail in special(address, ip) {
        errors.invalid(path, address, detail);
    }
}

/// Whether it is written as it should be, and as `canonical` is printed where that is asked for.
fn validate_strictly(address: &str, canonical: Option<IpAddr>, path: &Path, errors: &mut Errors) -> bool {
    let mut is_fine = true;
    let mut broken = |is: bool, detail: String| {
        if is {
            is_fine = false;
            errors.invalid(path, address, detail);
        }
    };
    let strict = address.parse::<IpAddr>();
    broken(strict.is_err(), "must not have leading 0s".to_owned());
    let is_mapped = matches!(strict, Ok(IpAddr::V6(ip)) if ip.to_ipv4_mapped().is_some());
    broken(is_mapped, "must not be an IPv4-mapped IPv6 address".to_owned());
    if let (Some(canonical), Ok(_), false) = (canonical.map(|ip| ip.to_string()), strict, is_mapped) {
        broken(
            canonical != address,
            format!("must be in canonical form ({canonical:?})"),
        );
    }
    is_fine
}

/// What a backend's address can not be.
fn special(address: &str, ip: IpAddr) -> Vec<String> {
    let (link_local, link_local_multicast) = match ip {
        IpAddr::V4(ip) => (ip.is_link_local(), ip.octets().starts_with(&[224, 0, 0])),
        IpAddr::V6(ip) => {
            let [first, ..] = ip.segments();
            (ip.is_unicast_link_local(), first & 0xff0f == 0xff02)
        }
    };
    let mut details = Vec::new();
    if ip.is_unspecified() {
        details.push(format!("may not be unspecified ({address})"));
    }
    if link_local {
        details.push("may not be in the link-local range (169.254.0.0/16, fe80::/10)".to_owned());
    }
    if link_local_multicast {
        details.push("may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)".to_owned());
    }
    details
}

fn validate_ports(ports: &[EndpointPort], path: &Path, errors: &mut Errors) {
    if ports.len() > MAX_PORTS {
        return errors.too_many(path, ports.len(), MAX_PORTS);
    }
    let mut seen = BTreeSet::new();
    for (index, port) in ports.iter().enumerate() {
        let path = path.index(index);
        let name = port.name.as_deref().unwrap_or_default();
        if !name.is_empty() {
            errors.invalid_each(&path.child("name"), name, names::dns_label(name));
        }
        if !seen.insert(name) {
            errors.duplicate(&path.child("name"), name);
        }
        service::validate_protocol(port.protocol.as_deref(), &path.child("protocol"), errors);
        if let Some(protocol) = &port.app_protocol {
            errors.invalid_each(
                &path.child("appProtocol"),
                protocol.as_str(),
                names::qualified_name(protocol),
            );
        }
    }
}
