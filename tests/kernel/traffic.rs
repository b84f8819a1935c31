//! Early rejection of new connections by rate and by listener, behind VLAN tags, and with very many hosts.

use std::fmt::Write as _;
use std::io::{ErrorKind, Read, Write as _};
use std::net::SocketAddr;

use anyhow::Context;

use crate::Done;
use crate::agent::{DEADLINE, Site, get, wait};
use crate::namespace::NODE;

/// How many of some connections from a source to a port are refused. Silence is an error: `--kernel-answer` asks for an answer.
fn refused(site: &Site, from: &str, port: u16, tries: usize) -> anyhow::Result<usize> {
    site.net.client.run(|| {
        let mut refused = 0;
        for _ in 0..tries {
            let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
            socket.bind(&SocketAddr::new(from.parse()?, 0).into())?;
            match socket.connect_timeout(&SocketAddr::new(NODE.parse()?, port).into(), DEADLINE) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::ConnectionRefused => refused += 1,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(refused)
    })
}

/// Packets with a verdict, on all interfaces.
fn count(site: &Site, pid: u32, verdict: &str) -> anyhow::Result<u64> {
    let status = site.status(pid)?;
    let all = status["kernel"]["rejection"]["counts"]
        .as_array()
        .context("no counts")?;
    let of_this = all.iter().filter(|count| count["verdict"] == verdict);
    Ok(of_this.filter_map(|count| count["packets"].as_u64()).sum())
}

#[test]
fn a_source_that_opens_too_many_connections_is_refused_and_others_are_not() -> Done {
    let Some(site) = Site::new()? else { return Ok(()) };
    let flags = [
        "--http",
        ":80",
        "--kernel-max-new-per-source",
        "5",
        "--kernel-answer",
        "true",
    ];
    let agent = site.start(&flags)?;
    // However slow the machine: enough for a burst.
    let mut lost = 0;
    wait("a source is refused", || {
        lost += refused(&site, "10.77.1.1", 80, 40)?;
        Ok(lost > 0)
    })?;
    assert_eq!(count(&site, agent.pid(), "source_budget")?, u64::try_from(lost)?);
    assert_eq!(
        refused(&site, "10.77.1.2", 80, 3)?,
        0,
        "another source has its own"
    );
    assert_eq!(count(&site, agent.pid(), "total_budget")?, 0);
    Ok(())
}

#[test]
fn all_sources_together_have_a_budget_too() -> Done {
    let Some(site) = Site::new()? else { return Ok(()) };
    let agent = site.start(&[
        "--http",
        ":80",
        "--kernel-max-new",
        "10",
        "--kernel-answer",
        "true",
    ])?;
    let mut lost = 0;
    wait("someone is refused", || {
        for last in 1..40 {
            lost += refused(&site, &format!("10.77.1.{last}"), 80, 1)?;
        }
        Ok(lost > 0)
    })?;
    assert_eq!(count(&site, agent.pid(), "total_budget")?, u64::try_from(lost)?);
    assert_eq!(count(&site, agent.pid(), "source_budget")?, 0);
    // And then it is full again.
    wait("all are served", || Ok(refused(&site, "10.77.1.50", 80, 1)? == 0))
}

#[test]
fn a_listener_has_its_own_list_of_sources() -> Done {
    let Some(site) = Site::new()? else { return Ok(()) };
    let flags = ["--http", ":80", "--https", ":8443", "--kernel-answer", "true"];
    for rule in ["https=10.77.1.0/24", ":8443=10.77.1.0/24"] {
        let agent = site.start(&[&flags[..], &["--kernel-deny", rule]].concat())?;
        assert_eq!(refused(&site, "10.77.1.1", 8443, 3)?, 3, "{rule}");
        assert_eq!(refused(&site, "10.77.1.1", 80, 3)?, 0, "{rule}");
        assert_eq!(refused(&site, "10.77.0.1", 8443, 3)?, 0, "{rule}");
        assert!(count(&site, agent.pid(), "source_denied")? >= 3, "{rule}");
    }
    let said = site.refused(&[], &["--http", ":80", "--kernel-deny", ":8085=10.0.0.0/8"])?;
    assert!(
        said.contains("--kernel-deny") && said.contains("none of the listeners"),
        "{said}"
    );
    Ok(())
}

#[test]
fn behind_vlan_tags_it_is_the_same_on_the_interface_itself_and_on_the_one_below() -> Done {
    let Some(site) = Site::new()? else { return Ok(()) };
    for (namespace, below, host) in [(&site.net.node, "node0", 2), (&site.net.client, "client0", 1)] {
        let made = namespace.ip(&[
            format!("link add link {below} name tagged type vlan id 7"),
            format!("addr add 10.81.0.{host}/24 dev tagged"),
            "link set tagged up".to_owned(),
        ]);
        if made
            .as_ref()
            .is_err_and(|error| error.to_string().contains("Unknown device type"))
        {
            // Not by println, which libtest keeps to itself when a test passes.
            let _ = writeln!(
                std::io::stderr(),
                "skipped: this kernel has no VLAN interfaces (8021q)"
            );
            return Ok(());
        }
        made?;
    }
    let served = |host: &str| -> anyhow::Result<Option<ErrorKind>> {
        site.net.client.run(|| {
            let mut stream = std::net::TcpStream::connect_timeout(&"10.81.0.2:80".parse()?, DEADLINE)?;
            stream.set_read_timeout(Some(DEADLINE))?;
            stream.write_all(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes())?;
            Ok(stream.read_exact(&mut [0; 12]).err().map(|error| error.kind()))
        })
    };
    for place in [
        &[][..],
        &["--kernel-interfaces", "node0"],
        &["--kernel-interfaces", "node0", "--kernel-xdp", "on"],
    ] {
        let flags = [
            "--http",
            ":80",
            "--kernel-names",
            "on",
            "--kernel-deny",
            "10.81.0.77",
        ];
        let agent = site.start(&[&flags[..], place].concat())?;
        assert_eq!(served(crate::agent::HOST)?, None, "{place:?}");
        assert_eq!(
            served("stranger.test")?,
            Some(ErrorKind::ConnectionReset),
            "{place:?}"
        );
        assert!(count(&site, agent.pid(), "http_host_unknown")? > 0);
        // What headers show: the source, by XDP where it is.
        drop(agent);
        let flags = ["--http", ":80", "--kernel-deny", "10.81.0.1"];
        let agent = site.start(&[&flags[..], place].concat())?;
        let silent = site.net.client.run(|| {
            let soon = std::time::Duration::from_millis(1200);
            Ok(std::net::TcpStream::connect_timeout(
                &"10.81.0.2:80".parse()?,
                soon,
            ))
        })?;
        assert_eq!(silent.unwrap_err().kind(), ErrorKind::TimedOut, "{place:?}");
        assert!(count(&site, agent.pid(), "source_denied")? > 0);
        assert!(
            site.net
                .client
                .run(|| get("10.77.0.1", NODE))?
                .starts_with("HTTP/1.1 200")
        );
    }
    Ok(())
}

#[test]
fn the_tables_of_ten_thousand_hosts_follow_a_change_within_100_ms() -> Done {
    let Some(site) = Site::new()? else { return Ok(()) };
    let ingress = |name: &str, hosts: std::ops::Range<usize>| {
        let mut yaml = format!(
            "apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {{name: {name}, namespace: default}}\n\
             spec:\n  ingressClassName: ingress-agent\n  rules:\n"
        );
        for host in hosts {
            let wildcard = if host % 10 == 0 { "*." } else { "" };
            let _ = writeln!(
                yaml,
                "  - {{host: '{wildcard}h{host}.test', http: {{paths: [{{path: /, pathType: Prefix, backend: {{service: {{name: web, port: {{number: 80}}}}}}}}]}}}}"
            );
        }
        yaml
    };
    for part in 0..20 {
        let hosts = part * 500..(part + 1) * 500;
        site.manifests.write(
            &format!("part-{part}.yaml"),
            &ingress(&format!("part-{part}"), hosts),
        )?;
    }
    let agent = site.start(&["--http", ":80"])?;
    let look = |what: &str| -> anyhow::Result<u64> {
        site.status(agent.pid())?["kernel"]["rejection"][what]
            .as_u64()
            .context("no number")
    };
    let before = look("known_names")?;
    assert!(before >= 10_000, "{before}");
    // The best of some: on a machine that does six other things, one alone says nothing.
    let (mut best, mut round) = (u64::MAX, 0);
    wait("a change within 100 ms", || {
        round += 1;
        site.manifests.write(
            "changing.yaml",
            &ingress("changing", 20_000..20_000 + 1 + round % 2),
        )?;
        let expected = before + 1 + u64::try_from(round % 2)?;
        wait("the tables follow", || Ok(look("known_names")? == expected))?;
        best = best.min(look("followed_in_us")?);
        Ok(best < 100_000)
    })?;
    eprintln!("tables of {before} names follow a change in {best} µs");
    Ok(())
}
