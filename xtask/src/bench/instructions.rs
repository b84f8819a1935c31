//! How many instructions the agent itself spends on a request, kernel apart: counted by valgrind, which does not care how busy a machine is.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};

use super::peers::Running;
use super::site::{Site, host};
use super::{Bench, Case, exists};
use crate::workspace::{self, Profile};

const CONNECTIONS: u32 = 16;
/// At once on each, over h2.
const STREAMS: &str = "--max-concurrent-streams=10";
/// What connections cost by themselves is in both runs, and not in their difference.
const FEW: u32 = 400;
const MANY: u32 = 4400;
/// valgrind starts to count, and stops, when the process is next looked at.
const ORDER_ARRIVES_WITHIN: Duration = Duration::from_millis(500);

pub(super) fn run(bench: &Bench<'_>) -> anyhow::Result<()> {
    if !exists("callgrind_control") {
        println!("instructions: not counted: valgrind is missing (apt-get install valgrind)");
        return Ok(());
    }
    let programs = match &bench.options.programs {
        Some(folder) => folder.clone(),
        None => workspace::build("ingress-agent", Profile::Profiling)?,
    };
    let site = Site::write(bench.options.hosts)?;
    let _backend = Running::backend(&site)?;
    let agent = Running::counted(&site, &programs, &bench.options.agent_flag)?;
    println!("\n{:<22} {:>22}", "case", "instructions a request");
    for case in [Case::Http1, Case::NotFound, Case::Https, Case::H2] {
        // Whatever the first requests set up is there afterwards.
        load(case, &agent, FEW)?;
        let few = count(bench, &site, &agent, case, FEW)?;
        let many = count(bench, &site, &agent, case, MANY)?;
        let each = many.saturating_sub(few) / u64::from(MANY - FEW);
        println!("{:<22} {each:>22}", case.title());
    }
    Ok(())
}

fn count(bench: &Bench<'_>, site: &Site, agent: &Running, case: Case, requests: u32) -> anyhow::Result<u64> {
    order(agent, &["--zero"])?;
    order(agent, &["--instr=on"])?;
    bench.pause(ORDER_ARRIVES_WITHIN)?;
    load(case, agent, requests)?;
    order(agent, &["--instr=off"])?;
    order(agent, &["--dump=bench"])?;
    bench.pause(ORDER_ARRIVES_WITHIN)?;
    last_total(&site.path(""))
}

fn order(agent: &Running, arguments: &[&str]) -> anyhow::Result<()> {
    let status = Command::new("callgrind_control")
        .args(arguments)
        .arg(agent.process_id()?.to_string())
        .stdout(Stdio::null())
        .status()
        .context("start callgrind_control")?;
    if !status.success() {
        bail!("callgrind_control {arguments:?}: {status}");
    }
    Ok(())
}

fn load(case: Case, agent: &Running, requests: u32) -> anyhow::Result<()> {
    let (scheme, port) = match case {
        Case::Https => ("https", agent.ports.https),
        _ => ("http", agent.ports.http),
    };
    let protocol = match case {
        Case::H2 => STREAMS,
        _ => "--h1",
    };
    let name = match case {
        Case::NotFound => "unmatched.bench.test".to_owned(),
        _ => host(42),
    };
    let output = Command::new("h2load")
        .args([protocol, &format!("--clients={CONNECTIONS}")])
        .arg(format!("--requests={requests}"))
        .arg(format!("--connect-to=127.0.0.1:{port}"))
        .arg(format!("{scheme}://{name}/api/item"))
        .stdin(Stdio::null())
        .output()
        .context("start h2load")?;
    let said = String::from_utf8_lossy(&output.stdout);
    if !said.contains(&format!("{requests} done")) {
        bail!("not all of {requests} requests were answered:\n{said}");
    }
    Ok(())
}

/// What the latest dump in a folder says. valgrind writes one file for each, with a number that grows.
fn last_total(folder: &Path) -> anyhow::Result<u64> {
    let mut dumps = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let number = name
            .strip_prefix("callgrind.")
            .and_then(|number| number.parse::<u32>().ok());
        dumps.extend(number.map(|number| (number, entry.path())));
    }
    let (_, latest) = dumps.into_iter().max().context("valgrind wrote nothing")?;
    let text = std::fs::read_to_string(latest)?;
    let total = text.lines().find_map(|line| line.strip_prefix("totals: "));
    Ok(total.context("a dump without a total")?.trim().parse()?)
}
