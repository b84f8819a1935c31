//! One request for each reason code: status, header and metric of the agent's own answers.

use std::collections::BTreeSet;

use http::Method;
use ingress_core::reason::Reason;
use ingress_tests::raw::{Step, exchange};
use ingress_tests::{
    Certs, Echo, Gate, Ingress, Manifests, RawBackend, RawClient, Refusing, Request, TestAgent,
};

use crate::Done;

/// Nothing in the agent gives it yet: while it drains it closes idle connections and finishes the others.
const NEVER_GIVEN: &[&str] = &["draining"];

/// Of a whole process or connection, so they need agents of their own.
const OF_LIMITS: &[&str] = &["overloaded", "rate_limited"];

/// Needs an agent that is quicker to lose its patience than the other requests could bear on a slow machine.
const OF_TIME: &[&str] = &["request_timeout"];

struct Provoked {
    agent: TestAgent,
    manifests: Manifests,
    web: Echo,
    _backends: (Echo, Refusing, Vec<RawBackend>),
}

/// `http://HOST.test/` goes to the Service of the host's name.
fn to_itself(host: &str) -> Ingress {
    Ingress::new(host).host(&format!("{host}.test")).prefix("/", host)
}

fn routes(manifests: &Manifests) -> Done {
    let web = || Ingress::new("web").host("web.test").prefix("/app", "web");
    let all = [
        web().annotation("proxy-body-size", "1k"),
        to_itself("denied").annotation("denylist-source-range", "127.0.0.0/8"),
        to_itself("unowned").class("gone"),
        to_itself("missing"),
        Ingress::new("port").host("port.test").prefix("/", "web:81"),
        to_itself("empty"),
        to_itself("cold"),
        to_itself("refused"),
        to_itself("reset"),
        to_itself("protocol"),
        to_itself("tls").annotation("backend-protocol", "HTTPS"),
        to_itself("silent")
            .annotation("backend-protocol", "HTTPS")
            .annotation("proxy-connect-timeout", "1"),
        to_itself("slow").annotation("proxy-read-timeout", "1"),
        to_itself("moved").annotation("temporal-redirect", "https://away.test/"),
        to_itself("cors").annotation("enable-cors", "true"),
        to_itself("secure").tls(&["secure.test"], "secure"),
        to_itself("private").tls(&["private.test"], "private"),
    ];
    for ingress in &all {
        manifests.ingress(ingress)?;
    }
    manifests.write(
        "resource.yaml",
        "apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {name: bucket}\nspec:\n  rules:\n  - host: invalid.test\n    http:\n      \
         paths: [{path: /, pathType: Prefix, backend: {resource: {apiGroup: k8s.example.com, kind: Bucket, name: assets}}}]\n",
    )?;
    let certs = Certs::new()?;
    for name in ["secure", "private"] {
        manifests.tls_secret(name, &certs.leaf(&[&format!("{name}.test")])?)?;
    }
    Ok(())
}

fn start() -> anyhow::Result<Provoked> {
    let manifests = Manifests::new()?;
    manifests.our_class()?;
    routes(&manifests)?;
    let head = || Step::Expect(b"\r\n\r\n".to_vec());
    let raw = [
        ("reset", vec![head(), Step::Reset]),
        ("protocol", vec![head(), Step::Send(b"nonsense\r\n\r\n".to_vec())]),
        ("tls", vec![Step::Send(b"HTTP/1.1 400 Not TLS\r\n\r\n".to_vec())]),
        ("silent", Vec::new()),
    ];
    let mut raws = Vec::new();
    for (service, script) in raw {
        let backend = RawBackend::scripted(script)?;
        manifests.service(service, &[backend.address()])?;
        raws.push(backend);
    }
    let (web, slow, refused) = (
        Echo::start("web")?,
        Echo::start_behind("slow", &Gate::new())?,
        Refusing::new()?,
    );
    for service in ["web", "moved", "cors", "secure", "private", "denied"] {
        manifests.service(service, &[web.address()])?;
    }
    manifests.service("slow", &[slow.address()])?;
    manifests.service("refused", &[refused.address()])?;
    manifests.service("empty", &[])?.service("cold", &[])?;
    manifests.endpoints_with("cold", &[(web.address(), "ready: false, serving: false")])?;
    let agent = TestAgent::start(&manifests)?;
    Ok(Provoked {
        agent,
        manifests,
        web,
        _backends: (slow, refused, raws),
    })
}

/// Requests in plain bytes, each closed by its answer.
fn plain() -> Vec<(&'static str, u16, String)> {
    let get = |host: &str| format!("GET / HTTP/1.1\r\nHost: {host}.test\r\nConnection: close\r\n\r\n");
    let to_web = |target: &str, more: &str| {
        format!("GET {target} HTTP/1.1\r\nHost: web.test\r\n{more}Connection: close\r\n\r\n")
    };
    vec![
        ("bad_request", 400, "GET / HTTP/1.1\r\n\r\n".to_owned()),
        ("denied", 403, get("denied")),
        ("host_unknown", 404, get("nobody")),
        ("host_unowned", 404, get("unowned")),
        ("path_unmatched", 404, get("web")),
        ("body_too_large", 413, to_web("/app", "Content-Length: 1025\r\n")),
        (
            "uri_too_long",
            414,
            to_web(&format!("/app{}", "x".repeat(9_000)), ""),
        ),
        (
            "headers_too_large",
            431,
            to_web("/app", &format!("A: {}\r\n", "x".repeat(40_000))),
        ),
        ("route_invalid", 500, get("invalid")),
        ("not_implemented", 501, get("web").replace("GET", "TRACE")),
        ("upstream_refused", 502, get("refused")),
        ("upstream_reset", 502, get("reset")),
        ("upstream_protocol", 502, get("protocol")),
        ("upstream_tls", 502, get("tls")),
        ("service_missing", 503, get("missing")),
        ("port_missing", 503, get("port")),
        ("no_endpoints", 503, get("empty")),
        ("endpoints_not_ready", 503, get("cold")),
        ("connect_timeout", 504, get("silent")),
        ("response_timeout", 504, get("slow")),
        ("redirect_https", 308, get("secure")),
        ("redirect", 302, get("moved")),
    ]
}

#[test]
fn every_reason_code_has_its_status_is_told_in_the_header_and_counted() -> Done {
    let site = start()?;
    let agent = &site.agent;
    let mut given: BTreeSet<&str> = BTreeSet::new();
    for (reason, status, request) in plain() {
        let answer = exchange(agent.http, request)?;
        let told = format!("x-ingress-agent-reason: {reason}\r\n");
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")) && answer.contains(&told),
            "{reason}: {answer}"
        );
        given.insert(reason);
    }
    let misdirected = agent.ask(Request::get("https://private.test/")?.server_name("secure.test"))?;
    assert_eq!((misdirected.status, misdirected.reason()), (421, "misdirected"));
    let preflight = Request::get("http://cors.test/")?
        .method(Method::OPTIONS)
        .header("origin", "https://app.test")?
        .header("access-control-request-method", "PUT")?;
    let preflight = agent.ask(preflight)?;
    assert_eq!((preflight.status, preflight.reason()), (204, "cors_preflight"));
    let asked = site.web.requests();
    let mut leaving = RawClient::connect(agent.http)?;
    leaving.send("POST /app HTTP/1.1\r\nHost: web.test\r\nContent-Length: 100\r\n\r\nthe beginning")?;
    agent.wait_until("the backend has it", |_| Ok(site.web.requests() > asked))?;
    leaving.reset()?;
    given.extend(["misdirected", "cors_preflight", "client_closed"]);
    for reason in &given {
        let label = format!("reason=\"{reason}\"");
        let count = |agent: &TestAgent| agent.metric("ingress_agent_answers_total", &[&label]);
        agent.wait_until(&format!("{reason} is counted"), |agent| Ok(count(agent)? >= 1.0))?;
        assert_eq!(count(agent)?, 1.0, "{reason}");
    }
    let impatient = TestAgent::start_with(&site.manifests, &["--head-timeout", "3s"])?;
    let answer = exchange(impatient.http, "GET / HTTP/1.1\r\nHost:")?;
    assert!(
        answer.starts_with("HTTP/1.1 408 ") && answer.contains("x-ingress-agent-reason: request_timeout\r\n"),
        "{answer}"
    );
    let count = || impatient.metric("ingress_agent_answers_total", &["reason=\"request_timeout\""]);
    impatient.wait_until("it is counted", |_| Ok(count()? >= 1.0))?;
    assert_eq!(count()?, 1.0);
    given.extend(NEVER_GIVEN.iter().chain(OF_LIMITS).chain(OF_TIME));
    let all: BTreeSet<_> = Reason::ALL.iter().map(|reason| reason.code()).collect();
    assert_eq!(given, all);
    Ok(())
}

#[test]
fn what_is_refused_at_a_limit_on_connections_has_its_code_and_is_counted() -> Done {
    for (flag, status, reason, limit) in [
        ("--max-connections", 503, "overloaded", "total"),
        ("--max-connections-per-source", 429, "rate_limited", "source"),
    ] {
        let manifests = Manifests::new()?;
        let agent = TestAgent::start_with(manifests.our_class()?, &[flag, "1", "--workers", "1"])?;
        let mut holding = RawClient::connect(agent.http)?;
        holding.send("GET / HTTP/1.1\r\nHost: nobody.test\r\n\r\n")?;
        holding.read_until("\r\n\r\n")?;
        let answer = exchange(agent.http, "GET / HTTP/1.1\r\nHost: nobody.test\r\n\r\n")?;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")) && answer.contains(reason),
            "{flag}: {answer}"
        );
        // Nothing was read, so it counts as a connection, not as a request.
        let label = format!("limit=\"{limit}\"");
        let refused = |agent: &TestAgent| agent.metric("ingress_agent_connections_refused_total", &[&label]);
        agent.wait_until("it is counted", |agent| Ok(refused(agent)? >= 1.0))?;
        assert_eq!(refused(&agent)?, 1.0, "{reason}");
    }
    Ok(())
}
