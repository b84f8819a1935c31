//! Backends that break the rules: 502 with its reason, and that connection is never used again. And those that only seem to.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::io::{Read, Write};
use std::time::Duration;

use ingress_tests::Gate;
use ingress_tests::raw::{DEADLINE, RawBackend, Step};

use crate::site::{HOST, Site, assert_refused, statuses, wait};

fn ask(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: {HOST}\r\n\r\n")
}

/// The backend answers this to everything, and the client gets that, twice, over two backend connections.
#[track_caller]
fn assert_answered(response: &[u8], status: u16, reason: &str) {
    let case = String::from_utf8_lossy(response.get(..200).unwrap_or(response)).into_owned();
    let backend = RawBackend::answering(response).unwrap();
    let site = Site::new(&[backend.address()]);
    for round in 1..=2 {
        let answer = site.exchange(post(round));
        assert_refused(&answer, status, reason, &case);
    }
    let received = backend.received();
    assert_eq!(received.len(), 2, "{case}: one connection for each request");
    site.assert_well();
}

/// Not to be repeated: so that connections count requests.
fn post(id: usize) -> String {
    format!("POST /{id} HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 5\r\n\r\nhello")
}

#[test]
fn a_response_that_two_readers_could_understand_differently_is_upstream_protocol() {
    let cases: [&str; 40] = [
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nContent-Length: 0x2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999999\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\n\r\nok",
        "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\nContent-Length: 2\n\nok",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\n\r\nok",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\nok",
        "HTTP/1.1 200 OK\r\nX: y\rContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nX: y\r\n z\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nContent-Length : 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\n Content-Length: 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\n: x\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nno colon\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nX: a\0b\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 200 O\0K\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1  200 OK\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 20 OK\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 2000 OK\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 abc OK\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 099 OK\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/2 200 OK\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.2 200 OK\r\nContent-Length: 2\r\n\r\nok",
        "http/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        " HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        "\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        "SSH-2.0-OpenSSH_9.9\r\n\r\n",
        "\x15\x03\x01\x02\x02\x46",
        "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\nbytes",
        "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\nbytes",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok, and more than that",
    ];
    for case in cases {
        assert_answered(case.as_bytes(), 502, "upstream_protocol");
    }
}

#[test]
fn a_response_head_that_is_too_large_is_upstream_protocol() {
    let long = "x".repeat(70_000);
    let many: String = (0..250).map(|i| format!("x-{i}: y\r\n")).collect();
    assert_answered(
        format!("HTTP/1.1 200 OK\r\nx: {long}\r\n\r\n").as_bytes(),
        502,
        "upstream_protocol",
    );
    assert_answered(
        format!("HTTP/1.1 200 {long}\r\n\r\n").as_bytes(),
        502,
        "upstream_protocol",
    );
    assert_answered(
        format!("HTTP/1.1 200 OK\r\n{many}\r\n").as_bytes(),
        502,
        "upstream_protocol",
    );
    let endless = vec![b'x'; 1 << 20];
    assert_answered(
        &[b"HTTP/1.1 200 OK\r\nx: ".to_vec(), endless].concat(),
        502,
        "upstream_protocol",
    );
}

#[test]
fn a_flood_of_interim_responses_is_upstream_protocol() {
    let flood = "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n".repeat(10_000);
    let backend = RawBackend::answering(flood).unwrap();
    let site = Site::new(&[backend.address()]);
    let answer = site.exchange(post(1));
    assert_eq!(statuses(&answer).last(), Some(&502), "{}", answer.len());
    assert!(answer.contains("x-ingress-agent-reason: upstream_protocol"));
    assert!(statuses(&answer).len() < 30, "what passes before is bounded");
    site.assert_well();
}

#[test]
fn a_backend_that_closes_before_its_head_is_whole_is_upstream_reset() {
    for start in [
        "",
        "HTTP",
        "HTTP/1.1 200 OK\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n",
    ] {
        for end in [Step::Close, Step::Reset, Step::HalfClose] {
            let script = vec![
                Step::Expect(b"hello".to_vec()),
                Step::Send(start.into()),
                end.clone(),
            ];
            let backend = RawBackend::scripted(script).unwrap();
            let site = Site::new(&[backend.address()]);
            let answer = site.exchange(post(1));
            assert_refused(&answer, 502, "upstream_reset", &format!("{start:?} {end:?}"));
            assert_eq!(backend.connections(), 1, "a POST that was seen is not repeated");
            site.assert_well();
        }
    }
}

#[test]
fn a_body_that_breaks_off_is_never_passed_on_as_a_whole_one() {
    let cases: [(&str, &str); 8] = [
        ("content-length: 10\r\n\r\n", "hello"),
        ("content-length: 10\r\n\r\n", ""),
        ("transfer-encoding: chunked\r\n\r\n", "5\r\nhello\r\n"),
        ("transfer-encoding: chunked\r\n\r\n", "5\r\nhel"),
        ("transfer-encoding: chunked\r\n\r\n", "5\r\nhello\r\n0\r\n"),
        ("transfer-encoding: chunked\r\n\r\n", "5\r\nhello\r\nnonsense\r\n"),
        ("transfer-encoding: chunked\r\n\r\n", "5\r\nhello\n0\r\n\r\n"),
        (
            "transfer-encoding: chunked\r\n\r\n",
            "5\r\nhello-and-more\r\n0\r\n\r\n",
        ),
    ];
    for (fields, body) in cases {
        let backend = RawBackend::scripted(vec![
            Step::Expect(b"\r\n\r\n".to_vec()),
            Step::Send(format!("HTTP/1.1 200 OK\r\n{fields}").into()),
            Step::Wait(Duration::from_millis(20)),
            Step::Send(body.into()),
            Step::HalfClose,
        ])
        .unwrap();
        let site = Site::new(&[backend.address()]);
        // Our side stays open: the end has to come from the agent.
        let mut client = site.client();
        client.send(ask("/")).unwrap();
        let answer = String::from_utf8_lossy(&client.read_to_end().unwrap_or_default()).into_owned();
        assert!(!answer.contains("\r\n0\r\n\r\n"), "{body:?}: {answer:?}");
        let (head, got) = answer.split_once("\r\n\r\n").unwrap_or(("", ""));
        let whole = head.contains("content-length: 10") && got.len() >= 10;
        assert!(!whole, "{body:?}: {answer:?}");
        drop(client);
        site.assert_well();
    }
}

#[test]
fn bytes_after_a_response_spoil_the_connection_and_not_the_next_request() {
    let poison = b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\npoison".to_vec();
    let gates = [(); 3].map(|()| Gate::new());
    let scripts = gates.iter().map(|gate| {
        vec![
            Step::Expect(b"\r\n\r\n".to_vec()),
            Step::Send(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok".to_vec()),
            // The client has its answer by then.
            Step::Until(gate.clone()),
            Step::Send(poison.clone()),
        ]
    });
    let backend = RawBackend::scripted_in_turn(scripts.collect()).unwrap();
    let site = Site::with(&[backend.address()], &[], &["--workers", "1"]);
    for (round, gate) in gates.iter().enumerate() {
        let answer = site.exchange(ask("/"));
        assert!(answer.ends_with("\r\n\r\nok"), "{answer:?}");
        gate.open();
        wait("the agent has seen the poison, and closed", || {
            backend.ended() > round
        });
    }
    assert_eq!(
        backend.connections(),
        3,
        "a connection that spoke unasked is not used again"
    );
    site.assert_well();
}

#[test]
fn a_kept_connection_that_the_backend_closed_costs_no_request() {
    let backend = RawBackend::scripted(vec![
        Step::Expect(b"\r\n\r\n".to_vec()),
        Step::Send(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok".to_vec()),
        Step::Close,
    ])
    .unwrap();
    let site = Site::with(&[backend.address()], &[], &["--workers", "1"]);
    for round in 0..4 {
        let answer = site.exchange(ask("/"));
        assert!(answer.ends_with("\r\n\r\nok"), "{answer:?}");
        wait("the backend has closed", || backend.ended() > round);
    }
}

#[test]
fn an_early_answer_is_passed_on_while_the_body_is_still_on_its_way() {
    let backend = RawBackend::scripted(vec![
        Step::Expect(b"\r\n\r\n".to_vec()),
        Step::Send(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\n\r\nno".to_vec()),
    ])
    .unwrap();
    let site = Site::with(&[backend.address()], &[("proxy-body-size", "100m")], &[]);
    let mut client = site.client();
    client
        .send(format!(
            "POST / HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 50000000\r\n\r\nstart"
        ))
        .unwrap();
    let answer = String::from_utf8_lossy(&client.read_until("\r\n\r\nno").unwrap()).into_owned();
    assert_eq!(statuses(&answer), [403]);
    assert!(
        !answer.contains("x-ingress-agent-reason"),
        "the answer is the backend's: {answer:?}"
    );
    drop(client);
    // Half a request is on that connection: it cannot carry another one.
    let answer = site.exchange(ask("/"));
    assert_eq!(statuses(&answer), [403]);
    assert_eq!(backend.connections(), 2);
    site.assert_well();
}

#[test]
fn an_answer_that_streams_while_the_body_does_goes_both_ways() {
    let backend = RawBackend::scripted(vec![
        Step::Expect(b"one".to_vec()),
        Step::Send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nONE\r\n".to_vec()),
        Step::Expect(b"two".to_vec()),
        Step::Send(b"3\r\nTWO\r\n".to_vec()),
        Step::Expect(b"\r\n0\r\n\r\n".to_vec()),
        Step::Send(b"0\r\n\r\n".to_vec()),
    ])
    .unwrap();
    let site = Site::new(&[backend.address()]);
    let mut client = site.client();
    client
        .send(format!(
            "POST / HTTP/1.1\r\nHost: {HOST}\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n"
        ))
        .unwrap();
    client.read_until("ONE\r\n").unwrap();
    client.send("3\r\ntwo\r\n").unwrap();
    client.read_until("TWO\r\n").unwrap();
    client.send("0\r\n\r\n").unwrap();
    client.read_until("0\r\n\r\n").unwrap();
}

#[test]
fn http_1_0_and_close_delimited_responses_are_whole_at_their_end() {
    for response in [
        "HTTP/1.0 200 OK\r\n\r\nuntil the end",
        "HTTP/1.1 200 OK\r\n\r\nuntil the end",
        "HTTP/1.0 200 OK\r\ncontent-length: 13\r\n\r\nuntil the end",
        "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 13\r\n\r\nuntil the end",
    ] {
        let backend = RawBackend::scripted(vec![
            Step::Expect(b"\r\n\r\n".to_vec()),
            Step::Send(response.into()),
            Step::Close,
        ])
        .unwrap();
        let site = Site::new(&[backend.address()]);
        for _ in 0..2 {
            let answer = site.exchange(ask("/"));
            assert_eq!(statuses(&answer), [200], "{answer:?}");
            assert!(answer.contains("until the end"), "{answer:?}");
        }
        assert_eq!(backend.connections(), 2);
    }
}

#[test]
fn responses_without_a_body_have_none_whatever_they_announce() {
    let cases = [
        (
            "HEAD",
            "HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n",
            Some("content-length: 1000"),
        ),
        (
            "HEAD",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
            None,
        ),
        ("HEAD", "HTTP/1.1 200 OK\r\n\r\n", None),
        ("GET", "HTTP/1.1 204 No Content\r\n\r\n", None),
        (
            "GET",
            "HTTP/1.1 304 Not Modified\r\ncontent-length: 1000\r\netag: \"a\"\r\n\r\n",
            Some("etag: \"a\""),
        ),
        (
            "GET",
            "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
            Some("content-length: 0"),
        ),
    ];
    for (method, response, field) in cases {
        let backend = RawBackend::answering(response).unwrap();
        let site = Site::new(&[backend.address()]);
        let answer = site.exchange(format!("{method} / HTTP/1.1\r\nHost: {HOST}\r\n\r\n"));
        assert_eq!(statuses(&answer).len(), 1, "{response:?}: {answer:?}");
        assert!(answer.ends_with("\r\n\r\n"), "{response:?}: {answer:?}");
        if let Some(field) = field {
            assert!(
                answer.contains(&format!("{field}\r\n")),
                "{response:?}: {answer:?}"
            );
        } else {
            assert!(
                !answer.contains("content-length"),
                "nothing that the backend did not say: {answer:?}"
            );
        }
    }
}

#[test]
fn a_body_after_a_bodiless_response_never_answers_the_next_request() {
    for (method, response) in [
        ("HEAD", "HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\npoison"),
        (
            "GET",
            "HTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\npoison",
        ),
        (
            "GET",
            "HTTP/1.1 304 Not Modified\r\ncontent-length: 6\r\n\r\npoison",
        ),
    ] {
        let backend = RawBackend::answering(response).unwrap();
        let site = Site::new(&[backend.address()]);
        for round in 1..=2 {
            let answer = site.exchange(format!("{method} / HTTP/1.1\r\nHost: {HOST}\r\n\r\n"));
            assert!(!answer.contains("poison"), "{response:?}: {answer:?}");
            assert_eq!(statuses(&answer).len(), 1);
            assert!(backend.connections() >= round, "{response:?}");
        }
    }
}

#[test]
fn repeated_fields_of_a_response_stay_what_they_are() {
    let backend = RawBackend::answering(
        "HTTP/1.1 200 OK\r\nset-cookie: a=1; Path=/\r\nset-cookie: b=2\r\nx-dup: 1\r\nx-dup: 2\r\nserver: mine\r\n\
         connection: x-gone\r\nx-gone: 1\r\nkeep-alive: timeout=5\r\ncontent-length: 2\r\n\r\nok",
    )
    .unwrap();
    let site = Site::new(&[backend.address()]);
    let answer = site.exchange(ask("/"));
    for field in [
        "set-cookie: a=1; Path=/",
        "set-cookie: b=2",
        "x-dup: 1",
        "x-dup: 2",
        "server: mine",
    ] {
        assert!(answer.contains(&format!("{field}\r\n")), "{field}: {answer:?}");
    }
    for gone in ["x-gone", "keep-alive"] {
        assert!(!answer.contains(gone), "{gone}: {answer:?}");
    }
}

#[test]
fn trailers_of_a_response_pass_to_a_client_that_takes_them() {
    let backend = RawBackend::answering(
        "HTTP/1.1 200 OK\r\nconnection: close\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n2\r\nok\r\n0\r\nx-sum: 7\r\ncontent-length: 9\r\n\r\n",
    )
    .unwrap();
    let site = Site::new(&[backend.address()]);
    let answer = site.exchange(format!(
        "GET / HTTP/1.1\r\nHost: {HOST}\r\nTE: trailers\r\nConnection: TE\r\n\r\n"
    ));
    assert!(answer.ends_with("\r\n0\r\nx-sum: 7\r\n\r\n"), "{answer:?}");
    let h2 = ingress_tests::Request::get(&format!("http://{HOST}/"))
        .unwrap()
        .h2();
    let answer = site.agent.ask(h2).unwrap();
    assert_eq!(answer.trailers["x-sum"], "7");
}

#[test]
fn early_hints_reach_the_client_before_the_answer() {
    let backend = RawBackend::scripted(vec![
        Step::Expect(b"\r\n\r\n".to_vec()),
        Step::Send(b"HTTP/1.1 103 Early Hints\r\nlink: </style.css>; rel=preload\r\n\r\n".to_vec()),
        Step::Expect(b"go on".to_vec()),
        Step::Send(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok".to_vec()),
    ])
    .unwrap();
    let site = Site::new(&[backend.address()]);
    let mut client = site.client();
    client
        .send(format!(
            "POST / HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 5\r\n\r\n"
        ))
        .unwrap();
    let hints = client.read_until("\r\n\r\n").unwrap();
    let hints = String::from_utf8_lossy(&hints).into_owned();
    assert_eq!(statuses(&hints), [103]);
    assert!(hints.contains("link: </style.css>; rel=preload\r\n"), "{hints:?}");
    client.send("go on").unwrap();
    client.read_until("\r\n\r\nok").unwrap();
    // HTTP/1.0 knows no interim responses (RFC 9110, 15.2).
    let mut old = site.client();
    old.send(format!(
        "POST / HTTP/1.0\r\nHost: {HOST}\r\nContent-Length: 5\r\n\r\ngo on"
    ))
    .unwrap();
    let answer = String::from_utf8_lossy(&old.read_to_end().unwrap()).into_owned();
    assert_eq!(statuses(&answer), [200], "{answer:?}");
}

#[test]
fn expect_100_continue_is_the_backends_to_answer() {
    let backend = RawBackend::scripted(vec![
        Step::Expect(b"\r\n\r\n".to_vec()),
        Step::Send(b"HTTP/1.1 100 Continue\r\n\r\n".to_vec()),
        Step::Expect(b"hello".to_vec()),
        Step::Send(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok".to_vec()),
    ])
    .unwrap();
    let site = Site::new(&[backend.address()]);
    let head =
        format!("POST / HTTP/1.1\r\nHost: {HOST}\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n");
    let mut client = site.client();
    client.send(&head).unwrap();
    let interim = client.read_until("\r\n\r\n").unwrap();
    assert_eq!(statuses(&String::from_utf8_lossy(&interim)), [100]);
    assert!(!String::from_utf8_lossy(&backend.received()[0]).contains("hello"));
    client.send("hello").unwrap();
    let answer = String::from_utf8_lossy(&client.read_until("\r\n\r\nok").unwrap()).into_owned();
    assert_eq!(statuses(&answer), [200], "one 100 and no second: {answer:?}");
    assert!(String::from_utf8_lossy(&backend.received()[0]).contains("Expect: 100-continue\r\n"));

    let refusing =
        RawBackend::answering("HTTP/1.1 417 Expectation Failed\r\ncontent-length: 2\r\n\r\nno").unwrap();
    let site = Site::new(&[refusing.address()]);
    let mut client = site.client();
    client.send(&head).unwrap();
    let answer = String::from_utf8_lossy(&client.read_until("\r\n\r\nno").unwrap()).into_owned();
    assert_eq!(
        statuses(&answer),
        [417],
        "no 100 for a body that nobody wants: {answer:?}"
    );
    assert!(
        client.is_closed_within(DEADLINE),
        "the body that did not come leaves no way on"
    );
}

#[test]
fn a_chunked_response_reaches_a_client_of_http_1_0_until_the_end() {
    let backend = RawBackend::answering(
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n3\r\nay!\r\n0\r\n\r\n",
    )
    .unwrap();
    let site = Site::new(&[backend.address()]);
    let answer = site.exchange(format!("GET / HTTP/1.0\r\nHost: {HOST}\r\n\r\n"));
    assert!(answer.ends_with("\r\n\r\nokay!"), "{answer:?}");
    assert!(
        !answer.to_ascii_lowercase().contains("transfer-encoding"),
        "{answer:?}"
    );
}

#[test]
fn a_body_that_breaks_off_does_not_look_whole_to_a_client_that_reads_to_the_connections_end() {
    let backend = RawBackend::scripted(vec![
        Step::Expect(b"\r\n\r\n".to_vec()),
        Step::Send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n".to_vec()),
        Step::Close,
    ])
    .unwrap();
    let site = Site::new(&[backend.address()]);
    let request = format!("GET / HTTP/1.0\r\nHost: {HOST}\r\n\r\n");
    let mut client = site.client();
    client.send(&request).unwrap();
    let reset = client.read_to_end().unwrap_err();
    assert_eq!(reset.kind(), std::io::ErrorKind::ConnectionReset, "{reset}");

    let tcp = std::net::TcpStream::connect(site.agent.https).unwrap();
    tcp.set_read_timeout(Some(DEADLINE)).unwrap();
    let mut client = crate::tls_client::over(tcp, &site.authority, HOST);
    client.write_all(request.as_bytes()).unwrap();
    // An end without close_notify would be an error too, an orderly one would not.
    assert!(client.read_to_end(&mut Vec::new()).is_err());
    site.assert_well();
}

#[test]
fn an_interim_response_announces_no_body() {
    let backend = RawBackend::answering(
        "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nContent-Length: 5\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
    )
    .unwrap();
    let site = Site::new(&[backend.address()]);
    let answer = site.exchange(ask("/"));
    assert_eq!(statuses(&answer), [103, 204], "{answer:?}");
    assert!(
        answer.contains("Link: </a>") && !answer.to_ascii_lowercase().contains("content-length"),
        "{answer:?}"
    );
}

#[test]
fn an_h2c_backend_that_speaks_something_else_is_a_bad_gateway() {
    let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    let cases: [(&str, Vec<u8>); 7] = [
        (
            "HTTP/1.1",
            b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok".to_vec(),
        ),
        ("nothing but an end", Vec::new()),
        ("garbage", vec![0xff; 64]),
        (
            "a reset of our stream",
            [&settings[..], &[0, 0, 4, 3, 0, 0, 0, 0, 1, 0, 0, 0, 2]].concat(),
        ),
        (
            "GOAWAY",
            [
                &settings[..],
                &[0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1],
            ]
            .concat(),
        ),
        // :status 200 with `connection: close`, and `:status` twice.
        (
            "connection fields",
            [
                &settings[..],
                &[0, 0, 19, 1, 5, 0, 0, 0, 1, 0x88, 0, 10],
                b"connection",
                &[5],
                b"close",
            ]
            .concat(),
        ),
        (
            "two statuses",
            [&settings[..], &[0, 0, 2, 1, 5, 0, 0, 0, 1, 0x88, 0x88]].concat(),
        ),
    ];
    for (case, response) in cases {
        let backend = RawBackend::scripted(vec![
            Step::Expect(b"SM\r\n\r\n".to_vec()),
            Step::Wait(Duration::from_millis(50)),
            Step::Send(response),
            Step::Wait(Duration::from_millis(50)),
            Step::Close,
        ])
        .unwrap();
        let site = Site::with(&[backend.address()], &[("backend-protocol", "h2c")], &[]);
        let answer = site.exchange(post(1));
        assert_eq!(statuses(&answer), [502], "{case}: {answer:?}");
        let told = answer.contains("upstream_protocol") || answer.contains("upstream_reset");
        assert!(told, "{case}: {answer:?}");
        site.assert_well();
    }
}
