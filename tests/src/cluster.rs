//! A real Kubernetes API server for tests: started once for a test binary, driven by `kubectl` as a user would, a namespace a case.
//!
//! [`control_plane`] and its neighbours run in a process of their own, `kube-cluster`, which ends with the test binary however that
//! ends. What is here talks to it, and to the API server.

mod api;
mod bulk;
pub mod control_plane;
mod flags;
mod namespace;
pub mod node;
mod pki;
mod pods;
mod relay;

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, bail};

pub use self::api::{Api, ApiAnswer};
pub use self::bulk::Bulk;
use self::control_plane::{Facts, Program};
pub use self::namespace::Namespace;
pub use self::pods::Pod;
pub use self::relay::{Asked, Fault, Relay};

/// A running cluster; ends with its handle or with the process that holds it.
#[derive(Debug)]
pub struct Cluster {
    /// Where etcd, kubectl and the others are.
    programs: PathBuf,
    /// Where our own programs are.
    ours: PathBuf,
    facts: Facts,
    api: Api,
    process: Mutex<Process>,
}

/// `kube-cluster`, whose standard input is its lifeline.
#[derive(Debug)]
struct Process {
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
    child: Child,
}

impl Cluster {
    /// Starts one by the program `kube-cluster`, beside which the other programs of this package are.
    pub fn start(program: &str) -> anyhow::Result<Self> {
        Self::start_with(program, &[])
    }

    /// The same with a node that runs Pods; `images` are programs beyond our own, each with the last part of its image's name.
    pub fn start_with_node(program: &str, images: &[(&str, &Path)]) -> anyhow::Result<Self> {
        let mut flags = vec!["--node".to_owned()];
        for (name, path) in images {
            flags.extend(["--image".to_owned(), format!("{name}={}", path.display())]);
        }
        Self::start_with(program, &flags)
    }

    /// The same as [`Self::start`] with an API server that has no streaming lists, as before Kubernetes 1.32.
    pub fn start_without_streaming_lists(program: &str) -> anyhow::Result<Self> {
        Self::start_with(program, &["--no-streaming-lists".to_owned()])
    }

    fn start_with(program: &str, flags: &[String]) -> anyhow::Result<Self> {
        let programs = programs()?;
        let mut child = Command::new(program)
            .arg("--programs")
            .arg(&programs)
            .args(flags)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("start {program}"))?;
        let mut process = Process {
            orders: child.stdin.take().context("no input")?,
            answers: BufReader::new(child.stdout.take().context("no output")?),
            child,
        };
        let line = process.answer()?;
        let facts: Facts =
            serde_json::from_str(&line).context("the cluster did not start; it says why above")?;
        Ok(Self {
            programs,
            ours: Path::new(program).parent().context("no folder")?.to_path_buf(),
            api: Api::new(&facts)?,
            facts,
            process: Mutex::new(process),
        })
    }

    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    pub fn kubeconfig(&self) -> &Path {
        &self.facts.kubeconfig
    }

    /// One of the programs that are built beside `kube-cluster`.
    pub fn program(&self, name: &str) -> PathBuf {
        self.ours.join(name)
    }

    pub fn api(&self) -> &Api {
        &self.api
    }

    /// What `kubectl` prints; an error where it fails, with its words.
    pub fn kubectl(&self, arguments: &[&str], input: &str) -> anyhow::Result<String> {
        let mut child = Command::new(self.programs.join("kubectl"))
            .arg("--kubeconfig")
            .arg(&self.facts.kubeconfig)
            .arg("--cache-dir")
            .arg(self.facts.folder.join("kubectl-cache"))
            // Without it a server that never answers is waited for.
            .args(["--request-timeout", "120s"])
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("start kubectl")?;
        let mut stdin = child.stdin.take().context("no input")?;
        // kubectl reads all of its input before it writes anything; one that does not read it says why below.
        let _ = stdin.write_all(input.as_bytes());
        drop(stdin);
        let output = child.wait_with_output()?;
        if !output.status.success() {
            let words = String::from_utf8_lossy(&output.stderr);
            bail!("kubectl {}: {}", arguments.join(" "), words.trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Creates or changes objects.
    pub fn apply(&self, manifests: &str) -> anyhow::Result<()> {
        let flags = ["apply", "--server-side", "--force-conflicts", "-f", "-"];
        self.kubectl(&flags, manifests).map(drop)
    }

    /// A namespace that nobody else uses, with an IngressClass of the same name; both gone when dropped.
    pub fn namespace(&self, name: &str) -> anyhow::Result<Namespace<'_>> {
        Namespace::create(self, name)
    }

    /// Ends a program of the control plane; it stays down until [`Self::start_program`].
    pub fn stop_program(&self, program: Program) -> anyhow::Result<()> {
        self.order(&format!("stop {}", program.name()))
    }

    pub fn start_program(&self, program: Program) -> anyhow::Result<()> {
        self.start_program_with(program, &[])
    }

    /// With more flags than its own.
    pub fn start_program_with(&self, program: Program, flags: &[&str]) -> anyhow::Result<()> {
        self.order(&[&["start", program.name()], flags].concat().join(" "))
    }

    /// Ends it as nobody should, to see what that leaves behind; its folder stays.
    pub fn kill(self) -> anyhow::Result<()> {
        let process = self.process.into_inner();
        let mut child = process.unwrap_or_else(PoisonError::into_inner).child;
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    fn order(&self, line: &str) -> anyhow::Result<()> {
        let mut process = self.process.lock().unwrap_or_else(PoisonError::into_inner);
        writeln!(process.orders, "{line}")?;
        match process.answer()?.as_str() {
            "ok" => Ok(()),
            other => bail!("{line}: {other}"),
        }
    }
}

impl Process {
    fn answer(&mut self) -> anyhow::Result<String> {
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        Ok(line.trim_end().to_owned())
    }
}

/// From `KUBEBUILDER_ASSETS`, or as `cargo xtask kube build` says, which builds them where they are missing.
fn programs() -> anyhow::Result<PathBuf> {
    if let Some(folder) = std::env::var_os("KUBEBUILDER_ASSETS") {
        return Ok(folder.into());
    }
    let output = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["xtask", "kube", "build"])
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    match text.lines().last() {
        Some(folder) if output.status.success() => Ok(folder.into()),
        _ => bail!("cargo xtask kube build failed: {}", output.status),
    }
}
