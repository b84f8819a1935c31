//! An agent and a large cluster, for the bench: `cluster-scale AGENT [INGRESSES]`, 10,000 when not told.
//!
//! Starts an API server (`kube-cluster`, beside this program), fills it with Ingresses, a tenth as many Services with a slice of a hundred
//! endpoints each, and a tenth as many certificates; starts the agent on it, and prints what each step cost.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ingress_tests::cluster::Bulk;
use ingress_tests::cluster::control_plane::Program;
use ingress_tests::{AgentProcess, Certs, Cluster, KeptConnection, Namespace, Pod, Request};
use serde_json::{Value, json};

/// Of each Service.
const ENDPOINTS: usize = 100;
const CONNECTIONS: usize = 8;
const SLICE_EVENTS: usize = 20;
const BURST: usize = 1000;
/// Looking costs the API server something too.
const LOOK_AGAIN: Duration = Duration::from_millis(250);
const PATIENCE: Duration = Duration::from_secs(120);
/// How long nothing may be written once all statuses are.
const QUIET: Duration = Duration::from_secs(60);

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (agent, count) = match arguments.as_slice() {
        [agent] => (agent, 10_000),
        [agent, count] => (agent, count.parse()?),
        _ => bail!("usage: cluster-scale AGENT [INGRESSES]"),
    };
    let own = std::env::current_exe()?;
    let starter = own.with_file_name("kube-cluster");
    let cluster = Cluster::start(starter.to_str().context("a path in UTF-8")?)?;
    let namespace = cluster.namespace("scale")?;
    let site = Site::fill(&namespace, count)?;
    // Whatever it would ask is not the agent's.
    cluster.stop_program(Program::ControllerManager)?;
    site.measure(agent)
}

struct Site<'n> {
    namespace: &'n Namespace<'n>,
    bulk: Bulk,
    count: usize,
    /// What the first Service leads to, in turn.
    pods: [Pod; 2],
}

impl<'n> Site<'n> {
    fn fill(namespace: &'n Namespace<'n>, count: usize) -> anyhow::Result<Self> {
        let begun = Instant::now();
        let site = Self {
            bulk: Bulk::new(namespace.cluster().facts())?,
            pods: [namespace.pod("one")?, namespace.pod("two")?],
            namespace,
            count,
        };
        let tenth = 0..count / 10;
        let leaf = Certs::new()?.leaf(&["*.scale.test"])?;
        let (certificate, key) = (STANDARD.encode(&leaf.certificate), STANDARD.encode(&leaf.key));
        let secret = |index: usize| {
            json!({"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls", "metadata": {"name": format!("tls-{index}")},
                "data": {"tls.crt": certificate, "tls.key": key}})
        };
        let service = |index: usize| {
            json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": format!("web-{index}")},
                "spec": {"clusterIP": "None", "ports": [{"name": "http", "port": 80, "targetPort": Pod::PORT}]}})
        };
        site.bulk.create(
            tenth
                .clone()
                .map(|index| (site.path("v1", "secrets"), secret(index))),
        )?;
        site.bulk.create(
            tenth
                .clone()
                .map(|index| (site.path("v1", "services"), service(index))),
        )?;
        let slices = "discovery.k8s.io/v1";
        site.bulk
            .create(tenth.map(|index| (site.path(slices, "endpointslices"), site.slice(index))))?;
        let ingresses = "networking.k8s.io/v1";
        site.bulk
            .create((0..count).map(|index| (site.path(ingresses, "ingresses"), site.ingress(index))))?;
        println!(
            "{count} Ingresses, {} Services with {ENDPOINTS} endpoints each, {} Secrets: made in {:.0} s",
            count / 10,
            count / 10,
            begun.elapsed().as_secs_f64()
        );
        Ok(site)
    }

    fn path(&self, group: &str, resource: &str) -> String {
        let root = if group == "v1" { "api" } else { "apis" };
        format!("/{root}/{group}/namespaces/{}/{resource}", self.namespace.name())
    }

    fn ingress(&self, index: usize) -> Value {
        let (host, service) = (
            format!("host-{index}.scale.test"),
            format!("web-{}", index % (self.count / 10)),
        );
        let backend = json!({"service": {"name": service, "port": {"name": "http"}}});
        let paths: Vec<_> = ["/", "/api", "/static"]
            .iter()
            .map(|path| json!({"path": path, "pathType": "Prefix", "backend": backend}))
            .collect();
        json!({"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": {"name": format!("web-{index}"), "annotations": {"nginx.ingress.kubernetes.io/ssl-redirect": "false"}},
            "spec": {"ingressClassName": self.namespace.name(),
                "tls": [{"hosts": [host], "secretName": format!("tls-{}", index % (self.count / 10))}],
                "rules": [{"host": host, "http": {"paths": paths}}]}})
    }

    /// The first leads to a pod, all others to addresses where nobody is.
    fn slice(&self, index: usize) -> Value {
        let service = format!("web-{index}");
        let endpoints = match index {
            0 => json!([self.endpoint(0)]),
            _ => (0..ENDPOINTS).map(|endpoint| nobody(index, endpoint)).collect(),
        };
        json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"name": format!("{service}-1"), "labels": {"kubernetes.io/service-name": service}},
            "ports": [{"name": "http", "port": Pod::PORT, "protocol": "TCP"}], "endpoints": endpoints})
    }

    fn endpoint(&self, pod: usize) -> Value {
        json!({"addresses": [self.pods[pod].address().ip().to_string()], "conditions": {"ready": true}})
    }

    fn measure(&self, program: &str) -> anyhow::Result<()> {
        let before = self.requests()?;
        let begun = Instant::now();
        let name = self.namespace.name();
        let flags = [
            ["--pod-namespace", name],
            ["--pod-name", "agent-a"],
            ["--publish-address", "192.0.2.7"],
            ["--access-log", "off"],
        ];
        let kubeconfig = self.namespace.cluster().kubeconfig();
        let agent = AgentProcess::start_in_cluster(program, kubeconfig, flags.as_flattened())?;
        let last = Request::get(&format!(
            "http://host-{}.scale.test/",
            self.count - self.count / 10
        ))?;
        until("an answer", || {
            Ok(last.clone().ask(agent.http)?.served_by() == "one")
        })?;
        let process = Process(agent.pid());
        println!(
            "start to the first answer: {:.2} s, CPU {:.2} s",
            begun.elapsed().as_secs_f64(),
            process.cpu()?
        );
        println!(
            "resident: {} MiB, at most {} MiB",
            process.memory("VmRSS")?,
            process.memory("VmHWM")?
        );
        self.print_bytes(&process);

        self.statuses(&process, &before)?;
        self.events(&agent)?;
        self.burst(&agent, &process)?;
        println!(
            "resident at the end: {} MiB, at most {} MiB",
            process.memory("VmRSS")?,
            process.memory("VmHWM")?
        );
        Ok(())
    }

    /// Until every Ingress has its address, and afterwards.
    fn statuses(&self, process: &Process, before: &Requests) -> anyhow::Result<()> {
        let patches = |now: &Requests| {
            difference(now, before)
                .get("PATCH ingresses/status")
                .copied()
                .unwrap_or_default()
        };
        let wanted = f64::from(u32::try_from(self.count)?);
        until("the first status", || Ok(patches(&self.requests()?) > 0.0))?;
        let begun = Instant::now();
        until("the last status", || Ok(patches(&self.requests()?) >= wanted))?;
        println!(
            "{} statuses written in {:.1} s, CPU of the agent since its start {:.2} s",
            self.count,
            begun.elapsed().as_secs_f64(),
            process.cpu()?
        );
        println!("requests so far, by verb and resource (a watch is counted when it ends):");
        for (what, count) in difference(&self.requests()?, before) {
            println!("  {what:<34} {count}");
        }
        // What its own statuses bring back to it is over.
        std::thread::sleep(Duration::from_secs(5));
        let (settled, cpu) = (self.requests()?, process.cpu()?);
        std::thread::sleep(QUIET);
        println!(
            "in {} s after that: CPU {:.2} s, requests: {:?}",
            QUIET.as_secs(),
            process.cpu()? - cpu,
            difference(&self.requests()?, &settled)
        );
        Ok(())
    }

    /// From the API server's answer to a changed slice to the last of the connections that is led to the new pod.
    fn events(&self, agent: &AgentProcess) -> anyhow::Result<()> {
        let request = Request::get("http://host-0.scale.test/")?;
        let mut connections = Vec::new();
        for _ in 0..CONNECTIONS {
            connections.push(KeptConnection::open(&request, agent.http)?);
        }
        let mut times = Vec::new();
        for round in 1..=SLICE_EVENTS {
            let pod = round % 2;
            let wanted = ["one", "two"][pod];
            let path = format!("{}/web-0-1", self.path("discovery.k8s.io/v1", "endpointslices"));
            self.bulk
                .patch([(path, json!({"endpoints": [self.endpoint(pod)]}))].into_iter())?;
            let changed = Instant::now();
            for connection in &mut connections {
                while connection.ask(request.clone())?.backend() != wanted {
                    anyhow::ensure!(changed.elapsed() < PATIENCE, "the change never came");
                }
            }
            times.push(changed.elapsed());
            std::thread::sleep(Duration::from_millis(200));
        }
        times.sort();
        println!(
            "a changed slice on {CONNECTIONS} connections of 2 workers: median {:.0} ms, longest {:.0} ms of {SLICE_EVENTS}",
            times[SLICE_EVENTS / 2].as_secs_f64() * 1e3,
            times[SLICE_EVENTS - 1].as_secs_f64() * 1e3
        );
        Ok(())
    }

    /// A thousand changed slices as fast as the API server takes them.
    fn burst(&self, agent: &AgentProcess, process: &Process) -> anyhow::Result<()> {
        let events = |agent: &AgentProcess| {
            metric(
                agent,
                "ingress_agent_source_events_total{resource=\"endpointslices\"}",
            )
        };
        let (before, cpu, begun) = (events(agent)?, process.cpu()?, Instant::now());
        let tenth = self.count / 10;
        let changes = (0..BURST).map(|change| {
            // Not the first, which leads somewhere.
            let index = 1 + change % (tenth - 1);
            let path = format!(
                "{}/web-{index}-1",
                self.path("discovery.k8s.io/v1", "endpointslices")
            );
            let endpoints: Vec<_> = (1..ENDPOINTS)
                .map(|endpoint| nobody(index, endpoint + change / (tenth - 1) * ENDPOINTS))
                .collect();
            (path, json!({"endpoints": endpoints}))
        });
        self.bulk.patch(changes)?;
        let made = begun.elapsed();
        until("all changes have come", || {
            Ok(events(agent)? - before >= f64::from(u32::try_from(BURST)?))
        })?;
        // The last state may wait for its turn.
        std::thread::sleep(Duration::from_secs(1));
        println!(
            "{BURST} changed slices within {:.1} s: CPU of the agent {:.2} s",
            made.as_secs_f64(),
            process.cpu()? - cpu
        );
        Ok(())
    }

    /// What its connections to the API server have received and sent.
    fn print_bytes(&self, process: &Process) {
        let port = format!(":{}", self.namespace.cluster().facts().api_port);
        let output = Command::new("ss").args(["-tinpHO", "dst", &port]).output();
        let text = output
            .map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
            .unwrap_or_default();
        let own = format!("pid={},", process.0);
        let field = |line: &str, name: &str| {
            let value = line.split(' ').find_map(|word| word.strip_prefix(name));
            value
                .and_then(|value| value.parse::<f64>().ok())
                .unwrap_or_default()
                / 1048576.0
        };
        for line in text.lines().filter(|line| line.contains(&own)) {
            let (received, sent) = (field(line, "bytes_received:"), field(line, "bytes_sent:"));
            println!("a connection to the API server: {received:.1} MiB received, {sent:.2} MiB sent");
        }
    }

    /// What the API server has answered so far, by verb and resource.
    fn requests(&self) -> anyhow::Result<Requests> {
        let page = self.namespace.cluster().api().get("/metrics")?.body;
        let text = page.as_str().context("metrics are text")?;
        let mut counts = Requests::new();
        for line in text
            .lines()
            .filter(|line| line.starts_with("apiserver_request_total{"))
        {
            let label = |name: &str| {
                let (_, rest) = line.split_once(&format!("{name}=\""))?;
                rest.split_once('"').map(|(value, _)| value)
            };
            let resource = label(",resource").unwrap_or_default();
            let part = label("subresource")
                .filter(|part| !part.is_empty())
                .map(|part| format!("/{part}"));
            let (_, count) = line.rsplit_once(' ').context("a number")?;
            let what = format!(
                "{} {resource}{}",
                label("verb").unwrap_or_default(),
                part.unwrap_or_default()
            );
            *counts.entry(what).or_default() += count.parse::<f64>()?;
        }
        // What is asked here, and what an API server asks itself.
        counts.retain(|what, _| {
            let of_ours = [
                "ingress",
                "services",
                "endpointslices",
                "secrets",
                "configmaps",
                "leases",
                "events",
            ];
            of_ours.iter().any(|resource| what.contains(resource))
        });
        Ok(counts)
    }
}

type Requests = BTreeMap<String, f64>;

fn difference(now: &Requests, before: &Requests) -> Requests {
    let since = now.iter().map(|(what, count)| {
        (
            what.clone(),
            count - before.get(what).copied().unwrap_or_default(),
        )
    });
    since.filter(|(_, count)| *count > 0.0).collect()
}

/// Addresses of the range for tests of RFC 2544 that no pod has here.
fn nobody(index: usize, endpoint: usize) -> Value {
    let number = index * ENDPOINTS + endpoint;
    let address = format!("198.19.{}.{}", number / 250 % 250, number % 250 + 1);
    json!({"addresses": [address], "conditions": {"ready": true}})
}

fn until(what: &str, mut so: impl FnMut() -> anyhow::Result<bool>) -> anyhow::Result<()> {
    let end = Instant::now() + PATIENCE;
    while !so()? {
        anyhow::ensure!(Instant::now() < end, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(LOOK_AGAIN);
    }
    Ok(())
}

fn metric(agent: &AgentProcess, series: &str) -> anyhow::Result<f64> {
    let page = Request::get(&format!("http://{}/metrics", agent.admin))?
        .ask(agent.admin)?
        .text();
    let line = page.lines().find_map(|line| line.strip_prefix(series));
    Ok(line.context("no such series")?.trim().parse()?)
}

/// A process, by what the kernel says of it.
struct Process(u32);

impl Process {
    /// Seconds of user and system time.
    fn cpu(&self) -> anyhow::Result<f64> {
        let stat = std::fs::read_to_string(Path::new("/proc").join(self.0.to_string()).join("stat"))?;
        let (_, rest) = stat.rsplit_once(')').context("stat")?;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        // utime and stime are fields 14 and 15 of proc(5), in hundredths.
        let ticks: f64 = fields[11].parse::<f64>()? + fields[12].parse::<f64>()?;
        Ok(ticks / 100.0)
    }

    fn memory(&self, field: &str) -> anyhow::Result<u64> {
        let status = std::fs::read_to_string(Path::new("/proc").join(self.0.to_string()).join("status"))?;
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        let kib = line.context("no such field")?.trim().trim_end_matches(" kB");
        Ok(kib.parse::<u64>()? / 1024)
    }
}
