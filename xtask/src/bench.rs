//! `cargo xtask bench`: the agent beside Debian's nginx and HAProxy, configured alike from one generated site.
//!
//! Each has one worker on one core; load and backend share the other. Rounds are interleaved, so that a noisy minute hits all alike;
//! what is printed is the median of the rounds.

mod ask;
mod changes;
mod cluster;
mod half_load;
mod hand_over;
mod idle;
mod instructions;
mod kernel;
mod load;
mod peers;
mod reload;
mod scale;
mod site;
mod websockets;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::bail;
use clap::ValueEnum;

use self::load::{Load, Measured};
use self::peers::{Peer, Running};
use self::site::Site;
use crate::interrupt::Interrupt;
use crate::workspace::{self, Profile};

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Hosts of the generated site, three paths each.
    #[arg(long, default_value_t = 100)]
    hosts: usize,
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Of load, for each case, peer and round.
    #[arg(long, default_value_t = 5)]
    seconds: u32,
    #[arg(long, default_value_t = 64)]
    connections: u32,
    /// Only these cases; repeatable. Those after not-found run only when they are named.
    #[arg(long, value_enum)]
    case: Vec<Case>,
    /// A further flag for `ingress-agent run`; repeatable. Printed as a difference from the defaults.
    #[arg(long, allow_hyphen_values = true)]
    agent_flag: Vec<String>,
    /// Use the agent's dev build: to try the bench, not to measure.
    #[arg(long)]
    dev: bool,
    /// Connections of `idle-tls`.
    #[arg(long, default_value_t = 2000)]
    idle: u32,
    /// A folder that holds a built ingress-agent, to measure another build than this one.
    #[arg(long, hide = true)]
    programs: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Case {
    Http1,
    Https,
    H2,
    NewTls,
    NotFound,
    /// 10,000 hosts against 100: start, memory, CPU, an added host, certificates (with `--hosts` under 1,000: 10,000).
    Scale,
    /// Memory of idle TLS connections, and whether it comes back.
    IdleTls,
    /// Latency at half of each server's own saturating rate.
    HalfLoad,
    /// Instructions a request, counted by valgrind: HTTP/1.1, 404, HTTPS and h2, of the agent alone.
    Instructions,
    /// Latency of the agent while 10 Ingresses and 1,000 endpoints a second change.
    Changes,
    /// The agent alone, on a real API server with 10,000 Ingresses, 1,000 Secrets and 100,000 endpoints.
    Cluster,
    /// Memory of the agent with 1,000 WebSockets, opened without a change and across 1,000 changes.
    Websockets,
    /// What the kernel side saves and costs; in network namespaces of its own, as root.
    Kernel,
    /// Time of a hand-over, and what a client sees of it, with and without sk_lookup; the latter as root.
    HandOver,
}

impl Case {
    fn title(self) -> &'static str {
        match self {
            Self::Http1 => "HTTP/1.1 keep-alive",
            Self::Https => "HTTPS keep-alive",
            Self::H2 => "h2 to HTTP/1.1",
            Self::NewTls => "new TLS connection",
            Self::NotFound => "404 of unmatched host",
            Self::Scale => "10,000 hosts",
            Self::IdleTls => "idle TLS connections",
            Self::HalfLoad => "half load",
            Self::Instructions => "instructions",
            Self::Changes => "half load with changes",
            Self::Cluster => "a large cluster",
            Self::Websockets => "1,000 WebSockets",
            Self::Kernel => "kernel side",
            Self::HandOver => "hand-over",
        }
    }

    /// Whether it is a plain load, compared in the one table.
    fn is_plain(self) -> bool {
        !matches!(
            self,
            Self::Scale
                | Self::IdleTls
                | Self::HalfLoad
                | Self::Changes
                | Self::Instructions
                | Self::Websockets
                | Self::Cluster
                | Self::Kernel
                | Self::HandOver
        )
    }
}

type Results = BTreeMap<(Case, Peer), Vec<Measured>>;

pub(crate) fn run(options: &Options) -> anyhow::Result<ExitCode> {
    let interrupt = Interrupt::catch()?;
    if options.case != [Case::Cluster] {
        ensure_programs()?;
    }
    let profile = if options.dev {
        Profile::Dev
    } else {
        Profile::Release
    };
    // Counted on a build of its own.
    let only_counts = options.case == [Case::Instructions];
    let programs = match &options.programs {
        _ if only_counts => PathBuf::new(),
        Some(folder) => folder.clone(),
        None => workspace::build("ingress-agent", profile)?,
    };
    let bench = Bench {
        options,
        programs,
        interrupt,
        interrupted: Cell::new(false),
    };
    let chosen = |case| options.case.contains(&case);
    if options.case.is_empty() || options.case.iter().any(|case| case.is_plain()) {
        bench.plain()?;
    }
    if chosen(Case::HalfLoad) {
        half_load::run(&bench)?;
    }
    if chosen(Case::Changes) {
        changes::run(&bench)?;
    }
    if chosen(Case::Instructions) {
        instructions::run(&bench)?;
    }
    if chosen(Case::IdleTls) {
        idle::run(&bench)?;
    }
    if chosen(Case::Websockets) {
        websockets::run(&bench)?;
    }
    if chosen(Case::Kernel) {
        kernel::run(&bench)?;
    }
    if chosen(Case::HandOver) {
        hand_over::run(&bench)?;
    }
    if chosen(Case::Scale) {
        scale::run(&bench)?;
    }
    if chosen(Case::Cluster) {
        cluster::run(&bench)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// What every case needs.
struct Bench<'a> {
    options: &'a Options,
    /// The folder of the agent under test.
    programs: PathBuf,
    interrupt: Interrupt,
    interrupted: Cell<bool>,
}

impl Bench<'_> {
    fn plain(&self) -> anyhow::Result<()> {
        let site = Site::write(self.options.hosts)?;
        let _backend = Running::backend(&site)?;
        let running = self.start_all(&site)?;
        explain(self.options);
        let mut results = Results::new();
        for round in 1..=self.options.rounds {
            for case in cases(self.options) {
                for server in &running {
                    let measured = self.measure(self.load(case), server)?;
                    println!(
                        "round {round}  {:<22} {:<8} {measured}",
                        case.title(),
                        server.peer.name()
                    );
                    results.entry((case, server.peer)).or_default().push(measured);
                }
            }
        }
        table(&results);
        Ok(())
    }

    fn start_all(&self, site: &Site) -> anyhow::Result<Vec<Running>> {
        let start = |peer| Running::start(peer, site, &self.programs, &self.options.agent_flag);
        Peer::ALL.into_iter().map(start).collect()
    }

    /// As much as the server answers.
    fn load(&self, case: Case) -> Load {
        Load {
            case,
            seconds: self.options.seconds,
            connections: self.options.connections,
            rate: None,
        }
    }

    fn measure(&self, load: Load, server: &Running) -> anyhow::Result<Measured> {
        self.go_on()?;
        load::measure(load, server)
    }

    /// An error once a signal has arrived; everything started ends on the way out.
    fn go_on(&self) -> anyhow::Result<()> {
        self.pause(Duration::ZERO)
    }

    fn pause(&self, time: Duration) -> anyhow::Result<()> {
        if self.interrupted.get() || self.interrupt.within(time) {
            self.interrupted.set(true);
            bail!("interrupted");
        }
        Ok(())
    }

    /// A part that fails is said to be not measured, and the others go on.
    fn part(&self, what: &str, result: anyhow::Result<()>) -> anyhow::Result<()> {
        if let Err(error) = result {
            self.go_on()?;
            println!("{what}: not measured: {error:#}");
        }
        Ok(())
    }
}

fn cases(options: &Options) -> Vec<Case> {
    let all = Case::value_variants().iter().copied();
    all.filter(|case| case.is_plain() && (options.case.is_empty() || options.case.contains(case)))
        .collect()
}

/// Installs what is missing when it may; says how otherwise.
fn ensure_programs() -> anyhow::Result<()> {
    let needed = [
        ("nginx", "nginx"),
        ("haproxy", "haproxy"),
        ("h2load", "nghttp2-client"),
        ("taskset", "util-linux"),
    ];
    let missing: Vec<_> = needed
        .iter()
        .filter(|(program, _)| !exists(program))
        .map(|(_, package)| *package)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    println!("Missing: {}; installing …", missing.join(", "));
    let installed = Command::new("apt-get")
        .args(["install", "--yes", "--no-install-recommends"])
        .args(&missing)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status();
    if !installed.is_ok_and(|status| status.success()) {
        bail!(
            "the bench needs these packages: apt-get install {}",
            missing.join(" ")
        );
    }
    Ok(())
}

fn exists(program: &str) -> bool {
    let found = Command::new("sh")
        .args(["-c", &format!("PATH=$PATH:/usr/sbin command -v {program}")])
        .stdout(Stdio::null())
        .status();
    found.is_ok_and(|status| status.success())
}

fn explain(options: &Options) {
    println!(
        "\nThe agent differs from its defaults by: --manifests, the three addresses, --workers 1, --access-log off"
    );
    if !options.agent_flag.is_empty() {
        println!("and, as asked: {}", options.agent_flag.join(" "));
    }
    println!(
        "nginx and HAProxy: one worker or thread, no access log, keep-alive to the backend. {} hosts × 3 paths.",
        options.hosts
    );
    println!("Servers on core 0; load and backend on core 1.\n");
}

/// The medians, and the agent's ratio to the better peer.
fn table(results: &Results) {
    println!(
        "\n{:<22} {:<8} {:>8} {:>7} {:>9} {:>8} {:>8} {:>8} {:>8}",
        "case", "server", "µs CPU", "ratio", "requests/s", "p50 µs", "p99 µs", "p99.9", "RSS MiB"
    );
    for (&(case, peer), rounds) in results {
        let median = Measured::median(rounds);
        println!(
            "{:<22} {:<8} {:>8.1} {:>7} {:>9.0} {:>8} {:>8} {:>8} {:>8.1}",
            case.title(),
            peer.name(),
            median.cpu_micros,
            ratio(results, case, peer).map_or(String::new(), |r| format!("{r:.2}")),
            median.per_second,
            median.p50,
            median.p99,
            median.p999,
            median.rss_mib
        );
    }
}

fn ratio(results: &Results, case: Case, peer: Peer) -> Option<f64> {
    let cpu = |peer| Some(Measured::median(results.get(&(case, peer))?).cpu_micros);
    let best = cpu(Peer::Nginx)?.min(cpu(Peer::Haproxy)?);
    (peer == Peer::Agent).then_some(cpu(peer)? / best)
}
