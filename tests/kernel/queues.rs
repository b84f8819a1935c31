//! What waits at the listeners and what the kernel does in a flood of SYNs is seen, and clients are served meanwhile.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::Context;

use crate::Done;
use crate::agent::{Site, wait};
use crate::namespace::NODE;

/// Requests that a listener's queue has room for.
const ROOM: &str = "16";
const FLOOD: u16 = 3000;

#[test]
fn in_a_flood_of_syns_cookies_keep_clients_served_and_it_is_shown() -> Done {
    let Some(site) = Site::new()? else { return Ok(()) };
    site.net.node.run(|| {
        std::fs::write("/proc/sys/net/core/somaxconn", ROOM)?;
        std::fs::write("/proc/sys/net/ipv4/tcp_syncookies", "1")?;
        Ok(())
    })?;
    let agent = site.start(&["--http", "0.0.0.0:80", "--kernel-rejection", "off"])?;
    assert!(site.get("10.77.0.1")?.starts_with("HTTP/1.1 200"));
    let queues =
        || -> anyhow::Result<serde_json::Value> { Ok(site.status(agent.pid())?["kernel"]["queues"].clone()) };
    assert_eq!(queues()?["syn_cookies"], 1);
    assert_eq!(queues()?["events"]["SyncookiesSent"], 0);

    site.net.client.run(flood)?;
    for last in 1..=20 {
        let answer = site.get(&format!("10.77.1.{last}"))?;
        assert!(answer.starts_with("HTTP/1.1 200"), "client {last}: {answer}");
    }
    wait("cookies are shown", || {
        let events = &queues()?["events"];
        Ok(events["SyncookiesSent"].as_u64() > Some(0) && events["TCPReqQFullDoCookies"].as_u64() > Some(0))
    })?;
    let listeners = queues()?["listeners"]
        .as_array()
        .cloned()
        .context("no listeners")?;
    assert!(!listeners.is_empty());
    for listener in &listeners {
        assert_eq!(listener["listener"], "http", "{listener}");
        assert_eq!(listener["room"].to_string(), ROOM, "{listener}");
    }
    let said = site.kernel(&["status"])?;
    assert!(said.contains("queues: SYN cookies on, sent "), "{said}");
    agent.log_line("cookies", |line| {
        line.to_string().contains("SYN cookies are in use")
    })?;
    Ok(())
}

/// SYNs of sources that do not exist; whoever answers them hears nothing.
fn flood() -> anyhow::Result<()> {
    let raw = socket2::Socket::new(
        socket2::Domain::IPV4,
        socket2::Type::RAW,
        Some(socket2::Protocol::TCP),
    )?;
    raw.set_header_included_v4(true)?;
    let node: Ipv4Addr = NODE.parse()?;
    for turn in 0..FLOOD {
        let [high, low] = turn.to_be_bytes();
        let packet = syn(Ipv4Addr::new(10, 77, 100 + high, low), node, 1024 + turn);
        raw.send_to(&packet, &SocketAddr::from((node, 0)).into())?;
    }
    Ok(())
}

/// IPv4 (whose checksum the kernel fills in) and TCP to port 80.
fn syn(source: Ipv4Addr, to: Ipv4Addr, port: u16) -> Vec<u8> {
    let mut tcp = port.to_be_bytes().to_vec();
    tcp.extend([0, 80, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0xff, 0xff, 0, 0, 0, 0]);
    let pseudo = [&source.octets()[..], &to.octets(), &[0, 6, 0, 20], &tcp].concat();
    let sum: u32 = pseudo
        .chunks(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
        .sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let sum = !u16::try_from((folded & 0xffff) + (folded >> 16)).unwrap_or_default();
    tcp[16..18].copy_from_slice(&sum.to_be_bytes());
    let mut packet = vec![0x45, 0, 0, 40, 0, 1, 0, 0, 64, 6, 0, 0];
    packet.extend(source.octets());
    packet.extend(to.octets());
    packet.extend(tcp);
    packet
}
