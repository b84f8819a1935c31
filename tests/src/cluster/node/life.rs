//! The life of one Pod, from its binding until it is deleted: a task that is told what becomes of the object, and says what it sees.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, bail};
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, Probe};
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use super::Shared;
use super::container::{self, Recipe};
use super::network::Sandbox;
use super::probe::Asked;
use super::process::Process;
use super::status::{ContainerState, PodState, Reason, now};
use super::volumes::Sources;

/// How soon what a probe or a process says is noticed.
const LOOK: Duration = Duration::from_millis(25);
/// For what a Pod still waits for, such as a Secret.
const WAIT: Duration = Duration::from_millis(200);
/// The first pause before a container starts again; twice as long each time.
const RESTART: Duration = Duration::from_secs(1);
const RESTART_AT_MOST: u32 = 5;

pub(super) struct Life {
    shared: Arc<Shared>,
    told: watch::Receiver<Pod>,
    state: PodState,
    said: Option<PodState>,
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    GoOn,
    /// It is being deleted: in order, within its grace period.
    End,
    /// The object is gone, or the node ends.
    Stop,
}

impl Life {
    pub(super) fn new(shared: Arc<Shared>, told: watch::Receiver<Pod>) -> Self {
        let containers = {
            let pod = told.borrow();
            let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
            let state = |container: &Container| ContainerState {
                name: container.name.clone(),
                image: container.image.clone().unwrap_or_default(),
                ..ContainerState::default()
            };
            containers.map(state).collect()
        };
        let state = PodState {
            address: None,
            host: shared.network.node(),
            started: now(),
            ready_since: now(),
            containers,
        };
        Self {
            shared,
            told,
            state,
            said: None,
        }
    }

    pub(super) async fn run(mut self) {
        let shared = Arc::clone(&self.shared);
        let pod = self.told.borrow().clone();
        if let Err(error) = self.live(&shared, &pod).await {
            let (meta, none) = (&pod.metadata, String::new());
            let namespace = meta.namespace.as_ref().unwrap_or(&none);
            eprintln!(
                "node: {namespace}/{}: {error:#}",
                meta.name.as_ref().unwrap_or(&none)
            );
        }
    }

    async fn live(&mut self, shared: &Shared, pod: &Pod) -> anyhow::Result<()> {
        let spec = pod.spec.as_ref().context("no spec")?;
        let sandbox = shared.network.sandbox(spec.host_network == Some(true))?;
        self.state.address = Some(sandbox.address);
        let mut running = loop {
            match start(shared, pod, spec, &sandbox).await {
                Ok(running) => break running,
                Err(why) => self.waits(&why),
            }
            self.say().await;
            match self.turn(WAIT).await {
                Turn::GoOn => {}
                Turn::End => return self.finish(Vec::new()).await,
                Turn::Stop => return Ok(()),
            }
        };
        loop {
            for (container, state) in running.iter_mut().zip(&mut self.state.containers) {
                container.look(&sandbox, state);
            }
            self.say().await;
            match self.turn(LOOK).await {
                Turn::GoOn => {}
                Turn::End => return self.finish(running).await,
                Turn::Stop => return Ok(()),
            }
        }
    }

    /// Waits for news of the object, at most this long.
    async fn turn(&mut self, pause: Duration) -> Turn {
        let is_ending = |pod: &Pod| pod.metadata.deletion_timestamp.is_some();
        if is_ending(&self.told.borrow_and_update()) {
            return Turn::End;
        }
        match timeout(pause, self.told.changed()).await {
            Ok(Err(_)) => Turn::Stop,
            Ok(Ok(())) if is_ending(&self.told.borrow()) => Turn::End,
            _ => Turn::GoOn,
        }
    }

    fn waits(&mut self, why: &Reason) {
        for container in &mut self.state.containers {
            container.running = Err(why.clone());
        }
    }

    /// Writes the status where it has changed; what could not be written is tried again with the next look.
    async fn say(&mut self) {
        let said = self.said.as_ref();
        if said.is_some_and(|said| said.is_ready()) != self.state.is_ready() {
            self.state.ready_since = now();
        }
        if self.said.as_ref() == Some(&self.state) {
            return;
        }
        let (pods, name, uid) = self.place();
        let mut status = self.state.to_json();
        // A later Pod of the same name is another's business.
        status["metadata"] = serde_json::json!({ "uid": uid });
        let patch = Patch::Merge(&status);
        if pods
            .patch_status(&name, &PatchParams::default(), &patch)
            .await
            .is_ok()
        {
            self.said = Some(self.state.clone());
        }
    }

    fn place(&self) -> (Api<Pod>, String, Option<String>) {
        let pod = self.told.borrow();
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let pods = Api::namespaced(self.shared.client.clone(), namespace);
        (
            pods,
            pod.metadata.name.clone().unwrap_or_default(),
            pod.metadata.uid.clone(),
        )
    }

    /// SIGTERM, the grace period, SIGKILL, and the object goes.
    async fn finish(&mut self, mut running: Vec<Running<'_>>) -> anyhow::Result<()> {
        let grace = self
            .told
            .borrow()
            .metadata
            .deletion_grace_period_seconds
            .unwrap_or(30);
        let until = Instant::now() + Duration::from_secs(grace.unsigned_abs());
        for container in &mut running {
            container.before_stop(until).await;
        }
        running
            .iter_mut()
            .for_each(|container| container.process.terminate());
        while Instant::now() < until
            && running
                .iter_mut()
                .any(|container| container.process.ended().is_none())
        {
            for (container, state) in running.iter().zip(&mut self.state.containers) {
                state.is_ready = container.answers.ready.load(Ordering::Relaxed);
            }
            self.say().await;
            // An object that is gone has nobody who waits for us.
            if let Ok(Err(_)) = timeout(LOOK, self.told.changed()).await {
                return Ok(());
            }
        }
        drop(running);
        self.delete().await
    }

    async fn delete(&mut self) -> anyhow::Result<()> {
        let (pods, name, uid) = self.place();
        let params = DeleteParams {
            grace_period_seconds: Some(0),
            preconditions: Some(Preconditions {
                uid,
                resource_version: None,
            }),
            ..DeleteParams::default()
        };
        loop {
            match pods.delete(&name, &params).await {
                Ok(_) => return Ok(()),
                Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => return Ok(()),
                Err(_) => tokio::time::sleep(WAIT).await,
            }
        }
    }
}

/// All containers of a Pod, or why not yet.
async fn start<'p>(
    shared: &'p Shared,
    pod: &'p Pod,
    spec: &'p PodSpec,
    sandbox: &Sandbox<'_>,
) -> Result<Vec<Running<'p>>, Reason> {
    let mut programs = Vec::new();
    for container in &spec.containers {
        let image = container.image.as_deref().unwrap_or_default();
        programs.push(shared.images.program(image).map_err(|message| Reason {
            reason: "ErrImagePull",
            message,
        })?);
    }
    let waiting = |error: anyhow::Error| Reason {
        reason: "ContainerCreating",
        message: format!("{error:#}"),
    };
    let prepare = async {
        if spec.init_containers.iter().flatten().next().is_some() {
            bail!("this node knows no init containers");
        }
        let folder = shared
            .folder
            .join("pods")
            .join(pod.metadata.uid.as_deref().context("no UID")?);
        let sources = Sources {
            shared,
            pod,
            address: sandbox.address,
        };
        let volumes = Arc::new(sources.volumes(&folder.join("volumes")).await?);
        let mut running = Vec::new();
        for (container, program) in spec.containers.iter().zip(programs) {
            let (name, program) = program;
            let made_of = MadeOf {
                container,
                name,
                program,
                environment: sources.environment(container).await?,
                volumes: Arc::clone(&volumes),
                folder: folder.clone(),
            };
            running.push(Running::start(made_of, sandbox)?);
        }
        Ok(running)
    };
    prepare.await.map_err(waiting)
}

/// What it takes to start a container again.
#[derive(Clone)]
struct MadeOf<'p> {
    container: &'p Container,
    name: &'p str,
    program: &'p Path,
    environment: BTreeMap<String, String>,
    volumes: Arc<BTreeMap<String, PathBuf>>,
    folder: PathBuf,
}

/// What the probes said last.
#[derive(Default)]
struct Answers {
    ready: AtomicBool,
    dead: AtomicBool,
}

struct Running<'p> {
    made_of: MadeOf<'p>,
    process: Process,
    since: String,
    answers: Arc<Answers>,
    probes: Vec<JoinHandle<()>>,
    /// When it starts again, and why it ended.
    again: Option<(Instant, String)>,
    restarts: u32,
}

impl<'p> Running<'p> {
    fn start(made_of: MadeOf<'p>, sandbox: &Sandbox<'_>) -> anyhow::Result<Self> {
        let recipe = Recipe {
            container: made_of.container,
            name: made_of.name,
            program: made_of.program,
            environment: made_of.environment.clone(),
            volumes: &made_of.volumes,
            network: sandbox.holder(),
            folder: &made_of.folder,
        };
        let mut running = Self {
            process: recipe.start()?,
            made_of,
            since: now(),
            answers: Arc::default(),
            probes: Vec::new(),
            again: None,
            restarts: 0,
        };
        let container = running.made_of.container;
        if let Some(probe) = &container.readiness_probe {
            running.ask(probe, sandbox, |answers, is| {
                answers.ready.store(is, Ordering::Relaxed)
            })?;
        }
        if let Some(probe) = &container.liveness_probe {
            running.ask(probe, sandbox, |answers, is| {
                answers.dead.store(!is, Ordering::Relaxed)
            })?;
        }
        Ok(running)
    }

    fn ask(&mut self, probe: &Probe, sandbox: &Sandbox<'_>, note: fn(&Answers, bool)) -> anyhow::Result<()> {
        let asked = Asked::new(probe, self.made_of.container, sandbox.address)?;
        let (container, environment) = (self.made_of.container.clone(), self.made_of.environment.clone());
        let (pid, answers) = (self.process.pid(), Arc::clone(&self.answers));
        let command = move |words: &[String]| container::inside(pid, &container, &environment, words);
        let task = async move { asked.run(command, |is| note(&answers, is)).await };
        self.probes.push(tokio::spawn(task));
        Ok(())
    }

    /// What has become of it since the last look; what ended starts again after a while.
    fn look(&mut self, sandbox: &Sandbox<'_>, state: &mut ContainerState) {
        if self.answers.dead.load(Ordering::Relaxed) && self.again.is_none() {
            self.process.terminate();
        }
        if let (Some(status), None) = (self.process.ended(), &self.again) {
            self.stop_asking();
            let pause = RESTART * 2_u32.pow(self.restarts.min(RESTART_AT_MOST));
            self.again = Some((Instant::now() + pause, status.to_string()));
        }
        match &self.again {
            Some((at, why)) => {
                state.is_ready = false;
                state.running = Err(Reason {
                    reason: "CrashLoopBackOff",
                    message: format!(
                        "it ended: {why}; its output is in {}",
                        self.made_of.folder.display()
                    ),
                });
                if Instant::now() >= *at {
                    self.restart(sandbox);
                }
            }
            None => {
                state.running = Ok(self.since.clone());
                state.restarts = self.restarts;
                state.is_ready = match self.made_of.container.readiness_probe {
                    Some(_) => self.answers.ready.load(Ordering::Relaxed),
                    None => state.is_ready || sandbox.has_listener(),
                };
            }
        }
    }

    fn restart(&mut self, sandbox: &Sandbox<'_>) {
        if let Ok(next) = Self::start(self.made_of.clone(), sandbox) {
            let restarts = self.restarts + 1;
            *self = next;
            self.restarts = restarts;
        }
    }

    /// The preStop hook: a pause or a command.
    async fn before_stop(&mut self, until: Instant) {
        let container = self.made_of.container;
        let hook = container
            .lifecycle
            .as_ref()
            .and_then(|lifecycle| lifecycle.pre_stop.as_ref());
        let Some(hook) = hook else { return };
        let hooked = async {
            if let Some(sleep) = &hook.sleep {
                tokio::time::sleep(Duration::from_secs(sleep.seconds.unsigned_abs())).await;
            }
            let words = hook.exec.as_ref().and_then(|exec| exec.command.as_deref());
            let command = words.map(|words| {
                container::inside(self.process.pid(), container, &self.made_of.environment, words)
            });
            if let Some(Ok(mut command)) = command
                && let Ok(mut process) = Process::start(&mut command)
            {
                while process.ended().is_none() {
                    tokio::time::sleep(LOOK).await;
                }
            }
        };
        // One that takes too long is cut off by the grace period, as the container is.
        let _ = tokio::time::timeout_at(until, hooked).await;
    }

    fn stop_asking(&mut self) {
        self.probes.drain(..).for_each(|probe| probe.abort());
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.stop_asking();
    }
}
