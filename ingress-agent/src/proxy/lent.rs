//! Getting a connection's I/O back from hyper after a 101.
//!
//! hyper's own upgrades want I/O that can cross threads, which a worker's never does. So hyper is lent the I/O, and when hyper
//! is done and drops it, it comes home.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use hyper::rt::{Read, ReadBufCursor, Write};

/// Where lent I/O comes back to.
pub(crate) struct Home<T>(Rc<RefCell<Option<T>>>);

/// I/O on loan: hand it to hyper.
pub(crate) struct Lent<T> {
    io: Option<T>,
    home: Rc<RefCell<Option<T>>>,
}

/// Lends `io`; [`Home::take`] has it once the borrower has dropped it.
pub(crate) fn lend<T>(io: T) -> (Lent<T>, Home<T>) {
    let home = Rc::new(RefCell::new(None));
    let lent = Lent {
        io: Some(io),
        home: Rc::clone(&home),
    };
    (lent, Home(home))
}

impl<T> Home<T> {
    pub(crate) fn take(self) -> Option<T> {
        self.0.take()
    }
}

impl<T> Drop for Lent<T> {
    fn drop(&mut self) {
        *self.home.borrow_mut() = self.io.take();
    }
}

impl<T: Unpin> Lent<T> {
    /// The I/O is there until the drop.
    fn io(&mut self) -> io::Result<Pin<&mut T>> {
        self.io
            .as_mut()
            .map(Pin::new)
            .ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}

impl<T: Read + Unpin> Read for Lent<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        self.io()?.poll_read(cx, buf)
    }
}

impl<T: Write + Unpin> Write for Lent<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.io()?.poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.io()?.poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.io()?.poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.as_ref().is_some_and(Write::is_write_vectored)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.io()?.poll_write_vectored(cx, bufs)
    }
}
