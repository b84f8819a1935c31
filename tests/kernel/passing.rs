//! Without sk_lookup: one agent after the other on the very same listening sockets, and what agents of other versions say to that.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;

use anyhow::Context;
use ingress_tests::raw::Step;
use ingress_tests::{AgentProcess, Ingress, KeptWebSocket, RawBackend, RawClient, Request};

use crate::Done;
use crate::agent::{HOST, Site, wait};
use crate::hand_over::{go_on, meeting_place, under_load};
use crate::namespace::NODE;

const OFF: [&str; 4] = ["--http", ":80", "--kernel", "off"];
const LONG_OVERLAP: [&str; 6] = ["--http", ":80", "--kernel", "off", "--hand-over-overlap", "30s"];
const SHORT_OVERLAP: [&str; 6] = ["--http", ":80", "--kernel", "off", "--hand-over-overlap", "300ms"];
/// Uid 0 that may not bind a port below 1024, nor anything else.
const WITHOUT_RIGHTS: [&str; 4] = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", "--"];
const HAND_OVERS: usize = 10;
const SOCKETS: usize = 10;

fn is_well(site: &Site) -> Done {
    for _ in 0..20 {
        let response = site.get("10.77.0.1")?;
        anyhow::ensure!(response.starts_with("HTTP/1.1 200"), "{response}");
    }
    Ok(())
}

#[test]
fn ten_hand_overs_of_bound_sockets_under_load_lose_no_request() -> Done {
    let Some(site) = Site::new()? else { return Ok(()) };
    let mut agents = vec![site.start(&SHORT_OVERLAP)?];
    let address: SocketAddr = format!("{NODE}:80").parse()?;
    let mut sockets = Vec::new();
    let load = under_load(&site, |load| {
        for round in 0..HAND_OVERS {
            for _ in 0..SOCKETS {
                let request = Request::get(&format!("http://{HOST}/ws"))?;
                sockets.push(site.net.client.run(|| KeptWebSocket::open(request, address))?);
            }
            go_on(load, 2_000)?;
            for socket in &mut sockets {
                assert_eq!(socket.echo("here")?, "here");
            }
            // Fewer and more workers than the one before: no queue may be left without one.
            let workers = ["1", "4", "2"][round % 3];
            let flags = [&SHORT_OVERLAP[..], &["--workers", workers]].concat();
            // From the second on none may bind port 80, and none needs to.
            agents.push(AgentProcess::watch(&mut site.command(&WITHOUT_RIGHTS, &flags))?);
            let old = agents.iter().nth_back(1).context("no agent before")?;
            site.wait_for_phase(old.pid(), "draining")?;
        }
        go_on(load, 500)
    })?;
    let failed = load
        .failed
        .lock()
        .map(|failed| failed.clone())
        .unwrap_or_default();
    println!(
        "{HAND_OVERS} hand-overs of bound sockets: {} new connections, {} failed; {} WebSockets, all open",
        load.sent(),
        failed.len(),
        sockets.len()
    );
    assert_eq!(failed, [] as [String; 0]);
    assert!(load.sent() >= 20_000);
    for socket in &mut sockets {
        assert_eq!(socket.echo("still here")?, "still here");
    }
    Ok(())
}

#[test]
fn when_an_agent_that_was_given_the_sockets_dies_at_once_the_old_one_accepts_again() -> Done {
    let Some(site) = Site::new()? else { return Ok(()) };
    let old = site.start(&LONG_OVERLAP)?;
    for _ in 0..2 {
        let new = site.start(&OFF)?;
        site.wait_for_phase(old.pid(), "handing over")?;
        is_well(&site)?;
        new.kill();
        is_well(&site)?;
        site.wait_for_phase(old.pid(), "serving")?;
    }
    Ok(())
}

#[test]
fn when_the_old_agent_dies_after_it_gave_its_sockets_the_new_one_has_everything() -> Done {
    let Some(site) = Site::new()? else { return Ok(()) };
    let old = site.start(&LONG_OVERLAP)?;
    let new = site.start(&OFF)?;
    site.wait_for_phase(old.pid(), "handing over")?;
    let load = under_load(&site, |load| {
        go_on(load, 200)?;
        old.kill();
        go_on(load, 500)
    })?;
    assert_eq!(load.failed.into_inner()?, [] as [String; 0]);
    assert_eq!(site.status(new.pid())?["phase"], "serving");
    Ok(())
}

#[test]
fn an_agent_that_was_given_the_sockets_and_cannot_start_leaves_everything_to_the_old_one() -> Done {
    let Some(site) = Site::new()? else { return Ok(()) };
    let old = site.start(&OFF)?;
    let _taken = site.net.node.run(|| Ok(TcpListener::bind("0.0.0.0:81")?))?;
    let load = under_load(&site, |load| {
        go_on(load, 100)?;
        let says = site.refused(&[], &["--http", ":80,:81", "--kernel", "off"])?;
        assert!(says.contains(":81: cannot listen here"), "{says}");
        go_on(load, 100)
    })?;
    assert_eq!(load.failed.into_inner()?, [] as [String; 0]);
    assert_eq!(site.status(old.pid())?["phase"], "serving");
    Ok(())
}

#[test]
fn of_other_addresses_what_fits_is_taken_over_and_the_rest_is_bound_or_stays() -> Done {
    let Some(site) = Site::new()? else { return Ok(()) };
    let port_81 = || {
        site.net.client.run(|| {
            let address: SocketAddr = format!("{NODE}:81").parse()?;
            Ok(Request::get(&format!("http://{HOST}/"))?.ask(address)?.status)
        })
    };
    let one = site.start(&SHORT_OVERLAP)?;
    let both = ["--http", ":80,:81", "--kernel", "off"];
    let two = site.start(&both)?;
    site.wait_for_phase(one.pid(), "draining")?;
    is_well(&site)?;
    assert_eq!(port_81()?, 200);
    // One that serves less: what it does not serve stays, and so does the agent that does.
    let less = site.start(&OFF)?;
    less.log_line("that the other one goes on", |line| {
        let reason = line["reason"].as_str().unwrap_or_default();
        reason.contains(":81 is bound here") && reason.contains("what both serve is the new agent's")
    })?;
    is_well(&site)?;
    assert_eq!(port_81()?, 200);
    assert_eq!(site.status(two.pid())?["phase"], "serving");
    less.kill();
    is_well(&site)?;
    assert_eq!(port_81()?, 200);
    Ok(())
}

#[test]
fn after_its_time_an_old_agent_answers_what_waits_with_503_draining_and_breaks_off_what_has_begun() -> Done {
    let Some(site) = Site::new()? else { return Ok(()) };
    let head = Step::Expect(b"\r\n\r\n".to_vec());
    let begins = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nbegun\r\n".to_vec();
    let scripts = [vec![head.clone()], vec![head, Step::Send(begins)]];
    let mut backends = Vec::new();
    for (name, script) in ["silent", "begun"].into_iter().zip(scripts) {
        let backend = site.net.node.run(|| Ok(RawBackend::scripted(script)?))?;
        site.manifests.service(name, &[backend.address()])?;
        let ingress = Ingress::new(name)
            .class("ingress-agent")
            .host(&format!("{name}.test"));
        site.manifests.ingress(&ingress.prefix("/", name))?;
        backends.push(backend);
    }
    let limits = ["--hand-over-timeout", "1s", "--hand-over-spread", "2s"];
    let old = site.start(&[&SHORT_OVERLAP[..], &limits].concat())?;
    let ask = |host: &str| {
        let mut client = site
            .net
            .client
            .run(|| Ok(RawClient::connect(format!("{NODE}:80").parse()?)?))?;
        client.send(format!("GET / HTTP/1.1\r\nHost: {host}.test\r\n\r\n"))?;
        anyhow::Ok(client)
    };
    let (mut silent, mut begun) = (ask("silent")?, ask("begun")?);
    begun.read_until("begun\r\n")?;
    wait("the backend to have the request", || {
        Ok(backends[0].connections() > 0)
    })?;
    let _new = site.start(&OFF)?;
    let told = String::from_utf8(silent.read_to_end()?)?;
    assert!(
        told.starts_with("HTTP/1.1 503 ") && told.contains("x-ingress-agent-reason: draining\r\n"),
        "{told}"
    );
    assert_eq!(begun.read_to_end()?, b"", "no last chunk");
    old.log_line("how many there were", |line| {
        let says = line["message"].as_str().unwrap_or_default();
        says.contains("503 draining 1, answers broken off 1, WebSockets closed 0, connections cut 0")
    })?;
    let page = site.net.node.run(|| {
        let url = format!("http://{}/metrics", old.admin);
        Ok(Request::get(&url)?.ask(old.admin)?.text())
    })?;
    assert!(
        page.contains("ingress_agent_drain_ended_total{what=\"answer\"} 1"),
        "{page}"
    );
    is_well(&site)
}

fn control_socket(site: &Site) -> anyhow::Result<PathBuf> {
    let entries = std::fs::read_dir(meeting_place(site)?)?;
    let mut sockets = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "sock"));
    sockets.next().context("no control socket")
}

/// Says a line as another version would, and hears the answer; the connection stays.
fn say(socket: &PathBuf, line: &str) -> anyhow::Result<(UnixStream, String)> {
    let mut stream = UnixStream::connect(socket)?;
    stream.write_all(line.as_bytes())?;
    stream.write_all(b"\n")?;
    let mut answer = String::new();
    BufReader::new((&stream).take(64 * 1024)).read_line(&mut answer)?;
    Ok((stream, answer))
}

#[test]
fn an_agent_of_an_older_or_newer_version_is_handed_over_to_or_refused_in_clear_words() -> Done {
    let Some(site) = Site::new()? else { return Ok(()) };
    let flags = ["--hand-over-overlap", "100ms"];
    let retire = |version, more: &str| {
        format!("{{\"version\":{version},\"order\":\"retire\",\"pid\":1,\"addresses\":[\"[::]:80\"]{more}}}")
    };
    let bound = site.start(&[&OFF[..], &flags].concat())?;
    let socket = control_socket(&site)?;
    // Version 1 without `adopted`: it steers, or binds what is not its to bind. It has not our sockets, so that we must not leave them.
    let (_kept, answer) = say(&socket, &retire(1, ""))?;
    assert!(
        answer.contains("[::]:80 is bound here, and the new agent does not have its socket"),
        "{answer}"
    );
    for (line, why) in [
        (retire(2, ""), "speaks version 2"),
        (
            "{\"version\":1,\"order\":\"merge\"}".to_owned(),
            "unknown variant `merge`",
        ),
        ("{\"version\":1,\"order\":\"retire\"}".to_owned(), "missing field"),
    ] {
        let (_kept, answer) = say(&socket, &line)?;
        assert!(
            answer.contains("\"refused\"") && answer.contains(why),
            "{line}: {answer}"
        );
    }
    assert_eq!(site.status(bound.pid())?["phase"], "serving");
    is_well(&site)?;
    // What a later release adds beside what we know is no reason to refuse it.
    let (successor, answer) = say(
        &socket,
        &retire(1, ",\"adopted\":[\"[::]:80\"],\"mood\":\"good\""),
    )?;
    assert!(answer.contains("\"done\""), "{answer}");
    site.wait_for_phase(bound.pid(), "draining")?;
    drop((successor, bound));
    Ok(())
}

/// An agent of another version in the meeting place: answers everything with this line.
fn other_version(site: &Site, answer: &'static str) -> anyhow::Result<PathBuf> {
    let path = meeting_place(site)?.join("1-other.sock");
    let listener = UnixListener::bind(&path)?;
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut line = String::new();
            let _ = BufReader::new(&stream).read_line(&mut line);
            // Some only look whether anybody is there.
            let _ = writeln!(&stream, "{answer}");
            if line.contains("end of the test") {
                return;
            }
        }
    });
    Ok(path)
}

#[test]
fn beside_an_agent_that_does_not_know_how_to_pass_sockets_one_starts_as_ever_and_says_so() -> Done {
    let Some(site) = Site::new()? else { return Ok(()) };
    // Makes the meeting place.
    drop(site.start(&OFF)?);
    for (answer, says) in [
        (
            "{\"version\":1,\"answer\":\"refused\",\"reason\":\"unknown variant `listeners`\"}",
            "unknown variant",
        ),
        ("{\"version\":2,\"answer\":\"welcome\"}", "version 2"),
        (
            "{\"version\":1,\"answer\":\"listeners\",\"more\":9}",
            "connection",
        ),
    ] {
        let path = other_version(&site, answer)?;
        let agent = site.start(&OFF)?;
        is_well(&site)?;
        if says != "connection" {
            agent.log_line("that it got no sockets", |line| {
                line["error"].as_str().is_some_and(|text| text.contains(says))
            })?;
        }
        let _ = UnixStream::connect(&path).and_then(|mut stream| stream.write_all(b"end of the test\n"));
        std::fs::remove_file(&path)?;
        drop(agent);
        wait("port 80 to be free", || {
            site.net.node.run(|| Ok(TcpListener::bind("0.0.0.0:80").is_ok()))
        })?;
    }
    Ok(())
}
