use std::fmt::Write as _;
use std::sync::Arc;

use ingress_core::diagnostic::Severity;
use k8s_openapi::api::networking::v1::{
    HTTPIngressPath, HTTPIngressRuleValue, Ingress, IngressBackend, IngressRule, IngressServiceBackend,
    IngressSpec, ServiceBackendPort,
};

use super::super::{Memory, translate};
use super::{BASE, assert_told, ingress, one_rule, options, with_ingress, world};
use crate::objects::{Key, Objects};

/// An Ingress of ours with one rule.
fn plain(name: &str, host: &str, service: &str) -> Ingress {
    let backend = IngressBackend {
        service: Some(IngressServiceBackend {
            name: service.into(),
            port: Some(ServiceBackendPort {
                number: Some(80),
                name: None,
            }),
        }),
        resource: None,
    };
    let path = HTTPIngressPath {
        backend,
        path: Some("/".into()),
        path_type: "Prefix".into(),
    };
    let rule = IngressRule {
        host: Some(host.into()),
        http: Some(HTTPIngressRuleValue { paths: vec![path] }),
    };
    let mut ingress = Ingress {
        spec: Some(IngressSpec {
            ingress_class_name: Some("ingress-agent".into()),
            rules: Some(vec![rule]),
            ..IngressSpec::default()
        }),
        ..Ingress::default()
    };
    ingress.metadata.name = Some(name.into());
    ingress
}

fn insert(objects: &mut Objects, ingress: Ingress) {
    let name = ingress.metadata.name.clone().unwrap();
    objects
        .ingresses
        .insert(Key::new("shop", name), Arc::new(ingress));
}

/// The good Ingress `shop.example` beside a bad one still has its route.
fn beside_good(bad: Ingress) -> super::Translation {
    let mut objects = world(&format!("{BASE}{}", ingress("{}", &one_rule("Prefix", "/"))));
    insert(&mut objects, bad);
    let translation = translate(&objects, &options(), &mut Memory::default());
    let mut hosts = translation
        .resources
        .routes
        .iter()
        .map(|route| route.host.to_string());
    assert!(hosts.any(|host| host == "shop.example"), "the good one is served");
    translation
}

#[test]
fn a_megabyte_of_annotation_gets_a_short_sentence() {
    let mut bad = plain("bad", "bad.example", "web");
    let huge = "x".repeat(1 << 20);
    bad.metadata.annotations = Some(
        [
            ("ingress-agent.io/proxy-body-size".to_owned(), huge.clone()),
            (
                "ingress-agent.io/canary-by-header-pattern".to_owned(),
                "(a{1000}){1000}".to_owned(),
            ),
            (
                "ingress-agent.io/whitelist-source-range".to_owned(),
                format!("10.0.0.1,{huge}"),
            ),
            (format!("ingress-agent.io/{huge}"), "x".to_owned()),
        ]
        .into(),
    );
    let translation = beside_good(bad);
    assert_eq!(translation.resources.routes.len(), 2);
    assert!(translation.diagnostics.len() >= 4);
    let longest = translation
        .diagnostics
        .iter()
        .map(|d| d.to_string().len())
        .max()
        .unwrap();
    assert!(longest < 1000, "{longest}");
    assert!(
        translation
            .diagnostics
            .iter()
            .any(|d| d.message.contains("(1048576 bytes)"))
    );
}

#[test]
fn ten_thousand_unknown_annotations_get_a_bounded_number_of_sentences() {
    let mut bad = plain("bad", "bad.example", "web");
    let annotations = (0..10_000).map(|n| (format!("ingress-agent.io/unknown-{n}"), String::new()));
    bad.metadata.annotations = Some(annotations.collect());
    let translation = beside_good(bad);
    assert!(translation.diagnostics.len() <= 51);
    assert_told(
        &translation,
        Severity::Warning,
        "MoreProblems",
        &["9950 more problems"],
    );
}

#[test]
fn a_thousand_rules_with_dangling_backends_are_a_thousand_routes() {
    let mut bad = plain("bad", "bad.example", "gone");
    let rules = bad.spec.as_mut().unwrap().rules.as_mut().unwrap();
    let rule = rules[0].clone();
    *rules = (0..1_000)
        .map(|n| IngressRule {
            host: Some(format!("h{n}.example")),
            ..rule.clone()
        })
        .collect();
    let translation = beside_good(bad);
    assert_eq!(translation.resources.routes.len(), 1_001);
    assert_eq!(translation.resources.clusters.len(), 2);
    assert!(translation.diagnostics.len() <= 51);
}

#[test]
fn control_characters_do_not_reach_a_message() {
    let mut bad = plain("bad", "bad.example\r\nlevel=error forged", "web");
    bad.metadata.annotations = Some([("ingress-agent.io/app-root".into(), "/\u{1b}[2J\n".into())].into());
    let translation = beside_good(bad);
    assert_eq!(translation.diagnostics.len(), 2);
    for diagnostic in &translation.diagnostics {
        assert!(
            !diagnostic.message.chars().any(char::is_control),
            "{diagnostic:?}"
        );
    }
}

#[test]
fn an_ingress_without_spec_or_rules_is_told() {
    let mut bad = plain("bad", "", "web");
    bad.spec.as_mut().unwrap().rules = None;
    assert_told(
        &beside_good(bad),
        Severity::Error,
        "EmptyIngress",
        &["Ingress shop/bad spec"],
    );
}

#[test]
fn an_expression_that_would_explode_is_refused() {
    let annotations = "{ingress-agent.io/use-regex: 'true'}";
    let translation = with_ingress(
        annotations,
        &one_rule("ImplementationSpecific", "/(a{1000}){1000}"),
    );
    assert_told(
        &translation,
        Severity::Error,
        "InvalidPath",
        &["not a usable regular expression"],
    );
}

/// Takes some 40 ms without optimisation; anything quadratic shows.
#[test]
fn ten_thousand_ingresses_share_their_policy_service_and_cluster() {
    let mut objects = world(BASE);
    for n in 0..10_000 {
        insert(
            &mut objects,
            plain(&format!("i{n}"), &format!("h{n}.example"), "web"),
        );
    }
    let translation = translate(&objects, &options(), &mut Memory::default());
    let routes = &translation.resources.routes;
    assert_eq!(routes.len(), 10_000);
    assert!(
        routes
            .windows(2)
            .all(|pair| Arc::ptr_eq(&pair[0].policy, &pair[1].policy))
    );
    assert_eq!(translation.resources.clusters.len(), 1);
}

#[test]
fn the_order_and_content_of_a_translation_depend_on_the_objects_alone() {
    let mut yaml = BASE.to_owned();
    for n in 0..20 {
        let _ = write!(
            yaml,
            "kind: Ingress\nmetadata: {{name: i{n}, annotations: {{ingress-agent.io/oops: x}}}}\nspec: {{ingressClassName: ingress-agent, rules: [{{host: h{n}.example, http: {{paths: [{{path: /, pathType: Exact, backend: {{service: {{name: gone{n}, port: {{number: 80}}}}}}}}]}}}}]}}\n---\n"
        );
    }
    let mut memory = Memory::default();
    let first = translate(&world(&yaml), &options(), &mut memory);
    let second = translate(&world(&yaml), &options(), &mut memory);
    assert_eq!(first.resources, second.resources);
    assert_eq!(first.diagnostics, second.diagnostics);
    assert_eq!(first.endpoints, second.endpoints);
}

proptest::proptest! {
    #[test]
    fn no_text_in_any_field_brings_translate_down(
        host in "\\PC{0,20}", path in "[/%.\\\\a-z\\PC]{0,12}", path_type in "(Exact|Prefix|ImplementationSpecific|)",
        name in "\\PC{0,12}", value in "\\PC{0,24}", pick in 0_usize..60, address in "[0-9a-f.:\\PC]{0,16}",
    ) {
        let mut bad = plain("bad", &host, &name);
        let spec = bad.spec.as_mut().unwrap();
        let paths = &mut spec.rules.as_mut().unwrap()[0].http.as_mut().unwrap().paths[0];
        paths.path = Some(path);
        paths.path_type = path_type;
        let known: Vec<_> = super::super::annotations::table::TOPICS.iter().flat_map(|t| t.rows).collect();
        let annotation = known[pick % known.len()].name;
        bad.metadata.annotations = Some([
            (format!("ingress-agent.io/{annotation}"), value.clone()),
            (format!("nginx.ingress.kubernetes.io/{name}"), value),
            ("ingress-agent.io/use-regex".to_owned(), "true".to_owned()),
        ].into());
        let mut objects = world(&format!("{BASE}{}", ingress("{}", &one_rule("Prefix", "/"))));
        let slice = objects.endpoint_slices.values_mut().next().unwrap();
        Arc::make_mut(slice).endpoints[0].addresses.push(address);
        insert(&mut objects, bad);
        let translation = translate(&objects, &options(), &mut Memory::default());
        let hosts: Vec<_> = translation.resources.routes.iter().map(|route| route.host.to_string()).collect();
        proptest::prop_assert!(hosts.iter().any(|host| host == "shop.example"));
    }
}
