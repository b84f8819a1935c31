//! The lab itself: what the other modules rely upon, so that their failures are the agent's.

use std::net::{Ipv4Addr, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use ingress_tests::Request;
use ingress_tests::cluster::Cluster;

use crate::Done;

/// Long enough for a machine that is ten times slower than it should be; reached only by a failing test.
const DEADLINE: Duration = Duration::from_secs(180);

#[test]
fn the_api_server_says_its_version_and_its_controllers_work() -> Done {
    let cluster = crate::cluster()?;
    let answer = cluster.api().get("/version")?;
    let version = answer.body["gitVersion"].as_str().unwrap_or_default();
    // A server without its stamp says v0.0.0.
    assert!(version.starts_with("v1."), "{answer:?}");
    let namespace = cluster.namespace("lab")?;
    // The controllers give every namespace its ServiceAccount and its copy of the authority.
    let account = format!("/api/v1/namespaces/{}/serviceaccounts/default", namespace.name());
    wait_until("a ServiceAccount in the new namespace", || {
        Ok(cluster.api().get(&account)?.status == 200)
    })?;
    Ok(())
}

#[test]
fn a_pod_answers_at_the_address_that_its_slice_says() -> Done {
    let cluster = crate::cluster()?;
    let namespace = cluster.namespace("lab")?;
    let (one, two) = (namespace.pod("one")?, namespace.pod("two")?);
    namespace.service("web", &[&one, &two])?;
    let words = "jsonpath={.items[0].endpoints[*].addresses[0]}";
    let addresses = cluster.kubectl(
        &["get", "endpointslices", "-n", namespace.name(), "-o", words],
        "",
    )?;
    assert_eq!(
        addresses,
        format!("{} {}", one.address().ip(), two.address().ip())
    );
    for (pod, name) in [(&one, "one"), (&two, "two")] {
        let answer = Request::get("http://pod.test/")?.ask(pod.address())?;
        assert_eq!(answer.backend(), name);
    }
    Ok(())
}

#[test]
fn nothing_outlives_the_process_that_started_a_cluster() -> Done {
    let cluster = Cluster::start(env!("CARGO_BIN_EXE_kube-cluster"))?;
    let facts = cluster.facts().clone();
    let api = (Ipv4Addr::LOCALHOST, facts.api_port).into();
    TcpStream::connect_timeout(&api, DEADLINE)?;
    // Another cluster may take the same name at once; it never has the same index.
    let index = |number: u8| std::fs::read_to_string(format!("/sys/class/net/lab{number}/ifindex")).ok();
    let before = facts.pods.and_then(|(_, number)| index(number));
    cluster.kill()?;
    let is_gone = |pid: u32| !Path::new(&format!("/proc/{pid}/ns/net")).exists();
    wait_until("the end of the API server", || {
        Ok(TcpStream::connect_timeout(&api, DEADLINE).is_err())
    })?;
    if let Some((holder, number)) = facts.pods {
        wait_until("the end of the pod network", || {
            let now = index(number);
            Ok(is_gone(holder) && (now.is_none() || now != before))
        })?;
    }
    std::fs::remove_dir_all(&facts.folder)?;
    Ok(())
}

pub(crate) fn wait_until(what: &str, mut so: impl FnMut() -> anyhow::Result<bool>) -> Done {
    let until = Instant::now() + DEADLINE;
    loop {
        // One answer that does not come is no failure of what is waited for.
        let last = so();
        if matches!(last, Ok(true)) {
            return Ok(());
        }
        anyhow::ensure!(
            Instant::now() < until,
            "not within {DEADLINE:?}: {what}; last: {last:?}"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}
