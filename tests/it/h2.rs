//! HTTP/2 in, frame by frame: what is served, what is malformed, what is abuse.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::thread;
use std::time::Duration;

use ingress_tests::raw::{RawBackend, Step};
use ingress_tests::{Echo, Request};

use crate::frames::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, H2Client, HEADERS, Outcome, PING, PREFACE, PRIORITY,
    PUSH_PROMISE, RST_STREAM, SETTINGS, WINDOW_UPDATE, block, get, request, string,
};
use crate::site::{HOST, Site};
use crate::strict::StrictBackend;

/// Kind, flags, stream and payload of a frame.
type Sent = (u8, u8, u32, Vec<u8>);

const PROTOCOL_ERROR: u32 = 0x1;
const FRAME_SIZE_ERROR: u32 = 0x6;
const ENHANCE_YOUR_CALM: u32 = 0xb;

fn site() -> (StrictBackend, Site) {
    let backend = StrictBackend::start();
    let site = Site::new(&[backend.address()]);
    (backend, site)
}

#[test]
fn h2_is_served_by_alpn_and_by_prior_knowledge_and_reaches_http_1_backends() {
    let echo = Echo::start("web").unwrap();
    let site = Site::new(&[echo.address()]);
    for scheme in ["https", "http"] {
        let ask = Request::get(&format!("{scheme}://{HOST}/a?b=c")).unwrap().h2();
        let answer = site.agent.ask(ask.trusting(&site.authority)).unwrap();
        assert_eq!((answer.status, answer.backend()), (200, "web"), "{scheme}");
        assert_eq!(answer.version, http::Version::HTTP_2);
        let seen = answer.seen();
        assert_eq!(seen["protocol"], "HTTP/1.1");
        assert_eq!(
            (seen["path"].as_str(), seen["query"].as_str()),
            (Some("/a"), Some("b=c"))
        );
        assert_eq!(seen["host"], HOST);
    }
    site.assert_well();
}

#[test]
fn a_client_of_http_1_reaches_a_backend_of_h2c() {
    let echo = Echo::start("web").unwrap();
    let site = Site::with(&[echo.address()], &[("backend-protocol", "h2c")], &[]);
    for h2 in [false, true] {
        let ask = Request::get(&format!("http://{HOST}/a")).unwrap().body("hello");
        let ask = if h2 { ask.h2() } else { ask };
        let answer = site.agent.ask(ask.method(http::Method::POST)).unwrap();
        assert_eq!(answer.seen()["protocol"], "HTTP/2.0");
        assert_eq!(answer.seen()["bodyLength"], 5);
    }
    assert!(echo.connections() <= 2, "h2 connections to a backend are shared");
}

#[test]
fn an_authority_and_a_host_that_differ_are_a_bad_request() {
    let (backend, site) = site();
    let mut client = H2Client::open(site.agent.http);
    let bad: &[&[(&str, &str)]] = &[
        &[("host", "evil.test")],
        &[("host", "site.test:81")],
        &[("host", HOST), ("host", "evil.test")],
        &[("host", HOST), ("host", HOST)],
        &[("host", "")],
    ];
    for (index, more) in bad.iter().enumerate() {
        let stream = u32::try_from(index).unwrap() * 2 + 1;
        client.ask(stream, get("/", more)).unwrap();
        let outcome = client.outcome(stream);
        let refused = matches!(
            outcome,
            Some(Outcome::Status(400) | Outcome::Reset(PROTOCOL_ERROR))
        );
        // A status that came before is in the dynamic table: only its being an answer shows.
        assert!(refused, "{more:?}: {outcome:?}");
        client = H2Client::open(site.agent.http);
    }
    drop(client);
    assert_eq!(backend.requests(), []);
    let ask = Request::get(&format!("http://{HOST}/")).unwrap().h2();
    let answer = site.agent.ask(ask.header("host", "evil.test").unwrap()).unwrap();
    assert_eq!((answer.status, answer.reason()), (400, "bad_request"));
    site.assert_well();
}

#[test]
fn host_stands_in_for_an_authority_that_is_missing_but_only_one_does() {
    let (backend, site) = site();
    let ask = |fields: &[(&str, &str)]| {
        let mut client = H2Client::open(site.agent.http);
        let mut all = vec![(":method", "GET"), (":scheme", "http"), (":path", "/")];
        all.extend(fields);
        client.ask(1, block(&all)).unwrap();
        client.outcome(1)
    };
    assert_eq!(ask(&[("host", HOST)]), Some(Outcome::Status(200)));
    let two = ask(&[("host", HOST), ("host", "evil.test")]);
    assert!(
        matches!(two, Some(Outcome::Status(400) | Outcome::Reset(_))),
        "{two:?}"
    );
    let none = ask(&[]);
    assert!(
        matches!(none, Some(Outcome::Status(400) | Outcome::Reset(_))),
        "{none:?}"
    );
    assert_eq!(backend.requests().len(), 1);
}

#[test]
fn malformed_h2_requests_never_reach_the_backend() {
    let (backend, site) = site();
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("connection", get("/", &[("connection", "close")])),
        ("keep-alive", get("/", &[("keep-alive", "timeout=5")])),
        ("proxy-connection", get("/", &[("proxy-connection", "close")])),
        ("upgrade", get("/", &[("upgrade", "websocket")])),
        ("transfer-encoding", get("/", &[("transfer-encoding", "chunked")])),
        ("te", get("/", &[("te", "gzip")])),
        ("upper case", get("/", &[("X-Upper", "1")])),
        ("LF in a value", get("/", &[("x", "a\nb: c")])),
        (
            "CR LF in a value",
            get("/", &[("x", "a\r\n\r\nGET /prize HTTP/1.1\r\n")]),
        ),
        ("NUL in a value", get("/", &[("x", "a\0b")])),
        ("CR LF in a name", get("/", &[("x: y\r\nz", "b")])),
        ("colon in a name", get("/", &[("x:y", "b")])),
        ("space in a name", get("/", &[("x y", "b")])),
        ("empty name", get("/", &[("", "b")])),
        (
            "CR LF in the path",
            get("/ HTTP/1.1\r\nHost: evil.test\r\n\r\nGET /prize", &[]),
        ),
        ("space in the path", get("/a b", &[])),
        ("NUL in the path", get("/a\0b", &[])),
        ("control in the path", get("/a\u{1}b", &[])),
        ("quote in the query", get("/a?b=\"c\"", &[])),
        ("angle in the query", get("/a?b=<c>", &[])),
        ("beyond ASCII in the query", get("/a?b=caf\u{e9}", &[])),
        ("path without a slash", get("a", &[])),
        ("query without a path", get("?a=b", &[])),
        ("backslash in the path", get("/a\\b", &[])),
        ("absolute path", get("http://evil.test/", &[])),
        ("fragment in the path", get("/a#b", &[])),
        ("fragment in the query", get("/a?b#c", &[])),
        ("empty path", get("", &[])),
        ("CR LF in the method", request("GET / HTTP/1.1\r\nX: y", "/", &[])),
        ("space in the method", request("GET /prize", "/", &[])),
        ("lower-case method", request("get", "/", &[])),
        ("empty method", request("", "/", &[])),
        ("TRACE", request("TRACE", "/", &[])),
        ("CONNECT", request("CONNECT", "/", &[])),
        (
            "CONNECT to a websocket",
            request("CONNECT", "/", &[(":protocol", "websocket")]),
        ),
        (
            "two lengths",
            get("/", &[("content-length", "0"), ("content-length", "5")]),
        ),
        (
            "length of a bodiless request",
            get("/", &[("content-length", "5")]),
        ),
        ("signed length", get("/", &[("content-length", "+0")])),
        ("twice :path", get("/", &[(":path", "/b")])),
        (
            "pseudo-header after fields",
            get("/", &[("x", "y"), (":path", "/b")]),
        ),
        ("unknown pseudo-header", get("/", &[(":x", "y")])),
        (
            "user in the authority",
            block(&[
                (":method", "GET"),
                (":scheme", "http"),
                (":path", "/"),
                (":authority", "a@site.test"),
            ]),
        ),
        (
            "CR LF in the authority",
            block(&[
                (":method", "GET"),
                (":scheme", "http"),
                (":path", "/"),
                (":authority", "site.test\r\nX: y"),
            ]),
        ),
        (
            "list as authority",
            block(&[
                (":method", "GET"),
                (":scheme", "http"),
                (":path", "/"),
                (":authority", "site.test,evil.test"),
            ]),
        ),
        (
            "path in the authority",
            block(&[
                (":method", "GET"),
                (":scheme", "http"),
                (":path", "/"),
                (":authority", "site.test/a"),
            ]),
        ),
        (
            "no scheme",
            block(&[(":method", "GET"), (":path", "/"), (":authority", HOST)]),
        ),
        ("asterisk", get("*", &[])),
    ];
    for (case, block) in cases {
        let mut client = H2Client::open(site.agent.http);
        client.ask(1, block).unwrap();
        let outcome = client.outcome(1);
        let refused = matches!(
            outcome,
            Some(Outcome::Status(400 | 501) | Outcome::Reset(_) | Outcome::GoneAway(_))
        );
        assert!(refused, "{case}: {outcome:?}");
        assert_eq!(backend.requests(), [], "{case}");
    }
    assert_eq!(backend.broken(), [""; 0]);
    site.assert_well();
}

#[test]
fn an_h2_body_that_is_not_as_long_as_it_says_never_becomes_a_whole_request() {
    let (backend, site) = site();
    let cases: [(&str, &[&str]); 4] = [
        ("5", &["123"]),
        ("3", &["12345"]),
        ("3", &["123", "45"]),
        ("0", &["1"]),
    ];
    for (length, data) in cases {
        let mut client = H2Client::open(site.agent.http);
        let head = request("POST", "/", &[("content-length", length)]);
        client.send(HEADERS, END_HEADERS, 1, head).unwrap();
        for (index, frame) in data.iter().enumerate() {
            // Time enough for whoever takes the length for the end.
            thread::sleep(Duration::from_millis(30));
            let flags = if index + 1 == data.len() { END_STREAM } else { 0 };
            client.send(DATA, flags, 1, *frame).unwrap();
        }
        let outcome = client.outcome(1);
        let refused = matches!(outcome, Some(Outcome::Status(400) | Outcome::Reset(_)));
        assert!(refused, "{length} for {data:?}: {outcome:?}");
    }
    // The same connections go on: what is left of the broken ones must not be taken for part of this one.
    let answer = site.agent.get(&format!("http://{HOST}/after")).unwrap();
    assert_eq!(answer.status, 200);
    let paths: Vec<_> = backend.requests().iter().map(|r| r.path().to_owned()).collect();
    assert_eq!(paths, ["/after"]);
    assert_eq!(backend.broken(), [""; 0]);
}

#[test]
fn h2_trailers_cannot_say_what_only_a_head_may_say() {
    let (backend, site) = site();
    for (name, value) in [
        ("content-length", "5"),
        ("host", "evil.test"),
        ("x-forwarded-for", "203.0.113.9"),
        ("x_forwarded_for", "203.0.113.9"),
        ("x-forwarded-scheme", "https"),
        ("authorization", "Basic eA=="),
        ("cookie", "a=b"),
        ("transfer-encoding", "chunked"),
        ("transfer_encoding", "chunked"),
    ] {
        let mut client = H2Client::open(site.agent.http);
        client
            .send(HEADERS, END_HEADERS, 1, request("POST", "/", &[]))
            .unwrap();
        client.send(DATA, 0, 1, "hello").unwrap();
        client
            .send(HEADERS, END_STREAM | END_HEADERS, 1, block(&[(name, value)]))
            .unwrap();
        let outcome = client.outcome(1);
        let refused = matches!(outcome, Some(Outcome::Status(400) | Outcome::Reset(_)));
        assert!(refused, "{name}: {outcome:?}");
        assert_eq!(backend.requests(), [], "{name}");
    }
    let mut client = H2Client::open(site.agent.http);
    client
        .send(HEADERS, END_HEADERS, 1, request("POST", "/", &[]))
        .unwrap();
    client.send(DATA, 0, 1, "hello").unwrap();
    client
        .send(HEADERS, END_STREAM | END_HEADERS, 1, block(&[("x-sum", "1")]))
        .unwrap();
    assert_eq!(client.outcome(1), Some(Outcome::Status(200)));
}

#[test]
fn cookies_that_h2_splits_reach_an_http_1_backend_as_one() {
    let (backend, site) = site();
    let mut client = H2Client::open(site.agent.http);
    client
        .ask(1, get("/", &[("cookie", "a=b"), ("cookie", "c=d")]))
        .unwrap();
    assert_eq!(client.outcome(1), Some(Outcome::Status(200)));
    assert_eq!(backend.requests()[0].fields("cookie"), ["a=b; c=d"]);
}

#[test]
fn oversize_h2_heads_are_told_which_bound_they_met() {
    let (backend, site) = site();
    let url = |path: &str| format!("http://{HOST}{path}");
    let long_path = format!("/{}", "a".repeat(10_000));
    let ask = Request::get(&url(&long_path)).unwrap().h2();
    let answer = site.agent.ask(ask).unwrap();
    assert_eq!((answer.status, answer.reason()), (414, "uri_too_long"));
    let mut ask = Request::get(&url("/")).unwrap().h2();
    for index in 0..101 {
        ask = ask.header(&format!("x-{index}"), "y").unwrap();
    }
    let answer = site.agent.ask(ask).unwrap();
    assert_eq!((answer.status, answer.reason()), (431, "headers_too_large"));
    let ask = Request::get(&url("/"))
        .unwrap()
        .h2()
        .header("x", &"y".repeat(31 * 1024))
        .unwrap();
    let answer = site.agent.ask(ask.header("z", &"w".repeat(2 * 1024)).unwrap());
    if let Ok(answer) = answer {
        assert_eq!((answer.status, answer.reason()), (431, "headers_too_large"));
    }
    assert_eq!(backend.requests(), []);
    site.assert_well();
}

#[test]
fn an_hpack_bomb_unpacks_into_nothing() {
    let (backend, site) = site();
    let mut client = H2Client::open(site.agent.http);
    // One field of 4 KB into the dynamic table, then thousands of one-byte references to it.
    let mut bomb = get("/", &[]);
    bomb.push(0x40);
    string(&mut bomb, b"x");
    string(&mut bomb, &[b'y'; 3900]);
    bomb.extend([0xbe; 8_000]);
    client.ask(1, bomb).unwrap();
    assert_eq!(client.outcome(1), Some(Outcome::Status(431)));
    // The table is what both sides think it is: the connection goes on.
    client.ask(3, vec![0x82, 0x86, 0x84, 0x41, 0]).unwrap();
    assert!(matches!(
        client.outcome(3),
        Some(Outcome::Status(400) | Outcome::Reset(_))
    ));
    client.ask(5, get("/", &[])).unwrap();
    assert_eq!(client.outcome(5), Some(Outcome::Status(200)));
    assert_eq!(backend.requests().len(), 1);
    drop(client);
    site.assert_well();
}

/// Sends until the agent ends the connection; how it ended.
fn flood(site: &Site, mut step: impl FnMut(&mut H2Client, u32) -> std::io::Result<()>) -> Option<u32> {
    let mut client = H2Client::open(site.agent.http);
    for round in 0..20_000 {
        if step(&mut client, round).is_err() {
            break;
        }
    }
    client.end()
}

#[test]
fn floods_of_frames_that_serve_nobody_end_the_connection_and_nothing_else() {
    let (_backend, site) = site();
    let settings_flood = flood(&site, |c, _| c.send(SETTINGS, 0, 0, []));
    let ping_flood = flood(&site, |c, _| c.send(PING, 0, 0, [0; 8]));
    let ack_flood = flood(&site, |c, _| c.send(PING, 1, 0, [0; 8]));
    let settings_ack_flood = flood(&site, |c, _| c.send(SETTINGS, 1, 0, []));
    let priority_flood = flood(&site, |c, _| c.send(PRIORITY, 0, 3, [0, 0, 0, 0, 1]));
    let window_flood = flood(&site, |c, _| c.send(WINDOW_UPDATE, 0, 0, 1u32.to_be_bytes()));
    let unknown_flood = flood(&site, |c, _| c.send(0xee, 0, 0, [0; 1024]));
    let empty_data_flood = flood(&site, |c, round| match round {
        0 => c.send(HEADERS, END_HEADERS, 1, request("POST", "/", &[])),
        _ => c.send(DATA, 0, 1, []),
    });
    let padded_data_flood = flood(&site, |c, round| match round {
        0 => c.send(HEADERS, END_HEADERS, 1, request("POST", "/", &[])),
        _ => c.send(DATA, 0x8, 1, [0]),
    });
    for (name, end) in [
        ("SETTINGS", settings_flood),
        ("PING", ping_flood),
        ("PING acknowledgements", ack_flood),
        ("SETTINGS acknowledgements", settings_ack_flood),
        ("PRIORITY", priority_flood),
        ("WINDOW_UPDATE", window_flood),
        ("unknown frames", unknown_flood),
        ("empty DATA", empty_data_flood),
        ("DATA of padding alone", padded_data_flood),
    ] {
        // A reset may take the GOAWAY out of our hands; that the connection ended is in `end` having returned.
        assert!(
            matches!(end, None | Some(ENHANCE_YOUR_CALM | PROTOCOL_ERROR)),
            "{name}: {end:?}"
        );
    }
    site.assert_well();
}

#[test]
fn rapid_resets_end_the_connection_before_they_cost_the_backend_much() {
    let (backend, site) = site();
    let end = flood(&site, |c, round| {
        let stream = round * 2 + 1;
        c.ask(stream, get("/", &[]))?;
        c.send(RST_STREAM, 0, stream, 8u32.to_be_bytes())
    });
    assert!(matches!(end, None | Some(ENHANCE_YOUR_CALM)), "{end:?}");
    let seen = backend.requests().len() + backend.cut();
    assert!(seen < 1_000, "{seen} requests reached the backend");
    site.assert_well();
}

#[test]
fn made_you_reset_ends_the_connection_like_a_rapid_reset() {
    let (backend, site) = site();
    let provocations: [fn(&mut H2Client, u32) -> std::io::Result<()>; 3] = [
        |c, stream| c.send(WINDOW_UPDATE, 0, stream, 0u32.to_be_bytes()),
        |c, stream| c.send(WINDOW_UPDATE, 0, stream, 0x7fff_ffffu32.to_be_bytes()),
        |c, stream| c.send(DATA, END_STREAM, stream, "after the end"),
    ];
    for provoke in provocations {
        let end = flood(&site, |c, round| {
            let stream = round * 2 + 1;
            c.ask(stream, get("/?slow", &[]))?;
            provoke(c, stream)
        });
        assert!(
            matches!(end, None | Some(ENHANCE_YOUR_CALM | PROTOCOL_ERROR | 0x5)),
            "{end:?}"
        );
    }
    let seen = backend.requests().len() + backend.cut();
    assert!(seen < 3_000, "{seen} requests reached the backend");
    site.assert_well();
}

#[test]
fn a_continuation_flood_ends_the_connection() {
    let (backend, site) = site();
    for fragment in [Vec::new(), vec![0x82], vec![0; 1024]] {
        let end = flood(&site, |c, round| match round {
            0 => c.send(HEADERS, END_STREAM, 1, get("/", &[])),
            _ => c.send(CONTINUATION, 0, 1, fragment.clone()),
        });
        assert!(
            matches!(end, None | Some(ENHANCE_YOUR_CALM | PROTOCOL_ERROR | 0x9)),
            "{end:?}"
        );
    }
    assert_eq!(backend.requests(), []);
    site.assert_well();
}

#[test]
fn frames_against_the_rules_end_the_connection() {
    let (backend, site) = site();
    let cases: Vec<(&str, Vec<Sent>)> = vec![
        ("DATA on stream 0", vec![(DATA, 0, 0, vec![1])]),
        ("DATA on an idle stream", vec![(DATA, 0, 7, vec![1])]),
        ("HEADERS on stream 0", vec![(HEADERS, 5, 0, get("/", &[]))]),
        ("HEADERS on an even stream", vec![(HEADERS, 5, 2, get("/", &[]))]),
        (
            "a stream that goes back",
            vec![(HEADERS, 5, 5, get("/", &[])), (HEADERS, 5, 3, get("/", &[]))],
        ),
        ("PUSH_PROMISE", vec![(PUSH_PROMISE, 4, 1, vec![0, 0, 0, 2])]),
        ("a short PING", vec![(PING, 0, 0, vec![0; 7])]),
        ("PING on a stream", vec![(PING, 0, 1, vec![0; 8])]),
        ("SETTINGS on a stream", vec![(SETTINGS, 0, 1, vec![])]),
        ("SETTINGS of five bytes", vec![(SETTINGS, 0, 0, vec![0; 5])]),
        ("a frame larger than allowed", vec![(DATA, 0, 1, vec![0; 16_385])]),
        (
            "a window that overflows",
            vec![(WINDOW_UPDATE, 0, 0, 0x7fff_ffffu32.to_be_bytes().to_vec())],
        ),
        ("a window of zero more", vec![(WINDOW_UPDATE, 0, 0, vec![0; 4])]),
        (
            "an initial window that overflows",
            vec![(SETTINGS, 0, 0, vec![0, 4, 0x80, 0, 0, 0])],
        ),
        ("CONTINUATION alone", vec![(CONTINUATION, 4, 1, get("/", &[]))]),
        (
            "an interrupted header block",
            vec![(HEADERS, 1, 1, get("/", &[])), (PING, 0, 0, vec![0; 8])],
        ),
        (
            "an HPACK index that is not there",
            vec![(HEADERS, 5, 1, vec![0xff, 0x7f])],
        ),
        ("padding longer than the frame", vec![(DATA, 0x8, 1, vec![9, 1])]),
    ];
    for (case, frames) in cases {
        let mut client = H2Client::open(site.agent.http);
        for (kind, flags, stream, payload) in frames {
            client.send(kind, flags, stream, payload).unwrap();
        }
        let end = client.end();
        assert!(!matches!(end, Some(0)), "{case}: {end:?}");
    }
    assert!(backend.requests().len() <= 1, "{:?}", backend.requests());
    site.assert_well();
}

#[test]
fn a_frame_that_is_too_large_is_called_by_its_name() {
    let (_backend, site) = site();
    let mut client = H2Client::open(site.agent.http);
    client.send(0xee, 0, 0, vec![0; 16_385]).unwrap();
    assert_eq!(client.end(), Some(FRAME_SIZE_ERROR));
}

#[test]
fn a_preface_that_goes_wrong_halfway_is_a_bad_request_or_the_end() {
    let (backend, site) = site();
    for cut in 1..PREFACE.len() {
        let mut bytes = PREFACE[..cut].to_vec();
        bytes.extend(b"X\r\n\r\n\0garbage");
        let answer = site.exchange(bytes);
        assert!(
            answer.is_empty() || answer.starts_with("HTTP/1.1 400 ") || answer.starts_with("HTTP/1.1 501 "),
            "cut at {cut}: {answer:?}"
        );
    }
    assert_eq!(backend.requests(), []);
    site.assert_well();
}

#[test]
fn an_h2_client_that_says_nothing_more_in_its_head_is_cut_off_in_time() {
    let backend = StrictBackend::start();
    let site = Site::with(&[backend.address()], &[], &["--head-timeout", "2s"]);
    let mut no_settings = H2Client::connect(site.agent.http);
    no_settings.send_bytes(PREFACE).unwrap();
    let mut half_block = H2Client::open(site.agent.http);
    // Where the machine stalls for longer than the bound, it is cut off all the more.
    let _ = half_block.send(HEADERS, END_STREAM, 1, get("/", &[]));
    no_settings.end();
    half_block.end();
    assert_eq!(backend.requests(), []);
    site.assert_well();
}

#[test]
fn an_h2_body_that_does_not_go_on_is_answered_408() {
    let backend = StrictBackend::start();
    let site = Site::with(&[backend.address()], &[], &["--body-timeout", "300ms"]);
    let mut client = H2Client::open(site.agent.http);
    client
        .send(HEADERS, END_HEADERS, 1, request("POST", "/", &[]))
        .unwrap();
    client.send(DATA, 0, 1, "some").unwrap();
    let outcome = client.outcome(1);
    assert_eq!(outcome, Some(Outcome::Status(408)));
    assert_eq!(backend.requests(), []);
    drop(client);
    site.assert_well();
}

#[test]
fn an_h2_client_that_never_opens_its_window_is_not_served_for_ever() {
    let backend = RawBackend::scripted(vec![
        Step::Expect(b"\r\n\r\n".to_vec()),
        Step::Send(
            [
                b"HTTP/1.1 200 OK\r\ncontent-length: 9000000\r\n\r\n".to_vec(),
                vec![b'x'; 9_000_000],
            ]
            .concat(),
        ),
    ])
    .unwrap();
    let site = Site::with(&[backend.address()], &[], &["--write-timeout", "500ms"]);
    let mut client = H2Client::open_with(site.agent.http, &[(4, 0)]);
    client.ask(1, get("/", &[])).unwrap();
    assert_eq!(client.outcome(1), Some(Outcome::Status(200)));
    // Alive otherwise: it answers pings. Only its stream makes no progress.
    let end = client.outcome(1);
    assert!(
        matches!(end, None | Some(Outcome::Reset(_) | Outcome::GoneAway(_))),
        "{end:?}"
    );
    drop(client);
    site.assert_well();
}

#[test]
fn more_streams_than_allowed_are_refused_one_by_one() {
    // It never answers: the streams that are taken stay open.
    let backend = RawBackend::scripted(Vec::new()).unwrap();
    let site = Site::with(&[backend.address()], &[], &["--h2-max-streams", "4"]);
    let mut client = H2Client::open(site.agent.http);
    // The bound holds once our acknowledgement of it is there.
    client.next_of(SETTINGS).unwrap();
    for index in 0..8 {
        client.ask(index * 2 + 1, get("/", &[])).unwrap();
    }
    let mut refused = 0;
    while refused < 4 {
        let frame = client.next_of(RST_STREAM).unwrap();
        assert_eq!(frame.error_code(), 0x7, "REFUSED_STREAM");
        refused += 1;
    }
    assert!(
        backend.connections() <= 4 * 3,
        "refused streams never reach the backend"
    );
    drop(client);
    site.assert_well();
}

#[test]
fn an_idle_h2_connection_is_told_to_go_away() {
    let backend = StrictBackend::start();
    let site = Site::with(&[backend.address()], &[], &["--idle-timeout", "2s"]);
    let mut client = H2Client::open_asking(site.agent.http, get("/", &[]));
    assert_eq!(client.outcome(1), Some(Outcome::Status(200)));
    assert_eq!(client.end(), Some(0));
    site.assert_well();
}

#[test]
fn resets_and_ends_in_every_phase_of_an_h2_connection_leave_nothing_behind() {
    let (backend, site) = site();
    let whole = {
        let mut bytes = PREFACE.to_vec();
        for frame in [
            crate::frames::Frame::new(SETTINGS, 0, 0, []),
            crate::frames::Frame::new(
                HEADERS,
                END_HEADERS,
                1,
                request("POST", "/", &[("content-length", "5")]),
            ),
            crate::frames::Frame::new(DATA, END_STREAM, 1, "hello"),
        ] {
            bytes.extend(frame.bytes());
        }
        bytes
    };
    for cut in (0..whole.len()).step_by(3) {
        let mut client = H2Client::connect(site.agent.http);
        client.send_bytes(&whole[..cut]).unwrap();
        if cut % 2 == 0 {
            client.half_close();
        }
    }
    site.assert_well();
    assert_eq!(backend.requests(), []);
    assert_eq!(backend.broken(), [""; 0]);
}

#[test]
fn goaway_from_a_client_is_no_reason_to_drop_its_requests() {
    let (_backend, site) = site();
    let mut client = H2Client::open(site.agent.http);
    client.ask(1, get("/", &[])).unwrap();
    client.send(GOAWAY, 0, 0, [0; 8]).unwrap();
    assert_eq!(client.outcome(1), Some(Outcome::Status(200)));
    drop(client);
    site.assert_well();
}

#[test]
fn upgrades_to_h2c_never_happen() {
    let (backend, site) = site();
    for upgrade in ["h2c", "h2c, websocket-ish", "TLS/1.0", "HTTP/2.0", "foo"] {
        let answer = site.exchange(format!(
            "GET /{} HTTP/1.1\r\nHost: {HOST}\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: {upgrade}\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n",
            upgrade.len()
        ));
        assert!(answer.starts_with("HTTP/1.1 200 "), "{upgrade}: {answer:?}");
    }
    for request in backend.requests() {
        assert_eq!(request.fields("upgrade"), [""; 0]);
        assert_eq!(request.fields("connection"), [""; 0]);
        assert_eq!(request.fields("http2-settings"), [""; 0]);
    }
    assert_eq!(backend.requests().len(), 5);
}

#[test]
fn bytes_of_h2_on_a_connection_that_began_as_http_1_are_refused() {
    let (backend, site) = site();
    let mut bytes = format!("GET /one HTTP/1.1\r\nHost: {HOST}\r\n\r\n").into_bytes();
    bytes.extend(PREFACE);
    let answer = site.exchange(bytes);
    assert_eq!(crate::site::statuses(&answer), [200, 400], "{answer:?}");
    assert_eq!(backend.requests().len(), 1);
}

#[test]
fn an_h2_client_that_takes_one_byte_and_no_more_is_cut_off_after_its_answer_is_made() {
    let backend = StrictBackend::start();
    let site = Site::with(&[backend.address()], &[], &["--write-timeout", "500ms"]);
    let mut client = H2Client::open_with(site.agent.http, &[(4, 1)]);
    client.ask(1, get("/", &[])).unwrap();
    assert_eq!(client.outcome(1), Some(Outcome::Status(200)));
    let end = client.outcome(1);
    assert!(
        matches!(end, None | Some(Outcome::Reset(_) | Outcome::GoneAway(_))),
        "{end:?}"
    );
    drop(client);
    site.assert_well();
}

#[test]
fn a_window_that_opens_slowly_but_steadily_is_patience_well_spent() {
    let body = vec![b'x'; 2000];
    let head = b"HTTP/1.1 200 OK\r\ncontent-length: 2000\r\n\r\n".to_vec();
    let backend = RawBackend::answering([head, body].concat()).unwrap();
    let site = Site::with(&[backend.address()], &[], &["--write-timeout", "7s"]);
    let mut client = H2Client::open_with(site.agent.http, &[(4, 400)]);
    client.ask(1, get("/", &[])).unwrap();
    let mut got = 0;
    while got < 2000 {
        let data = client.next_of(DATA).unwrap();
        got += data.payload.len();
        // Four of these take longer than the bound; one does not, by far, so that a machine that stalls changes nothing.
        std::thread::sleep(Duration::from_secs(2));
        client.send(WINDOW_UPDATE, 0, 1, 400u32.to_be_bytes()).unwrap();
    }
    assert_eq!(
        got, 2000,
        "in all it took longer than the bound, but never stood still for it"
    );
}

#[test]
fn how_many_resets_are_too_many_is_a_setting() {
    let backend = RawBackend::scripted(vec![]).unwrap();
    for (bound, ends) in [("5", true), ("100", false)] {
        let site = Site::with(&[backend.address()], &[], &["--h2-max-resets", bound]);
        let mut client = H2Client::open(site.agent.http);
        for round in 0..30 {
            let stream = round * 2 + 1;
            let _ = client.ask(stream, get("/", &[]));
            let _ = client.send(RST_STREAM, 0, stream, 8u32.to_be_bytes());
        }
        let _ = client.send(PING, 0, 0, *b"question");
        let answer = loop {
            match client.next() {
                Some(frame) if frame.kind == PING && frame.flags & 1 == 1 => break false,
                Some(_) => {}
                None => break true,
            }
        };
        assert_eq!(answer, ends, "with {bound}");
    }
}

#[test]
fn interim_responses_reach_an_h2_client_from_an_http_1_backend() {
    let backend = RawBackend::scripted(vec![
        Step::Expect(b"\r\n\r\n".to_vec()),
        Step::Send(b"HTTP/1.1 103 Early Hints\r\nlink: </style.css>; rel=preload\r\n\r\n".to_vec()),
        Step::Expect(b"go on".to_vec()),
        Step::Send(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok".to_vec()),
    ])
    .unwrap();
    let site = Site::new(&[backend.address()]);
    let mut client = H2Client::open(site.agent.http);
    let head = request("POST", "/", &[("content-length", "5")]);
    client.send(HEADERS, END_HEADERS, 1, head).unwrap();
    let hints = client.next_of(HEADERS).unwrap();
    assert_eq!(hints.flags & END_STREAM, 0);
    assert!(hints.payload.windows(13).any(|part| part == b"</style.css>;"));
    client.send(DATA, END_STREAM, 1, "go on").unwrap();
    assert_eq!(client.outcome(1), Some(Outcome::Status(200)));
}

#[test]
fn expect_100_continue_over_h2_is_the_backends_to_answer() {
    let backend = RawBackend::scripted(vec![
        Step::Expect(b"\r\n\r\n".to_vec()),
        Step::Send(b"HTTP/1.1 100 Continue\r\n\r\n".to_vec()),
        Step::Expect(b"hello".to_vec()),
        Step::Send(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok".to_vec()),
    ])
    .unwrap();
    let site = Site::new(&[backend.address()]);
    let head = || {
        request(
            "POST",
            "/",
            &[("expect", "100-continue"), ("content-length", "5")],
        )
    };
    let mut client = H2Client::open(site.agent.http);
    client.send(HEADERS, END_HEADERS, 1, head()).unwrap();
    assert_eq!(client.outcome(1), Some(Outcome::Status(100)));
    assert!(String::from_utf8_lossy(&backend.received()[0]).contains("expect: 100-continue\r\n"));
    client.send(DATA, END_STREAM, 1, "hello").unwrap();
    assert_eq!(
        client.outcome(1),
        Some(Outcome::Status(200)),
        "one 100 and no second"
    );

    let refusing =
        RawBackend::answering("HTTP/1.1 417 Expectation Failed\r\ncontent-length: 2\r\n\r\nno").unwrap();
    let site = Site::new(&[refusing.address()]);
    let mut client = H2Client::open(site.agent.http);
    client.send(HEADERS, END_HEADERS, 1, head()).unwrap();
    assert_eq!(
        client.outcome(1),
        Some(Outcome::Status(417)),
        "no 100 for a body that nobody wants"
    );
}

#[test]
fn an_h2_head_far_beyond_the_bound_is_told_so_with_a_reason() {
    let (backend, site) = site();
    // One field of 4 KB into the table and sixty references to it: far fewer fields than are allowed, and far more bytes.
    let mut large = get("/", &[]);
    large.push(0x40);
    string(&mut large, b"x");
    string(&mut large, &[b'y'; 3900]);
    large.extend([0xbe; 60]);
    let mut client = H2Client::open(site.agent.http);
    client.ask(1, large).unwrap();
    let answer = client.next_of(HEADERS).unwrap();
    let text = String::from_utf8_lossy(&answer.payload).into_owned();
    assert!(
        text.contains("431") && text.contains("headers_too_large"),
        "{text:?}"
    );
    assert_eq!(backend.requests(), []);
    drop(client);
    site.assert_well();
}
