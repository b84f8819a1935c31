//! A real etcd, kube-apiserver and kube-controller-manager on loopback, from nothing to ready and back.
//!
//! No kubelet, no scheduler, no kube-proxy: who runs Pods is [`super::node`], where one is wanted. Each program ends with the thread that started the control
//! plane (`setpriv --pdeathsig`), so that thread has to live as long as the cluster is wanted.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};

use super::api::Api;
use super::flags;
use super::node::{Images, Node};
use super::pki::Pki;
use super::pods::PodNetwork;

/// An API server needs ten seconds of a processor, several start at once in a test binary, and the machine may be busy.
const READY_WITHIN: Duration = Duration::from_secs(300);
const ENDS_WITHIN: Duration = Duration::from_secs(20);
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// Somebody else may take a port between our look and the program's bind.
const ATTEMPTS: u32 = 3;

/// What the control plane consists of, in the order in which it starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    Etcd,
    ApiServer,
    ControllerManager,
}

impl Program {
    pub const ALL: [Self; 3] = [Self::Etcd, Self::ApiServer, Self::ControllerManager];

    pub fn name(self) -> &'static str {
        match self {
            Self::Etcd => "etcd",
            Self::ApiServer => "kube-apiserver",
            Self::ControllerManager => "kube-controller-manager",
        }
    }

    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|program| program.name() == name)
    }
}

/// What others need to know of a running cluster.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Facts {
    /// Everything of this cluster: certificates, data, logs.
    pub folder: PathBuf,
    /// May do everything.
    pub kubeconfig: PathBuf,
    pub api_port: u16,
    /// Of etcd, without TLS.
    pub etcd_port: u16,
    /// Who holds the network of pods, and its number; none without root.
    pub pods: Option<(u32, u8)>,
    /// Whether a watch may begin with the list (`sendInitialEvents`), as Kubernetes has it from 1.32 on.
    pub streams_lists: bool,
}

impl Facts {
    /// A line of JSON (audit.k8s.io/v1) for each request of a ServiceAccount.
    pub fn audit_log(&self) -> PathBuf {
        self.folder.join("logs/audit.log")
    }

    pub(super) fn audit_policy(&self) -> PathBuf {
        self.folder.join("audit-policy.yaml")
    }
}

/// Loopback ports, chosen outside the range that the kernel hands out by itself, so that a restarted program finds its own free.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ports {
    pub(super) etcd: u16,
    pub(super) etcd_peer: u16,
    pub(super) api: u16,
    pub(super) controllers: u16,
}

/// Running; ended when dropped.
#[derive(Debug)]
pub struct ControlPlane {
    programs: PathBuf,
    facts: Facts,
    pki: Pki,
    ports: Ports,
    /// Ends before the API server that it writes to.
    node: Option<Node>,
    running: Vec<(Program, Child)>,
    _pods: Option<PodNetwork>,
}

impl ControlPlane {
    /// Starts everything in `folder` from the programs in `programs`, and waits until a Pod could be made.
    pub fn start(programs: &Path, folder: &Path, streams_lists: bool) -> anyhow::Result<Self> {
        for attempt in 1.. {
            match Self::try_start(programs, folder, streams_lists) {
                Err(error)
                    if attempt < ATTEMPTS && format!("{error:#}").contains("address already in use") => {}
                result => return result,
            }
        }
        bail!("no free ports")
    }

    fn try_start(programs: &Path, folder: &Path, streams_lists: bool) -> anyhow::Result<Self> {
        std::fs::create_dir_all(folder.join("logs"))?;
        let ports = Ports::free()?;
        let pods = PodNetwork::create()
            .inspect_err(|error| eprintln!("no pods in this cluster: {error:#}"))
            .ok();
        let mut plane = Self {
            programs: programs.to_path_buf(),
            facts: Facts {
                folder: folder.to_path_buf(),
                kubeconfig: folder.join("kubeconfig"),
                api_port: ports.api,
                etcd_port: ports.etcd,
                pods: pods.as_ref().map(PodNetwork::facts),
                streams_lists,
            },
            pki: Pki::write(&folder.join("pki"))?,
            ports,
            node: None,
            running: Vec::new(),
            _pods: pods,
        };
        std::fs::write(plane.facts.audit_policy(), flags::AUDIT_POLICY)?;
        plane.write_kubeconfig("admin", &plane.facts.kubeconfig)?;
        plane.write_kubeconfig("kube-controller-manager", &folder.join("controllers.kubeconfig"))?;
        for program in Program::ALL {
            plane.start_program(program, &[])?;
        }
        let account = "/api/v1/namespaces/default/serviceaccounts/default";
        plane.wait_for(Program::ControllerManager, account)?;
        Ok(plane)
    }

    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// Adds a node that runs Pods from these programs.
    pub fn start_node(&mut self, images: Images) -> anyhow::Result<()> {
        self.node = Some(Node::start(&self.facts, images)?);
        Ok(())
    }

    /// Starts one, with more flags than its own, and waits until the API server answers where it is that one.
    pub fn start_program(&mut self, program: Program, flags: &[&str]) -> anyhow::Result<()> {
        if self.running.iter().any(|(running, _)| *running == program) {
            bail!("{} runs already", program.name());
        }
        let path = self.programs.join(program.name());
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.log(program))?;
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--"])
            .arg(&path)
            .args(flags::of(program, &self.facts, &self.pki, self.ports))
            .args(flags)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("start {} (setpriv of util-linux is needed)", path.display()))?;
        self.running.push((program, child));
        match program {
            Program::ApiServer => self.wait_for(program, "/readyz"),
            Program::Etcd | Program::ControllerManager => Ok(()),
        }
    }

    /// As an administrator would: SIGTERM, and SIGKILL if that takes too long.
    pub fn stop(&mut self, program: Program) -> anyhow::Result<()> {
        let at = self.running.iter().position(|(running, _)| *running == program);
        let (_, mut child) = self
            .running
            .remove(at.with_context(|| format!("{} does not run", program.name()))?);
        Command::new("kill").arg(child.id().to_string()).status()?;
        let until = Instant::now() + ENDS_WITHIN;
        while child.try_wait()?.is_none() {
            if Instant::now() > until {
                child.kill()?;
            }
            std::thread::sleep(LOOK_AGAIN);
        }
        Ok(())
    }

    fn log(&self, program: Program) -> PathBuf {
        self.facts
            .folder
            .join("logs")
            .join(format!("{}.log", program.name()))
    }

    /// Waits until this path is there, as long as all programs run.
    fn wait_for(&mut self, program: Program, path: &str) -> anyhow::Result<()> {
        let api = Api::new(&self.facts)?;
        let until = Instant::now() + READY_WITHIN;
        while !api.get(path).is_ok_and(|answer| answer.status == 200) {
            for (running, child) in &mut self.running {
                if let Some(status) = child.try_wait()? {
                    let name = running.name();
                    let running = *running;
                    bail!(
                        "{name} ended: {status}; its log ends with:\n{}",
                        self.log_end(running)
                    );
                }
            }
            if Instant::now() > until {
                bail!(
                    "{path} is not there within {READY_WITHIN:?}; the log of {} ends with:\n{}",
                    program.name(),
                    self.log_end(program)
                );
            }
            std::thread::sleep(LOOK_AGAIN);
        }
        Ok(())
    }

    fn log_end(&self, program: Program) -> String {
        const SHOWN: u64 = 4000;
        let mut bytes = Vec::new();
        if let Ok(mut file) = File::open(self.log(program)) {
            let length = file.metadata().map_or(0, |meta| meta.len());
            let _ = file.seek(SeekFrom::Start(length.saturating_sub(SHOWN)));
            let _ = file.read_to_end(&mut bytes);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }

    fn write_kubeconfig(&self, user: &str, path: &Path) -> anyhow::Result<()> {
        let file = |name: String| self.pki.file(&name).display().to_string();
        let config = serde_json::json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "lab",
            "clusters": [{"name": "lab", "cluster": {
                "server": format!("https://127.0.0.1:{}", self.ports.api),
                "certificate-authority": file("ca.crt".to_owned())}}],
            "users": [{"name": user, "user": {
                "client-certificate": file(format!("{user}.crt")),
                "client-key": file(format!("{user}.key"))}}],
            "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": user}}],
        });
        // JSON is YAML.
        std::fs::write(path, serde_json::to_string_pretty(&config)?)?;
        Ok(())
    }
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        self.node = None;
        // Its data goes with it, so that nobody has to end in order; who writes ends before who keeps.
        for (_, child) in self.running.iter_mut().rev() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Ports {
    fn free() -> anyhow::Result<Self> {
        // Held together, so that they differ.
        let held = [free_port()?, free_port()?, free_port()?, free_port()?];
        let [etcd, etcd_peer, api, controllers] = held.map(|(port, _listener)| port);
        Ok(Self {
            etcd,
            etcd_peer,
            api,
            controllers,
        })
    }
}

/// Linux hands out 32768 and above by itself.
pub(super) fn free_port() -> anyhow::Result<(u16, TcpListener)> {
    for _ in 0..1000 {
        let port = fastrand::u16(20_000..30_000);
        if let Ok(listener) = TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
            return Ok((port, listener));
        }
    }
    bail!("no free port between 20000 and 30000")
}
