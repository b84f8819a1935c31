//! The connection below the gate, with its counters, timer and withheld bytes: what both protocols share.

use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

use super::clock::{Clock, Wait};
use super::handle::Shared;
use crate::proxy::wire::{Limits, Refusal};

pub(super) struct Transport<S> {
    pub(super) io: S,
    pub(super) limits: Arc<Limits>,
    pub(super) shared: Rc<Shared>,
    pub(super) clock: Clock,
    lingered: usize,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Transport<S> {
    pub(super) fn new(io: S, limits: Arc<Limits>) -> Self {
        let shared = Rc::new(Shared::default());
        let mut clock = Clock::new();
        clock.begin(Wait::Head, limits.head_wait);
        Self {
            io,
            limits,
            shared,
            clock,
            lingered: 0,
        }
    }

    /// Reads behind what `buf` holds; returns how much, 0 at the client's end.
    pub(super) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<usize>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(cx, buf))?;
        let length = buf.filled().len().saturating_sub(before);
        if length == 0 {
            self.shared.peer_closed.set(true);
        }
        count(&self.shared.bytes_read, length);
        Poll::Ready(Ok(length))
    }

    /// The same into a buffer that owns its memory.
    pub(super) fn poll_read_buf(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut BytesMut,
    ) -> Poll<io::Result<usize>> {
        let length = ready!(pin!(self.io.read_buf(buffer)).poll(cx))?;
        if length == 0 {
            self.shared.peer_closed.set(true);
        }
        count(&self.shared.bytes_read, length);
        Poll::Ready(Ok(length))
    }

    /// Bytes of the client's that were read before.
    pub(super) fn count_read(&self, length: usize) {
        count(&self.shared.bytes_read, length);
    }

    pub(super) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = match bufs {
            [one] => Pin::new(&mut self.io).poll_write(cx, one),
            _ => Pin::new(&mut self.io).poll_write_vectored(cx, bufs),
        };
        match written {
            Poll::Ready(Ok(length)) => {
                self.clock.wrote();
                count(&self.shared.bytes_written, length);
                Poll::Ready(Ok(length))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => self.poll_stall(cx),
        }
    }

    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.io).poll_flush(cx) {
            Poll::Pending => self.poll_stall(cx),
            done => {
                self.clock.wrote();
                done
            }
        }
    }

    /// Writes what is left of `bytes` from `at` on.
    pub(super) fn poll_write_all(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &[u8],
        at: &mut usize,
    ) -> Poll<io::Result<()>> {
        while let Some(rest @ [_, ..]) = bytes.get(*at..) {
            match ready!(self.poll_write(cx, &[IoSlice::new(rest)]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                length => *at = at.saturating_add(length),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// After our end: reads and forgets what the client still sends, within bounds, because a reset for unread bytes would take
    /// our last answer out of the client's hands (RFC 9112 9.6).
    pub(super) fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.clock.begin(Wait::Linger, self.limits.linger_wait);
        let mut space = [0u8; 4096];
        while !self.shared.peer_closed.get() && self.lingered < self.limits.linger_bytes {
            match self.poll_read(cx, &mut ReadBuf::new(&mut space)) {
                Poll::Ready(Ok(length)) => self.lingered = self.lingered.saturating_add(length),
                Poll::Ready(Err(_gone)) => break,
                Poll::Pending => return self.clock.poll_read(cx).map(|_| ()),
            }
        }
        Poll::Ready(())
    }

    pub(super) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.io).poll_shutdown(cx) {
            Poll::Pending => self.poll_stall(cx),
            done => done,
        }
    }

    pub(super) fn refuse(&mut self, refusal: Refusal) {
        if self.shared.refusal.get().is_none() {
            self.shared.refusal.set(Some(refusal));
        }
    }

    fn poll_stall<T>(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        ready!(self.clock.poll_write(cx, self.limits.write_stall));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

fn count(counter: &std::cell::Cell<u64>, length: usize) {
    counter.set(counter.get().saturating_add(length as u64));
}
