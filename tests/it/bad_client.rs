//! Clients that break the rules over HTTP/1.1 and TLS: each gets the specified answer, nobody else notices.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::time::{Duration, Instant};

use ingress_tests::raw::{DEADLINE, RawBackend, RawClient, Step, exchange};

use crate::site::{HOST, Site, assert_refused, statuses, wait};
use crate::strict::StrictBackend;

fn site(flags: &[&str]) -> (StrictBackend, Site) {
    let backend = StrictBackend::start();
    let site = Site::with(&[backend.address()], &[], flags);
    (backend, site)
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: {HOST}\r\n\r\n")
}

#[test]
fn an_absolute_target_wins_over_host_and_becomes_host() {
    let (backend, site) = site(&[]);
    for (target, host) in [
        ("http://site.test/a?b", "evil.test"),
        ("HTTP://SITE.TEST/a?b", "evil.test:81"),
        ("https://site.test:443/a?b", "site.test"),
    ] {
        let answer = site.exchange(format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        assert_eq!(statuses(&answer), [200], "{target}: {answer:?}");
        let requests = backend.requests();
        let request = requests.last().unwrap();
        assert_eq!(request.path(), "/a?b", "the backend gets the origin form");
        let authority = target.split('/').nth(2).unwrap();
        assert_eq!(request.fields("host"), [authority], "{target}");
    }
    // RFC 9110, 4.2.1: an empty path is "/", also where a query follows it.
    for (target, path) in [("http://site.test", "/"), ("http://site.test?a=b", "/?a=b")] {
        let answer = site.exchange(format!("GET {target} HTTP/1.1\r\nHost: {HOST}\r\n\r\n"));
        assert_eq!(statuses(&answer), [200], "{target}: {answer:?}");
        assert_eq!(backend.requests().last().unwrap().path(), path);
    }
    let answer = site.exchange(format!(
        "GET http://unknown.test/ HTTP/1.1\r\nHost: {HOST}\r\n\r\n"
    ));
    assert_refused(
        &answer,
        404,
        "host_unknown",
        "the target decides which route it is",
    );
}

#[test]
fn connect_and_trace_are_not_implemented() {
    let (backend, site) = site(&[]);
    for request in [
        format!("CONNECT {HOST}:443 HTTP/1.1\r\nHost: {HOST}:443\r\n\r\n"),
        format!("TRACE / HTTP/1.1\r\nHost: {HOST}\r\n\r\n"),
        "TRACE http://site.test/ HTTP/1.1\r\nHost: site.test\r\n\r\n".to_owned(),
    ] {
        let answer = site.exchange(request.clone() + &get("/prize"));
        assert_refused(&answer, 501, "not_implemented", &request);
    }
    assert_eq!(backend.requests(), []);
}

#[test]
fn an_upgrade_to_anything_but_websocket_is_ignored() {
    let (backend, site) = site(&[]);
    for upgrade in ["h2c", "TLS/1.0", "foo/2", "websocketx", "h2c, foo", "connect-udp"] {
        let request = format!(
            "GET / HTTP/1.1\r\nHost: {HOST}\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: {upgrade}\r\nHTTP2-Settings: AAMAAABk\r\n\r\n"
        );
        let answer = site.exchange(request + &get("/next"));
        assert_eq!(statuses(&answer), [200, 200], "{upgrade}: {answer:?}");
    }
    for request in backend.requests() {
        for field in ["connection", "upgrade", "http2-settings"] {
            assert_eq!(request.fields(field), [""; 0], "{field}");
        }
    }
}

#[test]
fn a_websocket_handshake_that_is_none_is_refused_or_plain() {
    let (backend, site) = site(&[]);
    let upgrade = "Connection: Upgrade\r\nUpgrade: websocket";
    for request in [
        format!("POST / HTTP/1.1\r\nHost: {HOST}\r\n{upgrade}\r\nContent-Length: 5\r\n\r\nhello"),
        format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n{upgrade}\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        format!("GET / HTTP/1.1\r\nHost: {HOST}\r\nUpgrade: websocket\r\n\r\n"),
        format!("POST / HTTP/1.1\r\nHost: {HOST}\r\n{upgrade}\r\n\r\n"),
    ] {
        let answer = site.exchange(request.clone() + &get("/prize"));
        assert_refused(&answer, 400, "bad_request", &request);
    }
    assert_eq!(backend.requests(), []);
    // A backend that does not upgrade answers, and what follows is HTTP again, judged as such.
    let handshake = format!("GET /ws HTTP/1.1\r\nHost: {HOST}\r\n{upgrade}\r\n\r\n");
    let answer = site.exchange(handshake.clone() + &get("/next"));
    assert_eq!(statuses(&answer), [200, 200], "{answer:?}");
    let answer = site.exchange(handshake + "GET /bad HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n");
    assert_eq!(statuses(&answer), [200, 400], "{answer:?}");
    let paths: Vec<_> = backend.requests().iter().map(|r| r.path().to_owned()).collect();
    assert_eq!(paths, ["/ws", "/next", "/ws"]);
}

#[test]
fn everything_oversize_is_told_which_bound_it_met() {
    let (backend, site) = site(&[]);
    let long = |count| "a".repeat(count);
    let fields: String = (0..101).map(|i| format!("x-{i}: y\r\n")).collect();
    let many_bytes: String = (0..40).map(|i| format!("x-{i}: {}\r\n", long(1000))).collect();
    let cases = [
        (get(&format!("/{}", long(9_000))), 414, "uri_too_long"),
        (get(&format!("/?{}", long(100_000))), 414, "uri_too_long"),
        (
            format!("GET / HTTP/1.1\r\nHost: {HOST}\r\nX: {}\r\n\r\n", long(40_000)),
            431,
            "headers_too_large",
        ),
        (
            format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n{}: y\r\n\r\n", long(40_000)),
            431,
            "headers_too_large",
        ),
        (
            format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n{fields}\r\n"),
            431,
            "headers_too_large",
        ),
        (
            format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n{many_bytes}\r\n"),
            431,
            "headers_too_large",
        ),
        (
            format!("GET / HTTP/1.1\r\nHost: {}\r\n\r\n", long(300)),
            400,
            "bad_request",
        ),
        (
            format!("{} / HTTP/1.1\r\nHost: {HOST}\r\n\r\n", "M".repeat(40)),
            501,
            "not_implemented",
        ),
        (
            format!(
                "POST / HTTP/1.1\r\nHost: {HOST}\r\nTransfer-Encoding: chunked\r\n\r\n1;{}\r\na\r\n0\r\n\r\n",
                long(300)
            ),
            400,
            "bad_request",
        ),
        (
            format!(
                "POST / HTTP/1.1\r\nHost: {HOST}\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nx: {}\r\n\r\n",
                long(9_000)
            ),
            400,
            "bad_request",
        ),
        (
            format!("POST / HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 99999999\r\n\r\n"),
            413,
            "body_too_large",
        ),
    ];
    for (request, status, reason) in cases {
        let case = request.get(..60).unwrap_or(&request).to_owned();
        let answer = site.exchange(request + &get("/prize"));
        assert_refused(&answer, status, reason, &case);
    }
    assert_eq!(backend.requests(), []);
    site.assert_well();
}

#[test]
fn a_chunked_body_over_the_limit_is_cut_off_when_it_passes_it() {
    let backend = StrictBackend::start();
    let site = Site::with(&[backend.address()], &[("proxy-body-size", "10k")], &[]);
    let mut client = site.client();
    client
        .send(format!(
            "POST / HTTP/1.1\r\nHost: {HOST}\r\nTransfer-Encoding: chunked\r\n\r\n"
        ))
        .unwrap();
    for _ in 0..30 {
        let chunk = format!("400\r\n{}\r\n", "x".repeat(0x400));
        if client.send(chunk).is_err() {
            break;
        }
    }
    let answer = String::from_utf8_lossy(&client.read_to_end().unwrap()).into_owned();
    assert_refused(&answer, 413, "body_too_large", "over the limit");
    assert_eq!(backend.requests(), []);
    site.assert_well();
}

#[test]
fn a_head_that_comes_byte_by_byte_is_served_and_one_that_stops_is_answered_408() {
    let (backend, patient) = site(&[]);
    let mut client = patient.client();
    client.send_byte_by_byte(get("/slow")).unwrap();
    client.read_until("\r\n\r\nok").unwrap();
    drop(client);
    assert_eq!(backend.requests().len(), 1);
    // Long enough for a stalling machine to send the beginning; all of them wait at once.
    let (backend, site) = site(&["--head-timeout", "3s"]);
    let mut trickling = site.client();
    trickling
        .send("GET / HTTP/1.1\r\nHost: site.test\r\nx: ")
        .unwrap();
    let starts = [
        "G",
        "GET / HT",
        "GET / HTTP/1.1\r\nHost: site.te",
        "GET / HTTP/1.1\r\nHost: site.test\r\n",
    ];
    let clients = starts.map(|start| {
        let mut client = site.client();
        client.send(start).unwrap();
        client
    });
    // Drops of new bytes do not buy more time.
    let until = Instant::now() + DEADLINE;
    while trickling.send("y").is_ok() && !trickling.is_closed_within(Duration::from_millis(20)) {
        assert!(Instant::now() < until, "a head that never ends is ended");
    }
    for (mut client, start) in clients.into_iter().zip(starts) {
        let answer = String::from_utf8_lossy(&client.read_to_end().unwrap()).into_owned();
        assert_refused(&answer, 408, "request_timeout", start);
    }
    assert_eq!(backend.requests(), []);
    site.assert_well();
}

#[test]
fn a_connection_that_says_nothing_is_closed_in_time() {
    let (_backend, impatient) = site(&["--head-timeout", "300ms", "--tls-handshake-timeout", "300ms"]);
    let mut silent = impatient.client();
    assert_eq!(silent.read_to_end().unwrap(), b"");
    let mut tls = RawClient::connect(impatient.agent.https).unwrap();
    assert_eq!(tls.read_to_end().unwrap(), b"");
    // A site of its own: what is not idle may take as long as it needs.
    let (_backend, site) = site(&["--idle-timeout", "300ms"]);
    let mut idle = site.client();
    idle.send(get("/")).unwrap();
    idle.read_until("\r\n\r\nok").unwrap();
    assert_eq!(idle.read_to_end().unwrap(), b"");
    site.assert_well();
}

#[test]
fn a_body_that_stops_is_answered_408_and_never_becomes_a_whole_request() {
    let (backend, site) = site(&["--body-timeout", "300ms"]);
    for (fields, start) in [
        ("Content-Length: 10", "hello"),
        ("Content-Length: 10", ""),
        ("Transfer-Encoding: chunked", "5\r\nhel"),
        ("Transfer-Encoding: chunked", "5\r\nhello\r\n"),
        ("Transfer-Encoding: chunked", "5\r\nhello\r\n0\r\n"),
    ] {
        let mut client = site.client();
        client
            .send(format!(
                "POST / HTTP/1.1\r\nHost: {HOST}\r\n{fields}\r\n\r\n{start}"
            ))
            .unwrap();
        let answer = String::from_utf8_lossy(&client.read_to_end().unwrap()).into_owned();
        assert_refused(&answer, 408, "request_timeout", start);
    }
    assert_eq!(backend.requests(), []);
    assert_eq!(backend.broken(), [""; 0]);
    site.assert_well();
}

#[test]
fn a_client_that_takes_nothing_of_its_answer_is_cut_off() {
    let flood = [
        b"HTTP/1.1 200 OK\r\ncontent-length: 50000000\r\n\r\n".to_vec(),
        vec![b'x'; 50_000_000],
    ]
    .concat();
    let backend = RawBackend::answering(flood).unwrap();
    let site = Site::with(&[backend.address()], &[], &["--write-timeout", "400ms"]);
    let mut client = site.client();
    client.send(get("/")).unwrap();
    site.assert_well();
}

#[test]
fn a_half_closed_socket_still_gets_its_answer() {
    let late = RawBackend::scripted(vec![
        Step::Expect(b"\r\n\r\n".to_vec()),
        Step::Wait(Duration::from_millis(200)),
        Step::Send(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 4\r\n\r\nlate".to_vec()),
    ])
    .unwrap();
    let site = Site::new(&[late.address()]);
    let answer = site.exchange(get("/"));
    assert!(answer.ends_with("late"), "{answer:?}");
    let post = format!("POST / HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 5\r\n\r\nhello");
    let answer = site.exchange(post);
    assert!(answer.ends_with("late"), "{answer:?}");
    site.assert_well();
}

#[test]
fn a_message_that_ends_early_is_refused_and_never_whole_at_the_backend() {
    let (backend, site) = site(&[]);
    let whole = format!("POST /cut HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 5\r\n\r\nhello");
    for cut in 1..whole.len() {
        let answer = site.exchange(&whole[..cut]);
        let statuses = statuses(&answer);
        // Behind the head nobody may be left to answer: a vanished client is no reason to say anything.
        assert!(
            matches!(statuses.as_slice(), [400] | []),
            "cut at {cut}: {answer:?}"
        );
    }
    assert_eq!(backend.requests(), []);
    assert_eq!(backend.broken(), [""; 0]);
    site.assert_well();
}

#[test]
fn resets_in_every_phase_leave_nothing_behind() {
    let (backend, site) = site(&[]);
    let post = format!("POST / HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 5\r\n\r\nhello");
    for cut in 0..=post.len() {
        let mut client = site.client();
        client.send(&post[..cut]).unwrap();
        client.reset().unwrap();
    }
    let slow = RawBackend::scripted(vec![
        Step::Expect(b"\r\n\r\n".to_vec()),
        Step::Send(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 10\r\n\r\nhello".to_vec()),
        Step::Wait(Duration::from_millis(100)),
        Step::Send(b"world".to_vec()),
    ])
    .unwrap();
    site.manifests.service("site", &[slow.address()]).unwrap();
    site.agent
        .get_until(&format!("http://{HOST}/"), |answer| answer.text() == "helloworld")
        .unwrap();
    let mut in_the_answer = site.client();
    in_the_answer.send(get("/")).unwrap();
    in_the_answer.read_until("hello").unwrap();
    in_the_answer.reset().unwrap();
    let mut after_the_answer = site.client();
    after_the_answer.send(get("/")).unwrap();
    after_the_answer.read_until("helloworld").unwrap();
    after_the_answer.reset().unwrap();
    assert_eq!(backend.broken(), [""; 0]);
    site.assert_well();
}

#[test]
fn a_client_that_resets_while_its_backend_is_silent_is_noticed_and_counted_long_before_the_read_timeout() {
    let silent = RawBackend::scripted(vec![
        Step::Expect(b"\r\n\r\n".to_vec()),
        Step::Wait(Duration::from_secs(50)),
    ])
    .unwrap();
    let site = Site::with(&[silent.address()], &[], &[]);
    let mut leaving = site.client();
    leaving.send(get("/")).unwrap();
    silent.wait_for(|received| !received.is_empty()).unwrap();
    leaving.reset().unwrap();
    site.agent
        .wait_until("the reset is counted", |agent| {
            let gone = agent.metric("ingress_agent_answers_total", &["reason=\"client_closed\""])?;
            Ok(gone >= 1.0)
        })
        .unwrap();
    site.assert_well();
}

#[test]
fn plain_http_on_the_tls_port_is_told_so() {
    let (backend, site) = site(&[]);
    for request in [
        get("/"),
        "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc".to_owned(),
    ] {
        let answer = exchange(site.agent.https, &request).unwrap();
        assert_refused(&answer, 400, "bad_request", &request);
    }
    assert_eq!(backend.requests(), []);
    site.assert_well();
}

#[test]
fn garbage_on_the_tls_port_ends_that_connection_alone() {
    let (backend, site) = site(&["--tls-handshake-timeout", "1s"]);
    let half_hello = [0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00, 0x01, 0xfc, 0x03, 0x03];
    let cases: [&[u8]; 9] = [
        b"\0\0\0\0",
        b"garbage without end",
        &[0xff; 3000],
        &half_hello,
        &[0x16, 0x03, 0x01, 0xff, 0xff],
        &[0x16],
        &[0x15, 0x03, 0x01, 0x00, 0x02, 0x02, 0x00],
        &[0x80, 0x2e, 0x01, 0x00, 0x02],
        crate::frames::PREFACE,
    ];
    for bytes in cases {
        let mut client = RawClient::connect(site.agent.https).unwrap();
        client.send(bytes).unwrap();
        let answer = client.read_to_end().unwrap_or_default();
        assert!(answer.len() < 300, "{bytes:?}: {answer:?}");
    }
    for cut in 0..half_hello.len() {
        let mut client = RawClient::connect(site.agent.https).unwrap();
        client.send(&half_hello[..cut]).unwrap();
        if cut % 2 == 0 {
            client.reset().unwrap();
        }
    }
    assert_eq!(backend.requests(), []);
    site.assert_well();
    assert!(site.metric_where("ingress_agent_tls_handshakes_total", "failed") > 0.0);
}

#[test]
fn tls_on_the_plain_port_gets_an_alert_that_a_tls_client_understands() {
    let (_backend, site) = site(&[]);
    let mut client = site.client();
    client.send([0x16, 0x03, 0x01, 0x02, 0x00, 0x01]).unwrap();
    let answer = client.read_to_end().unwrap();
    assert_eq!(answer.first(), Some(&0x15), "an alert record: {answer:?}");
    let mut client = site.client();
    client.send([0u8, 1, 2, 3]).unwrap();
    assert!(client.read_to_end().is_ok_and(|answer| answer.is_empty()));
    site.assert_well();
}

#[test]
fn pipelined_requests_are_answered_in_their_order() {
    let (backend, site) = site(&[]);
    let post = |path: &str| format!("POST {path} HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 3\r\n\r\nabc");
    let chunked = |path: &str| {
        format!(
            "POST {path} HTTP/1.1\r\nHost: {HOST}\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
        )
    };
    let missing = "GET / HTTP/1.1\r\nHost: unknown.test\r\n\r\n";
    let all: String = [
        get("/1"),
        post("/2"),
        chunked("/3"),
        missing.to_owned(),
        post("/4"),
        get("/5"),
    ]
    .concat();
    for together in [true, false] {
        let mut client = site.client();
        if together {
            client.send(&all).unwrap();
        } else {
            client.send_byte_by_byte(&all).unwrap();
        }
        client.half_close().unwrap();
        let answers = String::from_utf8_lossy(&client.read_to_end().unwrap()).into_owned();
        assert_eq!(statuses(&answers), [200, 200, 200, 404, 200, 200], "{answers:?}");
    }
    let paths: Vec<_> = backend.requests().iter().map(|r| r.path().to_owned()).collect();
    assert_eq!(
        paths,
        ["/1", "/2", "/3", "/4", "/5", "/1", "/2", "/3", "/4", "/5"]
    );
}

#[test]
fn http_1_0_is_served_and_kept_only_when_it_asks_for_it() {
    let (backend, site) = site(&[]);
    let mut client = site.client();
    client
        .send(format!("GET /a HTTP/1.0\r\nHost: {HOST}\r\n\r\n"))
        .unwrap();
    let answer = String::from_utf8_lossy(&client.read_to_end().unwrap()).into_owned();
    assert_eq!(
        statuses(&answer),
        [200],
        "closed without our doing anything: {answer:?}"
    );
    let mut client = site.client();
    let keep = format!("GET /b HTTP/1.0\r\nHost: {HOST}\r\nConnection: keep-alive\r\n\r\n");
    client.send(keep.clone() + &keep).unwrap();
    client.half_close().unwrap();
    let answer = String::from_utf8_lossy(&client.read_to_end().unwrap()).into_owned();
    assert_eq!(statuses(&answer), [200, 200], "{answer:?}");
    assert!(
        answer.to_ascii_lowercase().contains("connection: keep-alive"),
        "{answer:?}"
    );
    for request in backend.requests() {
        assert!(
            request.head.contains(" HTTP/1.1\r\n"),
            "the backend is asked by HTTP/1.1"
        );
        assert_eq!(request.fields("connection"), [""; 0]);
    }
}

#[test]
fn fields_about_the_connection_end_here_and_no_others() {
    let (backend, site) = site(&[]);
    let answer = site.exchange(format!(
        "GET / HTTP/1.1\r\nHost: {HOST}\r\nConnection: keep-alive, X-Private, X-Forwarded-For\r\nX-Private: 1\r\nX-Public: 2\r\n\
         Keep-Alive: timeout=5\r\nProxy-Connection: keep-alive\r\nX-Dup: a\r\nX-Dup: b\r\n\r\n"
    ));
    assert_eq!(statuses(&answer), [200]);
    let requests = backend.requests();
    let request = &requests[0];
    for gone in ["connection", "x-private", "keep-alive", "proxy-connection"] {
        assert_eq!(request.fields(gone), [""; 0], "{gone}");
    }
    assert_eq!(request.fields("x-public"), ["2"]);
    assert_eq!(request.fields("x-dup"), ["a", "b"]);
    assert_eq!(request.fields("x-forwarded-for"), ["127.0.0.1"]);
}

#[test]
fn a_thousand_bad_connections_at_once_leave_nothing_behind() {
    let (backend, site) = site(&[]);
    let starts = [
        "",
        "G",
        "GET / HTTP/1.1\r\n",
        "\0",
        "POST / HTTP/1.1\r\nHost: site.test\r\nContent-Length: 9\r\n\r\n",
    ];
    let clients: Vec<_> = starts
        .iter()
        .cycle()
        .take(1000)
        .map(|start| {
            let mut client = site.client();
            client.send(start).unwrap();
            client
        })
        .collect();
    let answer = site.agent.get("http://healthy.test/").unwrap();
    assert_eq!(answer.status, 200, "others are served meanwhile");
    drop(clients);
    site.assert_well();
    assert_eq!(backend.requests(), []);
}

#[test]
fn every_refusal_is_counted_once() {
    let count = |site: &Site, reason: &str| {
        site.metric_where("ingress_agent_answers_total", &format!("\"{reason}\""))
    };
    // Long enough for a stalling machine to send what comes before the silence.
    let (_backend, impatient) = site(&["--body-timeout", "3s", "--head-timeout", "3s"]);
    let clients = [
        format!("POST / HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 9\r\n\r\nhello"),
        "GET / HT".to_owned(),
    ]
    .map(|start| {
        let mut client = impatient.client();
        client.send(start).unwrap();
        client
    });
    for mut client in clients {
        client.read_to_end().unwrap();
    }
    impatient.assert_well();
    wait("request_timeout", || count(&impatient, "request_timeout") >= 2.0);
    assert_eq!(count(&impatient, "request_timeout"), 2.0);
    let (_backend, site) = site(&[]);
    site.exchange("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n");
    wait("bad_request", || count(&site, "bad_request") >= 1.0);
    let mut client = site.client();
    client
        .send(format!(
            "POST / HTTP/1.1\r\nHost: {HOST}\r\nTransfer-Encoding: chunked\r\n\r\n"
        ))
        .unwrap();
    client.send("nonsense\r\n").unwrap();
    client.read_to_end().unwrap();
    site.assert_well();
    wait("bad_request", || count(&site, "bad_request") >= 2.0);
    assert_eq!(count(&site, "bad_request"), 2.0);
    assert_eq!(count(&site, "request_timeout"), 0.0);
}

#[test]
fn trusted_proxies_do_not_count_as_one_source() {
    let (_backend, limited) = site(&["--max-connections-per-source", "2", "--workers", "1"]);
    let mut held: Vec<_> = (0..2).map(|_| limited.client()).collect();
    for client in &mut held {
        client.send(get("/")).unwrap();
        client.read_until("\r\n\r\nok").unwrap();
    }
    assert_refused(&limited.exchange(get("/")), 429, "rate_limited", "the third");
    let (_backend, trusting) = site(&[
        "--max-connections-per-source",
        "2",
        "--workers",
        "1",
        "--trusted-proxies",
        "127.0.0.0/8",
    ]);
    let mut clients: Vec<_> = (0..10).map(|_| trusting.client()).collect();
    for client in &mut clients {
        client.send(get("/")).unwrap();
        client.read_until("\r\n\r\nok").unwrap();
    }
}

#[test]
fn one_connection_too_many_is_told_that_we_are_overloaded() {
    let (_backend, site) = site(&["--max-connections", "3"]);
    let mut held: Vec<_> = (0..3).map(|_| site.client()).collect();
    for client in &mut held {
        client.send(get("/")).unwrap();
        client.read_until("\r\n\r\nok").unwrap();
    }
    assert_refused(&site.exchange(get("/")), 503, "overloaded", "the fourth");
    drop(held);
    wait("room again", || site.metric("ingress_agent_connections") == 0.0);
    site.assert_well();
}

#[test]
fn reasons_can_be_kept_from_clients() {
    let (_backend, site) = site(&["--reason-header", "false"]);
    for request in [
        "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n".to_owned(),
        "GET / HTTP/1.1\r\nHost: unknown.test\r\n\r\n".to_owned(),
    ] {
        let answer = site.exchange(request);
        assert!(!answer.contains("x-ingress-agent-reason"), "{answer:?}");
    }
    let answer = exchange(site.agent.https, get("/")).unwrap();
    assert!(!answer.contains("x-ingress-agent-reason"), "{answer:?}");
}
