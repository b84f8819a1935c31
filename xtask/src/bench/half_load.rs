//! Latency at half of the rate that saturates: each server's own half, so a faster one has more to answer.

use std::collections::BTreeMap;

use super::load::{Load, Measured};
use super::peers::{Peer, Running};
use super::site::Site;
use super::{Bench, Case};

const SATURATE_SECONDS: u32 = 1;

pub(super) fn run(bench: &Bench<'_>) -> anyhow::Result<()> {
    let site = Site::write(bench.options.hosts)?;
    let _backend = Running::backend(&site)?;
    let servers = bench.start_all(&site)?;
    let mut loads = BTreeMap::new();
    for server in &servers {
        loads.insert(server.peer, half(bench, server)?);
    }
    let mut rounds: BTreeMap<Peer, Vec<Measured>> = BTreeMap::new();
    for round in 1..=bench.options.rounds {
        for (server, &load) in servers.iter().zip(loads.values()) {
            let measured = bench.measure(load, server)?;
            println!("round {round}  half load  {:<8} {measured}", server.peer.name());
            rounds.entry(server.peer).or_default().push(measured);
        }
    }
    println!(
        "\n{:<22} {:<8} {:>9} {:>9} {:>8} {:>8} {:>8} {:>8}",
        "case", "server", "asked/s", "got/s", "µs CPU", "p50 µs", "p99 µs", "p99.9"
    );
    print("median", &ranked(&rounds, Measured::median), &loads);
    print("least", &ranked(&rounds, Measured::least), &loads);
    Ok(())
}

/// HTTP/1.1 keep-alive at half of what this server answers when asked for all it can.
pub(super) fn half(bench: &Bench<'_>, server: &Running) -> anyhow::Result<Load> {
    let full = Load {
        seconds: SATURATE_SECONDS,
        ..bench.load(Case::Http1)
    };
    // The better of two: what else runs on the machine can only lower it.
    let first = bench.measure(full, server)?.per_second;
    let per_second = bench.measure(full, server)?.per_second.max(first);
    println!("{} saturates at {per_second:.0} requests/s", server.peer.name());
    Ok(Load {
        rate: Some(per_second / 2.0),
        ..bench.load(Case::Http1)
    })
}

fn ranked(
    rounds: &BTreeMap<Peer, Vec<Measured>>,
    rank: fn(&[Measured]) -> Measured,
) -> BTreeMap<Peer, Measured> {
    rounds.iter().map(|(peer, all)| (*peer, rank(all))).collect()
}

fn print(rank: &str, ranked: &BTreeMap<Peer, Measured>, loads: &BTreeMap<Peer, Load>) {
    for (peer, m) in ranked {
        let asked = loads.get(peer).and_then(|load| load.rate);
        println!(
            "{:<22} {:<8} {:>9.0} {:>9.0} {:>8.1} {:>8} {:>8} {:>8}",
            format!("{}, {rank}", Case::HalfLoad.title()),
            peer.name(),
            asked.unwrap_or_default(),
            m.per_second,
            m.cpu_micros,
            m.p50,
            m.p99,
            m.p999
        );
    }
    let [p50, p99, p999] = [|m: &Measured| m.p50, |m: &Measured| m.p99, |m: &Measured| m.p999]
        .map(|figure| ratio(ranked, figure).map_or("not measured".to_owned(), |ratio| format!("{ratio:.2}")));
    println!("agent to the better peer, {rank} of the rounds: p50 {p50}, p99 {p99}, p99.9 {p999}");
}

fn ratio(medians: &BTreeMap<Peer, Measured>, figure: fn(&Measured) -> u32) -> Option<f64> {
    let of = |peer| medians.get(&peer).map(figure).filter(|&micros| micros > 0);
    let best = of(Peer::Nginx)?.min(of(Peer::Haproxy)?);
    Some(f64::from(of(Peer::Agent)?) / f64::from(best))
}
