//! The chart's PodMonitor, by the definition that the Prometheus operator publishes: the API server takes it, and what it says leads to
//! the agent's metrics.

use std::io::Write;

use anyhow::Context;
use ingress_tests::Request;
use serde_json::Value;

use crate::Done;
use crate::deploy::Release;
use crate::lab::wait_until;

#[test]
fn the_pod_monitor_is_taken_by_its_real_definition_and_leads_to_the_metrics() -> Done {
    let Some(definition) = std::env::var_os("POD_MONITORS") else {
        // Not by println, which libtest keeps to itself when a test passes.
        writeln!(std::io::stderr(), "skipped: POD_MONITORS names no definition")?;
        return Ok(());
    };
    let cluster = crate::pods::cluster()?;
    let definition = definition.to_str().context("a path in UTF-8")?;
    cluster.kubectl(&["apply", "--server-side", "-f", definition], "")?;
    cluster.kubectl(
        &[
            "wait",
            "--for=condition=Established",
            "--timeout=60s",
            "-f",
            definition,
        ],
        "",
    )?;
    let release = Release::new(cluster, "monitored")?;
    // Ports that no other case has on the node.
    let values = [
        "podMonitor.enabled=true",
        "podMonitor.labels.team=web",
        "listen.admin=:19090",
        "listen.http={:18080}",
        "listen.https={:18443}",
        "kernel.mode=off",
    ];
    release.apply("install", &values)?;
    let monitor = release.get("podmonitors.monitoring.coreos.com/ingress-agent")?;
    assert_eq!(monitor["metadata"]["labels"]["team"], "web");
    // Fields that a definition does not know are dropped: all of ours are there.
    let endpoint = &monitor["spec"]["podMetricsEndpoints"][0];
    assert_eq!(
        (&endpoint["path"], &endpoint["interval"]),
        (&"/metrics".into(), &"30s".into())
    );

    let labels = monitor["spec"]["selector"]["matchLabels"]
        .as_object()
        .context("labels")?;
    let selector: Vec<_> = labels
        .iter()
        .map(|(name, value)| format!("{name}={}", value.as_str().unwrap_or_default()))
        .collect();
    let words = [
        "get",
        "pods",
        "-n",
        release.namespace.name(),
        "-o",
        "json",
        "-l",
        &selector.join(","),
    ];
    let mut pod = Value::Null;
    wait_until("a Pod that the selector finds, with an address", || {
        let list: Value = serde_json::from_str(&cluster.kubectl(&words, "")?)?;
        pod = list["items"][0].clone();
        Ok(pod["status"]["podIP"].is_string())
    })?;
    let ip = pod["status"]["podIP"].as_str().unwrap_or_default();
    // As Prometheus relabels: the first rule whose whole expression is met says the address.
    let rules = endpoint["relabelings"].as_array().context("relabelings")?;
    let ipv4 = rules.first().context("a rule for IPv4")?;
    assert_eq!(
        ipv4["sourceLabels"],
        serde_json::json!(["__meta_kubernetes_pod_ip"])
    );
    assert_eq!(
        (&ipv4["regex"], &ipv4["targetLabel"]),
        (&r"(\d+\.\d+\.\d+\.\d+)".into(), &"__address__".into())
    );
    let address = ipv4["replacement"].as_str().unwrap_or_default().replace("$1", ip);
    wait_until("the metrics", || {
        let request = Request::get(&format!("http://{address}/metrics"))?;
        let answer = request.ask(address.parse()?)?;
        Ok(answer.status == 200 && answer.text().contains("\ningress_agent_"))
    })?;
    release.helm(&["uninstall", "ingress-agent", "--wait"]).map(drop)
}
