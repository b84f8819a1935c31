//! The agent as a process: for what only shows there, such as its output and what signals do.

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde_json::Value;

/// Long enough for a machine that is ten times slower than it should be; reached only by a failing test.
const DEADLINE: Duration = Duration::from_secs(90);

/// A running process of the agent with its output so far; killed when dropped.
#[derive(Debug)]
pub struct AgentProcess {
    pub http: SocketAddr,
    pub https: SocketAddr,
    pub admin: SocketAddr,
    child: Child,
    /// Standard output while nobody reads it.
    unread: Option<ChildStdout>,
    output: Lines,
    log: Lines,
}

impl AgentProcess {
    /// Starts `program run` on these manifests, on ports that the kernel chooses, with its logs as JSON.
    pub fn start(program: &str, manifests: &Path, flags: &[&str]) -> anyhow::Result<Self> {
        let mut started = Self::start_unread(program, manifests, flags)?;
        started.read_output();
        Ok(started)
    }

    /// The same, and nobody reads its access log until [`Self::read_output`]: a pipe that fills.
    pub fn start_unread(program: &str, manifests: &Path, flags: &[&str]) -> anyhow::Result<Self> {
        Self::start_from(program, ("--manifests", manifests), flags)
    }

    /// Served from a cluster in place of a folder.
    pub fn start_in_cluster(program: &str, kubeconfig: &Path, flags: &[&str]) -> anyhow::Result<Self> {
        let mut started = Self::start_from(program, ("--kubeconfig", kubeconfig), flags)?;
        started.read_output();
        Ok(started)
    }

    fn start_from(program: &str, (source, path): (&str, &Path), flags: &[&str]) -> anyhow::Result<Self> {
        let mut command = Command::new(program);
        command
            .args(["run", "--http", "127.0.0.1:0", "--https", "127.0.0.1:0"])
            .args(["--admin", "127.0.0.1:0", "--log-format", "json"])
            .args(["--kernel", "off"])
            .args(if flags.contains(&"--workers") {
                [].as_slice()
            } else {
                &["--workers", "2"]
            })
            .arg(source)
            .arg(path)
            .args(flags);
        Self::watch(&mut command)
    }

    /// Starts a whole command line that ends in an agent with `--log-format json`, and waits until it serves.
    pub fn watch(command: &mut Command) -> anyhow::Result<Self> {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("starting {command:?}"))?;
        let unread = Some(child.stdout.take().context("no output")?);
        let log = Lines::of(child.stderr.take().context("no log")?);
        let mut started = Self {
            http: SocketAddr::from(([127, 0, 0, 1], 0)),
            https: SocketAddr::from(([127, 0, 0, 1], 0)),
            admin: SocketAddr::from(([127, 0, 0, 1], 0)),
            child,
            unread,
            output: Lines::default(),
            log,
        };
        let serving = started.log_line("that it serves", |line| line["message"] == "serving")?;
        let address = |listener: &str| {
            let all = serving[listener].as_str().unwrap_or_default();
            let text = all.split(", ").next().unwrap_or_default();
            // Port 0 of loopback, where nobody listens.
            let text = if text == "off" { "127.0.0.1:0" } else { text };
            let parsed: Result<SocketAddr, _> = text.parse();
            parsed.with_context(|| format!("address {text:?} in {serving}"))
        };
        (started.http, started.https) = (address("http")?, address("https")?);
        started.admin = address("admin")?;
        Ok(started)
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Ends the process as a fault would: no signal handler, no drain.
    pub fn kill(mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// From now on its standard output is read.
    pub fn read_output(&mut self) {
        if let Some(output) = self.unread.take() {
            self.output = Lines::of(output);
        }
    }

    /// The first line of the agent's own log that is wanted.
    pub fn log_line(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> anyhow::Result<Value> {
        self.log.wait_for(what, wanted)
    }

    /// All lines of the agent's own log so far that are wanted.
    pub fn log_lines(&self, wanted: impl Fn(&Value) -> bool) -> Vec<Value> {
        self.log.all().into_iter().filter(|line| wanted(line)).collect()
    }

    /// The first line of the access log that is wanted.
    pub fn access_log_line(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> anyhow::Result<Value> {
        self.output.wait_for(what, wanted)
    }

    /// Ends the process; all lines of its access log.
    pub fn end(mut self) -> anyhow::Result<Vec<Value>> {
        self.read_output();
        self.terminate()?;
        self.wait()?;
        self.output.to_the_end()
    }

    /// Asks the process to end, as Kubernetes does.
    pub fn terminate(&self) -> anyhow::Result<()> {
        let sent = Command::new("kill").arg(self.child.id().to_string()).status()?;
        anyhow::ensure!(sent.success(), "kill failed");
        Ok(())
    }

    /// Waits for the end; the exit code.
    pub fn wait(&mut self) -> anyhow::Result<Option<i32>> {
        let until = Instant::now() + DEADLINE;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status.code());
            }
            if Instant::now() > until {
                bail!("the process did not end within {DEADLINE:?}");
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for AgentProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The lines of a stream, read on a thread of its own so that the writer never waits.
#[derive(Clone, Debug, Default)]
struct Lines {
    so_far: Arc<Mutex<Vec<String>>>,
    ended: Arc<AtomicBool>,
}

impl Lines {
    fn of(stream: impl Read + Send + 'static) -> Self {
        let lines = Self::default();
        let kept = lines.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(stream).lines().map_while(Result::ok) {
                kept.so_far
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push(line);
            }
            kept.ended.store(true, Ordering::Release);
        });
        lines
    }

    /// What is no JSON comes as a string.
    fn all(&self) -> Vec<Value> {
        let lines = self.so_far.lock().unwrap_or_else(PoisonError::into_inner);
        let parse = |line: &String| serde_json::from_str(line).unwrap_or_else(|_| Value::from(line.as_str()));
        lines.iter().map(parse).collect()
    }

    fn to_the_end(&self) -> anyhow::Result<Vec<Value>> {
        let until = Instant::now() + DEADLINE;
        while !self.ended.load(Ordering::Acquire) {
            if Instant::now() > until {
                bail!("the output did not end within {DEADLINE:?}");
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(self.all())
    }

    fn wait_for(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> anyhow::Result<Value> {
        let until = Instant::now() + DEADLINE;
        loop {
            // Looked at first: what came before the end is then among the lines.
            let is_over = self.ended.load(Ordering::Acquire);
            let all = self.all();
            if let Some(line) = all.iter().find(|line| wanted(line)) {
                return Ok(line.clone());
            }
            if is_over || Instant::now() > until {
                bail!("no line says {what}; there is: {all:#?}");
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}
