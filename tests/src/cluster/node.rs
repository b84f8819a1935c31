//! A node that runs Pods: what a scheduler and a kubelet would do, as far as tests need it. Containers are real processes in network
//! namespaces; an image is a program of this machine, and one that is not known never becomes Ready.
//!
//! Everything here belongs to one thread: its processes have that thread's end as their own (`setpriv --pdeathsig`), and what they hold
//! (namespaces, interfaces, mounts) goes with them. Needs root, iproute2 and util-linux.

mod container;
mod life;
mod network;
mod probe;
mod process;
mod relay;
mod status;
mod volumes;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, bail};
use futures_util::{StreamExt, pin_mut};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node as NodeObject, Pod};
use kube::api::{ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::sync::{oneshot, watch};

use self::life::Life;
use self::network::Network;
use super::control_plane::Facts;

/// The name of the one node.
pub const NODE: &str = "node-a";
/// As the kubelet's own.
const LEASE_EVERY: Duration = Duration::from_secs(10);
const AGAIN_AFTER: Duration = Duration::from_millis(200);
const REGISTERS_WITHIN: Duration = Duration::from_secs(60);

/// Programs by the last part of an image's name, without its tag: `echo-backend` for `example.test/echo-backend:1`.
#[derive(Clone, Debug, Default)]
pub struct Images(BTreeMap<String, PathBuf>);

impl Images {
    pub fn add(&mut self, name: &str, program: &Path) {
        self.0.insert(name.to_owned(), program.to_path_buf());
    }

    /// The image's name, and its program.
    fn program(&self, image: &str) -> Result<(&str, &Path), String> {
        let name = image.rsplit('/').next().unwrap_or(image);
        let name = name.split(['@', ':']).next().unwrap_or(name);
        match self.0.get_key_value(name) {
            Some((name, program)) if program.is_file() => Ok((name, program)),
            Some((_, program)) => Err(format!("{} of image {image} does not exist", program.display())),
            None => {
                let known: Vec<_> = self.0.keys().map(String::as_str).collect();
                Err(format!(
                    "no program stands for image {image}; known: {}",
                    known.join(", ")
                ))
            }
        }
    }
}

/// Running; it and all its Pods end when dropped.
#[derive(Debug)]
pub(super) struct Node {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// What every Pod of the node shares.
struct Shared {
    client: Client,
    network: Network,
    images: Images,
    /// Of Pods, and what stands for the node's own files.
    folder: PathBuf,
}

impl Node {
    /// Returns when the node is registered and takes Pods.
    pub(super) fn start(facts: &Facts, images: Images) -> anyhow::Result<Self> {
        let (stop, stopped) = oneshot::channel();
        let (ready, registered) = std::sync::mpsc::channel();
        let facts = facts.clone();
        let thread = std::thread::Builder::new()
            .name("node".to_owned())
            .spawn(move || {
                let run = || -> anyhow::Result<()> {
                    let runtime = tokio::runtime::Builder::new_current_thread()
                        .enable_all()
                        .build()?;
                    runtime.block_on(async {
                        tokio::select! {
                            ended = live(&facts, images, &ready) => ended,
                            _ = stopped => Ok(()),
                        }
                    })
                };
                if let Err(error) = run() {
                    // Nobody listens once it was ready.
                    let _ = ready.send(Err(error));
                }
            })?;
        let node = Self {
            stop: Some(stop),
            thread: Some(thread),
        };
        registered
            .recv_timeout(REGISTERS_WITHIN)
            .context("the node did not register in time")??;
        Ok(node)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // One that panicked has said so.
            let _ = thread.join();
        }
    }
}

async fn live(
    facts: &Facts,
    images: Images,
    ready: &std::sync::mpsc::Sender<anyhow::Result<()>>,
) -> anyhow::Result<()> {
    let (holder, number) = facts.pods.context("a node needs the network of pods: root")?;
    let file = Kubeconfig::read_from(&facts.kubeconfig)?;
    let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await?;
    let client = Client::try_from(config)?;
    let network = Network::create(holder, number)?;
    tokio::spawn(relay::run(
        relay::listen(holder, network::API)?,
        (Ipv4Addr::LOCALHOST, facts.api_port).into(),
    ));
    register(&client, network.node()).await?;
    let shared = Arc::new(Shared {
        client: client.clone(),
        network,
        images,
        folder: facts.folder.join("node"),
    });
    tokio::spawn(renew(client));
    let _ = ready.send(Ok(()));
    follow(&shared).await
}

/// The Node object with all that controllers look at; again and again until the API server has taken it.
async fn register(client: &Client, address: Ipv4Addr) -> anyhow::Result<()> {
    let nodes: Api<NodeObject> = Api::all(client.clone());
    let labels = json!({
        "kubernetes.io/hostname": NODE, "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64",
        "topology.kubernetes.io/zone": "zone-a"});
    let node = from_json(json!({"metadata": {"name": NODE, "labels": labels}}))?;
    match nodes.create(&PostParams::default(), &node).await {
        Err(kube::Error::Api(status)) if status.code == 409 => {}
        other => drop(other.context("create the Node")?),
    }
    let resources = json!({"cpu": "8", "memory": "16Gi", "pods": "110"});
    let status = json!({"status": {
        "addresses": [{"type": "InternalIP", "address": address}, {"type": "Hostname", "address": NODE}],
        "capacity": resources, "allocatable": resources,
        "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "it runs Pods as processes",
            "lastHeartbeatTime": status::now(), "lastTransitionTime": status::now()}],
    }});
    let (name, params) = (NODE, PatchParams::default());
    nodes.patch_status(name, &params, &Patch::Merge(&status)).await?;
    // A new node is tainted by admission until a controller has seen that it is ready.
    let untaint = json!({"spec": {"taints": null}});
    nodes.patch(name, &params, &Patch::Merge(&untaint)).await?;
    Ok(())
}

async fn renew(client: Client) {
    let leases: Api<Lease> = Api::namespaced(client, "kube-node-lease");
    loop {
        let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": NODE}, "spec": {
            "holderIdentity": NODE, "leaseDurationSeconds": 40, "renewTime": status::now_precisely()}});
        let params = PatchParams::apply("kubelet").force();
        // The next one may succeed; nothing here depends on a single one.
        let _ = leases.patch(NODE, &params, &Patch::Apply(&lease)).await;
        tokio::time::sleep(LEASE_EVERY).await;
    }
}

/// Follows all Pods for as long as it is let; an API server that is away is asked again.
async fn follow(shared: &Arc<Shared>) -> anyhow::Result<()> {
    let pods: Api<Pod> = Api::all(shared.client.clone());
    let mut running = Running::default();
    loop {
        let _ = round(&pods, shared, &mut running).await;
        tokio::time::sleep(AGAIN_AFTER).await;
    }
}

async fn round(pods: &Api<Pod>, shared: &Arc<Shared>, running: &mut Running) -> anyhow::Result<()> {
    let list = pods.list(&ListParams::default()).await?;
    let version = list.metadata.resource_version.context("no resourceVersion")?;
    let there: Vec<String> = list.items.iter().filter_map(uid).collect();
    running.0.retain(|uid, _| there.contains(uid));
    for pod in list.items {
        running.see(pod, shared).await;
    }
    let stream = pods.watch(&WatchParams::default(), &version).await?;
    pin_mut!(stream);
    while let Some(event) = stream.next().await {
        match event? {
            WatchEvent::Added(pod) | WatchEvent::Modified(pod) => running.see(pod, shared).await,
            WatchEvent::Deleted(pod) => {
                uid(&pod).and_then(|uid| running.0.remove(&uid));
            }
            WatchEvent::Bookmark(_) => {}
            WatchEvent::Error(status) => bail!("{status:?}"),
        }
    }
    Ok(())
}

/// Pods by UID, each with the way to tell its life what it has become.
#[derive(Default)]
struct Running(BTreeMap<String, watch::Sender<Pod>>);

impl Running {
    async fn see(&mut self, pod: Pod, shared: &Arc<Shared>) {
        let (Some(uid), Some(spec)) = (uid(&pod), pod.spec.as_ref()) else {
            return;
        };
        match spec.node_name.as_deref() {
            None if is_for_us(&pod) => bind(&pod, shared).await,
            Some(NODE) => match self.0.get(&uid) {
                Some(life) => drop(life.send_replace(pod)),
                None => {
                    let (tell, told) = watch::channel(pod);
                    tokio::spawn(Life::new(Arc::clone(shared), told).run());
                    self.0.insert(uid, tell);
                }
            },
            _ => {}
        }
    }
}

fn uid(pod: &Pod) -> Option<String> {
    pod.metadata.uid.clone()
}

/// Whether a scheduler that knows our node alone would take it. A DaemonSet's controller names the node of each Pod by `matchFields`.
fn is_for_us(pod: &Pod) -> bool {
    if pod.metadata.deletion_timestamp.is_some() {
        return false;
    }
    let affinity = pod.spec.as_ref().and_then(|spec| spec.affinity.as_ref());
    let required = affinity
        .and_then(|affinity| affinity.node_affinity.as_ref())
        .and_then(|nodes| nodes.required_during_scheduling_ignored_during_execution.as_ref());
    let Some(required) = required else { return true };
    required.node_selector_terms.iter().any(|term| {
        let fields = term.match_fields.iter().flatten();
        fields
            .filter(|field| field.key == "metadata.name")
            .all(|field| field.values.iter().flatten().any(|name| name == NODE))
    })
}

async fn bind(pod: &Pod, shared: &Shared) {
    let (Some(name), Some(namespace)) = (&pod.metadata.name, &pod.metadata.namespace) else {
        return;
    };
    let pods: Api<Pod> = Api::namespaced(shared.client.clone(), namespace);
    let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": name, "uid": pod.metadata.uid},
        "target": {"apiVersion": "v1", "kind": "Node", "name": NODE}});
    // One that failed is tried again with the Pod's next event or the next list.
    let bound: Result<kube::core::Status, _> = pods
        .create_subresource("binding", name, &PostParams::default(), &binding)
        .await;
    if let Err(error) = bound {
        eprintln!("node: {namespace}/{name} is not bound: {error}");
    }
}

fn from_json<T: DeserializeOwned>(value: impl Serialize) -> anyhow::Result<T> {
    Ok(serde_json::from_value(serde_json::to_value(value)?)?)
}
