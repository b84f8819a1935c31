//! WebSocket through the agent: bytes both ways until both sides are done.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::time::Duration;

use ingress_tests::raw::{DEADLINE, RawBackend, RawClient, Step};
use ingress_tests::{Echo, Request};

use crate::site::{HOST, Site, wait};

const GRANTED: &[u8] =
    b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-accept: x\r\n\r\n";

fn handshake() -> String {
    format!(
        "GET /ws HTTP/1.1\r\nHost: {HOST}\r\nConnection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAECAwQFBgcICQoLDA0ODw==\r\nSec-WebSocket-Protocol: chat\r\n\r\n"
    )
}

/// A frame with this payload; short ones only have one byte of length.
fn frame(payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x82, 0x80 | 127];
    frame.extend((payload.len() as u64).to_be_bytes());
    frame.extend([0; 4]);
    frame.extend(payload);
    frame
}

#[test]
fn a_websocket_echoes_over_http_and_https() {
    let echo = Echo::start("web").unwrap();
    let site = Site::new(&[echo.address()]);
    for (scheme, address) in [("http", site.agent.http), ("https", site.agent.https)] {
        let ask = Request::get(&format!("{scheme}://{HOST}/ws")).unwrap();
        let echoed = ask
            .trusting(&site.authority)
            .ask_websocket(address, "hello")
            .unwrap();
        assert_eq!(echoed, "hello");
    }
    site.assert_well();
}

#[test]
fn the_handshake_reaches_the_backend_in_its_one_plain_form() {
    let backend = RawBackend::answering(GRANTED).unwrap();
    let site = Site::new(&[backend.address()]);
    let mut client = site.client();
    client.send(handshake()).unwrap();
    let answer = String::from_utf8_lossy(&client.read_until("\r\n\r\n").unwrap()).to_ascii_lowercase();
    assert!(answer.starts_with("http/1.1 101 "), "{answer}");
    for field in [
        "connection: upgrade",
        "upgrade: websocket",
        "sec-websocket-accept: x",
    ] {
        assert!(answer.contains(field), "{field}: {answer}");
    }
    let received = String::from_utf8_lossy(&backend.received()[0]).to_ascii_lowercase();
    for field in [
        "connection: upgrade\r\n",
        "upgrade: websocket\r\n",
        "sec-websocket-version: 13\r\n",
        "sec-websocket-protocol: chat\r\n",
    ] {
        assert_eq!(received.matches(field).count(), 1, "{field}: {received}");
    }
    assert!(!received.contains("keep-alive"), "{received}");
}

#[test]
fn bytes_that_come_right_after_the_handshake_are_the_tunnels_on_both_sides() {
    let backend = RawBackend::answering([GRANTED, b"early words of the backend"].concat()).unwrap();
    let site = Site::new(&[backend.address()]);
    // After another request on the same connection, too.
    for before in [
        String::new(),
        "GET / HTTP/1.1\r\nHost: healthy.test\r\n\r\n".to_owned(),
    ] {
        let mut client = site.client();
        if !before.is_empty() {
            client.send(&before).unwrap();
            client.read_until("\r\n\r\n{").unwrap();
            client.read_until("null}").unwrap();
        }
        let early = [handshake().as_bytes(), b"\x81\x05GET /\0\r\nbinary"].concat();
        client.send(early).unwrap();
        client.read_until("early words of the backend").unwrap();
        client.send("and more").unwrap();
        backend
            .wait_for(|all| {
                all.last()
                    .is_some_and(|got| got.ends_with(b"\x81\x05GET /\0\r\nbinaryand more"))
            })
            .unwrap();
    }
    site.assert_well();
}

#[test]
fn one_sides_end_is_passed_on_and_the_other_goes_on() {
    let backend = RawBackend::scripted(vec![
        Step::Expect(b"\r\n\r\n".to_vec()),
        Step::Send(GRANTED.to_vec()),
        Step::Expect(b"last words".to_vec()),
        Step::Wait(Duration::from_millis(200)),
        Step::Send(b"an answer after the end".to_vec()),
        Step::HalfClose,
    ])
    .unwrap();
    let site = Site::new(&[backend.address()]);
    let mut client = site.client();
    client.send(handshake()).unwrap();
    client.read_until("\r\n\r\n").unwrap();
    client.send("last words").unwrap();
    client.half_close().unwrap();
    assert_eq!(client.read_to_end().unwrap(), b"an answer after the end");
    site.assert_well();
}

#[test]
fn a_reset_on_one_side_ends_the_other() {
    let backend = RawBackend::scripted(vec![
        Step::Expect(b"\r\n\r\n".to_vec()),
        Step::Send(GRANTED.to_vec()),
        Step::Expect(b"now".to_vec()),
        Step::Reset,
    ])
    .unwrap();
    let site = Site::new(&[backend.address()]);
    let mut client = site.client();
    client.send(handshake()).unwrap();
    client.read_until("\r\n\r\n").unwrap();
    client.send("now").unwrap();
    assert!(client.is_closed_within(DEADLINE));
    let mut client = site.client();
    client.send(handshake()).unwrap();
    client.read_until("\r\n\r\n").unwrap();
    client.reset().unwrap();
    site.assert_well();
}

#[test]
fn big_frames_pass_both_ways_byte_for_byte() {
    let echo = Echo::start("web").unwrap();
    let site = Site::new(&[echo.address()]);
    let mut client = site.client();
    client.send(handshake()).unwrap();
    client.read_until("\r\n\r\n").unwrap();
    let payload: Vec<u8> = (0..8u32 << 20).map(|i| (i % 251) as u8).collect();
    client.send(frame(&payload)).unwrap();
    // The echo comes back without a mask: two bytes and the length before it.
    let tail = payload[payload.len() - 4096..].to_vec();
    client.send(frame(b"the end of it")).unwrap();
    let got = client.read_until("the end of it").unwrap();
    assert!(got.len() > payload.len());
    assert!(got[10..].starts_with(&payload[..4096]));
    assert!(
        got[10..10 + payload.len()] == payload[..],
        "every byte, in its place"
    );
    assert!(got[10..10 + payload.len()].ends_with(&tail));
    drop(client);
    site.assert_well();
}

#[test]
fn a_websocket_survives_changes_of_its_own_route() {
    let echo = Echo::start("web").unwrap();
    let site = Site::new(&[echo.address()]);
    let mut client = site.client();
    client.send(handshake()).unwrap();
    client.read_until("\r\n\r\n").unwrap();
    for round in 0..3 {
        site.change_config();
        let text = format!("still here {round}");
        client.send(frame(text.as_bytes())).unwrap();
        client.read_until(&text).unwrap();
    }
    // Even when its Service has lost the endpoint: what is open stays open.
    site.manifests
        .endpoints_with("site", &[(echo.address(), "ready: false")])
        .unwrap();
    site.agent
        .get_until(&format!("http://{HOST}/"), |answer| answer.status == 503)
        .unwrap();
    client.send(frame(b"and still")).unwrap();
    client.read_until("and still").unwrap();
}

#[test]
fn a_tunnel_in_which_nothing_moves_is_closed_in_time() {
    let backend = RawBackend::answering(GRANTED).unwrap();
    let site = Site::with(
        &[backend.address()],
        &[("proxy-read-timeout", "300ms"), ("proxy-send-timeout", "300ms")],
        &[],
    );
    let mut client = site.client();
    client.send(handshake()).unwrap();
    client.read_until("\r\n\r\n").unwrap();
    assert!(client.is_closed_within(DEADLINE));
    site.assert_well();
}

#[test]
fn a_backend_that_does_not_grant_the_upgrade_answers_as_ever() {
    let backend = RawBackend::answering("HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\n\r\nno").unwrap();
    let site = Site::new(&[backend.address()]);
    let mut client: RawClient = site.client();
    client.send(handshake()).unwrap();
    client.read_until("\r\n\r\nno").unwrap();
    client
        .send("GET / HTTP/1.1\r\nHost: healthy.test\r\n\r\n")
        .unwrap();
    client.read_until("HTTP/1.1 200 OK").unwrap();
    drop(client);
    wait("the backend saw one handshake", || backend.connections() == 1);
    site.assert_well();
}
