//! `cargo xtask kube`: a real Kubernetes API server for tests and for playing, as plain processes on loopback.
//!
//! Which programs, and how they are built, is `build`'s; how they run is the test package's (`kube-cluster`), so that a developer
//! gets exactly the cluster that the tests have.

mod build;
mod cert_manager;
mod modules;
mod pins;
mod suite;

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};

pub(crate) use self::build::{helm, programs};
pub(crate) use self::cert_manager::cert_manager;
pub(crate) use self::modules::pod_monitors;
pub(crate) use self::suite::suite;
use crate::interrupt::{Ended, Interrupt};
use crate::workspace::{self, Profile};

const ENDS_WITHIN: Duration = Duration::from_secs(30);
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// What some tests need beside the API server, and may do without.
pub(crate) enum Extra {
    /// Where it is.
    Built(PathBuf),
    /// It can't be had, and why.
    Missing(String),
}

#[derive(clap::Args)]
pub(crate) struct Options {
    #[command(subcommand)]
    task: Task,
}

#[derive(clap::Subcommand)]
enum Task {
    /// Build etcd, kube-apiserver, kube-controller-manager and kubectl once, unless KUBEBUILDER_ASSETS names them.
    Build,
    /// Build the Kubernetes project's Ingress suite once; `cargo xtask test` runs it.
    Suite,
    /// Build cert-manager and the ACME server Pebble once; `cargo xtask test` has them issue certificates.
    CertManager,
    /// Start a cluster and print how to talk to it; Ctrl-C or `cargo xtask kube down` ends it.
    Up,
    /// End the cluster that `up` started.
    Down,
    /// Whether a cluster runs, and whether it is ready.
    Status,
}

pub(crate) fn run(options: &Options) -> anyhow::Result<ExitCode> {
    match options.task {
        Task::Build => {
            // The one line on standard output: for scripts.
            println!("{}", programs()?.display());
            Ok(ExitCode::SUCCESS)
        }
        Task::Suite => shown(suite()?, "the Ingress suite"),
        Task::CertManager => shown(cert_manager(), "cert-manager"),
        Task::Up => up(),
        Task::Down => down(),
        Task::Status => status(),
    }
}

fn shown(extra: Extra, what: &str) -> anyhow::Result<ExitCode> {
    match extra {
        Extra::Built(folder) => {
            println!("{}", folder.display());
            Ok(ExitCode::SUCCESS)
        }
        Extra::Missing(why) => bail!("{what} can't be had: {why}"),
    }
}

/// What `up` leaves for `down` and `status`.
#[derive(Serialize, Deserialize)]
struct Running {
    /// Of the `up` that waits for its end.
    pid: u32,
    kubeconfig: PathBuf,
    kubectl: PathBuf,
}

/// The part of what `kube-cluster` prints that matters here.
#[derive(Deserialize)]
struct Facts {
    kubeconfig: PathBuf,
    api_port: u16,
}

fn up() -> anyhow::Result<ExitCode> {
    let interrupt = Interrupt::catch()?;
    // Held until we end, however that happens: the kernel gives it back.
    let lock = File::create(own("up.lock")?)?;
    if lock.try_lock().is_err() {
        bail!(
            "a cluster runs already: `cargo xtask kube status` says where, `cargo xtask kube down` ends it"
        );
    }
    let programs = programs()?;
    println!("Building what starts them …");
    let ours = workspace::build("ingress-tests", Profile::Dev)?;
    let mut cluster = start(&ours.join("kube-cluster"), &programs)?;
    let Some(facts) = first_line(&mut cluster, &interrupt)? else {
        end(&mut cluster)?;
        return Ok(ExitCode::FAILURE);
    };
    let running = Running {
        pid: std::process::id(),
        kubeconfig: facts.kubeconfig.clone(),
        kubectl: programs.join("kubectl"),
    };
    std::fs::write(own("up.json")?, serde_json::to_string(&running)?)?;
    introduce(&running, facts.api_port);
    let ended = interrupt.or_exit_of(&mut cluster);
    std::fs::remove_file(own("up.json")?)?;
    match ended? {
        Ended::Interrupted => {
            println!("\nEnding: API server, controllers, etcd, their data.");
            end(&mut cluster)?;
            Ok(ExitCode::SUCCESS)
        }
        Ended::Exited(status) => bail!("the cluster ended by itself: {status}"),
    }
}

/// In a process group of its own: Ctrl-C on the terminal reaches only us, and what we started ends with its input.
fn start(program: &Path, programs: &Path) -> anyhow::Result<Child> {
    use std::os::unix::process::CommandExt;
    let child = Command::new(program)
        .arg("--programs")
        .arg(programs)
        .args(if is_root() { ["--node"].as_slice() } else { &[] })
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .process_group(0)
        .spawn();
    child.with_context(|| format!("start {}", program.display()))
}

/// A node that runs Pods needs network namespaces.
pub(crate) fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}

/// None when interrupted.
fn first_line(cluster: &mut Child, interrupt: &Interrupt) -> anyhow::Result<Option<Facts>> {
    let mut output = BufReader::new(cluster.stdout.take().context("no output")?);
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::Builder::new().spawn(move || {
        let mut line = String::new();
        // A stream that breaks is one that ends.
        let _ = output.read_line(&mut line);
        let _ = tell.send(line);
    })?;
    while !interrupt.within(LOOK_AGAIN) {
        if let Ok(line) = told.try_recv() {
            return serde_json::from_str(&line)
                .map(Some)
                .context("the cluster did not start; it says why above");
        }
    }
    Ok(None)
}

/// Closes its input, which is what it waits for.
fn end(cluster: &mut Child) -> anyhow::Result<()> {
    drop(cluster.stdin.take());
    let until = Instant::now() + ENDS_WITHIN;
    while cluster.try_wait()?.is_none() {
        if Instant::now() > until {
            cluster.kill()?;
        }
        std::thread::sleep(LOOK_AGAIN);
    }
    Ok(())
}

fn introduce(running: &Running, port: u16) {
    let (kubeconfig, kubectl) = (running.kubeconfig.display(), running.kubectl.display());
    println!("\nKubernetes API on https://127.0.0.1:{port}.");
    println!(
        "{}\n",
        if is_root() {
            "One node runs Pods as processes, of the images ingress-agent and echo-backend (whatever stands before the name and behind it)."
        } else {
            "There is no node: running Pods needs root."
        }
    );
    println!("  export KUBECONFIG={kubeconfig}");
    println!("  alias kubectl={kubectl}");
    println!("  kubectl get --raw /readyz");
    println!("  kubectl api-resources --api-group networking.k8s.io");
    println!("  kubectl create ingress web --class ingress-agent --rule 'web.example.test/*=web:80'");
    println!("  kubectl get ingress -A --watch");
    if is_root() {
        println!(
            "  kubectl apply --server-side -f deploy/manifests/install.yaml    # the agent, on the node's ports 80 and 443"
        );
        println!("  kubectl get nodes,pods -A -o wide");
    }
    println!("\nCtrl-C, or `cargo xtask kube down` elsewhere, ends everything and removes its data.");
}

fn down() -> anyhow::Result<ExitCode> {
    let Some(running) = running()? else {
        println!("No cluster runs.");
        return Ok(ExitCode::SUCCESS);
    };
    // std can only send SIGKILL.
    let sent = Command::new("sh")
        .args(["-c", &format!("kill -TERM {}", running.pid)])
        .status()?;
    if !sent.success() {
        bail!("process {} could not be told to end", running.pid);
    }
    let until = Instant::now() + ENDS_WITHIN;
    while is_up()? {
        if Instant::now() > until {
            bail!("process {} did not end within {ENDS_WITHIN:?}", running.pid);
        }
        std::thread::sleep(LOOK_AGAIN);
    }
    println!("Ended.");
    Ok(ExitCode::SUCCESS)
}

fn status() -> anyhow::Result<ExitCode> {
    let Some(running) = running()? else {
        println!("No cluster runs. `cargo xtask kube up` starts one.");
        return Ok(ExitCode::FAILURE);
    };
    println!(
        "Process {}, export KUBECONFIG={}",
        running.pid,
        running.kubeconfig.display()
    );
    let status = Command::new(&running.kubectl)
        .arg("--kubeconfig")
        .arg(&running.kubeconfig)
        .args(["get", "--raw", "/readyz?verbose", "--request-timeout", "5s"])
        .stdin(Stdio::null())
        .status()
        .with_context(|| running.kubectl.display().to_string())?;
    Ok(if status.success() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// What runs, as long as its lock is held: a file alone could be a leftover, and its process id another's by now.
fn running() -> anyhow::Result<Option<Running>> {
    if !is_up()? {
        return Ok(None);
    }
    match std::fs::read_to_string(own("up.json")?) {
        Ok(text) => Ok(Some(serde_json::from_str(&text)?)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            bail!("a cluster starts or ends just now; try again")
        }
        Err(error) => Err(error.into()),
    }
}

fn is_up() -> anyhow::Result<bool> {
    let lock = File::create(own("up.lock")?)?;
    Ok(lock.try_lock().is_err())
}

fn own(file: &str) -> anyhow::Result<PathBuf> {
    let folder = build::cache();
    std::fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    Ok(folder.join(file))
}
