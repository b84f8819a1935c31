//! The HTTP/1 server and the HTTP/2 server, byte for byte.

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode};
use http_body::Body;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use ingress_core::reason::Reason;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::task::{JoinHandle, LocalSet, spawn_local};

use super::{ClientBody, ClientStream, End, GateHandle, Server, http2};
use crate::proxy::prefixed::Prefixed;
use crate::proxy::wire::{Limits, h2};

const PATIENCE: Duration = Duration::from_secs(20);

/// A connection with its gate, hyper and an echo service.
struct Served {
    client: DuplexStream,
    handle: GateHandle,
    /// Method, path and body of what reached the service.
    seen: Rc<RefCell<Vec<String>>>,
    connection: JoinHandle<std::io::Result<()>>,
}

fn serve(limits: Limits, pipe: usize) -> Served {
    let (client, server) = duplex(pipe);
    let (server, handle) = Server::new(ClientStream::Pipe(server), &[], Arc::new(limits));
    let seen = Rc::new(RefCell::new(Vec::new()));
    let service = {
        let (handle, seen) = (handle.clone(), seen.clone());
        move |request| echo(request, handle.clone(), seen.clone())
    };
    let connection = spawn_local(async move {
        let ended = server.serve_http(service).await;
        if ended.as_ref().is_ok_and(|end| *end == End::Tunnel) {
            let (stream, early) = server.into_stream().unwrap();
            shout(Prefixed::with(early, stream)).await;
        } else {
            let _ = server.shutdown().await;
        }
        ended.map(|_| ())
    });
    Served {
        client,
        handle,
        seen,
        connection,
    }
}

/// Echoes bytes in upper case.
async fn shout(mut io: Prefixed<ClientStream>) {
    let mut bytes = [0; 100];
    while let Ok(length @ 1..) = io.read(&mut bytes).await {
        io.write_all(&bytes[..length].to_ascii_uppercase()).await.unwrap();
    }
    io.shutdown().await.unwrap();
}

async fn echo<B: Body>(
    request: Request<B>,
    handle: GateHandle,
    seen: Rc<RefCell<Vec<String>>>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let line = format!("{} {}", request.method(), request.uri());
    match request.uri().path() {
        "/hint" => {
            assert!(handle.send_informational(b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n"));
            tokio::task::yield_now().await;
        }
        "/early" => return Ok(Response::new(Full::from("early"))),
        "/large" => return Ok(Response::new(Full::from(vec![b'x'; 1 << 20]))),
        "/ws" => return Ok(tunnel(&request)),
        _ => {}
    }
    let answer = match request.into_body().collect().await {
        Ok(body) => {
            let body = body.to_bytes();
            let shown = if body.len() > 100 {
                body.len().to_string()
            } else {
                body.escape_ascii().to_string()
            };
            seen.borrow_mut().push(format!("{line} {shown}"));
            Response::new(Full::from(body))
        }
        Err(_) => {
            let reason = handle
                .refusal()
                .map_or(Reason::ClientClosed, |refusal| refusal.reason);
            seen.borrow_mut()
                .push(format!("{line} broken: {}", reason.code()));
            let mut answer = Response::new(Full::from(reason.code()));
            *answer.status_mut() = reason.status();
            answer
                .headers_mut()
                .insert("connection", HeaderValue::from_static("close"));
            answer
        }
    };
    Ok(answer)
}

fn tunnel<B>(request: &Request<B>) -> Response<Full<Bytes>> {
    let mut answer = Response::new(Full::default());
    if request.headers().contains_key("no") {
        *answer.status_mut() = StatusCode::FORBIDDEN;
        return answer;
    }
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    answer
        .headers_mut()
        .insert("upgrade", HeaderValue::from_static("websocket"));
    answer
        .headers_mut()
        .insert("connection", HeaderValue::from_static("upgrade"));
    answer
}

/// Everything is in memory, so time can be the runtime's own: it passes only while nobody has anything to do.
fn run<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap();
    let bounded = async {
        tokio::time::timeout(PATIENCE, test)
            .await
            .expect("the test hangs")
    };
    LocalSet::new().block_on(&runtime, bounded)
}

/// What the client reads until the end, without dates.
async fn rest(client: &mut DuplexStream) -> String {
    let mut bytes = Vec::new();
    client.read_to_end(&mut bytes).await.unwrap();
    text(&bytes)
}

fn text(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    text.split_inclusive("\r\n")
        .filter(|line| !line.starts_with("date: "))
        .collect()
}

async fn read_until(client: &mut DuplexStream, end: &str) -> String {
    let mut bytes = Vec::new();
    while !text(&bytes).ends_with(end) {
        assert_ne!(
            client.read_buf(&mut bytes).await.unwrap(),
            0,
            "ended after {:?}",
            text(&bytes)
        );
    }
    text(&bytes)
}

fn ok(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

fn own(status: &str, code: &str) -> String {
    format!(
        "HTTP/1.1 {status}\r\ncontent-type: text/plain\r\ncontent-length: {}\r\nconnection: close\r\nx-ingress-agent-reason: {code}\r\n\r\n{code}\n",
        code.len() + 1
    )
}

const GOOD: &str = "POST /good HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\ngood";
const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";

fn quick() -> Limits {
    let short = Duration::from_millis(30);
    Limits {
        head_wait: short,
        idle_wait: short,
        body_gap: short,
        write_stall: short,
        ..Limits::default()
    }
}

fn patient() -> Limits {
    Limits {
        linger_wait: Duration::from_millis(30),
        ..Limits::default()
    }
}

#[test]
fn pipelined_requests_are_answered_in_order_however_they_are_cut() {
    for pipe in [1, 2, 7, 64, 1 << 16] {
        run(async {
            let served = serve(patient(), pipe);
            let chunked = "POST /c HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2;e\r\nab\r\n0\r\nT: v\r\n\r\n";
            let stream = format!(
                "{GOOD}{chunked}\r\nGET /last HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n{SMUGGLED}"
            );
            let (mut reader, mut writer) = tokio::io::split(served.client);
            let writing = spawn_local(async move { writer.write_all(stream.as_bytes()).await });
            let mut bytes = Vec::new();
            reader.read_to_end(&mut bytes).await.unwrap();
            let last = "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
            assert_eq!(text(&bytes), format!("{}{}{last}", ok("good"), ok("ab")));
            assert_eq!(
                *served.seen.borrow(),
                ["POST /good good", "POST /c ab", "GET /last "]
            );
            drop(reader);
            let _ = writing.await;
            served.connection.await.unwrap().unwrap();
            assert_eq!(served.handle.refusal(), None);
        });
    }
}

#[test]
fn nothing_after_a_refused_message_is_interpreted_and_what_was_before_is_answered() {
    let bad = [
        ("GET /b HTTP/1.1\r\n\r\n", "400 Bad Request", "bad_request"),
        (
            "GET /b HTTP/1.1\r\nHost: a\nX: y\r\n\r\n",
            "400 Bad Request",
            "bad_request",
        ),
        (
            "GET /b#c HTTP/1.1\r\nHost: a\r\n\r\n",
            "400 Bad Request",
            "bad_request",
        ),
        (
            "GET /b HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
            "400 Bad Request",
            "bad_request",
        ),
        (
            "GET /b HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n",
            "400 Bad Request",
            "bad_request",
        ),
        (
            "POST /b HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nContent-Length: 0\r\n\r\n",
            "400 Bad Request",
            "bad_request",
        ),
        (
            "POST /b HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "400 Bad Request",
            "bad_request",
        ),
        (
            "POST /b HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\n\r\n",
            "400 Bad Request",
            "bad_request",
        ),
        (
            "POST /b HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nHost: a\r\n\r\n",
            "400 Bad Request",
            "bad_request",
        ),
        (
            "POST /b HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n",
            "501 Not Implemented",
            "not_implemented",
        ),
        (
            "CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n",
            "501 Not Implemented",
            "not_implemented",
        ),
        (
            "TRACE / HTTP/1.1\r\nHost: a\r\n\r\n",
            "501 Not Implemented",
            "not_implemented",
        ),
        (
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            "400 Bad Request",
            "bad_request",
        ),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n\r\n",
            "400 Bad Request",
            "bad_request",
        ),
    ];
    for (request, status, code) in bad {
        run(async {
            let mut served = serve(patient(), 1 << 16);
            served
                .client
                .write_all(format!("{GOOD}{request}{SMUGGLED}").as_bytes())
                .await
                .unwrap();
            served.client.shutdown().await.unwrap();
            assert_eq!(
                rest(&mut served.client).await,
                ok("good") + &own(status, code),
                "{request}"
            );
            assert_eq!(*served.seen.borrow(), ["POST /good good"]);
            assert_eq!(served.handle.refusal().unwrap().reason.code(), code);
            served.connection.await.unwrap().unwrap();
        });
    }
}

#[test]
fn oversize_heads_get_414_and_431() {
    run(async {
        let long = "a".repeat(70_000);
        for (request, status, code) in [
            (format!("GET /{long}"), "414 URI Too Long", "uri_too_long"),
            (
                format!("GET / HTTP/1.1\r\nHost: a\r\nX: {long}"),
                "431 Request Header Fields Too Large",
                "headers_too_large",
            ),
        ] {
            let mut served = serve(patient(), 1 << 20);
            served.client.write_all(request.as_bytes()).await.unwrap();
            assert_eq!(rest(&mut served.client).await, own(status, code));
        }
    });
}

#[test]
fn a_refused_body_breaks_the_request_and_the_service_answers_with_the_reason() {
    run(async {
        let mut served = serve(patient(), 1 << 16);
        let head = "POST /b HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n";
        served.client.write_all(head.as_bytes()).await.unwrap();
        while !served.handle.in_request() {
            tokio::task::yield_now().await;
        }
        served
            .client
            .write_all(format!("g\r\n{SMUGGLED}").as_bytes())
            .await
            .unwrap();
        let answer = rest(&mut served.client).await;
        assert_eq!(
            answer,
            "HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 11\r\n\r\nbad_request"
        );
        assert_eq!(*served.seen.borrow(), ["POST /b broken: bad_request"]);
    });
}

#[test]
fn a_slow_head_gets_408_and_a_silent_client_nothing() {
    run(async {
        let mut served = serve(quick(), 1 << 16);
        served.client.write_all(b"GET / HTTP/1.1\r\nHo").await.unwrap();
        assert_eq!(
            rest(&mut served.client).await,
            own("408 Request Timeout", "request_timeout")
        );

        let mut served = serve(quick(), 1 << 16);
        assert_eq!(rest(&mut served.client).await, "");
        assert_eq!(served.handle.refusal(), None);

        let mut served = serve(quick(), 1 << 16);
        served
            .client
            .write_all(format!("{GOOD}\r\n").as_bytes())
            .await
            .unwrap();
        assert_eq!(
            rest(&mut served.client).await,
            ok("good"),
            "an idle connection closes silently"
        );

        let mut served = serve(quick(), 1 << 16);
        served
            .client
            .write_all(format!("{GOOD}GET").as_bytes())
            .await
            .unwrap();
        assert_eq!(
            rest(&mut served.client).await,
            ok("good") + &own("408 Request Timeout", "request_timeout")
        );
    });
}

#[test]
fn a_slow_body_is_given_up_with_408() {
    run(async {
        let mut served = serve(quick(), 1 << 16);
        served
            .client
            .write_all(b"POST /b HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nab")
            .await
            .unwrap();
        assert!(rest(&mut served.client).await.starts_with("HTTP/1.1 408 "));
        assert_eq!(*served.seen.borrow(), ["POST /b broken: request_timeout"]);
    });
}

#[test]
fn a_client_that_does_not_read_is_cut_off() {
    run(async {
        let mut served = serve(quick(), 1000);
        served
            .client
            .write_all(b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n")
            .await
            .unwrap();
        assert!(served.connection.await.unwrap().is_err());
    });
}

#[test]
fn a_half_closed_client_still_gets_its_answer() {
    run(async {
        let mut served = serve(patient(), 1 << 16);
        served.client.write_all(GOOD.as_bytes()).await.unwrap();
        served.client.shutdown().await.unwrap();
        assert_eq!(rest(&mut served.client).await, ok("good"));
        assert!(served.handle.peer_closed());
    });
}

#[test]
fn a_head_or_body_that_ends_early_is_never_a_request() {
    run(async {
        let mut served = serve(patient(), 1 << 16);
        served
            .client
            .write_all(b"GET / HTTP/1.1\r\nHost: a\r\n")
            .await
            .unwrap();
        served.client.shutdown().await.unwrap();
        assert_eq!(
            rest(&mut served.client).await,
            own("400 Bad Request", "bad_request")
        );
        assert!(served.seen.borrow().is_empty());

        let mut served = serve(patient(), 1 << 16);
        served
            .client
            .write_all(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nab")
            .await
            .unwrap();
        served.client.shutdown().await.unwrap();
        rest(&mut served.client).await;
        assert_eq!(*served.seen.borrow(), ["POST / broken: client_closed"]);
    });
}

#[test]
fn a_client_that_vanishes_in_any_phase_costs_only_its_connection() {
    let stream = format!(
        "{GOOD}POST /hint HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n"
    );
    for cut in 0..=stream.len() {
        run(async {
            let mut served = serve(patient(), 1 << 16);
            served.client.write_all(&stream.as_bytes()[..cut]).await.unwrap();
            drop(served.client);
            let _ = served.connection.await.unwrap();
            let whole = |request: &str| served.seen.borrow().iter().any(|seen| seen == request);
            assert!(cut >= GOOD.len() || !whole("POST /good good"));
            assert!(cut == stream.len() || !whole("POST /hint a"));
        });
    }
}

#[test]
fn informational_heads_go_out_before_the_final_one() {
    run(async {
        let mut served = serve(patient(), 1 << 16);
        let hint = "GET /hint HTTP/1.1\r\nHost: a\r\n\r\n";
        served
            .client
            .write_all(format!("{GOOD}{hint}{GOOD}").as_bytes())
            .await
            .unwrap();
        served.client.shutdown().await.unwrap();
        let hinted = "HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n".to_owned() + &ok("");
        assert_eq!(rest(&mut served.client).await, ok("good") + &hinted + &ok("good"));
        assert!(
            !served
                .handle
                .send_informational(b"HTTP/1.1 103 Early Hints\r\n\r\n")
        );
    });
}

#[test]
fn an_expected_continue_is_answered_before_the_body_and_beside_hints() {
    run(async {
        let mut served = serve(patient(), 1 << 16);
        let head = "POST /hint HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n";
        served.client.write_all(head.as_bytes()).await.unwrap();
        let first = read_until(&mut served.client, "HTTP/1.1 100 Continue\r\n\r\n").await;
        assert_eq!(
            first,
            "HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n"
        );
        served.client.write_all(b"ab").await.unwrap();
        served.client.shutdown().await.unwrap();
        assert_eq!(rest(&mut served.client).await, ok("ab"));
    });
}

const HANDSHAKE: &str = "GET /ws HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n";

#[test]
fn a_tunnel_passes_every_byte_unexamined_those_sent_early_too() {
    run(async {
        let mut served = serve(patient(), 1 << 16);
        served
            .client
            .write_all(format!("{HANDSHAKE}\r\nnot\0http\n").as_bytes())
            .await
            .unwrap();
        let answer = read_until(&mut served.client, "NOT\0HTTP\n").await;
        assert!(answer.starts_with("HTTP/1.1 101 Switching Protocols\r\n"));
        served.client.write_all(b"more\r").await.unwrap();
        assert_eq!(read_until(&mut served.client, "MORE\r").await, "MORE\r");
        served.client.shutdown().await.unwrap();
        assert_eq!(rest(&mut served.client).await, "");
    });
}

#[test]
fn after_a_handshake_that_was_not_granted_requests_are_judged_again() {
    run(async {
        let mut served = serve(patient(), 1 << 16);
        let stream = format!("{HANDSHAKE}no: 1\r\n\r\n{GOOD}bad\0");
        served.client.write_all(stream.as_bytes()).await.unwrap();
        let refused = "HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n".to_owned();
        let own = own("400 Bad Request", "bad_request");
        assert_eq!(rest(&mut served.client).await, refused + &ok("good") + &own);
    });
}

#[test]
fn h2c_is_never_an_upgrade() {
    run(async {
        let mut served = serve(patient(), 1 << 16);
        let head = "GET /h HTTP/1.1\r\nHost: a\r\nUpgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABk\r\n\r\n";
        served
            .client
            .write_all(format!("{head}{GOOD}").as_bytes())
            .await
            .unwrap();
        served.client.shutdown().await.unwrap();
        assert_eq!(rest(&mut served.client).await, ok("") + &ok("good"));
    });
}

#[test]
fn draining_closes_a_busy_connection_after_its_answer_and_an_idle_one_after_a_request_that_was_under_way() {
    run(async {
        for late in ["", GOOD] {
            let mut served = serve(patient(), 1 << 16);
            served.client.write_all(GOOD.as_bytes()).await.unwrap();
            read_until(&mut served.client, "good").await;
            let start = tokio::time::Instant::now();
            served.handle.begin_drain();
            tokio::time::sleep(Duration::from_millis(900)).await;
            served.client.write_all(late.as_bytes()).await.unwrap();
            let answered = if late.is_empty() {
                String::new()
            } else {
                ok("good")
            };
            assert_eq!(rest(&mut served.client).await, answered);
            // This service does not say that it was the last request, so the next one is waited for again.
            assert!(start.elapsed() < Duration::from_secs(2));
        }

        let mut served = serve(patient(), 1 << 16);
        served
            .client
            .write_all(&GOOD.as_bytes()[..GOOD.len() - 2])
            .await
            .unwrap();
        while !served.handle.in_request() {
            tokio::task::yield_now().await;
        }
        served.handle.begin_drain();
        served.client.write_all(b"od").await.unwrap();
        assert_eq!(rest(&mut served.client).await, ok("good"));
    });
}

#[test]
fn a_refusal_reaches_a_client_that_still_sends_over_tcp() {
    run(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        spawn_local(async move {
            let (server, _) = listener.accept().await.unwrap();
            let stream = ClientStream::Plain(Prefixed::new(server));
            let (server, _handle) = Server::new(stream, &[], Arc::new(Limits::default()));
            let service = |_| async { Ok::<_, Infallible>(Response::new(Full::<Bytes>::default())) };
            let _ = server.serve_http(service).await;
            let _ = server.shutdown().await;
        });
        let mut client = tokio::net::TcpStream::connect(address).await.unwrap();
        client.write_all(b"GET / HTTP/1.1\r\nbad\r\n\r\n").await.unwrap();
        client.write_all(&[b'x'; 100_000]).await.unwrap();
        client.shutdown().await.unwrap();
        let mut bytes = Vec::new();
        client.read_to_end(&mut bytes).await.unwrap();
        assert_eq!(text(&bytes), own("400 Bad Request", "bad_request"));
    });
}

/// Ends when it is dropped.
struct Alive(Rc<Cell<bool>>);

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.set(false);
    }
}

#[test]
fn a_client_that_resets_while_its_backend_is_silent_ends_its_request_and_one_that_half_closes_does_not() {
    run(async {
        for (resets, sends_ahead) in [(true, ""), (true, SMUGGLED), (false, "")] {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let asked = Rc::new(Cell::new(0));
            let alive = Rc::new(Cell::new(false));
            let (counter, life) = (asked.clone(), alive.clone());
            let connection = spawn_local(async move {
                let (server, _) = listener.accept().await.unwrap();
                let stream = ClientStream::Plain(Prefixed::new(server));
                let (server, _handle) = Server::new(stream, &[], Arc::new(patient()));
                let service = |_| {
                    counter.set(counter.get() + 1);
                    life.set(true);
                    let alive = Alive(life.clone());
                    async move {
                        tokio::time::sleep(PATIENCE * 2).await;
                        drop(alive);
                        Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
                    }
                };
                server.serve_http(service).await
            });
            let mut client = tokio::net::TcpStream::connect(address).await.unwrap();
            client
                .write_all(format!("{GOOD}{sends_ahead}").as_bytes())
                .await
                .unwrap();
            while !alive.get() {
                tokio::task::yield_now().await;
            }
            if resets {
                socket2::SockRef::from(&client)
                    .set_linger(Some(Duration::ZERO))
                    .unwrap();
                drop(client);
                assert!(connection.await.unwrap().is_err());
                assert!(!alive.get(), "the service ended with its client");
            } else {
                client.shutdown().await.unwrap();
                let still = tokio::time::timeout(Duration::from_millis(50), connection).await;
                assert!(still.is_err() && alive.get());
            }
            assert_eq!(asked.get(), 1, "what was sent ahead is not looked at");
        }
    });
}

#[test]
fn an_idle_connection_holds_no_buffer_and_a_small_future() {
    run(async {
        let (mut client, server) = duplex(1 << 16);
        let (server, _handle) = Server::new(ClientStream::Pipe(server), &[], Arc::new(patient()));
        let service =
            |_: Request<ClientBody>| async { Ok::<_, Infallible>(Response::new(Full::<Bytes>::default())) };
        let mut serving = Box::pin(server.serve_http(service));
        assert!(size_of_val(&*serving) <= 1024, "{}", size_of_val(&*serving));
        client.write_all(GOOD.as_bytes()).await.unwrap();
        let answer = async {
            tokio::select! {
                _ = &mut serving => panic!("the connection ended"),
                answer = read_until(&mut client, "\r\n\r\n") => answer,
            }
        };
        assert_eq!(answer.await, ok(""));
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        assert!(serving.as_mut().poll(&mut cx).is_pending());
        assert_eq!(server.buffered(), 0);
    });
}

#[test]
fn an_early_answer_to_a_body_that_still_comes_is_not_lost() {
    run(async {
        let mut served = serve(patient(), 1000);
        let head = "POST /early HTTP/1.1\r\nHost: a\r\nContent-Length: 50000\r\n\r\n";
        served.client.write_all(head.as_bytes()).await.unwrap();
        served.client.write_all(&[b'x'; 20_000]).await.unwrap();
        served.client.shutdown().await.unwrap();
        let answer = rest(&mut served.client).await;
        assert!(
            answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("early"),
            "{answer}"
        );
    });
}

#[test]
fn large_bodies_and_many_requests_pass_unchanged() {
    run(async {
        let served = serve(patient(), 1 << 16);
        let body: Vec<u8> = (0..4_000_000u32).map(|i| (i % 251) as u8).collect();
        let (mut reader, mut writer) = tokio::io::split(served.client);
        let sent = body.clone();
        spawn_local(async move {
            let head = format!(
                "POST /big HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n",
                sent.len()
            );
            writer.write_all(head.as_bytes()).await.unwrap();
            writer.write_all(&sent).await.unwrap();
            writer
                .write_all(b"POST /c HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
                .await
                .unwrap();
            for chunk in sent.chunks(9999) {
                writer
                    .write_all(format!("{:x}\r\n", chunk.len()).as_bytes())
                    .await
                    .unwrap();
                writer.write_all(chunk).await.unwrap();
                writer.write_all(b"\r\n").await.unwrap();
            }
            writer.write_all(b"0\r\n\r\n").await.unwrap();
            writer.write_all(GOOD.repeat(1000).as_bytes()).await.unwrap();
            writer.shutdown().await.unwrap();
        });
        let mut bytes = Vec::new();
        reader.read_to_end(&mut bytes).await.unwrap();
        assert_eq!(bytes.windows(8).filter(|w| w == b"HTTP/1.1").count(), 1002);
        let heads: usize = bytes.len() - 2 * body.len() - 4 * 1000;
        assert!(heads < 1002 * 100, "{heads}");
        let start = bytes.windows(4).position(|w| w == b"\r\n\r\n").unwrap() + 4;
        assert!(bytes[start..start + body.len()] == body);
        assert_eq!(served.seen.borrow().len(), 1002);
        assert_eq!(served.handle.bytes_written(), bytes.len() as u64);
    });
}

// HTTP/2

struct Served2 {
    client: DuplexStream,
    handle: GateHandle,
    connection: JoinHandle<std::io::Result<()>>,
}

#[derive(Clone)]
struct Local;

impl<F: Future + 'static> hyper::rt::Executor<F> for Local {
    fn execute(&self, future: F) {
        spawn_local(async move {
            future.await;
        });
    }
}

fn serve2(limits: Limits) -> Served2 {
    let (client, server) = duplex(1 << 16);
    let (server, handle) = http2::Server::new(ClientStream::Pipe(server), &[], Arc::new(limits), 200);
    let seen = Rc::default();
    let service = {
        let handle = handle.clone();
        move |request| echo(request, handle.clone(), Rc::clone(&seen))
    };
    Served2 {
        client,
        handle,
        connection: spawn_local(async move { server.serve_http(service).await }),
    }
}

#[test]
fn an_h2_client_moves_large_bodies_and_many_streams_without_meeting_a_budget() {
    run(async {
        let served = serve2(Limits::default());
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(Local, TokioIo::new(served.client))
                .await
                .unwrap();
        spawn_local(connection);
        let body = Bytes::from(vec![7u8; 3_000_000]);
        for size in [3_000_000].into_iter().chain(std::iter::repeat_n(10, 2000)) {
            let request = Request::post("http://a/x")
                .body(Full::new(body.slice(..size)))
                .unwrap();
            sender.ready().await.unwrap();
            let answer = sender.send_request(request).await.unwrap();
            assert!(answer.into_body().collect().await.unwrap().to_bytes() == body.slice(..size));
        }
        assert_eq!(served.handle.refusal(), None);
        drop(sender);
        served.connection.await.unwrap().unwrap();
        assert!(!served.handle.in_request());
    });
}

fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![
        0,
        0,
        u8::try_from(payload.len()).unwrap(),
        kind,
        flags,
        0,
        0,
        0,
        stream,
    ];
    frame.extend_from_slice(payload);
    frame
}

fn start() -> Vec<u8> {
    [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &frame(4, 0, 0, &[])].concat()
}

/// Sends, and says with which code the last frame, a GOAWAY, ends the connection.
async fn goaway(limits: Limits, bytes: Vec<u8>) -> (u32, Option<Reason>) {
    let served = serve2(limits);
    let (mut reader, mut writer) = tokio::io::split(served.client);
    let writing = spawn_local(async move {
        let _ = writer.write_all(&bytes).await;
        writer
    });
    let mut read = Vec::new();
    reader.read_to_end(&mut read).await.unwrap();
    writing.abort();
    let mut rest = &read[..];
    let mut last = rest;
    while !rest.is_empty() {
        let length = usize::from(rest[1]) * 256 + usize::from(rest[2]);
        (last, rest) = rest.split_at(9 + length);
    }
    assert_eq!(last[3], 7, "the last frame is a GOAWAY");
    let code = u32::from_be_bytes(last[13..17].try_into().unwrap());
    (code, served.handle.refusal().map(|refusal| refusal.reason))
}

#[test]
fn h2_abuse_ends_in_a_goaway_between_whole_frames() {
    let calm = h2::ErrorCode::EnhanceYourCalm.value();
    let floods = [
        ("PING", frame(6, 0, 0, &[0; 8])),
        ("SETTINGS", frame(4, 0, 0, &[])),
        ("PRIORITY", frame(2, 0, 1, &[0, 0, 0, 3, 0])),
        ("WINDOW_UPDATE", frame(8, 0, 0, &[0, 0, 0, 1])),
        ("unknown", frame(0xfa, 0, 0, &[0; 3])),
    ];
    for (name, flood) in floods {
        run(async {
            let bytes = [start(), flood.repeat(5000)].concat();
            assert_eq!(
                goaway(patient(), bytes).await,
                (calm, Some(Reason::RateLimited)),
                "{name}"
            );
        });
    }
}

#[test]
fn an_h2_connection_that_is_idle_or_stuck_in_a_head_gets_a_goaway() {
    run(async {
        assert_eq!(goaway(quick(), start()).await, (0, None));
        let stuck = [start(), frame(1, 0, 1, &[0x82])].concat();
        assert_eq!(goaway(quick(), stuck).await, (0, Some(Reason::RequestTimeout)));
        // A block in one frame is a head too, not the body that has longer.
        let limits = Limits {
            body_gap: PATIENCE * 2,
            ..quick()
        };
        let half = frame(1, 5, 1, b"\x82\x86\x84\x41\x01a");
        let stuck = [&start(), &half[..12]].concat();
        assert_eq!(goaway(limits, stuck).await, (0, Some(Reason::RequestTimeout)));
        let (code, _) = goaway(patient(), b"PRI * HTTP/2.0\r\n\r\nSMx".to_vec()).await;
        assert_eq!(code, h2::ErrorCode::Protocol.value());
    });
}

/// What the server sends until it ends or falls silent: kind, stream and payload of each frame.
async fn frames(
    reader: &mut tokio::io::ReadHalf<DuplexStream>,
    until: impl Fn(&(u8, u8, Vec<u8>)) -> bool,
) -> Vec<(u8, u8, Vec<u8>)> {
    let mut frames = Vec::new();
    while !frames.last().is_some_and(&until) {
        let mut header = [0; 9];
        reader.read_exact(&mut header).await.unwrap();
        let mut payload = vec![0; usize::from(header[1]) * 256 + usize::from(header[2])];
        reader.read_exact(&mut payload).await.unwrap();
        frames.push((header[3], header[8], payload));
    }
    frames
}

#[test]
fn an_upload_whose_pieces_never_end_with_a_frame_goes_on() {
    run(async {
        let limits = Limits {
            body_gap: Duration::from_millis(30),
            linger_wait: Duration::from_millis(30),
            ..Limits::default()
        };
        let mut served = serve2(limits);
        let ask = frame(1, 4, 1, b"\x83\x86\x84\x41\x01a");
        let data = frame(0, 0, 1, &[b'x'; 100]);
        let (half, rest) = data.split_at(50);
        let first = [start(), ask, half.to_vec()].concat();
        served.client.write_all(&first).await.unwrap();
        for _ in 0..20 {
            tokio::time::sleep(Duration::from_millis(20)).await;
            served.client.write_all(&[rest, half].concat()).await.unwrap();
        }
        assert_eq!(served.handle.refusal(), None);
        tokio::time::sleep(Duration::from_millis(40)).await;
        let refused = served.handle.refusal().map(|refusal| refusal.reason);
        assert_eq!(
            refused,
            Some(Reason::RequestTimeout),
            "and one that stands still does not"
        );
    });
}

#[test]
fn a_client_that_makes_its_table_smaller_is_told_that_it_is_empty() {
    run(async {
        let served = serve2(Limits::default());
        let (mut reader, mut writer) = tokio::io::split(served.client);
        let smaller = frame(4, 0, 0, &[0, 1, 0, 0, 0, 0]);
        writer.write_all(&[start(), smaller].concat()).await.unwrap();
        for (stream, begin) in [(1, 0x20), (3, 0x88)] {
            let ask = frame(1, 5, stream, b"\x82\x86\x84\x41\x01a");
            writer.write_all(&ask).await.unwrap();
            let seen = frames(&mut reader, |(kind, id, _)| *kind == 1 && *id == stream).await;
            assert_eq!(seen.last().unwrap().2[0], begin, "stream {stream}");
        }
    });
}

#[test]
fn data_on_a_stream_that_is_over_is_borne_as_far_as_it_was_on_its_way() {
    run(async {
        let served = serve2(Limits::default());
        let (mut reader, mut writer) = tokio::io::split(served.client);
        let ask = |flags, stream, method: &[u8]| {
            frame(
                1,
                flags,
                stream,
                &[method, b"\x86\x44\x06/early\x41\x01a"].concat(),
            )
        };
        writer
            .write_all(&[start(), ask(5, 1, b"\x82")].concat())
            .await
            .unwrap();
        frames(&mut reader, |(kind, id, _)| *kind == 0 && *id == 1).await;
        writer.write_all(&frame(0, 0, 1, b"late")).await.unwrap();
        let seen = frames(&mut reader, |(kind, ..)| *kind == 3).await;
        assert_eq!(seen.last().unwrap().2, [0, 0, 0, 5], "the client had ended it");

        writer.write_all(&ask(4, 3, b"\x83")).await.unwrap();
        let seen = frames(&mut reader, |(kind, id, _)| *kind == 3 && *id == 3).await;
        assert_eq!(seen.last().unwrap().2, [0, 0, 0, 0], "we had");
        let flood = frame(0, 0, 3, &[0; 250]);
        writer.write_all(&flood.repeat(256 * 1024 / 250)).await.unwrap();
        writer.write_all(&frame(6, 0, 0, &[7; 8])).await.unwrap();
        let seen = frames(&mut reader, |(kind, ..)| *kind == 6).await;
        assert!(seen.iter().all(|(kind, ..)| matches!(kind, 6 | 8)), "{seen:?}");
        writer.write_all(&flood.repeat(2)).await.unwrap();
        let seen = frames(&mut reader, |(kind, ..)| *kind == 7).await;
        assert_eq!(seen.last().unwrap().2[7], 5);
    });
}

#[test]
fn what_is_wrong_with_a_malformed_h2_request_is_told() {
    run(async {
        let served = serve2(Limits::default());
        let (mut reader, mut writer) = tokio::io::split(served.client);
        let no_path = frame(1, 5, 1, b"\x82\x86\x41\x01a");
        writer.write_all(&[start(), no_path].concat()).await.unwrap();
        let seen = frames(&mut reader, |(kind, ..)| *kind == 3).await;
        assert_eq!(seen.last().unwrap().2, [0, 0, 0, 1]);
        assert_eq!(served.handle.take_malformed(), ["no path"]);
        assert!(served.handle.take_malformed().is_empty());
    });
}
