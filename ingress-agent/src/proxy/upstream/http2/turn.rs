//! A backend's connection below the `h2` crate: so much is read in one turn of its task and no more.
//!
//! The crate queues what it reads until a request's task takes it, without a bound for 1xx heads. Between two turns those tasks run, and
//! give up what floods them; so what can pile up is what fits into a turn.

use std::cell::Cell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A turn ends when it has read as much.
const TURN: usize = 32 * 1024;

/// What was read in the present turn.
#[derive(Default)]
pub(super) struct Turn(Cell<usize>);

impl Turn {
    pub(super) fn begin(&self) {
        self.0.set(0);
    }

    pub(super) fn has_read(&self) -> bool {
        self.0.get() > 0
    }
}

pub(super) struct TurnIo<S> {
    io: S,
    turn: Rc<Turn>,
}

impl<S> TurnIo<S> {
    pub(super) fn new(io: S, turn: Rc<Turn>) -> Self {
        Self { io, turn }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for TurnIo<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let turn = &this.turn.0;
        if turn.get() >= TURN {
            // The tasks that were woken meanwhile come first.
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = buf.filled().len();
        let read = Pin::new(&mut this.io).poll_read(cx, buf);
        turn.set(
            turn.get()
                .saturating_add(buf.filled().len().saturating_sub(before)),
        );
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for TurnIo<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, data)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
