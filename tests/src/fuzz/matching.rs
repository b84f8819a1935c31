//! The compiled tables against a matcher that looks at every route, for rules and requests read from the input.

use std::sync::{Arc, LazyLock};

use http::Method;
use ingress_core::compile::compile;
use ingress_core::fields::Fields;
use ingress_core::host::HostPattern;
use ingress_core::matching::{Miss, RequestView};
use ingress_core::name::{Kind, ObjectRef};
use ingress_core::reason::Reason;
use ingress_core::resource::{
    Action, Conditions, PathMatch, PathRegex, Resources, RouteSpec, Seniority, UnownedHost,
};
use ingress_core::snapshot::{Route, Snapshot};

use super::{Bytes, Target, outcome};

pub static MATCHING: Target = Target {
    name: "matching",
    executions: 30_000,
    longest: 300,
    words: &[
        b"\0",
        b"\x01",
        b"\x02",
        b"\x03",
        b"\x10",
        b"\x1f",
        b"\xff",
        b"\0\0\0\0\0",
        b"\x01\x01\x01\x01\x01",
    ],
    check,
};

const MOST_ROUTES: usize = 40;
const RULE_HOSTS: &[&str] = &["", "*.x", "a.x", "b.x", "*.a.x", "a.a.x", "x"];
const ASKED_HOSTS: &[&str] = &[
    "a.x", "b.x", "c.x", "q.a.x", "a.a.x", "x", "y", "q.q.x", "[::1]", ".x",
];
const ELEMENTS: &[&str] = &["a", "b", "ab", "", "A", "a", "%2F", "*"];

/// An expression and what it means, said without one.
type Expression = (&'static str, fn(&str) -> bool);
const EXPRESSIONS: &[Expression] = &[
    ("/a+", |p| p.starts_with("/a")),
    ("/.b", |p| {
        p.as_bytes().get(2) == Some(&b'b') && p.starts_with('/')
    }),
    ("/a/(b|)", |p| p.starts_with("/a/")),
    ("/[ab]/$", |p| p == "/a/" || p == "/b/"),
    ("/b|/a/a", |p| p.starts_with("/b") || p.starts_with("/a/a")),
];
static COMPILED: LazyLock<Vec<Arc<PathRegex>>> = LazyLock::new(|| {
    let compiled = EXPRESSIONS.iter().flat_map(|(source, _)| PathRegex::new(source));
    compiled.map(Arc::new).collect()
});

fn check(input: &[u8]) -> u64 {
    let mut bytes = Bytes(input);
    let host = bytes.pick(ASKED_HOSTS, "a.x");
    let path = path(&mut bytes);
    let unowned = unowned(&mut bytes);
    let routes = routes(&mut bytes);
    let whole = Resources {
        routes,
        unowned,
        ..Resources::default()
    };
    let expected = naive(&whole.routes, &whole.unowned, host, &path);
    let mut part = whole.clone();
    part.routes.truncate(whole.routes.len() / 2);
    let (before, _) = compile(&part, &Snapshot::empty());
    let (compiled, _) = compile(&whole, &Snapshot::empty());
    let (grown, _) = compile(&whole, &before);
    for snapshot in [&compiled, &grown] {
        assert_found(find(snapshot, host, &path), expected, (host, &path));
    }
    outcome(match expected {
        Ok(route) => (Err(route.path.key().0), rank(&route.host), route.fallback),
        Err(reason) => (Ok(reason.code()), 0, false),
    })
}

fn assert_found(found: Result<&Arc<Route>, Miss>, expected: Result<&RouteSpec, Reason>, asked: (&str, &str)) {
    match (found, expected) {
        (Ok(found), Ok(expected)) => {
            assert_eq!(found.object, expected.seniority.object, "{asked:?}");
            assert_eq!(
                (&found.field, &found.host),
                (&expected.field, &expected.host),
                "{asked:?}"
            );
            assert_eq!(
                (&found.path, found.fallback),
                (&expected.path, expected.fallback),
                "{asked:?}"
            );
        }
        (Err(miss), Err(reason)) => assert_eq!(miss.reason(), reason, "{asked:?}"),
        (found, expected) => panic!("{asked:?}: {found:?} is not {expected:?}"),
    }
}

fn find<'s>(snapshot: &'s Snapshot, host: &str, path: &str) -> Result<&'s Arc<Route>, Miss> {
    let headers = Fields::default();
    snapshot.find(&RequestView {
        method: &Method::GET,
        host,
        path,
        query: None,
        headers: &headers,
    })
}

fn path(bytes: &mut Bytes<'_>) -> String {
    let count = bytes.next() % 5;
    let elements: Vec<_> = (0..=count).map(|_| bytes.pick(ELEMENTS, "a")).collect();
    format!("/{}", elements.join("/"))
}

fn object(name: u8) -> Arc<ObjectRef> {
    Arc::new(ObjectRef::new(Kind::Ingress, "shop", format!("i{}", name % 5)))
}

fn unowned(bytes: &mut Bytes<'_>) -> Vec<UnownedHost> {
    let count = bytes.next() % 3;
    let hosts = (0..count).flat_map(|_| HostPattern::parse(bytes.pick(RULE_HOSTS, "")));
    hosts
        .map(|host| UnownedHost {
            host,
            object: object(0),
            why: "".into(),
        })
        .collect()
}

/// No two routes of one object share a place.
fn routes(bytes: &mut Bytes<'_>) -> Vec<RouteSpec> {
    let mut routes = Vec::new();
    while !bytes.0.is_empty() && routes.len() < MOST_ROUTES {
        routes.extend(route(bytes, routes.len()));
    }
    routes
}

fn route(bytes: &mut Bytes<'_>, place: usize) -> Option<RouteSpec> {
    let host = HostPattern::parse(bytes.pick(RULE_HOSTS, "")).ok()?;
    let (kind, age) = (bytes.next(), bytes.next());
    let path = match kind % 8 {
        0..3 => PathMatch::Exact(path(bytes).into()),
        3..6 => PathMatch::Prefix(path(bytes).trim_end_matches('/').into()),
        6 => PathMatch::Regex(Arc::clone(
            COMPILED.get(usize::from(bytes.next()) % COMPILED.len())?,
        )),
        _ => PathMatch::Prefix("".into()),
    };
    let created = (age % 4 > 0).then_some(i64::from(age % 4));
    Some(RouteSpec {
        seniority: Seniority::new(created, object(bytes.next()), (0, place)),
        field: format!("spec.rules[0].http.paths[{place}]"),
        host,
        path,
        conditions: Conditions::default(),
        action: Action::Fail(Reason::ServiceMissing),
        policy: Arc::default(),
        fallback: kind % 8 == 7,
    })
}

fn rank(host: &HostPattern) -> u8 {
    match host {
        HostPattern::Exact(_) => 3,
        HostPattern::Wildcard(_) => 2,
        HostPattern::Any => 1,
    }
}

/// By looking at every route, in the words of the promise: the most specific host that is known decides; longest path by
/// elements, Exact before Prefix on a tie, expressions last and the longest first; then the host's own default, then that of all.
fn naive<'r>(
    routes: &'r [RouteSpec],
    unowned: &[UnownedHost],
    host: &str,
    path: &str,
) -> Result<&'r RouteSpec, Reason> {
    let of_host = |rank_: u8| {
        let routes = routes.iter();
        routes.filter(move |r| rank(&r.host) == rank_ && covers(&r.host, host))
    };
    let known = [3, 2, 1].into_iter().find(|rank| of_host(*rank).next().is_some());
    let rules = |rank: u8| of_host(rank).filter(|r| !r.fallback);
    let best = |rank: u8| {
        let mut scored: Vec<_> = rules(rank)
            .filter_map(|r| Some((score(&r.path, path)?, r)))
            .collect();
        scored.sort_by(|(a, x), (b, y)| b.cmp(a).then(x.seniority.cmp(&y.seniority)));
        scored.first().map(|(_, route)| *route)
    };
    let fallback = |rank: u8| {
        of_host(rank)
            .filter(|r| r.fallback)
            .min_by(|x, y| x.seniority.cmp(&y.seniority))
    };
    known
        .and_then(|rank| best(rank).or_else(|| fallback(rank)))
        .or_else(|| fallback(1))
        .ok_or_else(|| match known {
            Some(2 | 3) => Reason::PathUnmatched,
            _ if unowned.iter().any(|u| covers(&u.host, host)) => Reason::HostUnowned,
            Some(_) => Reason::PathUnmatched,
            None => Reason::HostUnknown,
        })
}

fn covers(pattern: &HostPattern, host: &str) -> bool {
    match pattern {
        HostPattern::Exact(name) => **name == *host,
        HostPattern::Wildcard(suffix) => host
            .strip_suffix(&**suffix)
            .and_then(|start| start.strip_suffix('.'))
            .is_some_and(|label| !label.is_empty() && !label.contains('.')),
        HostPattern::Any => true,
    }
}

/// Kind (expressions last), elements, Exact before Prefix, length of the expression.
fn score(rule: &PathMatch, path: &str) -> Option<(u8, usize, u8, usize)> {
    let elements = |text: &str| text.split('/').count();
    match rule {
        PathMatch::Exact(text) if **text == *path => Some((1, elements(text), 1, 0)),
        PathMatch::Prefix(text) if path == &**text || path.starts_with(&format!("{text}/")) => {
            Some((1, elements(text), 0, 0))
        }
        PathMatch::Regex(regex) => {
            let (_, matches) = EXPRESSIONS.iter().find(|(source, _)| *source == regex.source)?;
            matches(&path.to_ascii_lowercase()).then_some((0, 0, 0, regex.source.len()))
        }
        _ => None,
    }
}
