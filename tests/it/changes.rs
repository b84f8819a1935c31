//! Changes under traffic: a keep-alive client, an h2 client and a WebSocket are at it, and notice nothing but the change.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::Context;
use ingress_tests::raw::{RawBackend, Step};
use ingress_tests::{Answer, Certs, Echo, Ingress, KeptConnection, KeptWebSocket, Request, Site, TestAgent};
use serde_json::Value;

use crate::Done;

/// Three clients that never let go of their connections.
struct Clients {
    http1: KeptConnection,
    http2: KeptConnection,
    websocket: KeptWebSocket,
}

const URL: &str = "https://web.test/";

impl Clients {
    fn open(agent: &TestAgent) -> anyhow::Result<Self> {
        Ok(Self {
            http1: KeptConnection::open(&Request::get(URL)?, agent.https)?,
            http2: KeptConnection::open(&Request::get(URL)?.h2(), agent.https)?,
            websocket: KeptWebSocket::open(Request::get(URL)?, agent.https)?,
        })
    }

    /// One request each. Whatever is not 200, and a connection that was closed, fails the test.
    fn ask(&mut self) -> anyhow::Result<[Answer; 2]> {
        let answers = [
            self.http1.ask(Request::get(URL)?)?,
            self.http2.ask(Request::get(URL)?.h2())?,
        ];
        for answer in &answers {
            assert_eq!(answer.status, 200, "{answer:?}");
        }
        assert_eq!(self.websocket.echo("still there")?, "still there");
        Ok(answers)
    }

    /// Goes on asking until both clients get what is wanted, and a little longer.
    fn ask_until(&mut self, agent: &TestAgent, what: &str, wanted: impl Fn(&Answer) -> bool) -> Done {
        agent.wait_until(what, |_| Ok(self.ask()?.iter().all(&wanted)))?;
        for _ in 0..20 {
            assert!(self.ask()?.iter().all(&wanted), "{what}, and it stays so");
        }
        Ok(())
    }
}

fn ingress(service: &str) -> Ingress {
    Ingress::new("web")
        .tls(&["web.test"], "tls")
        .host("web.test")
        .prefix("/", service)
}

fn site() -> anyhow::Result<(Site, Certs)> {
    let (site, certs) = (Site::new(&[ingress("web")])?, Certs::new()?);
    site.manifests.tls_secret("tls", &certs.leaf(&["web.test"])?)?;
    Ok((site, certs))
}

#[test]
fn a_changed_route_takes_effect_without_closing_a_connection_or_failing_a_request() -> Done {
    let (mut site, _certs) = site()?;
    site.service("other")?;
    let agent = site.start()?;
    let mut clients = Clients::open(&agent)?;
    for (service, backend) in [("other", "other"), ("web", "web"), ("other", "other")] {
        site.manifests.ingress(&ingress(service))?;
        clients.ask_until(&agent, service, |answer| answer.backend() == backend)?;
    }
    Ok(())
}

#[test]
fn a_changed_annotation_takes_effect_without_closing_a_connection_or_failing_a_request() -> Done {
    let (site, _certs) = site()?;
    let agent = site.start()?;
    let mut clients = Clients::open(&agent)?;
    site.manifests
        .ingress(&ingress("web").annotation("upstream-vhost", "inner.test"))?;
    clients.ask_until(&agent, "the new Host", |answer| {
        answer.seen()["host"] == "inner.test"
    })
}

#[test]
fn a_changed_class_takes_effect_without_closing_a_connection_or_failing_a_request() -> Done {
    let (mut site, _certs) = site()?;
    site.service("other")?;
    site.manifests
        .class("mine", "ingress-agent.io/controller", false)?;
    site.manifests.ingress(
        &Ingress::new("0-other")
            .class("theirs")
            .host("web.test")
            .prefix("/", "other"),
    )?;
    let agent = site.start()?;
    let mut clients = Clients::open(&agent)?;
    clients.ask()?;
    // The other Ingress becomes ours by its class; the first one by name has the path from then on.
    site.manifests
        .class("theirs", "ingress-agent.io/controller", false)?;
    clients.ask_until(&agent, "the adopted one", |answer| answer.backend() == "other")?;
    site.manifests.class("theirs", "example.com/other", false)?;
    clients.ask_until(&agent, "the first one", |answer| answer.backend() == "web")
}

#[test]
fn changed_endpoints_take_effect_without_closing_a_connection_or_failing_a_request() -> Done {
    let (site, _certs) = site()?;
    let agent = site.start()?;
    let mut clients = Clients::open(&agent)?;
    let old = site.backend("web")?.address();
    let new = Echo::start("new")?;
    site.manifests.endpoints("web", &[old, new.address()])?;
    agent.wait_until("the new endpoint is asked", |_| {
        clients.ask()?;
        Ok(new.requests() > 0)
    })?;
    site.manifests.endpoints("web", &[new.address()])?;
    clients.ask_until(&agent, "the new endpoint alone", |answer| {
        answer.backend() == "new"
    })
}

#[test]
fn a_changed_certificate_takes_effect_without_closing_a_connection_or_failing_a_request() -> Done {
    let (site, certs) = site()?;
    let agent = site.start()?;
    let mut clients = Clients::open(&agent)?;
    let before = agent.get(URL)?.tls;
    site.manifests
        .tls_secret("tls", &certs.leaf(&["web.test", "new.test"])?)?;
    agent.wait_until("the new certificate", |agent| {
        clients.ask()?;
        Ok(agent.get(URL)?.certificate_names.len() == 2)
    })?;
    assert_ne!(agent.get(URL)?.tls, before);
    clients.ask()?;
    Ok(())
}

#[test]
fn a_change_that_does_not_concern_a_backend_opens_no_new_connection_to_it() -> Done {
    let (mut site, certs) = site()?;
    site.service("other")?;
    let agent = site.start()?;
    // An idle connection is given up after a while, so none may idle during the test.
    let mut clients = Clients::open(&agent)?;
    clients.ask()?;
    let before = site.backend("web")?.connections();
    let generation = agent.generation()?;
    site.manifests
        .ingress(&Ingress::new("other").host("other.test").prefix("/", "other"))?;
    agent.wait_until("the other route", |agent| {
        clients.ask()?;
        Ok(agent.get("http://other.test/")?.backend() == "other")
    })?;
    site.manifests.tls_secret("tls", &certs.leaf(&["web.test"])?)?;
    site.manifests.endpoints("other", &[])?;
    agent.wait_until("the other's endpoints are gone", |agent| {
        clients.ask()?;
        Ok(agent.get("http://other.test/")?.status == 503)
    })?;
    site.manifests
        .ingress(&ingress("web").annotation("x-forwarded-prefix", "/new"))?;
    clients.ask_until(&agent, "its own new annotation", |answer| {
        answer.seen()["headers"]["x-forwarded-prefix"][0] == "/new"
    })?;
    assert!(agent.generation()? > generation);
    assert_eq!(site.backend("web")?.connections(), before);
    Ok(())
}

/// Of the endpoint at this address, as `/config` shows it: its latency in milliseconds, and for how many seconds it is ejected.
fn learnt(agent: &TestAgent, address: SocketAddr) -> anyhow::Result<(Option<f64>, Option<f64>)> {
    let page: Value = serde_json::from_slice(&agent.admin("/config")?.body)?;
    let clusters = page["clusters"].as_array().context("no clusters")?;
    let mut endpoints = clusters
        .iter()
        .filter_map(|c| c["endpoints"].as_array())
        .flatten();
    let line = endpoints
        .find(|line| line.to_string().contains(&address.to_string()))
        .with_context(|| format!("no endpoint {address} in {page:#}"))?;
    Ok((line["latency_ms"].as_f64(), line["ejected_seconds"].as_f64()))
}

#[test]
fn a_change_forgets_neither_latency_nor_ejection() -> Done {
    let plain = || Ingress::new("web").host("web.test").prefix("/", "web");
    let mut site = Site::new(&[plain()])?;
    site.service("other")?;
    let bad = RawBackend::scripted(vec![Step::Expect(b"\r\n\r\n".to_vec()), Step::Reset])?;
    let good = site.backend("web")?.address();
    site.manifests.endpoints("web", &[good, bad.address()])?;
    let agent = site.start()?;
    let ejected = Instant::now();
    agent.wait_until("the one that fails is ejected", |agent| {
        agent.get("http://web.test/")?;
        Ok(agent.metric("ingress_agent_upstream_ejections_total", &[])? >= 1.0)
    })?;
    let (latency, _) = learnt(&agent, good)?;
    assert!(latency.is_some());
    let more = Echo::start("more")?;
    let changes: [&dyn Fn() -> std::io::Result<()>; 3] = [
        &|| {
            let other = Ingress::new("other").host("other.test").prefix("/", "other");
            site.manifests.ingress(&other).map(drop)
        },
        &|| {
            let own = plain().annotation("upstream-vhost", "inner.test");
            site.manifests.ingress(&own).map(drop)
        },
        &|| {
            let all = [good, bad.address(), more.address()];
            site.manifests.endpoints("web", &all).map(drop)
        },
    ];
    let mut left = f64::INFINITY;
    for (change, what) in changes
        .into_iter()
        .zip(["another route", "its own route", "another endpoint"])
    {
        let generation = agent.generation()?;
        change()?;
        // Endpoints have a lane of their own, without a generation.
        agent.wait_until(what, |agent| {
            Ok(agent.generation()? > generation || learnt(agent, more.address()).is_ok())
        })?;
        // Nobody asked in between, so nothing was learnt anew.
        assert!(
            learnt(&agent, good)?.0.is_some(),
            "{what}: its latency is forgotten"
        );
        let (_, still) = learnt(&agent, bad.address())?;
        // The first ejection lasts ten seconds; a slow machine does not come so far.
        if ejected.elapsed() < Duration::from_secs(10) {
            let still = still.with_context(|| format!("{what}: its ejection is forgotten"))?;
            assert!(still < left, "{what}: it began anew");
            left = still;
        }
    }
    Ok(())
}

#[test]
fn a_change_forgets_no_stickiness() -> Done {
    let sticky = || {
        ingress("web")
            .annotation("affinity", "cookie")
            .annotation("ssl-redirect", "false")
    };
    let site = Site::new(&[sticky()])?;
    let echoes = [Echo::start("a")?, Echo::start("b")?, Echo::start("c")?];
    site.manifests
        .endpoints("web", &echoes.each_ref().map(Echo::address))?;
    let agent = site.start()?;
    let first = agent.get("http://web.test/")?;
    let cookie = first
        .header("set-cookie")
        .split(';')
        .next()
        .unwrap_or_default()
        .to_owned();
    site.manifests
        .ingress(&sticky().annotation("upstream-vhost", "inner.test"))?;
    let ask = || agent.ask(Request::get("http://web.test/")?.header("cookie", &cookie)?);
    agent.wait_until("the change", |_| Ok(ask()?.seen()["host"] == "inner.test"))?;
    for _ in 0..10 {
        assert_eq!(ask()?.served_by(), first.backend());
    }
    Ok(())
}
