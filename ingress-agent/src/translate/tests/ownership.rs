use ingress_core::diagnostic::Severity;

use super::super::{Memory, Options, translate};
use super::{BASE, assert_clean, assert_told, options, run, told, world};

fn ingress(name: &str, metadata: &str, spec: &str) -> String {
    format!(
        "kind: Ingress\nmetadata: {{name: {name}{metadata}}}\nspec:\n  {spec}\n  rules:\n  - host: {name}.example\n    http: {{paths: [{{path: /, pathType: Prefix, backend: {{service: {{name: web, port: {{number: 80}}}}}}}}]}}\n---\n"
    )
}

fn legacy(name: &str, class: &str) -> String {
    ingress(
        name,
        &format!(", annotations: {{kubernetes.io/ingress.class: {class}}}"),
        "# no class",
    )
}

fn field(name: &str, class: &str) -> String {
    ingress(name, "", &format!("ingressClassName: {class}"))
}

fn bare(name: &str) -> String {
    ingress(name, "", "# no class")
}

fn class(name: &str, controller: &str, default: bool) -> String {
    format!(
        "kind: IngressClass\nmetadata: {{name: {name}, annotations: {{ingressclass.kubernetes.io/is-default-class: \"{default}\"}}}}\nspec: {{controller: {controller}}}\n---\n"
    )
}

/// `BASE` without its IngressClass.
fn classless_base() -> &'static str {
    BASE.split_once("---\n").unwrap().1
}

fn hosts(translation: &super::super::Translation) -> Vec<String> {
    translation
        .resources
        .routes
        .iter()
        .map(|route| route.host.to_string())
        .collect()
}

#[test]
fn half_of_the_manifests_moved_to_the_field_and_no_such_class_exists_is_told_with_hosts_and_mismatch() {
    let yaml = format!(
        "{}{}{}",
        classless_base(),
        legacy("old", "ingress-agent"),
        field("moved", "ingress-agent")
    );
    let translation = run(&yaml);
    assert_eq!(hosts(&translation), ["old.example"]);
    let unowned = &translation.resources.unowned;
    assert_eq!(unowned.len(), 1);
    assert_eq!(unowned[0].host.to_string(), "moved.example");
    assert_eq!(unowned[0].object.to_string(), "Ingress shop/moved");
    assert_eq!(
        &*unowned[0].why,
        "spec.ingressClassName \"ingress-agent\" names no IngressClass"
    );
    assert_eq!(translation.diagnostics.len(), 1, "one line");
    assert_told(
        &translation,
        Severity::Error,
        "IngressClassNotFound",
        &[
            "Ingress shop/moved spec.ingressClassName",
            "create the IngressClass \"ingress-agent\" with spec.controller \"ingress-agent.io/controller\"",
        ],
    );
}

#[test]
fn the_field_wins_over_the_annotation() {
    let both = ingress(
        "both",
        ", annotations: {kubernetes.io/ingress.class: ingress-agent}",
        "ingressClassName: other",
    );
    let translation = run(&format!(
        "{BASE}{}{both}",
        class("other", "example.com/other", false)
    ));
    assert!(hosts(&translation).is_empty());
    assert_clean(&translation);
}

#[test]
fn another_controllers_ingress_is_nothing_to_complain_about() {
    let yaml = format!(
        "{BASE}{}{}{}{}",
        class("other", "example.com/other", true),
        field("a", "other"),
        legacy("b", "other"),
        bare("c")
    );
    let translation = run(&yaml);
    assert!(hosts(&translation).is_empty());
    assert!(translation.resources.unowned.is_empty());
    assert_clean(&translation);
}

#[test]
fn the_legacy_annotation_may_name_any_class_of_ours() {
    let yaml = format!(
        "{BASE}{}{}",
        class("inner", "ingress-agent.io/controller", false),
        legacy("a", "inner")
    );
    assert_eq!(hosts(&run(&yaml)), ["a.example"]);
}

#[test]
fn several_controller_names_adopt_another_controllers_classes() {
    let yaml = format!(
        "{BASE}{}{}",
        class("nginx", "k8s.io/ingress-nginx", false),
        field("a", "nginx")
    );
    let mut options = options();
    options.controllers.push("k8s.io/ingress-nginx".into());
    let translation = translate(&world(&yaml), &options, &mut Memory::default());
    assert_eq!(hosts(&translation), ["a.example"]);
    assert!(hosts(&run(&yaml)).is_empty());
}

#[test]
fn an_ingress_without_class_belongs_to_the_default_class() {
    let default = class("ingress-agent", "ingress-agent.io/controller", true);
    let yaml = format!("{}{default}{}", classless_base(), bare("a"));
    let translation = run(&yaml);
    assert_eq!(hosts(&translation), ["a.example"]);
    assert_clean(&translation);
}

#[test]
fn no_class_and_no_default_is_nobodys_unless_classless_ingresses_are_asked_for() {
    let yaml = format!("{BASE}{}", bare("a"));
    let translation = run(&yaml);
    assert_eq!(translation.resources.unowned.len(), 1);
    assert_told(
        &translation,
        Severity::Error,
        "NoIngressClass",
        &["is not set", "ours: \"ingress-agent\""],
    );

    let classless = Options {
        classless: true,
        ..options()
    };
    let translation = translate(&world(&yaml), &classless, &mut Memory::default());
    assert_eq!(hosts(&translation), ["a.example"]);
}

#[test]
fn two_default_classes_are_told_on_the_ingress_and_on_ours() {
    let yaml = format!(
        "{}{}{}{}",
        classless_base(),
        class("ingress-agent", "ingress-agent.io/controller", true),
        class("other", "example.com/other", true),
        bare("a")
    );
    let translation = run(&yaml);
    assert!(hosts(&translation).is_empty());
    let told: Vec<_> = translation
        .diagnostics
        .iter()
        .filter(|d| d.reason == "TwoDefaultClasses")
        .collect();
    let objects: Vec<_> = told.iter().map(|d| d.object.to_string()).collect();
    assert_eq!(objects, ["Ingress shop/a", "IngressClass ingress-agent"]);
    assert!(
        translation.resources.unowned[0]
            .why
            .contains("\"ingress-agent\", \"other\"")
    );
}

#[test]
fn an_annotation_that_names_no_class_is_told() {
    let translation = run(&format!("{BASE}{}", legacy("a", "ngnix")));
    assert_told(
        &translation,
        Severity::Error,
        "IngressClassNotFound",
        &["ingress.class", "\"ngnix\" names no class"],
    );
    assert!(told(&translation, "NoIngressClass").is_none());
}

#[test]
fn an_unowned_rule_without_host_does_not_claim_every_404() {
    let yaml = "kind: Ingress\nmetadata: {name: a}\nspec: {rules: [{http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: web, port: {number: 80}}}}]}}]}";
    let translation = run(&format!("{BASE}{yaml}"));
    assert!(translation.resources.unowned.is_empty());
    assert!(told(&translation, "NoIngressClass").is_some());
}
