//! The node of the lab: Pods are processes, and what the API server says of them is so.

use std::path::Path;
use std::sync::OnceLock;

use anyhow::Context;
use ingress_tests::cluster::Cluster;
use ingress_tests::{Namespace, Request};
use serde_json::Value;

use crate::Done;
use crate::lab::wait_until;

/// A cluster with a node, for all cases that need Pods and nothing else of it.
pub(crate) fn cluster() -> anyhow::Result<&'static Cluster> {
    static CLUSTER: OnceLock<Result<Cluster, String>> = OnceLock::new();
    let start = || {
        Cluster::start_with_node(env!("CARGO_BIN_EXE_kube-cluster"), &[])
            .map_err(|error| format!("{error:#}"))
    };
    let started = CLUSTER.get_or_init(start).as_ref();
    started.map_err(|error| anyhow::anyhow!("no cluster with a node: {error}"))
}

/// A Deployment `web` of servers that end at once when they are told to, as most do, with a probe; and its Service.
pub(crate) fn deployment(replicas: u32) -> String {
    format!(
        r#"
apiVersion: apps/v1
kind: Deployment
metadata: {{name: web}}
spec:
  replicas: {replicas}
  selector: {{matchLabels: {{app: web}}}}
  template:
    metadata: {{labels: {{app: web}}}}
    spec:
      containers:
        - name: web
          image: example.test/echo-backend:1
          args: [--name, $(POD_NAME), --address, "0.0.0.0:8080", --input, none]
          env: [{{name: POD_NAME, valueFrom: {{fieldRef: {{fieldPath: metadata.name}}}}}}]
          ports: [{{name: http, containerPort: 8080}}]
          readinessProbe: {{httpGet: {{path: /, port: http}}, periodSeconds: 1}}
---
apiVersion: v1
kind: Service
metadata: {{name: web}}
spec:
  selector: {{app: web}}
  ports: [{{name: http, port: 80, targetPort: http}}]
"#
    )
}

pub(crate) fn pods(namespace: &Namespace<'_>) -> anyhow::Result<Vec<Value>> {
    let path = format!("/api/v1/namespaces/{}/pods", namespace.name());
    let answer = namespace.cluster().api().get(&path)?;
    Ok(answer.body["items"].as_array().context("no list")?.clone())
}

pub(crate) fn rolled_out(namespace: &Namespace<'_>, what: &str) -> Done {
    let words = [
        "rollout",
        "status",
        "-n",
        namespace.name(),
        what,
        "--timeout=300s",
    ];
    namespace.cluster().kubectl(&words, "").map(drop)
}

fn is_ready(pod: &Value) -> bool {
    let mut conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
    conditions.any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
}

#[test]
fn a_deployments_pods_answer_at_their_addresses_and_are_gone_when_it_is() -> Done {
    let namespace = cluster()?.namespace("deployment")?;
    namespace.apply(&deployment(2))?;
    rolled_out(&namespace, "deployment/web")?;
    let running = pods(&namespace)?;
    assert_eq!(running.len(), 2);
    let mut addresses = Vec::new();
    for pod in &running {
        assert!(is_ready(pod), "{pod:#}");
        let ip = pod["status"]["podIP"].as_str().context("an address")?;
        let address = format!("{ip}:8080").parse()?;
        let answer = Request::get("http://pod.test/")?.ask(address)?;
        assert_eq!(
            answer.backend(),
            pod["metadata"]["name"].as_str().unwrap_or_default()
        );
        addresses.push(address);
    }
    namespace.delete("deployment", "web")?;
    wait_until("no Pod", || Ok(pods(&namespace)?.is_empty()))?;
    for address in addresses {
        assert!(
            std::net::TcpStream::connect_timeout(&address, std::time::Duration::from_millis(200)).is_err()
        );
    }
    Ok(())
}

#[test]
fn a_pod_of_an_unknown_image_never_becomes_ready_and_says_why() -> Done {
    let namespace = cluster()?.namespace("image")?;
    namespace.apply(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec: {containers: [{name: web, image: \"example.test/nobody:1\"}]}\n",
    )?;
    wait_until("its reason", || {
        let pods = pods(&namespace)?;
        let waiting = &pods.first().context("the Pod")?["status"]["containerStatuses"][0]["state"]["waiting"];
        let message = waiting["message"].as_str().unwrap_or_default();
        Ok(waiting["reason"] == "ErrImagePull" && message.contains("example.test/nobody:1"))
    })?;
    assert!(!is_ready(pods(&namespace)?.first().context("the Pod")?));
    namespace.delete("pod", "web")
}

/// Asks the API server with the token that it has, and looks at its files, variables and rights.
const LOOKS: &str = r#"
test "$(cat /config/greeting)" = hello
test "$(cat /secret/key)" = hidden
test "$NAMESPACE/$NODE" = "$(cat /var/run/secrets/kubernetes.io/serviceaccount/namespace)/node-a"
test "$FROM_SECRET" = hidden
echo there > /shared/file
test -s /var/run/secrets/kubernetes.io/serviceaccount/token
! touch /elsewhere
grep -q '^CapBnd:[[:space:]]*0000000000000400$' /proc/self/status
exec sleep infinity
"#;

#[test]
fn a_pod_has_its_volumes_its_environment_and_the_rights_of_its_manifest() -> Done {
    let namespace = cluster()?.namespace("volumes")?;
    let script = serde_json::to_string(&format!("set -e\n{LOOKS}"))?;
    namespace.apply(&format!(
        r#"
apiVersion: v1
kind: Pod
metadata: {{name: looks}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
    - name: looks
      image: echo-backend
      command: [sh, -c, {script}]
      env:
        - {{name: NAMESPACE, valueFrom: {{fieldRef: {{fieldPath: metadata.namespace}}}}}}
        - {{name: NODE, valueFrom: {{fieldRef: {{fieldPath: spec.nodeName}}}}}}
        - {{name: FROM_SECRET, valueFrom: {{secretKeyRef: {{name: late, key: key}}}}}}
      readinessProbe: {{exec: {{command: [test, -s, /shared/file]}}, periodSeconds: 1}}
      securityContext:
        readOnlyRootFilesystem: true
        allowPrivilegeEscalation: false
        capabilities: {{drop: [ALL], add: [NET_BIND_SERVICE]}}
      volumeMounts:
        - {{name: config, mountPath: /config, readOnly: true}}
        - {{name: secret, mountPath: /secret}}
        - {{name: shared, mountPath: /shared}}
  volumes:
    - {{name: config, configMap: {{name: config}}}}
    - {{name: secret, secret: {{secretName: late}}}}
    - {{name: shared, emptyDir: {{}}}}
---
apiVersion: v1
kind: ConfigMap
metadata: {{name: config}}
data: {{greeting: hello}}
"#
    ))?;
    let status = || anyhow::Ok(pods(&namespace)?.first().context("the Pod")?["status"].clone());
    // A Secret that comes later than the Pod is waited for.
    wait_until("what it waits for", || {
        let waiting = &status()?["containerStatuses"][0]["state"]["waiting"];
        Ok(waiting["message"]
            .as_str()
            .is_some_and(|words| words.contains("Secret late does not exist")))
    })?;
    namespace.apply("apiVersion: v1\nkind: Secret\nmetadata: {name: late}\nstringData: {key: hidden}\n")?;
    wait_until("the Pod, whose script has looked at all", || {
        Ok(is_ready(pods(&namespace)?.first().context("the Pod")?))
    })?;
    assert_eq!(status()?["containerStatuses"][0]["restartCount"], 0);
    namespace.delete("pod", "looks")
}

#[test]
fn nothing_of_a_node_outlives_the_process_that_started_it() -> Done {
    let cluster = Cluster::start_with_node(env!("CARGO_BIN_EXE_kube-cluster"), &[])?;
    let (facts, namespace) = (cluster.facts().clone(), cluster.namespace("killed")?);
    namespace.apply(&deployment(2))?;
    rolled_out(&namespace, "deployment/web")?;
    std::mem::forget(namespace);
    let (node, _) = facts.pods.context("a node")?;
    let folder = facts.folder.display().to_string();
    assert!(processes_that_name(&folder)? > 0);
    cluster.kill()?;
    wait_until("the end of every process", || {
        Ok(processes_that_name(&folder)? == 0 && !Path::new(&format!("/proc/{node}/ns/net")).exists())
    })?;
    // No process has mounts in it any more.
    std::fs::remove_dir_all(&facts.folder)?;
    Ok(())
}

/// Processes that have something of this folder mounted, or in their arguments.
fn processes_that_name(folder: &str) -> anyhow::Result<usize> {
    let mut count = 0;
    for entry in std::fs::read_dir("/proc")? {
        let path = entry?.path();
        // What ends meanwhile has no files left to read.
        let mounts = std::fs::read_to_string(path.join("mountinfo")).unwrap_or_default();
        let arguments = std::fs::read(path.join("cmdline")).unwrap_or_default();
        if mounts.contains(folder) || String::from_utf8_lossy(&arguments).contains(folder) {
            count += 1;
        }
    }
    Ok(count)
}
