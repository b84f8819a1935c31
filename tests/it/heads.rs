//! Heads as they leave the agent, byte for byte: what is passed on stays as it was written, what is taken out or replaced is gone in every spelling.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use ingress_tests::raw::RawBackend;

use crate::site::{HOST, Site, assert_refused, statuses};
use crate::strict::StrictBackend;

/// The lines of the one request's head that the backend got, without the identifier, which is random.
#[track_caller]
fn arrives(request: &str) -> Vec<String> {
    let backend = StrictBackend::start();
    let site = Site::new(&[backend.address()]);
    let answer = site.exchange(request);
    assert_eq!(statuses(&answer), [200], "{request:?}: {answer:?}");
    assert_eq!(backend.broken(), [""; 0]);
    let requests = backend.requests();
    let [request] = requests.as_slice() else {
        panic!("{requests:?}");
    };
    let [id] = request.fields("x-request-id")[..] else {
        panic!("{:?}", request.head);
    };
    assert!(
        id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit()),
        "{id}"
    );
    let lines = request.head.lines().map(str::to_owned);
    let is_told = |line: &String| !line.is_empty() && !line.starts_with("x-request-id:");
    lines.filter(is_told).collect()
}

/// What the agent says of the client, after all that the client says.
const OURS: [&str; 6] = [
    "x-forwarded-scheme: http",
    "x-forwarded-proto: http",
    "x-real-ip: 127.0.0.1",
    "x-forwarded-for: 127.0.0.1",
    "x-forwarded-host: site.test",
    "x-forwarded-port: 80",
];

fn with_ours(lines: &[&str]) -> Vec<String> {
    let lines = lines.iter().chain(&OURS);
    lines.map(|line| (*line).to_owned()).collect()
}

/// The port that the client came to, which the kernel chose, stands in for 80.
fn with_port(lines: Vec<String>) -> Vec<String> {
    let is_port = |line: &String| line.starts_with("x-forwarded-port: ");
    let lines = lines.into_iter();
    lines
        .map(|line| match is_port(&line) {
            true => "x-forwarded-port: 80".to_owned(),
            false => line,
        })
        .collect()
}

#[test]
fn lines_between_edited_ones_reach_the_backend_as_they_were_written() {
    let request = format!(
        "GET /case?q HTTP/1.1\r\nX-First: 1\r\nHOST: {HOST}\r\nX-Twice: a\r\nx-forwarded-FOR: 192.0.2.1\r\nX-Empty:\r\n\
         X-tight:v\r\nKeep-Alive: 5\r\nx-tWiCE: b\r\nX-Wide: \t w \t\r\nConnection: X-Secret, keep-alive\r\nX-SECRET: s\r\nx-secret: s\r\n\
         X-Request-ID: mine\r\nCookie: a=1\r\nX-Real-Ip: 192.0.2.1\r\ncookie: b=2\r\nX-Odd: caf\u{e9}\r\nPROXY-connection: x\r\n\
         Forwarded: for=192.0.2.1\r\nx-last: z\r\n\r\n"
    );
    let expected = with_ours(&[
        "GET /case?q HTTP/1.1",
        "host: site.test",
        "X-First: 1",
        "X-Twice: a",
        "X-Empty: ",
        "X-tight: v",
        "x-tWiCE: b",
        "X-Wide: w",
        "Cookie: a=1",
        "cookie: b=2",
        "X-Odd: caf\u{e9}",
        "x-last: z",
    ]);
    assert_eq!(with_port(arrives(&request)), expected);
}

#[test]
fn what_an_absolute_target_names_is_the_host_of_everything_that_is_said() {
    let request =
        format!("GET HTTP://{HOST}?q=/ HTTP/1.1\r\nHost: evil.test\r\nX-Forwarded-Host: evil.test\r\n\r\n");
    let expected = with_ours(&["GET /?q=/ HTTP/1.1", "host: site.test"]);
    assert_eq!(with_port(arrives(&request)), expected);
}

#[test]
fn names_that_backends_may_take_for_ours_are_gone_in_every_spelling() {
    let mut request = format!("POST /case HTTP/1.1\r\nHost: {HOST}\r\nX_Kept: 1\r\nContent-Length: 2\r\n");
    for name in [
        "X_Forwarded_For",
        "x_forwarded_for",
        "X-Forwarded_For",
        "X_FORWARDED_PROTO",
        "X_Forwarded-Scheme",
        "X_Forwarded_Host",
        "X_Forwarded_Port",
        "X_Real_Ip",
        "x-Real_ip",
        "X_Request_Id",
        "Content_Length",
        "Transfer_Encoding",
    ] {
        request += &format!("{name}: 9\r\n");
    }
    let mut expected = with_ours(&["POST /case HTTP/1.1", "host: site.test", "X_Kept: 1"]);
    expected.push("content-length: 2".to_owned());
    assert_eq!(with_port(arrives(&(request + "\r\nhi"))), expected);
}

#[test]
fn a_connection_field_that_names_more_than_anybody_needs_is_refused() {
    let backend = StrictBackend::start();
    let site = Site::new(&[backend.address()]);
    let ask = |options: usize| {
        let fields = "Connection: a, b\r\n".repeat(options / 2);
        site.exchange(format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n{fields}\r\n"))
    };
    assert_eq!(statuses(&ask(32)), [200]);
    assert_refused(&ask(34), 400, "bad_request", "34 options");
    let many = format!(
        "GET / HTTP/1.1\r\nHost: {HOST}\r\nConnection: {}z\r\n\r\n",
        "z,".repeat(3000)
    );
    assert_refused(&site.exchange(many), 400, "bad_request", "3,001 options");
    assert_eq!(backend.requests().len(), 1);
    site.assert_well();
}

/// The whole answer that the client gets to a GET, as it is.
#[track_caller]
fn comes_back(response: &str) -> String {
    let backend = RawBackend::answering(response).unwrap();
    let site = Site::new(&[backend.address()]);
    let answer = site.exchange(format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n"));
    site.assert_well();
    answer
}

#[test]
fn lines_between_those_that_end_here_reach_the_client_as_they_were_written() {
    let answer = comes_back(
        "HTTP/1.1 200 Whatever\r\nDATE: Thu, 01 Jan 1970 00:00:00 GMT\r\nSERVER: b\r\nX-One: 1\r\nCONNECTION: x-PRIVATE, keep-alive\r\n\
         x-tight:v\r\nX-Private: s\r\nX-Two: 2\r\nKeep-alive: timeout=5\r\nX-Empty:\r\nCONTENT-length: 2\r\nx-private: s\r\n\
         Upgrade: h2c\r\nSet-Cookie: a=1\r\nX-Wide: \t w \t\r\nset-COOKIE: b=2\r\nProxy-Connection: close\r\nX-Last: z\r\n\r\nok",
    );
    assert_eq!(
        answer,
        "HTTP/1.1 200 OK\r\nDATE: Thu, 01 Jan 1970 00:00:00 GMT\r\nSERVER: b\r\nX-One: 1\r\nx-tight: v\r\nX-Two: 2\r\nX-Empty: \r\n\
         Set-Cookie: a=1\r\nX-Wide: w\r\nset-COOKIE: b=2\r\nX-Last: z\r\ncontent-length: 2\r\n\r\nok"
    );
}

#[test]
fn interim_heads_lose_what_ends_here_too_and_the_last_head_is_read_anew() {
    let answer = comes_back(
        "HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\nConnection: X-Gone\r\nX-Gone: 1\r\nContent-Length: 7\r\n\r\n\
         HTTP/1.1 200 OK\r\nDate: x\r\nServer: b\r\nX-Gone: 2\r\nContent-Length: 2\r\n\r\nok",
    );
    assert_eq!(
        answer,
        "HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\n\r\n\
         HTTP/1.1 200 OK\r\nDate: x\r\nServer: b\r\nX-Gone: 2\r\ncontent-length: 2\r\n\r\nok"
    );
}

#[test]
fn a_backend_whose_connection_field_names_more_than_anybody_needs_is_broken() {
    let names = (0..33)
        .map(|name| format!("x-{name}"))
        .collect::<Vec<_>>()
        .join(",");
    let answer = comes_back(&format!(
        "HTTP/1.1 200 OK\r\nConnection: {names}\r\nContent-Length: 2\r\n\r\nok"
    ));
    assert_refused(&answer, 502, "upstream_protocol", "33 names");
}
