//! What stands on a client's connection: the HTTP/1 server, and for HTTP/2 the I/O wrapper that hyper reads from and writes to.
//!
//! Owns: what passes when, the waits, the agent's own last words. The judgement is in [`h1`](super::h1) and [`h2`](super::h2).

mod answer;
mod clock;
mod handle;
mod http2;
mod server;
mod stash;
mod stream;
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
use http2::Http2;
pub(crate) use server::{ClientBody, End, Server};
pub(crate) use stream::ClientStream;
use transport::Transport;

/// One HTTP/2 connection's gate: give it to hyper's `http2` server builder as its I/O. A refusal becomes a GOAWAY, and hyper sees an error.
pub struct Gate<S> {
    // hyper's buffers can be read in place only through hyper-util's adapter, whose other side is tokio's traits.
    core: TokioIo<Core<S>>,
}

/// The gate in terms of tokio's traits.
struct Core<S> {
    transport: Transport<S>,
    http2: Box<Http2>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Gate<S> {
    /// For HTTP/2, preface included. `first` are bytes that were read already.
    pub fn http2(io: S, first: Vec<u8>, limits: Arc<Limits>) -> (Self, GateHandle) {
        let http2 = Box::new(Http2::new(&limits));
        let transport = Transport::new(io, first, limits);
        let handle = GateHandle::new(transport.shared.clone());
        (
            Self {
                core: TokioIo::new(Core { transport, http2 }),
            },
            handle,
        )
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Core<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Self { transport, http2 } = self.get_mut();
        http2.poll_read(transport, cx, buf)
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
        let Self { transport, http2 } = self.get_mut();
        http2.poll_write(transport, cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.transport.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { transport, http2 } = self.get_mut();
        http2.poll_flush(transport, cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().transport.poll_shutdown(cx)
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
