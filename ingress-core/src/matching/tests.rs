use http::{HeaderName, HeaderValue, Method};

use crate::fields::Fields;
use proptest::prelude::*;

use super::*;
use crate::compile::compile;
use crate::fixture::*;
use crate::host::HostPattern;
use crate::resource::{Conditions, PathMatch, Resources, RouteSpec};

#[test]
fn an_exact_host_goes_before_a_wildcard_and_that_before_no_host() {
    let all = snapshot(vec![
        route("any", "", "Prefix /"),
        route("wild", "*.example", "Prefix /"),
        route("exact", "shop.example", "Prefix /"),
    ]);
    assert_eq!(served_by(&all, "shop.example", "/"), "exact");
    assert_eq!(served_by(&all, "blog.example", "/"), "wild");
    assert_eq!(served_by(&all, "a.blog.example", "/"), "any");
    assert_eq!(served_by(&all, "example", "/"), "any");
}

#[test]
fn a_request_whose_exact_host_is_known_does_not_fall_to_the_wildcard_host() {
    let all = snapshot(vec![
        route("any", "", "Prefix /"),
        route("wild", "*.example", "Prefix /"),
        route("exact", "shop.example", "Prefix /cart"),
    ]);
    assert_eq!(served_by(&all, "shop.example", "/other"), "path_unmatched");
}

#[test]
fn what_no_path_takes_goes_to_the_default_backend_of_its_host_and_then_to_that_of_all() {
    let own = [
        route("exact", "shop.example", "Prefix /cart"),
        fallback("own", "shop.example"),
    ];
    let global = fallback("global", "");
    let other = route("other", "blog.example", "Exact /x");
    let all = snapshot([own.to_vec(), vec![global, other]].concat());
    assert_eq!(served_by(&all, "shop.example", "/cart/1"), "exact");
    assert_eq!(served_by(&all, "shop.example", "/"), "own");
    assert_eq!(served_by(&all, "blog.example", "/"), "global");
    assert_eq!(served_by(&all, "unknown.example", "/"), "global");
}

#[test]
fn the_path_table_of_the_ingress_documentation_holds() {
    for (rule, path, matches) in [
        ("Prefix /", "/any/path", true),
        ("Exact /foo", "/foo", true),
        ("Exact /foo", "/bar", false),
        ("Exact /foo", "/foo/", false),
        ("Exact /foo/", "/foo", false),
        ("Prefix /foo", "/foo", true),
        ("Prefix /foo", "/foo/", true),
        ("Prefix /foo/", "/foo", true),
        ("Prefix /foo/", "/foo/", true),
        ("Prefix /aaa/bb", "/aaa/bbb", false),
        ("Prefix /aaa/bbb", "/aaa/bbb", true),
        ("Prefix /aaa/bbb/", "/aaa/bbb", true),
        ("Prefix /aaa/bbb", "/aaa/bbb/", true),
        ("Prefix /aaa/bbb", "/aaa/bbb/ccc", true),
        ("Prefix /aaa/bbb", "/aaa/bbbxyz", false),
        ("Prefix /aaa", "/aaa/ccc", true),
        ("Prefix /Foo", "/foo", false),
    ] {
        let one = snapshot(vec![route("it", "", rule)]);
        let expected = if matches { "it" } else { "path_unmatched" };
        assert_eq!(served_by(&one, "shop.example", path), expected, "{rule} {path}");
    }
}

#[test]
fn the_longest_path_wins_and_exact_before_prefix_and_regex_last() {
    let all = snapshot(vec![
        route("a-short-regex", "", "Regex /.*"),
        route("regex-long", "", "Regex /[a-z]+/x"),
        route("exact", "", "Exact /a/b"),
        route("deep", "", "Prefix /a/b"),
        route("shallow", "", "Prefix /a"),
    ]);
    for (path, winner) in [
        ("/a/b", "exact"),
        ("/a/b/", "deep"),
        ("/a/b/c", "deep"),
        ("/a/x", "shallow"),
        ("/q/x", "regex-long"),
        ("/q", "a-short-regex"),
        ("/Q/X", "regex-long"),
    ] {
        assert_eq!(served_by(&all, "shop.example", path), winner, "{path}");
    }
}

#[test]
fn a_host_that_only_unowned_ingresses_have_is_explained_by_naming_one() {
    let unowned = |host: &str| UnownedHost {
        host: HostPattern::parse(host).unwrap(),
        object: ingress("lost"),
        why: "ingressClassName \"nginx\" names no IngressClass".into(),
    };
    let resources = Resources {
        routes: vec![route("web", "shop.example", "Prefix /cart")],
        unowned: vec![
            unowned("shop.example"),
            unowned("lost.example"),
            unowned("*.wild.example"),
        ],
        ..Resources::default()
    };
    let (all, _) = compile(&resources, &crate::snapshot::Snapshot::empty());
    let headers = Fields::default();
    match all.find(&get("lost.example", "/", &headers)) {
        Err(Miss::HostUnowned(host)) => assert_eq!(*host.object.name, *"lost"),
        other => panic!("{other:?}"),
    }
    assert_eq!(served_by(&all, "a.wild.example", "/"), "host_unowned");
    assert_eq!(served_by(&all, "shop.example", "/"), "path_unmatched");
    assert_eq!(served_by(&all, "other.example", "/"), "host_unknown");
}

fn with_conditions(name: &str, conditions: Conditions) -> RouteSpec {
    RouteSpec {
        conditions,
        ..route(name, "", "Prefix /")
    }
}

#[test]
fn a_route_with_more_conditions_is_asked_first_and_steps_back_when_one_is_not_met() {
    let header = (HeaderName::from_static("x-user"), HeaderValue::from_static("ann"));
    let by_header = Conditions {
        headers: vec![header],
        ..Conditions::default()
    };
    let by_method = Conditions {
        method: Some(Method::POST),
        ..Conditions::default()
    };
    let by_query = Conditions {
        query: vec![("q".into(), "a b/c".into())],
        ..Conditions::default()
    };
    let all = snapshot(vec![
        route("plain", "", "Prefix /"),
        with_conditions("header", by_header),
        with_conditions("method", by_method),
        with_conditions("query", by_query),
    ]);
    let mut headers = Fields::default();
    let found = |method: &Method, query, headers: &Fields| {
        let view = RequestView {
            method,
            query,
            ..get("shop.example", "/x", headers)
        };
        all.find(&view).unwrap().object.name.to_string()
    };
    assert_eq!(found(&Method::GET, None, &headers), "plain");
    assert_eq!(found(&Method::GET, Some("x=1&q=a+b%2Fc&q=2"), &headers), "query");
    assert_eq!(found(&Method::GET, Some("q=2&q=a+b%2Fc"), &headers), "plain");
    headers.append(HeaderName::from_static("x-user"), HeaderValue::from_static("bob"));
    headers.append(HeaderName::from_static("x-user"), HeaderValue::from_static("ann"));
    assert_eq!(found(&Method::GET, None, &headers), "header");
    assert_eq!(found(&Method::POST, None, &headers), "method");
}

#[test]
fn a_host_with_many_paths_keeps_the_same_order() {
    let numbered = (0..1000).map(|i| route(&format!("n{i}"), "shop.example", &format!("Prefix /n/{i}")));
    let others = [
        route("root", "shop.example", "Prefix /"),
        route("exact", "shop.example", "Exact /n/7"),
        route("deep", "shop.example", "Prefix /n/7/a/b"),
        route("regex", "shop.example", "Regex /n/.*"),
        fallback("own", "shop.example"),
    ];
    let all = snapshot(numbered.chain(others).collect());
    for (path, winner) in [
        ("/n/7", "exact"),
        ("/n/7/", "n7"),
        ("/n/7/a", "n7"),
        ("/n/7/a/b/c/d", "deep"),
        ("/n/77", "n77"),
        ("/n/1000", "root"),
        ("/", "root"),
    ] {
        assert_eq!(served_by(&all, "shop.example", path), winner, "{path}");
    }
    let hostile = "/".repeat(60_000);
    assert_eq!(served_by(&all, "shop.example", &hostile), "root");
}

#[test]
fn a_long_table_without_a_match_goes_on_to_the_fallback() {
    let numbered = (0..100).map(|i| route(&format!("n{i}"), "shop.example", &format!("Exact /n/{i}")));
    let all = snapshot(numbered.chain([fallback("own", "shop.example")]).collect());
    assert_eq!(served_by(&all, "shop.example", "/n/5"), "n5");
    assert_eq!(served_by(&all, "shop.example", "/n/5/"), "own");
}

/// The same question answered without tables: every route is looked at, straight from the text of the issue.
fn naive<'a>(routes: &'a [RouteSpec], host: &str, path: &str) -> Result<&'a RouteSpec, &'static str> {
    let of = |pattern: &dyn Fn(&HostPattern) -> bool| -> Vec<&RouteSpec> {
        routes.iter().filter(|route| pattern(&route.host)).collect()
    };
    let exact = of(&|p| matches!(p, HostPattern::Exact(_)) && p.covers(host));
    let wild = of(&|p| matches!(p, HostPattern::Wildcard(_)) && p.covers(host));
    let any = of(&|p| *p == HostPattern::Any);
    let mut steps = [&exact, &wild, &any]
        .into_iter()
        .filter(|routes| !routes.is_empty());
    let known = steps.next().cloned().unwrap_or_default();
    let score = |route: &RouteSpec| match &route.path {
        PathMatch::Exact(text) if **text == *path => Some((1, elements_of(text), 1, 0)),
        PathMatch::Prefix(text) if elements_start_with(path, text) => Some((1, elements_of(text), 0, 0)),
        PathMatch::Regex(regex) if regex.regex.is_match(path) => Some((0, 0, 0, regex.source.len())),
        _ => None,
    };
    let best = |routes: &[&'a RouteSpec]| {
        let mut scored: Vec<_> = routes.iter().filter_map(|r| Some((score(r)?, *r))).collect();
        scored.sort_by(|(a, x), (b, y)| b.cmp(a).then_with(|| x.seniority.cmp(&y.seniority)));
        scored.first().map(|(_, route)| *route)
    };
    let split = |routes: &[&'a RouteSpec], fallback| -> Vec<&'a RouteSpec> {
        routes
            .iter()
            .copied()
            .filter(|r| r.fallback == fallback)
            .collect()
    };
    best(&split(&known, false))
        .or_else(|| best(&split(&known, true)))
        .or_else(|| best(&split(&any, true)))
        .ok_or(match known.is_empty() {
            true => "host_unknown",
            false => "path_unmatched",
        })
}

fn elements_of(path: &str) -> usize {
    path.split('/').count()
}

fn elements_start_with(path: &str, prefix: &str) -> bool {
    let mut path = path.split('/');
    prefix.split('/').all(|element| path.next() == Some(element))
}

fn some_path() -> impl Strategy<Value = String> {
    let element = prop_oneof![Just("a"), Just("b"), Just("ab"), Just("")];
    proptest::collection::vec(element, 1..4).prop_map(|elements| format!("/{}", elements.join("/")))
}

fn some_route() -> impl Strategy<Value = RouteSpec> {
    let host = prop_oneof![Just(""), Just("*.x"), Just("a.x"), Just("b.x"), Just("*.a.x")];
    let rule = prop_oneof![
        some_path().prop_map(|path| format!("Exact {path}")),
        some_path().prop_map(|path| format!("Prefix {path}")),
        prop_oneof![Just("Regex /a+"), Just("Regex /.b"), Just("Regex /a/(b|)")].prop_map(str::to_owned),
    ];
    (
        host,
        rule,
        0..4_i64,
        "[a-d]",
        proptest::bool::weighted(0.1),
        0..40_usize,
    )
        .prop_map(|(host, rule, created, name, fallback, place)| {
            let mut spec = route(&name, host, if fallback { "Prefix /" } else { &rule });
            spec.seniority =
                crate::resource::Seniority::new((created > 0).then_some(created), ingress(&name), (0, place));
            spec.field = format!("spec.rules[0].http.paths[{place}]");
            spec.fallback = fallback;
            spec
        })
}

pub(crate) fn some_routes() -> impl Strategy<Value = Vec<RouteSpec>> {
    proptest::collection::vec(some_route(), 0..40).prop_map(|mut routes| {
        // No two routes of one object share a place.
        routes.sort_by(|a, b| a.seniority.cmp(&b.seniority));
        routes.dedup_by(|a, b| a.seniority == b.seniority);
        routes
    })
}

proptest! {
    #[test]
    fn find_equals_a_naive_linear_matcher(
        routes in some_routes(),
        host in prop_oneof![Just("a.x"), Just("b.x"), Just("c.x"), Just("y"), Just("q.a.x")],
        path in some_path(),
    ) {
        let compiled = snapshot(routes.clone());
        let headers = Fields::default();
        match (compiled.find(&get(host, &path, &headers)), naive(&routes, host, &path)) {
            (Ok(found), Ok(expected)) => {
                prop_assert_eq!(&found.object, &expected.seniority.object);
                prop_assert_eq!(&found.field, &expected.field);
                prop_assert_eq!(&found.host, &expected.host);
            }
            (Err(miss), Err(reason)) => prop_assert_eq!(miss.reason().code(), reason),
            (found, expected) => prop_assert!(false, "{found:?} is not {expected:?}"),
        }
    }
}
