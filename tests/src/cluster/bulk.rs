//! Thousands of requests to the API server, many at once on one HTTP/2 connection: for filling a cluster and for changing much in it.

use std::net::Ipv4Addr;
use std::sync::Arc;

use anyhow::Context;
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{Method, Request};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::ServerName;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

use super::api::admin_tls;
use super::control_plane::Facts;

const AT_ONCE: usize = 48;

/// A client that may do everything. Connects for each call: an idle connection is closed by the API server.
pub struct Bulk {
    runtime: Runtime,
    port: u16,
    tls: TlsConnector,
}

impl Bulk {
    pub fn new(facts: &Facts) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()?;
        let mut tls = admin_tls(facts)?;
        tls.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Self {
            runtime,
            port: facts.api_port,
            tls: TlsConnector::from(Arc::new(tls)),
        })
    }

    async fn connect(&self) -> anyhow::Result<SendRequest<Full<Bytes>>> {
        let tcp = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).await?;
        tcp.set_nodelay(true)?;
        let name = ServerName::from(std::net::IpAddr::from(Ipv4Addr::LOCALHOST));
        let tls = self.tls.connect(name, tcp).await?;
        let (sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(tls)).await?;
        tokio::spawn(connection);
        Ok(sender)
    }

    /// Creates all of these; each with the collection's path.
    pub fn create(&self, objects: impl Iterator<Item = (String, Value)>) -> anyhow::Result<()> {
        self.send(objects.map(|(path, object)| (Method::POST, path, object)))
    }

    /// Merges these into objects that are there; each with its path.
    pub fn patch(&self, patches: impl Iterator<Item = (String, Value)>) -> anyhow::Result<()> {
        self.send(patches.map(|(path, patch)| (Method::PATCH, path, patch)))
    }

    fn send(&self, requests: impl Iterator<Item = (Method, String, Value)>) -> anyhow::Result<()> {
        self.runtime.block_on(async {
            let sender = self.connect().await?;
            let mut under_way = JoinSet::new();
            for (method, path, body) in requests {
                if under_way.len() >= AT_ONCE {
                    under_way.join_next().await.context("none under way")???;
                }
                under_way.spawn(ask(sender.clone(), method, path, body));
            }
            while let Some(done) = under_way.join_next().await {
                done??;
            }
            Ok(())
        })
    }
}

async fn ask(
    mut sender: SendRequest<Full<Bytes>>,
    method: Method,
    path: String,
    body: Value,
) -> anyhow::Result<()> {
    let kind = match method {
        Method::PATCH => "application/merge-patch+json",
        _ => "application/json",
    };
    let request = Request::builder()
        .method(method)
        .uri(format!("https://kubernetes{path}"))
        .header(CONTENT_TYPE, kind)
        .body(Full::new(Bytes::from(body.to_string())))?;
    sender.ready().await?;
    let answer = sender.send_request(request).await?;
    let status = answer.status();
    let body = answer.into_body().collect().await?.to_bytes();
    anyhow::ensure!(
        status.is_success(),
        "{path}: {status}: {}",
        String::from_utf8_lossy(&body)
    );
    Ok(())
}
