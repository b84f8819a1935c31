//! Connections from their first byte to their end: limits, own answers to bodies nobody reads, draining, what the metrics say of it.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::time::{Duration, Instant};

use ingress_tests::raw::{DEADLINE, Step};
use ingress_tests::{Echo, Gate, Ingress, Manifests, RawBackend, RawClient, TestAgent};

const HEAD_END: &str = "\r\n\r\n";

fn manifests(backend: std::net::SocketAddr) -> std::io::Result<Manifests> {
    let manifests = Manifests::new()?;
    manifests.our_class()?;
    manifests.service("web", &[backend])?;
    let ingress = Ingress::new("web")
        .class("ingress-agent")
        .host("web.example.test")
        .prefix("/", "web");
    manifests.ingress(&ingress)?;
    Ok(manifests)
}

fn read_head(client: &mut RawClient) -> String {
    let head = client.read_until(HEAD_END).unwrap();
    String::from_utf8_lossy(&head).to_ascii_lowercase()
}

#[test]
fn an_own_answer_to_a_body_that_nobody_reads_arrives_and_tells_that_the_connection_ends() {
    let echo = Echo::start("web").unwrap();
    let agent = TestAgent::start(&manifests(echo.address()).unwrap()).unwrap();
    let long = "POST / HTTP/1.1\r\nHost: nobody.example.test\r\nContent-Length: 50000000\r\n\r\n";
    let chunked =
        "POST / HTTP/1.1\r\nHost: nobody.example.test\r\nTransfer-Encoding: chunked\r\n\r\n10000\r\n";
    for head in [long, chunked] {
        let mut client = RawClient::connect(agent.http).unwrap();
        client.send(head).unwrap();
        client.send(vec![b'x'; 30_000]).unwrap();
        let answer = read_head(&mut client);
        assert!(answer.starts_with("http/1.1 404 "), "{answer}");
        assert!(answer.contains("connection: close"), "{answer}");
        assert_eq!(client.read_to_end().unwrap(), b"host_unknown");
    }
}

#[test]
fn an_own_answer_to_a_body_that_is_there_keeps_the_connection_and_its_place_in_the_stream() {
    let echo = Echo::start("web").unwrap();
    let agent = TestAgent::start(&manifests(echo.address()).unwrap()).unwrap();
    let mut client = RawClient::connect(agent.http).unwrap();
    for _ in 0..2 {
        client
            .send("POST / HTTP/1.1\r\nHost: nobody.example.test\r\nContent-Length: 5\r\n\r\nhello")
            .unwrap();
        let answer = read_head(&mut client);
        assert!(answer.starts_with("http/1.1 404 "), "{answer}");
        assert!(!answer.contains("connection: close"), "{answer}");
        client.read_until("host_unknown").unwrap();
    }
    client
        .send("HEAD / HTTP/1.1\r\nHost: nobody.example.test\r\n\r\nGET / HTTP/1.1\r\nHost: web.example.test\r\n\r\n")
        .unwrap();
    let head = read_head(&mut client);
    assert!(head.contains("content-length: 12"), "{head}");
    assert!(read_head(&mut client).starts_with("http/1.1 200 "));
}

/// HTTP/2 (RFC 9113): a frame of a type, flags and stream.
fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let length = u8::try_from(payload.len()).unwrap_or(u8::MAX);
    [&[0, 0, length, kind, flags, 0, 0, 0, stream], payload].concat()
}

/// Preface, SETTINGS and HEADERS of a POST, by HPACK literals that are not indexed.
fn h2_post(host: &str, end_stream: bool) -> Vec<u8> {
    let mut block = vec![
        0x83,
        0x86,
        0x84,
        0x01,
        u8::try_from(host.len()).unwrap_or(u8::MAX),
    ];
    block.extend(host.as_bytes());
    [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        frame(4, 0, 0, &[]),
        frame(1, 4 | u8::from(end_stream), 1, &block),
    ]
    .concat()
}

#[test]
fn an_h2_upload_that_stands_still_is_answered_408() {
    let backend = RawBackend::scripted(vec![Step::Expect(b"never".to_vec())]).unwrap();
    let agent = TestAgent::start_with(
        &manifests(backend.address()).unwrap(),
        &["--body-timeout", "300ms"],
    )
    .unwrap();
    let mut client = RawClient::connect(agent.http).unwrap();
    client.send(h2_post("web.example.test", false)).unwrap();
    client.send(frame(0, 0, 1, b"some")).unwrap();
    client.read_until("request_timeout").unwrap();
    let mut whole = RawClient::connect(agent.http).unwrap();
    whole.send(h2_post("nobody.example.test", true)).unwrap();
    whole.read_until("host_unknown").unwrap();
}

#[test]
fn behind_the_proxy_protocol_the_client_is_counted_and_not_the_balancer() {
    let echo = Echo::start("web").unwrap();
    let flags = [
        "--trusted-proxies",
        "127.0.0.1/32",
        "--proxy-protocol",
        "on",
        "--max-connections-per-source",
        "1",
        "--workers",
        "1",
    ];
    let agent = TestAgent::start_with(&manifests(echo.address()).unwrap(), &flags).unwrap();
    let connect = |source: &str| {
        let mut client = RawClient::connect(agent.http).unwrap();
        let request = format!(
            "PROXY TCP4 {source} 192.0.2.1 1000 80\r\nGET / HTTP/1.1\r\nHost: web.example.test\r\n\r\n"
        );
        client.send(request).unwrap();
        client
    };
    let mut first = connect("198.51.100.1");
    assert!(read_head(&mut first).starts_with("http/1.1 200 "));
    let mut other = connect("198.51.100.2");
    assert!(read_head(&mut other).starts_with("http/1.1 200 "));
    let mut second = connect("198.51.100.1");
    assert!(second.is_closed_within(DEADLINE));
    drop(first);
    let until = Instant::now() + DEADLINE;
    while connect("198.51.100.1").read_until(HEAD_END).is_err() {
        assert!(Instant::now() < until, "the place is not given back");
    }
}

#[test]
fn draining_finishes_what_has_arrived_and_closes_what_is_idle() {
    let gate = Gate::new();
    let backend = RawBackend::scripted(vec![
        Step::Expect(HEAD_END.as_bytes().to_vec()),
        Step::Until(gate.clone()),
        Step::Send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nslow".to_vec()),
    ])
    .unwrap();
    let agent = TestAgent::start_with(
        &manifests(backend.address()).unwrap(),
        // One worker, so that the end of the idle connection tells that the order is everywhere.
        &["--drain-timeout", "50s", "--workers", "1"],
    )
    .unwrap();
    let request = "GET / HTTP/1.1\r\nHost: web.example.test\r\n\r\n";
    let own = "GET / HTTP/1.1\r\nHost: nobody.example.test\r\n\r\n";
    let mut idle = RawClient::connect(agent.http).unwrap();
    idle.send(own).unwrap();
    idle.read_until("host_unknown").unwrap();
    let mut active = RawClient::connect(agent.http).unwrap();
    active.send(request).unwrap();
    backend.wait_for(|connections| !connections.is_empty()).unwrap();
    // Connected, in the kernel's queue or beyond; asks only while the agent drains.
    let mut late = RawClient::connect(agent.http).unwrap();
    let began = Instant::now();
    let ending = std::thread::spawn(move || agent.shutdown());
    assert!(idle.is_closed_within(DEADLINE));
    // Who says nothing for a second while the agent drains is let go, so on a very slow machine it may be too late.
    let sent = late.send(own);
    if began.elapsed() < Duration::from_secs(1) {
        sent.unwrap();
        let answer = read_head(&mut late);
        assert!(answer.starts_with("http/1.1 404 "), "{answer}");
        assert!(answer.contains("connection: close"), "{answer}");
    }
    assert!(!ending.is_finished(), "a request is still open");
    gate.open();
    let answer = read_head(&mut active);
    assert!(
        answer.starts_with("http/1.1 200 ") && answer.contains("connection: close"),
        "{answer}"
    );
    assert_eq!(active.read_to_end().unwrap(), b"slow");
    ending.join().unwrap();
}

#[test]
fn draining_ends_at_its_timeout_with_a_websocket_open() {
    let backend = RawBackend::answering(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n",
    )
    .unwrap();
    let agent = TestAgent::start_with(
        &manifests(backend.address()).unwrap(),
        &["--drain-timeout", "500ms"],
    )
    .unwrap();
    let mut client = RawClient::connect(agent.http).unwrap();
    client
        .send("GET / HTTP/1.1\r\nHost: web.example.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
        .unwrap();
    assert!(read_head(&mut client).starts_with("http/1.1 101 "));
    let began = Instant::now();
    agent.shutdown();
    assert!(
        began.elapsed() >= Duration::from_millis(500),
        "the tunnel had its time"
    );
    assert!(client.is_closed_within(DEADLINE));
}

#[test]
fn the_metrics_tell_of_connections_to_backends() {
    let echo = Echo::start("web").unwrap();
    let manifests = manifests(echo.address()).unwrap();
    let agent = TestAgent::start_with(&manifests, &["--workers", "1"]).unwrap();
    for _ in 0..2 {
        assert_eq!(agent.get("http://web.example.test/").unwrap().status, 200);
    }
    let page = agent.metrics().unwrap();
    for line in [
        "ingress_agent_upstream_connections_created_total 1",
        "ingress_agent_upstream_connections_reused_total 1",
        "ingress_agent_upstream_connections_idle 1",
        "ingress_agent_upstream_connections_failed_total 0",
    ] {
        assert!(page.lines().any(|l| l == line), "{line} is not in\n{page}");
    }
}

#[test]
fn a_body_that_breaks_the_protocol_is_one_answer_in_the_metrics_and_not_two() {
    let backend = RawBackend::scripted(vec![Step::Expect(b"never".to_vec())]).unwrap();
    let agent = TestAgent::start(&manifests(backend.address()).unwrap()).unwrap();
    let mut client = RawClient::connect(agent.http).unwrap();
    client
        .send("POST / HTTP/1.1\r\nHost: web.example.test\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n")
        .unwrap();
    // The service has the request when the broken part comes.
    let arrived = backend.wait_for(|connections| !connections.is_empty());
    assert!(
        arrived.is_ok(),
        "no connection; the client has {}",
        read_head(&mut client)
    );
    client.send("zz\r\n").unwrap();
    assert!(read_head(&mut client).starts_with("http/1.1 400 "));
    client.read_to_end().unwrap();
    drop(client);
    let closed = |page: &str| {
        let is_open =
            |l: &str| l.starts_with("ingress_agent_connections{listener=\"http\"") && !l.ends_with(" 0");
        !page.lines().any(is_open)
    };
    let until = Instant::now() + DEADLINE;
    let page = loop {
        let page = agent.metrics().unwrap();
        if closed(&page) {
            break page;
        }
        assert!(Instant::now() < until, "the connection stays open\n{page}");
    };
    let line = "ingress_agent_answers_total{reason=\"bad_request\"} 1";
    assert!(page.lines().any(|l| l == line), "{line} is not in\n{page}");
}
