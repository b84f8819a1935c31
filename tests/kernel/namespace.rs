//! Two network namespaces with a cable between them: a node and a client.
//!
//! They have names only while they are made. After that this process holds them by descriptors, so that they go with it, however it ends,
//! and nothing that an earlier run left behind can be in the way.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd};
use std::process::{Command, Stdio};

use anyhow::{Context, bail};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

pub(crate) const NODE: &str = "10.77.0.2";
pub(crate) const NODE_V6: &str = "fd77::2";
/// Addresses of the client, `10.77.1.1` and on.
pub(crate) const SOURCES: u8 = 60;

/// Gone when dropped, as soon as no process is in it.
#[derive(Debug)]
pub(crate) struct Namespace {
    file: File,
}

/// The node, where the agent runs, and the client; `node0` here and `client0` there are the ends of the cable.
#[derive(Debug)]
pub(crate) struct Net {
    pub(crate) node: Namespace,
    pub(crate) client: Namespace,
}

/// Both with their addresses, or `None` where this machine can't do such a thing, which is said.
pub(crate) fn net() -> anyhow::Result<Option<Net>> {
    let Some(net) = cable()? else { return Ok(None) };
    net.node.ip(&[
        format!("addr add {NODE}/16 dev node0"),
        format!("addr add {NODE_V6}/64 dev node0 nodad"),
    ])?;
    let mut addresses = vec![
        "addr add 10.77.0.1/16 dev client0".to_owned(),
        "addr add fd77::1/64 dev client0 nodad".to_owned(),
    ];
    addresses.extend((1..=SOURCES).map(|last| format!("addr add 10.77.1.{last}/16 dev client0")));
    net.client.ip(&addresses)?;
    Ok(Some(net))
}

/// The same without addresses.
pub(crate) fn cable() -> anyhow::Result<Option<Net>> {
    if let Some(why) = unsupported() {
        // Not by println, which libtest keeps to itself when a test passes.
        let _ = writeln!(std::io::stderr(), "skipped: {why}");
        return Ok(None);
    }
    // A process id would do among those that run, and not beside what a killed one left.
    let id = format!("ia-{:012x}", fastrand::u64(..1 << 48));
    let (node, client) = (Named::new(format!("{id}-n"))?, Named::new(format!("{id}-c"))?);
    let (of_node, of_client) = (node.open()?, client.open()?);
    of_node.ip(&[
        format!("link add node0 type veth peer name client0 netns {}", client.0),
        "link set lo up".to_owned(),
        "link set node0 up".to_owned(),
    ])?;
    of_client.ip(&["link set lo up".to_owned(), "link set client0 up".to_owned()])?;
    Ok(Some(Net {
        node: of_node,
        client: of_client,
    }))
}

fn unsupported() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("network namespaces and eBPF need root".into());
    }
    for (program, package) in [
        ("ip", "iproute2"),
        ("ss", "iproute2"),
        ("nsenter", "util-linux"),
        ("setpriv", "util-linux"),
    ] {
        if let Err(error) = Command::new(program).arg("-V").stdin(Stdio::null()).output() {
            return Some(format!("{program} of {package}: {error}"));
        }
    }
    // A container may be root and yet not be allowed to.
    let probe = Command::new("unshare").args(["--net", "true"]).output().ok()?;
    let words = String::from_utf8_lossy(&probe.stderr).trim().to_owned();
    (!probe.status.success()).then(|| format!("no network namespace can be made here: {words}"))
}

/// A namespace while it has a name.
struct Named(String);

impl Named {
    fn new(name: String) -> anyhow::Result<Self> {
        let output = Command::new("ip").args(["netns", "add", &name]).output()?;
        if !output.status.success() {
            bail!("ip netns add {name}: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(Self(name))
    }

    fn open(&self) -> anyhow::Result<Namespace> {
        let path = format!("/run/netns/{}", self.0);
        let file = File::open(&path).context(path)?;
        Ok(Namespace { file })
    }
}

impl Drop for Named {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.0]).output();
    }
}

impl Namespace {
    /// Many orders to one `ip`, each a line.
    pub(crate) fn ip(&self, lines: &[String]) -> anyhow::Result<()> {
        let mut child = self
            .command()
            .args(["ip", "-batch", "-"])
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("nsenter")?;
        let text = lines.join("\n") + "\n";
        child
            .stdin
            .take()
            .context("no input")?
            .write_all(text.as_bytes())?;
        let output = child.wait_with_output()?;
        if !output.status.success() {
            bail!("ip: {} of:\n{text}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(())
    }

    /// As long as this lives.
    pub(crate) fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd())
    }

    /// A command that runs in here. `nsenter` becomes the program, so its process id is the program's.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.path()));
        command
    }

    /// Runs a closure in here; threads that it starts stay in here.
    pub(crate) fn run<T: Send>(&self, body: impl FnOnce() -> anyhow::Result<T> + Send) -> anyhow::Result<T> {
        let file = self.file.as_fd();
        std::thread::scope(|scope| {
            let thread = scope.spawn(move || {
                move_into_link_name_space(file, Some(LinkNameSpaceType::Network)).context("setns")?;
                body()
            });
            thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}
