//! Which endpoints are near, and what becomes of Ingresses whose namespace is about to go.

use ingress_core::compile::compile;
use ingress_core::diagnostic::Severity;
use ingress_core::nearness::Place;
use ingress_core::resource::Nearness;
use ingress_core::snapshot::{Snapshot, Target};

use super::*;
use crate::translate::Options;

const NODE: &str = "kind: Node\nmetadata: {name: n1, labels: {topology.kubernetes.io/zone: a}}\n---\n";

/// Three ready endpoints, on n1 in zone a, n2 in a and n3 in b; with hints, each for the other zone.
fn backend(service: &str, hints: bool) -> String {
    let hint = |zone: &str| match hints {
        true => format!("hints: {{forZones: [{{name: {zone}}}]}}, "),
        false => String::new(),
    };
    let endpoint = |number: u8, zone: &str, other: &str| {
        format!(
            "  - {{addresses: [10.0.0.{number}], {}zone: {zone}, nodeName: n{number}}}\n",
            hint(other)
        )
    };
    format!(
        "kind: IngressClass\nmetadata: {{name: ingress-agent}}\nspec: {{controller: ingress-agent.io/controller}}\n---\n\
         kind: Service\n{service}\n---\n\
         kind: EndpointSlice\nmetadata: {{name: web-1, labels: {{kubernetes.io/service-name: web}}}}\naddressType: IPv4\n\
         ports: [{{name: http, port: 8080}}]\nendpoints:\n{}{}{}---\n{}",
        endpoint(1, "a", "b"),
        endpoint(2, "a", "b"),
        endpoint(3, "b", "a"),
        ingress("{}", &one_rule("Prefix", "/"))
    )
}

fn service(distribution: &str, annotations: &str) -> String {
    format!(
        "metadata: {{name: web, annotations: {{{annotations}}}}}\nspec: {{{distribution}ports: [{{name: http, port: 80, targetPort: 8080}}]}}"
    )
}

fn on_node(node: Option<&str>, zone: Option<&str>) -> Options {
    Options {
        place: Place {
            node: node.map(Into::into),
            zone: zone.map(Into::into),
        },
        ..options()
    }
}

fn nearness(yaml: &str, options: &Options) -> Vec<Nearness> {
    let translation = translate(&world(yaml), options, &mut Memory::default());
    let [list] = &translation.endpoints.into_values().collect::<Vec<_>>()[..] else {
        panic!("one cluster")
    };
    list.endpoints.iter().map(|endpoint| endpoint.nearness).collect()
}

#[test]
fn a_traffic_distribution_prefers_endpoints_of_the_zone_that_the_own_node_is_in() {
    use Nearness::*;
    let here = on_node(Some("n1"), None);
    for (distribution, expected) in [
        ("PreferClose", [SameZone, SameZone, Anywhere]),
        ("PreferSameZone", [SameZone, SameZone, Anywhere]),
        ("PreferSameNode", [SameNode, SameZone, Anywhere]),
    ] {
        let service = service(&format!("trafficDistribution: {distribution}, "), "");
        let yaml = format!("{NODE}{}", backend(&service, false));
        assert_eq!(nearness(&yaml, &here), expected, "{distribution}");
    }
    let plain = format!("{NODE}{}", backend(&service("", ""), false));
    assert_eq!(nearness(&plain, &here), [Anywhere; 3]);
    // What the agent is told goes before what its Node says.
    let close = backend(&service("trafficDistribution: PreferClose, ", ""), false);
    let told = on_node(Some("n1"), Some("b"));
    assert_eq!(
        nearness(&format!("{NODE}{close}"), &told),
        [Anywhere, Anywhere, SameZone]
    );
}

#[test]
fn hints_of_slices_say_what_is_near_unless_the_annotation_takes_them_away() {
    use Nearness::*;
    let here = on_node(None, Some("a"));
    let of = |annotations: &str| nearness(&backend(&service("", annotations), true), &here);
    assert_eq!(of(""), [Anywhere, Anywhere, SameZone]);
    assert_eq!(
        of("service.kubernetes.io/topology-mode: Auto"),
        [Anywhere, Anywhere, SameZone]
    );
    assert_eq!(of("service.kubernetes.io/topology-mode: Disabled"), [Anywhere; 3]);
}

#[test]
fn a_service_that_prefers_a_zone_is_told_of_where_the_agents_own_is_not_known() {
    let yaml = backend(&service("trafficDistribution: PreferClose, ", ""), false);
    let lost = translate(&world(&yaml), &on_node(Some("n1"), None), &mut Memory::default());
    assert_told(
        &lost,
        Severity::Info,
        "PlaceUnknown",
        &["Service shop/web", "--zone"],
    );
    let known = translate(&world(&yaml), &on_node(None, Some("a")), &mut Memory::default());
    assert_clean(&known);
}

#[test]
fn an_ingress_whose_namespace_is_being_deleted_is_served_and_gives_way_to_one_that_stays() {
    let old = "kind: Ingress\nmetadata: {name: web, namespace: old, creationTimestamp: 2020-01-01T00:00:00Z}\nspec:\n  ingressClassName: ingress-agent\n";
    let new = "kind: Ingress\nmetadata: {name: web, namespace: new, creationTimestamp: 2026-01-01T00:00:00Z}\nspec:\n  ingressClassName: ingress-agent\n";
    let both = format!(
        "{BASE}{old}{}\n---\n{new}{}\n---\n",
        one_rule("Prefix", "/"),
        one_rule("Prefix", "/")
    );
    let winner = |yaml: &str| {
        let translation = run(yaml);
        let (snapshot, conflicts) = compile(&translation.resources, &Snapshot::empty());
        let routes: Vec<_> = snapshot.routes().map(|route| route.object.to_string()).collect();
        assert!(
            snapshot
                .routes()
                .all(|route| matches!(route.target, Target::Forward { .. }))
        );
        (routes, conflicts, translation)
    };
    let (routes, conflicts, _) = winner(&both);
    assert_eq!(routes, ["Ingress old/web"]);
    assert!(
        conflicts[0].to_string().contains("which is older"),
        "{}",
        conflicts[0]
    );
    let going = "kind: Namespace\nmetadata: {name: old, deletionTimestamp: 2026-02-01T00:00:00Z}\n---\n";
    let (routes, conflicts, told) = winner(&format!("{both}{going}"));
    assert_eq!(routes, ["Ingress new/web"]);
    assert!(
        conflicts[0].to_string().contains("which stays"),
        "{}",
        conflicts[0]
    );
    assert_told(
        &told,
        Severity::Info,
        "NamespaceTerminating",
        &["Ingress old/web", "gives way"],
    );
    let alone = format!("{BASE}{old}{}\n---\n{going}", one_rule("Prefix", "/"));
    assert_eq!(winner(&alone).0, ["Ingress old/web"], "nobody else has its host");
}
