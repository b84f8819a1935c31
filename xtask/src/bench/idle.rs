//! What an idle TLS connection costs each server in memory, and what it gives back when they close.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};

use super::peers::{LOAD_CORE, Running};
use super::site::{self, Site};
use super::{Bench, Case};
use crate::workspace::{self, Profile};

/// So that what the first connections load and set up is not counted on all.
const FIRST: u32 = 100;
/// What a server does with a connection that has become idle is done by then.
const SETTLES_WITHIN: Duration = Duration::from_secs(3);
/// All servers close at the same time and are looked at after this.
const GIVES_BACK_WITHIN: Duration = Duration::from_secs(15);

struct Seen {
    before: u32,
    open: u32,
    kept: u32,
}

pub(super) fn run(bench: &Bench<'_>) -> anyhow::Result<()> {
    let count = bench.options.idle;
    // The client is the same for all, so its build does not matter.
    let client = workspace::build("ingress-tests", Profile::Dev)?.join("idle-tls");
    let site = Site::with_room(bench.options.hosts, count.max(4000) + 1000)?;
    let _backend = Running::backend(&site)?;
    let servers = bench.start_all(&site)?;
    let mut all = Vec::new();
    for server in &servers {
        Client::open(&client, server, FIRST)?.close()?;
        let before = server.rss_kib()?;
        let clients = Client::open(&client, server, count)?;
        bench.pause(SETTLES_WITHIN)?;
        let open = server.rss_kib()?;
        let kept = clients.close()?;
        println!(
            "{}: {count} opened, {kept} still open when closed",
            server.peer.name()
        );
        all.push(Seen { before, open, kept });
    }
    bench.pause(GIVES_BACK_WITHIN)?;
    println!(
        "\n{:<22} {:<8} {:>10} {:>11} {:>14} {:>12} {:>10}",
        "case", "server", "before MiB", "open MiB", "KiB/connection", "closed MiB", "given back"
    );
    for (server, seen) in servers.iter().zip(&all) {
        row(server, seen, count)?;
    }
    Ok(())
}

fn row(server: &Running, seen: &Seen, count: u32) -> anyhow::Result<()> {
    let closed = server.rss_kib()?;
    let mib = |kib: u32| f64::from(kib) / 1024.0;
    let grown = f64::from(seen.open) - f64::from(seen.before);
    let each = if seen.kept == count {
        format!("{:.1}", grown / f64::from(count))
    } else {
        "not measured".to_owned()
    };
    let back = (f64::from(seen.open) - f64::from(closed)) / grown;
    println!(
        "{:<22} {:<8} {:>10.1} {:>11.1} {:>14} {:>12.1} {:>9.0}%",
        Case::IdleTls.title(),
        server.peer.name(),
        mib(seen.before),
        mib(seen.open),
        each,
        mib(closed),
        back * 100.0
    );
    Ok(())
}

/// Ends when its standard input closes, so also when we do.
struct Client {
    child: Child,
    says: BufReader<ChildStdout>,
}

impl Client {
    fn open(program: &Path, server: &Running, count: u32) -> anyhow::Result<Self> {
        let mut child = Command::new("taskset")
            .args(["-c", LOAD_CORE])
            .arg(program)
            .arg(format!("127.0.0.1:{}", server.ports.https))
            .args([site::host(42), count.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("start idle-tls")?;
        let says = BufReader::new(child.stdout.take().context("its standard output")?);
        let mut client = Self { child, says };
        if client.number("open ")? != count {
            bail!("{} did not take {count} connections", server.peer.name());
        }
        Ok(client)
    }

    /// How many were still open.
    fn close(mut self) -> anyhow::Result<u32> {
        drop(self.child.stdin.take());
        let kept = self.number("kept ")?;
        self.child.wait()?;
        Ok(kept)
    }

    fn number(&mut self, word: &str) -> anyhow::Result<u32> {
        let mut line = String::new();
        self.says.read_line(&mut line)?;
        let number = line.strip_prefix(word).map(str::trim);
        number
            .with_context(|| format!("idle-tls said {line:?}, expected {word:?} and a number"))?
            .parse()
            .context("idle-tls")
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // Ended already, or of no more use; there is nothing to do about an error.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
