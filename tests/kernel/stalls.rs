//! A worker that stalls: one thread of the agent is stopped, as a debugger stops it.

use std::time::{Duration, Instant};

use anyhow::Context;
use ingress_tests::AgentProcess;
use ingress_tests::client::Request;
use nix::sys::ptrace::{self, Options};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

use crate::Done;
use crate::agent::{Site, ask_on, open, wait};
use crate::namespace::NODE;

/// Stopped until it is dropped; by the thread that stopped it.
struct Stopped(Pid);

impl Stopped {
    fn new(agent: &AgentProcess, name: &str) -> anyhow::Result<Self> {
        let thread = thread(agent.pid(), name)?;
        ptrace::seize(thread, Options::empty()).context("ptrace")?;
        let stopped = Self(thread);
        ptrace::interrupt(thread)?;
        waitpid(thread, Some(WaitPidFlag::__WALL))?;
        Ok(stopped)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        let _ = ptrace::detach(self.0, None);
    }
}

fn thread(pid: u32, name: &str) -> anyhow::Result<Pid> {
    for entry in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        let path = entry?.path();
        if std::fs::read_to_string(path.join("comm"))?.trim_end() == name {
            let id = path.file_name().and_then(|id| id.to_str()).context("no id")?;
            return Ok(Pid::from_raw(id.parse()?));
        }
    }
    anyhow::bail!("the agent has no thread {name}")
}

/// A counter of the agent's.
fn counted(site: &Site, agent: &AgentProcess, metric: &str) -> anyhow::Result<u64> {
    let url = format!("http://{}/metrics", agent.admin);
    let page = site.net.node.run(|| Request::get(&url)?.ask(agent.admin))?.text();
    let mut values = page.lines().filter_map(|line| line.strip_prefix(metric));
    let value = values.next().context("no such metric")?;
    Ok(value.trim().parse()?)
}

/// `after`: what else is seen while the worker stands.
fn others_take_what_waits(flags: &[&str], after: impl FnOnce(&Site, &AgentProcess) -> Done) -> Done {
    const CLIENTS: usize = 60;
    let Some(site) = Site::new()? else { return Ok(()) };
    let mut all = vec!["--http", ":80"];
    all.extend(flags);
    let agent = site.start(&all)?;
    let stopped = Stopped::new(&agent, "worker-1")?;
    let longest = site.net.client.run(|| {
        // All at once: of each three, one waits at the stopped worker.
        let open: Vec<_> = (0..CLIENTS)
            .map(|_| Ok((Instant::now(), open("10.77.0.1", NODE)?)))
            .collect::<anyhow::Result<_>>()?;
        let mut longest = Duration::ZERO;
        for (begun, stream) in &open {
            anyhow::ensure!(ask_on(stream)?.contains("200"));
            longest = longest.max(begun.elapsed());
        }
        Ok(longest)
    })?;
    let taken = counted(&site, &agent, "ingress_agent_connections_taken_over_total")?;
    // 20 on average; binomial with a standard deviation of 4.
    assert!((1..=45).contains(&taken), "{taken} of {CLIENTS} were taken over");
    eprintln!(
        "{flags:?}: {taken} of {CLIENTS} connections waited at a stopped worker; the longest took {longest:?}"
    );
    after(&site, &agent)?;
    drop(stopped);
    wait("the worker is back", || {
        Ok(counted(&site, &agent, "ingress_agent_worker_stalled{worker=\"1\"}")? == 0)
    })?;
    for _ in 0..20 {
        assert!(site.get("10.77.0.1")?.starts_with("HTTP/1.1 200"));
    }
    Ok(())
}

#[test]
fn what_waits_at_a_worker_that_stalls_is_answered_by_another() -> Done {
    others_take_what_waits(&["--kernel", "on"], |site, agent| {
        let taken = || counted(site, agent, "ingress_agent_connections_taken_over_total");
        // By hash alone 30 of 90; those that name the stopped worker twice are 10, with a standard deviation of 3.
        wait("new connections go to the others", || {
            let before = taken()?;
            for _ in 0..90 {
                anyhow::ensure!(site.get("10.77.0.1")?.starts_with("HTTP/1.1 200"));
            }
            Ok(taken()? - before <= 16)
        })
    })
}

#[test]
fn what_waits_at_a_worker_that_stalls_is_answered_by_another_without_the_kernels_help_too() -> Done {
    others_take_what_waits(&["--kernel", "off"], |_, _| Ok(()))
}
