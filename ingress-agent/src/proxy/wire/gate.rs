//! The I/O wrapper that hyper reads from and writes to: one for each connection.
//!
//! Owns: what passes when, the waits, the agent's own last words. The judgement is in [`h1`](super::h1) and [`h2`](super::h2).
//! Body bytes are read straight into hyper's buffer and judged there; a head that arrives whole, too.

mod answer;
mod clock;
mod handle;
mod http1;
mod http2;
mod stash;
#[cfg(test)]
mod tests;
mod transport;

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use hyper::rt;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::Limits;
pub(super) use answer::answer;
pub use handle::GateHandle;
use http1::Http1;
use http2::Http2;
use transport::Transport;

/// One connection's gate: give it to hyper's `http1` or `http2` server builder as its I/O.
///
/// An `http1` connection is awaited by reference (`(&mut connection).await`), not with `with_upgrades` (which asks for `Send`) and not with
/// `without_shutdown` (which may leave a response half written). Then its gate comes out of `into_parts` (hyper's read buffer is empty,
/// because it only ever gets whole messages): it is a tunnel ([`GateHandle::is_tunnel`]), or to be [`shutdown`](Gate::shutdown), since hyper
/// leaves that out after any handshake, granted or not.
///
/// When a head is refused, hyper sees the end of the stream between two requests; the answer follows at its `poll_shutdown`. When a body is
/// refused, hyper and the service see an I/O error whose source is the [`Refusal`](super::Refusal), which is also in
/// [`GateHandle::refusal`]: the service answers. An h2 connection gets a GOAWAY, and hyper an error.
pub struct Gate<S> {
    // hyper's buffers can be read in place only through hyper-util's adapter, whose other side is tokio's traits.
    core: TokioIo<Core<S>>,
}

/// The gate in terms of tokio's traits.
struct Core<S> {
    transport: Transport<S>,
    protocol: Protocol,
}

enum Protocol {
    Http1(Http1),
    Http2(Box<Http2>),
}

impl<S: AsyncRead + AsyncWrite + Unpin> Gate<S> {
    /// For HTTP/1.x. `first` are bytes that were read already ([`detect`](super::detect)).
    pub fn http1(io: S, first: Vec<u8>, limits: Arc<Limits>) -> (Self, GateHandle) {
        Self::new(Protocol::Http1(Http1::new()), io, first, limits)
    }

    /// For HTTP/2, preface included. `first` are bytes that were read already.
    pub fn http2(io: S, first: Vec<u8>, limits: Arc<Limits>) -> (Self, GateHandle) {
        let follower = Box::new(Http2::new(&limits));
        Self::new(Protocol::Http2(follower), io, first, limits)
    }

    fn new(protocol: Protocol, io: S, first: Vec<u8>, limits: Arc<Limits>) -> (Self, GateHandle) {
        let transport = Transport::new(io, first, limits);
        let handle = GateHandle::new(transport.shared.clone());
        (
            Self {
                core: TokioIo::new(Core { transport, protocol }),
            },
            handle,
        )
    }

    /// Ends the connection if hyper has not: last words, our end, a little patience.
    pub async fn shutdown(&mut self) -> io::Result<()> {
        std::future::poll_fn(|cx| rt::Write::poll_shutdown(Pin::new(self), cx)).await
    }

    /// The connection below. What was read and not handed on is lost: for connections that are at their end or a tunnel.
    pub fn into_inner(self) -> S {
        self.core.into_inner().transport.io
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Core<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Self { transport, protocol } = self.get_mut();
        match protocol {
            Protocol::Http1(http1) => http1.poll_read(transport, cx, buf),
            Protocol::Http2(http2) => http2.poll_read(transport, cx, buf),
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Core<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let Self { transport, protocol } = self.get_mut();
        match protocol {
            Protocol::Http1(http1) => http1.poll_write(transport, cx, bufs),
            Protocol::Http2(http2) => http2.poll_write(transport, cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.transport.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { transport, protocol } = self.get_mut();
        match protocol {
            Protocol::Http1(http1) => http1.poll_flush(transport, cx),
            Protocol::Http2(http2) => http2.poll_flush(transport, cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { transport, protocol } = self.get_mut();
        match protocol {
            Protocol::Http1(http1) => http1.poll_shutdown(transport, cx),
            Protocol::Http2(_) => transport.poll_shutdown(cx),
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> rt::Read for Gate<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: rt::ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.core).poll_read(cx, buf)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> rt::Write for Gate<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.core).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.core).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.core).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.core.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.core).poll_write_vectored(cx, bufs)
    }
}
