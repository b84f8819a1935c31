//! What the product promises in a cluster, shown on a real API server: one binary, a module for each area.
//!
//! All cases share one cluster and run at the same time; each has a namespace and an IngressClass of its own.

mod access;
mod acme;
mod addressed;
mod admission;
mod annotations;
mod backends;
mod cert_manager;
mod choices;
mod conformance;
mod deploy;
mod image;
mod lab;
mod lists;
mod mistakes;
mod nearness;
mod node_agent;
mod outage;
mod pod_monitor;
mod pods;
mod rolling;
mod serving;
mod status;

use std::sync::OnceLock;

use ingress_tests::Cluster;

/// Cases end early with `?` where the harness fails, and by assertion where the agent does.
type Done = anyhow::Result<()>;

/// The one cluster of this binary, started by whoever asks first; it ends with the process.
fn cluster() -> anyhow::Result<&'static Cluster> {
    static CLUSTER: OnceLock<Result<Cluster, String>> = OnceLock::new();
    let start = || Cluster::start(env!("CARGO_BIN_EXE_kube-cluster")).map_err(|error| format!("{error:#}"));
    let started = CLUSTER.get_or_init(start).as_ref();
    started.map_err(|error| anyhow::anyhow!("no cluster: {error}"))
}
