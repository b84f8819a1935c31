//! An agent on the node, its backend and its neighbour.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::process::Output;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use ingress_tests::process::NO_BPFFS;
use ingress_tests::{AgentProcess, Echo, Ingress, Manifests};
use serde_json::Value;

use crate::namespace::{NODE, Namespace, Net};

pub(crate) const AGENT: &str = env!("CARGO_BIN_EXE_agent-under-test");
pub(crate) const HOST: &str = "web.example.test";
/// Long enough for a machine that is ten times slower than it should be; reached only by a failing test.
pub(crate) const DEADLINE: Duration = Duration::from_secs(90);

/// What is needed to run agents on a node.
pub(crate) struct Site {
    pub(crate) net: Net,
    pub(crate) backend: Echo,
    pub(crate) manifests: Manifests,
    pub(crate) run_dir: tempfile::TempDir,
}

impl Site {
    /// `None`: skipped.
    pub(crate) fn new() -> anyhow::Result<Option<Self>> {
        let Some(net) = crate::namespace::net()? else {
            return Ok(None);
        };
        let backend = net.node.run(|| Echo::start("web"))?;
        let manifests = Manifests::new()?;
        manifests.our_class()?;
        manifests.service("web", &[backend.address()])?;
        let ingress = Ingress::new("web")
            .class("ingress-agent")
            .host(HOST)
            .prefix("/", "web");
        manifests.ingress(&ingress)?;
        let run_dir = tempfile::tempdir()?;
        Ok(Some(Self {
            net,
            backend,
            manifests,
            run_dir,
        }))
    }

    /// `prefix`: what the agent is started by, such as `setpriv`.
    pub(crate) fn command(&self, prefix: &[&str], flags: &[&str]) -> std::process::Command {
        let mut command = self.net.node.command();
        let tls: &[&str] = if flags.contains(&"--https") || flags.contains(&"--config") {
            &[]
        } else {
            &["--https", "off"]
        };
        let admin: &[&str] = if flags.contains(&"--admin") {
            &[]
        } else {
            &["--admin", "127.0.0.1:0"]
        };
        let workers: &[&str] = if flags.contains(&"--workers") {
            &[]
        } else {
            &["--workers", "3"]
        };
        command
            // Ends with the test's thread, however that ends.
            .args(["setpriv", "--pdeathsig", "KILL", "--"])
            .args(prefix)
            .args([AGENT, "run", "--log-format", "json", "--access-log", "off"])
            .args(admin)
            .args(workers)
            .arg("--run-dir")
            .arg(self.run_dir.path())
            .arg("--manifests")
            .arg(self.manifests.path())
            .args(tls)
            .args(flags);
        command
    }

    pub(crate) fn start(&self, flags: &[&str]) -> anyhow::Result<AgentProcess> {
        AgentProcess::watch(&mut self.command(&[], flags))
    }

    /// One that must not start; what it says.
    pub(crate) fn refused(&self, prefix: &[&str], flags: &[&str]) -> anyhow::Result<String> {
        let Output { status, stderr, .. } = self.command(prefix, flags).output()?;
        if status.code() != Some(1) {
            bail!("the agent ended with {status}, not 1");
        }
        Ok(String::from_utf8_lossy(&stderr).into_owned())
    }

    /// `ingress-agent kernel …`
    pub(crate) fn kernel(&self, arguments: &[&str]) -> anyhow::Result<String> {
        self.told("kernel", arguments)
    }

    /// `ingress-agent bans …`
    pub(crate) fn bans(&self, arguments: &[&str]) -> anyhow::Result<String> {
        self.told("bans", arguments)
    }

    fn told(&self, command: &str, arguments: &[&str]) -> anyhow::Result<String> {
        let output = std::process::Command::new(AGENT)
            .arg(command)
            .args(arguments)
            .arg("--run-dir")
            .arg(self.run_dir.path())
            .env("INGRESS_AGENT_BPFFS", NO_BPFFS)
            .output()?;
        if !output.status.success() {
            bail!("{command} {arguments:?}: {output:?}");
        }
        Ok(String::from_utf8(output.stdout)?)
    }

    /// What the agent with this process id says of itself.
    pub(crate) fn status(&self, pid: u32) -> anyhow::Result<Value> {
        let agents: Vec<Value> = serde_json::from_str(&self.kernel(&["status", "-o", "json"])?)?;
        let own = agents
            .into_iter()
            .map(|agent| agent["status"].clone())
            .find(|status| status["pid"] == pid);
        own.with_context(|| format!("agent {pid} is not among the agents"))
    }

    /// Where an agent judges packets, and by what.
    pub(crate) fn interfaces(&self, pid: u32) -> anyhow::Result<Vec<(String, String)>> {
        let status = self.status(pid)?;
        let all = status["kernel"]["rejection"]["interfaces"].as_array();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let pair = |at: &Value| (text(&at["interface"]), text(&at["by"]));
        Ok(all.context("no interfaces")?.iter().map(pair).collect())
    }

    pub(crate) fn wait_for_phase(&self, pid: u32, phase: &str) -> anyhow::Result<()> {
        wait(&format!("phase {phase}"), || {
            Ok(self.status(pid)?["phase"] == phase)
        })
    }

    /// Asks the node as the client does.
    pub(crate) fn get(&self, from: &str) -> anyhow::Result<String> {
        self.net.client.run(|| get(from, NODE))
    }
}

/// Looks again until it is so.
pub(crate) fn wait(what: &str, mut so: impl FnMut() -> anyhow::Result<bool>) -> anyhow::Result<()> {
    let until = Instant::now() + DEADLINE;
    while !so()? {
        if Instant::now() > until {
            bail!("not in time: {what}");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// One request on a connection of its own to port 80, from a certain source; the whole response. Never tried twice.
pub(crate) fn get(from: &str, to: &str) -> anyhow::Result<String> {
    let mut stream = open(from, to)?;
    write!(
        stream,
        "GET / HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n"
    )?;
    let mut response = String::new();
    stream.read_to_string(&mut response)?;
    Ok(response)
}

/// A connection to port 80.
pub(crate) fn open(from: &str, to: &str) -> anyhow::Result<TcpStream> {
    let (from, to): (IpAddr, IpAddr) = (from.parse()?, to.parse()?);
    let address = SocketAddr::new(to, 80);
    let socket = socket2::Socket::new(socket2::Domain::for_address(address), socket2::Type::STREAM, None)?;
    socket.bind(&SocketAddr::new(from, 0).into())?;
    socket.set_read_timeout(Some(DEADLINE))?;
    socket.connect_timeout(&address.into(), DEADLINE)?;
    Ok(socket.into())
}

/// One request on a connection that is kept; its status line.
pub(crate) fn ask_on(stream: &TcpStream) -> anyhow::Result<String> {
    write!(&mut &*stream, "HEAD / HTTP/1.1\r\nHost: {HOST}\r\n\r\n")?;
    let mut reader = BufReader::new(stream);
    let mut first = String::new();
    reader.read_line(&mut first)?;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 || line == "\r\n" {
            return Ok(first);
        }
    }
}

/// Another server on the node's port 80, of every address: answers `neighbour` until the namespace goes.
pub(crate) fn neighbour(node: &Namespace) -> anyhow::Result<()> {
    node.run(|| {
        let listener = std::net::TcpListener::bind("0.0.0.0:80")?;
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let _ = answer(stream);
            }
        });
        Ok(())
    })
}

fn answer(mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_read_timeout(Some(DEADLINE))?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        if stream.read(&mut byte)? == 0 {
            return Ok(());
        }
        head.push(byte[0]);
    }
    stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 9\r\n\r\nneighbour")
}
