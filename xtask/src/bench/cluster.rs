//! The agent on a real API server that holds a large cluster: what it takes to start, to follow changes and to write statuses.

use std::process::{Command, Stdio};

use anyhow::{Context, bail};

use super::Bench;
use crate::kube;
use crate::workspace::{self, Profile};

/// The program of the tests that does all of it prints what it finds. It ends what it starts.
pub(super) fn run(bench: &Bench<'_>) -> anyhow::Result<()> {
    let assets = kube::programs()?;
    let program = workspace::build("ingress-tests", Profile::Dev)?.join("cluster-scale");
    println!("This takes about four minutes.");
    let mut child = Command::new(&program)
        .arg(bench.programs.join("ingress-agent"))
        .env("KUBEBUILDER_ASSETS", assets)
        .stdin(Stdio::null())
        .spawn()
        .with_context(|| format!("start {}", program.display()))?;
    let status = child.wait()?;
    bench.go_on()?;
    if !status.success() {
        bail!("cluster-scale: {status}");
    }
    Ok(())
}
