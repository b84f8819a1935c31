//! An API server that is gone, cut off, slow, or refuses: traffic goes on, it is told, and afterwards everything is in step by one resync.
//!
//! The agents here have a ServiceAccount with Roles in one namespace alone, and a relay on their way to the API server.

use std::time::{Duration, Instant};

use anyhow::Context;
use ingress_tests::cluster::control_plane::Program;
use ingress_tests::cluster::{Asked, Fault, Relay};
use ingress_tests::{AgentProcess, Answer, Certs, Cluster, Load, Namespace, Pod, Request};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::Done;
use crate::access::{Account, Right};
use crate::lab::wait_until;

/// An agent behind a relay, that serves the Ingress `web` by one pod, under load.
struct Site<'n> {
    namespace: &'n Namespace<'n>,
    account: Account<'n>,
    relay: Relay,
    folder: TempDir,
    agent: AgentProcess,
    load: Load,
    _pod: Pod,
}

/// As the kubelet would give it, in the folder of the agent.
const TOKEN: &str = "token";

impl<'n> Site<'n> {
    fn start(namespace: &'n Namespace<'n>) -> anyhow::Result<Self> {
        let cluster = namespace.cluster();
        let (account, relay) = (Account::create(namespace)?, Relay::start(cluster)?);
        let folder = tempfile::tempdir()?;
        let token = folder.path().join(TOKEN);
        account.write_token("first", &token)?;
        let kubeconfig = folder.path().join("kubeconfig");
        relay.write_kubeconfig(&kubeconfig, &json!({"tokenFile": token}))?;
        let pod = namespace.pod("web")?;
        namespace.service("web", &[&pod])?;
        apply(namespace, "web")?;
        let program = cluster.program("ingress-agent");
        let program = program.to_str().context("a path in UTF-8")?;
        let name = namespace.name();
        let flags = [
            ["--watch-namespaces", name],
            ["--pod-namespace", name],
            ["--pod-name", "agent-a"],
            ["--publish-address", "192.0.2.7"],
        ];
        let agent = AgentProcess::start_in_cluster(program, &kubeconfig, flags.as_flattened())?;
        wait_until("the site is served", || {
            Ok(get(&agent, &url(namespace, "web"))?.backend() == "web")
        })?;
        let load = Load::start(&url(namespace, "web"), agent.http, 100)?;
        Ok(Self {
            namespace,
            account,
            relay,
            folder,
            agent,
            load,
            _pod: pod,
        })
    }

    /// The API server can't be had: that is said, and hurts nobody.
    fn is_told(&self, words: &str) -> Done {
        self.agent.log_line(words, |line| says(line, words))?;
        wait_until("the metric says that the API server is gone", || {
            let since = metric(
                &self.agent,
                "ingress_agent_source_disconnected_since_timestamp_seconds",
            )?;
            Ok(metric(&self.agent, CONNECTED)? == 0.0 && since > 1.0e9)
        })?;
        assert_eq!(page(&self.agent, "/readyz")?.status, 200, "it stays ready");
        self.load.wait_for(50)
    }

    /// What is taken away shows when a watch begins anew, and the API server itself learns of it after a while.
    fn cut_until_refused(&self, status: u16) -> Done {
        wait_until(&format!("an answer {status}"), || {
            let cut = Instant::now();
            self.relay.cut();
            let answers = || {
                let asked = self.relay.asked().into_iter();
                asked.filter(|one| one.at > cut && one.target.contains("watch=true"))
            };
            wait_until("an answer after the cut", || Ok(answers().count() >= WATCHES))?;
            Ok(answers().any(|one| one.status == status))
        })
    }

    fn is_connected(&self) -> Done {
        wait_until("every watch is up again", || {
            Ok(metric(&self.agent, CONNECTED)? == 1.0)
        })
    }

    /// What is applied now is served.
    fn follows(&self, name: &str) -> Done {
        apply(self.namespace, name)?;
        self.serves(name)
    }

    fn serves(&self, name: &str) -> Done {
        let url = url(self.namespace, name);
        wait_until(&format!("{url} is served"), || {
            Ok(get(&self.agent, &url)?.backend() == "web")
        })
    }

    fn end(self) -> Done {
        self.load.finish().map(drop)
    }
}

/// Ingresses, Services, EndpointSlices, Secrets, classes and the namespace.
const WATCHES: usize = 6;

const CONNECTED: &str = "ingress_agent_source_connected";

fn host(namespace: &Namespace<'_>, name: &str) -> String {
    format!("{name}.{}.test", namespace.name())
}

fn url(namespace: &Namespace<'_>, name: &str) -> String {
    format!("http://{}/", host(namespace, name))
}

/// An Ingress of this name, to the Service `web`.
fn apply(namespace: &Namespace<'_>, name: &str) -> Done {
    let ingress = namespace.ingress(name).host(&host(namespace, name));
    namespace.apply_ingress(&ingress.prefix("/", "web"))
}

fn get(agent: &AgentProcess, url: &str) -> anyhow::Result<Answer> {
    Request::get(url)?.ask(agent.http)
}

fn page(agent: &AgentProcess, path: &str) -> anyhow::Result<Answer> {
    Request::get(&format!("http://{}{path}", agent.admin))?.ask(agent.admin)
}

/// The sum over its labels.
fn metric(agent: &AgentProcess, name: &str) -> anyhow::Result<f64> {
    let text = page(agent, "/metrics")?.text();
    let values = text.lines().filter_map(|line| {
        let (series, value) = line.rsplit_once(' ')?;
        (series.split('{').next() == Some(name)).then_some(value)
    });
    values.map(|value| Ok(value.parse::<f64>()?)).sum()
}

fn lists(agent: &AgentProcess) -> anyhow::Result<f64> {
    metric(agent, "ingress_agent_source_lists_total")
}

fn says(line: &Value, words: &str) -> bool {
    line["message"]
        .as_str()
        .is_some_and(|message| message.contains(words))
}

#[test]
fn watches_that_are_cut_go_on_where_they_were_without_a_new_list_or_a_failed_request() -> Done {
    let cluster = crate::cluster()?;
    let namespace = cluster.namespace("cut")?;
    let site = Site::start(&namespace)?;
    site.is_connected()?;
    let before = lists(&site.agent)?;
    for round in 0..3 {
        site.relay.set(Fault::Refuse);
        site.relay.cut();
        site.is_told("the API server can't be reached")?;
        // Made while nobody watches.
        apply(&namespace, &format!("cut-{round}"))?;
        site.relay.set(Fault::None);
        site.is_connected()?;
        site.serves(&format!("cut-{round}"))?;
    }
    assert_eq!(lists(&site.agent)?, before, "every watch went on where it was");
    assert!(site.relay.asked().iter().any(Asked::is_resumed_watch));
    site.end()
}

#[test]
fn a_watch_whose_version_is_compacted_is_listed_again_once_and_what_changed_meanwhile_is_in_force() -> Done {
    let cluster = crate::cluster()?;
    let namespace = cluster.namespace("expired")?;
    let site = Site::start(&namespace)?;
    site.is_connected()?;
    apply(&namespace, "removed")?;
    site.serves("removed")?;
    let before = lists(&site.agent)?;
    site.relay.set(Fault::Gone);
    site.relay.cut();
    namespace.delete("ingress", "removed")?;
    site.follows("added")?;
    site.is_connected()?;
    let removed = url(&namespace, "removed");
    wait_until("what was deleted meanwhile is gone", || {
        Ok(get(&site.agent, &removed)?.served_by() == "404 host_unknown")
    })?;
    assert_eq!(lists(&site.agent)? - before, WATCHES as f64, "each once");
    site.end()
}

#[test]
fn a_server_that_asks_to_slow_down_is_asked_less_and_told_of() -> Done {
    const PAUSE: u32 = 4;
    let cluster = crate::cluster()?;
    let namespace = cluster.namespace("throttled")?;
    let site = Site::start(&namespace)?;
    site.is_connected()?;
    let from = Instant::now();
    site.relay.set(Fault::Throttle(PAUSE));
    site.relay.cut();
    site.is_told("the API server asks to slow down (429)")?;
    wait_until("every watch has been refused twice", || {
        Ok(refused_watches(&site, from)
            .values()
            .filter(|times| times.len() > 1)
            .count()
            > WATCHES - 1)
    })?;
    for (watch, times) in refused_watches(&site, from) {
        for pair in times.windows(2) {
            let pause = pair[1] - pair[0];
            assert!(
                pause >= Duration::from_secs(PAUSE.into()),
                "{watch} came back after {pause:?}"
            );
        }
    }
    site.relay.set(Fault::None);
    site.is_connected()?;
    site.follows("after")?;
    site.end()
}

/// When which watch was answered 429.
fn refused_watches(site: &Site<'_>, from: Instant) -> std::collections::BTreeMap<String, Vec<Instant>> {
    let mut times = std::collections::BTreeMap::<String, Vec<Instant>>::new();
    let asked = site.relay.asked().into_iter();
    for one in asked.filter(|one| one.status == 429 && one.at > from && one.target.contains("watch=true")) {
        let path = one.target.split('?').next().unwrap_or_default();
        let kind = if one.target.contains("fieldSelector=metadata.name") {
            "one of "
        } else {
            ""
        };
        times.entry(format!("{kind}{path}")).or_default().push(one.at);
    }
    times
}

#[test]
fn a_slow_api_server_is_waited_for_and_costs_no_request() -> Done {
    let cluster = crate::cluster()?;
    let namespace = cluster.namespace("slow")?;
    let site = Site::start(&namespace)?;
    site.is_connected()?;
    site.relay.set(Fault::Slow(Duration::from_secs(3)));
    site.relay.cut();
    site.is_told("the API server can't be reached")?;
    site.is_connected()?;
    site.follows("slowly")?;
    site.end()
}

#[test]
fn a_connection_that_died_without_a_word_is_noticed_and_made_anew() -> Done {
    let cluster = crate::cluster()?;
    let namespace = cluster.namespace("hang")?;
    let site = Site::start(&namespace)?;
    site.is_connected()?;
    site.relay.set(Fault::Hang);
    // Nothing is heard of it until a ping was not answered: 35 seconds.
    site.is_told("the API server can't be reached")?;
    apply(&namespace, "meanwhile")?;
    site.relay.set(Fault::None);
    site.is_connected()?;
    site.serves("meanwhile")?;
    site.end()
}

#[test]
fn a_token_is_read_again_as_it_rotates_and_one_that_expired_is_told_of_until_then() -> Done {
    let cluster = crate::cluster()?;
    let namespace = cluster.namespace("token")?;
    let site = Site::start(&namespace)?;
    site.is_connected()?;
    let token = site.folder.path().join(TOKEN);
    site.account.expire("first")?;
    site.cut_until_refused(401)?;
    site.is_told("does not accept the agent's credentials (401)")?;
    apply(&namespace, "meanwhile")?;
    site.account.write_token("second", &token)?;
    site.is_connected()?;
    site.serves("meanwhile")?;

    // In order: the new one is there before the old one is refused.
    site.account.write_token("third", &token)?;
    site.account.expire("second")?;
    site.relay.cut();
    site.follows("after")?;
    site.is_connected()?;
    site.end()
}

#[test]
fn a_right_that_is_taken_away_is_named_until_it_is_given_back_and_nothing_is_lost() -> Done {
    let cluster = crate::cluster()?;
    let namespace = cluster.namespace("right")?;
    let site = Site::start(&namespace)?;
    site.is_connected()?;
    site.account
        .allow_all_but(&[Right::EndpointSlices, Right::Secrets])?;
    site.cut_until_refused(403)?;
    site.is_told("verbs get, list and watch on endpointslices (apiGroups [\"discovery.k8s.io\"])")?;
    site.is_told("verbs get, list and watch on secrets (apiGroups [\"\"])")?;
    // The kinds that may be read are followed meanwhile, by what is known of the others.
    site.follows("meanwhile")?;
    site.account.allow_all_but(&[])?;
    site.is_connected()?;
    let (pod, name) = (namespace.pod("after")?, "after");
    namespace.endpoints("web", &[&pod])?;
    let url = url(&namespace, "web");
    wait_until("endpoints are followed again", || {
        Ok(get(&site.agent, &url)?.backend() == name)
    })?;
    site.end()
}

/// Flags of an agent in its own cluster, with its state on the node.
struct Node {
    state: TempDir,
    /// Secrets are kept in memory alone.
    secrets: TempDir,
}

impl Node {
    fn start(&self, cluster: &Cluster, further: &[&str]) -> anyhow::Result<AgentProcess> {
        let program = cluster.program("ingress-agent");
        let program = program.to_str().context("a path in UTF-8")?;
        let path = |dir: &TempDir| dir.path().to_str().unwrap_or_default().to_owned();
        let (state, secrets) = (path(&self.state), path(&self.secrets));
        let flags = ["--state-dir", &state, "--state-secrets-dir", &secrets];
        AgentProcess::start_in_cluster(program, cluster.kubeconfig(), &[&flags, further].concat())
    }
}

#[test]
fn an_outage_with_a_restart_in_it_and_a_compacted_version_after_it_costs_no_request() -> Done {
    let cluster = &Cluster::start(env!("CARGO_BIN_EXE_kube-cluster"))?;
    let namespace = cluster.namespace("outage")?;
    let node = Node {
        state: tempfile::tempdir()?,
        secrets: tempfile::tempdir_in("/dev/shm")?,
    };
    let (certs, secure) = (Certs::new()?, host(&namespace, "secure"));
    let pod = namespace.pod("web")?;
    namespace.service("web", &[&pod])?;
    namespace.tls_secret("tls", &certs.leaf(&[&secure, "kept.test"])?)?;
    apply(&namespace, "web")?;
    namespace.apply_ingress(
        &namespace
            .ingress("secure")
            .host(&secure)
            .prefix("/", "web")
            .tls(&[&secure], "tls"),
    )?;
    let url_of = |name: &str| url(&namespace, name);
    let staying = node.start(cluster, &[])?;
    let leaving = Node {
        state: tempfile::tempdir()?,
        secrets: tempfile::tempdir_in("/dev/shm")?,
    };
    let restarted = leaving.start(cluster, &[])?;
    for agent in [&staying, &restarted] {
        wait_until("the site is served", || {
            Ok(get(agent, &url_of("web"))?.backend() == "web")
        })?;
    }
    let is_saved = |dir: &TempDir| Ok::<_, std::io::Error>(dir.path().read_dir()?.next().is_some());
    wait_until("the state is saved", || {
        Ok(is_saved(&leaving.state)? && is_saved(&leaving.secrets)?)
    })?;
    let load = Load::start(&url_of("web"), staying.http, 100)?;

    cluster.stop_program(Program::ApiServer)?;
    wait_until("the metric says that the API server is gone", || {
        Ok(metric(&staying, CONNECTED)? == 0.0)
    })?;
    assert_eq!(page(&staying, "/readyz")?.status, 200);
    restarted.end()?;
    let restarted = leaving.start(cluster, &[])?;
    restarted.log_line("how old the state is", |line| {
        says(line, "serving from the state saved on this node") && line["age_seconds"].is_number()
    })?;
    assert!(metric(&restarted, "ingress_agent_source_stored_state_timestamp_seconds")? > 1.0e9);
    assert_eq!(page(&restarted, "/readyz")?.status, 200, "it serves what it knew");
    let from_state = Load::start(&url_of("web"), restarted.http, 100)?;
    let answer = Request::get(&format!("https://{secure}/"))?.ask(restarted.https)?;
    assert!(
        answer.certificate_names.iter().any(|name| name == "kept.test"),
        "{answer:?}"
    );
    from_state.wait_for(100)?;

    // What both know is compacted, in etcd itself, before they can ask again.
    compact(cluster)?;
    cluster.start_program(Program::ApiServer)?;
    namespace.delete("ingress", "secure")?;
    apply(&namespace, "after")?;
    for agent in [&staying, &restarted] {
        wait_until("every watch is up again", || Ok(metric(agent, CONNECTED)? == 1.0))?;
        wait_until("what was added since is served", || {
            Ok(get(agent, &url_of("after"))?.backend() == "web")
        })?;
        wait_until("what was removed since is gone", || {
            Ok(get(agent, &url_of("secure"))?.status == 404)
        })?;
    }
    assert_eq!(
        metric(&restarted, "ingress_agent_source_stored_state_timestamp_seconds")?,
        0.0
    );
    load.finish()?;
    from_state.finish().map(drop)
}

/// Compacts etcd to its newest revision, while no API server runs.
fn compact(cluster: &Cluster) -> Done {
    let revision = etcd(cluster, "/v3/kv/range", &json!({"key": "AA==", "limit": 1}))?;
    let newest = revision["header"]["revision"].as_str().context("a revision")?;
    etcd(
        cluster,
        "/v3/kv/compaction",
        &json!({"revision": newest, "physical": true}),
    )
    .map(drop)
}

/// Asks etcd by the JSON form of its API.
fn etcd(cluster: &Cluster, path: &str, question: &Value) -> anyhow::Result<Value> {
    use std::io::{Read, Write};
    let address = (std::net::Ipv4Addr::LOCALHOST, cluster.facts().etcd_port);
    let mut stream = std::net::TcpStream::connect(address)?;
    let body = question.to_string();
    write!(
        stream,
        "POST {path} HTTP/1.0\r\nHost: etcd\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (_, body) = answer.split_once("\r\n\r\n").context("no answer")?;
    serde_json::from_str(body).with_context(|| format!("etcd says {answer}"))
}
