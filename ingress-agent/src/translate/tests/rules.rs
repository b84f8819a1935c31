use ingress_core::diagnostic::Severity;
use ingress_core::host::HostPattern;
use ingress_core::reason::Reason;
use ingress_core::resource::{Action, PortRef, Protocol};

use super::super::{Memory, Options, Translation, translate};
use super::{BASE, assert_clean, assert_told, ingress, one_rule, options, run, told, with_ingress, world};

fn paths(translation: &Translation) -> Vec<String> {
    let routes = translation.resources.routes.iter();
    routes
        .map(|route| format!("{} {}", route.host, route.path))
        .collect()
}

#[test]
fn a_plain_ingress_becomes_a_route_a_cluster_and_endpoints() {
    let translation = with_ingress("{}", &one_rule("Prefix", "/"));
    assert_clean(&translation);
    assert_eq!(paths(&translation), ["shop.example Prefix /"]);
    let route = &translation.resources.routes[0];
    assert_eq!(route.field, "spec.rules[0].http.paths[0]");
    let Action::Forward(backends) = &route.action else {
        panic!()
    };
    assert_eq!(backends[0].cluster.to_string(), "Service shop/web:80");
    assert_eq!(translation.resources.clusters.len(), 1);
    let list = &translation.endpoints[&backends[0].cluster];
    assert_eq!(list.endpoints[0].address.to_string(), "10.0.0.1:8080");
}

#[test]
fn path_types_become_what_they_say() {
    for (path_type, path, expected) in [
        ("Exact", "/a/", "Exact /a/"),
        ("Prefix", "/a/", "Prefix /a"),
        ("Prefix", "/", "Prefix /"),
        ("ImplementationSpecific", "/a", "Prefix /a"),
        ("ImplementationSpecific", "", "Prefix /"),
        ("ImplementationSpecific", "/a(.*)", "Prefix /a(.*)"),
    ] {
        let translation = with_ingress("{}", &one_rule(path_type, path));
        assert_eq!(
            paths(&translation),
            [format!("shop.example {expected}")],
            "{path_type} {path}"
        );
        assert_clean(&translation);
    }
}

#[test]
fn use_regex_and_rewrites_with_groups_make_expressions_of_paths_that_look_like_one() {
    let use_regex = "{nginx.ingress.kubernetes.io/use-regex: 'true'}";
    let rewrite = "{nginx.ingress.kubernetes.io/rewrite-target: '/$2'}";
    for (annotations, path_type, path, expected) in [
        (use_regex, "ImplementationSpecific", "/a", "Regex /a"),
        (use_regex, "Prefix", "/a", "Prefix /a"),
        (use_regex, "Prefix", "/a/.*", "Regex /a/.*"),
        (use_regex, "Exact", "/a", "Exact /a"),
        (
            rewrite,
            "ImplementationSpecific",
            "/a(/|$)(.*)",
            "Regex /a(/|$)(.*)",
        ),
        (rewrite, "Prefix", "/a(/|$)(.*)", "Regex /a(/|$)(.*)"),
    ] {
        let translation = with_ingress(annotations, &one_rule(path_type, path));
        assert_eq!(
            paths(&translation),
            [format!("shop.example {expected}")],
            "{path_type} {path}"
        );
        assert_clean(&translation);
    }
}

#[test]
fn a_rewrite_that_names_a_group_which_the_path_lacks_is_told() {
    let annotations = "{nginx.ingress.kubernetes.io/rewrite-target: '/$3'}";
    let translation = with_ingress(annotations, &one_rule("ImplementationSpecific", "/a(/|$)(.*)"));
    assert_told(
        &translation,
        Severity::Warning,
        "RewriteGroupMissing",
        &["2 capture groups", "$3"],
    );
}

#[test]
fn a_bad_path_or_host_costs_only_itself() {
    let spec = "  rules:
  - host: bad_host.example
    http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: web, port: {number: 80}}}}]}
  - host: trailing.example.
    http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: web, port: {number: 80}}}}]}
  - host: shop.example
    http:
      paths:
      - {path: relative, pathType: Prefix, backend: {service: {name: web, port: {number: 80}}}}
      - {path: /a//b, pathType: Exact, backend: {service: {name: web, port: {number: 80}}}}
      - {path: /a/.., pathType: Prefix, backend: {service: {name: web, port: {number: 80}}}}
      - {pathType: Prefix, backend: {service: {name: web, port: {number: 80}}}}
      - {path: /typo, pathType: Perfix, backend: {service: {name: web, port: {number: 80}}}}
      - {path: /untyped, backend: {service: {name: web, port: {number: 80}}}}
      - {path: /good, pathType: Prefix, backend: {service: {name: web, port: {number: 80}}}}";
    let translation = with_ingress("{}", spec);
    assert_eq!(paths(&translation), ["shop.example Prefix /good"]);
    let fields: Vec<_> = translation
        .diagnostics
        .iter()
        .map(|d| (d.field.as_str(), d.reason))
        .collect();
    let path = |n| (format!("spec.rules[2].http.paths[{n}].path"), "InvalidPath");
    let expected: Vec<_> = [0, 1]
        .map(|n| (format!("spec.rules[{n}].host"), "InvalidHost"))
        .into_iter()
        .chain((0..6).map(path))
        .collect();
    let expected: Vec<_> = expected
        .iter()
        .map(|(field, reason)| (field.as_str(), *reason))
        .collect();
    assert_eq!(fields, expected);
}

#[test]
fn a_bad_expression_is_told_in_one_line() {
    let translation = with_ingress(
        "{ingress-agent.io/use-regex: 'true'}",
        &one_rule("ImplementationSpecific", "/a("),
    );
    assert!(translation.resources.routes.is_empty());
    assert_told(
        &translation,
        Severity::Error,
        "InvalidPath",
        &["\"/a(\" is not a usable regular expression"],
    );
    assert!(!told(&translation, "InvalidPath").unwrap().message.contains('\n'));
}

#[test]
fn a_default_backend_with_rules_serves_their_hosts_and_without_rules_everything() {
    let backend = "  defaultBackend: {service: {name: web, port: {name: http}}}\n";
    let with = with_ingress("{}", &format!("{backend}{}", one_rule("Exact", "/a")));
    assert_eq!(paths(&with), ["shop.example Exact /a", "shop.example Prefix /"]);
    assert!(!with.resources.routes[0].fallback && with.resources.routes[1].fallback);
    let without = with_ingress("{}", backend);
    assert_eq!(paths(&without), ["* Prefix /"]);
    assert!(without.resources.routes[0].fallback);
    assert_eq!(without.resources.routes[0].field, "spec.defaultBackend");
}

#[test]
fn a_rule_without_paths_leaves_its_host_to_the_default_backend_or_is_told() {
    let rule = "  rules: [{host: shop.example}]";
    let alone = with_ingress("{}", rule);
    assert_told(&alone, Severity::Warning, "RuleWithoutPaths", &["spec.rules[0]"]);
    let backend = "  defaultBackend: {service: {name: web, port: {number: 80}}}\n";
    let with = with_ingress("{}", &format!("{backend}{rule}"));
    assert_eq!(paths(&with), ["shop.example Prefix /"]);
    assert_clean(&with);
}

#[test]
fn the_operators_default_backend_is_the_last_resort() {
    let options = Options {
        default_backend: Some(("shop".into(), "web".into(), PortRef::Number(80))),
        ..options()
    };
    let mine = ingress(
        "{}",
        "  defaultBackend: {service: {name: web, port: {number: 80}}}",
    );
    let translation = translate(&world(&format!("{BASE}{mine}")), &options, &mut Memory::default());
    let routes = &translation.resources.routes;
    assert!(
        routes
            .iter()
            .all(|route| route.host == HostPattern::Any && route.fallback)
    );
    assert!(routes[0].seniority < routes[1].seniority);
    assert_eq!(routes[1].field, "--default-backend");
}

#[test]
fn a_resource_backend_is_told_and_answers_with_an_error_instead_of_another_route() {
    let spec = "  rules:
  - host: shop.example
    http: {paths: [{path: /, pathType: Prefix, backend: {resource: {kind: Bucket, name: assets}}}]}";
    let translation = with_ingress("{}", spec);
    assert_eq!(
        translation.resources.routes[0].action,
        Action::Fail(Reason::RouteInvalid)
    );
    assert_told(
        &translation,
        Severity::Error,
        "Unsupported",
        &["backend.resource", "\"Bucket\" \"assets\""],
    );
}

#[test]
fn a_canary_is_an_alternative_and_no_route() {
    let annotations =
        "{nginx.ingress.kubernetes.io/canary: 'true', nginx.ingress.kubernetes.io/canary-weight: '20'}";
    let translation = with_ingress(annotations, &one_rule("Prefix", "/"));
    assert!(translation.resources.routes.is_empty());
    let canary = &translation.resources.canaries[0];
    assert_eq!((canary.when.weight, canary.when.weight_total), (20, 100));
    assert_eq!(canary.cluster.to_string(), "Service shop/web:80");
    assert!(translation.endpoints.contains_key(&canary.cluster));
    assert_clean(&translation);
}

#[test]
fn a_canary_inherits_expressions_and_protocol_of_its_main_ingress() {
    let main = ingress(
        "{nginx.ingress.kubernetes.io/rewrite-target: '/$2', nginx.ingress.kubernetes.io/backend-protocol: GRPC}",
        &one_rule("ImplementationSpecific", "/a(/|$)(.*)"),
    );
    let canary = ingress(
        "{nginx.ingress.kubernetes.io/canary: 'true', nginx.ingress.kubernetes.io/canary-by-header: X-Canary}",
        &one_rule("ImplementationSpecific", "/a(/|$)(.*)"),
    );
    // Before its main Ingress in the order of names.
    let canary = canary.replace("  name: web\n", "  name: a-canary\n");
    let translation = run(&format!("{BASE}{canary}{main}"));
    assert_clean(&translation);
    let canary = &translation.resources.canaries[0];
    assert_eq!(canary.path, translation.resources.routes[0].path);
    assert_eq!(canary.path.to_string(), "Regex /a(/|$)(.*)");
    assert_eq!(canary.cluster.protocol, Protocol::H2c);
    assert_eq!(translation.resources.clusters.len(), 1);
}

#[test]
fn an_alias_gives_way_to_a_rule_and_www_is_redirected_once() {
    let annotations = "{ingress-agent.io/server-alias: 'alias.example, taken.example', ingress-agent.io/from-to-www-redirect: 'true'}";
    let taken = "kind: Ingress\nmetadata: {name: taken}\nspec: {ingressClassName: ingress-agent, rules: [{host: taken.example, http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: web, port: {number: 80}}}}]}}]}";
    let translation = run(&format!(
        "{BASE}{}{taken}",
        ingress(annotations, &one_rule("Prefix", "/a"))
    ));
    let mut paths = paths(&translation);
    paths.sort();
    assert_eq!(
        paths,
        [
            "alias.example Prefix /a",
            "shop.example Prefix /a",
            "taken.example Prefix /",
            "www.shop.example Prefix /"
        ]
    );
    assert_told(
        &translation,
        Severity::Warning,
        "AliasTaken",
        &["Ingress shop/web", "taken.example"],
    );
    let www = translation
        .resources
        .routes
        .iter()
        .find(|route| route.host.covers("www.shop.example"))
        .unwrap();
    let redirect = www.policy.redirect.as_ref().unwrap();
    assert_eq!(
        (redirect.location.as_str(), redirect.status),
        ("$scheme://shop.example$request_uri", 308)
    );
}

#[test]
fn an_alias_has_the_default_backend_too() {
    let spec = format!(
        "  defaultBackend: {{service: {{name: web, port: {{number: 80}}}}}}\n{}",
        one_rule("Exact", "/a")
    );
    let translation = with_ingress("{ingress-agent.io/server-alias: alias.example}", &spec);
    let mut paths = paths(&translation);
    paths.sort();
    assert_eq!(
        paths,
        [
            "alias.example Exact /a",
            "alias.example Prefix /",
            "shop.example Exact /a",
            "shop.example Prefix /"
        ]
    );
}

#[test]
fn a_redirect_needs_no_backend_but_its_absence_is_mentioned() {
    let spec = one_rule("Prefix", "/").replace("name: web", "name: dummy");
    let translation = with_ingress(
        "{ingress-agent.io/permanent-redirect: 'https://new.example'}",
        &spec,
    );
    assert_eq!(
        translation.resources.routes[0]
            .policy
            .redirect
            .as_ref()
            .unwrap()
            .status,
        301
    );
    assert_told(&translation, Severity::Info, "ServiceNotFound", &["shop/dummy"]);
}

#[test]
fn the_creation_time_decides_seniority_and_none_comes_last() {
    let at = |name: &str, time: &str| {
        format!(
            "kind: Ingress\nmetadata: {{name: {name}{time}}}\nspec: {{ingressClassName: ingress-agent, rules: [{{host: shop.example, http: {{paths: [{{path: /, pathType: Prefix, backend: {{service: {{name: web, port: {{number: 80}}}}}}}}]}}}}]}}\n---\n"
        )
    };
    let yaml = format!(
        "{BASE}{}{}{}",
        at("a", ""),
        at("b", ", creationTimestamp: '2024-01-02T00:00:00Z'"),
        at("c", ", creationTimestamp: '2024-01-01T00:00:00Z'")
    );
    let mut routes = run(&yaml).resources.routes;
    routes.sort_by(|x, y| x.seniority.cmp(&y.seniority));
    let names: Vec<_> = routes
        .iter()
        .map(|route| route.seniority.object.name.to_string())
        .collect();
    assert_eq!(names, ["c", "b", "a"]);
}
