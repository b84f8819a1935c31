//! EndpointSlice (`pkg/apis/discovery/validation`).
//!
//! One documented exception: addresses may be loopback, as a folder often describes backends on the same machine.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use k8s_openapi::api::discovery::v1::{Endpoint, EndpointPort, EndpointSlice};

use super::field::{Errors, FieldError, Path};
use super::metadata::{self, Scope};
use super::{names, service};

const MAX_ENDPOINTS: usize = 1000;
const MAX_ADDRESSES: usize = 100;
const MAX_PORTS: usize = 100;

/// A port without a name has the empty one; protocol TCP.
pub(super) fn default_endpoint_slice(slice: &mut EndpointSlice) {
    for port in slice.ports.iter_mut().flatten() {
        port.name.get_or_insert_default();
        service::fill(&mut port.protocol, "TCP");
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
        count if count > MAX_ADDRESSES => return errors.too_many(&at, count, MAX_ADDRESSES),
        _ => {}
    }
    for (index, address) in endpoint.addresses.iter().enumerate() {
        validate_address(address, address_type, &at.index(index), errors);
    }
    if let Some(hostname) = &endpoint.hostname {
        errors.invalid_each(
            &path.child("hostname"),
            hostname.as_str(),
            names::dns_label(hostname),
        );
    }
}

fn validate_address(address: &str, address_type: &str, path: &Path, errors: &mut Errors) {
    let parsed = match address_type {
        "IPv4" => address.parse::<Ipv4Addr>().map(IpAddr::V4),
        "IPv6" => address.parse::<Ipv6Addr>().map(IpAddr::V6),
        "FQDN" => return errors.invalid_each(path, address, names::fully_qualified(address)),
        _ => return,
    };
    match parsed {
        Ok(ip) => {
            if let Some(detail) = special(ip) {
                errors.invalid(path, address, detail);
            }
        }
        Err(_) => errors.invalid(
            path,
            address,
            format_args!("must be a valid {address_type} address"),
        ),
    }
}

/// What a backend's address can not be.
fn special(ip: IpAddr) -> Option<String> {
    let (link_local, link_local_multicast) = match ip {
        IpAddr::V4(ip) => (ip.is_link_local(), ip.octets().starts_with(&[224, 0, 0])),
        IpAddr::V6(ip) => (ip.is_unicast_link_local(), ip.segments().first() == Some(&0xff02)),
    };
    if ip.is_unspecified() {
        Some(format!("may not be unspecified ({ip})"))
    } else if link_local {
        Some("may not be in the link-local range (169.254.0.0/16, fe80::/10)".to_owned())
    } else if link_local_multicast {
        Some("may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)".to_owned())
    } else {
        None
    }
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
