//! A process that ends with its handle, and with it what it started in its group.

use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus};

use anyhow::Context;
use rustix::process::{Pid, Signal, kill_process, kill_process_group};

#[derive(Debug)]
pub(super) struct Process {
    child: Child,
    /// Waited for: its number may be another's by now.
    ended: Option<ExitStatus>,
}

impl Process {
    /// Of a command that gives it a parent-death signal.
    pub(super) fn start(command: &mut Command) -> anyhow::Result<Self> {
        let child = command.process_group(0).spawn();
        let child = child.with_context(|| format!("start {command:?}"))?;
        Ok(Self { child, ended: None })
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(super) fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    pub(super) fn ended(&mut self) -> Option<ExitStatus> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().ok().flatten();
        }
        self.ended
    }

    /// SIGTERM to the process alone, as a container runtime does.
    pub(super) fn terminate(&mut self) {
        if let (None, Some(pid)) = (self.ended(), self.id()) {
            let _ = kill_process(pid, Signal::TERM);
        }
    }

    fn id(&self) -> Option<Pid> {
        Pid::from_raw(self.child.id().cast_signed())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let (None, Some(group)) = (self.ended(), self.id()) {
            let _ = kill_process_group(group, Signal::KILL);
            let _ = self.child.wait();
        }
    }
}
