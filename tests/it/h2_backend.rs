//! A gRPC-like backend: echoes each piece of the body as it comes, then says its status in the trailers.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use hyper::body::{Body, Frame, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};
use ingress_tests::Request as Ask;
use ingress_tests::gate::Gate;
use ingress_tests::raw::{RawBackend, Step};
use tokio::sync::oneshot;

use crate::frames::{
    DATA, END_HEADERS, END_STREAM, Frame as RawFrame, H2Client, HEADERS, Outcome, SETTINGS, block, get,
    request,
};
use crate::site::{HOST, Site};

pub(crate) struct Streaming {
    address: SocketAddr,
    ended: Arc<AtomicUsize>,
    _stop: oneshot::Sender<()>,
}

impl Streaming {
    pub(crate) fn start() -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let ended = Arc::<AtomicUsize>::default();
        let counter = Arc::clone(&ended);
        let (stop, stopped) = oneshot::channel();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                tokio::select! {
                    () = accept(listener, counter) => {}
                    _ = stopped => {}
                }
            });
        });
        Self {
            address,
            ended,
            _stop: stop,
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Calls that are over, however they ended.
    pub(crate) fn ended(&self) -> usize {
        self.ended.load(Ordering::Relaxed)
    }
}

async fn accept(listener: std::net::TcpListener, ended: Arc<AtomicUsize>) {
    let listener = tokio::net::TcpListener::from_std(listener).unwrap();
    while let Ok((stream, _)) = listener.accept().await {
        let ended = Arc::clone(&ended);
        tokio::spawn(async move {
            let service = hyper::service::service_fn(move |request: Request<Incoming>| {
                let body = Mirror {
                    incoming: request.into_body(),
                    said_status: false,
                    ended: Arc::clone(&ended),
                };
                async move { Ok::<_, Infallible>(Response::new(body)) }
            });
            let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

struct Mirror {
    incoming: Incoming,
    said_status: bool,
    ended: Arc<AtomicUsize>,
}

impl Body for Mirror {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let this = self.get_mut();
        if this.said_status {
            return Poll::Ready(None);
        }
        let frame = ready!(Pin::new(&mut this.incoming).poll_frame(cx));
        Poll::Ready(Some(frame.unwrap_or_else(|| {
            this.said_status = true;
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
            Ok(Frame::trailers(trailers))
        })))
    }
}

impl Drop for Mirror {
    fn drop(&mut self) {
        self.ended.fetch_add(1, Ordering::Relaxed);
    }
}

/// The agent's first request head on a connection, with and without a body behind it.
const REQUEST: [u8; 6] = [HEADERS, END_HEADERS | END_STREAM, 0, 0, 0, 1];
const REQUEST_WITH_BODY: [u8; 6] = [HEADERS, END_HEADERS, 0, 0, 0, 1];

fn head(flags: u8, fields: &[(&str, &str)]) -> Vec<u8> {
    RawFrame::new(HEADERS, END_HEADERS | flags, 1, block(fields)).bytes()
}

fn settings() -> Step {
    Step::Send(RawFrame::new(SETTINGS, 0, 0, []).bytes())
}

fn site(backend: &RawBackend) -> Site {
    Site::with(&[backend.address()], &[("backend-protocol", "h2c")], &[])
}

const HINTS: [(&str, &str); 2] = [(":status", "103"), ("link", "</style.css>; rel=preload")];

#[test]
fn early_hints_of_an_h2_backend_reach_clients_of_both_protocols() {
    let seen = Gate::default();
    let backend = RawBackend::scripted(vec![
        settings(),
        Step::Expect(REQUEST.to_vec()),
        Step::Send(head(0, &HINTS)),
        Step::Until(seen.clone()),
        Step::Send(head(END_STREAM, &[(":status", "204")])),
    ])
    .unwrap();
    {
        let site = site(&backend);
        let mut client = H2Client::open(site.agent.http);
        client.ask(1, get("/", &[])).unwrap();
        let hints = client.next_of(HEADERS).unwrap();
        assert_eq!(hints.flags & END_STREAM, 0);
        assert!(hints.payload.windows(13).any(|part| part == b"</style.css>;"));
        seen.open();
        assert_eq!(client.outcome(1), Some(Outcome::Status(204)));
    }
    let site = site(&backend);
    let mut client = site.client();
    client
        .send(format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n"))
        .unwrap();
    let hints = String::from_utf8(client.read_until("\r\n\r\n").unwrap()).unwrap();
    assert!(hints.starts_with("HTTP/1.1 103 Early Hints\r\n"), "{hints:?}");
    assert!(hints.contains("link: </style.css>; rel=preload\r\n"), "{hints:?}");
    let answer = String::from_utf8(client.read_until("\r\n\r\n").unwrap()).unwrap();
    assert!(answer.starts_with("HTTP/1.1 204 "), "{answer:?}");
}

#[test]
fn expect_100_continue_is_the_h2_backends_to_answer_for_clients_of_both_protocols() {
    let backend = RawBackend::scripted(vec![
        settings(),
        Step::Expect(REQUEST_WITH_BODY.to_vec()),
        Step::Send(head(0, &[(":status", "100")])),
        Step::Expect(b"hello".to_vec()),
        Step::Send(head(END_STREAM, &[(":status", "204")])),
    ])
    .unwrap();
    {
        let site = site(&backend);
        let mut client = H2Client::open(site.agent.http);
        let ask = request(
            "POST",
            "/",
            &[("expect", "100-continue"), ("content-length", "5")],
        );
        client.send(HEADERS, END_HEADERS, 1, ask).unwrap();
        assert_eq!(client.outcome(1), Some(Outcome::Status(100)));
        client.send(DATA, END_STREAM, 1, "hello").unwrap();
        assert_eq!(
            client.outcome(1),
            Some(Outcome::Status(204)),
            "one 100 and no second"
        );
    }
    let site = site(&backend);
    let mut client = site.client();
    client
        .send(format!(
            "POST / HTTP/1.1\r\nHost: {HOST}\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n"
        ))
        .unwrap();
    let interim = String::from_utf8(client.read_until("\r\n\r\n").unwrap()).unwrap();
    assert!(interim.starts_with("HTTP/1.1 100 "), "{interim:?}");
    client.send("hello").unwrap();
    let answer = String::from_utf8(client.read_until("\r\n\r\n").unwrap()).unwrap();
    assert!(answer.starts_with("HTTP/1.1 204 "), "{answer:?}");
}

#[test]
fn a_flood_of_interim_responses_from_an_h2_backend_is_upstream_protocol() {
    let backend = RawBackend::scripted(vec![
        settings(),
        Step::Expect(REQUEST.to_vec()),
        Step::Send(head(0, &HINTS).repeat(100_000)),
    ])
    .unwrap();
    let site = site(&backend);
    for h2 in [true, false] {
        let ask = Ask::get(&format!("http://{HOST}/")).unwrap();
        let ask = if h2 { ask.h2() } else { ask };
        let answer = site.agent.ask(ask).unwrap();
        assert_eq!((answer.status, answer.reason()), (502, "upstream_protocol"));
    }
    assert_eq!(backend.connections(), 2, "who floods once is not asked again");
    site.assert_well();
}
