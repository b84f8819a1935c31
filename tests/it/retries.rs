//! When an endpoint fails: another one is asked, if that is safe; one that keeps failing is left alone.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use ingress_tests::raw::{RawBackend, Step};
use ingress_tests::{Echo, Refusing};

use crate::site::{HOST, Site, assert_refused, statuses};

fn request(method: &str, path: &str, body: &str) -> String {
    format!(
        "{method} {path} HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// Takes the request, then resets.
fn resetting() -> RawBackend {
    RawBackend::scripted(vec![Step::Expect(b"\r\n\r\n".to_vec()), Step::Reset]).unwrap()
}

/// A listener whose queue is full: the kernel answers no SYN any more.
struct Blackhole {
    address: SocketAddr,
    _listener: socket2::Socket,
    _waiting: Vec<socket2::Socket>,
}

impl Blackhole {
    fn new() -> Self {
        let tcp = || socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        let listener = tcp();
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        listener.bind(&any.into()).unwrap();
        listener.listen(0).unwrap();
        let address = listener.local_addr().unwrap().as_socket().unwrap();
        let waiting = (0..4)
            .map(|_| {
                let socket = tcp();
                socket.set_nonblocking(true).unwrap();
                // In progress: it never ends.
                let _ = socket.connect(&address.into());
                socket
            })
            .collect();
        Self {
            address,
            _listener: listener,
            _waiting: waiting,
        }
    }
}

#[test]
fn a_refused_connection_is_tried_at_another_endpoint_whatever_the_method() {
    let (refusing, echo) = (Refusing::new().unwrap(), Echo::start("good").unwrap());
    let site = Site::new(&[refusing.address(), echo.address()]);
    for round in 0..20 {
        let method = if round % 2 == 0 { "GET" } else { "POST" };
        let answer = site.exchange(request(method, "/", "hello"));
        assert_eq!(
            statuses(&answer),
            [200],
            "{method}: nothing had been sent: {answer:?}"
        );
    }
    assert_eq!(echo.requests(), 20);
    site.assert_well();
}

#[test]
fn a_reset_is_repeated_elsewhere_only_for_idempotent_requests() {
    for (method, repeated) in [
        ("GET", true),
        ("PUT", true),
        ("DELETE", true),
        ("OPTIONS", true),
        ("POST", false),
        ("PATCH", false),
    ] {
        let bad = resetting();
        let echo = Echo::start("good").unwrap();
        let site = Site::new(&[bad.address(), echo.address()]);
        let mut refused = 0;
        for _ in 0..12 {
            let answer = site.exchange(request(method, "/", ""));
            match statuses(&answer).as_slice() {
                [200] => {}
                [502] => {
                    assert_refused(&answer, 502, "upstream_reset", method);
                    refused += 1;
                }
                other => panic!("{method}: {other:?}"),
            }
        }
        let seen = bad.connections() + echo.requests();
        if repeated {
            assert_eq!(refused, 0, "{method}");
        } else {
            assert_eq!(seen, 12, "{method}: each request was seen exactly once");
            assert_eq!(refused, bad.connections(), "{method}");
        }
    }
}

#[test]
fn a_request_whose_body_is_gone_is_not_repeated() {
    let bad = RawBackend::scripted(vec![Step::Expect(vec![b'x'; 200_000]), Step::Reset]).unwrap();
    let site = Site::new(&[bad.address()]);
    let answer = site.exchange(request("PUT", "/", &"x".repeat(200_000)));
    assert_refused(&answer, 502, "upstream_reset", "PUT");
    assert_eq!(bad.connections(), 1);
}

#[test]
fn a_kept_connection_that_dies_under_a_post_is_not_repeated_once_it_was_sent() {
    let backend = RawBackend::scripted(vec![
        Step::Expect(b"first".to_vec()),
        Step::Send(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok".to_vec()),
        Step::Expect(b"second".to_vec()),
        Step::Reset,
    ])
    .unwrap();
    let site = Site::with(&[backend.address()], &[], &["--workers", "1"]);
    let answer = site.exchange(request("POST", "/", "first") + &request("POST", "/", "second"));
    assert_eq!(statuses(&answer), [200, 502], "{answer:?}");
    assert_eq!(backend.connections(), 1);
    let seen = String::from_utf8_lossy(&backend.received()[0])
        .matches("second")
        .count();
    assert_eq!(seen, 1, "a POST is never doubled");
}

#[test]
fn every_endpoint_down_is_one_answer_after_a_bounded_number_of_tries() {
    let all: Vec<_> = (0..6).map(|_| resetting()).collect();
    let addresses: Vec<_> = all.iter().map(RawBackend::address).collect();
    let site = Site::new(&addresses);
    let answer = site.exchange(request("GET", "/", ""));
    assert_refused(&answer, 502, "upstream_reset", "all reset");
    let tries: usize = all.iter().map(RawBackend::connections).sum();
    assert_eq!(tries, 3, "three attempts in all, each at another endpoint");
    assert!(all.iter().all(|backend| backend.connections() <= 1));
    let refusing = [(); 2].map(|()| Refusing::new().unwrap());
    let site = Site::new(&refusing.each_ref().map(Refusing::address));
    assert_refused(
        &site.exchange(request("GET", "/", "")),
        502,
        "upstream_refused",
        "all refused",
    );
}

#[test]
fn retries_stay_within_their_budget() {
    let all: Vec<_> = (0..3).map(|_| resetting()).collect();
    let addresses: Vec<_> = all.iter().map(RawBackend::address).collect();
    let site = Site::new(&addresses);
    let started = Instant::now();
    let requests = 200;
    for _ in 0..requests {
        let answer = site.exchange(request("GET", "/", ""));
        assert_eq!(statuses(&answer), [502]);
    }
    let tries: usize = all.iter().map(RawBackend::connections).sum();
    // A fifth of the requests, what time pays in, and what there was at the start: without a budget there would be 400.
    let elapsed = usize::try_from(started.elapsed().as_secs()).unwrap();
    let budget = requests / 5 + 10 * (elapsed + 2) + 100;
    assert!(
        tries - requests <= budget,
        "{tries} tries for {requests} requests"
    );
}

#[test]
fn an_endpoint_that_keeps_failing_is_left_alone_and_others_are_asked_at_once() {
    let bad = resetting();
    let echo = Echo::start("good").unwrap();
    let site = Site::new(&[bad.address(), echo.address()]);
    let mut ejected = Instant::now();
    while site.metric("ingress_agent_upstream_ejections_total") == 0.0 {
        ejected = Instant::now();
        site.exchange(request("GET", "/", ""));
    }
    let before = bad.connections();
    assert!(before <= 10, "{before} requests went to it");
    for round in 0..20 {
        let answer = site.exchange(request("POST", "/", "x"));
        // The first ejection lasts ten seconds; a slow machine does not come so far.
        if ejected.elapsed() > Duration::from_secs(10) {
            assert!(round > 0, "too slow to see anything");
            return;
        }
        assert_eq!(
            statuses(&answer),
            [200],
            "ejected: no POST is lost to it any more"
        );
        assert_eq!(bad.connections(), before);
    }
}

#[test]
fn the_last_endpoint_is_never_ejected() {
    let bad = resetting();
    let site = Site::new(&[bad.address()]);
    for _ in 0..12 {
        let answer = site.exchange(request("POST", "/", "x"));
        assert_refused(&answer, 502, "upstream_reset", "the only one");
    }
    assert_eq!(bad.connections(), 12);
}

#[test]
fn an_endpoint_that_does_not_accept_is_connect_timeout_in_time() {
    let hole = Blackhole::new();
    let site = Site::with(&[hole.address], &[("proxy-connect-timeout", "300ms")], &[]);
    let answer = site.exchange(request("POST", "/", "x"));
    assert_refused(&answer, 504, "connect_timeout", "nobody accepts");
    let echo = Echo::start("good").unwrap();
    let site = Site::with(
        &[hole.address, echo.address()],
        &[("proxy-connect-timeout", "300ms")],
        &[],
    );
    for _ in 0..4 {
        let answer = site.exchange(request("POST", "/", "x"));
        assert_eq!(
            statuses(&answer),
            [200],
            "nothing was sent: another endpoint is asked"
        );
    }
}

#[test]
fn a_backend_that_never_answers_is_response_timeout_and_not_asked_again() {
    let silent = RawBackend::scripted(vec![]).unwrap();
    let site = Site::with(&[silent.address()], &[("proxy-read-timeout", "300ms")], &[]);
    for (method, body) in [("GET", ""), ("POST", "hello")] {
        let answer = site.exchange(request(method, "/", body));
        assert_refused(&answer, 504, "response_timeout", method);
    }
    assert_eq!(silent.connections(), 2);
    site.assert_well();
}
