//! One site as the protocol tests want it: a host with the backend under test, a second host that shows that the agent is well.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use ingress_tests::raw::{self, RawClient};
use ingress_tests::{Certs, Echo, Ingress, Manifests, TestAgent};

/// The host whose backend is under test.
pub(crate) const HOST: &str = "site.test";

pub(crate) struct Site {
    pub(crate) agent: TestAgent,
    pub(crate) manifests: Manifests,
    pub(crate) authority: String,
    annotations: Vec<(String, String)>,
    healthy: Echo,
}

impl Site {
    pub(crate) fn new(backends: &[SocketAddr]) -> Self {
        Self::with(backends, &[], &[])
    }

    pub(crate) fn with(backends: &[SocketAddr], annotations: &[(&str, &str)], flags: &[&str]) -> Self {
        let certs = Certs::new().unwrap();
        let healthy = Echo::start("healthy").unwrap();
        let manifests = Manifests::new().unwrap();
        manifests.our_class().unwrap();
        manifests.service("site", backends).unwrap();
        manifests.service("healthy", &[healthy.address()]).unwrap();
        manifests
            .tls_secret("site-tls", &certs.leaf(&[HOST]).unwrap())
            .unwrap();
        let annotations: Vec<_> = [("ssl-redirect", "false")]
            .iter()
            .chain(annotations)
            .map(|&(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        manifests.ingress(&ingress(&annotations)).unwrap();
        manifests
            .ingress(
                &Ingress::new("healthy")
                    .host("healthy.test")
                    .prefix("/", "healthy"),
            )
            .unwrap();
        Self {
            agent: TestAgent::start_with(&manifests, flags).unwrap(),
            authority: certs.authority_pem(),
            manifests,
            annotations,
            healthy,
        }
    }

    /// Sends these bytes, ends our side, and gives everything that comes back.
    pub(crate) fn exchange(&self, bytes: impl AsRef<[u8]>) -> String {
        let mut client = RawClient::connect(self.agent.http).unwrap();
        client.send(bytes).unwrap();
        client.half_close().unwrap();
        String::from_utf8_lossy(&client.read_to_end().unwrap()).into_owned()
    }

    pub(crate) fn client(&self) -> RawClient {
        RawClient::connect(self.agent.http).unwrap()
    }

    /// The Ingress changes in a way that concerns the site's own host; returns when the change is in force.
    pub(crate) fn change_config(&self) {
        let before = self.metric("ingress_agent_config_generation");
        let mut annotations = self.annotations.clone();
        annotations.push(("proxy-connect-timeout".into(), format!("{}", 10.0 + before)));
        self.manifests
            .ingress(&ingress(&annotations).exact("/added", "healthy"))
            .unwrap();
        wait("the change is in force", || {
            self.metric("ingress_agent_config_generation") > before
        });
    }

    /// Whatever was done to it: it answers, and no connection is left open.
    pub(crate) fn assert_well(&self) {
        let answer = self.agent.get("http://healthy.test/well").unwrap();
        assert_eq!((answer.status, answer.backend()), (200, "healthy"));
        assert!(self.healthy.requests() > 0);
        wait("every client connection is gone", || {
            self.metric("ingress_agent_connections") == 0.0
        });
    }

    /// The sum of a metric's samples.
    pub(crate) fn metric(&self, name: &str) -> f64 {
        self.metric_where(name, "")
    }

    /// The sum of the samples whose line contains `label`.
    pub(crate) fn metric_where(&self, name: &str, label: &str) -> f64 {
        let page = self.agent.metrics().unwrap();
        page.lines()
            .filter(|line| line.split(['{', ' ']).next() == Some(name) && line.contains(label))
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum()
    }
}

fn ingress(annotations: &[(String, String)]) -> Ingress {
    let ingress = Ingress::new("site")
        .tls(&[HOST], "site-tls")
        .host(HOST)
        .prefix("/", "site");
    annotations
        .iter()
        .fold(ingress, |ingress, (name, value)| ingress.annotation(name, value))
}

/// Until `is_so`; fails at the deadline.
pub(crate) fn wait(what: &str, is_so: impl Fn() -> bool) {
    let until = Instant::now() + raw::DEADLINE;
    while !is_so() {
        assert!(Instant::now() < until, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The status lines of the answers in `text`.
pub(crate) fn statuses(text: &str) -> Vec<u16> {
    text.match_indices("HTTP/1.")
        .filter_map(|(at, _)| text.get(at + 9..at + 12)?.parse().ok())
        .collect()
}

/// The answer is the agent's own, with this status and reason, and the only one.
#[track_caller]
pub(crate) fn assert_refused(answer: &str, status: u16, reason: &str, case: &str) {
    assert_eq!(statuses(answer), [status], "{case}: {answer:?}");
    let header = format!("x-ingress-agent-reason: {reason}\r\n");
    assert!(answer.contains(&header), "{case}: {answer:?}");
}
