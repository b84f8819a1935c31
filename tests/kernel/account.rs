//! Connections are counted by route and endpoint, and of a slow route it can be said who is slow.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::time::Duration;

use anyhow::Context;
use ingress_agent::kernel::account::Accounting;
use ingress_common::account::{
    BACKEND, BYTES_IN, BYTES_OUT, CLIENT, CONNECTIONS, End, FAILED, NOBODY, RESET, RESET_BY_PEER, RTT, SETUP,
    SumKey, Sums, Tag,
};
use ingress_tests::{AgentProcess, Echo, Request};
use serde_json::Value;

use crate::Done;
use crate::agent::{AGENT, DEADLINE, HOST, Site, ask_on, open, wait};
use crate::namespace::{NODE, Namespace};

const CLIENTS: SumKey = SumKey {
    side: CLIENT,
    listener: 1,
    owner: NOBODY,
};

fn tag(key: SumKey) -> Tag {
    Tag {
        side: key.side,
        listener: key.listener,
        owner: key.owner,
        ..Tag::default()
    }
}

fn endpoint(owner: u32) -> SumKey {
    SumKey {
        side: BACKEND,
        listener: 0,
        owner,
    }
}

/// Waits until so many connections have ended, and reads their sums.
fn ended(accounting: &Accounting, key: SumKey, connections: u64) -> anyhow::Result<Sums> {
    let read = || accounting.sums().remove(&key).unwrap_or_default();
    wait(&format!("{connections} connections"), || {
        Ok(read().get(CONNECTIONS) >= connections)
    })?;
    Ok(read())
}

/// Listener with the tag of one, on loopback of the node.
fn listener(accounting: &Accounting) -> anyhow::Result<(TcpListener, SocketAddr)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    accounting.tag(listener.as_raw_fd(), &tag(CLIENTS));
    let address = listener.local_addr()?;
    Ok((listener, address))
}

/// Sends from an endpoint's tagged socket, and reads the answer to its end.
fn ask(accounting: &Accounting, address: SocketAddr, key: SumKey) -> anyhow::Result<()> {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
    accounting.tag(socket.as_raw_fd(), &tag(key));
    socket.connect(&address.into())?;
    let mut stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(DEADLINE))?;
    stream.write_all(&[7; 100])?;
    stream.read_exact(&mut [0; 40])?;
    Ok(())
}

fn answer(listener: &TcpListener) -> anyhow::Result<TcpStream> {
    let (mut stream, _) = listener.accept()?;
    stream.set_read_timeout(Some(DEADLINE))?;
    stream.read_exact(&mut [0; 100])?;
    stream.write_all(&[8; 40])?;
    Ok(stream)
}

#[test]
fn every_tagged_connection_counts_once_with_its_end_also_when_nobody_accepts_it() -> Done {
    let Some(site) = Site::new()? else { return Ok(()) };
    let accounting = Accounting::start()?;
    let view = accounting.view();
    assert!(view.on && view.notes.is_empty(), "{view:?}");
    site.net.node.run(|| {
        let (listener, address) = listener(&accounting)?;
        // Both ends are tagged; one that is not is nobody's business.
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut stream = answer(&listener)?;
                // The other side is done first.
                assert_eq!(stream.read(&mut [0; 1])?, 0);
                anyhow::Ok(())
            });
            ask(&accounting, address, endpoint(7))
        })?;
        let ours = ended(&accounting, endpoint(7), 1)?;
        let theirs = ended(&accounting, CLIENTS, 1)?;
        for (sums, received, sent) in [(ours, 40, 100), (theirs, 100, 40)] {
            assert!(
                (received..=received + 2).contains(&sums.get(BYTES_IN)),
                "{sums:?}"
            );
            assert!((sent..=sent + 2).contains(&sums.get(BYTES_OUT)), "{sums:?}");
            assert_eq!(sums.histogram(RTT).iter().sum::<u64>(), 1, "{sums:?}");
            assert_eq!(
                [FAILED, RESET, RESET_BY_PEER].map(|end| sums.get(end)),
                [0; 3],
                "{sums:?}"
            );
        }
        assert_eq!(
            ours.histogram(SETUP).iter().sum::<u64>(),
            1,
            "from SYN to established"
        );

        // Reset in the queue: nobody accepts it.
        let stream = TcpStream::connect(address)?;
        socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
        drop(stream);
        let sums = ended(&accounting, CLIENTS, 2)?;
        assert_eq!([RESET_BY_PEER, RESET].map(|end| sums.get(end)), [1, 0]);

        // Reset by this side.
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let stream = answer(&listener).or_else(|_| answer(&listener))?;
                socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
                anyhow::Ok(())
            });
            ask(&accounting, address, endpoint(8)).ok();
        });
        let sums = ended(&accounting, CLIENTS, 3)?;
        assert_eq!([RESET_BY_PEER, RESET].map(|end| sums.get(end)), [1, 1]);

        // Refused.
        drop(listener);
        assert!(ask(&accounting, address, endpoint(9)).is_err());
        assert_eq!(ended(&accounting, endpoint(9), 1)?.get(FAILED), 1);
        Ok(())
    })?;
    let others = accounting
        .sums()
        .keys()
        .filter(|key| ![0, 7, 8, 9].contains(&key.owner))
        .count();
    assert_eq!(others, 0, "sockets without a tag do not count");
    Ok(())
}

#[test]
fn what_finds_no_room_to_be_told_is_counted_and_there_is_room_again_once_it_was_read() -> Done {
    let Some(site) = Site::new()? else { return Ok(()) };
    let accounting = Accounting::start()?;
    let refused = |times: usize| {
        site.net.node.run(|| {
            let nobodys = unserved()?;
            for _ in 0..times {
                assert!(ask(&accounting, nobodys, endpoint(9)).is_err());
            }
            Ok(())
        })
    };
    // Nobody reads: what is told within the rate fills the buffer, in some seconds.
    wait("a full buffer", || {
        refused(100)?;
        Ok(accounting.untold().buffer_full > 0)
    })?;
    let told = accounting.ended(100_000);
    assert!(told.len() > 100, "{}", told.len());
    for connection in &told {
        assert_eq!(SumKey::of(&connection.ended.tag), endpoint(9));
        assert_eq!(connection.ended.how(), End::Failed);
    }
    let counted = || accounting.sums().remove(&endpoint(9)).unwrap_or_default();
    let untold = accounting.untold();
    assert_eq!(
        u64::try_from(told.len())? + untold.buffer_full + untold.rate,
        counted().get(FAILED),
        "each is told or counted as untold"
    );
    wait("room", || {
        refused(10)?;
        Ok(!accounting.ended(100_000).is_empty())
    })
}

/// A port of the node's loopback that nobody listens on: it was free a moment ago.
fn unserved() -> anyhow::Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

/// `/slow` or `/metrics` of the agent.
fn page(site: &Site, agent: &AgentProcess, path: &str) -> anyhow::Result<String> {
    let url = format!("http://{}{path}", agent.admin);
    let answer = site.net.node.run(|| Request::get(&url)?.ask(agent.admin))?;
    Ok(answer.text().to_owned())
}

/// The one route, as `ingress-agent slow` tells it.
fn slow(site: &Site, agent: &AgentProcess) -> anyhow::Result<Value> {
    let output = site
        .net
        .node
        .command()
        .args([AGENT, "slow", HOST, "-o", "json", "--admin"])
        .arg(agent.admin.to_string())
        .output()?;
    anyhow::ensure!(output.status.success(), "{output:?}");
    let routes: Vec<Value> = serde_json::from_slice(&output.stdout)?;
    routes.into_iter().next().context("no route")
}

fn requests(site: &Site, count: usize, target: &str) -> Done {
    site.net.client.run(|| {
        let address = SocketAddr::new(NODE.parse()?, 80);
        for _ in 0..count {
            let answer = Request::get(&format!("http://{HOST}{target}"))?.ask(address)?;
            assert_eq!(answer.status, 200);
        }
        Ok(())
    })
}

/// A token bucket: what is sent by this interface waits for its turn, and what finds no room is lost.
fn token_bucket(namespace: &Namespace, device: &str, rate: &str, limit: &str) -> Done {
    let output = namespace
        .command()
        .args([
            "tc", "qdisc", "add", "dev", device, "root", "tbf", "rate", rate, "burst", "1600", "limit", limit,
        ])
        .output()?;
    anyhow::ensure!(
        output.status.success(),
        "tc: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

const ON: [&str; 4] = ["--http", ":80", "--kernel-accounting", "on"];

#[test]
fn a_slow_network_of_the_clients_is_told_from_a_slow_pod() -> Done {
    let Some(site) = Site::new()? else { return Ok(()) };
    token_bucket(&site.net.node, "node0", "1mbit", "12000")?;
    let agent = site.start(&ON)?;
    requests(&site, 12, "/?bytes=40000")?;
    let route = slow(&site, &agent)?;
    assert_eq!(route["slow"], "client", "{route:#}");
    assert!(route["client"]["retransmits"].as_u64() > Some(0), "{route:#}");
    assert!(
        route["pod_ms"].as_f64() < route["client_ms"].as_f64(),
        "{route:#}"
    );
    Ok(())
}

/// The first connection that the agent tells and that is so, as `ingress-agent slow --connections` shows it.
fn told(
    site: &Site,
    agent: &AgentProcess,
    what: &str,
    is_it: impl Fn(&Value) -> bool,
) -> anyhow::Result<Value> {
    let mut found = Value::Null;
    wait(what, || {
        let output = site
            .net
            .node
            .command()
            .args([AGENT, "slow", "--connections", "-o", "json", "--admin"])
            .arg(agent.admin.to_string())
            .output()?;
        anyhow::ensure!(output.status.success(), "{output:?}");
        let view: Value = serde_json::from_slice(&output.stdout)?;
        assert_eq!(view["counted"], true, "{view:#}");
        let connections = view["connections"].as_array().context("no list")?;
        found = connections
            .iter()
            .find(|it| is_it(it))
            .cloned()
            .unwrap_or_default();
        Ok(!found.is_null())
    })?;
    Ok(found)
}

#[test]
fn a_connection_that_was_reset_and_a_slow_one_are_told_with_their_route() -> Done {
    let Some(site) = Site::new()? else { return Ok(()) };
    let agent = site.start(&ON)?;
    let (held, address) = site.net.client.run(|| {
        let held = open("10.77.0.1", NODE)?;
        let address = held.local_addr()?;
        Ok((held, address))
    })?;
    assert!(ask_on(&held)?.contains("200"));
    socket2::SockRef::from(&held).set_linger(Some(Duration::ZERO))?;
    drop(held);
    let reset = told(&site, &agent, "the connection that was reset", |it| {
        it["end"] == "reset_by_peer"
    })?;
    assert_eq!(reset["peer"], address.to_string(), "{reset:#}");
    assert_eq!(
        (&reset["side"], &reset["why"]),
        (&"client".into(), &"ended_badly".into())
    );
    assert_eq!(reset["route"]["host"], HOST, "{reset:#}");
    assert_eq!(
        (&reset["route"]["namespace"], &reset["route"]["ingress"]),
        (&"default".into(), &"web".into())
    );
    assert!(reset["bytes_out"].as_u64() > Some(0), "{reset:#}");

    // Twice as much at once as finds room.
    token_bucket(&site.net.node, "node0", "100kbit", "6000")?;
    requests(&site, 1, "/?bytes=20000")?;
    let slow = told(&site, &agent, "the slow connection", |it| it["why"] == "slow")?;
    assert_eq!(slow["route"]["ingress"], "web", "{slow:#}");
    assert!(
        slow["retransmits"].as_u64() >= Some(3) || slow["rtt_ms"].as_f64() >= Some(200.0),
        "{slow:#}"
    );
    let metrics = page(&site, &agent, "/metrics")?;
    assert!(
        metrics.contains("ingress_agent_tcp_connections_untold_total{reason=\"buffer_full\"} 0"),
        "{metrics}"
    );
    Ok(())
}

#[test]
fn a_connection_that_an_endpoint_refused_is_told_with_its_service() -> Done {
    let Some(site) = Site::new()? else { return Ok(()) };
    let nobodys = site.net.node.run(unserved)?;
    site.manifests.service("web", &[nobodys])?;
    let agent = AgentProcess::watch(&mut site.command(&WITHOUT_PERFMON, &ON))?;
    let status = site.net.client.run(|| {
        let address = SocketAddr::new(NODE.parse()?, 80);
        Ok(Request::get(&format!("http://{HOST}/"))?.ask(address)?.status)
    })?;
    assert_eq!(status, 502);
    let refused = told(&site, &agent, "the refused connection", |it| {
        it["end"] == "failed"
    })?;
    assert_eq!(refused["side"], "backend", "{refused:#}");
    assert_eq!(refused["peer"], nobodys.to_string(), "{refused:#}");
    assert_eq!(refused["services"][0], "default/web", "{refused:#}");
    Ok(())
}

/// With a pod that takes 150 ms for each answer.
fn slow_site() -> anyhow::Result<Option<Site>> {
    let Some(mut site) = Site::new()? else {
        return Ok(None);
    };
    site.backend = site
        .net
        .node
        .run(|| Echo::start_slow("web", Duration::from_millis(150)))?;
    site.manifests.service("web", &[site.backend.address()])?;
    Ok(Some(site))
}

#[test]
fn a_slow_pod_is_told_from_the_networks() -> Done {
    let Some(site) = slow_site()? else { return Ok(()) };
    let agent = site.start(&ON)?;
    requests(&site, 6, "/")?;
    let route = slow(&site, &agent)?;
    assert_eq!(route["slow"], "pod", "{route:#}");
    assert!(route["pod_ms"].as_f64() >= Some(150.0), "{route:#}");
    Ok(())
}

/// A namespace for a pod, and the node's way to it.
fn pod(site: &Site) -> anyhow::Result<Option<Namespace>> {
    let Some(net) = crate::namespace::cable()? else {
        return Ok(None);
    };
    let pod = net.client;
    site.net.node.ip(&[
        format!("link add pod0 type veth peer name eth0 netns {}", pod.path()),
        "addr add 10.78.0.1/24 dev pod0".to_owned(),
        "link set pod0 up".to_owned(),
    ])?;
    pod.ip(&[
        "addr add 10.78.0.2/24 dev eth0".to_owned(),
        "link set eth0 up".to_owned(),
    ])?;
    Ok(Some(pod))
}

#[test]
fn a_slow_network_to_the_pod_is_told_from_a_slow_pod() -> Done {
    let Some(mut site) = Site::new()? else {
        return Ok(());
    };
    let Some(pod) = pod(&site)? else { return Ok(()) };
    site.backend = pod.run(|| Echo::start_on("web", "10.78.0.2:0".parse()?))?;
    site.manifests.service("web", &[site.backend.address()])?;
    // A request takes a fifth of a second on it: on a busy machine more than proxy and pod are late.
    token_bucket(&site.net.node, "pod0", "16kbit", "60000")?;
    // A connection for each request: none that is open already hides the way.
    let agent = site.start(&[&ON[..], &["--upstream-idle-timeout", "1ms"]].concat())?;
    requests(&site, 12, "/")?;
    let route = slow(&site, &agent)?;
    assert_eq!(route["slow"], "backend_network", "{route:#}");
    assert!(
        route["backends"][0]["rtt_ms"].as_f64() > route["client"]["rtt_ms"].as_f64(),
        "{route:#}"
    );
    Ok(())
}

#[test]
fn connections_are_counted_by_ingress_and_by_service_and_strangers_are_not() -> Done {
    let Some(site) = Site::new()? else { return Ok(()) };
    let agent = site.start(&ON)?;
    requests(&site, 5, "/")?;
    let counted = "ingress_agent_tcp_client_connections_total{namespace=\"default\",ingress=\"web\",end=\"finished\"} 5";
    wait("five connections of the Ingress", || {
        Ok(page(&site, &agent, "/metrics")?.contains(counted))
    })?;
    // One without a request; it is no Ingress's.
    drop(site.net.client.run(|| Ok(TcpStream::connect((NODE, 80))?))?);
    let nobodys =
        "ingress_agent_tcp_client_connections_total{namespace=\"_none\",ingress=\"_none\",end=\"finished\"}";
    wait("one of nobody", || {
        let page = page(&site, &agent, "/metrics")?;
        Ok(page
            .lines()
            .any(|line| line.starts_with(nobodys) && !line.ends_with(" 0")))
    })?;
    let before = page(&site, &agent, "/metrics")?;
    assert!(
        before.contains("ingress_agent_kernel_hook{hook=\"accounting\"} 1"),
        "{before}"
    );
    assert!(
        before.contains(
            "ingress_agent_tcp_client_accept_delay_seconds_count{namespace=\"default\",ingress=\"web\"} 5"
        ),
        "{before}"
    );
    // The backend closes what it was asked on; connections of this test itself have no tag.
    drop(site.backend);
    let by_service = "ingress_agent_tcp_backend_connections_total{namespace=\"default\",service=\"web\",end=";
    wait("a connection of the Service", || {
        let page = page_of(&site.net.node, &agent)?;
        Ok(page
            .lines()
            .any(|line| line.starts_with(by_service) && !line.ends_with(" 0")))
    })
}

fn page_of(node: &Namespace, agent: &AgentProcess) -> anyhow::Result<String> {
    let url = format!("http://{}/metrics", agent.admin);
    let answer = node.run(|| Request::get(&url)?.ask(agent.admin))?;
    Ok(answer.text().to_owned())
}

/// uid 0 without a capability.
const NONE: [&str; 2] = ["setpriv", "--bounding-set=-all"];

#[test]
fn where_the_kernel_does_not_count_requests_are_sampled_and_it_says_so() -> Done {
    let Some(site) = slow_site()? else { return Ok(()) };
    let agent = AgentProcess::watch(&mut site.command(&NONE, &["--http", &format!("{NODE}:8080")]))?;
    let kernel = page(&site, &agent, "/kernel")?;
    assert!(
        kernel.contains("accounting (sock_ops) is not possible") && kernel.contains("TCP_INFO"),
        "{kernel}"
    );
    let address = agent.http;
    site.net.client.run(|| {
        for _ in 0..5 {
            Request::get(&format!("http://{HOST}/"))?.ask(address)?;
        }
        Ok(())
    })?;
    assert_eq!(slow(&site, &agent)?["slow"], "pod");
    let metrics = page(&site, &agent, "/metrics")?;
    assert!(
        metrics.contains("ingress_agent_tcp_client_sampled_rtt_seconds_count"),
        "{metrics}"
    );
    assert!(
        !metrics.contains("ingress_agent_tcp_client_connections_total"),
        "{metrics}"
    );
    let said = site.refused(&NONE, &["--http", ":8081", "--kernel-accounting", "on"])?;
    assert!(
        said.contains("--kernel-accounting is on") && said.contains("CAP_BPF"),
        "{said}"
    );
    Ok(())
}

/// CAP_NET_ADMIN and CAP_BPF, as in a pod that rejects nothing early.
const WITHOUT_PERFMON: [&str; 2] = ["setpriv", "--bounding-set=-all,+cap_10,+cap_12,+cap_39"];

#[test]
fn with_the_documented_capabilities_all_is_counted_but_who_resets() -> Done {
    let Some(site) = Site::new()? else { return Ok(()) };
    let agent = AgentProcess::watch(&mut site.command(&WITHOUT_PERFMON, &ON))?;
    let status = site.status(agent.pid())?;
    let accounting = &status["kernel"]["accounting"];
    assert_eq!(accounting["on"], true, "{accounting}");
    let note = accounting["notes"][0].as_str().unwrap_or_default();
    assert!(
        note.contains("who resets") && note.contains("missing: CAP_PERFMON"),
        "{note}"
    );
    requests(&site, 3, "/")?;
    let counted = "ingress_agent_tcp_client_connections_total{namespace=\"default\",ingress=\"web\",end=\"finished\"} 3";
    wait("three connections", || {
        Ok(page(&site, &agent, "/metrics")?.contains(counted))
    })
}

#[test]
fn requests_on_a_kept_connection_cost_no_system_call_for_tags() -> Done {
    let Some(site) = Site::new()? else { return Ok(()) };
    let agent = site.start(&ON)?;
    let tagged = || -> anyhow::Result<Option<u64>> {
        let status = site.status(agent.pid())?;
        let accounting = &status["kernel"]["accounting"];
        assert_eq!(accounting["untagged"], 0, "{accounting}");
        Ok(accounting["tagged"].as_u64())
    };
    let kept = site.net.client.run(|| open("10.77.0.1", NODE))?;
    assert!(ask_on(&kept)?.contains("200"));
    let before = tagged()?;
    for _ in 0..100 {
        assert!(ask_on(&kept)?.contains("200"));
    }
    assert_eq!(
        site.backend.connections(),
        1,
        "the backend's connection was kept, too"
    );
    assert_eq!(tagged()?, before);
    Ok(())
}

#[test]
fn detach_ends_the_counting_too() -> Done {
    let Some(site) = Site::new()? else { return Ok(()) };
    let agent = site.start(&ON)?;
    site.kernel(&["detach"])?;
    let status = site.status(agent.pid())?;
    assert_eq!(status["kernel"]["accounting"]["on"], false, "{status}");
    Ok(())
}
