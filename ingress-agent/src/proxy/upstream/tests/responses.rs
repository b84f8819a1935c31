//! What backends may and may not say.

use super::*;

/// Sends a GET to a backend that answers with these bytes and closes.
async fn answered(answer: &[u8]) -> Result<Reply, Failed> {
    let (backend, upstreams) = (Backend::start().await, upstreams());
    let (reply, ()) = tokio::join!(
        Ask::get(&backend).send(&upstreams),
        backend.answer_and_close(answer)
    );
    assert_eq!(
        upstreams.stats().idle,
        0,
        "kept in spite of {:?}",
        String::from_utf8_lossy(answer)
    );
    reply
}

async fn refused(answer: &[u8]) {
    let error = match answered(answer).await {
        Err(failed) => failed.error,
        Ok(reply) => collect(response(Ok(reply))).await.expect_err("accepted"),
    };
    assert!(
        protocol_error(&error),
        "{:?}: {error}",
        String::from_utf8_lossy(answer)
    );
}

#[test]
fn a_response_with_conflicting_or_repeated_lengths_is_refused() {
    run(async {
        for fields in [
            "Content-Length: 1\r\nContent-Length: 2",
            "Content-Length: 1\r\nContent-Length: 1",
            "Content-Length: 1, 1",
            "Content-Length: +1",
            "Content-Length: -1",
            "Content-Length: 0x1",
            "Content-Length:",
            "Content-Length: 18446744073709551616",
            "Content-Length: 1\r\nTransfer-Encoding: chunked",
        ] {
            refused(format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\na").as_bytes()).await;
        }
    });
}

#[test]
fn a_transfer_encoding_other_than_chunked_is_refused() {
    run(async {
        for coding in [
            "gzip, chunked",
            "chunked, chunked",
            "identity",
            "xchunked",
            "chunked;a=b",
            "",
            "\x0bchunked",
        ] {
            refused(format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: {coding}\r\n\r\n0\r\n\r\n").as_bytes())
                .await;
        }
        refused(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        )
        .await;
        refused(b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n").await;
    });
}

#[test]
fn a_malformed_head_is_refused() {
    run(async {
        for head in [
            "HTTP/1.1 200 OK\nContent-Length: 0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 0\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\n",
            "HTTP/1.1 200 OK\r\nA: b\rContent-Length: 0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nA: b\r\n folded\r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.1 200 OK\r\n A: b\r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nA: b\0c\r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nA : b\r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.1 200 OK\r\n: b\r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nA\r\nContent-Length: 0\r\n\r\n",
            "\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.1  200 OK\r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.1 20 OK\r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.1 2000 OK\r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.1 099 OK\r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.1 200 O\0K\r\nContent-Length: 0\r\n\r\n",
            "HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.2 200 OK\r\nContent-Length: 0\r\n\r\n",
            "http/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
            "SSH-2.0-OpenSSH_9.2\r\n",
        ] {
            refused(head.as_bytes()).await;
        }
    });
}

#[test]
fn an_oversize_head_is_refused() {
    run(async {
        let value = "a".repeat(response_head::MAX_HEAD);
        refused(format!("HTTP/1.1 200 OK\r\nA: {value}\r\n\r\n").as_bytes()).await;
        let fields = "A: b\r\n".repeat(response_head::MAX_FIELDS + 1);
        refused(format!("HTTP/1.1 200 OK\r\n{fields}\r\n").as_bytes()).await;
    });
}

#[test]
fn a_head_with_as_many_fields_as_allowed_passes() {
    run(async {
        let fields = "A: b\r\n".repeat(response_head::MAX_FIELDS - 1);
        let reply =
            answered(format!("HTTP/1.1 200 OK\r\nConnection: close\r\n{fields}\r\n").as_bytes()).await;
        assert_eq!(response(reply).headers().len(), response_head::MAX_FIELDS - 1);
    });
}

#[test]
fn a_flood_of_interim_responses_is_refused() {
    run(async {
        let flood = "HTTP/1.1 103 Early Hints\r\n\r\n".repeat(17);
        refused(format!("{flood}HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").as_bytes()).await;
    });
}

#[test]
fn interim_responses_are_told_in_order_and_the_final_one_is_the_answer() {
    run(async {
        let (backend, upstreams) = (Backend::start().await, upstreams());
        let ask = Ask::get(&backend);
        let seen = Rc::clone(&ask.informational);
        let answer = b"HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
        let (reply, ()) = tokio::join!(ask.send(&upstreams), backend.answer_and_close(answer));
        assert_eq!(response(reply).status(), 200);
        assert_eq!(seen.take(), [StatusCode::PROCESSING, StatusCode::EARLY_HINTS]);
    });
}

#[test]
fn a_101_that_was_not_asked_for_is_refused() {
    run(async {
        refused(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")
            .await;
    });
}

#[test]
fn bytes_after_the_response_are_refused() {
    run(async {
        refused(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nab").await;
        refused(b"HTTP/1.1 204 No Content\r\n\r\na").await;
        refused(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\nb").await;
        refused(b"HTTP/1.1 304 Not Modified\r\nContent-Length: 1\r\n\r\na").await;
    });
}

#[test]
fn bad_chunks_and_trailers_are_refused() {
    run(async {
        for body in [
            "x\r\na\r\n0\r\n\r\n",
            "1\na\r\n0\r\n\r\n",
            "1 \r\na\r\n0\r\n\r\n",
            "+1\r\na\r\n0\r\n\r\n",
            "0x1\r\na\r\n0\r\n\r\n",
            "\r\na\r\n0\r\n\r\n",
            "10000000000000001\r\na\r\n0\r\n\r\n",
            "1\r\nab\r\n0\r\n\r\n",
            "1\r\na\n0\r\n\r\n",
            "1;a\0b\r\na\r\n0\r\n\r\n",
            "1;a\rb\r\na\r\n0\r\n\r\n",
            "0\r\nbad trailer\r\n\r\n",
            "0\r\na: b\n\r\n",
            "0\r\na: b\r\n c\r\n\r\n",
            "0\r\n\n",
        ] {
            refused(format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{body}").as_bytes()).await;
        }
        let line = format!("1;{}", "a".repeat(2000));
        refused(format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{line}").as_bytes()).await;
    });
}

#[test]
fn a_connection_that_ends_within_the_head_is_a_reset() {
    run(async {
        for head in ["", "HTTP/1.1 2", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n"] {
            let failed = failure(answered(head.as_bytes()).await);
            assert_eq!(failed.error, ProxyError::UpstreamReset { idle: false });
            assert!(failed.sent && failed.body.is_some());
        }
    });
}

#[test]
fn a_body_that_ends_early_is_never_a_clean_end() {
    run(async {
        for rest in [
            "Content-Length: 3\r\n\r\nab",
            "Content-Length: 3\r\n\r\n",
            "Transfer-Encoding: chunked\r\n\r\n5\r\nab",
            "Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n",
            "Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n",
        ] {
            let reply = answered(format!("HTTP/1.1 200 OK\r\n{rest}").as_bytes()).await;
            let error = collect(response(reply)).await.unwrap_err();
            assert_eq!(error, ProxyError::UpstreamReset { idle: false }, "{rest}");
        }
    });
}

#[test]
fn a_body_without_a_length_ends_with_its_connection() {
    run(async {
        for version in ["1.0", "1.1"] {
            let reply = answered(format!("HTTP/{version} 200 OK\r\n\r\nall of it").as_bytes()).await;
            assert_eq!(text(response(reply)).await, "all of it");
        }
    });
}

#[test]
fn a_chunked_body_arrives_with_its_trailers_and_without_its_extensions() {
    run(async {
        let answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum\r\nConnection: close\r\n\r\nA;x=y\r\n0123456789\r\n0\r\nX-Sum: 7\r\nContent-Length: 9\r\n\r\n";
        let collected = collect(response(answered(answer).await)).await.unwrap();
        let trailers = collected.trailers().unwrap().clone();
        assert_eq!(trailers["x-sum"], "7");
        assert_eq!(trailers.len(), 1);
        assert_eq!(collected.to_bytes(), "0123456789");
    });
}

#[test]
fn responses_that_have_no_body_have_none() {
    run(async {
        let (backend, upstreams) = (Backend::start().await, upstreams());
        let script = async {
            let mut peer = backend.accept().await;
            for answer in [
                "HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n",
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
                "HTTP/1.1 304 Not Modified\r\nContent-Length: 99\r\n\r\n",
                "HTTP/1.1 204 No Content\r\n\r\n",
            ] {
                peer.read_head().await;
                peer.write(answer.as_bytes()).await;
            }
        };
        let asks = async {
            for (method, length) in [
                (Method::HEAD, Some("99")),
                (Method::HEAD, None),
                (Method::GET, Some("99")),
                (Method::GET, None),
            ] {
                let ask = Ask {
                    method,
                    ..Ask::get(&backend)
                };
                let response = response(ask.send(&upstreams).await);
                let told = response
                    .headers()
                    .get("content-length")
                    .map(|value| value.to_str().unwrap());
                assert_eq!(told, length);
                assert!(response.body().is_end_stream());
            }
        };
        tokio::join!(asks, script);
        assert_eq!(upstreams.stats().created, 1);
    });
}

#[test]
fn repeated_fields_stay_and_connection_level_fields_go() {
    run(async {
        let answer = b"HTTP/1.1 200 OK\r\nSet-Cookie: a=1\r\nConnection: close, X-Hop\r\nSet-Cookie: b=2\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\nContent-Length: 0\r\n\r\n";
        let response = response(answered(answer).await);
        let cookies: Vec<_> = response.headers().get_all("set-cookie").iter().collect();
        assert_eq!(cookies, ["a=1", "b=2"]);
        assert_eq!(response.headers().len(), 3);
    });
}

#[test]
fn a_backend_that_says_nothing_is_given_up_after_the_read_timeout() {
    run(async {
        let (backend, upstreams) = (Backend::start().await, upstreams());
        let mut ask = Ask::get(&backend);
        ask.timeouts.read = Duration::from_millis(30);
        let (reply, ()) = tokio::join!(ask.send(&upstreams), async {
            backend.accept().await.closed().await;
        });
        assert_eq!(failure(reply).error, ProxyError::ResponseTimeout);
        assert_eq!(upstreams.stats().open, 0);
    });
}

#[test]
fn the_read_timeout_counts_between_two_reads_and_not_in_total() {
    run(async {
        let (backend, upstreams) = (Backend::start().await, upstreams());
        let mut ask = Ask::get(&backend);
        ask.timeouts.read = Duration::from_millis(200);
        virtual_time();
        let started = tokio::time::Instant::now();
        let answer = async { text(response(ask.send(&upstreams).await)).await };
        let (body, ()) = tokio::join!(answer, async {
            let mut peer = backend.accept().await;
            peer.read_head().await;
            peer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n").await;
            for _ in 0..8 {
                // The pace of a slow backend is the subject here.
                tokio::time::sleep(Duration::from_millis(40)).await;
                peer.write(b"x").await;
            }
        });
        assert_eq!(body, "xxxxxxxx");
        assert!(started.elapsed() > Duration::from_millis(200));
    });
}

#[test]
fn a_body_that_stalls_fails_after_the_read_timeout() {
    run(async {
        let (backend, upstreams) = (Backend::start().await, upstreams());
        let mut ask = Ask::get(&backend);
        ask.timeouts.read = Duration::from_millis(30);
        let answer = async { collect(response(ask.send(&upstreams).await)).await };
        let (body, ()) = tokio::join!(answer, async {
            let mut peer = backend.accept().await;
            peer.read_head().await;
            peer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nx").await;
            peer.closed().await;
        });
        assert_eq!(body.unwrap_err(), ProxyError::ResponseTimeout);
    });
}

#[test]
fn a_client_that_reads_slowly_holds_the_backend_back_and_is_no_timeout() {
    run(async {
        let (backend, upstreams) = (Backend::start().await, upstreams());
        let mut ask = Ask::get(&backend);
        ask.timeouts.read = Duration::from_millis(30);
        virtual_time();
        const SIZE: usize = 32 << 20;
        let (reply, mut peer) = tokio::join!(ask.send(&upstreams), async {
            let mut peer = backend.accept().await;
            peer.read_head().await;
            peer.write(format!("HTTP/1.1 200 OK\r\nContent-Length: {SIZE}\r\n\r\n").as_bytes())
                .await;
            peer
        });
        let written = Cell::new(0);
        let writer = async {
            let block = vec![0; 64 * 1024];
            while written.get() < SIZE {
                written.set(
                    written.get()
                        + peer
                            .0
                            .write(&block[..block.len().min(SIZE - written.get())])
                            .await
                            .unwrap(),
                );
            }
        };
        let reader = async {
            // Nobody asks for the body: longer than the limit, and nothing may happen.
            tokio::time::sleep(Duration::from_millis(100)).await;
            assert!(written.get() < SIZE, "read ahead without bound");
            collect(response(reply)).await.unwrap().to_bytes().len()
        };
        let ((), length) = tokio::join!(writer, reader);
        assert_eq!(length, SIZE);
        assert_eq!(upstreams.stats().idle, 1);
    });
}
