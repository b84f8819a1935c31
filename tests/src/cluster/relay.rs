//! What stands between an agent and its API server: passes everything on, and is as bad as it is told to be.
//!
//! It ends TLS with the API server's own certificate and speaks HTTP/2 on both sides; who asks is known to the API server by a bearer
//! token, as client certificates end here. Runs on a thread of its own, and ends when dropped.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2::SendRequest;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::Cluster;
use super::control_plane::free_port;

/// What is wrong with the way to the API server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    None,
    /// Connections are refused; those that stand go on.
    Refuse,
    /// Not a byte goes through, of old connections and new.
    Hang,
    /// So long until each answer begins.
    Slow(Duration),
    /// Each request is answered 429 with this many seconds in `Retry-After`, as the API server's own filter for fairness does.
    Throttle(u32),
    /// The version at which a watch wants to go on is compacted.
    Gone,
}

#[derive(Clone, Copy, Debug)]
struct Orders {
    fault: Fault,
    /// How often all connections have been cut.
    cuts: u32,
    is_over: bool,
}

/// A request that came through, or not.
#[derive(Clone, Debug)]
pub struct Asked {
    pub at: Instant,
    pub method: String,
    /// With its query.
    pub target: String,
    pub status: u16,
}

impl Asked {
    /// It wants to go on where a watch before it ended.
    pub fn is_resumed_watch(&self) -> bool {
        let version = self
            .target
            .split(['?', '&'])
            .find_map(|part| part.strip_prefix("resourceVersion="));
        self.target.contains("watch=true")
            && version.is_some_and(|version| !matches!(version, "" | "0"))
            && !self.target.contains("sendInitialEvents")
    }
}

/// Running; ends when dropped.
#[derive(Debug)]
pub struct Relay {
    address: SocketAddr,
    original: PathBuf,
    orders: watch::Sender<Orders>,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Relay {
    pub fn start(cluster: &Cluster) -> anyhow::Result<Self> {
        let facts = cluster.facts();
        let pki = facts.folder.join("pki");
        // Outside the range that the kernel hands out: it stays ours while nobody listens.
        let (port, held) = free_port()?;
        drop(held);
        let (orders, obeying) = watch::channel(Orders {
            fault: Fault::None,
            cuts: 0,
            is_over: false,
        });
        let asked = Arc::default();
        let way = Way {
            address: (Ipv4Addr::LOCALHOST, port).into(),
            api: (Ipv4Addr::LOCALHOST, facts.api_port).into(),
            accept: accepting(&pki)?,
            connect: connecting(&pki)?,
            orders: obeying,
            asked: Arc::clone(&asked),
        };
        let address = way.address;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        std::thread::Builder::new().name("relay".into()).spawn(move || {
            runtime.block_on(way.run());
            runtime.shutdown_background();
        })?;
        Ok(Self {
            address,
            original: facts.kubeconfig.clone(),
            orders,
            asked,
        })
    }

    /// From now on.
    pub fn set(&self, fault: Fault) {
        self.orders.send_modify(|orders| orders.fault = fault);
    }

    /// Ends every connection without a farewell.
    pub fn cut(&self) {
        self.orders.send_modify(|orders| orders.cuts += 1);
    }

    /// Everything that was asked so far.
    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Writes a kubeconfig that leads here, for a user such as `{"tokenFile": "/path"}`.
    pub fn write_kubeconfig(&self, path: &Path, user: &Value) -> anyhow::Result<()> {
        let mut config: Value = serde_json::from_str(&std::fs::read_to_string(&self.original)?)?;
        config["clusters"][0]["cluster"]["server"] = json!(format!("https://{}", self.address));
        config["users"][0]["user"] = user.clone();
        std::fs::write(path, config.to_string())?;
        Ok(())
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.orders.send_modify(|orders| orders.is_over = true);
    }
}

fn accepting(pki: &Path) -> anyhow::Result<TlsAcceptor> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(
            vec![CertificateDer::from_pem_file(pki.join("kube-apiserver.crt"))?],
            PrivateKeyDer::from_pem_file(pki.join("kube-apiserver.key"))?,
        )?;
    tls.alpn_protocols = vec![b"h2".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(tls)))
}

fn connecting(pki: &Path) -> anyhow::Result<TlsConnector> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(pki.join("ca.crt"))?)?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    tls.alpn_protocols = vec![b"h2".to_vec()];
    Ok(TlsConnector::from(Arc::new(tls)))
}

type AnyBody = UnsyncBoxBody<Bytes, hyper::Error>;

/// What a connection needs.
#[derive(Clone)]
struct Way {
    address: SocketAddr,
    api: SocketAddr,
    accept: TlsAcceptor,
    connect: TlsConnector,
    orders: watch::Receiver<Orders>,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Way {
    async fn run(self) {
        let mut orders = self.orders.clone();
        while !orders.borrow().is_over {
            if orders.borrow().fault == Fault::Refuse {
                let _ = orders
                    .wait_for(|now| now.fault != Fault::Refuse || now.is_over)
                    .await;
                continue;
            }
            let Ok(listener) = TcpListener::bind(self.address).await else {
                // Whoever took the port gives it back, or the test fails by its deadline.
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            };
            tokio::select! {
                () = self.listen(&listener) => {}
                _ = orders.wait_for(|now| now.fault == Fault::Refuse || now.is_over) => {}
            }
        }
    }

    async fn listen(&self, listener: &TcpListener) {
        while let Ok((client, _)) = listener.accept().await {
            let way = self.clone();
            let mut orders = self.orders.clone();
            let cuts = orders.borrow().cuts;
            tokio::spawn(async move {
                tokio::select! {
                    // What breaks is broken for the agent too: it is the one that is looked at.
                    _ = way.serve(client) => {}
                    _ = orders.wait_for(|now| now.cuts != cuts || now.is_over) => {}
                }
            });
        }
    }

    /// One connection of an agent, by one of its own to the API server.
    async fn serve(&self, client: TcpStream) -> anyhow::Result<()> {
        client.set_nodelay(true)?;
        let api = TcpStream::connect(self.api).await?;
        api.set_nodelay(true)?;
        let name = ServerName::from(std::net::IpAddr::from(Ipv4Addr::LOCALHOST));
        let api = self.connect.connect(name, api).await?;
        let (sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(api)).await?;
        // Bytes stop here when all hangs, the pings of HTTP/2 among them.
        let (near, far) = tokio::io::duplex(1 << 16);
        let (from_client, to_client) = client.into_split();
        let (from_relay, to_relay) = tokio::io::split(far);
        let served = async {
            let tls = self.accept.accept(near).await?;
            let way = self.clone();
            let service = service_fn(move |request| {
                let (way, sender) = (way.clone(), sender.clone());
                async move { Ok::<_, Infallible>(way.answer(sender, request).await) }
            });
            let serving = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(tls), service);
            let (mut serving, mut connection) = (std::pin::pin!(serving), std::pin::pin!(connection));
            let mut is_open = true;
            loop {
                tokio::select! {
                    result = serving.as_mut() => return result.context("serve"),
                    // The API server says farewell with its last answers, as after a 401: they are passed on, and the farewell.
                    _ = connection.as_mut(), if is_open => {
                        is_open = false;
                        serving.as_mut().graceful_shutdown();
                    }
                }
            }
        };
        tokio::select! {
            result = served => result,
            result = pump(from_client, to_relay, self.orders.clone()) => result,
            result = pump(from_relay, to_client, self.orders.clone()) => result,
        }
    }

    async fn answer(&self, mut api: SendRequest<Incoming>, request: Request<Incoming>) -> Response<AnyBody> {
        let mut asked = Asked {
            at: Instant::now(),
            method: request.method().to_string(),
            target: request
                .uri()
                .path_and_query()
                .map(ToString::to_string)
                .unwrap_or_default(),
            status: 0,
        };
        let fault = self.orders.borrow().fault;
        if let Fault::Slow(time) = fault {
            tokio::time::sleep(time).await;
        }
        let answer = match fault {
            Fault::Throttle(seconds) => throttled(seconds),
            Fault::Gone if asked.is_resumed_watch() => compacted(),
            _ => match api.send_request(request).await {
                Ok(answer) => answer.map(BodyExt::boxed_unsync),
                Err(error) => plain(StatusCode::BAD_GATEWAY, error.to_string()),
            },
        };
        asked.status = answer.status().as_u16();
        self.asked
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(asked);
        answer
    }
}

/// In the API server's own form: text, and the pause in the header alone.
fn throttled(seconds: u32) -> Response<AnyBody> {
    let words = "Too many requests, please try again later.\n".to_owned();
    let mut answer = plain(StatusCode::TOO_MANY_REQUESTS, words);
    answer
        .headers_mut()
        .insert(http::header::RETRY_AFTER, seconds.into());
    answer
}

/// As the API server says it: an event of a watch that has begun.
fn compacted() -> Response<AnyBody> {
    let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": "too old resource version: 1 (2)", "reason": "Expired", "code": 410});
    let event = json!({"type": "ERROR", "object": status});
    let mut answer = plain(StatusCode::OK, format!("{event}\n"));
    let json = http::HeaderValue::from_static("application/json");
    answer.headers_mut().insert(http::header::CONTENT_TYPE, json);
    answer
}

fn plain(status: StatusCode, words: String) -> Response<AnyBody> {
    let body = Full::new(Bytes::from(words)).map_err(|never| match never {});
    let mut answer = Response::new(body.boxed_unsync());
    *answer.status_mut() = status;
    answer
}

/// Copies bytes while they may flow.
async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut orders: watch::Receiver<Orders>,
) -> anyhow::Result<()> {
    let mut buffer = vec![0; 1 << 16];
    loop {
        let read = from.read(&mut buffer).await?;
        orders.wait_for(|now| now.fault != Fault::Hang).await?;
        match buffer.get(..read).filter(|bytes| !bytes.is_empty()) {
            Some(bytes) => to.write_all(bytes).await?,
            None => return Ok(to.shutdown().await?),
        }
    }
}
