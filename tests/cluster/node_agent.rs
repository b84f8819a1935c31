//! The agent as deploy/ puts it on a node: what only shows when a kubelet runs it, by the manifest and its probes.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use anyhow::Context;
use ingress_tests::cluster::Cluster;
use ingress_tests::{Certs, Load, Request};

use crate::Done;
use crate::lab::wait_until;
use crate::pods::{deployment, rolled_out};

/// Where deploy/ puts it, and its IngressClass.
pub(crate) const NAME: &str = "ingress-agent";
const DAEMON_SET: &str = "daemonset/ingress-agent";

/// A cluster of its own, as the agent has ports 80 and 443 of the node: with the plain manifests of deploy/ applied, and ready.
pub(crate) fn installed(images: &[(&str, &Path)]) -> anyhow::Result<(Cluster, Ipv4Addr)> {
    let cluster = Cluster::start_with_node(env!("CARGO_BIN_EXE_kube-cluster"), images)?;
    let manifests = std::fs::read_to_string(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../deploy/manifests/install.yaml"
    ))?;
    cluster.apply(&manifests)?;
    rollout(&cluster)?;
    let (_, number) = cluster.facts().pods.context("a node")?;
    Ok((cluster, Ipv4Addr::new(198, 18, number, 2)))
}

fn rollout(cluster: &Cluster) -> Done {
    let words = ["rollout", "status", "-n", NAME, DAEMON_SET, "--timeout=300s"];
    cluster.kubectl(&words, "").map(drop)
}

/// The Pods of the DaemonSet by name, with how often their containers have started again.
fn agents(cluster: &Cluster) -> anyhow::Result<Vec<(String, u64)>> {
    let answer = cluster.api().get(&format!("/api/v1/namespaces/{NAME}/pods"))?;
    let pods = answer.body["items"].as_array().context("no list")?.iter();
    let text = |pod: &serde_json::Value| pod["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    let restarts = |pod: &serde_json::Value| pod["status"]["containerStatuses"][0]["restartCount"].as_u64();
    Ok(pods
        .map(|pod| (text(pod), restarts(pod).unwrap_or_default()))
        .collect())
}

#[test]
fn a_surge_upgrade_of_the_daemonset_of_deploy_fails_no_request() -> Done {
    let (cluster, node) = installed(&[])?;
    let namespace = cluster.namespace("surge")?;
    namespace.apply(&deployment(2))?;
    rolled_out(&namespace, "deployment/web")?;
    let ingress = |name: &str| namespace.ingress(name).class(NAME);
    namespace.apply_ingress(&ingress("web").host("web.test").prefix("/", "web"))?;
    namespace.tls_secret("secure", &Certs::new()?.leaf(&["secure.test"])?)?;
    let secure = ingress("secure").host("secure.test").prefix("/", "web");
    namespace.apply_ingress(&secure.tls(&["secure.test"], "secure"))?;
    let (http, https) = (SocketAddr::from((node, 80)), SocketAddr::from((node, 443)));
    let mut loads = Vec::new();
    for (url, address, a_second) in [
        ("http://web.test/", http, 200),
        ("http://web.test/?delay=20", http, 60),
        ("https://secure.test/", https, 60),
    ] {
        wait_until("an answer", || Ok(Request::get(url)?.ask(address)?.status == 200))?;
        loads.push(Load::start(url, address, a_second)?);
    }
    for round in 1..=2 {
        let before = agents(&cluster)?;
        assert_eq!(before.len(), 1, "{before:?}");
        let words = format!("ROUND={round}");
        cluster.kubectl(&["set", "env", "-n", NAME, DAEMON_SET, &words], "")?;
        rollout(&cluster)?;
        wait_until("the end of the old Pod", || {
            let now = agents(&cluster)?;
            Ok(now.len() == 1 && now[0].0 != before[0].0)
        })?;
        loads.iter().try_for_each(|load| load.wait_for(100))?;
        assert_eq!(agents(&cluster)?[0].1, 0, "its liveness probe was answered");
    }
    let asked = loads
        .into_iter()
        .map(Load::finish)
        .sum::<anyhow::Result<usize>>()?;
    println!("{asked} requests over two upgrades");
    Ok(())
}
