//! A running agent on free loopback ports, serving a folder of manifests.
//!
//! It runs in the test's own process, on ports that the kernel chose.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use ingress_agent::app::{self, Running};
use ingress_agent::config::Config;

use crate::client::{Answer, Request};
use crate::manifests::Manifests;

/// Long enough for a machine that is ten times slower than it should be; reached only by a failing test.
const READY_WITHIN: Duration = Duration::from_secs(90);
/// Between two looks at something that has no event to wait for.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// An agent that is ready; ended when dropped.
pub struct TestAgent {
    pub http: SocketAddr,
    pub https: SocketAddr,
    pub admin: SocketAddr,
    running: Option<Running>,
}

impl TestAgent {
    /// Starts an agent on these manifests and waits until `/readyz` says 200.
    pub fn start(manifests: &Manifests) -> anyhow::Result<Self> {
        Self::start_with(manifests, &[])
    }

    /// The same with more flags of `ingress-agent run`.
    pub fn start_with(manifests: &Manifests, flags: &[&str]) -> anyhow::Result<Self> {
        Self::start_on(manifests.path(), flags)
    }

    /// The same on any folder.
    pub fn start_on(folder: &Path, flags: &[&str]) -> anyhow::Result<Self> {
        Self::start_from(&["--manifests".into(), folder.into()], flags)
    }

    /// Served from a cluster in place of a folder.
    pub fn start_in_cluster(kubeconfig: &Path, flags: &[&str]) -> anyhow::Result<Self> {
        Self::start_from(&["--kubeconfig".into(), kubeconfig.into()], flags)
    }

    fn start_from(source: &[OsString], flags: &[&str]) -> anyhow::Result<Self> {
        let agent = launch(source, flags)?;
        agent.wait_until_ready()?;
        Ok(agent)
    }

    /// Asks for a URL, at the plain or the TLS port by its scheme.
    pub fn get(&self, url: &str) -> anyhow::Result<Answer> {
        self.ask(Request::get(url)?)
    }

    pub fn ask(&self, request: Request) -> anyhow::Result<Answer> {
        let is_tls = request.uri.scheme_str() == Some("https");
        request.ask(if is_tls { self.https } else { self.http })
    }

    /// A page of the admin address, such as `/metrics`.
    pub fn admin(&self, path: &str) -> anyhow::Result<Answer> {
        Request::get(&format!("http://{}{path}", self.admin))?.ask(self.admin)
    }

    /// Asks again until the answer is what is wanted: for changes, which take effect within a bound, not at once.
    pub fn get_until(&self, url: &str, wanted: impl Fn(&Answer) -> bool) -> anyhow::Result<Answer> {
        let until = Instant::now() + READY_WITHIN;
        loop {
            let answer = self.get(url);
            match answer {
                Ok(answer) if wanted(&answer) => return Ok(answer),
                last if Instant::now() > until => bail!("{url}: not as wanted in time; last: {last:?}"),
                _ => std::thread::sleep(LOOK_AGAIN),
            }
        }
    }

    /// What the agent says is wrong with objects, once what is wanted is among it.
    pub fn diagnostic(&self, object: &str, reason: &str) -> anyhow::Result<String> {
        let until = Instant::now() + READY_WITHIN;
        loop {
            let all = self.diagnostics()?;
            let wanted = |(found, why, _): &&(String, String, String)| found == object && why == reason;
            if let Some((_, _, message)) = all.iter().find(wanted) {
                return Ok(message.clone());
            }
            if Instant::now() > until {
                bail!("no {reason} on {object}; there is: {all:#?}");
            }
            std::thread::sleep(LOOK_AGAIN);
        }
    }

    /// All that the agent says is wrong: object (`Ingress shop/web`), reason, field and message.
    pub fn diagnostics(&self) -> anyhow::Result<Vec<(String, String, String)>> {
        let page: Vec<serde_json::Value> = serde_json::from_slice(&self.admin("/diagnostics")?.body)?;
        let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
        let one = |d: &serde_json::Value| {
            let (kind, namespace, name) = (
                text(&d["object"]["kind"]),
                text(&d["object"]["namespace"]),
                text(&d["object"]["name"]),
            );
            let place = if namespace.is_empty() {
                name
            } else {
                format!("{namespace}/{name}")
            };
            let message = format!("{}: {}", text(&d["field"]), text(&d["message"]));
            (format!("{kind} {place}"), text(&d["reason"]), message)
        };
        Ok(page.iter().map(one).collect())
    }

    /// `/metrics` with the numbers of every worker: a page goes out without those of a worker that says nothing for a second.
    pub fn metrics(&self) -> anyhow::Result<String> {
        let until = Instant::now() + READY_WITHIN;
        let is_stalled =
            |line: &str| line.starts_with("ingress_agent_worker_stalled{") && line.ends_with(" 1");
        loop {
            let page = self.admin("/metrics")?.text();
            if !page.lines().any(is_stalled) {
                return Ok(page);
            }
            if Instant::now() > until {
                bail!("a worker says nothing:\n{page}");
            }
        }
    }

    /// The sum of a metric's samples whose labels contain all of these, each as `name="value"`.
    pub fn metric(&self, name: &str, labels: &[&str]) -> anyhow::Result<f64> {
        let page = self.metrics()?;
        let mut sum = 0.0;
        for line in page.lines().filter(|line| !line.starts_with('#')) {
            let (series, value) = line.rsplit_once(' ').unwrap_or_default();
            let found = series.split('{').next() == Some(name);
            if found && labels.iter().all(|label| series.contains(label)) {
                sum += value.parse::<f64>()?;
            }
        }
        Ok(sum)
    }

    /// Looks again until it is so.
    pub fn wait_until(
        &self,
        what: &str,
        mut so: impl FnMut(&Self) -> anyhow::Result<bool>,
    ) -> anyhow::Result<()> {
        let until = Instant::now() + READY_WITHIN;
        while !so(self)? {
            if Instant::now() > until {
                bail!("not within {READY_WITHIN:?}: {what}");
            }
            std::thread::sleep(LOOK_AGAIN);
        }
        Ok(())
    }

    /// Counts the changes that took effect.
    pub fn generation(&self) -> anyhow::Result<u64> {
        let page: serde_json::Value = serde_json::from_slice(&self.admin("/config")?.body)?;
        page["generation"].as_u64().context("no generation in /config")
    }

    fn wait_until_ready(&self) -> anyhow::Result<()> {
        let until = Instant::now() + READY_WITHIN;
        while !self.admin("/readyz").is_ok_and(|a| a.status == 200) {
            if Instant::now() > until {
                bail!("the agent was not ready within {READY_WITHIN:?}");
            }
            std::thread::sleep(LOOK_AGAIN);
        }
        Ok(())
    }
}

impl TestAgent {
    /// Ends as on SIGTERM: drains, then returns.
    pub fn shutdown(mut self) {
        self.end();
    }

    fn end(&mut self) {
        if let Some(running) = self.running.take() {
            running.shutdown();
        }
    }
}

impl Drop for TestAgent {
    fn drop(&mut self) {
        self.end();
    }
}

/// Starts the agent; flags given later win over these.
fn launch(source: &[OsString], flags: &[&str]) -> anyhow::Result<TestAgent> {
    let mut args = source.to_vec();
    let port_0 = |flag| [flag, "127.0.0.1:0"];
    let given = |flag: &&[&str; 2]| !flags.contains(&flag[0]);
    let defaults = [
        port_0("--http"),
        port_0("--https"),
        port_0("--admin"),
        ["--workers", "2"],
        ["--access-log", "off"],
        ["--drain-timeout", "2s"],
        // So that it is the test, and not the pace of the machine, that decides whether a connection is used again.
        ["--upstream-idle-timeout", "60s"],
        // What needs rights on the node, tests/kernel shows.
        ["--kernel", "off"],
    ];
    args.extend(defaults.iter().filter(given).flatten().map(Into::into));
    args.extend(flags.iter().map(Into::into));
    let running = app::start(Config::from_args(args)?)?;
    let first = |addresses: &[SocketAddr]| addresses.first().copied().context("no listener");
    Ok(TestAgent {
        http: first(&running.http)?,
        https: first(&running.https)?,
        admin: running.admin.context("no admin address")?,
        running: Some(running),
    })
}
