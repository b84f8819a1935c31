//! Pods come and go under load: what a rolling update does to those who ask.

use ingress_tests::{Load, TestAgent};

use crate::Done;
use crate::pods::{deployment, pods, rolled_out};

/// What the issue asks for, and updates enough that each kind of ending is met.
const A_SECOND: u32 = 500;
const UPDATES: usize = 3;

#[test]
fn a_rolling_update_at_500_requests_a_second_fails_no_request() -> Done {
    let cluster = crate::pods::cluster()?;
    let namespace = cluster.namespace("rolling")?;
    let agent = TestAgent::start_in_cluster(cluster.kubeconfig(), &[])?;
    namespace.apply(&deployment(4))?;
    let host = format!("web.{}.test", namespace.name());
    namespace.apply_ingress(&namespace.ingress("web").host(&host).prefix("/", "web"))?;
    rolled_out(&namespace, "deployment/web")?;
    let url = format!("http://{host}/");
    agent.get_until(&url, |answer| answer.status == 200)?;

    let load = Load::start(&url, agent.http, A_SECOND)?;
    load.wait_for(200)?;
    for _ in 0..UPDATES {
        let before: Vec<_> = names(&namespace)?;
        let restart = ["rollout", "restart", "-n", namespace.name(), "deployment/web"];
        cluster.kubectl(&restart, "")?;
        rolled_out(&namespace, "deployment/web")?;
        crate::lab::wait_until("no Pod of before", || {
            Ok(names(&namespace)?.iter().all(|name| !before.contains(name)))
        })?;
        load.wait_for(200)?;
    }
    let asked = load.finish()?;
    println!("{asked} requests over {UPDATES} updates of 4 Pods");
    Ok(())
}

fn names(namespace: &ingress_tests::Namespace<'_>) -> anyhow::Result<Vec<String>> {
    let name = |pod: serde_json::Value| pod["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    Ok(pods(namespace)?.into_iter().map(name).collect())
}
