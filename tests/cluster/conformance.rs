//! The Kubernetes project's own Ingress suite (`sigs.k8s.io/ingress-controller-conformance`), on the agent as deploy/ installs it.
//!
//! It asks once, as soon as an Ingress has an address. `cargo xtask test` builds it where its module can be had, and says where not.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context;
use ingress_tests::cluster::Cluster;

use crate::Done;
use crate::node_agent::{NAME, installed};

/// What the suite has in its five features.
const SCENARIOS: usize = 30;
const SWEEP: Duration = Duration::from_millis(100);

#[test]
fn every_scenario_of_the_kubernetes_ingress_suite_passes() -> Done {
    let Some(suite) = std::env::var_os("INGRESS_SUITE").map(PathBuf::from) else {
        // Not by println, which libtest keeps to itself when a test passes.
        writeln!(
            std::io::stderr(),
            "skipped: INGRESS_SUITE names no folder with the Ingress suite"
        )?;
        return Ok(());
    };
    let echo = suite.join("echoserver");
    let (cluster, _) = installed(&[("echoserver", &echo)])?;
    let done = AtomicBool::new(false);
    let output = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                // What could not be swept now is there at the next look.
                let _ = sweep(&cluster);
                std::thread::sleep(SWEEP);
            }
        });
        let output = Command::new(suite.join("suite.test"))
            .args(["--ingress-class", NAME, "--no-colors"])
            // One scenario waits this long for an address that must not come.
            .args(["-wait-time-for-ingress-status", "30s"])
            .current_dir(&suite)
            .env("KUBECONFIG", cluster.kubeconfig())
            .stdin(Stdio::null())
            .output();
        done.store(true, Ordering::Relaxed);
        output
    })?;
    let text = String::from_utf8_lossy(&output.stdout);
    let passed: usize = text.lines().filter_map(passed_in).sum();
    assert!(
        output.status.success(),
        "{text}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert_eq!(passed, SCENARIOS, "{text}");
    Ok(())
}

/// The number in `6 scenarios (6 passed)`, which ends each feature.
fn passed_in(line: &str) -> Option<usize> {
    let (_, counts) = line.split_once(" scenarios (")?;
    counts.strip_suffix(" passed)")?.parse().ok()
}

/// Takes Ingresses out of namespaces that are being deleted: it takes their controller seconds to get there, for which time the next
/// scenario's Ingress with the same hosts would rightly lose against an older one. As published the suite polls more slowly than that.
fn sweep(cluster: &Cluster) -> Done {
    let label = "app.kubernetes.io/name%3Dingress-conformance";
    let answer = cluster
        .api()
        .get(&format!("/api/v1/namespaces?labelSelector={label}"))?;
    for namespace in answer.body["items"].as_array().context("no list")? {
        let name = namespace["metadata"]["name"].as_str().unwrap_or_default();
        let path = format!("/apis/networking.k8s.io/v1/namespaces/{name}/ingresses");
        let is_ending = namespace["status"]["phase"] == "Terminating";
        let has_some =
            |answer: &serde_json::Value| answer["items"].as_array().is_some_and(|all| !all.is_empty());
        if is_ending && has_some(&cluster.api().get(&path)?.body) {
            cluster.kubectl(&["delete", "ingress", "-n", name, "--all", "--wait=false"], "")?;
        }
    }
    Ok(())
}
