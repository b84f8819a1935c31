//! What the server owes to others than the one who asks: requests behind this one, clients that know no chunks, bodies in other hands.

use std::cell::RefCell;
use std::convert::Infallible;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::net::TcpSocket;
use tokio::sync::Notify;
use tokio::task::{LocalSet, spawn_local};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::{ClientBody, ClientStream, Server};
use crate::proxy::prefixed::Prefixed;
use crate::proxy::wire::Limits;

type Answer = Response<UnsyncBoxBody<Bytes, &'static str>>;

fn run<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap();
    let bounded = async {
        tokio::time::timeout(Duration::from_secs(20), test)
            .await
            .expect("the test hangs")
    };
    LocalSet::new().block_on(&runtime, bounded)
}

fn serve<F>(service: impl FnMut(Request<ClientBody>) -> F + 'static) -> DuplexStream
where
    F: Future<Output = Result<Answer, Infallible>> + 'static,
{
    let (client, stream) = duplex(1 << 16);
    let (server, _) = Server::new(ClientStream::Pipe(stream), &[], Arc::new(Limits::default()));
    spawn_local(async move {
        let _ = server.serve_http(service).await;
        let _ = server.shutdown().await;
    });
    client
}

fn full(text: &str) -> Answer {
    let body = Full::new(Bytes::from(text.to_owned()));
    Response::new(body.map_err(|never| match never {}).boxed_unsync())
}

/// Pieces whose number nobody knows beforehand.
fn pieces(pieces: &'static [&'static str]) -> Answer {
    let frames = pieces.iter().map(|piece| Ok(Frame::data(Bytes::from(*piece))));
    Response::new(StreamBody::new(futures_util::stream::iter(frames)).boxed_unsync())
}

async fn all(mut client: DuplexStream) -> String {
    let mut bytes = Vec::new();
    client.read_to_end(&mut bytes).await.unwrap();
    let text = String::from_utf8(bytes).unwrap();
    text.split_inclusive("\r\n")
        .filter(|line| !line.starts_with("date: "))
        .collect()
}

/// As the task of an HTTP/2 backend's connection holds it, beyond the end of the response.
#[test]
fn a_body_that_somebody_still_holds_after_the_answer_reads_nothing_of_the_next_request() {
    for first in [
        "POST /1 HTTP/1.1\r\nHost: a\r\nContent-Length: 30\r\n\r\n012345678901234567890123456789",
        "POST /1 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n0\r\n\r\n",
    ] {
        run(async {
            let (go, stolen) = (Rc::new(Notify::new()), Rc::new(RefCell::new(Vec::new())));
            let service = {
                let (go, stolen) = (Rc::clone(&go), Rc::clone(&stolen));
                move |request: Request<ClientBody>| {
                    let (go, stolen) = (Rc::clone(&go), Rc::clone(&stolen));
                    async move {
                        if request.uri().path() == "/1" {
                            spawn_local(async move {
                                go.notified().await;
                                let read = request.into_body().collect().await;
                                stolen.borrow_mut().push(read.map(|read| read.to_bytes()));
                            });
                            return Ok(full("first"));
                        }
                        // Its head is here, and the other body is read before its own.
                        go.notify_one();
                        tokio::task::yield_now().await;
                        tokio::task::yield_now().await;
                        let own = request.into_body().collect().await.unwrap().to_bytes();
                        Ok(full(std::str::from_utf8(&own).unwrap()))
                    }
                }
            };
            let mut client = serve(service);
            let second =
                "POST /2 HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 6\r\n\r\nsecret";
            client
                .write_all(format!("{first}{second}").as_bytes())
                .await
                .unwrap();
            let answers = all(client).await;
            assert!(answers.ends_with("\r\n\r\nsecret"), "{answers}");
            let stolen = stolen.borrow();
            assert!(matches!(stolen[..], [Err(_)]), "{stolen:?}");
        });
    }
}

#[test]
fn a_body_that_somebody_still_holds_keeps_neither_its_holder_waiting_nor_the_connection_open() {
    run(async {
        let ended = Rc::new(RefCell::new(None));
        let service = {
            let ended = Rc::clone(&ended);
            move |request: Request<ClientBody>| {
                let ended = Rc::clone(&ended);
                async move {
                    let mut body = request.into_body();
                    spawn_local(async move {
                        while let Some(Ok(_)) = body.frame().await {}
                        *ended.borrow_mut() = Some(body);
                    });
                    tokio::task::yield_now().await;
                    Ok(full("early"))
                }
            }
        };
        let mut client = serve(service);
        let request = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 30\r\n\r\nhalf";
        client.write_all(request.as_bytes()).await.unwrap();
        let began = tokio::time::Instant::now();
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).await.unwrap();
        assert!(answer.ends_with(b"early"));
        // Nobody reads any more: the other end of the pipe is gone, although the body is still there.
        while client.write_all(b"x").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        assert!(ended.borrow().is_some());
        assert!(began.elapsed() < Duration::from_secs(10));
    });
}

#[test]
fn a_client_of_http_1_0_is_not_told_of_a_connection_that_will_not_be_kept() {
    run(async {
        let mut client = serve(|_| async { Ok(pieces(&["some", "how"])) });
        let request = "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n";
        client.write_all(request.as_bytes()).await.unwrap();
        assert_eq!(all(client).await, "HTTP/1.0 200 OK\r\n\r\nsomehow");
    });
}

#[test]
fn an_answer_that_leaves_the_rest_of_a_body_unread_tells_that_the_connection_ends() {
    for body in [
        "Content-Length: 30\r\n\r\nhalf",
        "Transfer-Encoding: chunked\r\n\r\n4\r\nha",
    ] {
        run(async {
            let mut client = serve(|_| async { Ok(full("no")) });
            let request = format!("POST / HTTP/1.1\r\nHost: a\r\n{body}");
            client.write_all(request.as_bytes()).await.unwrap();
            client.shutdown().await.unwrap();
            assert_eq!(
                all(client).await,
                "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nno",
                "{body}"
            );
        });
    }
}

/// Has ended, and says that there is more.
struct Liar;

impl http_body::Body for Liar {
    type Data = Bytes;
    type Error = &'static str;

    fn poll_frame(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<Frame<Bytes>, &'static str>>> {
        std::task::Poll::Ready(None)
    }

    fn is_end_stream(&self) -> bool {
        true
    }

    fn size_hint(&self) -> http_body::SizeHint {
        http_body::SizeHint::with_exact(5)
    }
}

#[test]
fn a_body_that_ends_before_it_begins_does_not_leave_the_next_answer_in_its_place() {
    run(async {
        let mut client = serve(|_| async { Ok(Response::new(Liar.boxed_unsync())) });
        let request = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        client.write_all(request.repeat(2).as_bytes()).await.unwrap();
        assert_eq!(all(client).await, "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n");
    });
}

/// What a session has encrypted has not left yet: the end of an answer must not wait there for the next one.
#[test]
fn the_last_bytes_of_an_answer_reach_a_slow_tls_client_whose_connection_is_kept() {
    const LENGTH: usize = 60_000;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let served = async {
        let (acceptor, connector) = tls();
        let listener = small(TcpSocket::new_v4().unwrap());
        listener.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = listener.listen(1).unwrap();
        let address = listener.local_addr().unwrap();
        spawn_local(async move {
            let (tcp, _) = listener.accept().await.unwrap();
            let stream = acceptor.accept(Prefixed::new(tcp)).await.unwrap();
            let stream = ClientStream::Tls(Box::new(stream));
            let (server, _) = Server::new(stream, &[], Arc::new(Limits::default()));
            let answer = |_| async { Ok::<_, Infallible>(full(&"x".repeat(LENGTH))) };
            let _ = server.serve_http(answer).await;
        });
        let tcp = small(TcpSocket::new_v4().unwrap())
            .connect(address)
            .await
            .unwrap();
        let name = "a.test".try_into().unwrap();
        let mut client = connector.connect(name, tcp).await.unwrap();
        client
            .write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            .await
            .unwrap();
        let mut answer = Vec::new();
        while answer.len() < LENGTH || !answer.ends_with(&[b'x'; LENGTH]) {
            assert_ne!(client.read_buf(&mut answer).await.unwrap(), 0);
        }
    };
    let bounded = async { tokio::time::timeout(Duration::from_secs(20), served).await };
    let done = LocalSet::new().block_on(&runtime, bounded);
    done.expect("the last bytes are still with the server");
}

/// With far less room in the kernel than in a session.
fn small(socket: TcpSocket) -> TcpSocket {
    socket.set_send_buffer_size(4096).unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    socket
}

fn tls() -> (TlsAcceptor, TlsConnector) {
    let signed = rcgen::generate_simple_self_signed(vec!["a.test".to_owned()]).unwrap();
    let certificate = signed.cert.der().clone();
    let key = rustls::pki_types::PrivateKeyDer::Pkcs8(signed.signing_key.serialize_der().into());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let server = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], key)
        .unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate).unwrap();
    let client = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    (Arc::new(server).into(), Arc::new(client).into())
}

/// What a service may do with a body, told by the request's query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reads {
    All,
    Nothing,
    OneFrame,
    /// Hands it to somebody who reads it later.
    Elsewhere,
}

const EACH: [Reads; 4] = [Reads::All, Reads::Nothing, Reads::OneFrame, Reads::Elsewhere];

/// A request with a body that looks like one.
fn message(at: usize, random: &mut impl FnMut(usize) -> usize) -> (String, Reads, String) {
    let body = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n".repeat(random(40));
    let which = random(EACH.len());
    let head = format!("POST /{at}?{which} HTTP/1.1\r\nHost: a\r\n");
    let text = match random(3) {
        0 => {
            let mut text = format!("{head}Transfer-Encoding: chunked\r\n\r\n");
            let mut rest = &body[..];
            while !rest.is_empty() {
                let (chunk, after) = rest.split_at(rest.len().min(1 + random(300)));
                text += &format!("{:x};e=f\r\n{chunk}\r\n", chunk.len());
                rest = after;
            }
            text + "0\r\nT: GET / HTTP/1.1\r\n\r\n"
        }
        1 => format!("{head}Content-Length: {}\r\n\r\n{body}", body.len()),
        _ => format!(
            "{head}Expect: 100-continue\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        ),
    };
    (text, EACH[which], body)
}

#[test]
fn no_byte_of_a_body_is_ever_a_request_whoever_reads_it_or_does_not() {
    for seed in 1..300u64 {
        // As good as any, and the same everywhere (xorshift).
        let mut state = seed;
        let mut random = move |below: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            usize::try_from(state >> 33).unwrap() % below
        };
        let messages: Vec<_> = (0..8).map(|at| message(at, &mut random)).collect();
        run(async move {
            type Seen = Vec<(String, Option<String>)>;
            let seen = Rc::new(RefCell::new(Seen::new()));
            let service = {
                let seen = Rc::clone(&seen);
                move |request: Request<ClientBody>| {
                    let seen = Rc::clone(&seen);
                    async move { Ok(act(request, &seen).await) }
                }
            };
            let (reader, mut writer) = tokio::io::split(serve(service));
            let stream: String = messages.iter().map(|(text, ..)| text.as_str()).collect();
            let cuts: Vec<_> = (0..20).map(|_| 1 + random(2000)).collect();
            let writing = spawn_local(async move {
                let (mut rest, mut cuts) = (stream.as_bytes(), cuts.into_iter().cycle());
                while let Some(length) = cuts.next().filter(|_| !rest.is_empty()) {
                    let (now, after) = rest.split_at(rest.len().min(length));
                    if writer.write_all(now).await.is_err() {
                        return;
                    }
                    tokio::task::yield_now().await;
                    rest = after;
                }
                let _ = writer.shutdown().await;
            });
            let mut reader = reader;
            let _ = reader.read_to_end(&mut Vec::new()).await;
            writing.abort();
            let seen = seen.borrow();
            assert!(!seen.is_empty(), "seed {seed}");
            for (at, (path, body)) in seen.iter().enumerate() {
                assert_eq!(*path, format!("/{at}"), "seed {seed}");
                let (_, reads, sent) = &messages[at];
                if *reads == Reads::All {
                    assert_eq!(body.as_ref(), Some(sent), "seed {seed}, message {at}");
                }
            }
        });
    }
}

async fn act(request: Request<ClientBody>, seen: &RefCell<Vec<(String, Option<String>)>>) -> Answer {
    let path = request.uri().path().to_owned();
    let which: usize = request.uri().query().unwrap().parse().unwrap();
    let mut body = request.into_body();
    let index = seen.borrow().len();
    seen.borrow_mut().push((path, None));
    match EACH[which] {
        Reads::All => {
            if let Ok(read) = body.collect().await {
                let text = String::from_utf8(read.to_bytes().to_vec()).unwrap();
                seen.borrow_mut()[index].1 = Some(text);
            }
        }
        Reads::Nothing => {}
        Reads::OneFrame => {
            let _ = body.frame().await;
        }
        Reads::Elsewhere => {
            spawn_local(async move {
                tokio::task::yield_now().await;
                while let Some(Ok(_)) = body.frame().await {
                    tokio::task::yield_now().await;
                }
            });
        }
    }
    full("done")
}
