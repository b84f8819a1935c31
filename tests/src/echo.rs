//! A backend that says who it is and what it was asked: in-process for tests, as a process for the demo.
//!
//! HTTP/1.1, h2 by prior knowledge, WebSocket echo. Query parameters shape the answer: `delay` (milliseconds), `status`,
//! `bytes` (a body of that many bytes in place of JSON). Knows nothing of the agent.

use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Map, Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio_rustls::TlsAcceptor;

use crate::certs::Leaf;
use crate::gate::Gate;
use crate::websocket;

/// A running echo backend on a thread of its own; dropping it closes its listener and connections.
#[derive(Debug)]
pub struct Echo {
    address: SocketAddr,
    seen: Arc<Seen>,
    _stop: oneshot::Sender<()>,
}

/// What a backend counts.
#[derive(Debug, Default)]
struct Seen {
    requests: AtomicUsize,
    connections: AtomicUsize,
}

impl Echo {
    /// Listens on a free port of 127.0.0.1.
    pub fn start(name: &str) -> anyhow::Result<Self> {
        Self::start_on(name, (IpAddr::V4(Ipv4Addr::LOCALHOST), 0).into())
    }

    pub fn start_on(name: &str, address: SocketAddr) -> anyhow::Result<Self> {
        Self::launch(name, address, Kind::default())
    }

    /// On 127.0.0.1, and every answer of it takes this long.
    pub fn start_slow(name: &str, delay: Duration) -> anyhow::Result<Self> {
        let kind = Kind {
            delay,
            ..Kind::default()
        };
        Self::launch(name, (IpAddr::V4(Ipv4Addr::LOCALHOST), 0).into(), kind)
    }

    /// On 127.0.0.1, and every answer of it waits until the gate is open.
    pub fn start_behind(name: &str, gate: &Gate) -> anyhow::Result<Self> {
        let kind = Kind {
            gate: Some(gate.clone()),
            ..Kind::default()
        };
        Self::launch(name, (IpAddr::V4(Ipv4Addr::LOCALHOST), 0).into(), kind)
    }

    /// Speaks TLS only, with this certificate: HTTP/1.1 and h2, by ALPN.
    pub fn start_tls(name: &str, leaf: &Leaf) -> anyhow::Result<Self> {
        Self::start_tls_on(name, (IpAddr::V4(Ipv4Addr::LOCALHOST), 0).into(), leaf)
    }

    /// The same at this address.
    pub fn start_tls_on(name: &str, address: SocketAddr, leaf: &Leaf) -> anyhow::Result<Self> {
        let kind = Kind {
            tls: Some(tls_acceptor(leaf)?),
            ..Kind::default()
        };
        Self::launch(name, address, kind)
    }

    fn launch(name: &str, address: SocketAddr, kind: Kind) -> anyhow::Result<Self> {
        let listener =
            std::net::TcpListener::bind(address).with_context(|| format!("echo backend on {address}"))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let seen = Arc::new(Seen::default());
        let backend = Backend {
            name: name.into(),
            seen: Arc::clone(&seen),
            kind,
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let (stop, stopped) = oneshot::channel();
        std::thread::Builder::new()
            .name(format!("echo {name}"))
            .spawn(move || runtime.block_on(serve(backend, listener, stopped)))?;
        Ok(Self {
            address,
            seen,
            _stop: stop,
        })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Requests that arrived.
    pub fn requests(&self) -> usize {
        self.seen.requests.load(Ordering::Relaxed)
    }

    /// Connections that were accepted.
    pub fn connections(&self) -> usize {
        self.seen.connections.load(Ordering::Relaxed)
    }
}

#[derive(Clone)]
struct Backend {
    name: Arc<str>,
    seen: Arc<Seen>,
    kind: Kind,
}

/// What distinguishes one echo backend from the usual one.
#[derive(Clone, Default)]
struct Kind {
    tls: Option<TlsAcceptor>,
    delay: Duration,
    gate: Option<Gate>,
}

fn tls_acceptor(leaf: &Leaf) -> anyhow::Result<TlsAcceptor> {
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    let chain = CertificateDer::pem_slice_iter(leaf.certificate.as_bytes()).collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_slice(leaf.key.as_bytes())?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

async fn serve(backend: Backend, listener: std::net::TcpListener, stopped: oneshot::Receiver<()>) {
    let Ok(listener) = TcpListener::from_std(listener) else {
        return;
    };
    let accept = async {
        while let Ok((stream, _)) = listener.accept().await {
            backend.seen.connections.fetch_add(1, Ordering::Relaxed);
            tokio::spawn(connection(backend.clone(), stream));
        }
    };
    tokio::select! {
        () = accept => {}
        _ = stopped => {}
    }
}

async fn connection(backend: Backend, stream: TcpStream) {
    let Some(tls) = backend.kind.tls.clone() else {
        let is_h2 = is_h2_preface(&stream).await;
        return speak(backend, stream, is_h2).await;
    };
    // A handshake that fails is the other side's business, and shows there.
    if let Ok(stream) = tls.accept(stream).await {
        let is_h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        speak(backend, stream, is_h2).await;
    }
}

async fn speak(backend: Backend, stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static, is_h2: bool) {
    let service = hyper::service::service_fn(move |request| {
        let backend = backend.clone();
        async move { Ok::<_, Infallible>(answer(&backend, request).await) }
    });
    let io = TokioIo::new(stream);
    // A connection that ends badly is the other side's business.
    if is_h2 {
        let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
            .serve_connection(io, service)
            .await;
    } else {
        let _ = hyper::server::conn::http1::Builder::new()
            .serve_connection(io, service)
            .with_upgrades()
            .await;
    }
}

/// RFC 9113, 3.4: no HTTP/1 method begins with `PRI`.
async fn is_h2_preface(stream: &TcpStream) -> bool {
    let mut start = [0; 3];
    loop {
        match stream.peek(&mut start).await {
            Ok(3) => return &start == b"PRI",
            Ok(0) | Err(_) => return false,
            Ok(_) => tokio::task::yield_now().await,
        }
    }
}

type Reply = Response<http_body_util::combinators::BoxBody<Bytes, Infallible>>;

async fn answer(backend: &Backend, request: Request<Incoming>) -> Reply {
    backend.seen.requests.fetch_add(1, Ordering::Relaxed);
    if let Some(key) = request.headers().get(header::SEC_WEBSOCKET_KEY).cloned() {
        return upgrade(backend, request, &key);
    }
    let wish = Wish::of(request.uri().query().unwrap_or_default());
    let is_grpc = request
        .headers()
        .get(header::CONTENT_TYPE)
        .is_some_and(|v| v.as_bytes().starts_with(b"application/grpc"));
    let (parts, body) = request.into_parts();
    let mut description = describe(&backend.name, &parts);
    let collected = body.collect().await;
    let trailers = collected.as_ref().ok().and_then(|c| c.trailers().cloned());
    let body = collected
        .map(http_body_util::Collected::to_bytes)
        .unwrap_or_default();
    description.insert("bodyLength".into(), json!(body.len()));
    if let Some(trailers) = trailers {
        description.insert("trailers".into(), header_values(&trailers));
    }
    tokio::time::sleep(wish.delay + backend.kind.delay).await;
    if let Some(gate) = &backend.kind.gate {
        gate.passed().await;
    }
    if is_grpc {
        return grpc_echo(&backend.name, body);
    }
    let text = match wish.bytes {
        Some(count) => vec![b'x'; count],
        None => Value::Object(description).to_string().into_bytes(),
    };
    let mut response = Response::new(Full::new(Bytes::from(text)).boxed());
    *response.status_mut() = wish.status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    name_itself(headers, &backend.name);
    response
}

/// The request's frames come back as they were, with the status in trailers, as gRPC wants it.
fn grpc_echo(name: &str, body: Bytes) -> Reply {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    let frames = [Ok(Frame::data(body)), Ok(Frame::trailers(trailers))];
    let stream = FrameList(frames.into_iter().collect());
    let mut response = Response::new(stream.boxed());
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    name_itself(headers, name);
    response
}

/// A body of frames that are all there already.
struct FrameList(std::collections::VecDeque<Result<Frame<Bytes>, Infallible>>);

impl hyper::body::Body for FrameList {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        std::task::Poll::Ready(self.0.pop_front())
    }
}

fn upgrade(backend: &Backend, request: Request<Incoming>, key: &HeaderValue) -> Reply {
    let accept = websocket::accept_key(key.to_str().unwrap_or_default());
    tokio::spawn(async move {
        if let Ok(upgraded) = hyper::upgrade::on(request).await {
            // Ends when either side closes; how it ended is the client's to judge.
            let _ = websocket::echo(TokioIo::new(upgraded)).await;
        }
    });
    let mut response = Response::new(Full::new(Bytes::new()).boxed());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    if let Ok(accept) = HeaderValue::from_str(&accept) {
        headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    }
    name_itself(headers, &backend.name);
    response
}

fn name_itself(headers: &mut HeaderMap, name: &str) {
    if let Ok(name) = HeaderValue::from_str(name) {
        headers.insert("x-backend", name);
    }
}

fn describe(name: &str, parts: &http::request::Parts) -> Map<String, Value> {
    let host = parts
        .headers
        .get(header::HOST)
        .and_then(|v| v.to_str().ok())
        .or_else(|| parts.uri.authority().map(http::uri::Authority::as_str));
    let mut map = Map::new();
    map.insert("backend".into(), json!(name));
    map.insert("method".into(), json!(parts.method.as_str()));
    map.insert("path".into(), json!(parts.uri.path()));
    map.insert("query".into(), json!(parts.uri.query()));
    map.insert("host".into(), json!(host));
    map.insert("protocol".into(), json!(format!("{:?}", parts.version)));
    map.insert("headers".into(), header_values(&parts.headers));
    map
}

/// Every header with its list of values, so that duplicates show.
fn header_values(headers: &HeaderMap) -> Value {
    let mut map = Map::new();
    for name in headers.keys() {
        let values: Vec<_> = headers
            .get_all(name)
            .iter()
            .map(|v| String::from_utf8_lossy(v.as_bytes()))
            .collect();
        map.insert(name.to_string(), json!(values));
    }
    Value::Object(map)
}

/// What the query asks of the answer.
struct Wish {
    delay: Duration,
    status: StatusCode,
    bytes: Option<usize>,
}

impl Wish {
    fn of(query: &str) -> Self {
        let value = |wanted: &str| {
            query
                .split('&')
                .filter_map(|pair| pair.split_once('='))
                .find_map(|(name, value)| (name == wanted).then_some(value))
        };
        Self {
            delay: Duration::from_millis(value("delay").and_then(|v| v.parse().ok()).unwrap_or(0)),
            status: value("status")
                .and_then(|v| v.parse().ok())
                .unwrap_or(StatusCode::OK),
            bytes: value("bytes").and_then(|v| v.parse().ok()),
        }
    }
}
