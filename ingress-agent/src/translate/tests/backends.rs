use ingress_core::diagnostic::Severity;
use ingress_core::reason::Reason;
use ingress_core::resource::{EndpointCondition, EndpointList, Protocol};

use super::super::{Translation, endpoints_only};
use super::{BASE, add, assert_clean, assert_told, ingress, one_rule, options, run, world};

/// An Ingress to `web` by the port given, beside these objects.
fn to(port: &str, objects: &str) -> Translation {
    let class = BASE.split_once("---\n").unwrap().0;
    let spec = format!(
        "  rules:\n  - host: shop.example\n    http: {{paths: [{{path: /, pathType: Prefix, backend: {{service: {{name: web, port: {port}}}}}}}]}}"
    );
    run(&format!("{class}---\n{}{objects}", ingress("{}", &spec)))
}

fn only(translation: &Translation) -> &EndpointList {
    assert_eq!(translation.endpoints.len(), 1);
    translation.endpoints.values().next().unwrap()
}

fn addresses(translation: &Translation) -> Vec<String> {
    only(translation)
        .endpoints
        .iter()
        .map(|endpoint| endpoint.address.to_string())
        .collect()
}

fn slice(name: &str, family: &str, ports: &str, endpoints: &str) -> String {
    format!(
        "kind: EndpointSlice\nmetadata: {{name: {name}, labels: {{kubernetes.io/service-name: web}}}}\naddressType: {family}\nports: {ports}\nendpoints: {endpoints}\n---\n"
    )
}

const WEB: &str = "kind: Service\nmetadata: {name: web}\nspec: {ports: [{name: http, port: 80}, {name: admin, port: 81}, {name: http3, port: 443, protocol: UDP}]}\n---\n";

#[test]
fn ports_are_found_by_number_and_by_name_in_each_slice_by_itself() {
    let slices = slice(
        "a",
        "IPv4",
        "[{name: http, port: 8080}, {name: admin, port: 9000}]",
        "[{addresses: [10.0.0.1]}]",
    ) + &slice(
        "b",
        "IPv4",
        "[{name: http, port: 8081}]",
        "[{addresses: [10.0.0.2]}]",
    ) + &slice(
        "c",
        "IPv6",
        "[{name: http, port: 8080}]",
        "[{addresses: ['fd00::1']}]",
    ) + &slice(
        "d",
        "IPv4",
        "[{name: other, port: 1}, {name: http, port: 7, protocol: UDP}]",
        "[{addresses: [10.0.0.9]}]",
    );
    for port in ["{number: 80}", "{name: http}"] {
        let translation = to(port, &format!("{WEB}{slices}"));
        assert_eq!(
            addresses(&translation),
            ["10.0.0.1:8080", "10.0.0.2:8081", "[fd00::1]:8080"],
            "{port}"
        );
        assert_clean(&translation);
    }
    assert_eq!(
        addresses(&to("{name: admin}", &format!("{WEB}{slices}"))),
        ["10.0.0.1:9000"]
    );
}

#[test]
fn unnamed_ports_belong_to_each_other() {
    let web = "kind: Service\nmetadata: {name: web}\nspec: {clusterIP: None, ports: [{port: 80}]}\n---\n";
    let slices = slice("a", "IPv4", "[{port: 8080}]", "[{addresses: [10.0.0.1]}]");
    assert_eq!(
        addresses(&to("{number: 80}", &format!("{web}{slices}"))),
        ["10.0.0.1:8080"]
    );
}

#[test]
fn slices_of_another_namespace_or_service_do_not_count() {
    let other = "kind: EndpointSlice\nmetadata: {name: x, namespace: other, labels: {kubernetes.io/service-name: web}}\naddressType: IPv4\nports: [{name: http, port: 1}]\nendpoints: [{addresses: [10.0.0.1]}]\n---\n";
    let translation = to("{number: 80}", &format!("{WEB}{other}"));
    assert!(addresses(&translation).is_empty());
    assert_eq!(only(&translation).missing, None);
}

#[test]
fn ready_serving_and_terminating_are_told_apart_and_the_better_duplicate_counts() {
    let endpoints = "[{addresses: [10.0.0.1], conditions: {}},
      {addresses: [10.0.0.2], conditions: {ready: false, serving: true, terminating: true}},
      {addresses: [10.0.0.3], conditions: {ready: false, serving: false, terminating: true}},
      {addresses: [10.0.0.4], conditions: {ready: false}},
      {addresses: [10.0.0.5], conditions: {ready: true}, zone: z1, nodeName: n1}, {addresses: [10.0.0.6]}]";
    let again = "[{addresses: [10.0.0.4]}, {addresses: [10.0.0.5], conditions: {ready: false}}]";
    let port = "[{name: http, port: 80}]";
    let slices = slice("a", "IPv4", port, endpoints) + &slice("b", "IPv4", port, again);
    let translation = to("{number: 80}", &format!("{WEB}{slices}"));
    use EndpointCondition::{Draining, NotReady, Ready};
    let states: Vec<_> = only(&translation)
        .endpoints
        .iter()
        .map(|endpoint| endpoint.state)
        .collect();
    assert_eq!(states, [Ready, Draining, NotReady, Ready, Ready, Ready]);
    let fifth = &only(&translation).endpoints[4];
    assert_eq!(
        (fifth.zone.as_deref(), fifth.node.as_deref()),
        (Some("z1"), Some("n1"))
    );
}

#[test]
fn bad_addresses_are_told_and_cost_only_themselves() {
    let endpoints = "[{addresses: [10.0.0.1]}, {addresses: [banana]}, {addresses: ['fd00::1']}, {addresses: [0.0.0.0]}, {addresses: [127.0.0.1]}]";
    let slices = slice("a", "IPv4", "[{name: http, port: 80}]", endpoints);
    let translation = to("{number: 80}", &format!("{WEB}{slices}"));
    assert_eq!(addresses(&translation), ["10.0.0.1:80", "127.0.0.1:80"]);
    assert_eq!(translation.diagnostics.len(), 3);
    assert_told(
        &translation,
        Severity::Warning,
        "InvalidAddress",
        &["EndpointSlice shop/a endpoints[1]", "\"banana\""],
    );
}

#[test]
fn a_missing_service_or_port_keeps_its_route_and_names_what_exists() {
    let translation = to("{number: 80}", "");
    assert_eq!(only(&translation).missing, Some(Reason::ServiceMissing));
    assert_eq!(translation.resources.routes.len(), 1);
    let words = [
        "Ingress shop/web spec.rules[0].http.paths[0].backend.service",
        "Service shop/web does not exist",
    ];
    assert_told(&translation, Severity::Error, "ServiceNotFound", &words);

    for port in ["{number: 8080}", "{name: htpp}", "{number: 443}"] {
        let translation = to(port, WEB);
        assert_eq!(only(&translation).missing, Some(Reason::PortMissing));
        assert_told(
            &translation,
            Severity::Error,
            "ServicePortNotFound",
            &["it has 80 (\"http\"), 81 (\"admin\")"],
        );
    }
}

#[test]
fn a_backend_without_a_usable_port_answers_with_an_error() {
    for port in ["{}", "{number: 0}", "{number: 70000}", "{number: 80, name: http}"] {
        let translation = to(port, WEB);
        assert!(translation.endpoints.is_empty());
        assert_told(
            &translation,
            Severity::Error,
            "InvalidBackend",
            &["service.port", "from 1 to 65535"],
        );
    }
}

#[test]
fn hand_made_slices_whose_port_bears_another_name_are_told() {
    let slices = slice(
        "a",
        "IPv4",
        "[{name: web, port: 80}]",
        "[{addresses: [10.0.0.1]}]",
    );
    let translation = to("{number: 80}", &format!("{WEB}{slices}"));
    assert!(addresses(&translation).is_empty());
    assert_told(
        &translation,
        Severity::Warning,
        "EndpointPortNotFound",
        &["no port named \"http\"", "\"web\""],
    );
}

#[test]
fn a_slice_without_the_label_of_its_service_is_told() {
    let slice = slice(
        "a",
        "IPv4",
        "[{name: http, port: 80}]",
        "[{addresses: [10.0.0.1]}]",
    );
    let translation = to(
        "{number: 80}",
        &format!("{WEB}{}", slice.replace("kubernetes.io/service-name", "app")),
    );
    assert!(addresses(&translation).is_empty());
    assert_told(
        &translation,
        Severity::Info,
        "EndpointSliceWithoutService",
        &["EndpointSlice shop/a", "kubernetes.io/service-name"],
    );
}

#[test]
fn app_protocol_decides_what_is_spoken_unless_an_annotation_does() {
    for (word, protocol) in [
        ("kubernetes.io/h2c", Protocol::H2c),
        ("kubernetes.io/ws", Protocol::Http),
        ("https", Protocol::Https),
        ("example.com/own", Protocol::Http),
    ] {
        let web = format!(
            "kind: Service\nmetadata: {{name: web}}\nspec: {{ports: [{{port: 80, appProtocol: {word}}}]}}\n---\n"
        );
        let translation = to("{number: 80}", &web);
        assert_eq!(translation.resources.clusters[0].key.protocol, protocol, "{word}");
    }
    let web = "kind: Service\nmetadata: {name: web}\nspec: {ports: [{port: 80, appProtocol: https}]}\n---\n";
    let annotated = ingress(
        "{ingress-agent.io/backend-protocol: GRPC}",
        &one_rule("Prefix", "/"),
    );
    let class = BASE.split_once("---\n").unwrap().0;
    let translation = run(&format!("{class}---\n{web}{annotated}"));
    assert_eq!(translation.resources.clusters[0].key.protocol, Protocol::H2c);
}

#[test]
fn an_external_name_is_handed_on_for_resolution_and_an_address_is_used_as_it_is() {
    let external = |name: &str, ports: &str| {
        format!(
            "kind: Service\nmetadata: {{name: web}}\nspec: {{type: ExternalName, externalName: '{name}'{ports}}}\n---\n"
        )
    };
    let translation = to("{number: 8443}", &external("Api.Example.", ""));
    assert!(translation.endpoints.is_empty());
    let handed = &translation.external_names[0];
    assert_eq!((handed.name.as_str(), handed.port), ("api.example", 8443));
    assert_clean(&translation);

    let translation = to(
        "{number: 80}",
        &external("api.example", ", ports: [{port: 80, targetPort: 8080}]"),
    );
    assert_eq!(translation.external_names[0].port, 8080);

    let translation = to("{number: 80}", &external("192.0.2.7", ""));
    assert_eq!(addresses(&translation), ["192.0.2.7:80"]);

    let translation = to("{number: 80}", &external("not a name", ""));
    assert!(addresses(&translation).is_empty());
    assert_told(
        &translation,
        Severity::Warning,
        "InvalidExternalName",
        &["Service shop/web spec.externalName"],
    );
}

#[test]
fn the_lane_of_endpoints_finds_what_a_translation_finds() {
    let mut objects = world(&format!("{BASE}{}", ingress("{}", &one_rule("Prefix", "/"))));
    let before = super::super::translate(&objects, &super::options(), &mut Default::default());
    let keys: Vec<_> = before
        .resources
        .clusters
        .iter()
        .map(|cluster| cluster.key.clone())
        .collect();
    assert_eq!(endpoints_only(&objects, &options(), &keys).0, before.endpoints);

    add(
        &mut objects,
        &slice(
            "b",
            "IPv4",
            "[{name: http, port: 8080}]",
            "[{addresses: [10.0.0.2]}]",
        ),
    );
    let (lane, _) = endpoints_only(&objects, &options(), &keys);
    assert_eq!(lane[&keys[0]].endpoints.len(), 2);
    assert_eq!(
        super::super::translate(&objects, &super::options(), &mut Default::default()).endpoints,
        lane
    );
}
