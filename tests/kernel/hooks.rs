//! Each hook by itself: where programs are attached, by what, and that they follow interfaces and addresses.

use crate::Done;
use crate::agent::{self, HOST, Site, wait};
use crate::namespace::{NODE, Net};

/// The status of a plain request for a host; None when the connection was reset.
fn status_of(net: &Net, to: &str, host: &str) -> anyhow::Result<Option<String>> {
    use std::io::{ErrorKind, Read, Write};
    net.client.run(|| {
        let mut stream = agent::open("10.77.0.1", to)?;
        // At once: what comes in pieces is not judged.
        let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes())?;
        let mut first = [0; 12];
        match stream.read_exact(&mut first) {
            Ok(()) => Ok(Some(String::from_utf8_lossy(&first[9..]).into_owned())),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok(None),
            Err(error) => Err(error.into()),
        }
    })
}

/// Serves, with something to judge by headers.
const SOME_CHECK: [&str; 4] = ["--http", ":80", "--kernel-max-new", "100000"];

fn by(site: &Site, pid: u32, interface: &str) -> anyhow::Result<Option<String>> {
    let all = site.interfaces(pid)?;
    Ok(all
        .into_iter()
        .find(|(name, _)| name == interface)
        .map(|(_, by)| by))
}

#[test]
fn interfaces_are_found_by_the_addresses_served_and_followed_when_they_vanish_and_return() -> Done {
    let Some(site) = Site::new()? else { return Ok(()) };
    let agent = site.start(&[
        "--http",
        ":80",
        "--kernel-names",
        "on",
        "--kernel-max-new",
        "100000",
    ])?;
    let names = |site: &Site| -> anyhow::Result<Vec<String>> {
        Ok(site
            .interfaces(agent.pid())?
            .into_iter()
            .map(|(name, _)| name)
            .collect())
    };
    // Not lo, although it has addresses that are served.
    assert_eq!(names(&site)?, ["node0"]);
    let make = [
        "link add late0 type veth peer name late1".to_owned(),
        "addr add 10.78.0.2/16 dev late0".to_owned(),
        "link set late0 up".to_owned(),
        "link set late1 up".to_owned(),
    ];
    for round in 0..3 {
        site.net.node.ip(&make)?;
        wait(&format!("it is judged, round {round}"), || {
            Ok(by(&site, agent.pid(), "late0")?.is_some_and(|by| by == "xdp (native) and tc"))
        })?;
        site.net.node.ip(&["link del late0".to_owned()])?;
        wait(&format!("it is gone, round {round}"), || {
            Ok(names(&site)? == ["node0"])
        })?;
    }
    assert_eq!(status_of(&site.net, NODE, HOST)?.as_deref(), Some("200"));
    Ok(())
}

#[test]
fn an_address_that_comes_later_is_judged_like_those_before_it() -> Done {
    let Some(site) = Site::new()? else { return Ok(()) };
    let _agent = site.start(&["--http", ":80", "--kernel-names", "on"])?;
    assert_eq!(status_of(&site.net, NODE, "stranger.test")?, None);
    let later = "10.77.3.3";
    site.net.node.ip(&[format!("addr add {later}/16 dev node0")])?;
    wait("the new address is judged", || {
        Ok(status_of(&site.net, later, "stranger.test")?.is_none())
    })?;
    assert_eq!(status_of(&site.net, later, HOST)?.as_deref(), Some("200"));
    Ok(())
}

#[test]
fn tc_and_xdp_are_hooks_of_their_own_and_which_is_at_work_is_shown() -> Done {
    let Some(site) = Site::new()? else { return Ok(()) };
    for (tc, xdp, expected) in [
        ("auto", "auto", "xdp (native) and tc"),
        ("auto", "off", "tc"),
        ("off", "auto", "xdp (native)"),
    ] {
        let agent = site.start(&[&SOME_CHECK[..], &["--kernel-tc", tc, "--kernel-xdp", xdp]].concat())?;
        let at_work = by(&site, agent.pid(), "node0")?;
        assert_eq!(at_work.as_deref(), Some(expected), "tc {tc}, xdp {xdp}");
    }
    // Nothing is asked for that XDP would judge.
    let agent = site.start(&["--http", ":80"])?;
    assert_eq!(by(&site, agent.pid(), "node0")?.as_deref(), Some("tc"));
    drop(agent);
    // No driver here that is known to take it: a bridge.
    let bridge = [
        "link add br0 type bridge",
        "addr add 10.80.0.2/16 dev br0",
        "link set br0 up",
    ];
    site.net.node.ip(&bridge.map(str::to_owned))?;
    let agent = site.start(&SOME_CHECK)?;
    assert_eq!(by(&site, agent.pid(), "br0")?.as_deref(), Some("tc"));
    assert!(
        site.kernel(&["status"])?
            .contains("XDP: bridge is not among the drivers")
    );
    drop(agent);
    let agent = site.start(&[&SOME_CHECK[..], &["--kernel-xdp", "on"]].concat())?;
    assert_eq!(
        by(&site, agent.pid(), "br0")?.as_deref(),
        Some("xdp (generic) and tc")
    );
    Ok(())
}

#[test]
fn nothing_is_judged_while_only_a_share_of_the_sources_is_ours() -> Done {
    let Some(site) = Site::new()? else { return Ok(()) };
    agent::neighbour(&site.net.node)?;
    let flags = [
        "--http",
        ":80",
        "--kernel-steering",
        "on",
        "--takeover",
        "0",
        "--kernel-names",
        "on",
    ];
    let _agent = site.start(&flags)?;
    // The neighbour has hosts that we don't know.
    assert_eq!(
        status_of(&site.net, NODE, "stranger.test")?.as_deref(),
        Some("200")
    );
    site.kernel(&["takeover", "100%"])?;
    wait("all is ours, and judged", || {
        Ok(status_of(&site.net, NODE, "stranger.test")?.is_none())
    })?;
    site.kernel(&["takeover", "0"])?;
    assert_eq!(
        status_of(&site.net, NODE, "stranger.test")?.as_deref(),
        Some("200")
    );
    Ok(())
}

#[test]
fn a_refused_change_of_the_share_does_not_end_early_rejection() -> Done {
    let Some(site) = Site::new()? else { return Ok(()) };
    let flags = [
        "--http",
        ":80",
        "--kernel-steering",
        "off",
        "--kernel-names",
        "on",
    ];
    let agent = site.start(&flags)?;
    assert_eq!(status_of(&site.net, NODE, "stranger.test")?, None);
    let refused = site.kernel(&["takeover", "5%"]).unwrap_err().to_string();
    assert!(refused.contains("steering is off"), "{refused}");
    let notes = site.status(agent.pid())?["kernel"]["rejection"]["notes"].to_string();
    assert!(!notes.contains("nothing is judged"), "{notes}");
    assert_eq!(status_of(&site.net, NODE, "stranger.test")?, None);
    Ok(())
}

#[test]
fn whom_the_agent_with_the_traffic_lets_in_no_agent_before_it_rejects() -> Done {
    let Some(site) = Site::new()? else { return Ok(()) };
    let denied = ["--http", ":80", "--kernel-deny", "10.77.1.7/32"];
    let older = site.start(&[&denied[..], &["--hand-over-overlap", "10m"]].concat())?;
    let is_let_in = |site: &Site| -> anyhow::Result<bool> {
        site.net.client.run(|| {
            let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
            socket.bind(&std::net::SocketAddr::new("10.77.1.7".parse()?, 0).into())?;
            let to = std::net::SocketAddr::new(NODE.parse()?, 80).into();
            Ok(socket
                .connect_timeout(&to, std::time::Duration::from_millis(1500))
                .is_ok())
        })
    };
    assert!(!is_let_in(&site)?, "the older one denies it");
    let newer = site.start(&["--http", ":80"])?;
    site.wait_for_phase(older.pid(), "handing over")?;
    assert!(site.get("10.77.1.7")?.starts_with("HTTP/1.1 200"));
    newer.kill();
    site.wait_for_phase(older.pid(), "serving")?;
    assert!(!is_let_in(&site)?, "the older one has the traffic again");
    Ok(())
}

#[test]
fn the_newer_of_two_agents_has_xdp_once_the_older_one_has_let_it_go() -> Done {
    let Some(site) = Site::new()? else { return Ok(()) };
    let older = site.start(&[&SOME_CHECK[..], &["--hand-over-overlap", "2s"]].concat())?;
    assert_eq!(
        by(&site, older.pid(), "node0")?.as_deref(),
        Some("xdp (native) and tc")
    );
    let newer = site.start(&SOME_CHECK)?;
    assert_eq!(by(&site, newer.pid(), "node0")?.as_deref(), Some("tc"));
    site.wait_for_phase(older.pid(), "draining")?;
    wait("the newer one has it", || {
        Ok(by(&site, newer.pid(), "node0")?.as_deref() == Some("xdp (native) and tc"))
    })?;
    assert_eq!(site.interfaces(older.pid())?, []);
    Ok(())
}
