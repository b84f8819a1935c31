//! Body size and timeouts.

use std::time::{Duration, Instant};

use ingress_tests::raw::Step;
use ingress_tests::{Gate, RawBackend, RawClient, Request, Site, TestAgent};

use super::{annotated, serving};
use crate::Done;

#[test]
fn a_body_larger_than_the_limit_is_413_announced_or_not() -> Done {
    let (site, agent) = serving(&[("proxy-body-size", "1k")])?;
    let fits = agent.ask(Request::post("http://web.test/", "x".repeat(1024))?)?;
    assert_eq!(fits.seen()["bodyLength"], 1024);
    let answer = agent.ask(Request::post("http://web.test/", "x".repeat(1025))?)?;
    assert_eq!((answer.status, answer.reason()), (413, "body_too_large"));
    assert_eq!(site.backend("web")?.requests(), 1, "the backend was not bothered");
    let mut raw = RawClient::connect(agent.http)?;
    raw.send(format!(
        "POST / HTTP/1.1\r\nHost: web.test\r\nTransfer-Encoding: chunked\r\n\r\n401\r\n{}\r\n0\r\n\r\n",
        "x".repeat(1025)
    ))?;
    let head = String::from_utf8(raw.read_until("\r\n\r\n")?)?;
    assert!(
        head.starts_with("HTTP/1.1 413 ") && head.contains("body_too_large"),
        "{head}"
    );
    Ok(())
}

#[test]
fn the_default_limit_is_one_mebibyte_and_zero_is_none() -> Done {
    let body = vec![b'x'; (1 << 20) + 1];
    let (_site, agent) = serving(&[])?;
    assert_eq!(
        agent
            .ask(Request::post("http://web.test/", body.clone())?)?
            .status,
        413
    );
    let (_site, agent) = serving(&[("proxy-body-size", "0")])?;
    assert_eq!(agent.ask(Request::post("http://web.test/", body)?)?.status, 200);
    Ok(())
}

/// A site whose Service is backed by this script.
fn scripted(
    annotations: &[(&str, &str)],
    script: Vec<Step>,
) -> anyhow::Result<(Site, RawBackend, TestAgent)> {
    let backend = RawBackend::scripted(script)?;
    let site = Site::new(&[annotated(annotations)])?;
    site.manifests.endpoints("web", &[backend.address()])?;
    let agent = site.start()?;
    Ok((site, backend, agent))
}

/// Four of these take longer than the timeout; one of them does not, by far, so that a machine that stalls changes nothing.
const GAP: Duration = Duration::from_secs(2);
const LONGER_THAN_A_GAP: &str = "7";

fn head() -> Step {
    Step::Expect(b"\r\n\r\n".to_vec())
}

#[test]
fn a_backend_that_does_not_answer_in_time_is_504() -> Done {
    let (_site, _backend, agent) = scripted(&[("proxy-read-timeout", "1")], vec![head()])?;
    let begun = Instant::now();
    let answer = agent.get("http://web.test/")?;
    assert_eq!((answer.status, answer.reason()), (504, "response_timeout"));
    assert!(
        begun.elapsed() >= Duration::from_millis(900),
        "{:?}",
        begun.elapsed()
    );
    Ok(())
}

#[test]
fn the_read_timeout_counts_between_two_reads_not_in_total() -> Done {
    let mut script = vec![
        head(),
        Step::Send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n".to_vec()),
    ];
    for byte in b"slow" {
        script.extend([Step::Wait(GAP), Step::Send(vec![*byte])]);
    }
    let (_site, _backend, agent) = scripted(&[("proxy-read-timeout", LONGER_THAN_A_GAP)], script)?;
    let answer = agent.get("http://web.test/")?;
    assert_eq!((answer.status, answer.text().as_str()), (200, "slow"));
    Ok(())
}

#[test]
fn a_backend_that_does_not_accept_in_time_is_504_connect_timeout() -> Done {
    // TLS that is never answered: the TCP connection comes about, the connection to the backend does not.
    let annotations = &[("proxy-connect-timeout", "1"), ("backend-protocol", "HTTPS")];
    let (_site, _backend, agent) = scripted(annotations, Vec::new())?;
    let answer = agent.get("http://web.test/")?;
    assert_eq!((answer.status, answer.reason()), (504, "connect_timeout"));
    Ok(())
}

#[test]
fn a_backend_that_does_not_take_the_request_in_time_is_504() -> Done {
    // Nothing is read for longer than the timeout, and the body is larger than what sockets hold.
    let annotations = &[("proxy-send-timeout", "1"), ("proxy-body-size", "0")];
    let (_site, _backend, agent) = scripted(annotations, vec![Step::Until(Gate::new())])?;
    // Larger than what the sockets of a generous machine hold.
    let answer = agent.ask(Request::post("http://web.test/", vec![b'x'; 96 << 20])?)?;
    assert_eq!((answer.status, answer.reason()), (504, "response_timeout"));
    Ok(())
}

#[test]
fn the_send_timeout_counts_between_two_writes_not_in_total() -> Done {
    // The backend answers after the whole body; the client sends it in pieces that take longer than the timeout in all.
    let (_site, agent) = serving(&[("proxy-send-timeout", LONGER_THAN_A_GAP)])?;
    let mut client = RawClient::connect(agent.http)?;
    client.send("POST / HTTP/1.1\r\nHost: web.test\r\nContent-Length: 4\r\nConnection: close\r\n\r\n")?;
    for byte in b"slow" {
        std::thread::sleep(GAP);
        client.send([*byte])?;
    }
    let answer = String::from_utf8(client.read_to_end()?)?;
    assert!(
        answer.starts_with("HTTP/1.1 200 ") && answer.contains("\"bodyLength\":4"),
        "{answer}"
    );
    Ok(())
}
