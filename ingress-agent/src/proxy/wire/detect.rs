//! What a connection speaks, from its first bytes. Owns no connection state beyond them.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};

/// The client's connection preface (RFC 9113 3.4).
pub const H2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What the first bytes of a cleartext connection say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speaks {
    /// Could be a request line: the [`Server`](super::Server) judges it, and answers.
    Http1,
    /// The whole client preface: for the HTTP/2 [`Server`](super::http2::Server).
    Http2,
    /// A TLS record on a plain port: write [`TLS_ALERT`] and close.
    Tls,
    /// Nothing came, or nothing that could become a request: close.
    Garbage,
}

/// A fatal `unexpected_message` alert (RFC 8446 6): the one answer that a TLS client on a plain port can read.
pub const TLS_ALERT: &[u8] = &[0x15, 0x03, 0x01, 0x00, 0x02, 0x02, 0x0a];

/// How long the peer has for the bytes that decide, and what was read: the gate must start with them.
pub async fn detect<S: AsyncRead + Unpin>(io: &mut S, wait: Duration) -> io::Result<(Speaks, Vec<u8>)> {
    let mut first = Vec::with_capacity(1024);
    let reading = async {
        loop {
            if let Some(speaks) = judge(&first) {
                return io::Result::Ok(speaks);
            }
            if io.read_buf(&mut first).await? == 0 {
                return Ok(at_end(&first));
            }
        }
    };
    let speaks = match tokio::time::timeout(wait, reading).await {
        Ok(speaks) => speaks?,
        Err(_elapsed) => at_end(&first),
    };
    Ok((speaks, first))
}

/// For a TLS port: the first bytes are a plain HTTP request, to be answered with [`last_answer`](super::last_answer).
pub fn is_plain_http(first: &[u8]) -> bool {
    let method = first.iter().take_while(|b| b.is_ascii_uppercase()).count();
    (3..=16).contains(&method) && first.get(method) == Some(&b' ')
}

/// None while more bytes are needed.
fn judge(first: &[u8]) -> Option<Speaks> {
    match first {
        [] => None,
        [0x16] => None,
        [0x16, 0x03, ..] => Some(Speaks::Tls),
        _ if first.starts_with(H2_PREFACE) => Some(Speaks::Http2),
        _ if H2_PREFACE.starts_with(first) => None,
        // Whitespace before a request line is no request, but it is text: its sender can read an answer.
        [b, ..] if b.is_ascii_graphic() || b.is_ascii_whitespace() => Some(Speaks::Http1),
        _ => Some(Speaks::Garbage),
    }
}

/// The peer stopped in the middle of what could have been more.
fn at_end(first: &[u8]) -> Speaks {
    match first {
        [] | [0x16] => Speaks::Garbage,
        _ => judge(first).unwrap_or(Speaks::Http1),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncWriteExt, duplex};

    use super::*;
    use crate::proxy::wire::{Limits, Refusal, last_answer};

    async fn speaks(pieces: &[&[u8]]) -> (Speaks, Vec<u8>) {
        let (mut client, mut server) = duplex(1);
        let sending = async {
            for piece in pieces {
                let _ = client.write_all(piece).await;
            }
            let _ = client.shutdown().await;
        };
        tokio::select! {
            detected = detect(&mut server, Duration::from_secs(5)) => detected.unwrap(),
            () = async { sending.await; std::future::pending().await } => unreachable!(),
        }
    }

    #[tokio::test]
    async fn the_first_bytes_say_what_a_connection_speaks() {
        assert_eq!(speaks(&[b"G"]).await, (Speaks::Http1, b"G".to_vec()));
        assert_eq!(
            speaks(&[b"PRI * HTTP/2.0\r\n\r\n", b"SM\r\n\r\n"]).await,
            (Speaks::Http2, H2_PREFACE.to_vec())
        );
        assert_eq!(speaks(&[b"PRI * HTTP/2.0\r\n\r\nX"]).await.0, Speaks::Http1);
        assert_eq!(speaks(&[b"PR"]).await.0, Speaks::Http1);
        assert_eq!(speaks(&[b"\x16\x03\x01"]).await.0, Speaks::Tls);
        assert_eq!(speaks(&[b"\r\nGET"]).await.0, Speaks::Http1);
        for garbage in [&b""[..], b"\x16", b"\x16\x02", b"\0", b"\xff\xfe"] {
            assert_eq!(
                speaks(&[garbage]).await.0,
                Speaks::Garbage,
                "{}",
                garbage.escape_ascii()
            );
        }
    }

    #[tokio::test]
    async fn a_silent_client_is_garbage_when_its_time_is_over() {
        let (_client, mut server) = duplex(1);
        let detected = detect(&mut server, Duration::from_millis(20)).await.unwrap();
        assert_eq!(detected, (Speaks::Garbage, Vec::new()));
    }

    #[test]
    fn plain_http_on_a_tls_port_is_recognised_and_told_so() {
        assert!(is_plain_http(b"GET / HTTP/1.1\r\n") && is_plain_http(b"OPTIONS *"));
        assert!(!is_plain_http(b"\x16\x03\x01\x02\x00") && !is_plain_http(b"GE") && !is_plain_http(b"get /"));
        let refusal = Refusal::bad("plain HTTP on a TLS port");
        let answer = String::from_utf8(last_answer(refusal, &Limits::default())).unwrap();
        assert!(answer.starts_with("HTTP/1.1 400 Bad Request\r\n"));
        assert!(answer.contains("\r\nx-ingress-agent-reason: bad_request\r\n"));
    }
}
