//! Connections that stay open over many requests: what a change must not disturb.
//!
//! Each fails loudly when the other side has closed it. Blocks; has a deadline.

use std::net::SocketAddr;

use anyhow::Context;
use bytes::Bytes;
use http::Version;
use http_body_util::Full;
use hyper_util::rt::TokioExecutor;
use tokio::runtime::Runtime;

use crate::client::{
    Answer, Connected, Request, TlsSeen, Upgraded, collect, connect, open_websocket, to_http, websocket_echo,
    within_deadline,
};
use crate::websocket;

/// A client connection, HTTP/1.1 or h2.
pub struct KeptConnection {
    runtime: Runtime,
    sender: Sender,
    tls: Option<TlsSeen>,
}

enum Sender {
    Http1(hyper::client::conn::http1::SendRequest<Full<Bytes>>),
    Http2(hyper::client::conn::http2::SendRequest<Full<Bytes>>),
}

impl KeptConnection {
    /// Connects as `request` would, and asks nothing yet.
    pub fn open(request: &Request, address: SocketAddr) -> anyhow::Result<Self> {
        let runtime = runtime()?;
        let (sender, tls) = runtime.block_on(within_deadline(async {
            let Connected { io, tls, .. } = connect(request, address).await?;
            let sender = if request.version == Version::HTTP_2 {
                let (sender, connection) =
                    hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await?;
                tokio::spawn(connection);
                Sender::Http2(sender)
            } else {
                let (sender, connection) = hyper::client::conn::http1::handshake(io).await?;
                tokio::spawn(connection);
                Sender::Http1(sender)
            };
            Ok((sender, tls))
        }))?;
        Ok(Self { runtime, sender, tls })
    }

    /// What the handshake of this connection showed.
    pub fn tls(&self) -> Option<&TlsSeen> {
        self.tls.as_ref()
    }

    /// One more request on this very connection.
    pub fn ask(&mut self, request: Request) -> anyhow::Result<Answer> {
        let Self { runtime, sender, .. } = self;
        runtime.block_on(within_deadline(async {
            let response = match sender {
                Sender::Http1(sender) => {
                    sender.ready().await.context("the connection was closed")?;
                    sender.send_request(to_http(request, false)?).await
                }
                Sender::Http2(sender) => {
                    sender.ready().await.context("the connection was closed")?;
                    sender.send_request(to_http(request, true)?).await
                }
            };
            collect(response.context("no response head")?).await
        }))
    }
}

/// An open WebSocket to an echo backend.
pub struct KeptWebSocket {
    runtime: Runtime,
    stream: Upgraded,
}

impl KeptWebSocket {
    pub fn open(request: Request, address: SocketAddr) -> anyhow::Result<Self> {
        let runtime = runtime()?;
        let stream = runtime.block_on(within_deadline(open_websocket(request, address)))?;
        Ok(Self { runtime, stream })
    }

    /// Sends a message and gives what came back.
    pub fn echo(&mut self, text: &str) -> anyhow::Result<String> {
        let echoed = websocket_echo(&mut self.stream, text);
        self.runtime.block_on(within_deadline(echoed))
    }

    /// Waits for the other side to close by a Close frame, answers it as RFC 6455 (5.5.1) asks, and gives its status code.
    pub fn wait_for_close(mut self) -> anyhow::Result<u16> {
        let Self { runtime, stream } = &mut self;
        runtime.block_on(within_deadline(async {
            let (opcode, payload) = websocket::read_frame(stream).await?;
            anyhow::ensure!(opcode == websocket::CLOSE, "a frame of kind {opcode}");
            let code = payload.first_chunk().context("a Close without a code")?;
            websocket::write_frame(stream, websocket::CLOSE, &payload, Some([1, 2, 3, 4])).await?;
            let after = tokio::io::AsyncReadExt::read(stream, &mut [0; 16]).await?;
            anyhow::ensure!(after == 0, "bytes after the Close");
            Ok(u16::from_be_bytes(*code))
        }))
    }
}

/// Work in the background, such as reading what the other side sends, goes on while something is asked.
fn runtime() -> std::io::Result<Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}
