//! What `deploy/` puts into a cluster, by the real Helm: it installs and goes without a trace, and its rights are what the agent asks for.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use ingress_tests::{AgentProcess, Cluster, Namespace, Request};
use serde_json::Value;

use crate::Done;

const DEADLINE: Duration = Duration::from_secs(90);
const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

fn wait_until(what: &str, mut so: impl FnMut() -> anyhow::Result<bool>) -> Done {
    let until = Instant::now() + DEADLINE;
    while !so()? {
        anyhow::ensure!(Instant::now() < until, "not within {DEADLINE:?}: {what}");
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

/// `HELM`, or the one that `cargo xtask deploy helm` builds.
fn program() -> anyhow::Result<PathBuf> {
    static PROGRAM: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let find = || match std::env::var_os("HELM") {
        Some(path) => Ok(PathBuf::from(path)),
        None => build().map_err(|error| format!("{error:#}")),
    };
    PROGRAM.get_or_init(find).clone().map_err(anyhow::Error::msg)
}

fn build() -> anyhow::Result<PathBuf> {
    let output = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["xtask", "deploy", "helm"])
        .current_dir(ROOT)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()?;
    let text = String::from_utf8(output.stdout)?;
    match text.lines().last() {
        Some(path) if output.status.success() => Ok(path.into()),
        _ => bail!("cargo xtask deploy helm failed: {}", output.status),
    }
}

/// What Helm prints; an error where it fails, with its words.
fn helm(cluster: Option<&Cluster>, arguments: &[&str]) -> anyhow::Result<String> {
    let own = tempfile::tempdir()?;
    let mut command = Command::new(program()?);
    for variable in ["HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME"] {
        command.env(variable, own.path());
    }
    if let Some(cluster) = cluster {
        command.arg("--kubeconfig").arg(cluster.kubeconfig());
    }
    let output = command
        .args(arguments)
        .current_dir(Path::new(ROOT).join("deploy"))
        .stdin(Stdio::null())
        .output()?;
    if !output.status.success() {
        let text = [output.stdout, output.stderr].concat();
        bail!("helm {}: {}", arguments.join(" "), String::from_utf8_lossy(&text));
    }
    Ok(String::from_utf8(output.stdout)?)
}

/// A release `ingress-agent` in a namespace of its own, with a class and a controller that no other case has: its agent writes to no other's
/// Ingresses.
pub(crate) struct Release<'c> {
    pub(crate) namespace: Namespace<'c>,
    pub(crate) class: String,
    pub(crate) controller: String,
}

impl<'c> Release<'c> {
    pub(crate) fn new(cluster: &'c Cluster, name: &str) -> anyhow::Result<Self> {
        let namespace = cluster.namespace(name)?;
        let class = format!("{}-release", namespace.name());
        let controller = format!("release.test/{}", namespace.name());
        Ok(Self {
            namespace,
            class,
            controller,
        })
    }

    /// `helm install` or `upgrade` with these values (`--set`).
    pub(crate) fn apply(&self, verb: &str, values: &[&str]) -> Done {
        let class = format!("ingressClass.name={}", self.class);
        let controller = format!("ingressClass.controller={}", self.controller);
        let mut arguments = vec![verb, "ingress-agent", "chart", "-n", self.namespace.name()];
        for value in [class.as_str(), &controller].iter().chain(values) {
            arguments.extend(["--set", value]);
        }
        helm(Some(self.namespace.cluster()), &arguments).map(drop)
    }

    pub(crate) fn helm(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let place = ["-n", self.namespace.name()];
        helm(Some(self.namespace.cluster()), &[arguments, &place].concat())
    }

    /// An object of the namespace, or a list of them.
    pub(crate) fn get(&self, what: &str) -> anyhow::Result<Value> {
        let arguments = ["get", what, "-n", self.namespace.name(), "-o", "json"];
        let text = self.namespace.cluster().kubectl(&arguments, "")?;
        Ok(serde_json::from_str(&text)?)
    }

    fn grace(&self) -> anyhow::Result<Value> {
        let set = self.get("daemonset/ingress-agent")?;
        Ok(set["spec"]["template"]["spec"]["terminationGracePeriodSeconds"].clone())
    }
}

#[test]
fn the_chart_passes_helm_lint_and_refuses_values_that_could_not_work() -> Done {
    helm(None, &["lint", "--strict", "chart"])?;
    for (values, told) in [
        ("bogus=1", "'bogus' not allowed"),
        ("minReadySeconds=3", "/minReadySeconds"),
        ("user=65532", "set kernel.mode to off"),
        ("user=65532,kernel.mode=off", "ports from 1024 up"),
        ("podMonitor.enabled=true", "listen.admin"),
    ] {
        let refused = helm(None, &["template", "x", "chart", "--set", values]);
        let words = format!("{:#}", refused.err().context(values)?);
        assert!(words.contains(told), "{values}: {words}");
    }
    let every = "user=65532,kernel.mode=off,listen.http={:8080},listen.https={:8443},listen.admin=:9090,podMonitor.enabled=true,\
                 admissionPolicy.enabled=true,watch.namespaces={shop},watch.secrets=referenced,publish.service=lb/front,\
                 settings.access-log=errors,ingressClass.default=true";
    let text = helm(None, &["template", "x", "chart", "-n", "there", "--set", every])?;
    for part in [
        "runAsNonRoot: true",
        "maxSurge: 0",
        "kind: PodMonitor",
        "access-log: errors",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(
        !text.contains("NET_ADMIN") && !text.contains("hostPath"),
        "{text}"
    );
    Ok(())
}

#[test]
fn without_steering_too_the_new_pod_of_a_node_starts_beside_the_old_one_which_passes_its_sockets_on() -> Done
{
    for values in ["kernel.steering=off", "kernel.mode=off"] {
        let text = helm(None, &["template", "x", "chart", "-n", "there", "--set", values])?;
        for part in [
            "maxSurge: 1",
            "maxUnavailable: 0",
            "path: /run/ingress-agent",
            "NET_BIND_SERVICE",
        ] {
            assert!(text.contains(part), "{values}: {part}: {text}");
        }
    }
    Ok(())
}

#[test]
fn the_versions_of_chart_and_program_are_the_same() -> Done {
    let chart = std::fs::read_to_string(Path::new(ROOT).join("deploy/chart/Chart.yaml"))?;
    let version = env!("CARGO_PKG_VERSION");
    assert!(chart.contains(&format!("\nversion: {version}\n")));
    assert!(chart.contains(&format!("\nappVersion: \"{version}\"\n")));
    Ok(())
}

#[test]
fn the_plain_manifests_are_taken_by_the_api_server_as_they_are() -> Done {
    let cluster = crate::cluster()?;
    let file = Path::new(ROOT).join("deploy/manifests/install.yaml");
    let file = file.to_str().context("a path in UTF-8")?;
    // Strict: a field that does not exist is an error.
    let applied = cluster.kubectl(&["apply", "--server-side", "--validate=strict", "-f", file], "");
    let removed = cluster.kubectl(&["delete", "--wait=false", "--ignore-not-found", "-f", file], "");
    let applied = applied?;
    for kind in ["daemonset.apps/", "clusterrole.", "ingressclass.", "configmap/"] {
        assert!(applied.contains(kind), "{applied}");
    }
    removed.map(drop)
}

#[test]
fn helm_installs_upgrades_rolls_back_and_leaves_nothing_behind() -> Done {
    let cluster = crate::cluster()?;
    let release = Release::new(cluster, "helm")?;
    // So that a pod is made, and passes admission; nothing runs it.
    let node = format!("{}-node", release.namespace.name());
    cluster.apply(&format!(
        "apiVersion: v1\nkind: Node\nmetadata: {{name: {node}, labels: {{kubernetes.io/os: linux}}}}\n"
    ))?;
    release.apply("install", &[])?;
    assert_eq!(release.grace()?, 45);
    let set = release.get("daemonset/ingress-agent")?;
    is_least_privileged(&set["spec"]["template"]["spec"]);
    assert_eq!(set["spec"]["updateStrategy"]["rollingUpdate"]["maxSurge"], 1);
    wait_until("a pod for the node", || {
        Ok(release.get("pods")?["items"][0]["spec"]["hostNetwork"] == true)
    })?;

    release.apply("upgrade", &["drainTimeoutSeconds=60", "kernel.interfaces={eth0}"])?;
    assert_eq!(release.grace()?, 75);
    let settings = release.get("configmap/ingress-agent")?["data"]["agent.yaml"].clone();
    let settings = settings.as_str().unwrap_or_default();
    assert!(settings.contains("drain-timeout: 60s\n"), "{settings}");
    let refused = release.apply("upgrade", &["drainTimeoutSeconds=0"]);
    assert!(format!("{:#}", refused.err().context("refused")?).contains("/drainTimeoutSeconds"));
    release.helm(&["rollback", "ingress-agent", "1"])?;
    assert_eq!(release.grace()?, 45);

    release.helm(&["uninstall", "ingress-agent", "--wait"])?;
    let own = "daemonsets,services,configmaps,secrets,serviceaccounts,roles,rolebindings";
    let selected = ["-l", "app.kubernetes.io/name=ingress-agent", "-o", "name"];
    let place = ["get", own, "-n", release.namespace.name()];
    assert_eq!(cluster.kubectl(&[&place, &selected[..]].concat(), "")?, "");
    let releases = ["-l", "owner=helm", "-o", "name"];
    assert_eq!(cluster.kubectl(&[&place, &releases[..]].concat(), "")?, "");
    let wide = ["get", "clusterroles,clusterrolebindings,ingressclasses"];
    let left = cluster.kubectl(&[&wide, &selected[..]].concat(), "")?;
    let ours = |line: &&str| line.contains(release.namespace.name());
    assert_eq!(left.lines().find(ours), None, "{left}");
    cluster.kubectl(&["delete", "node", &node, "--wait=false"], "")?;
    Ok(())
}

/// By the pod's specification, not by the chart's text.
fn is_least_privileged(pod: &Value) {
    let container = &pod["containers"][0];
    let context = &container["securityContext"];
    assert_eq!(context["privileged"], false);
    assert_eq!(context["allowPrivilegeEscalation"], false);
    assert_eq!(context["readOnlyRootFilesystem"], true);
    assert_eq!(context["capabilities"]["drop"], serde_json::json!(["ALL"]));
    let added = serde_json::json!(["NET_BIND_SERVICE", "BPF", "NET_ADMIN", "PERFMON"]);
    assert_eq!(context["capabilities"]["add"], added);
    assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault");
    assert_eq!(
        container["ports"],
        Value::Null,
        "they would be host ports, and block the surge pod"
    );
    assert_eq!(pod["hostPID"], Value::Null);
    for probe in ["readinessProbe", "livenessProbe"] {
        assert_eq!(container[probe]["exec"]["command"][1], "probe");
    }
}

#[test]
fn the_admission_policy_refuses_what_would_not_do_what_it_says_in_our_class_alone() -> Done {
    let cluster = crate::cluster()?;
    let release = Release::new(cluster, "policy")?;
    release.apply("install", &["admissionPolicy.enabled=true"])?;
    let place = release.namespace.name();
    let try_in = |class: &str, annotation: &str| {
        let ingress = format!(
            "apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata:\n  name: web\n  namespace: {place}\n  annotations: {{{annotation}: \"x\"}}\n\
             spec:\n  ingressClassName: {class}\n  defaultBackend: {{service: {{name: web, port: {{number: 80}}}}}}\n"
        );
        cluster.kubectl(&["create", "--dry-run=server", "-f", "-"], &ingress)
    };
    let snippet = "nginx.ingress.kubernetes.io/configuration-snippet";
    // It takes the API server a moment to learn a policy.
    let mut words = String::new();
    wait_until("a refusal", || {
        words = try_in(&release.class, snippet).map_or_else(|error| format!("{error:#}"), |_| String::new());
        Ok(!words.is_empty())
    })?;
    assert!(words.contains("snippets of nginx configuration"), "{words}");
    try_in(&release.class, "example.test/other")?;
    try_in(place, snippet)?;
    release.helm(&["uninstall", "ingress-agent"]).map(drop)
}

#[test]
fn an_agent_with_the_rights_of_the_chart_asks_for_all_of_them_and_for_no_other() -> Done {
    rights_are_those_asked_for(crate::cluster()?, "rights", &[])
}

#[test]
fn where_the_api_server_has_no_streaming_lists_the_chart_grants_every_list_that_is_asked_for() -> Done {
    let cluster = Cluster::start_without_streaming_lists(env!("CARGO_BIN_EXE_kube-cluster"))?;
    rights_are_those_asked_for(&cluster, "lists", &[])
}

#[test]
fn without_rights_on_the_whole_cluster_roles_in_namespaces_are_all_of_them_and_no_other() -> Done {
    rights_are_those_asked_for(
        crate::cluster()?,
        "roles",
        &["watch.secrets=referenced", "watch.namespaces={default}"],
    )
}

/// `verb resource.group`.
type Rights = BTreeSet<String>;

/// Installs the chart, starts an agent with its ServiceAccount and its settings, makes it do everything, and compares the roles with the API server's
/// record of what was asked.
fn rights_are_those_asked_for(cluster: &Cluster, name: &str, values: &[&str]) -> Done {
    let release = Release::new(cluster, name)?;
    release.apply("install", values)?;
    let namespace = &release.namespace;
    let own = tempfile::tempdir()?;
    let agent = start(&release, own.path())?;

    let host = format!("web.{}.test", namespace.name());
    let pod = namespace.pod("web")?;
    namespace.service("web", &[&pod])?;
    // A ConfigMap while there are watches to spare; then more ConfigMaps and more Secrets (which don't exist: Events) than are watched one by one.
    let headers = "ingress-agent.io/custom-headers";
    let web = |name: &str| {
        namespace
            .ingress(name)
            .class(&release.class)
            .annotation(headers, name)
    };
    namespace.apply_ingress(&web("web").host(&host).prefix("/", "web"))?;
    let user = format!("system:serviceaccount:{}:ingress-agent", namespace.name());
    wait_until("a watch of the ConfigMap", || {
        Ok(asked(cluster, &user)?.contains("watch configmaps."))
    })?;
    let many = (0..45).map(|index| {
        let host = format!("many-{index}.{}.test", namespace.name());
        let ingress = web(&format!("many-{index}")).host(&host).prefix("/", "web");
        ingress.tls(&[&host], &format!("tls-{index}")).yaml()
    });
    cluster.apply(&many.collect::<Vec<_>>().join("\n---\n"))?;
    wait_until("an answer", || {
        let answer = Request::get(&format!("http://{host}/"))?.ask(agent.http)?;
        Ok(answer.status == 200 && answer.backend() == "web")
    })?;
    wait_until("the node's address", || {
        let ingress = release.get("ingress/web")?;
        Ok(ingress["status"]["loadBalancer"]["ingress"][0]["ip"] == "192.0.2.9")
    })?;
    wait_until("an Event", || {
        Ok(asked(cluster, &user)?.contains("create events.events.k8s.io"))
    })?;

    let granted = granted(&release)?;
    let needed = || {
        let mut asked = asked(cluster, &user)?;
        // In place of a streaming list, where the API server has none; another case has such a one.
        let watched: Vec<_> = asked
            .iter()
            .filter(|_| cluster.facts().streams_lists)
            .filter_map(|right| right.strip_prefix("watch "))
            .map(|resource| format!("list {resource}"))
            .collect();
        asked.extend(watched);
        anyhow::Ok(asked)
    };
    let _ = wait_until("the last right", || Ok(granted.is_subset(&needed()?)));
    let needed = needed()?;
    let needless: Vec<_> = granted.difference(&needed).collect();
    let missing: Vec<_> = needed.difference(&granted).collect();
    assert!(
        needless.is_empty() && missing.is_empty(),
        "needless: {needless:?}, missing: {missing:?}"
    );
    assert_eq!(refused(cluster, &user)?, [] as [String; 0]);
    // One that reads the whole cluster may have spent its budget on what other cases do.
    if values.iter().any(|value| value.starts_with("watch.namespaces")) {
        let events = release.get("events.v1.events.k8s.io")?;
        let mut told = events["items"].as_array().into_iter().flatten();
        assert!(told.any(|event| event["reportingController"] == "ingress-agent.io/controller"));
    }
    drop(agent);
    release.helm(&["uninstall", "ingress-agent"]).map(drop)
}

/// An agent as the chart's pod would be, on the node `node-a`, and ready by the slice of the agents' Service; it has answered its probe.
fn start(release: &Release<'_>, own: &Path) -> anyhow::Result<AgentProcess> {
    let (namespace, cluster) = (&release.namespace, release.namespace.cluster());
    namespace.apply(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: agents\n  \
         labels: {kubernetes.io/service-name: ingress-agent, endpointslice.kubernetes.io/managed-by: ingress-agent-tests}\n\
         addressType: IPv4\nendpoints: [{addresses: [192.0.2.9], nodeName: node-a, conditions: {ready: true}}]\n",
    )?;
    let settings = release.get("configmap/ingress-agent")?["data"]["agent.yaml"].clone();
    let path = |name: &str| own.join(name).display().to_string();
    std::fs::write(path("agent.yaml"), settings.as_str().context("settings")?)?;
    let place = ["-n", namespace.name()];
    let token = cluster.kubectl(&["create", "token", "ingress-agent", place[0], place[1]], "")?;
    let mut kubeconfig: Value = serde_json::from_str(&std::fs::read_to_string(cluster.kubeconfig())?)?;
    kubeconfig["users"][0]["user"] = serde_json::json!({"token": token.trim()});
    std::fs::write(path("kubeconfig"), kubeconfig.to_string())?;
    let program = cluster.program("ingress-agent");
    let program = program.to_str().context("a path in UTF-8")?;
    let (config, socket, state) = (path("agent.yaml"), path("admin.sock"), path("state"));
    let flags = [
        ["--config", &config],
        ["--admin-socket", &socket],
        ["--state-dir", &state],
        ["--state-secrets-dir", &state],
        ["--node-name", "node-a"],
        ["--pod-name", "agent-a"],
        ["--pod-namespace", namespace.name()],
    ];
    let agent =
        AgentProcess::start_in_cluster(program, Path::new(&path("kubeconfig")), flags.as_flattened())?;
    for question in ["ready", "live"] {
        let mut probe = Command::new(program);
        probe.args(["probe", question, "--socket", &socket]);
        wait_until("the probe's yes", || Ok(probe.status()?.success()))?;
    }
    Ok(agent)
}

/// What the roles of the release allow.
fn granted(release: &Release<'_>) -> anyhow::Result<Rights> {
    let instance = ["-A", "-o", "json", "-l", "app.kubernetes.io/name=ingress-agent"];
    let text = release
        .namespace
        .cluster()
        .kubectl(&[&["get", "roles,clusterroles"], &instance[..]].concat(), "")?;
    let all: Value = serde_json::from_str(&text)?;
    let name = format!("{}-ingress-agent", release.namespace.name());
    let is_ours = |role: &&Value| {
        role["metadata"]["name"] == name.as_str() || role["metadata"]["namespace"] == release.namespace.name()
    };
    let list = |value: &Value| -> Vec<String> {
        let items = value.as_array().into_iter().flatten();
        items
            .map(|item| item.as_str().unwrap_or_default().to_owned())
            .collect()
    };
    let mut rights = Rights::new();
    for role in all["items"].as_array().context("roles")?.iter().filter(is_ours) {
        for rule in role["rules"].as_array().into_iter().flatten() {
            for verb in list(&rule["verbs"]) {
                for resource in list(&rule["resources"]) {
                    for group in list(&rule["apiGroups"]) {
                        rights.insert(format!("{verb} {resource}.{group}"));
                    }
                }
            }
        }
    }
    anyhow::ensure!(!rights.is_empty(), "no role is called {name}");
    Ok(rights)
}

fn asked(cluster: &Cluster, user: &str) -> anyhow::Result<Rights> {
    Ok(record(cluster, user)?
        .into_iter()
        .map(|(right, _)| right)
        .collect())
}

fn refused(cluster: &Cluster, user: &str) -> anyhow::Result<Vec<String>> {
    let all = record(cluster, user)?.into_iter();
    Ok(all
        .filter(|(_, status)| *status == 403)
        .map(|(right, _)| right)
        .collect())
}

/// What this user asked the API server for, and how it answered.
fn record(cluster: &Cluster, user: &str) -> anyhow::Result<Vec<(String, u64)>> {
    let text = std::fs::read_to_string(cluster.facts().audit_log())?;
    let mut asked = Vec::new();
    // The last line may be half written.
    for line in text.lines().filter(|line| line.contains(user)) {
        let Ok(event) = serde_json::from_str::<Value>(line) else {
            continue;
        };
        let object = &event["objectRef"];
        // An Event in another case's namespace that is about to go is refused for that, whatever the rights.
        let words = event["responseStatus"]["message"].as_str();
        let is_going = words.is_some_and(|words| words.contains("being terminated"));
        if event["user"]["username"] != user || object["resource"].is_null() || is_going {
            continue;
        }
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let mut resource = text(&object["resource"]);
        if let Some(part) = object["subresource"].as_str() {
            resource = format!("{resource}/{part}");
        }
        let right = format!(
            "{} {resource}.{}",
            text(&event["verb"]),
            text(&object["apiGroup"])
        );
        asked.push((
            right,
            event["responseStatus"]["code"].as_u64().unwrap_or_default(),
        ));
    }
    Ok(asked)
}
