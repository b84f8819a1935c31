//! 10,000 hosts against 100: start, memory, CPU; an added host; and of the agent as many certificates, and their removal.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use super::ask::{self, Kept};
use super::load::{Load, Measured};
use super::peers::{self, Cores, Peer, Running};
use super::reload;
use super::site::{self, Site};
use super::{Bench, Case};

const FEW: usize = 100;
const MANY: usize = 10_000;
/// Two for each round, peer and size; so this short.
const LOAD_SECONDS: u32 = 2;
/// The kernel spreads connections over the workers by their ports: with 32, one worker without any is a matter of luck no more.
const POLLED: usize = 32;
const ADDED: usize = 10;
const SETTLES_WITHIN: Duration = Duration::from_secs(10);
const UP_WITHIN: Duration = Duration::from_mins(1);
const LOOK_AGAIN: Duration = Duration::from_millis(2);

pub(super) fn run(bench: &Bench<'_>) -> anyhow::Result<()> {
    peers::pin_this_process();
    let many = if bench.options.hosts < 1000 {
        MANY
    } else {
        bench.options.hosts
    };
    let site = Site::write(many)?;
    let _backend = Running::backend(&site)?;
    bench.part(Case::Scale.title(), compare(bench, &site, many))?;
    bench.part("an added host", added_host(bench, &site, many))?;
    for peer in [Peer::Nginx, Peer::Haproxy] {
        bench.part(
            "an added host after a reload",
            reload::added_host(bench, peer, many),
        )?;
    }
    bench.part("certificates", certificates(bench, many))
}

/// A server with few hosts, the same with many, and what starting the latter took.
struct Pair {
    few: Running,
    many: Running,
    first_answer: Duration,
    rss_mib: f64,
}

fn compare(bench: &Bench<'_>, site: &Site, many: usize) -> anyhow::Result<()> {
    let small = Site::write(FEW)?;
    let _backend = Running::backend(&small)?;
    let mut pairs = Vec::new();
    for peer in Peer::ALL {
        let (few, _) = start(bench, peer, Cores::One, &small)?;
        let (many, first_answer) = start(bench, peer, Cores::One, site)?;
        let rss_mib = rss_mib(&many)?;
        pairs.push(Pair {
            few,
            many,
            first_answer,
            rss_mib,
        });
    }
    let mut results: BTreeMap<Peer, [Vec<Measured>; 2]> = BTreeMap::new();
    let load = Load {
        seconds: LOAD_SECONDS,
        ..bench.load(Case::Http1)
    };
    for round in 1..=bench.options.rounds {
        for pair in &pairs {
            let [few, of_many] = results.entry(pair.many.peer).or_default();
            few.push(bench.measure(load, &pair.few)?);
            of_many.push(bench.measure(load, &pair.many)?);
        }
        println!("round {round}  {FEW} hosts and {many} hosts asked");
    }
    println!(
        "\n{:<22} {:<8} {:>14} {:>9} {:>12} {:>12} {:>8}",
        "case", "server", "first answer s", "RSS MiB", "µs CPU, few", "µs CPU, many", "ratio"
    );
    for pair in &pairs {
        if let Some([few, many]) = results.get(&pair.many.peer) {
            row(pair, &Measured::median(few), &Measured::median(many));
        }
    }
    Ok(())
}

fn row(pair: &Pair, few: &Measured, many: &Measured) {
    println!(
        "{:<22} {:<8} {:>14.2} {:>9.1} {:>12.1} {:>12.1} {:>8.2}",
        Case::Scale.title(),
        pair.many.peer.name(),
        pair.first_answer.as_secs_f64(),
        pair.rss_mib,
        few.cpu_micros,
        many.cpu_micros,
        many.cpu_micros / few.cpu_micros
    );
}

/// Started, and how long from then to the first 200.
fn start(bench: &Bench<'_>, peer: Peer, cores: Cores, site: &Site) -> anyhow::Result<(Running, Duration)> {
    let begin = Instant::now();
    let running = Running::spawn(peer, cores, site, &bench.programs, &bench.options.agent_flag)?;
    loop {
        let status = Kept::open(running.ports.http).and_then(|mut kept| kept.status(&site::host(42)));
        if matches!(status, Ok(200)) {
            return Ok((running, begin.elapsed()));
        }
        if begin.elapsed() > UP_WITHIN {
            bail!("{} did not answer 200 within {UP_WITHIN:?}", peer.name());
        }
        bench.go_on()?;
        std::thread::sleep(LOOK_AGAIN);
    }
}

fn rss_mib(server: &Running) -> anyhow::Result<f64> {
    Ok(f64::from(server.rss_kib()?) / 1024.0)
}

/// From a file's arrival to the answer on every connection, so on both workers, while a client asks another host.
fn added_host(bench: &Bench<'_>, site: &Site, many: usize) -> anyhow::Result<()> {
    let (agent, _) = start(bench, Peer::Agent, Cores::Both, site)?;
    let mut connections = Vec::new();
    for _ in 0..POLLED {
        connections.push(Kept::open(agent.ports.http)?);
    }
    let mut client = Client::start(agent.ports.http)?;
    let mut times = Vec::new();
    for index in many..many + ADDED {
        bench.go_on()?;
        let file = site.path(&format!("manifests/{index}.yaml"));
        site::put_whole(&file, &site::ingress(index, "bench-tls"))?;
        let arrived = Instant::now();
        times.push(ask::until_all(
            &mut connections,
            &site::host(index),
            200,
            arrived,
        )?);
    }
    let asked = client.stop()?;
    times.sort_unstable();
    let millis = |time: Option<&Duration>| time.map_or(f64::NAN, |time| time.as_secs_f64() * 1000.0);
    println!(
        "\nagent, an added host among {many} answers on {POLLED} connections of 2 workers after: median {:.0} ms, longest of {ADDED} {:.0} ms",
        millis(times.get(ADDED / 2)),
        millis(times.last())
    );
    println!("meanwhile one client asked {asked} times, each answered 200");
    Ok(())
}

/// Asks one host over one connection until told to stop; an answer other than 200 or a closed connection ends it with an error.
struct Client {
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<anyhow::Result<usize>>>,
}

impl Client {
    fn start(port: u16) -> anyhow::Result<Self> {
        let ended = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&ended);
        let mut kept = Kept::open(port)?;
        let thread = std::thread::Builder::new().spawn(move || {
            let mut asked: usize = 0;
            while !seen.load(Ordering::Relaxed) {
                let status = kept
                    .status(&site::host(42))
                    .with_context(|| format!("after {asked} requests of the running client"))?;
                if status != 200 {
                    bail!("the running client was answered {status} after {asked} requests");
                }
                asked += 1;
                // An ordinary client, not a load: the agent has two cores and shares them with us.
                std::thread::sleep(Duration::from_millis(1));
            }
            Ok(asked)
        })?;
        Ok(Self {
            ended,
            thread: Some(thread),
        })
    }

    fn stop(&mut self) -> anyhow::Result<usize> {
        self.ended.store(true, Ordering::Relaxed);
        match self.thread.take().context("stopped already")?.join() {
            Ok(asked) => asked,
            Err(_) => bail!("the running client panicked"),
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
    }
}

/// Memory of the agent with a certificate for each host, and after all of them but the site's few have gone.
fn certificates(bench: &Bench<'_>, many: usize) -> anyhow::Result<()> {
    let site = Site::write(FEW)?;
    let _backend = Running::backend(&site)?;
    let few = rss_mib(&start(bench, Peer::Agent, Cores::One, &site)?.0)?;
    let begin = Instant::now();
    let files = site.put_with_certificates(FEW..FEW + many)?;
    println!(
        "\n{many} certificates were made in {:.1} s",
        begin.elapsed().as_secs_f64()
    );
    let last = site::host(FEW + many - 1);
    let (agent, first_answer) = start(bench, Peer::Agent, Cores::One, &site)?;
    let mut one = [Kept::open(agent.ports.http)?];
    ask::until_all(&mut one, &last, 200, Instant::now())?;
    let full = rss_mib(&agent)?;
    for file in files {
        std::fs::remove_file(&file).with_context(|| file.display().to_string())?;
    }
    ask::until_all(&mut one, &last, 404, Instant::now())?;
    let removed = rss_mib(&agent)?;
    bench.pause(SETTLES_WITHIN)?;
    println!(
        "agent, RSS with {FEW} hosts and one certificate: {few:.1} MiB; with {many} more hosts and {many} certificates: {full:.1} MiB (first answer after {:.2} s); these removed: {removed:.1} MiB, {} s later: {:.1} MiB",
        first_answer.as_secs_f64(),
        SETTLES_WITHIN.as_secs(),
        rss_mib(&agent)?
    );
    Ok(())
}
