//! What the kernel side saves and costs: connections of strangers, known clients beside a flood of strangers, and traffic that is served.
//!
//! Agent and backend are on a node, load and strangers on a client: two network namespaces of our own with a cable between them, which go with the
//! processes that hold them. What a program costs is what the kernel counts for it (`kernel.bpf_stats_enabled`, put back at the end).

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail, ensure};

use super::load::{self, Load, Measured};
use super::peers::{LOAD_CORE, Peer, Running, SERVER_CORE};
use super::site::{Ports, Site};
use super::{Bench, Case};
use crate::guard::Guarded;
use crate::workspace::{self, Profile};

const NODE: Ipv4Addr = Ipv4Addr::new(10, 78, 0, 2);
/// Strangers a second beside known clients.
const FLOOD: u32 = 2000;
/// SYNs a second of sources that do not exist: the queues of half-open connections are full in half a second.
const SYNS: u32 = 20_000;
const STATS: &str = "/proc/sys/kernel/bpf_stats_enabled";

pub(super) fn run(bench: &Bench<'_>) -> anyhow::Result<()> {
    let _stats = Stats::on()
        .context("--case kernel loads eBPF programs and makes network namespaces: it needs root")?;
    // The same for all, so its build does not matter.
    let strangers = workspace::build("ingress-tests", Profile::Dev)?.join("strangers");
    let net = Net::make()?;
    let site = Site::write(bench.options.hosts)?;
    let _backend = Running::of(
        Peer::Nginx,
        Ports {
            http: site.backend,
            https: site.backend,
            admin: 0,
        },
        &net.on_node(LOAD_CORE, "nginx", &["-c".into(), site.path("backend.conf")]),
    )?;
    let lab = Lab {
        bench,
        net,
        site,
        strangers,
    };
    println!(
        "\nEach pair of figures: the kernel side off, and on. Agent on core 0; load, strangers and backend on core 1.\n"
    );
    for kind in ["tls", "http"] {
        bench.part(kind, lab.strangers_alone(kind))?;
    }
    bench.part("a flood", lab.flood("tls", FLOOD, "strangers/s"))?;
    bench.part("a flood of SYNs", lab.flood("syn", SYNS, "SYNs/s"))?;
    bench.part("served traffic", lab.served())
}

struct Lab<'a> {
    bench: &'a Bench<'a>,
    net: Net,
    site: Site,
    strangers: PathBuf,
}

/// What the agent does in the kernel.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kernel {
    Off,
    /// Every hook, and strangers refused always.
    On,
}

impl Kernel {
    fn flags(self) -> &'static [&'static str] {
        match self {
            Self::Off => &["--kernel", "off"],
            Self::On => &[
                "--kernel",
                "on",
                "--kernel-interfaces",
                "node0",
                "--kernel-names",
                "on",
            ],
        }
    }
}

/// Microseconds a connection or request.
#[derive(Clone, Copy, Debug, Default)]
struct Cost {
    /// The agent's user and system time.
    agent: f64,
    /// The programs' own run time.
    programs: f64,
}

impl Lab<'_> {
    fn agent(&self, kernel: Kernel) -> anyhow::Result<Agent> {
        let run_dir = tempfile::tempdir()?;
        let mut arguments: Vec<PathBuf> =
            vec!["run".into(), "--manifests".into(), self.site.path("manifests")];
        arguments.extend(["--run-dir".into(), run_dir.path().to_owned()]);
        let (http, https) = (format!("{NODE}:80"), format!("{NODE}:443"));
        let plain = ["--http", &http, "--https", &https, "--admin", "127.0.0.1:9090"];
        let bench = ["--workers", "1", "--access-log", "off"];
        arguments.extend(
            plain
                .iter()
                .chain(&bench)
                .chain(kernel.flags())
                .map(PathBuf::from),
        );
        arguments.extend(self.bench.options.agent_flag.iter().map(PathBuf::from));
        let program = self.bench.programs.join("ingress-agent");
        let ports = Ports {
            http: 80,
            https: 443,
            admin: 9090,
        };
        let running = Running::of(
            Peer::Agent,
            ports,
            &self
                .net
                .on_node(SERVER_CORE, &program.to_string_lossy(), &arguments),
        )?;
        let agent = Agent {
            running,
            _run_dir: run_dir,
        };
        self.net.wait_for(&agent.running, 443)?;
        Ok(agent)
    }

    /// A stranger's cost to the agent when nobody else is there.
    fn strangers_alone(&self, kind: &str) -> anyhow::Result<()> {
        let (mut off, mut on) = (Vec::new(), Vec::new());
        for _ in 0..self.bench.options.rounds {
            for (kernel, costs) in [(Kernel::Off, &mut off), (Kernel::On, &mut on)] {
                self.bench.go_on()?;
                let agent = self.agent(kernel)?;
                let before = agent.spent()?;
                let (refused, answered) = self.visit(kind, 0)?.count()?;
                ensure!(
                    (answered == 0) == (kernel == Kernel::On),
                    "{refused} strangers were refused and {answered} answered"
                );
                costs.push(agent.spent()?.since(before, refused + answered));
            }
        }
        let (off, on) = (median(&off), median(&on));
        println!(
            "{:<44} {:>8.1} µs, {:>6.2} µs + {:.2} of programs: {:.3} of it{}",
            format!("a stranger by {kind}"),
            off.agent + off.programs,
            on.agent,
            on.programs,
            (on.agent + on.programs) / (off.agent + off.programs),
            if kind == "tls" { " (goal: 0.1)" } else { "" }
        );
        Ok(())
    }

    /// Known clients at half of what they could get, alone and beside a flood.
    fn flood(&self, kind: &str, flood: u32, what: &str) -> anyhow::Result<()> {
        for kernel in [Kernel::Off, Kernel::On] {
            let agent = self.agent(kernel)?;
            let full = Load {
                seconds: 1,
                ..self.bench.load(Case::Http1)
            };
            let rate = self.measure(full, &agent)?.per_second / 2.0;
            let half = Load {
                rate: Some(rate),
                ..self.bench.load(Case::Http1)
            };
            let (mut calm, mut flooded) = (Vec::new(), Vec::new());
            for _ in 0..self.bench.options.rounds {
                calm.push(self.measure(half, &agent)?);
                let visit = self.visit(kind, flood)?;
                flooded.push(self.measure(half, &agent)?);
                visit.count()?;
            }
            let (calm, flooded) = (Measured::median(&calm), Measured::median(&flooded));
            println!(
                "{:<44} {:>8.0} of {:.0} requests/s, p99 {} µs: {:.2} of calm (goal with it: 1.1)",
                format!(
                    "{flood} {what}, kernel side {}",
                    if kernel == Kernel::On { "on" } else { "off" }
                ),
                flooded.per_second,
                rate,
                flooded.p99,
                f64::from(flooded.p99) / f64::from(calm.p99)
            );
        }
        Ok(())
    }

    /// What all hooks together cost on a request that is served, on a connection that is kept.
    fn served(&self) -> anyhow::Result<()> {
        let (mut off, mut on) = (Vec::new(), Vec::new());
        for round in 0..self.bench.options.rounds {
            let mut both = [(Kernel::Off, &mut off), (Kernel::On, &mut on)];
            // Each is first as often as the other: a machine that gets slower or faster meanwhile counts against neither.
            if round % 2 == 1 {
                both.reverse();
            }
            for (kernel, costs) in both {
                costs.push(self.served_once(kernel)?);
            }
        }
        let (off, on) = (median(&off), median(&on));
        println!(
            "{:<44} {:>8.2} µs, {:>6.2} µs + {:.2} of programs: {:.3} of it (goal: 1.03)",
            "a served request",
            off.agent + off.programs,
            on.agent,
            on.programs,
            (on.agent + on.programs) / (off.agent + off.programs)
        );
        Ok(())
    }

    fn served_once(&self, kernel: Kernel) -> anyhow::Result<Cost> {
        let agent = self.agent(kernel)?;
        let before = agent.spent()?;
        let measured = self.measure(self.bench.load(Case::Http1), &agent)?;
        let requests = measured.per_second * f64::from(self.bench.options.seconds);
        Ok(Cost {
            agent: measured.cpu_micros,
            programs: (agent.spent()?.programs - before.programs) / requests,
        })
    }

    fn measure(&self, load: Load, agent: &Agent) -> anyhow::Result<Measured> {
        self.bench.go_on()?;
        load::measure_from(&self.net.enter_client(), NODE, load, &agent.running)
    }

    fn visit(&self, kind: &str, rate: u32) -> anyhow::Result<Visit> {
        let port = if kind == "tls" { 443 } else { 80 };
        let mut command = Command::new("nsenter");
        command
            .arg(self.net.enter_client())
            .args(["taskset", "-c", LOAD_CORE])
            .arg(&self.strangers)
            .arg(format!("{NODE}:{port}"))
            .args([kind, &self.bench.options.seconds.to_string(), &rate.to_string()]);
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
        Ok(Visit(child.context("start strangers")?))
    }
}

/// A running crowd of strangers; it ends by itself.
struct Visit(Child);

impl Visit {
    fn count(self) -> anyhow::Result<(u32, u32)> {
        let output = self.0.wait_with_output()?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let numbers: Vec<u32> = said
            .split_whitespace()
            .filter_map(|word| word.parse().ok())
            .collect();
        match numbers.as_slice() {
            [refused, answered] if refused + answered > 0 => Ok((*refused, *answered)),
            _ => bail!("strangers said {said:?}"),
        }
    }
}

struct Agent {
    running: Running,
    _run_dir: tempfile::TempDir,
}

/// Microseconds since the start.
#[derive(Clone, Copy)]
struct Spent {
    agent: f64,
    programs: f64,
}

impl Spent {
    fn since(self, before: Self, count: u32) -> Cost {
        Cost {
            agent: (self.agent - before.agent) / f64::from(count),
            programs: (self.programs - before.programs) / f64::from(count),
        }
    }
}

impl Agent {
    fn spent(&self) -> anyhow::Result<Spent> {
        #[expect(clippy::cast_precision_loss, reason = "microseconds of a short run")]
        let agent = self.running.cpu_micros()? as f64;
        Ok(Spent {
            agent,
            programs: self.programs_micros()?,
        })
    }

    /// Of every program that the agent holds, by its descriptors.
    fn programs_micros(&self) -> anyhow::Result<f64> {
        let mut programs = std::collections::BTreeMap::new();
        for entry in std::fs::read_dir(format!("/proc/{}/fdinfo", self.running.process_id()?))? {
            let info = std::fs::read_to_string(entry?.path()).unwrap_or_default();
            let field = |name: &str| {
                info.lines()
                    .find_map(|line| line.strip_prefix(name)?.trim().parse::<f64>().ok())
            };
            // The same program may be held twice.
            if let (Some(id), Some(nanos)) = (field("prog_id:"), field("run_time_ns:")) {
                programs.insert(format!("{id}"), nanos / 1000.0);
            }
        }
        Ok(programs.values().sum())
    }
}

fn median(costs: &[Cost]) -> Cost {
    let figure = |of: fn(&Cost) -> f64| {
        let mut all: Vec<f64> = costs.iter().map(of).collect();
        all.sort_by(f64::total_cmp);
        all.get(all.len() / 2).copied().unwrap_or(f64::NAN)
    };
    Cost {
        agent: figure(|cost| cost.agent),
        programs: figure(|cost| cost.programs),
    }
}

/// Two namespaces, each held by a process that does nothing else.
struct Net {
    node: Guarded,
    client: Guarded,
}

impl Net {
    fn make() -> anyhow::Result<Self> {
        let hold = || {
            let mut command = Command::new("unshare");
            command.args(["--net", "sleep", "infinity"]);
            Guarded::start(&command)
        };
        let net = Self {
            node: hold()?,
            client: hold()?,
        };
        let (node, client) = (held(&net.node)?, held(&net.client)?);
        let ip = |process: u32, lines: &[String]| -> anyhow::Result<()> {
            for line in lines {
                let done = Command::new("nsenter")
                    .arg(format!("--net=/proc/{process}/ns/net"))
                    .arg("ip")
                    .args(line.split(' '))
                    .status()?;
                ensure!(done.success(), "ip {line}");
            }
            Ok(())
        };
        ip(
            node,
            &[
                format!("link add node0 type veth peer name client0 netns {client}"),
                format!("addr add {NODE}/24 dev node0"),
                "link set lo up".into(),
                "link set node0 up".into(),
            ],
        )?;
        ip(
            client,
            &[
                "addr add 10.78.0.1/24 dev client0".into(),
                "link set lo up".into(),
                "link set client0 up".into(),
            ],
        )?;
        Ok(net)
    }

    fn on_node(&self, core: &str, program: &str, arguments: &[PathBuf]) -> Command {
        let mut command = Command::new("nsenter");
        let path = std::env::var("PATH").unwrap_or_default();
        // `held` was asked before; a holder that has ended meanwhile makes nsenter fail.
        let process = held(&self.node).unwrap_or_default();
        command
            .env("PATH", format!("{path}:/usr/sbin"))
            .arg(format!("--net=/proc/{process}/ns/net"))
            .args(["taskset", "-c", core, program])
            .args(arguments);
        command
    }

    fn enter_client(&self) -> String {
        format!("--net=/proc/{}/ns/net", held(&self.client).unwrap_or_default())
    }

    /// Until the client can connect.
    fn wait_for(&self, running: &Running, port: u16) -> anyhow::Result<()> {
        for _ in 0..600 {
            let script = format!("exec 3<>/dev/tcp/{NODE}/{port}");
            let connected = Command::new("nsenter")
                .arg(self.enter_client())
                .args(["bash", "-c", &script])
                .stderr(Stdio::null())
                .status()?;
            if connected.success() {
                return Ok(());
            }
            running.ensure_alive()?;
            std::thread::sleep(Duration::from_millis(50));
        }
        bail!("nobody listens on {NODE}:{port}")
    }
}

/// The process that the guard guards, once it is in its namespace.
fn held(guard: &Guarded) -> anyhow::Result<u32> {
    let own = std::fs::read_link("/proc/self/ns/net")?;
    for _ in 0..200 {
        if let Some(child) = guard.first_child()
            && std::fs::read_link(format!("/proc/{child}/ns/net")).is_ok_and(|theirs| theirs != own)
        {
            return Ok(child);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    bail!("no network namespace can be made here")
}

/// The kernel counts what programs take; put back as it was.
struct Stats(String);

impl Stats {
    fn on() -> anyhow::Result<Self> {
        let before = std::fs::read_to_string(STATS).context(STATS)?;
        std::fs::write(STATS, "1").context(STATS)?;
        Ok(Self(before))
    }
}

impl Drop for Stats {
    fn drop(&mut self) {
        let _ = std::fs::write(Path::new(STATS), self.0.trim());
    }
}
