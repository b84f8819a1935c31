//! `xtask guard PROGRAM …`: runs a program that does not watch its standard input, and ends it when ours closes.
//!
//! Whoever started the guard holds the pipe's other end; when that process ends, however it ends, the kernel closes the pipe
//! and the guarded program goes too. So nothing is left behind even by `kill -9`.

use std::io::Read;
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStderr, Command, ExitCode, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::Context;

use crate::workspace;

/// Longer than an agent with nothing to drain needs.
const GRACE: Duration = Duration::from_secs(10);
const LOOK_AGAIN: Duration = Duration::from_millis(20);

#[derive(clap::Args)]
pub(crate) struct Options {
    program: String,
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

/// A guarded program, from the side of who started it.
pub(crate) struct Guarded {
    pub(crate) child: Child,
}

impl Guarded {
    /// Starts `program` under a guard, in a process group of its own: Ctrl-C on the terminal reaches only us.
    pub(crate) fn start(command: &Command) -> anyhow::Result<Self> {
        Self::start_with(command, Stdio::inherit())
    }

    /// The guarded program, once it has been started.
    pub(crate) fn first_child(&self) -> Option<u32> {
        // A child belongs to the thread that started it.
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.child.id())).ok()?;
        let mut children = tasks.flatten().filter_map(|task| {
            let listed = std::fs::read_to_string(task.path().join("children")).ok()?;
            listed.split_whitespace().next()?.parse().ok()
        });
        children.next()
    }

    /// The same; what the program writes to standard error is the caller's to read.
    pub(crate) fn start_telling(command: &Command) -> anyhow::Result<(Self, ChildStderr)> {
        let mut started = Self::start_with(command, Stdio::piped())?;
        let told = started.child.stderr.take().context("no standard error")?;
        Ok((started, told))
    }

    fn start_with(command: &Command, stderr: Stdio) -> anyhow::Result<Self> {
        let mut guard = workspace::ourselves();
        guard
            .arg("guard")
            .arg(command.get_program())
            .args(command.get_args());
        for (name, value) in command.get_envs() {
            guard.env(name, value.unwrap_or_default());
        }
        let child = guard
            .stdin(Stdio::piped())
            .stderr(stderr)
            .process_group(0)
            .spawn();
        Ok(Self {
            child: child.with_context(|| format!("start {}", command.get_program().display()))?,
        })
    }

    /// Asks the program to end, and waits until it has.
    pub(crate) fn stop(&mut self) {
        drop(self.child.stdin.take());
        // The guard ends within its grace; there is nothing to do about an error here.
        let _ = self.child.wait();
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        self.stop();
    }
}

pub(crate) fn run(options: &Options) -> anyhow::Result<ExitCode> {
    let mut child = Command::new(&options.program)
        .args(&options.arguments)
        .stdin(Stdio::null())
        .spawn()
        .with_context(|| format!("start {}", options.program))?;
    let closed = watch_stdin()?;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(exit_code(status));
        }
        if !matches!(closed.recv_timeout(LOOK_AGAIN), Err(RecvTimeoutError::Timeout)) {
            return end(&mut child);
        }
    }
}

fn watch_stdin() -> anyhow::Result<Receiver<()>> {
    let (tell, closed) = channel();
    std::thread::Builder::new().spawn(move || {
        // An error means as much as the end: nobody is there.
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        let _ = tell.send(());
    })?;
    Ok(closed)
}

/// SIGTERM, a while to end, then SIGKILL.
fn end(child: &mut Child) -> anyhow::Result<ExitCode> {
    terminate(child);
    let until = Instant::now() + GRACE;
    while Instant::now() < until {
        if let Some(status) = child.try_wait()? {
            return Ok(exit_code(status));
        }
        std::thread::sleep(LOOK_AGAIN);
    }
    child.kill()?;
    Ok(exit_code(child.wait()?))
}

/// std can only send SIGKILL; the shell's own `kill` is everywhere. The child has not been waited for, so its id is still its own.
fn terminate(child: &Child) {
    let _ = Command::new("sh")
        .args(["-c", &format!("kill -TERM {}", child.id())])
        .status();
}

fn exit_code(status: ExitStatus) -> ExitCode {
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    code.map_or(ExitCode::FAILURE, ExitCode::from)
}
