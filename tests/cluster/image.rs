//! The image of `cargo xtask image` in a container engine: podman loads it, and runs it with what deploy/ says of its container.
//!
//! The engine's root, its storage and its network namespace are the test's own. `cargo xtask test` packs the image, finds a runtime
//! that can start a container on this machine, and says where there is none.

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use anyhow::{Context, bail};
use ingress_tests::{Request, cluster::Cluster};
use serde_json::Value;

use crate::Done;
use crate::lab::wait_until;

/// An engine's defaults are above what a process without SYS_RESOURCE may give to its own.
const LIMITS: [&str; 4] = ["--ulimit", "nofile=4096:4096", "--ulimit", "nproc=30000:30000"];
const NAME: &str = "agent";
const SOCKET: &str = "/run/ingress-agent-pod/admin.sock";

/// Podman with nothing of the machine's own; its containers go with it.
struct Engine {
    folder: tempfile::TempDir,
    runtime: String,
    /// A process in whose network namespace containers are.
    network: u32,
}

impl Engine {
    fn podman(&self, words: &[&str]) -> anyhow::Result<String> {
        let output = self.run(words)?;
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text).into_owned();
        if !output.status.success() {
            bail!("podman {}: {text}", words.join(" "));
        }
        Ok(text)
    }

    fn run(&self, words: &[&str]) -> anyhow::Result<Output> {
        let own = |name: &str| self.folder.path().join(name);
        let output = Command::new("nsenter")
            .arg(format!("--net=/proc/{}/ns/net", self.network))
            .args(["--", "podman", "--root"])
            .arg(own("storage"))
            .arg("--runroot")
            .arg(own("run"))
            .arg("--tmpdir")
            .arg(own("tmp"))
            .args(["--storage-driver", "vfs", "--cgroup-manager", "cgroupfs"])
            .args(["--events-backend", "none", "--runtime", &self.runtime])
            .args(words)
            .stdin(Stdio::null())
            .output();
        output.context("start podman")
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // What is left of a failed case.
        let _ = self.run(&["rm", "--all", "--force", "--time", "1"]);
    }
}

#[test]
fn a_container_engine_loads_the_image_and_runs_it_with_the_rights_of_deploy() -> Done {
    let (Some(archive), Some(runtime)) = (
        std::env::var_os("INGRESS_IMAGE"),
        std::env::var("INGRESS_IMAGE_RUNTIME").ok(),
    ) else {
        // Not by println, which libtest keeps to itself when a test passes.
        writeln!(std::io::stderr(), "skipped: INGRESS_IMAGE names no image")?;
        return Ok(());
    };
    let cluster = crate::cluster()?;
    let (network, number) = cluster.facts().pods.context("a network of pods: root")?;
    let engine = Engine {
        folder: tempfile::tempdir()?,
        runtime,
        network,
    };
    let image = loaded(&engine, Path::new(&archive))?;
    let version = engine.podman(
        &[
            &["run", "--rm", "--network", "host"],
            &LIMITS[..],
            &[&image, "--version"],
        ]
        .concat(),
    )?;
    assert_eq!(
        version.trim(),
        concat!("ingress-agent ", env!("CARGO_PKG_VERSION"))
    );

    let namespace = cluster.namespace("image")?;
    let pod = namespace.pod("web")?;
    let manifests = tempfile::tempdir()?;
    std::fs::write(manifests.path().join("web.yaml"), site(pod.address()))?;
    let volume = format!("{}:/manifests:ro", manifests.path().display());
    let confinement = confinement(cluster)?;
    let mut words = vec![
        "run",
        "--detach",
        "--name",
        NAME,
        "--network",
        "host",
        "--volume",
        &volume,
    ];
    words.extend(LIMITS);
    words.extend(confinement.iter().map(String::as_str));
    words.extend([image.as_str(), "run", "--manifests", "/manifests"]);
    engine.podman(&words)?;
    // As the kubelet asks: by the command and the socket of the manifest.
    wait_until("the probe's answer", || {
        Ok(engine
            .run(&["exec", NAME, "ingress-agent", "probe", "ready"])?
            .status
            .success())
    })
    .with_context(|| engine.podman(&["logs", NAME]).unwrap_or_default())?;
    let node = SocketAddr::from((Ipv4Addr::new(198, 18, number, 2), 80));
    let answer = Request::get("http://web.test/")?.ask(node)?;
    assert_eq!((answer.status, answer.backend()), (200, "web"), "{answer:?}");
    is_confined(&engine)?;

    engine.podman(&["stop", "--time", "60", NAME])?;
    let exit = engine.podman(&["inspect", "--format", "{{.State.ExitCode}}", NAME])?;
    assert_eq!(exit.trim(), "0", "{}", engine.podman(&["logs", NAME])?);
    Ok(())
}

/// The name that the engine reads in the archive.
fn loaded(engine: &Engine, archive: &Path) -> anyhow::Result<String> {
    let path = archive.to_str().context("a path in UTF-8")?;
    let text = engine.podman(&["load", "--quiet", "--input", path])?;
    let name = text
        .lines()
        .find_map(|line| line.trim().strip_prefix("Loaded image: "));
    let name = name.with_context(|| text.clone())?.to_owned();
    assert_eq!(name, "ingress-agent.test/ingress-agent:under-test");
    Ok(name)
}

/// The flags for podman that say what the DaemonSet of deploy/ says of its container; hostPath volumes are in memory.
fn confinement(cluster: &Cluster) -> anyhow::Result<Vec<String>> {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/manifests/install.yaml");
    let text = cluster.kubectl(&["apply", "--dry-run=client", "-o", "json", "-f", file], "")?;
    let list: Value = serde_json::from_str(&text)?;
    let mut objects = list["items"].as_array().context("no list")?.iter();
    let set = objects
        .find(|object| object["kind"] == "DaemonSet")
        .context("no DaemonSet")?;
    let container = &set["spec"]["template"]["spec"]["containers"][0];
    let context = &container["securityContext"];
    assert_eq!(context["readOnlyRootFilesystem"], true);
    assert_eq!(context["allowPrivilegeEscalation"], false);
    let mut flags = vec![
        "--read-only".to_owned(),
        "--read-only-tmpfs=false".to_owned(),
        "--security-opt=no-new-privileges".to_owned(),
        format!("--user={}", context["runAsUser"]),
    ];
    let names = |list: &Value| -> Vec<String> {
        let names = list.as_array().into_iter().flatten().filter_map(Value::as_str);
        names.map(str::to_owned).collect()
    };
    let capabilities = &context["capabilities"];
    flags.extend(
        names(&capabilities["drop"])
            .iter()
            .map(|name| format!("--cap-drop={name}")),
    );
    flags.extend(
        names(&capabilities["add"])
            .iter()
            .map(|name| format!("--cap-add=CAP_{name}")),
    );
    for variable in container["env"].as_array().context("no env")? {
        let (name, value) = (variable["name"].as_str().unwrap_or_default(), &variable["value"]);
        // Its file has what concerns a cluster.
        if let Some(value) = value.as_str().filter(|_| name != "INGRESS_AGENT_CONFIG") {
            flags.push(format!("--env={name}={value}"));
        }
    }
    assert!(
        flags.contains(&format!("--env=INGRESS_AGENT_ADMIN_SOCKET={SOCKET}")),
        "{flags:?}"
    );
    for mount in container["volumeMounts"].as_array().context("no volumes")? {
        let path = mount["mountPath"].as_str().unwrap_or_default();
        if mount["readOnly"] != true {
            flags.push(format!("--tmpfs={path}:rw,size=16m,mode=0755"));
        }
    }
    Ok(flags)
}

/// What the kernel says of the process: it has given everything back, can gain nothing, and calls what the engine's own profile allows.
fn is_confined(engine: &Engine) -> Done {
    let pid = engine.podman(&["inspect", "--format", "{{.State.Pid}}", NAME])?;
    let status = std::fs::read_to_string(format!("/proc/{}/status", pid.trim()))?;
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_default().trim().to_owned()
    };
    assert_eq!(field("CapEff:"), "0000000000000000", "{status}");
    // NET_BIND_SERVICE, NET_ADMIN, PERFMON, BPF (linux/capability.h): those of the manifest.
    assert_eq!(field("CapBnd:"), "000000c000001400", "{status}");
    assert_eq!(field("NoNewPrivs:"), "1", "{status}");
    // A filter (linux/seccomp.h).
    assert_eq!(field("Seccomp:"), "2", "{status}");
    Ok(())
}

fn site(pod: SocketAddr) -> String {
    format!(
        r#"
apiVersion: networking.k8s.io/v1
kind: IngressClass
metadata: {{name: ingress-agent}}
spec: {{controller: ingress-agent.io/controller}}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {{name: web}}
spec:
  ingressClassName: ingress-agent
  rules:
    - host: web.test
      http: {{paths: [{{path: /, pathType: Prefix, backend: {{service: {{name: web, port: {{number: 80}}}}}}}}]}}
---
apiVersion: v1
kind: Service
metadata: {{name: web}}
spec: {{ports: [{{name: http, port: 80}}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: web-1, labels: {{kubernetes.io/service-name: web}}}}
addressType: IPv4
ports: [{{name: http, port: {}}}]
endpoints: [{{addresses: ["{}"]}}]
"#,
        pod.port(),
        pod.ip()
    )
}
