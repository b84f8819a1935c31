//! Starts the servers of the bench, each pinned to its core, and reads what the kernel counts for them.

use std::ffi::OsString;
use std::net::{Ipv4Addr, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use super::site::{Ports, Site};
use crate::demo;
use crate::guard::Guarded;

/// The load and the backend are on [`LOAD_CORE`].
pub(crate) const SERVER_CORE: &str = "0";
pub(crate) const LOAD_CORE: &str = "1";
const UP_WITHIN: Duration = Duration::from_mins(2);
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// `sysconf(_SC_CLK_TCK)` is 100 on every Linux that Rust supports.
const MICROS_PER_TICK: u64 = 10_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Peer {
    Nginx,
    Haproxy,
    Agent,
}

impl Peer {
    pub(crate) const ALL: [Self; 3] = [Self::Nginx, Self::Haproxy, Self::Agent];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Nginx => "nginx",
            Self::Haproxy => "haproxy",
            Self::Agent => "agent",
        }
    }
}

/// Where a server runs, with a worker on each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cores {
    One,
    /// Shared with load and backend: only for figures that are no CPU time.
    Both,
}

impl Cores {
    fn list(self) -> &'static str {
        match self {
            Self::One => SERVER_CORE,
            Self::Both => "0,1",
        }
    }

    fn workers(self) -> &'static str {
        match self {
            Self::One => "1",
            Self::Both => "2",
        }
    }
}

/// A server under load; ended when dropped.
pub(crate) struct Running {
    pub(crate) peer: Peer,
    pub(crate) ports: Ports,
    guarded: Guarded,
}

impl Running {
    /// Starts it on one core and waits until it serves.
    pub(crate) fn start(
        peer: Peer,
        site: &Site,
        programs: &Path,
        agent_flags: &[String],
    ) -> anyhow::Result<Self> {
        let begin = Instant::now();
        let running = Self::spawn(peer, Cores::One, site, programs, agent_flags)?;
        running.wait_for_port(running.ports.http)?;
        running.wait_for_port(running.ports.https)?;
        if peer == Peer::Agent {
            running.wait_until_ready()?;
        }
        println!(
            "{} serves after {:.2} s",
            peer.name(),
            begin.elapsed().as_secs_f32()
        );
        Ok(running)
    }

    /// Starts it and waits for nothing.
    pub(crate) fn spawn(
        peer: Peer,
        cores: Cores,
        site: &Site,
        programs: &Path,
        agent_flags: &[String],
    ) -> anyhow::Result<Self> {
        let mut command = pinned(cores.list());
        let ports = match peer {
            Peer::Nginx => {
                command.arg("nginx").arg("-c").arg(site.path("nginx.conf"));
                site.nginx
            }
            Peer::Haproxy => {
                command
                    .args(["haproxy", "-db", "-f"])
                    .arg(site.path("haproxy.conf"));
                site.haproxy
            }
            Peer::Agent => {
                command
                    .arg(programs.join("ingress-agent"))
                    .args(agent_arguments(site, cores))
                    .args(agent_flags);
                site.agent
            }
        };
        Ok(Self {
            peer,
            ports,
            guarded: Guarded::start(&command)?,
        })
    }

    /// nginx or HAProxy with a master above its worker, which reloads.
    pub(crate) fn reloadable(peer: Peer, site: &Site) -> anyhow::Result<Self> {
        let mut command = pinned(Cores::Both.list());
        let ports = match peer {
            Peer::Haproxy => {
                command
                    .args(["haproxy", "-W", "-db", "-f"])
                    .arg(site.path("haproxy.conf"));
                site.haproxy
            }
            Peer::Nginx | Peer::Agent => {
                command
                    .arg("nginx")
                    .arg("-c")
                    .arg(site.path("nginx-with-master.conf"));
                site.nginx
            }
        };
        let running = Self::of(peer, ports, &command)?;
        running.wait_for_port(ports.http)?;
        Ok(running)
    }

    /// The agent under valgrind's eyes, which count when they are told to and write `callgrind.*` into the site's folder.
    pub(crate) fn counted(site: &Site, programs: &Path, agent_flags: &[String]) -> anyhow::Result<Self> {
        let mut command = Command::new("valgrind");
        let out = site.path("callgrind");
        command
            .args(["--quiet", "--tool=callgrind", "--instr-atstart=no"])
            .arg(format!("--callgrind-out-file={}", out.display()))
            .arg(programs.join("ingress-agent"))
            .args(agent_arguments(site, Cores::One))
            .args(agent_flags);
        let running = Self::of(Peer::Agent, site.agent, &command)?;
        running.wait_for_port(running.ports.http)?;
        running.wait_until_ready()?;
        Ok(running)
    }

    /// Anything else, started as it is.
    pub(crate) fn of(peer: Peer, ports: Ports, command: &Command) -> anyhow::Result<Self> {
        Ok(Self {
            peer,
            ports,
            guarded: Guarded::start(command)?,
        })
    }

    /// The server behind all others: nginx with a fixed answer.
    pub(crate) fn backend(site: &Site) -> anyhow::Result<Self> {
        let mut command = pinned(LOAD_CORE);
        command.arg("nginx").arg("-c").arg(site.path("backend.conf"));
        let running = Self {
            peer: Peer::Nginx,
            ports: site.nginx,
            guarded: Guarded::start(&command)?,
        };
        running.wait_for_port(site.backend)?;
        Ok(running)
    }

    /// User and system time of the process so far, in microseconds.
    pub(crate) fn cpu_micros(&self) -> anyhow::Result<u64> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.process_id()?))?;
        // The command's name is in parentheses and may hold spaces; utime and stime are fields 14 and 15 of proc(5).
        let (_, fields) = stat.rsplit_once(')').context("/proc/PID/stat")?;
        let fields: Vec<u64> = fields
            .split_whitespace()
            .skip(11)
            .take(2)
            .filter_map(|field| field.parse().ok())
            .collect();
        Ok(fields.iter().sum::<u64>() * MICROS_PER_TICK)
    }

    pub(crate) fn rss_kib(&self) -> anyhow::Result<u32> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process_id()?))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let number = line.and_then(|line| line.split_whitespace().next());
        Ok(number.context("VmRSS")?.parse()?)
    }

    /// The guard's one child: taskset has become the server by then.
    pub(crate) fn process_id(&self) -> anyhow::Result<u32> {
        self.guarded.first_child().with_context(|| self.ended())
    }

    /// The guard ends with its child; right after the start it may have none yet.
    pub(crate) fn ensure_alive(&self) -> anyhow::Result<()> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.guarded.child.id()))?;
        let state = stat.rsplit_once(") ").map(|(_, fields)| fields);
        if state.is_none_or(|fields| fields.starts_with('Z')) {
            bail!(self.ended());
        }
        Ok(())
    }

    fn ended(&self) -> String {
        format!("{} has ended; its messages are above", self.peer.name())
    }

    /// The peers listen only once they have read everything; the agent says when it has.
    fn wait_until_ready(&self) -> anyhow::Result<()> {
        let admin = (Ipv4Addr::LOCALHOST, self.ports.admin).into();
        let until = Instant::now() + UP_WITHIN;
        while !demo::is_ready(admin).unwrap_or(false) {
            std::thread::sleep(LOOK_AGAIN);
            self.ensure_alive()?;
            if Instant::now() > until {
                bail!("the agent was not ready within {UP_WITHIN:?}");
            }
        }
        Ok(())
    }

    fn wait_for_port(&self, port: u16) -> anyhow::Result<()> {
        let until = Instant::now() + UP_WITHIN;
        while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
            std::thread::sleep(LOOK_AGAIN);
            self.ensure_alive()?;
            if Instant::now() > until {
                bail!("{} does not listen on port {port}", self.peer.name());
            }
        }
        Ok(())
    }
}

/// Keeps what the bench does itself off the servers' core. Without it the figures are noisier, no more.
pub(crate) fn pin_this_process() {
    let own = std::process::id().to_string();
    let pinned = Command::new("taskset")
        .args(["--all-tasks", "--cpu-list", "--pid", LOAD_CORE, &own])
        .stdout(Stdio::null())
        .status();
    if !pinned.is_ok_and(|status| status.success()) {
        println!("The bench itself could not be pinned to core {LOAD_CORE}.");
    }
}

fn agent_arguments(site: &Site, cores: Cores) -> Vec<OsString> {
    let local = |port: u16| format!("127.0.0.1:{port}").into();
    vec![
        "run".into(),
        "--manifests".into(),
        site.path("manifests").into(),
        "--http".into(),
        local(site.agent.http),
        "--https".into(),
        local(site.agent.https),
        "--admin".into(),
        local(site.agent.admin),
        "--workers".into(),
        cores.workers().into(),
        "--access-log".into(),
        "off".into(),
        "--kernel".into(),
        "off".into(),
    ]
}

fn pinned(core: &str) -> Command {
    let mut command = Command::new("taskset");
    let path = std::env::var("PATH").unwrap_or_default();
    // Debian keeps servers in /usr/sbin, which is not in every user's path.
    command
        .env("PATH", format!("{path}:/usr/sbin"))
        .args(["-c", core]);
    command
}
