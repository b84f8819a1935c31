use ingress_core::name::{Kind, ObjectRef};

use super::*;
use crate::source::manifest::{self, Entry, Format};

fn read(text: &str) -> Object {
    let file = ObjectRef::new(Kind::File, "", "a.yaml");
    let mut manifest = manifest::parse(text.as_bytes(), Format::Yaml, &file).unwrap();
    match manifest.entries.pop() {
        Some(Entry::Object { object, .. }) => object,
        other => panic!("{other:?}"),
    }
}

fn refusals(text: &str) -> Vec<String> {
    match admit(read(text)) {
        Ok(object) => panic!("admitted: {object:?}"),
        Err(errors) => errors.iter().map(ToString::to_string).collect(),
    }
}

#[track_caller]
fn refused(text: &str, expected: &[&str]) {
    let found = refusals(text);
    assert_eq!(found.len(), expected.len(), "{found:#?}");
    for (found, expected) in found.iter().zip(expected) {
        assert!(
            found.starts_with(expected),
            "found    {found}\nexpected {expected}"
        );
    }
}

fn ingress(spec: &str) -> String {
    format!("{{apiVersion: networking.k8s.io/v1, kind: Ingress, metadata: {{name: web}}, spec: {{{spec}}}}}")
}

fn path(path: &str) -> String {
    ingress(&format!("rules: [{{http: {{paths: [{{{path}}}]}}}}]"))
}

const BACKEND: &str = "backend: {service: {name: a, port: {number: 80}}}";

fn service(spec: &str) -> String {
    format!("{{apiVersion: v1, kind: Service, metadata: {{name: web}}, spec: {{{spec}}}}}")
}

fn slice(rest: &str) -> String {
    format!("{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {{name: web}}, {rest}}}")
}

fn secret(rest: &str) -> String {
    format!("{{apiVersion: v1, kind: Secret, metadata: {{name: web}}, {rest}}}")
}

#[test]
fn hosts_are_refused_by_the_api_servers_rules_and_words() {
    let host = |host: &str| ingress(&format!("rules: [{{host: {host:?}}}]"));
    assert_eq!(
        refusals(&host("Shop.example")),
        [
            "spec.rules[0].host: Invalid value: \"Shop.example\": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric \
             characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is \
             '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
        ]
    );
    refused(
        &host("10.0.0.1"),
        &["spec.rules[0].host: Invalid value: \"10.0.0.1\": must be a DNS name, not an IP address"],
    );
    for wildcard in ["*", "*.*.a", "a.*.b", "*a.b"] {
        refused(
            &host(wildcard),
            &[&format!(
                "spec.rules[0].host: Invalid value: {wildcard:?}: a wildcard DNS-1123 subdomain must start with '*.'"
            )],
        );
    }
    refused(
        &host(&"a.".repeat(130)),
        &[
            "spec.rules[0].host: Invalid value",
            "spec.rules[0].host: Invalid value",
        ],
    );
    for good in ["a.b", "*.a", "a", ""] {
        assert!(admit(read(&host(good))).is_ok(), "{good}");
    }
}

#[test]
fn paths_are_refused_by_the_api_servers_rules_and_words() {
    let at = "spec.rules[0].http.paths[0].";
    for kind in ["Exact", "Prefix"] {
        let check = |text: &str, expected: &str| {
            refused(
                &path(&format!("path: {text:?}, pathType: {kind}, {BACKEND}")),
                &[&format!("{at}path: Invalid value: {text:?}: {expected}")],
            );
        };
        check("", "must be an absolute path");
        check("a", "must be an absolute path");
        check("/a//b", "must not contain '//'");
        check("/a/./b", "must not contain '/./'");
        check("/a/../b", "must not contain '/../'");
        check("/a%2fb", "must not contain '%2f'");
        check("/a%2Fb", "must not contain '%2F'");
        check("/a/..", "cannot end with '/..'");
        check("/a/.", "cannot end with '/.'");
    }
    assert!(
        admit(read(&path(&format!(
            "pathType: ImplementationSpecific, {BACKEND}"
        ))))
        .is_ok()
    );
    assert!(
        admit(read(&path(&format!(
            "path: /a//b(.*), pathType: ImplementationSpecific, {BACKEND}"
        ))))
        .is_ok()
    );
    refused(
        &path(&format!("path: a, pathType: ImplementationSpecific, {BACKEND}")),
        &[&format!(
            "{at}path: Invalid value: \"a\": must be an absolute path"
        )],
    );
}

#[test]
fn a_path_type_is_required_and_is_one_of_three() {
    let at = "spec.rules[0].http.paths[0].pathType";
    refused(
        &path(&format!("path: /, {BACKEND}")),
        &[&format!("{at}: Required value: pathType must be specified")],
    );
    refused(
        &path(&format!("path: /, pathType: Regex, {BACKEND}")),
        &[&format!(
            "{at}: Unsupported value: \"Regex\": supported values: \"Exact\", \"ImplementationSpecific\", \"Prefix\""
        )],
    );
}

#[test]
fn a_backend_is_one_service_or_resource_with_one_port() {
    let check = |backend: &str, expected: &str| {
        refused(
            &ingress(&format!("defaultBackend: {{{backend}}}")),
            &[&format!("spec.defaultBackend{expected}")],
        );
    };
    check(
        "",
        ": Invalid value: \"\": resource or service backend is required",
    );
    check(
        "service: {name: a, port: {number: 1}}, resource: {kind: A, name: b}",
        ": Invalid value: \"\": cannot set both resource and service backends",
    );
    check(
        "service: {name: a}",
        ": Required value: port name or number is required",
    );
    check(
        "service: {name: a, port: {name: b, number: 1}}",
        ": Invalid value: \"\": cannot set both port name & port number",
    );
    check(
        "service: {name: a, port: {number: 65536}}",
        ".service.port.number: Invalid value: 65536: must be between 1 and 65535, inclusive",
    );
    check(
        "service: {name: a, port: {number: -1}}",
        ".service.port.number: Invalid value: -1: must be between",
    );
    check(
        "service: {name: a, port: {name: 'a--b'}}",
        ".service.port.name: Invalid value: \"a--b\": must not contain consecutive hyphens",
    );
    check(
        "service: {name: '', port: {number: 1}}",
        ".service.name: Required value",
    );
    check(
        "service: {name: A, port: {number: 1}}",
        ".service.name: Invalid value: \"A\": a lowercase RFC 1123 label must consist of",
    );
    check("resource: {name: a}", ".resource.kind: Required value");
}

#[test]
fn an_ingress_needs_rules_or_a_default_backend() {
    refused(
        &ingress(""),
        &["spec: Invalid value: null: either `defaultBackend` or `rules` must be specified"],
    );
    refused(
        &ingress("rules: []"),
        &["spec: Invalid value: []: either `defaultBackend` or `rules` must be specified"],
    );
    refused(
        &ingress("rules: [{host: a, http: {}}]"),
        &["spec.rules[0].http.paths: Required value"],
    );
}

#[test]
fn tls_hosts_secret_and_class_names_are_checked() {
    let rules = "rules: [{host: a}]";
    refused(
        &ingress(&format!("{rules}, tls: [{{hosts: [a, B]}}]")),
        &["spec.tls[0].hosts[1]: Invalid value: \"B\": a lowercase RFC 1123"],
    );
    refused(
        &ingress(&format!("{rules}, tls: [{{hosts: ['*']}}]")),
        &["spec.tls[0].hosts[0]: Invalid value: \"*\": a wildcard"],
    );
    refused(
        &ingress(&format!("{rules}, tls: [{{secretName: A}}]")),
        &["spec.tls[0].secretName: Invalid value: \"A\": a lowercase"],
    );
    refused(
        &ingress(&format!("{rules}, ingressClassName: A")),
        &["spec.ingressClassName: Invalid value: \"A\": a lowercase"],
    );
    let both = "{apiVersion: networking.k8s.io/v1, kind: Ingress, metadata: {name: a, annotations: {kubernetes.io/ingress.class: v}}, \
                spec: {ingressClassName: w, rules: [{host: a}]}}";
    refused(
        both,
        &[
            "annotations.kubernetes.io/ingress.class: Invalid value: \"v\": must match `ingressClassName` when both are specified",
        ],
    );
}

#[test]
fn an_ingress_class_needs_a_controller_with_a_domain() {
    let class = |spec: &str| {
        format!(
            "{{apiVersion: networking.k8s.io/v1, kind: IngressClass, metadata: {{name: a}}, spec: {{{spec}}}}}"
        )
    };
    refused(&class(""), &["spec.controller: Required value"]);
    refused(
        &class("controller: a"),
        &["spec.controller: Invalid value: \"a\": must be a domain-prefixed path (such as \"acme.io/foo\")"],
    );
    refused(
        &class("controller: 'a/ b'"),
        &["spec.controller: Invalid value: \" b\": Invalid path"],
    );
    refused(
        &class("controller: a.b/c, parameters: {kind: A, name: b, scope: Namespace}"),
        &["spec.parameters.namespace: Required value: `parameters.scope` is set to 'Namespace'"],
    );
    let namespaced = "{apiVersion: networking.k8s.io/v1, kind: IngressClass, metadata: {name: a, namespace: b}, spec: {controller: a/b}}";
    let Ok(Object::IngressClass(class)) = admit(read(namespaced)) else {
        panic!()
    };
    assert_eq!(class.metadata.namespace, None);
}

#[test]
fn names_labels_and_annotations_are_checked() {
    let map = |meta: &str| format!("{{apiVersion: v1, kind: ConfigMap, metadata: {{{meta}}}}}");
    refused(
        &map(""),
        &["metadata.name: Required value: name or generateName is required"],
    );
    refused(
        &map("generateName: a-"),
        &["metadata.name: Required value: in a folder of manifests nobody completes a generateName"],
    );
    refused(
        &map("name: A"),
        &["metadata.name: Invalid value: \"A\": a lowercase RFC 1123 subdomain"],
    );
    refused(
        &map("name: a, namespace: a.b"),
        &["metadata.namespace: Invalid value: \"a.b\": must not contain dots"],
    );
    refused(
        &map("name: a, labels: {a/b/c: d}"),
        &["metadata.labels: Invalid value: \"a/b/c\": a valid label key must consist of"],
    );
    refused(
        &map("name: a, labels: {a: '-'}"),
        &["metadata.labels: Invalid value: \"-\": a valid label must be an empty string"],
    );
    refused(
        &map("name: a, annotations: {'': d}"),
        &[
            "metadata.annotations: Invalid value: \"\": name part must be non-empty",
            "metadata.annotations: Invalid value: \"\": name part must consist of",
        ],
    );
    assert!(admit(read(&map("name: a, annotations: {UP.example/Key: d}"))).is_ok());
    let large = "x".repeat(1024 * 1024);
    refused(
        &map(&format!("name: a, annotations: {{k: {large}}}")),
        &["metadata.annotations: Too long: may not be more than 262144 bytes"],
    );
}

#[test]
fn a_service_gets_the_api_servers_defaults() {
    let Ok(Object::Service(service)) = admit(read(&service("ports: [{port: 80}]"))) else {
        panic!()
    };
    let spec = service.spec.as_ref().unwrap();
    assert_eq!(spec.type_.as_deref(), Some("ClusterIP"));
    let port = &spec.ports.as_ref().unwrap()[0];
    assert_eq!(port.protocol.as_deref(), Some("TCP"));
    assert_eq!(
        port.target_port,
        Some(k8s_openapi::apimachinery::pkg::util::intstr::IntOrString::Int(80))
    );
}

#[test]
fn service_ports_are_checked() {
    refused(&service(""), &["spec.ports: Required value"]);
    assert!(admit(read(&service("clusterIP: None"))).is_ok());
    refused(
        &service("ports: [{port: 0}]"),
        &[
            "spec.ports[0].port: Invalid value: 0: must be between",
            "spec.ports[0].targetPort: Invalid value: 0",
        ],
    );
    refused(
        &service("ports: [{port: 1, name: a}, {port: 2}]"),
        &["spec.ports[1].name: Required value"],
    );
    refused(
        &service("ports: [{port: 1, name: a}, {port: 2, name: a}]"),
        &["spec.ports[1].name: Duplicate value: \"a\""],
    );
    refused(
        &service("ports: [{port: 1, name: a}, {port: 1, name: b}]"),
        &["spec.ports[1]: Duplicate value: {\"Name\":\"\",\"Protocol\":\"TCP\","],
    );
    refused(
        &service("ports: [{port: 1, name: A}]"),
        &["spec.ports[0].name: Invalid value: \"A\": a lowercase RFC 1123 label"],
    );
    refused(
        &service("ports: [{port: 1, protocol: tcp}]"),
        &["spec.ports[0].protocol: Unsupported value: \"tcp\": supported values: \"SCTP\", \"TCP\", \"UDP\""],
    );
    refused(
        &service("ports: [{port: 1, targetPort: 70000}]"),
        &["spec.ports[0].targetPort: Invalid value: 70000"],
    );
    refused(
        &service("type: A, ports: [{port: 1}]"),
        &["spec.type: Unsupported value: \"A\": supported values: \"ClusterIP\""],
    );
}

#[test]
fn an_external_name_is_a_domain_name() {
    refused(
        &service("type: ExternalName"),
        &["spec.externalName: Required value"],
    );
    refused(
        &service("type: ExternalName, externalName: A_b"),
        &["spec.externalName: Invalid value: \"A_b\": a lowercase RFC 1123 subdomain"],
    );
    assert!(admit(read(&service("type: ExternalName, externalName: a.example."))).is_ok());
}

#[test]
fn an_endpoint_slice_gets_the_api_servers_defaults() {
    let Ok(Object::EndpointSlice(slice)) = admit(read(&slice(
        "addressType: IPv4, endpoints: [], ports: [{port: 80}]",
    ))) else {
        panic!()
    };
    let port = &slice.ports.as_ref().unwrap()[0];
    assert_eq!(
        (port.name.as_deref(), port.protocol.as_deref()),
        (Some(""), Some("TCP"))
    );
}

#[test]
fn endpoints_may_be_loopback_but_nothing_else_that_is_special() {
    for good in ["127.0.0.1", "10.0.0.1"] {
        assert!(
            admit(read(&slice(&format!(
                "addressType: IPv4, endpoints: [{{addresses: [{good}]}}]"
            ))))
            .is_ok()
        );
    }
    assert!(
        admit(read(&slice(
            "addressType: IPv6, endpoints: [{addresses: ['::1']}]"
        )))
        .is_ok()
    );
    let address = |kind: &str, address: &str| {
        slice(&format!(
            "addressType: {kind}, endpoints: [{{addresses: [{address:?}]}}]"
        ))
    };
    let at = "endpoints[0].addresses[0]: Invalid value: ";
    refused(
        &address("IPv4", "169.254.1.1"),
        &[&format!(
            "{at}\"169.254.1.1\": may not be in the link-local range"
        )],
    );
    refused(
        &address("IPv4", "0.0.0.0"),
        &[&format!("{at}\"0.0.0.0\": may not be unspecified (0.0.0.0)")],
    );
    refused(
        &address("IPv4", "::1"),
        &["endpoints[0].addresses: Invalid value: \"::1\": must be an IPv4 address"],
    );
    refused(
        &address("IPv6", "10.0.0.1"),
        &["endpoints[0].addresses: Invalid value: \"10.0.0.1\": must be an IPv6 address"],
    );
    refused(
        &address("FQDN", "a"),
        &[&format!(
            "{at}\"a\": should be a domain with at least two segments"
        )],
    );
    refused(
        &address("IP", "a"),
        &["addressType: Unsupported value: \"IP\": supported values: \"FQDN\", \"IPv4\", \"IPv6\""],
    );
    refused(&slice("endpoints: []"), &["addressType: Required value"]);
}

#[test]
fn an_endpoint_slice_has_bounds() {
    let many = "{addresses: [10.0.0.1]},".repeat(1001);
    refused(
        &slice(&format!("addressType: IPv4, endpoints: [{many}]")),
        &["endpoints: Too many: 1001: must have at most 1000 items"],
    );
    refused(
        &slice("addressType: IPv4, endpoints: [{addresses: []}]"),
        &["endpoints[0].addresses: Required value: must contain at least 1 address"],
    );
    refused(
        &slice("addressType: IPv4, ports: [{port: 1}, {port: 2}]"),
        &["ports[1].name: Duplicate value: \"\""],
    );
    refused(
        &slice("addressType: IPv4, ports: [{port: 1, name: A}]"),
        &["ports[0].name: Invalid value: \"A\": a lowercase RFC 1123 label"],
    );
}

#[test]
fn string_data_of_a_secret_wins_over_its_data() {
    let Ok(Object::Secret(secret)) = admit(read(&secret("data: {a: eA==, b: eQ==}, stringData: {a: z}")))
    else {
        panic!()
    };
    let data = secret.data.as_ref().unwrap();
    assert_eq!(
        (data["a"].0.as_slice(), data["b"].0.as_slice()),
        (&b"z"[..], &b"y"[..])
    );
    assert_eq!(secret.string_data, None);
    assert_eq!(secret.type_.as_deref(), Some("Opaque"));
}

#[test]
fn a_tls_secret_needs_certificate_and_key() {
    refused(
        &secret("type: kubernetes.io/tls"),
        &["data[tls.crt]: Required value", "data[tls.key]: Required value"],
    );
    assert!(
        admit(read(&secret(
            "type: kubernetes.io/tls, stringData: {tls.crt: a, tls.key: b}"
        )))
        .is_ok()
    );
    refused(
        &secret("stringData: {'a b': c}"),
        &["data[a b]: Invalid value: \"a b\": a valid config key"],
    );
    let large = "x".repeat(1024 * 1024 + 1);
    refused(
        &secret(&format!("stringData: {{a: {large}}}")),
        &["data: Too long: may not be more than 1048576 bytes"],
    );
}

#[test]
fn a_config_map_has_each_key_once() {
    refused(
        "{apiVersion: v1, kind: ConfigMap, metadata: {name: a}, data: {k: v}, binaryData: {k: eA==}}",
        &["data[k]: Invalid value: \"k\": duplicate of key present in binaryData"],
    );
}
