//! Two network namespaces with a cable between them: a node and a client.

use std::os::fd::AsFd;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, bail};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

pub(crate) const NODE: &str = "10.77.0.2";
pub(crate) const NODE_V6: &str = "fd77::2";
/// Addresses of the client, `10.77.1.1` and on.
pub(crate) const SOURCES: u8 = 60;

/// Gone when dropped.
#[derive(Debug)]
pub(crate) struct Namespace {
    name: String,
}

/// The node, where the agent runs, and the client.
#[derive(Debug)]
pub(crate) struct Net {
    pub(crate) node: Namespace,
    pub(crate) client: Namespace,
}

/// Both, or `None` where this machine can't do such a thing, which is said.
pub(crate) fn net() -> anyhow::Result<Option<Net>> {
    if let Some(why) = unsupported() {
        println!("SKIPPED: {why}");
        eprintln!("SKIPPED: {why}");
        return Ok(None);
    }
    let (node, client) = (Namespace::new("node")?, Namespace::new("client")?);
    let (here, there) = (format!("n{}", node.name), format!("c{}", node.name));
    let (here, there) = (
        &here[here.len().saturating_sub(14)..],
        &there[there.len().saturating_sub(14)..],
    );
    ip(&format!(
        "link add {here} netns {} type veth peer name {there} netns {}",
        node.name, client.name
    ))?;
    node.ip(&format!("addr add {NODE}/16 dev {here}"))?;
    node.ip(&format!("addr add {NODE_V6}/64 dev {here} nodad"))?;
    client.ip(&format!("addr add 10.77.0.1/16 dev {there}"))?;
    client.ip(&format!("addr add fd77::1/64 dev {there} nodad"))?;
    for last in 1..=SOURCES {
        client.ip(&format!("addr add 10.77.1.{last}/16 dev {there}"))?;
    }
    node.ip(&format!("link set {here} up"))?;
    client.ip(&format!("link set {there} up"))?;
    Ok(Some(Net { node, client }))
}

fn unsupported() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("network namespaces and eBPF need root".into());
    }
    Command::new("ip")
        .arg("-V")
        .output()
        .err()
        .map(|error| format!("iproute2: {error}"))
}

fn ip(arguments: &str) -> anyhow::Result<()> {
    let output = Command::new("ip").args(arguments.split(' ')).output()?;
    if !output.status.success() {
        bail!("ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}

impl Namespace {
    fn new(role: &str) -> anyhow::Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("ia-{role}-{}-{number}", std::process::id());
        ip(&format!("netns add {name}"))?;
        let made = Self { name };
        made.ip("link set lo up")?;
        Ok(made)
    }

    fn ip(&self, arguments: &str) -> anyhow::Result<()> {
        ip(&format!("-n {} {arguments}", self.name))
    }

    fn path(&self) -> String {
        format!("/run/netns/{}", self.name)
    }

    /// A command that runs in here. `nsenter` becomes the program, so its process id is the program's.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.path()));
        command
    }

    /// Runs a closure in here; threads that it starts stay in here.
    pub(crate) fn run<T: Send>(&self, body: impl FnOnce() -> anyhow::Result<T> + Send) -> anyhow::Result<T> {
        let file = std::fs::File::open(self.path())?;
        std::thread::scope(|scope| {
            let thread = scope.spawn(move || {
                move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).context("setns")?;
                body()
            });
            thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = ip(&format!("netns del {}", self.name));
    }
}
