//! WebSocket, PROXY protocol, TLS and HTTP/2 towards backends.

use std::convert::Infallible;

use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio_rustls::TlsAcceptor;

use super::*;

#[derive(Clone)]
struct Spawn;

impl<F: Future<Output = ()> + 'static> hyper::rt::Executor<F> for Spawn {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(future);
    }
}

#[test]
fn a_websocket_upgrade_gives_the_connection_with_its_early_bytes() {
    run(async {
        let (backend, upstreams) = (Backend::start().await, upstreams());
        let ask = Ask {
            websocket: true,
            ..Ask::get(&backend)
        };
        let (reply, mut peer) = tokio::join!(ask.send(&upstreams), async {
            let mut peer = backend.accept().await;
            let head = peer.read_head().await;
            assert!(
                head.contains("\r\nconnection: Upgrade\r\nupgrade: websocket\r\n"),
                "{head}"
            );
            peer.write(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: WebSocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: x\r\n\r\nearly").await;
            peer
        });
        let Ok(Reply {
            answer: Answer::Upgraded { response, mut io },
            ..
        }) = reply
        else {
            panic!("no upgrade");
        };
        assert_eq!(response.fields.text("sec-websocket-accept"), Some("x"));
        let mut early = [0; 5];
        io.read_exact(&mut early).await.unwrap();
        assert_eq!(&early, b"early");
        io.write_all(b"ping").await.unwrap();
        assert_eq!(peer.read_text(4).await, "ping");
        assert_eq!(upstreams.stats().open, 1);
        drop(io);
        assert_eq!(upstreams.stats().open, 0);
    });
}

#[test]
fn a_101_without_the_upgrade_that_was_asked_for_is_refused() {
    run(async {
        for fields in [
            "",
            "Connection: Upgrade\r\n",
            "Upgrade: websocket\r\n",
            "Connection: Upgrade\r\nUpgrade: h2c\r\n",
        ] {
            let (backend, upstreams) = (Backend::start().await, upstreams());
            let ask = Ask {
                websocket: true,
                ..Ask::get(&backend)
            };
            let answer = format!("HTTP/1.1 101 Switching Protocols\r\n{fields}\r\n");
            let (reply, ()) = tokio::join!(ask.send(&upstreams), backend.answer_and_close(answer.as_bytes()));
            assert!(protocol_error(&failure(reply).error));
        }
    });
}

#[test]
fn the_proxy_header_comes_first_and_its_connection_is_never_kept() {
    run(async {
        let (backend, upstreams) = (Backend::start().await, upstreams());
        let header = ProxyHeader {
            source: "192.0.2.1:4660".parse().unwrap(),
            destination: "198.51.100.2:443".parse().unwrap(),
        };
        let mut expected = Vec::new();
        header.encode(&mut expected);
        let ask = Ask {
            proxy_header: Some(header),
            ..Ask::get(&backend)
        };
        let (reply, ()) = tokio::join!(ask.send(&upstreams), async {
            let mut peer = backend.accept().await;
            let mut got = vec![0; expected.len()];
            peer.0.read_exact(&mut got).await.unwrap();
            assert_eq!(got, expected);
            assert!(peer.read_head().await.starts_with("GET "));
            peer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
            peer.closed().await;
        });
        assert_eq!(response(reply).status(), 200);
        assert_eq!(upstreams.stats().open, 0);
    });
}

/// A self-signed certificate that nobody could verify.
fn acceptor(protocol: &[u8]) -> TlsAcceptor {
    TlsAcceptor::from(Arc::new(server_config(protocol)))
}

fn server_config(protocol: &[u8]) -> rustls::ServerConfig {
    let signed = rcgen::generate_simple_self_signed(vec!["elsewhere.example".to_owned()]).unwrap();
    let key = rustls_pki_types::PrivateKeyDer::try_from(signed.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![signed.cert.der().clone()], key)
        .unwrap();
    config.alpn_protocols = vec![protocol.to_vec()];
    config
}

/// Sends these bytes in the same flight as the end of its handshake: before any request can be there. Gives what it got within TLS.
fn speak_first(listener: &std::net::TcpListener, words: &[u8]) -> Vec<u8> {
    use std::io::{Read, Write};
    let (mut tcp, _) = listener.accept().unwrap();
    let mut config = server_config(b"http/1.1");
    config.send_half_rtt_data = true;
    let mut tls = rustls::ServerConnection::new(Arc::new(config)).unwrap();
    while !tls.wants_write() {
        tls.read_tls(&mut tcp).unwrap();
        tls.process_new_packets().unwrap();
    }
    tls.writer().write_all(words).unwrap();
    let mut flight = Vec::new();
    while tls.wants_write() {
        tls.write_tls(&mut flight).unwrap();
    }
    tcp.write_all(&flight).unwrap();
    while tls.read_tls(&mut tcp).is_ok_and(|length| length > 0) {
        tls.process_new_packets().unwrap();
    }
    let mut got = Vec::new();
    let _ = tls.reader().read_to_end(&mut got);
    got
}

#[test]
fn bytes_that_come_before_the_first_request_are_not_taken_for_its_answer() {
    run(async {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let (backend, upstreams) = (Backend::start().await, upstreams());
        let ask = Ask {
            address: listener.local_addr().unwrap(),
            protocol: Protocol::Https,
            ..Ask::post(&backend, text_body("hello"))
        };
        let poison = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison";
        let speaking = std::thread::spawn(move || speak_first(&listener, poison));
        let failed = failure(ask.send(&upstreams).await);
        assert!(protocol_error(&failed.error), "{}", failed.error);
        assert!(!failed.sent && failed.body.is_some());
        assert_eq!(upstreams.stats().open, 0, "it is not used, now or later");
        let got = tokio::task::spawn_blocking(|| speaking.join().unwrap()).await;
        assert_eq!(got.unwrap(), b"");
    });
}

#[test]
fn what_a_new_connection_without_tls_has_to_say_is_heard_before_anything_is_sent() {
    run(async {
        let backend = Backend::start().await;
        let (connected, mut peer) = tokio::join!(TcpStream::connect(backend.address), backend.accept());
        let mut transport = io::Transport::Plain(connected.unwrap());
        assert!(!transport.has_spoken());
        peer.write(b"HTTP/1.1 200 OK\r\n").await;
        assert!(transport.has_spoken());
    });
}

#[test]
fn a_tls_backend_is_reached_whatever_its_certificate_says_and_its_connection_is_kept() {
    run(async {
        let (backend, upstreams) = (Backend::start().await, upstreams());
        let asks = async {
            for _ in 0..2 {
                let ask = Ask {
                    protocol: Protocol::Https,
                    ..Ask::get(&backend)
                };
                assert_eq!(text(response(ask.send(&upstreams).await)).await, "ok");
            }
        };
        tokio::join!(asks, async {
            let mut stream = acceptor(b"http/1.1")
                .accept(backend.accept().await.0)
                .await
                .unwrap();
            assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
            for _ in 0..2 {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(stream.read_u8().await.unwrap());
                }
                stream
                    .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
                    .await
                    .unwrap();
                stream.flush().await.unwrap();
            }
        });
        assert_eq!(upstreams.stats().reused, 1);
    });
}

#[test]
fn the_server_name_is_told_and_the_next_connection_resumes_the_session() {
    run(async {
        let (backend, upstreams) = (Backend::start().await, upstreams());
        let acceptor = acceptor(b"http/1.1");
        for kind in [rustls::HandshakeKind::Full, rustls::HandshakeKind::Resumed] {
            let ask = Ask {
                protocol: Protocol::Https,
                server_name: Some("api.example"),
                ..Ask::get(&backend)
            };
            let (reply, ()) = tokio::join!(ask.send(&upstreams), async {
                let mut stream = acceptor.accept(backend.accept().await.0).await.unwrap();
                assert_eq!(stream.get_ref().1.server_name(), Some("api.example"));
                let full = stream.get_ref().1.handshake_kind() != Some(rustls::HandshakeKind::Resumed);
                assert_eq!(full, kind != rustls::HandshakeKind::Resumed);
                while stream.read_u8().await.unwrap() != b'\n' {}
                stream
                    .write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
                    .await
                    .unwrap();
                stream.flush().await.unwrap();
            });
            assert_eq!(response(reply).status(), 200);
        }
    });
}

#[test]
fn a_tls_body_without_a_length_that_is_cut_off_is_no_clean_end() {
    run(async {
        let (backend, upstreams) = (Backend::start().await, upstreams());
        let ask = Ask {
            protocol: Protocol::Https,
            ..Ask::get(&backend)
        };
        let answer = async { collect(response(ask.send(&upstreams).await)).await };
        let (body, ()) = tokio::join!(answer, async {
            let mut stream = acceptor(b"http/1.1")
                .accept(backend.accept().await.0)
                .await
                .unwrap();
            while stream.read_u8().await.unwrap() != b'\n' {}
            stream.write_all(b"HTTP/1.1 200 OK\r\n\r\npart").await.unwrap();
            stream.flush().await.unwrap();
        });
        assert_eq!(body.unwrap_err(), ProxyError::UpstreamReset { idle: false });
    });
}

#[test]
fn an_http2_backend_that_says_nothing_is_given_up_after_the_read_timeout() {
    run(async {
        let (backend, upstreams) = (Backend::start().await, upstreams());
        let mut ask = Ask {
            protocol: Protocol::H2c,
            ..Ask::get(&backend)
        };
        ask.timeouts.read = Duration::from_millis(50);
        let (reply, _peer) = tokio::join!(ask.send(&upstreams), backend.accept());
        assert_eq!(failure(reply).error, ProxyError::ResponseTimeout);
    });
}

#[test]
fn a_refused_http2_burst_fails_for_all_at_once() {
    run(async {
        let (backend, upstreams) = (Backend::start().await, upstreams());
        let asks = [(); 3].map(|()| Ask {
            protocol: Protocol::H2c,
            ..Ask::get(&backend)
        });
        drop(backend);
        for task in asks.map(|ask| {
            let upstreams = upstreams.clone();
            tokio::task::spawn_local(async move { failure(ask.send(&upstreams).await) })
        }) {
            let failed = task.await.unwrap();
            assert!(matches!(failed.error, ProxyError::ConnectFailed(_)));
            assert!(failed.body.is_some());
        }
        assert_eq!(upstreams.stats().created, 0);
    });
}

#[test]
fn a_body_over_its_limit_is_the_clients_fault_over_http2_too() {
    run(async {
        let (backend, upstreams) = (Backend::start().await, upstreams());
        let (sender, body) = RequestBody::script(None, Some(8));
        data(&sender, "hello");
        data(&sender, "world");
        let ask = Ask {
            protocol: Protocol::H2c,
            ..Ask::post(&backend, body)
        };
        let serve = async { serve_http2(TokioIo::new(backend.accept().await.0)) };
        let (reply, ()) = tokio::join!(ask.send(&upstreams), serve);
        let error = match reply {
            Err(failed) => failed.error,
            Ok(reply) => collect(response(Ok(reply))).await.unwrap_err(),
        };
        assert_eq!(error, ProxyError::BodyTooLarge);
    });
}

#[test]
fn a_backend_that_speaks_no_tls_is_a_tls_failure_and_nothing_was_sent() {
    run(async {
        let (backend, upstreams) = (Backend::start().await, upstreams());
        let ask = Ask {
            protocol: Protocol::Https,
            ..Ask::get(&backend)
        };
        let (reply, ()) = tokio::join!(ask.send(&upstreams), async {
            let mut peer = backend.accept().await;
            peer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
            peer.closed().await;
        });
        let failed = failure(reply);
        assert!(
            matches!(failed.error, ProxyError::UpstreamTls(_)),
            "{}",
            failed.error
        );
        assert!(!failed.sent && failed.body.is_some());
    });
}

#[test]
fn a_tls_handshake_that_stalls_is_given_up_after_the_connect_timeout() {
    run(async {
        let (backend, upstreams) = (Backend::start().await, upstreams());
        let mut ask = Ask {
            protocol: Protocol::Https,
            ..Ask::get(&backend)
        };
        ask.timeouts.connect = Duration::from_millis(30);
        let (reply, _peer) = tokio::join!(ask.send(&upstreams), backend.accept());
        assert_eq!(failure(reply).error, ProxyError::ConnectTimeout);
    });
}

/// Serves one connection with hyper's HTTP/2: echoes the body, with a trailer.
fn serve_http2(stream: impl hyper::rt::Read + hyper::rt::Write + Unpin + 'static) {
    let service = hyper::service::service_fn(|request: http::Request<Incoming>| async move {
        let method = request.method().clone();
        let body = request.into_body().map_frame(|frame| frame);
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
        let trailers = (method == Method::POST).then_some(Ok(trailers));
        Ok::<_, Infallible>(http::Response::new(
            body.with_trailers(std::future::ready(trailers)),
        ))
    });
    let connection = hyper::server::conn::http2::Builder::new(Spawn).serve_connection(stream, service);
    tokio::task::spawn_local(async move {
        let _ = connection.await;
    });
}

#[test]
fn http2_requests_share_one_connection_and_trailers_pass() {
    run(async {
        let (backend, upstreams) = (Backend::start().await, upstreams());
        let asks = async {
            for _ in 0..2 {
                let (sender, body) = RequestBody::script(None, None);
                data(&sender, "hello");
                drop(sender);
                let ask = Ask {
                    protocol: Protocol::H2c,
                    ..Ask::post(&backend, body)
                };
                let collected = collect(response(ask.send(&upstreams).await)).await.unwrap();
                assert_eq!(collected.trailers().unwrap()["grpc-status"], "0");
                assert_eq!(collected.to_bytes(), "hello");
            }
        };
        let serve = async { serve_http2(TokioIo::new(backend.accept().await.0)) };
        tokio::join!(asks, serve);
        let expected = PoolStats {
            idle: 1,
            open: 1,
            created: 1,
            reused: 1,
        };
        assert_eq!(upstreams.stats(), expected);
    });
}

#[test]
fn a_burst_of_http2_requests_makes_only_as_many_connections_as_their_streams_need() {
    run(async {
        let settings = Settings {
            streams_per_connection: 4,
            ..Settings::default()
        };
        let upstreams = Upstreams::new(settings, Arc::new(IdleBudget::default()));
        let backend = Backend::start().await;
        let tasks: Vec<_> = (0..8)
            .map(|_| {
                let ask = Ask {
                    protocol: Protocol::H2c,
                    ..Ask::get(&backend)
                };
                let upstreams = upstreams.clone();
                tokio::task::spawn_local(async move { response(ask.send(&upstreams).await) })
            })
            .collect();
        let serve = async {
            loop {
                serve_http2(TokioIo::new(backend.accept().await.0));
            }
        };
        let all = async {
            for task in tasks {
                task.await.unwrap();
            }
        };
        tokio::select! { () = serve => {}, () = all => {} }
        assert_eq!(upstreams.stats().created, 2);
    });
}

#[test]
fn http2_over_tls_is_chosen_by_alpn() {
    run(async {
        let (backend, upstreams) = (Backend::start().await, upstreams());
        let ask = Ask {
            protocol: Protocol::H2,
            ..Ask::get(&backend)
        };
        let (reply, ()) = tokio::join!(ask.send(&upstreams), async {
            let stream = acceptor(b"h2").accept(backend.accept().await.0).await.unwrap();
            assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
            serve_http2(TokioIo::new(stream));
        });
        assert_eq!(response(reply).status(), 200);
    });
}

#[test]
fn an_http2_connection_that_ended_is_replaced() {
    run(async {
        let (backend, upstreams) = (Backend::start().await, upstreams());
        for _ in 0..2 {
            let ask = Ask {
                protocol: Protocol::H2c,
                ..Ask::get(&backend)
            };
            let (reply, task) = tokio::join!(ask.send(&upstreams), async {
                let stream = TokioIo::new(backend.accept().await.0);
                let service = hyper::service::service_fn(|_| async {
                    Ok::<_, Infallible>(http::Response::new(String::new()))
                });
                let connection =
                    hyper::server::conn::http2::Builder::new(Spawn).serve_connection(stream, service);
                Some(tokio::task::spawn_local(async move {
                    let _ = connection.await;
                }))
            });
            let task = task.unwrap();
            assert_eq!(text(response(reply)).await, "");
            task.abort();
            let _ = task.await;
            let_reactor_look().await;
        }
        assert_eq!(upstreams.stats().created, 2);
    });
}

#[test]
fn a_request_that_an_http2_backend_did_not_look_at_is_given_back_whole() {
    const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];
    const REFUSED_STREAM: &[u8] = &[0, 0, 4, 3, 0, 0, 0, 0, 1, 0, 0, 0, 7];
    const GOAWAY: &[u8] = &[0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    const CANCELLED: &[u8] = &[0, 0, 4, 3, 0, 0, 0, 0, 1, 0, 0, 0, 8];
    run(async {
        for (frame, sent) in [(REFUSED_STREAM, false), (GOAWAY, false), (CANCELLED, true)] {
            let (backend, upstreams) = (Backend::start().await, upstreams());
            let ask = Ask {
                protocol: Protocol::H2c,
                ..Ask::post(&backend, text_body("hello"))
            };
            let (reply, _peer) = tokio::join!(ask.send(&upstreams), async {
                let mut peer = backend.accept().await;
                peer.write(SETTINGS).await;
                let mut seen = Vec::new();
                while !seen.ends_with(b"hello") {
                    seen.push(peer.0.read_u8().await.unwrap());
                }
                peer.write(frame).await;
                peer
            });
            let failed = failure(reply);
            assert_eq!(failed.error, ProxyError::UpstreamReset { idle: false });
            assert_eq!(failed.sent, sent);
            let body = failed.body.unwrap();
            assert_eq!(body.collect().await.unwrap().to_bytes(), "hello");
        }
    });
}
