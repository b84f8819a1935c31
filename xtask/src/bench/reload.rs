//! An added host at nginx and HAProxy: another line in the configuration and a reload, as their controllers do it.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use super::Bench;
use super::ask::Kept;
use super::peers::{Peer, Running};
use super::site::{self, Site};

/// New ones each time: those that are open stay with the old worker until they close.
const CONNECTIONS: usize = 32;
/// Each time takes nginx seconds.
const ADDED: usize = 3;
const WITHIN: Duration = Duration::from_mins(1);
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// From the changed configuration to the answer on every new connection.
pub(super) fn added_host(bench: &Bench<'_>, peer: Peer, many: usize) -> anyhow::Result<()> {
    let site = Site::write(many)?;
    let _backend = Running::backend(&site)?;
    let server = Running::reloadable(peer, &site)?;
    let mut times = Vec::new();
    for hosts in many + 1..=many + ADDED {
        bench.go_on()?;
        site.put_peers(hosts)?;
        let begin = Instant::now();
        signal(&server)?;
        times.push(until_new_connections_serve(
            &server,
            &site::host(hosts - 1),
            begin,
        )?);
    }
    times.sort_unstable();
    let millis = |time: Option<&Duration>| time.map_or(f64::NAN, |time| time.as_secs_f64() * 1000.0);
    println!(
        "{}, an added host among {many} answers on {CONNECTIONS} new connections after a reload: median {:.0} ms, longest of {ADDED} {:.0} ms",
        peer.name(),
        millis(times.get(ADDED / 2)),
        millis(times.last())
    );
    Ok(())
}

fn signal(server: &Running) -> anyhow::Result<()> {
    let signal = match server.peer {
        Peer::Haproxy => "-USR2",
        Peer::Nginx | Peer::Agent => "-HUP",
    };
    let master = server.process_id()?.to_string();
    let sent = Command::new("kill")
        .args([signal, &master])
        .stdout(Stdio::null())
        .status()
        .context("kill")?;
    if !sent.success() {
        bail!("{} could not be told to reload", server.peer.name());
    }
    Ok(())
}

fn until_new_connections_serve(server: &Running, host: &str, begin: Instant) -> anyhow::Result<Duration> {
    let asks = || Kept::open(server.ports.http).and_then(|mut kept| kept.status(host));
    let all_serve = || (0..CONNECTIONS).all(|_| matches!(asks(), Ok(200)));
    while !all_serve() {
        server.ensure_alive()?;
        if begin.elapsed() > WITHIN {
            bail!("{host} did not answer within {WITHIN:?}");
        }
        std::thread::sleep(LOOK_AGAIN);
    }
    Ok(begin.elapsed())
}
