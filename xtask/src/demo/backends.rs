//! The demo's echo backends: real processes that end when their standard input closes.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::Context;

/// All running backends by name; ended when dropped.
pub(crate) struct Backends {
    running: BTreeMap<String, (SocketAddr, Child)>,
}

impl Backends {
    pub(crate) fn start<'a>(
        program: &Path,
        names: impl IntoIterator<Item = &'a str>,
    ) -> anyhow::Result<Self> {
        let mut all = Self {
            running: BTreeMap::new(),
        };
        for name in names {
            let started = start(program, name).with_context(|| format!("echo backend {name}"))?;
            all.running.insert(name.to_owned(), started);
        }
        Ok(all)
    }

    pub(crate) fn address(&self, name: &str) -> Option<SocketAddr> {
        self.running.get(name).map(|(address, _)| *address)
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = (&str, SocketAddr)> {
        self.running
            .iter()
            .map(|(name, (address, _))| (name.as_str(), *address))
    }
}

impl Drop for Backends {
    fn drop(&mut self) {
        for (_, child) in self.running.values_mut() {
            drop(child.stdin.take());
        }
        for (_, child) in self.running.values_mut() {
            // They end at once when their input closes; an error leaves nothing to do.
            let _ = child.wait();
        }
    }
}

/// In a process group of its own, so that Ctrl-C reaches only us and the order of ending is ours.
fn start(program: &Path, name: &str) -> anyhow::Result<(SocketAddr, Child)> {
    let mut child = Command::new(program)
        .args(["--port", "0", "--name", name])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .process_group(0)
        .spawn()
        .with_context(|| program.display().to_string())?;
    let mut line = String::new();
    let output = child.stdout.take().context("no standard output")?;
    BufReader::new(output).read_line(&mut line)?;
    let address = line
        .trim()
        .parse()
        .with_context(|| format!("it should print its address, and printed {line:?}"))?;
    Ok((address, child))
}
