use std::sync::Arc;

use http::header::{HeaderMap, LOCATION, SET_COOKIE};
use proptest::prelude::*;

use super::*;
use crate::fixture::{cluster, ingress, route_with};
use crate::resource::*;
use crate::snapshot::{Canary, Cluster, WeightedBackend};

fn headers(pairs: &[(&'static str, &str)]) -> Fields {
    map(pairs).into()
}

fn map(pairs: &[(&'static str, &str)]) -> HeaderMap {
    let pair = |(name, value): &(&'static str, &str)| {
        (
            HeaderName::from_static(name),
            HeaderValue::from_str(value).unwrap(),
        )
    };
    let mut map = HeaderMap::new();
    for (name, value) in pairs.iter().map(pair) {
        map.append(name, value);
    }
    map
}

fn facts<'a>(path: &'a str, headers: &'a Fields) -> RequestFacts<'a> {
    RequestFacts {
        https: false,
        host: "shop.example",
        port: None,
        path,
        query: None,
        method: &Method::GET,
        headers,
        client_ip: IpAddr::from([192, 0, 2, 7]),
        https_port: 443,
    }
}

/// Status, reason and location of the answer; `None` for what is forwarded.
fn answered(route: &Route, facts: &RequestFacts<'_>) -> Option<(u16, Reason, String)> {
    match decide(route, facts) {
        Decision::Forward => None,
        Decision::Answer(answer) => {
            let location = answer.headers.iter().find(|(name, _)| *name == LOCATION);
            let location = location.map_or("", |(_, value)| value.to_str().unwrap());
            Some((answer.status.as_u16(), answer.reason, location.to_owned()))
        }
    }
}

fn to_https() -> RoutePolicy {
    RoutePolicy {
        tls_redirect: TlsRedirect::Always,
        ..RoutePolicy::default()
    }
}

#[test]
fn plain_http_goes_to_https_with_308_and_keeps_path_and_query() {
    let (route, none) = (route_with("Prefix /", to_https()), Fields::default());
    let request = RequestFacts {
        query: Some("a=1"),
        ..facts("/cart", &none)
    };
    let expected = |location: &str| Some((308, Reason::RedirectHttps, location.to_owned()));
    assert_eq!(
        answered(&route, &request),
        expected("https://shop.example/cart?a=1")
    );
    let other_port = RequestFacts {
        https_port: 8443,
        port: Some(8080),
        ..request
    };
    assert_eq!(
        answered(&route, &other_port),
        expected("https://shop.example:8443/cart?a=1")
    );
    let secure = RequestFacts {
        https: true,
        ..request
    };
    assert_eq!(answered(&route, &secure), None);
    let without_certificate = route_with("Prefix /", RoutePolicy::default());
    assert_eq!(answered(&without_certificate, &request), None);
}

#[test]
fn a_request_without_a_host_does_not_slip_past_the_redirect_to_https() {
    let (route, none) = (route_with("Prefix /", to_https()), Fields::default());
    let request = RequestFacts {
        host: "",
        ..facts("/", &none)
    };
    let (status, reason, _) = answered(&route, &request).unwrap();
    assert_eq!((status, reason), (400, Reason::BadRequest));
}

#[test]
fn an_acme_challenge_is_never_redirected() {
    let policy = RoutePolicy {
        redirect: Some(Redirect {
            location: "https://elsewhere.example".into(),
            status: 301,
        }),
        ..to_https()
    };
    let (route, none) = (route_with("Prefix /", policy), Fields::default());
    assert_eq!(
        answered(&route, &facts("/.well-known/acme-challenge/token", &none)),
        None
    );
    assert!(answered(&route, &facts("/.well-known/acme-challenger", &none)).is_some());
}

#[test]
fn source_ranges_deny_before_anything_else_and_know_mapped_addresses() {
    let policy = RoutePolicy {
        sources: SourceRanges {
            allow: vec!["192.0.2.0/24".parse().unwrap()],
            deny: vec!["192.0.2.66/32".parse().unwrap()],
        },
        ..to_https()
    };
    let (route, none) = (route_with("Prefix /", policy), Fields::default());
    let from = |ip: &str| {
        let request = RequestFacts {
            client_ip: ip.parse().unwrap(),
            https: true,
            ..facts("/", &none)
        };
        answered(&route, &request).map(|(status, reason, _)| (status, reason))
    };
    assert_eq!(from("192.0.2.7"), None);
    assert_eq!(from("::ffff:192.0.2.7"), None);
    assert_eq!(from("192.0.2.66"), Some((403, Reason::Denied)));
    assert_eq!(from("198.51.100.1"), Some((403, Reason::Denied)));
    assert_eq!(from("2001:db8::1"), Some((403, Reason::Denied)));
}

#[test]
fn the_root_goes_to_the_app_root_and_nothing_else_does() {
    let policy = |root: &str| RoutePolicy {
        app_root: Some(root.to_owned()),
        ..RoutePolicy::default()
    };
    let none = Fields::default();
    let route = route_with("Prefix /", policy("/app"));
    assert_eq!(
        answered(&route, &facts("/", &none)),
        Some((302, Reason::Redirect, "/app".into()))
    );
    assert_eq!(answered(&route, &facts("/app", &none)), None);
    let looping = route_with("Prefix /", policy("/"));
    assert_eq!(answered(&looping, &facts("/", &none)), None);
}

fn redirect(path: &str, location: &str) -> Arc<Route> {
    let redirect = Redirect {
        location: location.to_owned(),
        status: 301,
    };
    route_with(
        path,
        RoutePolicy {
            redirect: Some(redirect),
            ..RoutePolicy::default()
        },
    )
}

#[test]
fn a_redirect_fills_in_the_request_and_the_groups() {
    let none = Fields::default();
    let request = RequestFacts {
        query: Some("a=1"),
        port: Some(8080),
        ..facts("/old/x/y", &none)
    };
    for (template, expected) in [
        (
            "https://new.example$request_uri",
            "https://new.example/old/x/y?a=1",
        ),
        (
            "$scheme://$http_host$uri$is_args$args",
            "http://shop.example:8080/old/x/y?a=1",
        ),
        ("https://${host}x/$1/$2/$9", "https://shop.examplex/x/y/"),
        ("/$unknown/${host/$", "/$unknown/${host/$"),
        ("/$10", "/x0"),
    ] {
        let route = redirect("Regex /old/([a-z]+)/([a-z]+)", template);
        let (status, _, location) = answered(&route, &request).unwrap();
        assert_eq!((status, &*location), (301, expected), "{template}");
    }
}

#[test]
fn a_location_never_holds_a_line_break() {
    let none = Fields::default();
    let request = RequestFacts {
        query: Some("a=\r\nSet-Cookie: x\u{e4}"),
        ..facts("/", &none)
    };
    let (_, _, location) = answered(&redirect("Prefix /", "/$args"), &request).unwrap();
    assert_eq!(location, "/a=%0D%0ASet-Cookie:%20x%C3%A4");
}

fn rewrite(path: &str, template: &str) -> Arc<Route> {
    route_with(
        path,
        RoutePolicy {
            rewrite: Some(Rewrite {
                template: template.to_owned(),
            }),
            ..RoutePolicy::default()
        },
    )
}

#[test]
fn a_rewrite_takes_the_groups_of_the_path_expression() {
    for (path, template, request, expected) in [
        ("Regex /something(/|$)(.*)", "/$2", "/something/new", "/new"),
        ("Regex /something(/|$)(.*)", "/$2", "/something", "/"),
        ("Regex /(a)?b", "/x$1$7", "/b", "/x"),
        ("Regex /(.*)", "new/${1}0", "/a", "/new/a0"),
        ("Regex /(.*)", "/$x$", "/a", "/$x$"),
        ("Regex /(.*)", "/q?p=$1", "/a", "/q?p=a"),
        ("Regex /(.*)", "/$1", "/a%2Fb%3F", "/a%2Fb%3F"),
        ("Prefix /foo", "/bar", "/foo/deep", "/bar"),
        ("Prefix /foo", "/bar/$1", "/foo/deep", "/bar/"),
    ] {
        let got = rewrite_path(&rewrite(path, template), request).unwrap();
        assert_eq!(got.as_deref(), Some(expected), "{path} {template} {request}");
    }
    let none = route_with("Prefix /", RoutePolicy::default());
    assert_eq!(rewrite_path(&none, "/a"), Ok(None));
}

#[test]
fn a_rewrite_that_would_leave_its_folder_is_refused() {
    let route = rewrite("Regex /foo(.*)", "/app/$1");
    assert!(rewrite_path(&route, "/foo..").is_err());
    assert!(rewrite_path(&route, "/foo.").is_err());
    assert!(rewrite_path(&route, "/foo..%2Fx").is_err());
}

#[test]
fn the_query_of_a_rewrite_and_that_of_the_request_are_joined() {
    let target = |template, query| {
        rewrite_target(&rewrite("Prefix /", template), "/x", query)
            .unwrap()
            .unwrap()
    };
    assert_eq!(target("/a", None), "/a");
    assert_eq!(target("/a", Some("b=1")), "/a?b=1");
    assert_eq!(target("/a?c=2", Some("b=1")), "/a?c=2&b=1");
}

fn cors(origins: Vec<CorsOrigin>) -> Arc<CorsPolicy> {
    Arc::new(CorsPolicy {
        origins,
        methods: HeaderValue::from_static("GET, PUT"),
        headers: HeaderValue::from_static("X-A"),
        expose_headers: None,
        credentials: true,
        max_age: 60,
    })
}

fn wildcard() -> CorsOrigin {
    CorsOrigin::Wildcard {
        prefix: "https://".into(),
        suffix: ".shop.example".into(),
    }
}

#[test]
fn a_preflight_is_answered_with_204_and_any_other_options_request_is_forwarded() {
    let policy = RoutePolicy {
        cors: Some(cors(vec![wildcard()])),
        ..RoutePolicy::default()
    };
    let route = route_with("Prefix /", policy);
    let asking = headers(&[
        ("origin", "https://a.shop.example"),
        ("access-control-request-method", "PUT"),
    ]);
    let options = |headers| RequestFacts {
        method: &Method::OPTIONS,
        ..facts("/", headers)
    };
    let Decision::Answer(answer) = decide(&route, &options(&asking)) else {
        panic!()
    };
    assert_eq!(
        (answer.status.as_u16(), answer.reason),
        (204, Reason::CorsPreflight)
    );
    let map: HeaderMap = answer.headers.into_iter().collect();
    assert_eq!(map["access-control-allow-origin"], "https://a.shop.example");
    assert_eq!(map["access-control-allow-methods"], "GET, PUT");
    assert_eq!(map["access-control-allow-credentials"], "true");
    assert_eq!(map["access-control-max-age"], "60");
    assert_eq!(map["vary"], "Origin");
    let plain = headers(&[("origin", "https://a.shop.example")]);
    assert_eq!(decide(&route, &options(&plain)), Decision::Forward);
}

#[test]
fn an_origin_is_echoed_only_when_it_is_allowed() {
    let exact = CorsOrigin::Exact("https://app.example:8443".into());
    let policy = cors(vec![exact, wildcard()]);
    for (origin, allowed) in [
        ("https://app.example:8443", true),
        ("https://APP.example:8443", true),
        ("https://a.shop.example", true),
        ("https://a.b.shop.example", true),
        ("https://shop.example", false),
        ("https://.shop.example", false),
        ("https://evil.example/.shop.example", false),
        ("https://evil.example#.shop.example", false),
        ("http://a.shop.example", false),
        ("null", false),
    ] {
        let mut response = headers(&[("vary", "Accept")]);
        apply(
            &mut response,
            cors_response_edits(&policy, &headers(&[("origin", origin)])),
        );
        let got = response.get("access-control-allow-origin");
        assert_eq!(got == Some(origin.as_bytes()), allowed, "{origin}");
        assert_eq!(response.get_all("vary").count(), 2);
    }
}

#[test]
fn a_star_goes_without_credentials() {
    let mut response = Fields::default();
    let origin = headers(&[("origin", "https://any.example")]);
    apply(
        &mut response,
        cors_response_edits(&cors(vec![CorsOrigin::Any]), &origin),
    );
    assert_eq!(response.text("access-control-allow-origin"), Some("*"));
    assert!(!response.contains("access-control-allow-credentials"));
}

fn canary(name: &str, when: CanaryWhen) -> Canary {
    Canary {
        object: ingress(name),
        when,
        cluster: Arc::new(Cluster::new(cluster(name))),
    }
}

fn by_header(value: CanaryHeaderValue) -> CanaryWhen {
    CanaryWhen {
        header: Some(CanaryHeader {
            name: HeaderName::from_static("x-canary"),
            value,
        }),
        cookie: Some("canary".into()),
        weight: 0,
        weight_total: 100,
    }
}

#[test]
fn a_canary_is_chosen_by_header_then_cookie_then_weight() {
    let full = CanaryWhen {
        weight: 100,
        ..by_header(CanaryHeaderValue::AlwaysNever)
    };
    let none = by_header(CanaryHeaderValue::AlwaysNever);
    let exact = by_header(CanaryHeaderValue::Exact("blue".into()));
    for (when, pairs, taken) in [
        (&none, &[("x-canary", "always")][..], true),
        (
            &full,
            &[("x-canary", "never"), ("cookie", "canary=always")],
            false,
        ),
        (
            &none,
            &[("x-canary", "other"), ("cookie", "a=b; canary=always")],
            true,
        ),
        (&full, &[("cookie", "canary=never")], false),
        (&full, &[("cookie", "canary=maybe")], true),
        (&none, &[("cookie", "notcanary=always")], false),
        (&exact, &[("x-canary", "blue")], true),
        (
            &exact,
            &[("x-canary", "green"), ("cookie", "canary=always")],
            true,
        ),
        (&exact, &[("x-canary", "always")], false),
    ] {
        let canaries = [canary("one", when.clone())];
        let chosen = choose_canary(&canaries, &headers(pairs), 1 << 63);
        assert_eq!(chosen.is_some(), taken, "{when:?} {pairs:?}");
    }
}

#[test]
fn weights_of_canaries_add_up_and_are_kept() {
    let weighted = |name, weight| {
        let when = CanaryWhen {
            weight,
            weight_total: 100,
            ..CanaryWhen::default()
        };
        canary(name, when)
    };
    let canaries = [weighted("a", 10), weighted("b", 30)];
    let none = Fields::default();
    let step = u64::MAX / 1000;
    let chosen =
        (0..1000).map(|i| choose_canary(&canaries, &none, i * step).map(|c| c.object.name.to_string()));
    let chosen: Vec<_> = chosen.collect();
    let count = |name: Option<&str>| chosen.iter().filter(|c| c.as_deref() == name).count();
    assert!(count(Some("a")).abs_diff(100) < 3 && count(Some("b")).abs_diff(300) < 3);
    assert!(count(None).abs_diff(600) < 3);
}

#[test]
fn backends_are_chosen_by_weight_and_one_without_weight_never() {
    let backend = |name, weight| WeightedBackend {
        cluster: Arc::new(Cluster::new(cluster(name))),
        weight,
    };
    let backends = [backend("a", 1), backend("off", 0), backend("b", 3)];
    let step = u64::MAX / 1000;
    let of = |name: &str| {
        let chosen = (0..1000).filter_map(|i| choose_backend(&backends, i * step));
        chosen
            .filter(|cluster| *cluster.key.service.name == *name)
            .count()
    };
    assert!(of("a").abs_diff(250) < 3 && of("b").abs_diff(750) < 3);
    assert_eq!(of("off"), 0);
    assert!(choose_backend(&backends[1..2], 0).is_none());
    assert!(choose_backend(&[], 0).is_none());
}

#[test]
fn an_affinity_cookie_is_written_and_read_back() {
    let affinity = CookieAffinity {
        name: "INGRESSCOOKIE".into(),
        path: None,
        domain: None,
        same_site: Some("Lax"),
        secure: None,
        max_age: Some(60),
        change_on_failure: false,
    };
    let value = set_cookie(&affinity, "00ff", true).unwrap();
    assert_eq!(
        value,
        "INGRESSCOOKIE=00ff; Path=/; Max-Age=60; Secure; HttpOnly; SameSite=Lax"
    );
    let plain = CookieAffinity {
        domain: Some("a\r\nb".into()),
        ..affinity.clone()
    };
    assert!(
        set_cookie(&plain, "00ff", false).is_none(),
        "{SET_COOKIE} cannot hold a line break"
    );
    let sent = headers(&[("cookie", "a=b"), ("cookie", "x=y; INGRESSCOOKIE=00ff")]);
    assert_eq!(sticky_cookie(&affinity, &sent), Some("00ff"));
}

#[test]
fn hop_by_hop_fields_go_and_so_does_what_connection_names() {
    let mut sent = headers(&[
        ("connection", "keep-alive, X-Secret"),
        ("connection", "host, content-length,te"),
        ("keep-alive", "5"),
        ("proxy-connection", "x"),
        ("transfer-encoding", "chunked"),
        ("upgrade", "websocket"),
        ("te", "gzip, Trailers"),
        ("x-secret", "1"),
        ("host", "shop.example"),
        ("content-length", "5"),
        ("accept", "*/*"),
    ]);
    remove_hop_by_hop(&mut sent);
    let left = map(&[
        ("te", "trailers"),
        ("host", "shop.example"),
        ("content-length", "5"),
        ("accept", "*/*"),
    ]);
    assert_eq!(HeaderMap::from(&sent), left);
    let mut sent = headers(&[("te", "gzip")]);
    remove_hop_by_hop(&mut sent);
    assert!(sent.is_empty());
}

fn hop<'a>(peer: IpAddr, peer_text: &'a str, host: &'a str) -> Hop<'a> {
    Hop {
        peer,
        peer_text: peer_text.as_bytes(),
        https: false,
        host: host.as_bytes(),
        port: b"8080".as_slice().into(),
        request_id: 0xabc,
    }
}

fn forwarded(forwarding: &Forwarding, peer: &str, sent: &[(&'static str, &str)]) -> (Client, HeaderMap) {
    let host = "shop.example:8080";
    let mut fields = headers(sent);
    let peer: IpAddr = peer.parse().unwrap();
    let peer_text = peer.to_canonical().to_string();
    let hop = hop(peer, &peer_text, host);
    let client = forwarding.client(&hop, &fields);
    let forwarded = forwarding.fields(&hop, &client, &fields);
    forwarded.make_way(&mut fields);
    let mut map = HeaderMap::from(&fields);
    for (name, value) in forwarded.fields() {
        map.append(name, HeaderValue::from_bytes(value).unwrap());
    }
    (client, map)
}

const SPOOFED: &[(&str, &str)] = &[
    ("x-forwarded-for", "203.0.113.9, 10.0.0.2"),
    ("x-forwarded-proto", "https"),
    ("x-forwarded-host", "front.example"),
    ("x-request-id", "abc-1"),
    ("x-real-ip", "1.2.3.4"),
    ("forwarded", "for=203.0.113.9"),
];

#[test]
fn what_an_untrusted_peer_says_of_the_client_is_replaced() {
    let (client, map) = forwarded(&Forwarding::default(), "198.51.100.1", SPOOFED);
    assert_eq!(
        (client.ip.to_string().as_str(), client.https),
        ("198.51.100.1", false)
    );
    for (name, value) in [
        ("x-forwarded-for", "198.51.100.1"),
        ("x-real-ip", "198.51.100.1"),
        ("x-forwarded-proto", "http"),
        ("x-forwarded-scheme", "http"),
        ("x-forwarded-host", "shop.example:8080"),
        ("x-forwarded-port", "8080"),
        ("x-request-id", "00000000000000000000000000000abc"),
    ] {
        assert_eq!(map[name], value, "{name}");
    }
    assert!(!map.contains_key("forwarded"));
}

#[test]
fn what_a_trusted_peer_says_of_the_client_is_kept_and_continued() {
    let forwarding = Forwarding {
        trusted: vec!["10.0.0.0/8".parse().unwrap()],
        forwarded: true,
    };
    let (client, map) = forwarded(&forwarding, "::ffff:10.0.0.1", SPOOFED);
    assert_eq!(
        (client.ip.to_string().as_str(), client.https),
        ("203.0.113.9", true)
    );
    for (name, value) in [
        ("x-forwarded-for", "203.0.113.9, 10.0.0.2, 10.0.0.1"),
        ("x-real-ip", "203.0.113.9"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "front.example"),
        ("x-request-id", "abc-1"),
        (
            "forwarded",
            "for=203.0.113.9, for=10.0.0.1;host=\"shop.example:8080\";proto=http",
        ),
    ] {
        assert_eq!(map[name], value, "{name}");
    }
}

#[test]
fn an_identifier_that_comes_twice_is_not_believed_of_anybody() {
    let forwarding = Forwarding {
        trusted: vec!["10.0.0.0/8".parse().unwrap()],
        forwarded: false,
    };
    let twice = [("x-request-id", "one"), ("x-request-id", "other")];
    let (_, map) = forwarded(&forwarding, "10.0.0.1", &twice);
    let ids: Vec<_> = map.get_all("x-request-id").iter().collect();
    assert_eq!(ids, ["00000000000000000000000000000abc"]);
}

#[test]
fn what_is_set_stands_alone_also_where_an_underscore_is_read_as_a_dash() {
    let mut fields = headers(&[
        ("x_user", "root"),
        ("x-user", "root"),
        ("x_use", "1"),
        ("xauser", "2"),
    ]);
    let name = HeaderName::from_static("x-user");
    apply(&mut fields, [Edit::Set(name, HeaderValue::from_static("me"))]);
    let left = map(&[("x_use", "1"), ("xauser", "2"), ("x-user", "me")]);
    assert_eq!(HeaderMap::from(&fields), left);
    let mut fields = headers(&[("x_", "root")]);
    fields.remove_look_alikes("x-");
    assert!(fields.is_empty());
}

#[test]
fn the_client_is_the_right_most_address_that_no_trusted_proxy_has() {
    let forwarding = Forwarding {
        trusted: vec!["10.0.0.0/8".parse().unwrap(), "2001:db8::/32".parse().unwrap()],
        forwarded: false,
    };
    for (sent, client) in [
        ("1.1.1.1, 2.2.2.2, 10.0.0.5", "2.2.2.2"),
        ("10.0.0.4, 10.0.0.5", "10.0.0.4"),
        ("1.1.1.1, nonsense, 10.0.0.5", "10.0.0.5"),
        ("1.1.1.1:4711", "1.1.1.1"),
        ("[2a00::1]:80, [2001:db8::2]", "2a00::1"),
        ("", "10.0.0.1"),
    ] {
        let sent = [("x-forwarded-for", sent)];
        assert_eq!(
            forwarded(&forwarding, "10.0.0.1", &sent).0.ip.to_string(),
            client,
            "{sent:?}"
        );
    }
}

proptest! {
    #[test]
    fn no_rewrite_makes_a_path_that_is_not_normal(
        source in "/[a-c.(]{0,3}\\(\\.\\*\\)", template in "[/$12a.%?{}]{0,8}", path in "/[a-c./%2f]{0,8}",
    ) {
        prop_assume!(PathRegex::new(&source).is_ok());
        let Ok(path) = crate::path::normalise(&path) else { return Ok(()) };
        let route = rewrite(&format!("Regex {source}"), &template);
        if let Ok(Some(target)) = rewrite_path(&route, &path) {
            let path = target.split('?').next().unwrap_or_default();
            prop_assert_eq!(crate::path::normalise(path), Ok(path.into()));
        }
    }
}
