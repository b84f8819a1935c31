//! Scripted raw backends on loopback sockets, byte for byte.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Collected};
use ingress_core::resource::{Protocol, Timeouts};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::proxy::body::FrameSender;

mod kept;
mod protocols;
mod requests;
mod responses;
mod segments;

/// Runs a test on a runtime like a worker's; a hang is a failure.
fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(tokio::runtime::LocalOptions::default())
        .unwrap();
    let bounded = async { tokio::time::timeout(Duration::from_secs(90), test).await };
    runtime.block_on(bounded).expect("the test hangs");
}

fn upstreams() -> Upstreams {
    Upstreams::new(Settings::default(), Arc::new(IdleBudget::default()))
}

/// For tests of limits: from here on time passes only while neither side has anything to do, in steps from one timer to the next. The reactor is
/// looked at before each step, so what was written is read first.
fn virtual_time() {
    tokio::time::pause();
}

/// The reactor is looked at whenever the runtime parks; what was written to loopback before is there then.
async fn let_reactor_look() {
    tokio::time::sleep(Duration::from_millis(1)).await;
}

struct Backend {
    listener: TcpListener,
    address: SocketAddr,
}

impl Backend {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        Self { listener, address }
    }

    async fn accept(&self) -> Peer {
        Peer(self.listener.accept().await.unwrap().0)
    }

    /// Accepts, reads one request head, answers with these bytes and closes.
    async fn answer_and_close(&self, answer: &[u8]) {
        let mut peer = self.accept().await;
        peer.read_head().await;
        peer.write(answer).await;
    }
}

struct Peer(TcpStream);

impl Peer {
    async fn read_head(&mut self) -> String {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(self.0.read_u8().await.unwrap());
        }
        String::from_utf8(head).unwrap()
    }

    async fn read_text(&mut self, length: usize) -> String {
        let mut text = vec![0; length];
        self.0.read_exact(&mut text).await.unwrap();
        String::from_utf8(text).unwrap()
    }

    async fn write(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).await.unwrap();
    }

    /// Waits until the agent has closed; whatever it still sends is passed over.
    async fn closed(&mut self) {
        let mut rest = [0; 1024];
        while !matches!(self.0.read(&mut rest).await, Ok(0) | Err(_)) {}
    }

    /// Ends with a reset instead of a FIN.
    fn reset(self) {
        socket2::SockRef::from(&self.0)
            .set_linger(Some(Duration::ZERO))
            .unwrap();
    }
}

struct Ask {
    address: SocketAddr,
    protocol: Protocol,
    server_name: Option<&'static str>,
    method: Method,
    headers: HeaderMap,
    extra: Option<Forwarded<'static>>,
    body: RequestBody,
    websocket: bool,
    timeouts: Timeouts,
    proxy_header: Option<ProxyHeader>,
    informational: Rc<Cell<Vec<StatusCode>>>,
}

impl Ask {
    fn get(backend: &Backend) -> Self {
        Self {
            address: backend.address,
            protocol: Protocol::Http,
            server_name: None,
            method: Method::GET,
            headers: HeaderMap::new(),
            extra: None,
            body: RequestBody::empty(),
            websocket: false,
            timeouts: Timeouts::default(),
            proxy_header: None,
            informational: Rc::default(),
        }
    }

    fn post(backend: &Backend, body: RequestBody) -> Self {
        Self {
            method: Method::POST,
            body,
            ..Self::get(backend)
        }
    }

    fn header(mut self, name: &'static str, value: &'static str) -> Self {
        self.headers
            .append(HeaderName::from_static(name), HeaderValue::from_static(value));
        self
    }

    async fn send(self, upstreams: &Upstreams) -> Result<Reply, Failed> {
        let seen = Rc::clone(&self.informational);
        let mut informational = |status: StatusCode, _: &Fields| {
            let mut all = seen.take();
            all.push(status);
            seen.set(all);
        };
        let mut call = Call {
            address: self.address,
            protocol: self.protocol,
            server_name: self.server_name,
            head: RequestHead {
                method: &self.method,
                target: "/a?b=c",
                host: b"shop.example",
                fields: &self.headers.into(),
                extra: self.extra.as_ref(),
                websocket: self.websocket,
            },
            timeouts: &self.timeouts,
            proxy_header: self.proxy_header,
            informational: &mut informational,
        };
        upstreams.send(&mut call, self.body).await
    }
}

/// A body with an announced length and all of its bytes there.
fn text_body(text: &'static str) -> RequestBody {
    let (sender, body) = RequestBody::script(Some(text.len() as u64), None);
    data(&sender, text);
    body
}

fn data(sender: &FrameSender, text: &'static str) {
    sender
        .send(Ok(Frame::data(Bytes::from_static(text.as_bytes()))))
        .unwrap();
}

fn response(reply: Result<Reply, Failed>) -> http::Response<UpstreamBody> {
    match reply {
        Ok(Reply {
            answer: Answer::Response(response),
            ..
        }) => response.into(),
        Ok(_) => panic!("an upgrade that was not expected"),
        Err(failed) => panic!("failed: {}", failed.error),
    }
}

fn failure(reply: Result<Reply, Failed>) -> Failed {
    match reply {
        Ok(_) => panic!("an answer where a failure was expected"),
        Err(failed) => failed,
    }
}

fn protocol_error(error: &ProxyError) -> bool {
    matches!(error, ProxyError::UpstreamProtocol(_))
}

async fn collect(response: http::Response<UpstreamBody>) -> Result<Collected<Bytes>, ProxyError> {
    response.into_body().collect().await
}

async fn text(response: http::Response<UpstreamBody>) -> String {
    let bytes = collect(response).await.unwrap().to_bytes();
    String::from_utf8(bytes.to_vec()).unwrap()
}
