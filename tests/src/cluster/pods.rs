//! Servers at addresses of their own: the API server refuses loopback as an endpoint, so pods live in a network namespace.
//!
//! The namespace has no name and belongs to one process; when that process ends, the kernel takes back namespace, interfaces and
//! addresses. Needs root and iproute2.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use super::Cluster;

const DEADLINE: Duration = Duration::from_secs(20);
/// Pods have the upper half of a network; below are the node and the interface itself.
const FIRST_POD: u8 = 128;

/// The namespace in which pods live, held by a process that does nothing else.
#[derive(Debug)]
pub(super) struct PodNetwork {
    holder: Child,
    /// The third part of every address in it: `198.18.N.x`, of the range for tests of RFC 2544.
    number: u8,
}

impl PodNetwork {
    /// To be called from a thread that lives as long as the network is wanted.
    pub(super) fn create() -> anyhow::Result<Self> {
        let holder = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--", "unshare", "--net", "--"])
            .args(["sleep", "infinity"])
            .stdin(Stdio::null())
            .spawn()
            .context("start setpriv (of util-linux)")?;
        let mut network = Self { holder, number: 0 };
        wait_for_namespace(&mut network.holder)?;
        network.number = network.connect()?;
        Ok(network)
    }

    /// Which process holds it, and its number.
    pub(super) fn facts(&self) -> (u32, u8) {
        (self.holder.id(), self.number)
    }

    /// The interface's name is what keeps two networks of one machine apart.
    fn connect(&self) -> anyhow::Result<u8> {
        let pid = self.holder.id().to_string();
        let free = (1..=u8::MAX).find(|number| {
            let link = format!("lab{number}");
            let add = [
                "link", "add", &link, "type", "veth", "peer", "name", "eth0", "netns", &pid,
            ];
            ip(&[], &add).is_ok()
        });
        let number = free.context("no veth pair could be made; pods need root and iproute2")?;
        let (link, inside) = (format!("lab{number}"), inside(self.holder.id()));
        let inside: Vec<&str> = inside.iter().map(String::as_str).collect();
        let address = |last: u8| format!("198.18.{number}.{last}/24");
        ip(&[], &["address", "add", &address(1), "dev", &link])?;
        ip(&[], &["link", "set", &link, "up"])?;
        ip(&inside, &["link", "set", "lo", "up"])?;
        ip(&inside, &["address", "add", &address(2), "dev", "eth0"])?;
        ip(&inside, &["link", "set", "eth0", "up"])?;
        // Every address of the upper half can be bound and is answered for.
        let pods = format!("198.18.{number}.{FIRST_POD}/25");
        ip(&inside, &["route", "add", "local", &pods, "dev", "lo"])?;
        Ok(number)
    }
}

impl Drop for PodNetwork {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

/// A running server; its connections end when it is dropped.
#[derive(Debug)]
pub struct Pod {
    address: SocketAddr,
    process: Child,
}

impl Pod {
    pub const PORT: u16 = 8080;

    pub(super) fn start(cluster: &Cluster, name: &str) -> anyhow::Result<Self> {
        static NEXT: AtomicU8 = AtomicU8::new(FIRST_POD);
        let network = cluster.facts.pods.as_ref();
        let &(holder, number) = network.context("this cluster has no pod network: that needs root")?;
        // An address is not used twice: who still knows the old one must not meet the new pod there.
        let last = NEXT.fetch_add(1, Ordering::Relaxed);
        if !(FIRST_POD..u8::MAX).contains(&last) {
            bail!("all addresses of the pod network are used");
        }
        let address = SocketAddr::from((Ipv4Addr::new(198, 18, number, last), Self::PORT));
        let [program, rest @ ..] = &inside(holder);
        let mut process = Command::new(program)
            .args(rest)
            .arg(cluster.program("echo-backend"))
            .args(["--name", name, "--address", &address.to_string()])
            // It serves until its input closes, so it ends with us.
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("start nsenter (of util-linux)")?;
        let mut line = String::new();
        BufReader::new(process.stdout.take().context("no output")?).read_line(&mut line)?;
        if line.trim_end() != address.to_string() {
            bail!("pod {name} at {address} did not start");
        }
        Ok(Self { address, process })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Returns when this child has a network namespace that is not ours; it takes a few milliseconds.
pub(super) fn wait_for_namespace(child: &mut Child) -> anyhow::Result<()> {
    let namespace = |who: &str| std::fs::read_link(Path::new("/proc").join(who).join("ns/net"));
    let (own, pid) = (namespace("self")?, child.id().to_string());
    let until = Instant::now() + DEADLINE;
    while namespace(&pid)? == own {
        if let Some(status) = child.try_wait()? {
            bail!("no network namespace could be made ({status}); pods need root");
        }
        if Instant::now() > until {
            bail!("no network namespace within {DEADLINE:?}");
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

/// The words before a command that put it into the namespace. Not `ip netns exec`, which would remount /sys.
pub(super) fn inside(holder: u32) -> [String; 3] {
    let net = format!("--net=/proc/{holder}/ns/net");
    ["nsenter".to_owned(), net, "--".to_owned()]
}

pub(super) fn ip(before: &[&str], arguments: &[&str]) -> anyhow::Result<()> {
    let mut words = before
        .iter()
        .copied()
        .chain(["ip"])
        .chain(arguments.iter().copied());
    let output = Command::new(words.next().context("no program")?)
        .args(words)
        .stdin(Stdio::null())
        .output()?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("ip {}: {}", arguments.join(" "), said.trim());
    }
    Ok(())
}

/// Many orders to one `ip`, each a line.
pub(super) fn ip_batch(before: &[String], lines: &str) -> anyhow::Result<()> {
    let [program, rest @ ..] = before else {
        bail!("no program");
    };
    let mut child = Command::new(program)
        .args(rest)
        .args(["ip", "-batch", "-"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    child
        .stdin
        .take()
        .context("no input")?
        .write_all(lines.as_bytes())?;
    let output = child.wait_with_output()?;
    if !output.status.success() {
        bail!(
            "ip: {} of:\n{lines}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
}
