//! One run of h2load against one server, and what it cost that server.

use std::fmt;
use std::net::Ipv4Addr;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use super::Case;
use super::peers::{LOAD_CORE, Running};
use super::site::host;

/// New connections a second in the case of new TLS connections: below what the slowest can do, as only CPU is compared there.
const NEW_CONNECTIONS: u32 = 400;
/// With a rate, a connection begins this long after the one before: at once, all would ask in the same moment for the whole run,
/// and the figures would be those of bursts.
const RAMP: Duration = Duration::from_millis(7);

#[derive(Clone, Copy, Debug)]
pub(crate) struct Measured {
    pub(crate) cpu_micros: f64,
    pub(crate) per_second: f64,
    /// Microseconds.
    pub(crate) p50: u32,
    pub(crate) p99: u32,
    pub(crate) p999: u32,
    pub(crate) rss_mib: f64,
}

impl fmt::Display for Measured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:>7.1} µs CPU  {:>7.0} requests/s  p50 {} p99 {} p99.9 {} µs  {:.1} MiB",
            self.cpu_micros, self.per_second, self.p50, self.p99, self.p999, self.rss_mib
        )
    }
}

impl Measured {
    /// Each figure's own median.
    pub(crate) fn median(rounds: &[Self]) -> Self {
        Self::ranked(rounds, rounds.len() / 2)
    }

    /// Each figure's own lowest: for latencies, what other work on the machine disturbed least.
    pub(crate) fn least(rounds: &[Self]) -> Self {
        Self::ranked(rounds, 0)
    }

    fn ranked(rounds: &[Self], rank: usize) -> Self {
        let float = |figure: fn(&Self) -> f64| {
            let mut all: Vec<f64> = rounds.iter().map(figure).collect();
            all.sort_by(f64::total_cmp);
            all.get(rank).copied().unwrap_or(f64::NAN)
        };
        let whole = |figure: fn(&Self) -> u32| {
            let mut all: Vec<u32> = rounds.iter().map(figure).collect();
            all.sort_unstable();
            all.get(rank).copied().unwrap_or_default()
        };
        Self {
            cpu_micros: float(|m| m.cpu_micros),
            per_second: float(|m| m.per_second),
            p50: whole(|m| m.p50),
            p99: whole(|m| m.p99),
            p999: whole(|m| m.p999),
            rss_mib: float(|m| m.rss_mib),
        }
    }
}

/// What is asked of a server.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    pub(crate) case: Case,
    pub(crate) seconds: u32,
    pub(crate) connections: u32,
    /// Requests a second, by all connections, each at its own moment; as many as it answers when not given.
    pub(crate) rate: Option<f64>,
}

pub(crate) fn measure(load: Load, server: &Running) -> anyhow::Result<Measured> {
    let mut command = Command::new("taskset");
    command.args(["-c", LOAD_CORE, "h2load"]);
    measure_by(command, Ipv4Addr::LOCALHOST, load, server)
}

/// The same from another network namespace, as `nsenter` takes it.
pub(crate) fn measure_from(
    namespace: &str,
    to: Ipv4Addr,
    load: Load,
    server: &Running,
) -> anyhow::Result<Measured> {
    let mut command = Command::new("nsenter");
    command.args([namespace, "taskset", "-c", LOAD_CORE, "h2load"]);
    measure_by(command, to, load, server)
}

fn measure_by(mut command: Command, to: Ipv4Addr, load: Load, server: &Running) -> anyhow::Result<Measured> {
    let log = tempfile::NamedTempFile::new()?;
    ask_for(load, &mut command, to, server);
    command.arg(format!("--log-file={}", log.path().display()));
    let before = server.cpu_micros()?;
    let begin = Instant::now();
    let output = command.stdin(Stdio::null()).output().context("start h2load")?;
    let ramp = load.rate.map_or(Duration::ZERO, |_| RAMP * load.connections);
    let took = begin.elapsed().saturating_sub(ramp).as_secs_f64();
    let cpu = server.cpu_micros()? - before;
    let answers = Answers::read(&std::fs::read_to_string(log.path())?, load.case);
    if answers.times.is_empty() || answers.unexpected > 0 {
        bail!(
            "{} answered {} requests as expected and {} otherwise:\n{}{}",
            server.peer.name(),
            answers.times.len(),
            answers.unexpected,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    let count = f64::from(u32::try_from(answers.times.len())?);
    Ok(Measured {
        cpu_micros: f64::from(u32::try_from(cpu)?) / count,
        per_second: count / took,
        p50: answers.at(500),
        p99: answers.at(990),
        p999: answers.at(999),
        rss_mib: f64::from(server.rss_kib()?) / 1024.0,
    })
}

/// h2load's arguments.
fn ask_for(load: Load, command: &mut Command, to: Ipv4Addr, server: &Running) {
    let Load {
        case,
        seconds,
        connections,
        rate,
    } = load;
    let is_tls = !matches!(case, Case::Http1 | Case::NotFound);
    let (scheme, port) = if is_tls {
        ("https", server.ports.https)
    } else {
        ("http", server.ports.http)
    };
    let name = if case == Case::NotFound {
        "unmatched.bench.test".to_owned()
    } else {
        host(42)
    };
    command.arg("--threads=1");
    command.arg(format!("--connect-to={to}:{port}"));
    if case != Case::H2 {
        command.arg("--h1");
    }
    match (case, rate) {
        (Case::NewTls, _) => {
            let all = NEW_CONNECTIONS * seconds;
            command.arg(format!("--requests={all}"));
            command.arg(format!("--clients={all}"));
            command.arg(format!("--rate={}", NEW_CONNECTIONS / 20));
            command.arg("--rate-period=50ms");
        }
        (_, Some(rate)) => {
            let each = rate / f64::from(connections);
            let requests = (each * f64::from(seconds)).ceil() * f64::from(connections);
            command.arg(format!("--rps={each:.1}"));
            command.arg(format!("--requests={requests:.0}"));
            command.arg(format!("--clients={connections}"));
            command.args(["--rate=1", &format!("--rate-period={}ms", RAMP.as_millis())]);
        }
        (_, None) => {
            command.arg(format!("--duration={seconds}"));
            command.arg(format!("--clients={connections}"));
            let streams = if case == Case::H2 { 10 } else { 1 };
            command.arg(format!("--max-concurrent-streams={streams}"));
        }
    }
    // Without the port: what comes into the Host header is the plain name, as on ports 80 and 443.
    command.arg(format!("{scheme}://{name}/api/item"));
}

/// h2load's log: when, status, microseconds, by tabs.
struct Answers {
    /// Sorted.
    times: Vec<u32>,
    unexpected: usize,
}

impl Answers {
    fn read(log: &str, case: Case) -> Self {
        let expected = if case == Case::NotFound { "404" } else { "200" };
        let mut answers = Self {
            times: Vec::new(),
            unexpected: 0,
        };
        for line in log.lines() {
            let mut fields = line.split('\t').skip(1);
            match (fields.next(), fields.next().and_then(|time| time.parse().ok())) {
                (Some(status), Some(time)) if status == expected => answers.times.push(time),
                _ => answers.unexpected += 1,
            }
        }
        answers.times.sort_unstable();
        answers
    }

    /// The time that this many of a thousand answers did not exceed.
    fn at(&self, per_mille: usize) -> u32 {
        let index = self.times.len().saturating_sub(1) * per_mille / 1000;
        self.times.get(index).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_come_from_the_answers_that_were_expected() {
        let mut log: String = (1..=1000).map(|n| format!("17000\t200\t{n}\n")).collect();
        let answers = Answers::read(&log, Case::Http1);
        assert_eq!(
            (answers.at(500), answers.at(990), answers.unexpected),
            (500, 990, 0)
        );
        log += "17000\t502\t5\n17000\t-1\t5\n";
        assert_eq!(Answers::read(&log, Case::Http1).unexpected, 2);
    }
}
