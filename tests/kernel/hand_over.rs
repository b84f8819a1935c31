//! One agent after the other on the same addresses: nothing is lost.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;

use crate::Done;
use crate::agent::{AGENT, HOST, Site, ask_on, get, open, wait};
use crate::namespace::NODE;

use ingress_tests::{AgentProcess, Certs, Ingress, KeptConnection, KeptWebSocket, Request, TlsClient};

const FLAGS: [&str; 4] = ["--http", ":80", "--kernel", "on"];
/// For an old agent whose phase beside the new one is looked at: longer than looking takes on a slow machine.
const LONG_OVERLAP: [&str; 6] = ["--http", ":80", "--kernel", "on", "--hand-over-overlap", "20s"];
const CLIENTS: u8 = 4;
const HAND_OVERS: usize = 10;
/// Opened at each of them, and kept.
const SOCKETS: usize = 10;

/// Requests, and failures in words.
#[derive(Debug, Default)]
pub(crate) struct Load {
    sent: AtomicUsize,
    pub(crate) failed: std::sync::Mutex<Vec<String>>,
    enough: AtomicBool,
}

impl Load {
    /// Each request on a connection of its own, from many sources, until there is enough. Nothing is tried twice.
    fn client(&self, number: u8) {
        let from = format!("10.77.1.{}", number + 1);
        while !self.enough.load(Ordering::Relaxed) {
            self.sent.fetch_add(1, Ordering::Relaxed);
            let problem = match get(&from, NODE) {
                Ok(response) if response.starts_with("HTTP/1.1 200") => continue,
                Ok(response) => response,
                Err(error) => format!("{error:#}"),
            };
            self.failed
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(problem);
        }
    }

    pub(crate) fn sent(&self) -> usize {
        self.sent.load(Ordering::Relaxed)
    }
}

/// Runs the load while `body` does something, and for a while after it.
pub(crate) fn under_load(site: &Site, body: impl FnOnce(&Load) -> Done) -> anyhow::Result<Load> {
    let load = Load::default();
    std::thread::scope(|scope| {
        for number in 0..CLIENTS {
            let load = &load;
            scope.spawn(move || {
                site.net.client.run(|| {
                    load.client(number);
                    Ok(())
                })
            });
        }
        let done = body(&load);
        load.enough.store(true, Ordering::Relaxed);
        done
    })?;
    Ok(load)
}

/// The load goes on for this many requests.
pub(crate) fn go_on(load: &Load, requests: usize) -> Done {
    let until = load.sent() + requests;
    crate::agent::wait("requests", || Ok(load.sent() >= until))
}

#[test]
fn hand_overs_under_load_lose_no_request() -> Done {
    let Some(site) = Site::new()? else { return Ok(()) };
    let mut agents = vec![site.start(&FLAGS)?];
    let kept = site.net.client.run(|| open("10.77.0.1", NODE))?;
    assert!(ask_on(&kept)?.contains("200"));
    let address: SocketAddr = format!("{NODE}:80").parse()?;
    let mut sockets = Vec::new();
    let load = under_load(&site, |load| {
        for _ in 0..HAND_OVERS {
            for _ in 0..SOCKETS {
                let request = Request::get(&format!("http://{HOST}/ws"))?;
                sockets.push(site.net.client.run(|| KeptWebSocket::open(request, address))?);
            }
            go_on(load, 6_000)?;
            // On a slow machine all rounds together take longer than the minute for which a tunnel may be silent.
            for socket in &mut sockets {
                assert_eq!(socket.echo("here")?, "here");
            }
            agents.push(site.start(&FLAGS)?);
        }
        go_on(load, 500)?;
        for old in &agents[..HAND_OVERS] {
            site.wait_for_phase(old.pid(), "draining")?;
        }
        for socket in &mut sockets {
            assert_eq!(socket.echo("still there")?, "still there");
        }
        go_on(load, 500)
    })?;
    let (sent, failed) = (load.sent.load(Ordering::Relaxed), load.failed.into_inner()?);
    println!(
        "{sent} requests and {} WebSockets over {HAND_OVERS} hand-overs, {} failed",
        sockets.len(),
        failed.len()
    );
    assert!(failed.is_empty(), "{failed:#?}");
    // One more is the kept connection's.
    assert_eq!(site.backend.requests(), sent + sockets.len() + 1);
    drop(sockets);
    let steered = |n: usize| site.status(agents[n].pid());
    assert_eq!(steered(HAND_OVERS)?["phase"], "serving");
    assert_eq!(steered(0)?["kernel"]["steering"]["on"], false);
    for mut old in agents.drain(..HAND_OVERS) {
        old.terminate()?;
        assert_eq!(old.wait()?, Some(0), "a retired agent ends orderly");
    }
    assert!(site.get("10.77.0.1")?.starts_with("HTTP/1.1 200"));
    Ok(())
}

/// What deploy/chart gives a pod: NET_BIND_SERVICE, NET_ADMIN, PERFMON and BPF.
const AS_IN_A_POD: [&str; 2] = ["setpriv", "--bounding-set=-all,+cap_10,+cap_12,+cap_38,+cap_39"];

/// Old and new pod have the same settings, the admin address too; the kubelet asks each by the socket in its own volume.
#[test]
fn an_upgrade_pod_beside_pod_that_goes_by_the_probes_loses_no_request() -> Done {
    let Some(site) = Site::new()? else { return Ok(()) };
    let volumes = tempfile::tempdir()?;
    let socket = |pod: &str| volumes.path().join(pod).display().to_string();
    let start = |pod: &str| {
        let own = ["--admin", "127.0.0.1:9090", "--admin-socket", &socket(pod)];
        AgentProcess::watch(&mut site.command(&AS_IN_A_POD, &[&FLAGS[..], &own].concat()))
    };
    let probe = |pod: &str, question: &str| {
        let arguments = ["probe", question, "--socket", &socket(pod)];
        let output = std::process::Command::new(AGENT).args(arguments).output()?;
        anyhow::Ok(output.status.success())
    };
    let mut old = start("old")?;
    wait("the old pod", || probe("old", "ready"))?;
    let mut new = None;
    let load = under_load(&site, |load| {
        go_on(load, 500)?;
        new = Some(start("new")?);
        wait("the new pod", || probe("new", "ready"))?;
        // minReadySeconds is longer than this takes.
        wait("the old pod to drain", || {
            assert!(probe("new", "ready")?, "ready all the while");
            Ok(!probe("old", "ready")?)
        })?;
        assert!(probe("old", "live")?, "retired is not dead");
        go_on(load, 500)?;
        old.terminate()?;
        assert_eq!(old.wait()?, Some(0));
        go_on(load, 500)
    })?;
    assert_eq!(load.failed.into_inner()?, [] as [String; 0]);
    let url = "http://127.0.0.1:9090/readyz";
    wait("the admin address, which the old pod had", || {
        let asked = || Request::get(url)?.ask(SocketAddr::from(([127, 0, 0, 1], 9090)));
        Ok(site.net.node.run(asked).is_ok_and(|answer| answer.status == 200))
    })
}

#[test]
fn when_the_new_agent_dies_at_once_the_old_one_goes_on() -> Done {
    let Some(site) = Site::new()? else { return Ok(()) };
    let old = site.start(&LONG_OVERLAP)?;
    let new = site.start(&FLAGS)?;
    site.wait_for_phase(old.pid(), "handing over")?;
    assert!(site.get("10.77.0.1")?.starts_with("HTTP/1.1 200"));
    assert_eq!(
        site.status(old.pid())?["kernel"]["addresses"][0]["steered"],
        1,
        "the kernel runs both programs"
    );
    new.kill();
    for _ in 0..100 {
        assert!(site.get("10.77.0.1")?.starts_with("HTTP/1.1 200"));
    }
    old.log_line("that it goes on", |line| {
        line["message"]
            .as_str()
            .is_some_and(|text| text.contains("goes on serving"))
    })?;
    assert_eq!(site.status(old.pid())?["phase"], "serving");
    // And the next one may take over after all.
    let next = site.start(&FLAGS)?;
    site.wait_for_phase(old.pid(), "draining")?;
    assert_eq!(site.status(next.pid())?["phase"], "serving");
    Ok(())
}

#[test]
fn when_the_old_agent_dies_during_the_hand_over_the_new_one_has_everything() -> Done {
    let Some(site) = Site::new()? else { return Ok(()) };
    let old = site.start(&LONG_OVERLAP)?;
    let new = site.start(&FLAGS)?;
    site.wait_for_phase(old.pid(), "handing over")?;
    let load = under_load(&site, |load| {
        go_on(load, 200)?;
        old.kill();
        go_on(load, 500)
    })?;
    let failed = load.failed.into_inner()?;
    assert!(failed.is_empty(), "{failed:#?}");
    assert_eq!(site.status(new.pid())?["phase"], "serving");
    Ok(())
}

#[test]
fn an_agent_that_is_killed_just_before_it_takes_the_traffic_leaves_everything_to_the_old_one() -> Done {
    let Some(site) = Site::new()? else { return Ok(()) };
    let old = site.start(&FLAGS)?;
    let lock = meeting_place(&site)?.join("lock");
    let load = under_load(&site, |load| {
        for _ in 0..3 {
            go_on(load, 200)?;
            let held = std::fs::File::create(&lock)?;
            held.lock()?;
            let mut new = site.command(&[], &FLAGS).stderr(Stdio::null()).spawn()?;
            let stuck = wait("the new agent at the last step", || has_open(new.id(), &lock));
            new.kill()?;
            new.wait()?;
            stuck?;
            go_on(load, 200)?;
        }
        Ok(())
    })?;
    assert_eq!(load.failed.into_inner()?, [] as [String; 0]);
    assert_eq!(site.status(old.pid())?["phase"], "serving");
    Ok(())
}

#[test]
fn an_old_agent_that_is_killed_while_it_drains_takes_nothing_with_it_but_what_it_had_open() -> Done {
    let Some(site) = Site::new()? else { return Ok(()) };
    let old = site.start(&[&FLAGS[..], &["--hand-over-overlap", "100ms"]].concat())?;
    let address: SocketAddr = format!("{NODE}:80").parse()?;
    let request = Request::get(&format!("http://{HOST}/ws"))?;
    let mut socket = site.net.client.run(|| KeptWebSocket::open(request, address))?;
    let new = site.start(&FLAGS)?;
    site.wait_for_phase(old.pid(), "draining")?;
    assert_eq!(socket.echo("still there")?, "still there");
    let load = under_load(&site, |load| {
        go_on(load, 200)?;
        old.kill();
        go_on(load, 500)
    })?;
    assert_eq!(load.failed.into_inner()?, [] as [String; 0]);
    assert!(socket.echo("gone").is_err());
    assert_eq!(site.status(new.pid())?["phase"], "serving");
    Ok(())
}

/// A SYN has been answered, but the client hears it only seconds later, when another agent has the traffic: the kernel keeps such a handshake for the
/// socket that it began with.
#[test]
fn a_slow_handshake_that_began_with_the_old_agent_ends_with_it() -> Done {
    const SLOW: &str = "10.77.1.50";
    let Some(site) = Site::new()? else { return Ok(()) };
    let old = site.start(&LONG_OVERLAP)?;
    // What the node sends to it arrives at the cable's end and is for nobody there.
    site.net.node.ip(&[format!(
        "neigh replace {SLOW} lladdr 02:00:00:00:00:99 dev node0 nud permanent"
    )])?;
    std::thread::scope(|scope| {
        let slow = scope.spawn(|| site.get(SLOW));
        let half_open = || {
            let mut ss = site.net.node.command();
            let output = ss.args(["ss", "-Htn", "state", "syn-recv"]).output()?;
            Ok(String::from_utf8_lossy(&output.stdout).contains(SLOW))
        };
        wait("the handshake to begin", half_open)?;
        let new = site.start(&FLAGS)?;
        site.wait_for_phase(old.pid(), "handing over")?;
        assert!(
            site.get("10.77.1.51")?.starts_with("HTTP/1.1 200"),
            "others are at the new one"
        );
        site.net.node.ip(&[format!("neigh del {SLOW} dev node0")])?;
        let slow = slow
            .join()
            .map_err(|_| anyhow::anyhow!("the client panicked"))??;
        assert!(slow.starts_with("HTTP/1.1 200"), "{slow}");
        let accepted = |pid| {
            let status = site.status(pid)?;
            Ok::<_, anyhow::Error>(status["kernel"]["addresses"][0]["steered"].clone())
        };
        assert_eq!(accepted(new.pid())?, 1, "the slow one is not among them");
        Ok(())
    })
}

pub(crate) fn meeting_place(site: &Site) -> anyhow::Result<PathBuf> {
    let mut places = std::fs::read_dir(site.run_dir.path())?;
    Ok(places.next().context("no meeting place")??.path())
}

/// Whether the process has this file open.
fn has_open(pid: u32, file: &Path) -> anyhow::Result<bool> {
    let Ok(descriptors) = std::fs::read_dir(format!("/proc/{pid}/fd")) else {
        anyhow::bail!("the new agent has ended");
    };
    Ok(descriptors
        .flatten()
        .any(|descriptor| std::fs::read_link(descriptor.path()).is_ok_and(|target| target == file)))
}

#[test]
fn an_agent_that_cannot_start_leaves_everything_to_the_old_one() -> Done {
    let Some(site) = Site::new()? else { return Ok(()) };
    let old = site.start(&FLAGS)?;
    site.refused(&[], &["--http", ":80,10.77.0.2:80,[::]:80", "--kernel", "on"])?;
    assert_eq!(site.status(old.pid())?["phase"], "serving");
    assert!(site.get("10.77.0.1")?.starts_with("HTTP/1.1 200"));
    Ok(())
}

#[test]
fn two_agents_for_different_ports_live_side_by_side() -> Done {
    let Some(site) = Site::new()? else { return Ok(()) };
    let one = site.start(&FLAGS)?;
    let other = site.start(&["--http", ":81", "--kernel", "on"])?;
    other.log_line("that the other one goes on", |line| {
        line["message"]
            .as_str()
            .is_some_and(|text| text.contains("another agent goes on"))
    })?;
    assert_eq!(site.status(one.pid())?["phase"], "serving");
    assert!(site.get("10.77.0.1")?.starts_with("HTTP/1.1 200"));
    Ok(())
}

/// The host gets HTTPS; by whose authority.
fn with_a_certificate(site: &Site) -> anyhow::Result<Certs> {
    let certs = Certs::new()?;
    site.manifests.tls_secret("web", &certs.leaf(&[HOST])?)?;
    let ingress = Ingress::new("web")
        .class("ingress-agent")
        .host(HOST)
        .prefix("/", "web");
    site.manifests.ingress(&ingress.tls(&[HOST], "web"))?;
    Ok(certs)
}

#[test]
fn websockets_and_h2_over_tls_go_through_a_hand_over() -> Done {
    let Some(site) = Site::new()? else { return Ok(()) };
    let certs = with_a_certificate(&site)?;
    let flags = ["--http", ":80", "--https", ":443", "--kernel", "on"];
    let address: SocketAddr = format!("{NODE}:443").parse()?;
    let request = || {
        Ok::<_, anyhow::Error>(Request::get(&format!("https://{HOST}/"))?.trusting(&certs.authority_pem()))
    };
    let ask = || site.net.client.run(|| Ok(request()?.h2().ask(address)?.status));

    let old = site.start(&[&flags[..], &LONG_OVERLAP[4..]].concat())?;
    let mut socket = site.net.client.run(|| KeptWebSocket::open(request()?, address))?;
    let mut kept = site
        .net
        .client
        .run(|| KeptConnection::open(&request()?.h2(), address))?;
    assert_eq!(kept.ask(request()?.h2())?.status, 200);
    let new = site.start(&flags)?;
    site.wait_for_phase(old.pid(), "handing over")?;
    assert_eq!(
        kept.ask(request()?.h2())?.status,
        200,
        "the old agent goes on with what it has"
    );
    crate::agent::wait("draining, and no request is lost until then", || {
        assert_eq!(ask()?, 200);
        Ok(site.status(old.pid())?["phase"] == "draining")
    })?;
    assert_eq!(socket.echo("still there")?, "still there");
    assert_eq!(ask()?, 200);
    // The WebSocket stays as long as it likes.
    drop(kept);
    crate::agent::wait("one connection", || {
        Ok(site.status(old.pid())?["connections"] == 1)
    })?;
    assert_eq!(socket.echo("and still")?, "and still");
    drop(socket);
    crate::agent::wait(
        "no connection",
        || Ok(site.status(old.pid())?["connections"] == 0),
    )?;
    assert_eq!(site.status(new.pid())?["phase"], "serving");
    Ok(())
}

#[test]
fn after_its_time_an_old_agent_closes_its_websockets_one_by_one() -> Done {
    const SOCKETS: usize = 100;
    const SPREAD: Duration = Duration::from_secs(3);
    let Some(site) = Site::new()? else { return Ok(()) };
    let limits = [
        "--hand-over-overlap",
        "100ms",
        "--hand-over-timeout",
        "1s",
        "--hand-over-spread",
        "3s",
    ];
    let mut old = site.start(&[&FLAGS[..], &limits].concat())?;
    let address: SocketAddr = format!("{NODE}:80").parse()?;
    let sockets = (0..SOCKETS)
        .map(|_| {
            let request = Request::get(&format!("http://{HOST}/ws"))?;
            site.net.client.run(|| KeptWebSocket::open(request, address))
        })
        .collect::<anyhow::Result<Vec<_>>>()?;
    let new = site.start(&FLAGS)?;
    site.wait_for_phase(old.pid(), "draining")?;
    let waiting = sockets
        .into_iter()
        .map(|socket| std::thread::spawn(move || anyhow::Ok((socket.wait_for_close()?, Instant::now()))));
    let mut closed = Vec::new();
    for socket in waiting.collect::<Vec<_>>() {
        let (code, at) = socket
            .join()
            .map_err(|_| anyhow::anyhow!("a client panicked"))??;
        assert_eq!(code, 1001);
        closed.push(at);
    }
    let (Some(first), Some(last)) = (closed.iter().min(), closed.iter().max()) else {
        anyhow::bail!("no sockets");
    };
    assert!(
        *last - *first > SPREAD / 2,
        "not all at once: {:?}",
        *last - *first
    );
    wait("nothing to be open", || {
        Ok(site.status(old.pid())?["connections"] == 0)
    })?;
    assert_eq!(site.status(new.pid())?["phase"], "serving");
    old.terminate()?;
    assert_eq!(old.wait()?, Some(0));
    Ok(())
}

#[test]
fn tls_sessions_are_resumed_at_the_agent_that_takes_over_and_at_the_one_that_takes_back() -> Done {
    let Some(site) = Site::new()? else { return Ok(()) };
    let certs = with_a_certificate(&site)?;
    let flags = ["--http", ":80", "--https", ":443", "--kernel", "on"];
    let address: SocketAddr = format!("{NODE}:443").parse()?;
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let client = TlsClient::of_version(&certs.authority_pem(), version)?;
        let resumed = || {
            let request = Request::get(&format!("https://{HOST}/"))?.tls(&client);
            let answer = site.net.client.run(|| request.ask(address))?;
            anyhow::Ok(answer.tls.is_some_and(|tls| tls.resumed))
        };
        let old = site.start(&[&flags[..], &LONG_OVERLAP[4..]].concat())?;
        assert!(!resumed()?, "the first session is a new one");
        let new = site.start(&flags)?;
        site.wait_for_phase(old.pid(), "handing over")?;
        assert!(resumed()?, "{version:?} at the new agent");
        new.kill();
        assert!(resumed()?, "{version:?} at the old one, which took back");
        let next = site.start(&flags)?;
        old.kill();
        assert!(resumed()?, "{version:?} at the third");
        next.kill();
    }
    Ok(())
}

#[test]
fn nonsense_on_the_control_socket_is_refused_and_harms_nothing() -> Done {
    let Some(site) = Site::new()? else { return Ok(()) };
    let agent = site.start(&FLAGS)?;
    let sockets = std::fs::read_dir(meeting_place(&site)?)?
        .map(|entry| Ok(entry?.path()))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let socket = sockets
        .iter()
        .find(|path| path.extension().is_some_and(|e| e == "sock"))
        .context("no socket")?;
    let say = |text: &str| -> anyhow::Result<String> {
        let mut stream = UnixStream::connect(socket)?;
        stream.write_all(text.as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    assert!(
        say("{\"version\":7,\"order\":\"retire\",\"pid\":1,\"addresses\":[\"[::]:80\"]}\n")?
            .contains("version 7")
    );
    assert!(say("GET / HTTP/1.1\r\n")?.contains("refused"));
    assert!(say("{\"version\":1,\"order\":\"share\",\"share\":4000000000}\n")?.contains("refused"));
    // What a crash left behind is cleared away.
    let stale = socket.with_file_name("1-dead.sock");
    drop(std::os::unix::net::UnixListener::bind(&stale)?);
    assert_eq!(site.status(agent.pid())?["phase"], "serving");
    assert!(!stale.exists());
    assert!(site.get("10.77.0.1")?.starts_with("HTTP/1.1 200"));
    Ok(())
}
