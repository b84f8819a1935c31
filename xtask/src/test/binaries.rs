//! Builds every test binary of the workspace and runs them one after the other, each within a bounded time.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde::Deserialize;

use super::{Details, Report};
use crate::libtest::{self, Line, Outcome, Verdict};
use crate::workspace;

/// A binary that takes longer hangs: none takes a tenth of this where nothing else runs.
const AT_MOST: Duration = Duration::from_mins(20);
/// What a program that has ended left behind may hold its streams open, and is not waited for.
const LEFT_BEHIND: Duration = Duration::from_secs(10);
const LOOK_AGAIN: Duration = Duration::from_millis(200);
/// As many lines as are kept of a program that ends without a result, and of a failed test.
const LAST_LINES: usize = 100;
const LINES_OF_A_TEST: usize = 2000;

/// A built test binary.
pub(super) struct Binary {
    /// The package for a library, the target for anything else: `ingress-core`, `it`.
    pub(super) name: String,
    program: PathBuf,
    /// Tests expect to run in their package's folder, as under cargo.
    folder: PathBuf,
    /// Beyond what we have ourselves.
    environment: Vec<(&'static str, PathBuf)>,
}

/// The line of cargo's JSON that tells of a built artifact.
#[derive(Deserialize)]
struct Artifact {
    reason: String,
    package_id: String,
    manifest_path: PathBuf,
    target: Target,
    profile: ArtifactProfile,
    executable: Option<PathBuf>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
    kind: Vec<String>,
}

#[derive(Deserialize)]
struct ArtifactProfile {
    test: bool,
}

pub(super) fn build() -> anyhow::Result<Vec<Binary>> {
    let output = workspace::cargo()
        .args(["test", "--workspace", "--no-run", "--locked"])
        .args(["--message-format", "json-render-diagnostics"])
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .context("start cargo")?;
    if !output.status.success() {
        bail!("the tests do not compile; the compiler's messages are above");
    }
    let text = String::from_utf8_lossy(&output.stdout);
    // Other messages have other fields and do not concern us.
    let artifacts = text
        .lines()
        .filter_map(|line| serde_json::from_str::<Artifact>(line).ok());
    let mut binaries: Vec<_> = artifacts.filter_map(Binary::of).collect();
    binaries.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(binaries)
}

impl Binary {
    fn of(artifact: Artifact) -> Option<Self> {
        if artifact.reason != "compiler-artifact" || !artifact.profile.test {
            return None;
        }
        let is_library = artifact.target.kind.iter().any(|kind| kind.ends_with("lib"));
        let name = if is_library {
            package_name(&artifact.package_id)
        } else {
            artifact.target.name
        };
        Some(Self {
            name,
            program: artifact.executable?,
            folder: artifact.manifest_path.parent()?.to_path_buf(),
            environment: Vec::new(),
        })
    }

    pub(super) fn env(&mut self, name: &'static str, value: &Path) {
        self.environment.push((name, value.to_path_buf()));
    }

    pub(super) fn run(&self, filter: Option<&str>, report: &mut Report) -> anyhow::Result<()> {
        // Some tests hold a thousand connections; a shell raises the bound on descriptors to what the machine allows.
        let mut command = Command::new("sh");
        command.args([
            "-c",
            "ulimit -Sn 65536 || ulimit -Sn $(ulimit -Hn); exec \"$0\" \"$@\"",
        ]);
        command.arg(&self.program);
        command.args(filter).current_dir(&self.folder);
        command.env("CARGO_MANIFEST_DIR", &self.folder);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        follow(&self.name, command, report)
    }
}

/// `path+file:///repo/ingress-core#0.1.0` or `path+file:///repo/tests#ingress-tests@0.1.0`.
fn package_name(id: &str) -> String {
    let (path, fragment) = id.split_once('#').unwrap_or((id, ""));
    match fragment.split_once('@') {
        Some((name, _)) => name.to_owned(),
        None => Path::new(path)
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned(),
    }
}

/// Examples in documentation: only cargo can run them.
pub(super) fn doc_tests(filter: Option<&str>, report: &mut Report) -> anyhow::Result<()> {
    println!("doc");
    let mut command = workspace::cargo();
    command
        .args(["test", "--workspace", "--doc", "--locked", "--"])
        .args(filter);
    follow("doc", command, report)
}

/// Runs it, shows what it prints, and notes each test; of those that fail, what they printed.
pub(super) fn follow(name: &str, command: Command, report: &mut Report) -> anyhow::Result<()> {
    let mut reading = Reading::new(name);
    let status = stream(name, command, |line| reading.line(line, report))?;
    let Reading {
        failures, has_result, ..
    } = reading;
    let how = match status {
        Ended::TooLate => format!("did not end within {} minutes", AT_MOST.as_secs() / 60),
        // An abort or a signal leaves no failed test behind, and must not pass for success.
        Ended::By(status) if !status.success() && failures == 0 || status.success() && !has_result => {
            format!("ended without a result: {status}")
        }
        Ended::By(_) => return Ok(()),
    };
    report.problems.push(format!("{name}: {how}"));
    report.details.push(Details {
        of: format!("{name}: {how}; its last lines"),
        lines: reading.last.into(),
    });
    Ok(())
}

/// Runs it, shows what it prints; keeps the last of it where it fails.
pub(super) fn run_step(name: &str, command: Command, report: &mut Report) -> anyhow::Result<()> {
    let mut last = VecDeque::new();
    let how = match stream(name, command, |line| keep_last(&mut last, line))? {
        Ended::By(status) if status.success() => return Ok(()),
        Ended::By(status) => format!("{name} failed: {status}"),
        Ended::TooLate => format!("{name} did not end within {} minutes", AT_MOST.as_secs() / 60),
    };
    report.problems.push(how.clone());
    report.details.push(Details {
        of: format!("{how}; its last lines"),
        lines: last.into(),
    });
    Ok(())
}

enum Ended {
    By(ExitStatus),
    TooLate,
}

fn stream(name: &str, command: Command, mut tell: impl FnMut(&str)) -> anyhow::Result<Ended> {
    let (mut child, lines) = start(command).with_context(|| name.to_owned())?;
    let until = Instant::now() + AT_MOST;
    let mut over: Option<Instant> = None;
    loop {
        let mut is_closed = false;
        match lines.recv_timeout(LOOK_AGAIN) {
            Ok(line) => {
                println!("  {line}");
                tell(&line);
                continue;
            }
            Err(RecvTimeoutError::Disconnected) => {
                is_closed = true;
                std::thread::sleep(LOOK_AGAIN / 10);
            }
            Err(RecvTimeoutError::Timeout) => {}
        }
        if let Some(status) = child.try_wait()? {
            if is_closed || over.get_or_insert_with(Instant::now).elapsed() > LEFT_BEHIND {
                return Ok(Ended::By(status));
            }
        } else if Instant::now() > until {
            child.kill()?;
            child.wait()?;
            return Ok(Ended::TooLate);
        }
    }
}

/// What was read of one program so far.
struct Reading<'a> {
    name: &'a str,
    failures: usize,
    has_result: bool,
    last: VecDeque<String>,
    /// The lines are this test's: it has failed, and printed them.
    of: Option<String>,
}

impl<'a> Reading<'a> {
    fn new(name: &'a str) -> Self {
        Self {
            name,
            failures: 0,
            has_result: false,
            last: VecDeque::new(),
            of: None,
        }
    }

    fn line(&mut self, line: &str, report: &mut Report) {
        keep_last(&mut self.last, line);
        match libtest::parse(line) {
            Line::Test { path, verdict } => {
                let name = format!("{} {path}", self.name);
                let failed = verdict == Verdict::Failed;
                self.failures += usize::from(failed);
                // The demo tells what was wrong right after the line itself.
                self.of = failed.then(|| name.clone());
                report.tests.push(Outcome { name, verdict });
            }
            Line::OutputOf(path) => self.of = Some(format!("{} {path}", self.name)),
            Line::Failures => self.of = None,
            Line::Skipped(why) => {
                let skipped = format!("{}: {why}", self.name);
                // Many tests may lack the same thing.
                if !report.skipped.contains(&skipped) {
                    report.skipped.push(skipped);
                }
            }
            Line::Result => {
                self.has_result = true;
                self.of = None;
            }
            Line::Other => {
                if let Some(of) = &self.of {
                    report.printed(of, line, LINES_OF_A_TEST);
                }
            }
        }
    }
}

fn keep_last(last: &mut VecDeque<String>, line: &str) {
    if last.len() == LAST_LINES {
        last.pop_front();
    }
    last.push_back(line.to_owned());
}

/// Both of its outputs as one stream of whole lines. Not by one pipe: libtest writes a test's name and its result one after the other, and
/// what a program that a test starts says meanwhile would come between the two.
fn start(mut command: Command) -> anyhow::Result<(Child, Receiver<String>)> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| command.get_program().display().to_string())?;
    let (tell, lines) = channel();
    let (output, errors) = (child.stdout.take(), child.stderr.take());
    read_lines(output.context("no output")?, tell.clone())?;
    read_lines(errors.context("no standard error")?, tell)?;
    Ok((child, lines))
}

fn read_lines(stream: impl Read + Send + 'static, tell: Sender<String>) -> anyhow::Result<()> {
    std::thread::Builder::new().spawn(move || {
        for line in BufReader::new(stream).split(b'\n').map_while(Result::ok) {
            if tell.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                return;
            }
        }
    })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_is_named_by_both_forms_of_its_id() {
        assert_eq!(
            package_name("path+file:///repo/ingress-core#0.1.0"),
            "ingress-core"
        );
        assert_eq!(
            package_name("path+file:///repo/tests#ingress-tests@0.1.0"),
            "ingress-tests"
        );
    }

    #[test]
    fn a_binary_that_ends_without_a_result_is_a_problem() {
        let mut report = Report::default();
        let mut command = Command::new("sh");
        command.args(["-c", "echo 'test a ... ok'; kill -ABRT $$"]);
        follow("x", command, &mut report).unwrap();
        assert_eq!(report.tests.len(), 1);
        assert_eq!(report.problems.len(), 1);
    }

    #[test]
    fn a_result_is_read_whatever_else_is_said_meanwhile() {
        let mut report = Report::default();
        let mut command = Command::new("sh");
        let words =
            "printf 'test a ... '; echo 'skipped: no moon' >&2; sleep 0.1; echo ok; echo 'test result: ok.'";
        command.args(["-c", words]);
        follow("x", command, &mut report).unwrap();
        assert_eq!((report.passed(), report.failed()), (1, 0));
        assert_eq!(report.skipped, ["x: no moon"]);
    }

    #[test]
    fn what_a_program_leaves_behind_is_not_waited_for() {
        let mut command = Command::new("sh");
        command.args([
            "-c",
            "sleep 100 & echo $!; echo 'test a ... ok'; echo 'test result: ok.'",
        ]);
        let (begun, mut left) = (Instant::now(), String::new());
        let ended = stream("x", command, |line| {
            if line.parse::<u32>().is_ok() {
                left = line.to_owned();
            }
        });
        assert!(matches!(ended.unwrap(), Ended::By(status) if status.success()));
        let is_there = Path::new("/proc").join(&left).exists();
        drop(Command::new("sh").args(["-c", &format!("kill {left}")]).status());
        assert!(
            is_there,
            "ended before what it left behind, after {:?}",
            begun.elapsed()
        );
    }

    #[test]
    fn a_failed_test_is_counted_once() {
        let mut report = Report::default();
        let mut command = Command::new("sh");
        command.args([
            "-c",
            "echo 'test a ... FAILED'; echo 'test result: FAILED.'; exit 101",
        ]);
        follow("x", command, &mut report).unwrap();
        assert_eq!((report.failed(), report.problems.len()), (1, 0));
    }

    #[test]
    fn what_a_failed_test_printed_is_kept_for_the_end() {
        let mut report = Report::default();
        let mut command = Command::new("printf");
        let printed = [
            "test a ... FAILED",
            "test b ... FAILED",
            "test c ... ok",
            "",
            "failures:",
            "",
            "---- a stdout ----",
            "left: 1",
            "right: 2",
            "---- b stdout ----",
            "not in time",
            "",
            "failures:",
            "    a",
            "    b",
            "",
            "test result: FAILED. 1 passed; 2 failed",
        ];
        command.arg(format!("{}\n", printed.join("\\n")));
        follow("x", command, &mut report).unwrap();
        let details: Vec<_> = report
            .details
            .iter()
            .map(|d| (&d.of[..], d.lines.join("\n")))
            .collect();
        let of_b = ("x b", "not in time\n".to_owned());
        assert_eq!(details, [("x a", "left: 1\nright: 2".to_owned()), of_b]);
    }

    #[test]
    fn what_a_failed_line_of_the_demo_says_is_kept_for_the_end() {
        let mut report = Report::default();
        let mut command = Command::new("printf");
        command.arg("test a redirect ... FAILED\\n    status is 200\\ntest b ... ok\\ntest result: FAILED. 1 passed\\n");
        follow("demo", command, &mut report).unwrap();
        let [details] = &report.details[..] else {
            panic!("{:?}", report.details);
        };
        assert_eq!(details.of, "demo a redirect");
        assert_eq!(details.lines, ["    status is 200"]);
    }

    #[test]
    fn the_last_lines_of_a_program_that_ends_without_a_result_are_kept_for_the_end() {
        let mut report = Report::default();
        let mut command = Command::new("sh");
        command.args([
            "-c",
            "echo 'test a ... ok'; echo 'malloc(): corrupted'; kill -ABRT $$",
        ]);
        follow("x", command, &mut report).unwrap();
        assert_eq!(report.details[0].lines, ["test a ... ok", "malloc(): corrupted"]);
    }
}
