//! gRPC as it is on the wire: h2 both ways, status in the trailers, messages that flow while both sides speak.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use ingress_tests::{Echo, Request};

use crate::frames::{DATA, END_HEADERS, END_STREAM, H2Client, HEADERS, Outcome, request};
use crate::site::{HOST, Site};

fn message(text: &str) -> Vec<u8> {
    let mut message = vec![0];
    message.extend(u32::try_from(text.len()).unwrap().to_be_bytes());
    message.extend(text.as_bytes());
    message
}

fn call() -> Request {
    Request::get(&format!("http://{HOST}/shop.Cart/Add"))
        .unwrap()
        .method(http::Method::POST)
        .header("content-type", "application/grpc+proto")
        .unwrap()
        .header("te", "trailers")
        .unwrap()
        .body(message("apple"))
        .h2()
}

#[test]
fn a_unary_call_comes_back_with_its_status_in_the_trailers() {
    let echo = Echo::start("cart").unwrap();
    let site = Site::with(&[echo.address()], &[("backend-protocol", "GRPC")], &[]);
    for (scheme, address) in [("http", site.agent.http), ("https", site.agent.https)] {
        let mut call = call().trusting(&site.authority);
        call.uri = format!("{scheme}://{HOST}/shop.Cart/Add").parse().unwrap();
        let answer = call.ask(address).unwrap();
        assert_eq!((answer.status, answer.backend()), (200, "cart"));
        assert_eq!(answer.body, message("apple"));
        assert_eq!(answer.trailers["grpc-status"], "0");
    }
    assert!(echo.connections() <= 2, "calls share a connection");
    site.assert_well();
}

#[test]
fn trailers_reach_an_h2_client_from_a_backend_that_is_asked_by_http_1() {
    let echo = Echo::start("cart").unwrap();
    let site = Site::new(&[echo.address()]);
    let answer = call().ask(site.agent.http).unwrap();
    // hyper's HTTP/1.1 server sends trailers only when they were announced; the bytes of the message are what counts here.
    assert_eq!(answer.body, message("apple"));
}

#[test]
fn messages_flow_both_ways_while_the_call_is_open() {
    let backend = crate::h2_backend::Streaming::start();
    let site = Site::with(&[backend.address()], &[("backend-protocol", "GRPC")], &[]);
    let mut client = H2Client::open(site.agent.http);
    let head = request(
        "POST",
        "/shop.Cart/Watch",
        &[("content-type", "application/grpc"), ("te", "trailers")],
    );
    client.send(HEADERS, END_HEADERS, 1, head).unwrap();
    for round in 0..3 {
        let sent = message(&format!("round {round}"));
        client.send(DATA, 0, 1, sent.clone()).unwrap();
        if round == 0 {
            assert_eq!(client.outcome(1), Some(Outcome::Status(200)));
        }
        let mut got = Vec::new();
        while got.len() < sent.len() {
            got.extend(client.next_of(DATA).unwrap().payload);
        }
        assert_eq!(got, sent, "each message comes back before the next one goes");
    }
    client.send(DATA, END_STREAM, 1, []).unwrap();
    let trailers = client.next_of(HEADERS).unwrap();
    assert_eq!(
        trailers.flags & END_STREAM,
        END_STREAM,
        "the status ends the stream"
    );
    drop(client);
    site.assert_well();
}

#[test]
fn a_call_that_the_client_gives_up_is_given_up_at_the_backend() {
    let backend = crate::h2_backend::Streaming::start();
    let site = Site::with(&[backend.address()], &[("backend-protocol", "GRPC")], &[]);
    let mut client = H2Client::open(site.agent.http);
    let head = request(
        "POST",
        "/shop.Cart/Watch",
        &[("content-type", "application/grpc")],
    );
    client.send(HEADERS, END_HEADERS, 1, head).unwrap();
    client.send(DATA, 0, 1, message("hello")).unwrap();
    assert_eq!(client.outcome(1), Some(Outcome::Status(200)));
    client
        .send(crate::frames::RST_STREAM, 0, 1, 8u32.to_be_bytes())
        .unwrap();
    crate::site::wait("the backend's stream ends", || backend.ended() == 1);
    drop(client);
    site.assert_well();
}
