//! A stream whose first bytes were read already and must be read again.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

use crate::account::LineGuard;

/// Gives `first` to its reader before it asks the stream.
pub(crate) struct Prefixed<S> {
    /// Dropped before the stream, while its socket is still open.
    _line: Option<LineGuard>,
    first: Vec<u8>,
    given: usize,
    stream: S,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Prefixed<S> {
    pub(crate) fn new(stream: S) -> Self {
        Self {
            _line: None,
            first: Vec::new(),
            given: 0,
            stream,
        }
    }

    /// The socket's line ends with it.
    pub(crate) fn on_line(mut self, line: LineGuard) -> Self {
        self._line = Some(line);
        self
    }

    /// The same for what was read already.
    pub(crate) fn with(first: Vec<u8>, stream: S) -> Self {
        Self {
            _line: None,
            first,
            given: 0,
            stream,
        }
    }

    pub(crate) fn get_ref(&self) -> &S {
        &self.stream
    }

    /// Reads more of the stream without consuming it; 0 at its end.
    pub(crate) async fn look(&mut self) -> io::Result<usize> {
        self.first.reserve(2048);
        self.stream.read_buf(&mut self.first).await
    }

    /// What was looked at and not consumed yet.
    pub(crate) fn seen(&self) -> &[u8] {
        self.first.get(self.given..).unwrap_or_default()
    }

    /// Drops the first `length` bytes of what was seen.
    pub(crate) fn consume(&mut self, length: usize) {
        self.given = self.given.saturating_add(length).min(self.first.len());
        if self.given == self.first.len() {
            self.first = Vec::new();
            self.given = 0;
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Prefixed<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.seen().is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, buf);
        }
        let seen = self.seen();
        let length = seen.len().min(buf.remaining());
        buf.put_slice(seen.get(..length).unwrap_or_default());
        self.consume(length);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Prefixed<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }
}
