//! Latency of the agent while its folder changes, against the same load on a calm folder.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use super::ask::{self, Kept};
use super::half_load;
use super::load::{Load, Measured};
use super::peers::{self, Peer, Running};
use super::site::{self, Site};
use super::{Bench, Case};

/// One Ingress each; so 10 a second.
const TICK: Duration = Duration::from_millis(100);
/// Slices written each tick; with every endpoint of each replaced, 1,000 endpoints a second.
const SLICES: usize = 5;
const ENDPOINTS: usize = 20;
/// Hosts of the changing Ingresses begin here, above those of the site.
const FIRST_HOST: usize = 1_000_000;

pub(super) fn run(bench: &Bench<'_>) -> anyhow::Result<()> {
    // The writer is this process: off the server's core, as load and backend are.
    peers::pin_this_process();
    let site = Site::write(bench.options.hosts)?;
    let _backend = Running::backend(&site)?;
    let agent = Running::start(Peer::Agent, &site, &bench.programs, &bench.options.agent_flag)?;
    let load = half_load::half(bench, &agent)?;
    let (mut calm, mut changing) = (Vec::new(), Vec::new());
    for round in 1..=bench.options.rounds {
        let measured = bench.measure(load, &agent)?;
        println!("round {round}  calm      {measured}");
        calm.push(measured);
        let measured = while_changing(bench, load, &agent, &site)?;
        println!("round {round}  changing  {measured}");
        changing.push(measured);
    }
    println!(
        "\n{:<40} {:>9} {:>8} {:>8} {:>8} {:>8}",
        "case, agent at its half load", "got/s", "µs CPU", "p50 µs", "p99 µs", "p99.9"
    );
    print("median", &Measured::median(&calm), &Measured::median(&changing));
    print("least", &Measured::least(&calm), &Measured::least(&changing));
    Ok(())
}

fn while_changing(bench: &Bench<'_>, load: Load, agent: &Running, site: &Site) -> anyhow::Result<Measured> {
    let mut writer = Writer::start(site)?;
    let measured = bench.measure(load, agent);
    let written = writer.stop()?;
    let measured = measured?;
    println!(
        "{:.1} Ingresses/s and {:.0} endpoints/s were written",
        written.per_second(1),
        written.per_second(SLICES * ENDPOINTS)
    );
    // Shows that the agent took them in, and that it is calm again before the next round.
    let last = site::host(FIRST_HOST + written.ticks - 1);
    let seen = ask::until_all(&mut [Kept::open(agent.ports.http)?], &last, 200, Instant::now())?;
    println!("the last of them answered {} ms after the end", seen.as_millis());
    for name in names(written.ticks) {
        std::fs::remove_file(site.path(&name)).with_context(|| name.clone())?;
    }
    ask::until_all(&mut [Kept::open(agent.ports.http)?], &last, 404, Instant::now())?;
    Ok(measured)
}

fn names(ticks: usize) -> impl Iterator<Item = String> {
    let ingresses = (0..ticks).map(|tick| format!("manifests/change-{tick}.yaml"));
    ingresses.chain(["manifests/change-slices.yaml".to_owned()])
}

struct Writer {
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<anyhow::Result<Written>>>,
}

struct Written {
    ticks: usize,
    took: Duration,
}

impl Written {
    fn per_second(&self, each_tick: usize) -> f64 {
        let all = u32::try_from(self.ticks * each_tick).unwrap_or(u32::MAX);
        f64::from(all) / self.took.as_secs_f64()
    }
}

impl Writer {
    fn start(site: &Site) -> anyhow::Result<Self> {
        let ended = Arc::new(AtomicBool::new(false));
        let (seen, folder) = (Arc::clone(&ended), site.path("manifests"));
        let thread = std::thread::Builder::new().spawn(move || write(&folder, &seen))?;
        Ok(Self {
            ended,
            thread: Some(thread),
        })
    }

    fn stop(&mut self) -> anyhow::Result<Written> {
        self.ended.store(true, Ordering::Relaxed);
        let thread = self.thread.take().context("stopped already")?;
        match thread.join() {
            Ok(written) => written,
            Err(_) => bail!("the writer panicked"),
        }
    }
}

fn write(folder: &Path, ended: &AtomicBool) -> anyhow::Result<Written> {
    let begin = Instant::now();
    let mut ticks: usize = 0;
    while ticks == 0 || !ended.load(Ordering::Relaxed) {
        site::put_whole(
            &folder.join(format!("change-{ticks}.yaml")),
            &site::ingress(FIRST_HOST + ticks, "bench-tls"),
        )?;
        site::put_whole(&folder.join("change-slices.yaml"), &slices(ticks))?;
        ticks += 1;
        let next = TICK * u32::try_from(ticks)?;
        std::thread::sleep(next.saturating_sub(begin.elapsed()));
    }
    Ok(Written {
        ticks,
        took: begin.elapsed(),
    })
}

/// Every endpoint of every slice has another address than a tick ago. Their hosts are routed, but nobody asks for them.
fn slices(tick: usize) -> String {
    let mut text = String::new();
    for slice in 0..SLICES {
        let endpoints: Vec<String> = (0..ENDPOINTS)
            .map(|n| {
                format!(
                    "{{addresses: [\"10.{}.{slice}.{}\"], conditions: {{ready: true}}}}",
                    tick % 250,
                    n + 1
                )
            })
            .collect();
        let _ = write!(
            text,
            "---\napiVersion: v1\nkind: Service\nmetadata: {{namespace: bench, name: moving-{slice}}}\n\
             spec: {{ports: [{{name: http, port: 80}}]}}\n---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
             metadata: {{namespace: bench, name: moving-{slice}-1, labels: {{kubernetes.io/service-name: moving-{slice}}}}}\n\
             addressType: IPv4\nports: [{{name: http, port: 8080}}]\nendpoints: [{}]\n---\n\
             apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {{namespace: bench, name: moving-{slice}}}\n\
             spec:\n  ingressClassName: ingress-agent\n  rules:\n  - host: moving-{slice}.bench.test\n    http:\n      paths:\n      \
             - {{path: /, pathType: Prefix, backend: {{service: {{name: moving-{slice}, port: {{number: 80}}}}}}}}\n",
            endpoints.join(", ")
        );
    }
    text
}

fn print(rank: &str, calm: &Measured, changing: &Measured) {
    for (name, m) in [("calm", calm), ("10 Ingresses, 1,000 endpoints/s", changing)] {
        println!(
            "{:<40} {:>9.0} {:>8.1} {:>8} {:>8} {:>8}",
            format!("{rank}: {name}"),
            m.per_second,
            m.cpu_micros,
            m.p50,
            m.p99,
            m.p999
        );
    }
    println!(
        "{} to calm, {rank} of the rounds: p99 {:.2}",
        Case::Changes.title(),
        f64::from(changing.p99) / f64::from(calm.p99)
    );
}
