//! Pods come and go under load: what a rolling update does to those who ask.

use std::time::Instant;

use ingress_tests::{Load, TestAgent};

use crate::Done;
use crate::pods::{deployment, pods, rolled_out};

/// 500 requests a second in all. A client waits for its answer, so there are several; of the slow requests some are always under way when
/// a Pod ends.
const LOADS: [(&str, u32); 5] = [
    ("", 140),
    ("", 140),
    ("", 140),
    ("?delay=20", 40),
    ("?delay=20", 40),
];
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

    let start = Instant::now();
    let load = |(query, a_second): (&str, u32)| Load::start(&format!("{url}{query}"), agent.http, a_second);
    let loads = LOADS.map(load).into_iter().collect::<anyhow::Result<Vec<_>>>()?;
    let wait = || loads.iter().try_for_each(|load| load.wait_for(50));
    wait()?;
    for _ in 0..UPDATES {
        let before: Vec<_> = names(&namespace)?;
        let restart = ["rollout", "restart", "-n", namespace.name(), "deployment/web"];
        cluster.kubectl(&restart, "")?;
        rolled_out(&namespace, "deployment/web")?;
        crate::lab::wait_until("no Pod of before", || {
            Ok(names(&namespace)?.iter().all(|name| !before.contains(name)))
        })?;
        wait()?;
    }
    let asked: Vec<_> = loads
        .into_iter()
        .map(Load::finish)
        .collect::<anyhow::Result<_>>()?;
    let (asked, took) = (asked.iter().sum::<usize>(), start.elapsed());
    println!("{asked} requests in {took:?}, over {UPDATES} updates of 4 Pods");
    Ok(())
}

fn names(namespace: &ingress_tests::Namespace<'_>) -> anyhow::Result<Vec<String>> {
    let name = |pod: serde_json::Value| pod["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    Ok(pods(namespace)?.into_iter().map(name).collect())
}
