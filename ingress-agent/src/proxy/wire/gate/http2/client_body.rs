//! A request's body as the service reads it: a view of its stream, for as long as there is one.

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use super::wire::Wire;
use crate::error::ProxyError;

/// The client's body; the connection is shared with all its streams.
pub(crate) struct ClientBody {
    /// Whoever holds a body does not hold the connection.
    wire: Weak<RefCell<Wire>>,
    id: u32,
    /// What the head announced, less what was given out.
    left: Option<u64>,
    /// There was never a body, or its end has been given out.
    ended: bool,
}

impl ClientBody {
    pub(super) fn new(wire: &Rc<RefCell<Wire>>, id: u32) -> Self {
        let (left, ended) = wire.borrow().announced(id);
        Self {
            wire: Rc::downgrade(wire),
            id,
            left: if ended { Some(0) } else { left },
            ended,
        }
    }
}

impl Body for ClientBody {
    type Data = Bytes;
    type Error = ProxyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ProxyError>>> {
        let this = self.get_mut();
        if this.ended {
            return Poll::Ready(None);
        }
        let Some(wire) = this.wire.upgrade() else {
            this.ended = true;
            return Poll::Ready(Some(Err(ProxyError::ClientClosed)));
        };
        let frame = ready!(wire.borrow_mut().poll_body(this.id, cx));
        match (&frame, &mut this.left) {
            (Some(Ok(frame)), Some(left)) => {
                let length = frame.data_ref().map_or(0, |data| data.len() as u64);
                *left = left.saturating_sub(length);
            }
            (Some(Ok(_)), None) => {}
            (None | Some(Err(_)), _) => this.ended = true,
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.ended
            || self
                .wire
                .upgrade()
                .is_some_and(|wire| wire.borrow().is_body_drained(self.id))
    }

    fn size_hint(&self) -> SizeHint {
        self.left.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

impl Drop for ClientBody {
    fn drop(&mut self) {
        let wire = self.wire.upgrade().filter(|_| !self.ended);
        // Taken at this moment only when the stream itself is on its way out.
        if let Some(mut wire) = wire.as_ref().and_then(|wire| wire.try_borrow_mut().ok()) {
            wire.stop_reading(self.id);
        }
    }
}
