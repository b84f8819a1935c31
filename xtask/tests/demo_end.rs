//! The demo as a process: however it is ended, nothing of it stays behind.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Reached only by a failing test: on the way there may be a build.
const DEADLINE: Duration = Duration::from_secs(600);
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// A process that cannot be taken for a later one of the same number: its number and when it was started.
type Process = (u32, u64);

/// Each demo builds before it starts what it built. Where there is something to build, one would replace the programs under the other.
static STARTING: Mutex<()> = Mutex::new(());

struct Demo {
    child: Child,
    /// Its temporary folder.
    folder: PathBuf,
}

impl Demo {
    /// Started on ports that the kernel chooses; returns once everything is up.
    fn start() -> Self {
        let _one = STARTING.lock().unwrap_or_else(PoisonError::into_inner);
        let any = ["--http", "--https", "--admin"].map(|flag| [flag, "127.0.0.1:0"]);
        let mut child = Command::new(env!("CARGO_BIN_EXE_xtask"))
            .arg("demo")
            .args(any.as_flattened())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            // As in a terminal: Ctrl-C reaches all that is in its group.
            .process_group(0)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut wait_for = |start: &str, end: &str| {
            let found = lines
                .by_ref()
                .map_while(Result::ok)
                .find_map(|line| Some(line.strip_prefix(start)?.strip_suffix(end)?.to_owned()));
            found.unwrap_or_else(|| panic!("the demo never said {start:?}"))
        };
        let manifests = wait_for("Change a file below ", " and ask again.");
        wait_for("Ctrl-C ends everything.", "");
        // Read on, so that it never waits for us.
        std::thread::spawn(move || lines.map_while(Result::ok).for_each(drop));
        let folder = Path::new(&manifests).parent().unwrap().to_path_buf();
        assert!(folder.join("manifests").is_dir());
        Self { child, folder }
    }

    /// Everything that it has started, directly or not.
    fn descendants(&self) -> BTreeSet<Process> {
        let all = processes();
        let mut found = BTreeSet::new();
        let mut parents = vec![self.child.id()];
        while let Some(parent) = parents.pop() {
            for &(process, its_parent) in &all {
                if its_parent == parent && found.insert(process) {
                    parents.push(process.0);
                }
            }
        }
        found
    }

    /// `target` as `kill` has it: a process, or with a minus its group.
    fn signal(&self, signal: &str, target: &str) {
        let command = format!("kill -{signal} {target}{}", self.child.id());
        assert!(
            Command::new("sh")
                .args(["-c", &command])
                .status()
                .unwrap()
                .success()
        );
    }

    fn ended(&mut self) -> ExitStatus {
        let mut status = None;
        wait("the demo ends", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap()
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        // Only a failing test leaves one running; its children go when it does.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// All processes with their parents.
fn processes() -> Vec<(Process, u32)> {
    let entries = std::fs::read_dir("/proc").unwrap().map_while(Result::ok);
    entries
        .filter_map(|entry| {
            let id = entry.file_name().to_str()?.parse().ok()?;
            let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
            // After the name, which may contain anything: state, parent, … and as the twentieth from there the start.
            let fields: Vec<_> = stat.rsplit_once(')')?.1.split_whitespace().collect();
            let is_over = matches!(*fields.first()?, "Z" | "X");
            let started = fields.get(19)?.parse().ok()?;
            (!is_over).then_some(((id, started), fields.get(1)?.parse().ok()?))
        })
        .collect()
}

fn left(of: &BTreeSet<Process>) -> Vec<Process> {
    let all = processes().into_iter().map(|(process, _)| process);
    all.filter(|process| of.contains(process)).collect()
}

fn wait(what: &str, mut so: impl FnMut() -> bool) {
    let until = Instant::now() + DEADLINE;
    while !so() {
        assert!(Instant::now() < until, "not in time: {what}");
        std::thread::sleep(LOOK_AGAIN);
    }
}

/// The agent, its guard, and as many backends as the examples name.
fn assert_whole(descendants: &BTreeSet<Process>) {
    assert!(descendants.len() > 5, "{descendants:?}");
}

#[test]
fn ctrl_c_and_sigterm_end_everything_cleanly() {
    for (signal, target) in [("INT", "-"), ("TERM", "")] {
        let mut demo = Demo::start();
        let descendants = demo.descendants();
        assert_whole(&descendants);
        demo.signal(signal, target);
        assert!(demo.ended().success(), "{signal}");
        assert_eq!(left(&descendants), [], "{signal}: all had ended before it did");
        assert!(!demo.folder.exists(), "{signal}");
    }
}

#[test]
fn a_demo_that_is_killed_leaves_no_process_behind() {
    let mut demo = Demo::start();
    let descendants = demo.descendants();
    assert_whole(&descendants);
    demo.signal("KILL", "");
    assert!(!demo.ended().success());
    wait("all that it had started has ended", || {
        left(&descendants).is_empty()
    });
    // Nobody was left to put this away.
    std::fs::remove_dir_all(&demo.folder).unwrap();
}
