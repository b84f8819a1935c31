//! What backends get.

use ingress_core::filter::{Forwarding, Hop};

use super::*;

const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

#[test]
fn a_request_reaches_the_backend_with_its_fields_in_order_and_the_extra_ones_last() {
    run(async {
        let (backend, upstreams) = (Backend::start().await, upstreams());
        let mut ask = Ask::get(&backend)
            .header("accept", "*/*")
            .header("x-a", "1")
            .header("x-a", "2");
        let hop = Hop {
            peer: [192, 0, 2, 1].into(),
            peer_text: b"192.0.2.1",
            https: true,
            host: b"shop",
            port: b"443".as_slice().into(),
            request_id: 1,
        };
        let (forwarding, none) = (Forwarding::default(), Fields::default());
        let client = forwarding.client(&hop, &none);
        ask.extra = Some(forwarding.fields(&hop, &client, &none));
        let (reply, head) = tokio::join!(ask.send(&upstreams), async {
            let mut peer = backend.accept().await;
            let head = peer.read_head().await;
            peer.write(OK).await;
            head
        });
        let expected = "GET /a?b=c HTTP/1.1\r\nhost: shop.example\r\naccept: */*\r\nx-a: 1\r\nx-a: 2\r\n\
            x-forwarded-scheme: https\r\nx-forwarded-proto: https\r\nx-real-ip: 192.0.2.1\r\nx-forwarded-for: 192.0.2.1\r\n\
            x-forwarded-host: shop\r\nx-forwarded-port: 443\r\nx-request-id: 00000000000000000000000000000001\r\n\r\n";
        assert_eq!(head, expected);
        assert_eq!(text(response(reply)).await, "ok");
    });
}

#[test]
fn a_body_of_known_length_keeps_its_length() {
    run(async {
        let (backend, upstreams) = (Backend::start().await, upstreams());
        // What the client wrote about lengths is passed over: the body decides.
        let ask = Ask::post(&backend, text_body("hello")).header("content-length", "5");
        let (reply, seen) = tokio::join!(ask.send(&upstreams), async {
            let mut peer = backend.accept().await;
            let head = peer.read_head().await;
            let body = peer.read_text(5).await;
            peer.write(OK).await;
            head + &body
        });
        assert_eq!(
            seen,
            "POST /a?b=c HTTP/1.1\r\nhost: shop.example\r\ncontent-length: 5\r\n\r\nhello"
        );
        assert_eq!(response(reply).status(), 200);
        assert_eq!(upstreams.stats().idle, 1);
    });
}

#[test]
fn a_body_of_unknown_length_goes_out_in_chunks_with_its_trailers() {
    run(async {
        let (backend, upstreams) = (Backend::start().await, upstreams());
        let (sender, body) = RequestBody::script(None, None);
        data(&sender, "hello");
        data(&sender, "0123456789abcdef0");
        let mut trailers = HeaderMap::new();
        trailers.insert("x-sum", HeaderValue::from_static("7"));
        sender.send(Ok(Frame::trailers(trailers))).unwrap();
        let expected = "5\r\nhello\r\n11\r\n0123456789abcdef0\r\n0\r\nx-sum: 7\r\n\r\n";
        let (reply, seen) = tokio::join!(Ask::post(&backend, body).send(&upstreams), async {
            let mut peer = backend.accept().await;
            assert!(
                peer.read_head()
                    .await
                    .contains("\r\ntransfer-encoding: chunked\r\n")
            );
            let body = peer.read_text(expected.len()).await;
            peer.write(OK).await;
            body
        });
        assert_eq!(seen, expected);
        assert_eq!(text(response(reply)).await, "ok");
        assert_eq!(upstreams.stats().idle, 1);
    });
}

#[test]
fn a_post_without_a_body_says_that_there_is_none() {
    run(async {
        let (backend, upstreams) = (Backend::start().await, upstreams());
        let ask = Ask::post(&backend, RequestBody::empty());
        let (_, head) = tokio::join!(ask.send(&upstreams), async {
            let mut peer = backend.accept().await;
            let head = peer.read_head().await;
            peer.write(OK).await;
            head
        });
        assert!(head.ends_with("\r\ncontent-length: 0\r\n\r\n"), "{head}");
    });
}

#[test]
fn a_target_that_could_split_the_request_line_is_never_sent() {
    let mut out = Vec::new();
    let head = RequestHead {
        method: &Method::GET,
        target: "/a HTTP/1.1\r\nx: y",
        host: b"a",
        fields: &Fields::default(),
        extra: None,
        websocket: false,
    };
    let written = request_head::write_head(&mut out, &head, request_head::UploadFraming::None, false);
    assert!(matches!(written, Err(ProxyError::BadRequest(_))));
    assert!(out.is_empty());
}

#[test]
fn a_body_with_an_expectation_waits_for_the_backends_100() {
    run(async {
        let (backend, upstreams) = (Backend::start().await, upstreams());
        let ask = Ask::post(&backend, text_body("hello")).header("expect", "100-continue");
        let informational = Rc::clone(&ask.informational);
        let (reply, ()) = tokio::join!(ask.send(&upstreams), async {
            let mut peer = backend.accept().await;
            assert!(peer.read_head().await.contains("\r\nexpect: 100-continue\r\n"));
            let_reactor_look().await;
            let early = peer.0.try_read(&mut [0; 8]).map_err(|error| error.kind());
            assert_eq!(early, Err(std::io::ErrorKind::WouldBlock));
            peer.write(b"HTTP/1.1 100 Continue\r\n\r\n").await;
            assert_eq!(peer.read_text(5).await, "hello");
            peer.write(OK).await;
        });
        assert_eq!(response(reply).status(), 200);
        assert_eq!(informational.take(), [StatusCode::CONTINUE]);
    });
}

#[test]
fn a_body_whose_expectation_is_refused_is_never_sent_and_the_connection_not_used_again() {
    run(async {
        let (backend, upstreams) = (Backend::start().await, upstreams());
        let (sender, body) = RequestBody::script(Some(5), None);
        data(&sender, "hello");
        let ask = Ask::post(&backend, body).header("expect", "100-continue");
        let send = async {
            let reply = ask.send(&upstreams).await;
            assert_eq!(upstreams.stats().idle, 0);
            reply
        };
        let (reply, ()) = tokio::join!(send, async {
            let mut peer = backend.accept().await;
            peer.read_head().await;
            peer.write(b"HTTP/1.1 417 No\r\nContent-Length: 0\r\n\r\n").await;
            assert_eq!(peer.0.read(&mut [0; 8]).await.unwrap(), 0);
        });
        assert_eq!(response(reply).status(), 417);
        assert_eq!(upstreams.stats().open, 0);
    });
}

#[test]
fn a_backend_that_ignores_an_expectation_gets_the_body_after_a_while() {
    run(async {
        let settings = Settings {
            continue_wait: Duration::from_millis(20),
            ..Settings::default()
        };
        let upstreams = Upstreams::new(settings, Arc::new(IdleBudget::default()));
        let backend = Backend::start().await;
        let ask = Ask::post(&backend, text_body("hello")).header("expect", "100-continue");
        let (reply, ()) = tokio::join!(ask.send(&upstreams), async {
            let mut peer = backend.accept().await;
            peer.read_head().await;
            assert_eq!(peer.read_text(5).await, "hello");
            peer.write(OK).await;
        });
        assert_eq!(response(reply).status(), 200);
    });
}

#[test]
fn an_early_answer_is_passed_on_while_the_body_is_still_on_its_way() {
    run(async {
        let (backend, upstreams) = (Backend::start().await, upstreams());
        let (sender, body) = RequestBody::script(Some(10), None);
        data(&sender, "hello");
        let ask = Ask::post(&backend, body);
        let (reply, mut peer) = tokio::join!(ask.send(&upstreams), async {
            let mut peer = backend.accept().await;
            peer.read_head().await;
            assert_eq!(peer.read_text(5).await, "hello");
            peer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n")
                .await;
            peer
        });
        let mut answer = response(reply).into_body();
        let first = answer.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(first, "one");
        data(&sender, "world");
        let (rest, ()) = tokio::join!(answer.collect(), async {
            assert_eq!(peer.read_text(5).await, "world");
            peer.write(b"3\r\ntwo\r\n0\r\n\r\n").await;
        });
        assert_eq!(rest.unwrap().to_bytes(), "two");
        assert_eq!(upstreams.stats().idle, 1);
    });
}

#[test]
fn a_body_over_its_limit_fails_as_too_large() {
    run(async {
        let (backend, upstreams) = (Backend::start().await, upstreams());
        let (sender, body) = RequestBody::script(None, Some(8));
        data(&sender, "hello");
        data(&sender, "world");
        let ask = Ask::post(&backend, body);
        let (reply, ()) = tokio::join!(ask.send(&upstreams), async {
            backend.accept().await.closed().await;
        });
        assert_eq!(failure(reply).error, ProxyError::BodyTooLarge);
    });
}

#[test]
fn a_slow_client_is_not_the_backends_timeout() {
    run(async {
        let (backend, upstreams) = (Backend::start().await, upstreams());
        let (sender, body) = RequestBody::script(Some(5), None);
        let mut ask = Ask::post(&backend, body);
        ask.timeouts.read = Duration::from_millis(20);
        ask.timeouts.send = Duration::from_millis(20);
        virtual_time();
        let (reply, ()) = tokio::join!(ask.send(&upstreams), async {
            let mut peer = backend.accept().await;
            peer.read_head().await;
            // Longer than every limit: that nothing happens is what is tested.
            tokio::time::sleep(Duration::from_millis(80)).await;
            data(&sender, "hello");
            assert_eq!(peer.read_text(5).await, "hello");
            peer.write(OK).await;
        });
        assert_eq!(response(reply).status(), 200);
    });
}

#[test]
fn a_backend_that_takes_no_more_of_the_body_is_given_up_after_the_send_timeout() {
    run(async {
        let (backend, upstreams) = (Backend::start().await, upstreams());
        let (sender, body) = RequestBody::script(None, None);
        for _ in 0..64 {
            sender
                .send(Ok(Frame::data(Bytes::from(vec![0; 1 << 20]))))
                .unwrap();
        }
        let mut ask = Ask::post(&backend, body);
        ask.timeouts.send = Duration::from_millis(50);
        let (reply, _peer) = tokio::join!(ask.send(&upstreams), backend.accept());
        let failed = failure(reply);
        assert_eq!(failed.error, ProxyError::ResponseTimeout);
        assert!(failed.sent && failed.body.is_none());
        assert!(sender.is_closed());
    });
}

#[test]
fn a_large_body_in_odd_chunks_arrives_in_order_at_a_backend_that_reads_slowly() {
    run(async {
        let (backend, upstreams) = (Backend::start().await, upstreams());
        let (sender, body) = RequestBody::script(None, None);
        let mut expected = Vec::new();
        for (index, letter) in (0..600_usize).zip((b'a'..=b'z').cycle()) {
            let chunk = vec![letter; 1 + (index * 7919) % 20_000];
            expected.extend(format!("{:x}\r\n", chunk.len()).into_bytes());
            expected.extend(&chunk);
            expected.extend(b"\r\n");
            sender.send(Ok(Frame::data(Bytes::from(chunk)))).unwrap();
        }
        drop(sender);
        expected.extend(b"0\r\n\r\n");
        let (reply, seen) = tokio::join!(Ask::post(&backend, body).send(&upstreams), async {
            let mut peer = backend.accept().await;
            socket2::SockRef::from(&peer.0)
                .set_recv_buffer_size(64 * 1024)
                .unwrap();
            peer.read_head().await;
            let mut seen = Vec::<u8>::new();
            let mut piece = [0; 8191];
            while seen.len() < expected.len() {
                let length = peer.0.read(&mut piece).await.unwrap();
                assert_ne!(length, 0);
                seen.extend(&piece[..length]);
            }
            peer.write(OK).await;
            seen
        });
        assert!(seen == expected, "the bytes differ");
        assert_eq!(response(reply).status(), 200);
    });
}
