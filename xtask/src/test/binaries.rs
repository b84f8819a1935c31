//! Builds every test binary of the workspace and runs them one after the other, each within a bounded time.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde::Deserialize;

use super::Report;
use super::libtest::{self, Line, Outcome};
use crate::workspace;

/// A binary that takes longer hangs.
const AT_MOST: Duration = Duration::from_mins(10);

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
        let mut command = Command::new(&self.program);
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

/// Runs it, shows what it prints, and notes each test.
pub(super) fn follow(name: &str, command: Command, report: &mut Report) -> anyhow::Result<()> {
    let (mut child, lines) = start(command)?;
    let until = Instant::now() + AT_MOST;
    let mut failures = 0;
    let mut has_result = false;
    loop {
        let line = match lines.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(line) => line,
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {
                child.kill()?;
                let text = format!("{name}: did not end within {} minutes", AT_MOST.as_secs() / 60);
                report.problems.push(text);
                break;
            }
        };
        println!("  {line}");
        match libtest::parse(&line) {
            Line::Test { path, verdict } => {
                failures += usize::from(verdict == libtest::Verdict::Failed);
                let name = format!("{name} {path}");
                report.tests.push(Outcome { name, verdict });
            }
            Line::Skipped(why) => report.skipped.push(format!("{name}: {why}")),
            Line::Result => has_result = true,
            Line::Other => {}
        }
    }
    let status = child.wait()?;
    // An abort or a signal leaves no failed test behind, and must not pass for success.
    if !status.success() && failures == 0 || status.success() && !has_result {
        report
            .problems
            .push(format!("{name}: ended without a result: {status}"));
    }
    Ok(())
}

/// Both of its outputs as one stream of lines, in the order in which they were written.
fn start(mut command: Command) -> anyhow::Result<(Child, Receiver<String>)> {
    let (reader, writer) = std::io::pipe()?;
    let child = command
        .stdin(Stdio::null())
        .stdout(writer.try_clone()?)
        .stderr(writer)
        .spawn()
        .with_context(|| command.get_program().display().to_string())?;
    // It keeps our copies of the pipe's writing end; the stream ends only when they are gone.
    drop(command);
    let (tell, lines) = channel();
    std::thread::Builder::new().spawn(move || {
        for line in BufReader::new(reader).split(b'\n').map_while(Result::ok) {
            if tell.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                return;
            }
        }
    })?;
    Ok((child, lines))
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
}
