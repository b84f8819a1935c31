//! What the agents write back: the address of an Ingress, by one of them.

use std::time::{Duration, Instant};

use anyhow::Context;
use ingress_tests::{AgentProcess, Namespace, TestAgent};
use serde_json::Value;

use crate::Done;
use crate::lab::wait_until;

/// Long enough for a machine that is ten times slower than it should be; reached only by a failing test.
const DEADLINE: Duration = Duration::from_secs(180);

/// The addresses in the status of the Ingress `web`.
fn addresses(namespace: &Namespace<'_>) -> anyhow::Result<Vec<String>> {
    let answer = namespace.cluster().api().get(&format!(
        "/apis/networking.k8s.io/v1/namespaces/{}/ingresses/web",
        namespace.name()
    ))?;
    let all = answer.body["status"]["loadBalancer"]["ingress"].as_array();
    let ip = |one: &serde_json::Value| one["ip"].as_str().unwrap_or_default().to_owned();
    Ok(all.map(|all| all.iter().map(ip).collect()).unwrap_or_default())
}

/// Who holds the Lease.
fn holder(namespace: &Namespace<'_>) -> anyhow::Result<String> {
    let holder = lease(namespace)?["spec"]["holderIdentity"].clone();
    Ok(holder.as_str().unwrap_or_default().to_owned())
}

/// Flags of an agent that looks after this namespace alone, with a Lease in it.
fn flags<'a>(namespace: &'a Namespace<'_>, pod: &'a str, address: &'a str) -> Vec<&'a str> {
    let name = namespace.name();
    ["--watch-namespaces", name, "--pod-namespace", name]
        .into_iter()
        .chain(["--pod-name", pod, "--publish-address", address])
        .collect()
}

fn web(namespace: &Namespace<'_>, class: &str) -> Done {
    let host = format!("web.{}.test", namespace.name());
    let ingress = namespace.ingress("web").host(&host).prefix("/", "web");
    namespace.apply_ingress(&ingress.class(class))
}

#[test]
fn an_ingress_has_an_address_while_it_is_ours() -> Done {
    let cluster = crate::cluster()?;
    let namespace = cluster.namespace("status")?;
    let pod = namespace.pod("web")?;
    namespace.service("web", &[&pod])?;
    let _agent = TestAgent::start_in_cluster(cluster.kubeconfig(), &flags(&namespace, "one", "192.0.2.7"))?;
    web(&namespace, namespace.name())?;
    wait_until("the address", || Ok(addresses(&namespace)? == ["192.0.2.7"]))?;
    web(&namespace, "nobodys")?;
    wait_until("no address", || Ok(addresses(&namespace)?.is_empty()))?;
    web(&namespace, namespace.name())?;
    wait_until(
        "the address again",
        || Ok(addresses(&namespace)? == ["192.0.2.7"]),
    )
}

/// Who holds the Lease for several renewals, in which the other one keeps off.
fn steady_holder(namespace: &Namespace<'_>, pods: &[(&str, &str)]) -> anyhow::Result<String> {
    let until = Instant::now() + DEADLINE;
    'again: loop {
        anyhow::ensure!(Instant::now() < until, "the Lease goes from one to the other");
        let first = holder(namespace)?;
        let address = pods.iter().find(|(pod, _)| *pod == first);
        let (_, address) = address.with_context(|| format!("{first:?} holds the Lease"))?;
        wait_until("the holder's address", || {
            Ok(addresses(namespace)? == [*address] || holder(namespace)? != first)
        })?;
        let steady = Instant::now() + Duration::from_secs(6);
        while Instant::now() < steady {
            let seen = addresses(namespace)?;
            // Where the machine stood still for the Lease's duration, the other one has it by right.
            if holder(namespace)? != first {
                continue 'again;
            }
            assert_eq!(seen, [*address], "the other one keeps off");
            std::thread::sleep(Duration::from_millis(200));
        }
        return Ok(first);
    }
}

#[test]
fn of_two_agents_one_writes_and_the_other_takes_over_within_twenty_seconds_when_that_is_killed() -> Done {
    let cluster = crate::cluster()?;
    let namespace = cluster.namespace("lease")?;
    web(&namespace, namespace.name())?;
    // Each would write another address, so that it shows who wrote.
    let pods = [
        ("one", "192.0.2.1"),
        ("two", "192.0.2.2"),
        ("three", "192.0.2.3"),
        ("four", "192.0.2.4"),
    ];
    let program = cluster.program("ingress-agent");
    let program = program.to_str().context("a path in UTF-8")?;
    let mut agents = Vec::new();
    let mut times = Vec::new();
    for (pod, address) in pods {
        let flags = flags(&namespace, pod, address);
        let agent = AgentProcess::start_in_cluster(program, cluster.kubeconfig(), &flags)?;
        agents.push((pod, address, agent));
        if agents.len() < 2 {
            continue;
        }
        wait_until("an address", || Ok(!addresses(&namespace)?.is_empty()))?;
        let first = steady_holder(&namespace, &pods)?;
        let at = agents.iter().position(|(pod, _, _)| *pod == first);
        let (_, _, leader) = agents.remove(at.with_context(|| format!("{first:?} holds the Lease"))?);
        leader.kill();
        // It renews no more: the last time it did is in the Lease.
        let lease = lease(&namespace)?;
        let (second, address, _) = agents.first().context("the other agent")?;
        wait_until("the address of the other", || {
            Ok(addresses(&namespace)? == [*address])
        })?;
        assert_eq!(holder(&namespace)?, *second);
        assert_eq!(lease["spec"]["holderIdentity"], first.as_str());
        times.push(written(&namespace)? - seconds(&lease["spec"]["renewTime"])?);
        // By the API server's clock and the agents'; where a machine is too busy for a process to run, another take-over shows it.
        if times.iter().any(|time| *time <= 20.0) {
            return Ok(());
        }
    }
    anyhow::bail!("from the last renewal to another's write: {times:?} s")
}

fn lease(namespace: &Namespace<'_>) -> anyhow::Result<Value> {
    let path = format!(
        "/apis/coordination.k8s.io/v1/namespaces/{}/leases/ingress-agent-leader",
        namespace.name()
    );
    Ok(namespace.cluster().api().get(&path)?.body)
}

/// When the status of the Ingress `web` was last written, as the API server keeps it.
fn written(namespace: &Namespace<'_>) -> anyhow::Result<f64> {
    let path = format!(
        "/apis/networking.k8s.io/v1/namespaces/{}/ingresses/web",
        namespace.name()
    );
    let ingress = namespace.cluster().api().get(&path)?.body;
    let mut managers = ingress["metadata"]["managedFields"]
        .as_array()
        .into_iter()
        .flatten();
    let ours = managers.find(|entry| entry["subresource"] == "status");
    seconds(&ours.context("nobody wrote the status")?["time"])
}

/// Of a month, from a time such as `2026-11-21T10:00:00.123456Z`.
fn seconds(time: &Value) -> anyhow::Result<f64> {
    let text = time.as_str().context("no time")?.trim_end_matches('Z');
    let (date, clock) = text.split_once('T').context("no time")?;
    let day: f64 = date.rsplit('-').next().context("no day")?.parse()?;
    let mut sum = day * 24.0;
    for (part, factor) in clock.split(':').zip([1.0, 60.0, 60.0]) {
        sum = sum * factor + part.parse::<f64>()?;
    }
    Ok(sum)
}
