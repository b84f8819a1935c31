//! What only the HTTP/2 server does, seen by the `h2` crate's client on the other end of a pipe.

use std::cell::Cell;
use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use tokio::io::{DuplexStream, duplex};
use tokio::task::{JoinHandle, LocalSet, spawn_local};

use super::{ClientBody, Server};
use crate::proxy::wire::Limits;
use crate::proxy::wire::gate::{ClientStream, GateHandle};

type Answer = Response<Full<Bytes>>;

struct Served {
    client: DuplexStream,
    handle: GateHandle,
    server: Rc<Server>,
    ended: JoinHandle<std::io::Result<()>>,
}

/// Answers by path: what the body held, something large, after hints, or never.
async fn service(request: Request<ClientBody>, handle: GateHandle) -> Result<Answer, Infallible> {
    match request.uri().path() {
        "/never" => return std::future::pending().await,
        "/huge" => return Ok(Response::new(Full::from(vec![b'x'; 1 << 24]))),
        "/large" => return Ok(Response::new(Full::from(vec![b'x'; 1 << 20]))),
        "/early" => return Ok(Response::new(Full::from("early"))),
        "/hints" => {
            for link in ["a", "b"] {
                let hints = HeaderMap::from_iter([(http::header::LINK, HeaderValue::from_static(link))]);
                assert!(handle.inform(StatusCode::EARLY_HINTS, &hints.into()));
                tokio::task::yield_now().await;
            }
        }
        _ => {}
    }
    let body = request.into_body().collect().await.map(|body| body.to_bytes());
    Ok(Response::new(Full::from(body.unwrap_or_default())))
}

fn serve(limits: Limits) -> Served {
    let (client, io) = duplex(1 << 16);
    let (server, handle) = Server::new(ClientStream::Pipe(io), &[], Arc::new(limits), 100);
    let server = Rc::new(server);
    let (serving, informer) = (Rc::clone(&server), handle.clone());
    let ended = spawn_local(async move {
        serving
            .serve_http(|request| service(request, informer.clone()))
            .await
    });
    Served {
        client,
        handle,
        server,
        ended,
    }
}

async fn connect(client: DuplexStream) -> SendRequest<Bytes> {
    let (sender, connection) = h2::client::handshake(client).await.unwrap();
    spawn_local(connection);
    sender
}

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let test = async {
        tokio::time::timeout(Duration::from_secs(60), test)
            .await
            .expect("the test hangs");
    };
    LocalSet::new().block_on(&runtime, test);
}

fn get(path: &str) -> Request<()> {
    Request::get(format!("http://a{path}")).body(()).unwrap()
}

/// The answer's status and whole body.
async fn whole(response: h2::client::ResponseFuture) -> Result<(StatusCode, Vec<u8>), h2::Error> {
    let (parts, mut body) = response.await?.into_parts();
    let mut bytes = Vec::new();
    while let Some(data) = body.data().await {
        let data = data?;
        bytes.extend_from_slice(&data);
        let _ = body.flow_control().release_capacity(data.len());
    }
    Ok((parts.status, bytes))
}

#[test]
fn an_idle_h2_connection_holds_no_buffers() {
    run(async {
        let served = serve(Limits::default());
        let mut sender = connect(served.client).await;
        for path in ["/", "/large"] {
            let (response, _) = sender.send_request(get(path), true).unwrap();
            assert_eq!(whole(response).await.unwrap().0, 200);
        }
        while served.handle.in_request() || served.server.buffered() > 0 {
            tokio::task::yield_now().await;
        }
    });
}

#[test]
fn hints_go_out_before_the_answer_of_their_own_stream() {
    run(async {
        let mut sender = connect(serve(Limits::default()).client).await;
        let (other, _) = sender.send_request(get("/never"), true).unwrap();
        let (mut response, _) = sender.send_request(get("/hints"), true).unwrap();
        let mut links = Vec::new();
        while let Some(hint) = poll_fn(|cx| response.poll_informational(cx)).await {
            let hint = hint.unwrap();
            assert_eq!(hint.status(), 103);
            links.push(hint.headers()["link"].clone());
        }
        assert_eq!(links, ["a", "b"]);
        assert_eq!(whole(response).await.unwrap().0, 200);
        let mut other = other;
        let hinted = poll_fn(|cx| Poll::Ready(other.poll_informational(cx).is_ready())).await;
        assert!(!hinted, "no other stream was told");
    });
}

#[test]
fn whoever_expects_a_100_gets_it_when_the_body_is_asked_for() {
    run(async {
        let mut sender = connect(serve(Limits::default()).client).await;
        let mut ask = get("/echo");
        *ask.method_mut() = http::Method::POST;
        ask.headers_mut()
            .insert("expect", HeaderValue::from_static("100-continue"));
        let (mut response, mut body) = sender.send_request(ask.clone(), false).unwrap();
        let interim = poll_fn(|cx| response.poll_informational(cx))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(interim.status(), 100);
        body.send_data(Bytes::from("hello"), true).unwrap();
        assert_eq!(
            whole(response).await.unwrap(),
            (StatusCode::OK, b"hello".to_vec())
        );
        // Nobody asks for this one's.
        *ask.uri_mut() = http::Uri::from_static("http://a/early");
        let (mut response, _body) = sender.send_request(ask, false).unwrap();
        assert!(poll_fn(|cx| response.poll_informational(cx)).await.is_none());
        assert_eq!(whole(response).await.unwrap().1, b"early");
    });
}

#[test]
fn large_answers_share_a_connection_in_turns() {
    run(async {
        let mut sender = connect(serve(Limits::default()).client).await;
        let streams: Vec<_> = (0..4)
            .map(|_| sender.send_request(get("/large"), true).unwrap().0)
            .collect();
        let answers = streams.into_iter().map(|response| spawn_local(whole(response)));
        for answer in answers.collect::<Vec<_>>() {
            let (status, body) = answer.await.unwrap().unwrap();
            assert_eq!((status, body.len()), (StatusCode::OK, 1 << 20));
        }
    });
}

#[test]
fn an_answer_does_not_wait_for_a_larger_one_to_end() {
    run(async {
        // Windows that never close: only the pipe is narrow.
        let (mut sender, connection): (SendRequest<Bytes>, _) = h2::client::Builder::new()
            .initial_window_size(1 << 30)
            .initial_connection_window_size(1 << 30)
            .handshake(serve(Limits::default()).client)
            .await
            .unwrap();
        spawn_local(connection);
        let (huge, _) = sender.send_request(get("/huge"), true).unwrap();
        let mut huge = huge.await.unwrap().into_body();
        let read = Rc::new(Cell::new(0));
        let count = Rc::clone(&read);
        spawn_local(async move {
            while let Some(Ok(data)) = huge.data().await {
                count.set(count.get() + data.len());
            }
        });
        let (large, _) = sender.send_request(get("/large"), true).unwrap();
        assert_eq!(whole(large).await.unwrap().1.len(), 1 << 20);
        assert!(read.get() < 1 << 23, "{} bytes came before", read.get());
    });
}

#[test]
fn who_drains_finishes_what_is_under_way_and_takes_no_more() {
    run(async {
        let served = serve(Limits::default());
        let mut sender = connect(served.client).await;
        let mut ask = get("/echo");
        *ask.method_mut() = http::Method::POST;
        let (response, mut body) = sender.send_request(ask, false).unwrap();
        while !served.handle.in_request() {
            tokio::task::yield_now().await;
        }
        served.handle.begin_drain();
        // Until both GOAWAYs have come: the second when our PING has come back.
        while poll_fn(|cx| sender.poll_ready(cx)).await.is_ok() {
            tokio::task::yield_now().await;
        }
        body.send_data(Bytes::from("hello"), true).unwrap();
        assert_eq!(whole(response).await.unwrap().1, b"hello");
        served.ended.await.unwrap().unwrap();
    });
}

#[test]
fn a_client_that_goes_away_ends_the_services_of_its_requests() {
    run(async {
        let served = serve(Limits::default());
        let mut sender = connect(served.client).await;
        let (mut response, stream) = sender.send_request(get("/never"), false).unwrap();
        while !served.handle.in_request() {
            tokio::task::yield_now().await;
        }
        let pending = poll_fn(|cx| Poll::Ready(Pin::new(&mut response).poll(cx).is_pending())).await;
        assert!(pending);
        drop((response, stream));
        while served.handle.in_request() {
            tokio::task::yield_now().await;
        }
        assert!(!served.ended.is_finished(), "the connection goes on");
    });
}
