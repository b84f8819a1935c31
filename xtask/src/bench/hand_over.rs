//! How long a hand-over takes: from the start of the new agent until it answers every new connection, and the longest wait that a client sees meanwhile.
//!
//! Old and new agent redirect to different places, so that each answer tells whose it is. On loopback; one connection after the other, none tried twice.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};

use super::Bench;
use crate::guard::Guarded;

const PATIENCE: Duration = Duration::from_secs(60);
/// New connections before a hand-over begins, whose longest answer is what a client waits anyway.
const CALM: usize = 2000;
/// Answers of the new agent, one after the other, after which none of the old one is expected.
const SETTLED: usize = 2000;

/// How new connections get to the agent that is to have them.
#[derive(Clone, Copy)]
enum Way {
    Steering,
    Sockets,
}

impl Way {
    fn title(self) -> &'static str {
        match self {
            Self::Steering => "by sk_lookup",
            Self::Sockets => "by passed sockets",
        }
    }

    fn flags(self) -> &'static [&'static str] {
        match self {
            Self::Steering => &[
                "--kernel-steering",
                "on",
                "--kernel-rejection",
                "off",
                "--kernel-accounting",
                "off",
            ],
            Self::Sockets => &["--kernel", "off"],
        }
    }
}

/// One hand-over, as a client sees it.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    /// From the start of the process to its first answer.
    first: Duration,
    /// To the last answer of the old agent.
    all: Duration,
    calm: Duration,
    longest: Duration,
    failed: usize,
}

pub(super) fn run(bench: &Bench<'_>) -> anyhow::Result<()> {
    println!("\nHand-over, of an agent with one route; new connections one after the other:");
    for way in [Way::Sockets, Way::Steering] {
        bench.part(way.title(), measure(bench, way))?;
    }
    Ok(())
}

fn measure(bench: &Bench<'_>, way: Way) -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let sites = ["old", "new"].map(|name| site(folder.path(), name));
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
    let mut rounds = Vec::new();
    for _ in 0..bench.options.rounds.max(1) {
        bench.go_on()?;
        // Both end with the round.
        let start = |site: &anyhow::Result<std::path::PathBuf>| -> anyhow::Result<Guarded> {
            let site = site.as_ref().map_err(|error| anyhow::anyhow!("{error:#}"))?;
            let mut command = Command::new(bench.programs.join("ingress-agent"));
            command
                .args([
                    "run",
                    "--access-log",
                    "off",
                    "--log-level",
                    "error",
                    "--https",
                    "off",
                ])
                .args(["--admin", "127.0.0.1:0", "--hand-over-overlap", "200ms"])
                .args(["--http", &port.to_string(), "--manifests"])
                .arg(site)
                .arg("--run-dir")
                .arg(folder.path())
                .args(way.flags());
            Guarded::start(&command)
        };
        let _old = start(&sites[0])?;
        wait_for(port)?;
        rounds.push(watch(port, || start(&sites[1]))?);
    }
    let median = |of: fn(&Seen) -> Duration| {
        let mut all: Vec<_> = rounds.iter().map(of).collect();
        all.sort_unstable();
        all.get(all.len() / 2).copied().unwrap_or_default()
    };
    println!(
        "{:<20} first answer after {:>6.1?}, all after {:>6.1?}; longest answer {:>6.1?} (calm {:>6.1?}); {} failed",
        way.title(),
        median(|seen| seen.first),
        median(|seen| seen.all),
        median(|seen| seen.longest),
        median(|seen| seen.calm),
        rounds.iter().map(|seen| seen.failed).sum::<usize>()
    );
    Ok(())
}

/// A folder of manifests whose one route redirects to a host of its name.
fn site(folder: &Path, name: &str) -> anyhow::Result<std::path::PathBuf> {
    let path = folder.join(name);
    std::fs::create_dir(&path)?;
    let manifest = format!(
        "apiVersion: networking.k8s.io/v1
kind: IngressClass
metadata: {{name: ingress-agent}}
spec: {{controller: ingress-agent.io/controller}}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {{name: web, annotations: {{ingress-agent.io/temporal-redirect: \"https://{name}.test/\"}}}}
spec:
  ingressClassName: ingress-agent
  rules:
  - host: web.test
    http: {{paths: [{{path: /, pathType: Prefix, backend: {{service: {{name: web, port: {{number: 80}}}}}}}}]}}
"
    );
    std::fs::write(path.join("site.yaml"), manifest)?;
    Ok(path)
}

/// Whether the new agent has answered.
fn ask(port: SocketAddr) -> anyhow::Result<bool> {
    let mut stream = TcpStream::connect(port)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: web.test\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    match answer {
        answer if answer.contains("https://new.test/") => Ok(true),
        answer if answer.contains("https://old.test/") => Ok(false),
        answer => bail!("neither agent says {answer:?}"),
    }
}

fn wait_for(port: SocketAddr) -> anyhow::Result<()> {
    let until = Instant::now() + PATIENCE;
    while ask(port).is_err() {
        ensure!(Instant::now() < until, "no agent serves {port}");
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

fn watch(port: SocketAddr, start: impl FnOnce() -> anyhow::Result<Guarded>) -> anyhow::Result<Seen> {
    let mut seen = Seen::default();
    for _ in 0..CALM {
        let begun = Instant::now();
        ensure!(!ask(port)?, "the new agent answers before it was started");
        seen.calm = seen.calm.max(begun.elapsed());
    }
    let started = Instant::now();
    let _new = start().context("start the new agent")?;
    let mut settled = 0;
    while settled < SETTLED {
        ensure!(started.elapsed() < PATIENCE, "the new agent does not take over");
        let begun = Instant::now();
        match ask(port) {
            Ok(true) if settled == 0 && seen.first.is_zero() => seen.first = started.elapsed(),
            Ok(true) => {}
            Ok(false) => seen.all = started.elapsed(),
            Err(_) => seen.failed += 1,
        }
        settled = if seen.first.is_zero() { 0 } else { settled + 1 };
        seen.longest = seen.longest.max(begun.elapsed());
    }
    Ok(seen)
}
