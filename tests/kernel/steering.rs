//! Addresses that are served without being bound.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};

use ingress_agent::kernel::steering::{Steering, Wanted};
use ingress_agent::listener::Listener;
use ingress_common::abi::WHOLE;

use crate::Done;
use crate::agent::{self, Site, ask_on, get, neighbour, open, wait};
use crate::namespace::{NODE, NODE_V6, SOURCES};

/// Listening sockets of the node on port 80.
fn bound(site: &Site) -> anyhow::Result<String> {
    let output = site
        .net
        .node
        .command()
        .args(["ss", "-Hltn", "sport = :80"])
        .output()?;
    Ok(String::from_utf8(output.stdout)?)
}

fn sources() -> impl Iterator<Item = String> {
    (1..=SOURCES).map(|last| format!("10.77.1.{last}"))
}

fn is_agents(response: &str) -> bool {
    response.starts_with("HTTP/1.1 200") && !response.ends_with("neighbour")
}

#[test]
fn port_80_of_every_address_is_served_without_being_bound() -> Done {
    let Some(site) = Site::new()? else { return Ok(()) };
    let agent = site.start(&["--http", ":80", "--kernel", "on"])?;
    assert_eq!(bound(&site)?, "");
    assert!(is_agents(&site.get("10.77.0.1")?));
    assert!(is_agents(&site.net.client.run(|| get("fd77::1", NODE_V6))?));
    assert!(is_agents(&site.net.node.run(|| get("127.0.0.1", "127.0.0.1"))?));
    assert!(is_agents(&site.net.node.run(|| get("::1", "::1"))?));
    let status = site.status(agent.pid())?;
    assert_eq!(status["kernel"]["addresses"][0]["steered"], 4, "{status}");
    Ok(())
}

#[test]
fn an_address_alone_is_served_and_its_neighbours_are_not() -> Done {
    let Some(site) = Site::new()? else { return Ok(()) };
    let _agent = site.start(&["--http", &format!("{NODE}:80"), "--kernel", "on"])?;
    assert!(is_agents(&site.get("10.77.0.1")?));
    assert!(site.net.node.run(|| get("127.0.0.1", "127.0.0.1")).is_err());
    assert!(site.net.client.run(|| get("fd77::1", NODE_V6)).is_err());
    Ok(())
}

#[test]
fn an_agent_that_gets_ready_takes_no_connection_before_it_is() -> Done {
    let Some(site) = Site::new()? else { return Ok(()) };
    neighbour(&site.net.node)?;
    let enough = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..3)
            .map(|_| {
                scope.spawn(|| {
                    site.net.client.run(|| {
                        while !enough.load(Ordering::Relaxed) {
                            anyhow::ensure!(get("10.77.0.1", NODE)?.ends_with("neighbour"));
                        }
                        Ok(())
                    })
                })
            })
            .collect();
        let prepared = site.net.node.run(|| {
            let wanted = [Wanted {
                listener: Listener::Http,
                address: "0.0.0.0:80".parse()?,
                loopback: false,
            }];
            for _ in 0..100 {
                // It goes without ever having been in force, as one does that finds its settings wrong.
                drop(Steering::prepare(&wanted, 1, WHOLE)?);
            }
            Ok(())
        });
        enough.store(true, Ordering::Relaxed);
        for client in clients {
            client
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        }
        prepared
    })
}

#[test]
fn a_port_that_another_process_has_is_not_taken_unless_asked_for() -> Done {
    let Some(site) = Site::new()? else { return Ok(()) };
    neighbour(&site.net.node)?;
    let said = site.refused(&[], &["--http", ":80"])?;
    assert!(
        said.contains("another process has this port") && said.contains("--kernel-steering on"),
        "{said}"
    );
    // The neighbour is a thread of this test.
    assert!(said.contains(&format!("(pid {})", std::process::id())), "{said}");
    assert!(site.get("10.77.0.1")?.ends_with("neighbour"));
    Ok(())
}

#[test]
fn a_share_of_the_sources_is_taken_sticky_and_changed_at_once_and_loopback_stays() -> Done {
    let Some(site) = Site::new()? else { return Ok(()) };
    neighbour(&site.net.node)?;
    let agent = site.start(&["--http", ":80", "--kernel-steering", "on", "--takeover", "0"])?;
    let taken = || -> anyhow::Result<BTreeSet<String>> {
        let mut taken = BTreeSet::new();
        for source in sources() {
            if is_agents(&site.get(&source)?) {
                taken.insert(source);
            }
        }
        Ok(taken)
    };
    assert_eq!(taken()?.len(), 0);
    site.kernel(&["takeover", "50%"])?;
    let half = taken()?;
    let (least, most) = (usize::from(SOURCES) / 4, usize::from(SOURCES) * 3 / 4);
    assert!(
        (least..=most).contains(&half.len()),
        "{} of {SOURCES}",
        half.len()
    );
    assert_eq!(taken()?, half, "each source stays where it was");
    site.kernel(&["takeover", "1"])?;
    assert_eq!(taken()?.len(), usize::from(SOURCES));
    assert!(
        site.net
            .node
            .run(|| get("127.0.0.1", "127.0.0.1"))?
            .ends_with("neighbour")
    );
    let status = site.status(agent.pid())?;
    let counts = &status["kernel"]["addresses"][0];
    assert_eq!(
        counts["steered"],
        half.len() * 2 + usize::from(SOURCES),
        "{status}"
    );
    assert_eq!(counts["share"], 10_000, "{status}");
    site.kernel(&["takeover", "0"])?;
    assert_eq!(taken()?.len(), 0);
    Ok(())
}

#[test]
fn a_killed_agent_leaves_nothing_and_its_neighbour_has_the_port_again() -> Done {
    let Some(site) = Site::new()? else { return Ok(()) };
    neighbour(&site.net.node)?;
    let agent = site.start(&["--http", ":80", "--kernel-steering", "on"])?;
    assert!(is_agents(&site.get("10.77.0.1")?));
    agent.kill();
    assert!(site.get("10.77.0.1")?.ends_with("neighbour"));
    assert!(
        site.kernel(&["status"])?
            .contains("nothing of ours is in the kernel")
    );
    Ok(())
}

#[test]
fn detach_takes_everything_out_of_the_kernel_and_what_is_open_goes_on() -> Done {
    let Some(site) = Site::new()? else { return Ok(()) };
    neighbour(&site.net.node)?;
    let agent = site.start(&["--http", ":80", "--kernel-steering", "on"])?;
    let kept = site.net.client.run(|| open("10.77.0.1", NODE))?;
    assert!(ask_on(&kept)?.contains("200"));
    assert!(
        site.kernel(&["detach"])?
            .contains("nothing of it is in the kernel")
    );
    assert!(site.get("10.77.0.1")?.ends_with("neighbour"));
    assert!(ask_on(&kept)?.contains("200"));
    let status = site.status(agent.pid())?;
    assert_eq!(status["kernel"]["steering"]["on"], false);
    assert!(
        status["kernel"]["steering"]["reason"]
            .as_str()
            .unwrap_or_default()
            .contains("detach"),
        "{status}"
    );
    Ok(())
}

#[test]
fn with_the_kernel_side_off_the_address_is_bound_and_nothing_is_in_the_kernel() -> Done {
    let Some(site) = Site::new()? else { return Ok(()) };
    let _agent = site.start(&["--http", ":80", "--kernel", "off"])?;
    assert_eq!(bound(&site)?.lines().count(), 3);
    assert!(is_agents(&site.get("10.77.0.1")?));
    let status = site.kernel(&["status"])?;
    for hook in ["steering", "accounting", "early rejection"] {
        assert!(
            status.contains(&format!("  {hook} off: switched off by --kernel")),
            "{status}"
        );
    }
    Ok(())
}

#[test]
fn once_steering_has_ended_the_port_can_be_bound_at_once() -> Done {
    let Some(site) = Site::new()? else {
        return Ok(());
    };
    let mut agent = site.start(&["--http", ":80", "--kernel", "on"])?;
    // The agent closes first, so that its end of the connection waits for a minute (TIME-WAIT).
    assert!(is_agents(&site.get("10.77.0.1")?));
    agent.terminate()?;
    assert_eq!(agent.wait()?, Some(0));
    let _agent = site.start(&["--http", ":80", "--kernel", "off"])?;
    assert!(is_agents(&site.get("10.77.0.1")?));
    Ok(())
}

/// How many descriptors each event loop of a process watches.
fn watched(pid: u32) -> anyhow::Result<Vec<usize>> {
    let mut sizes = Vec::new();
    for entry in std::fs::read_dir(format!("/proc/{pid}/fdinfo"))? {
        // A descriptor may go between listing and reading.
        let info = std::fs::read_to_string(entry?.path()).unwrap_or_default();
        sizes.push(info.lines().filter(|line| line.starts_with("tfd:")).count());
    }
    sizes.sort_unstable_by(|a, b| b.cmp(a));
    Ok(sizes)
}

#[test]
fn connections_spread_evenly_over_the_workers() -> Done {
    let Some(site) = Site::new()? else { return Ok(()) };
    let agent = site.start(&["--http", ":80", "--kernel", "on"])?;
    let open: Vec<_> = site
        .net
        .client
        .run(|| (0..300).map(|_| agent::open("10.77.0.1", NODE)).collect())?;
    wait("300 connections", || {
        Ok(site.status(agent.pid())?["connections"] == 300)
    })?;
    let sizes = watched(agent.pid())?;
    // 100 each on average; binomial with a standard deviation of 8.
    assert!(sizes[2] >= 60 && sizes[0] <= 150, "{sizes:?}");
    drop(open);
    Ok(())
}
