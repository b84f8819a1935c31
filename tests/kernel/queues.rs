//! What waits at the listeners and what the kernel does in a flood of SYNs is seen, and clients are served meanwhile.

use std::net::SocketAddrV4;

use anyhow::Context;
use ingress_tests::syns::Syns;

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

fn flood() -> anyhow::Result<()> {
    let mut syns = Syns::new(SocketAddrV4::new(NODE.parse()?, 80))?;
    for _ in 0..FLOOD {
        syns.send()?;
    }
    Ok(())
}
