//! Penalties: sources that are banned for what they did, in the kernel and without it.

use std::io::{Read, Write};
use std::time::Duration;

use anyhow::ensure;

use crate::Done;
use crate::agent::{HOST, Site, get, open, wait};
use crate::namespace::NODE;

use ingress_tests::{Certs, Request, TlsClient};

const STRANGER: &str = "10.77.1.7";
const OTHER: &str = "10.77.1.8";

/// The status of a plain request from a source for a host; None when it is refused, by a reset or by silence.
fn ask(site: &Site, from: &str, host: &str) -> anyhow::Result<Option<String>> {
    site.net.client.run(|| {
        let address = (NODE.parse::<std::net::IpAddr>()?, 80).into();
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
        socket.bind(&std::net::SocketAddr::new(from.parse()?, 0).into())?;
        // A banned source waits in vain: this is how long it is believed to be banned.
        let patience = Duration::from_millis(1500);
        let asked = socket
            .connect_timeout(&std::net::SocketAddr::into(address), patience)
            .and_then(|()| {
                let mut stream = std::net::TcpStream::from(socket);
                stream.set_read_timeout(Some(Duration::from_secs(30)))?;
                stream.write_all(
                    format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").as_bytes(),
                )?;
                let mut first = [0; 12];
                stream.read_exact(&mut first)?;
                Ok(String::from_utf8_lossy(&first[9..]).into_owned())
            });
        Ok(asked.ok())
    })
}

/// With the kernel's side and without: the same to a client.
fn both(case: impl Fn(&Site, &[&str]) -> Done) -> Done {
    for flags in [
        &["--http", ":80", "--kernel", "auto"][..],
        &["--http", ":80", "--kernel-xdp", "off"],
        &["--http", ":80", "--kernel", "off"],
    ] {
        let Some(site) = Site::new()? else { return Ok(()) };
        case(&site, flags)?;
    }
    Ok(())
}

#[test]
fn a_source_that_asks_for_unmatched_hosts_only_is_banned_and_lifted_by_order() -> Done {
    both(|site, flags| {
        let agent = site.start(&[flags, &["--ban-unmatched", "3"]].concat())?;
        for _ in 0..2 {
            assert_eq!(ask(site, STRANGER, "stranger.test")?.as_deref(), Some("404"));
        }
        assert!(site.bans(&["list"])?.contains("nobody is banned"));
        assert_eq!(ask(site, STRANGER, "stranger.test")?.as_deref(), Some("404"));
        wait("it is banned", || Ok(site.bans(&["list"])?.contains(STRANGER)))?;
        let list = site.bans(&[])?;
        assert!(
            list.contains("10.77.1.7 banned for") && list.contains("(unmatched_hosts)"),
            "{list}"
        );
        assert_eq!(ask(site, STRANGER, HOST)?, None, "{flags:?}");
        assert_eq!(ask(site, OTHER, HOST)?.as_deref(), Some("200"), "{flags:?}");
        let line = agent.log_line("the ban", |line| {
            line["message"]
                .as_str()
                .is_some_and(|message| message.starts_with("banned"))
        })?;
        assert_eq!(
            (line["source"].as_str(), line["reason"].as_str()),
            (Some(STRANGER), Some("unmatched_hosts"))
        );
        if flags.contains(&"off") && flags.contains(&"--kernel") {
            assert_eq!(line["in_kernel"], false);
        } else {
            let counts = site.status(agent.pid())?["kernel"]["rejection"]["counts"].clone();
            assert!(counts.to_string().contains("source_banned"), "{counts}");
        }
        site.bans(&["lift", STRANGER])?;
        assert_eq!(ask(site, STRANGER, HOST)?.as_deref(), Some("200"), "{flags:?}");
        Ok(())
    })
}

#[test]
fn an_address_with_good_traffic_too_is_not_banned_nor_is_a_trusted_one() -> Done {
    let Some(site) = Site::new()? else { return Ok(()) };
    let flags = [
        "--http",
        ":80",
        "--ban-unmatched",
        "3",
        "--ban-never",
        "10.77.1.9",
    ];
    let _agent = site.start(&flags)?;
    assert_eq!(ask(&site, OTHER, HOST)?.as_deref(), Some("200"));
    for _ in 0..8 {
        assert_eq!(
            ask(&site, OTHER, "stranger.test")?.as_deref(),
            Some("404"),
            "behind NAT"
        );
        assert_eq!(
            ask(&site, "10.77.1.9", "stranger.test")?.as_deref(),
            Some("404"),
            "trusted"
        );
    }
    // What is told last is known last.
    for _ in 0..3 {
        assert_eq!(ask(&site, STRANGER, "stranger.test")?.as_deref(), Some("404"));
    }
    wait("the third one is banned", || {
        Ok(site.bans(&["list"])?.contains(STRANGER))
    })?;
    assert_eq!(site.bans(&["list"])?.lines().count(), 1);
    let refused = site.bans(&["add", "10.77.1.9"]).unwrap_err().to_string();
    assert!(refused.contains("never banned"), "{refused}");
    Ok(())
}

#[test]
fn a_ban_by_order_ends_by_itself_in_the_kernel_and_in_the_list() -> Done {
    both(|site, flags| {
        let _agent = site.start(&[flags, &["--ban-handshakes", "1000"]].concat())?;
        let kept = site.net.client.run(|| open(STRANGER, NODE))?;
        site.bans(&["add", STRANGER, "--for", "3s"])?;
        assert_eq!(ask(site, STRANGER, HOST)?, None, "{flags:?}");
        drop(kept);
        wait("its time is over", || {
            Ok(ask(site, STRANGER, HOST)?.as_deref() == Some("200"))
        })?;
        wait("it is not listed", || {
            Ok(site.bans(&["list"])?.contains("nobody is banned"))
        })?;
        ensure!(site.bans(&["lift", STRANGER]).is_err(), "it was not banned");
        Ok(())
    })
}

#[test]
fn who_is_banned_stays_so_at_the_agent_that_takes_over_and_at_one_that_takes_back() -> Done {
    let Some(site) = Site::new()? else { return Ok(()) };
    let older = site.start(&["--http", ":80", "--hand-over-overlap", "10m"])?;
    site.bans(&["add", STRANGER, "--for", "10m"])?;
    site.bans(&["add", "2001:db8::7", "--for", "10m"])?;
    let newer = site.start(&["--http", ":80"])?;
    site.wait_for_phase(older.pid(), "handing over")?;
    assert_eq!(ask(&site, STRANGER, HOST)?, None, "at the newer one");
    assert_eq!(ask(&site, OTHER, HOST)?.as_deref(), Some("200"));
    let list = site.bans(&["list"])?;
    assert_eq!(list.matches("10.77.1.7 banned for").count(), 2, "{list}");
    assert_eq!(list.matches("2001:db8::/64 banned for").count(), 2, "{list}");
    newer.kill();
    site.wait_for_phase(older.pid(), "serving")?;
    assert_eq!(ask(&site, STRANGER, HOST)?, None, "at the older one again");
    Ok(())
}

#[test]
fn a_client_that_does_not_take_our_certificate_is_not_banned_for_it() -> Done {
    let Some(site) = Site::new()? else { return Ok(()) };
    let _agent = site.start(&["--http", ":80", "--https", ":443", "--ban-handshakes", "3"])?;
    let address: std::net::SocketAddr = format!("{NODE}:443").parse()?;
    // Whom it trusts has signed nothing here.
    let strict = Certs::new()?.authority_pem();
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let client = TlsClient::of_version(&strict, version)?;
        for _ in 0..4 {
            let request = Request::get(&format!("https://{HOST}/"))?.tls(&client);
            assert!(site.net.client.run(|| Ok(request.ask(address)))?.is_err());
        }
    }
    for _ in 0..3 {
        shake_nonsense(&site)?;
    }
    // What is told last is known last.
    wait("who talks nonsense is banned", || {
        Ok(site.bans(&["list"])?.contains(STRANGER))
    })?;
    let list = site.bans(&["list"])?;
    assert_eq!(list.lines().count(), 1, "{list}");
    Ok(())
}

/// A handshake record, and nonsense in it.
fn shake_nonsense(site: &Site) -> Done {
    site.net.client.run(|| {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
        socket.bind(&std::net::SocketAddr::new(STRANGER.parse()?, 0).into())?;
        socket.connect(&std::net::SocketAddr::new(NODE.parse()?, 443).into())?;
        let mut stream = std::net::TcpStream::from(socket);
        stream.write_all(&[22, 3, 1, 0, 5, 1, 2, 3, 4, 5])?;
        let _ = stream.read_to_end(&mut Vec::new());
        Ok(())
    })
}

#[test]
fn failed_handshakes_and_scanners_paths_count_each_for_itself() -> Done {
    let Some(site) = Site::new()? else { return Ok(()) };
    let flags = [
        "--http",
        ":80",
        "--https",
        ":443",
        "--ban-handshakes",
        "3",
        "--ban-scans",
        "2",
    ];
    let _agent = site.start(&flags)?;
    let scan = |from: &str| {
        site.net.client.run(|| {
            let mut stream = open(from, NODE)?;
            stream.write_all(b"GET /.env HTTP/1.1\r\nHost: stranger.test\r\nConnection: close\r\n\r\n")?;
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer)?;
            Ok(())
        })
    };
    scan(OTHER)?;
    scan(OTHER)?;
    wait("the scanner is banned", || {
        Ok(site.bans(&["list"])?.contains("(scanner_paths)"))
    })?;
    for _ in 0..3 {
        shake_nonsense(&site)?;
    }
    wait("who fails to shake hands is banned", || {
        Ok(site.bans(&["list"])?.contains("(handshake_failures)"))
    })?;
    assert!(
        site.net
            .client
            .run(|| get("10.77.0.1", NODE))?
            .starts_with("HTTP/1.1 200")
    );
    Ok(())
}
