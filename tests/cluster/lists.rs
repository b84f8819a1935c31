//! An API server without streaming lists (before Kubernetes 1.32, or with the feature gate off): everything comes by `list`.

use ingress_tests::cluster::control_plane::Program;
use ingress_tests::cluster::{Asked, Relay};
use ingress_tests::{Cluster, TestAgent};
use serde_json::json;

use crate::Done;
use crate::access::Account;
use crate::lab::wait_until;

#[test]
fn an_api_server_without_streaming_lists_is_listed_and_followed_all_the_same() -> Done {
    // Nobody else's: it goes away for a moment, and is another one then.
    let cluster = &Cluster::start(env!("CARGO_BIN_EXE_kube-cluster"))?;
    cluster.stop_program(Program::ApiServer)?;
    cluster.start_program_with(Program::ApiServer, &["--feature-gates=WatchList=false"])?;
    let namespace = cluster.namespace("lists")?;
    let (one, two) = (namespace.pod("one")?, namespace.pod("two")?);
    namespace.service("web", &[&one])?;
    let host = format!("web.{}.test", namespace.name());
    let url = format!("http://{host}/");
    let ingress = || namespace.ingress("web").host(&host).prefix("/", "web");
    namespace.apply_ingress(&ingress())?;
    let (account, relay) = (Account::create(&namespace)?, Relay::start(cluster)?);
    let folder = tempfile::tempdir()?;
    let (kubeconfig, token) = (folder.path().join("kubeconfig"), folder.path().join("token"));
    account.write_token("first", &token)?;
    relay.write_kubeconfig(&kubeconfig, &json!({"tokenFile": token}))?;
    let agent = TestAgent::start_in_cluster(&kubeconfig, &["--watch-namespaces", namespace.name()])?;
    agent.get_until(&url, |answer| answer.backend() == "one")?;
    for kind in [
        "ingresses",
        "ingressclasses",
        "services",
        "endpointslices",
        "secrets",
        "namespaces",
    ] {
        wait_until(&format!("{kind} are watched"), || {
            let asked = relay.asked().into_iter();
            let of_kind: Vec<_> = asked
                .filter(|one| one.target.contains(&format!("/{kind}?")))
                .collect();
            let wished = |one: &Asked| one.target.contains("sendInitialEvents=true");
            let lists = of_kind
                .iter()
                .filter(|one| !one.target.contains("watch=true") && one.status == 200);
            anyhow::ensure!(lists.count() == 1, "one list: {of_kind:?}");
            anyhow::ensure!(
                of_kind.iter().any(|one| wished(one) && one.status != 200),
                "a stream was wished for: {of_kind:?}"
            );
            Ok(of_kind
                .iter()
                .any(|one| one.is_resumed_watch() && one.status == 200))
        })?;
    }
    namespace.endpoints("web", &[&two])?;
    agent.get_until(&url, |answer| answer.backend() == "two")?;
    namespace.delete("ingress", "web")?;
    agent.get_until(&url, |answer| answer.served_by() == "404 host_unknown")?;
    namespace.apply_ingress(&ingress())?;
    agent.get_until(&url, |answer| answer.backend() == "two")?;
    assert_eq!(agent.metric("ingress_agent_source_connected", &[])?, 1.0);
    Ok(())
}
