//! A request's body as the service and whoever it hands it to read it: a view of the connection, for as long as the request lasts.

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use super::inbound::Wire;
use crate::error::ProxyError;
use crate::proxy::wire::h1::Framing;

/// The client's body; the connection is shared with the task that serves it.
pub(crate) struct ClientBody {
    wire: Rc<RefCell<Wire>>,
    turn: u32,
    /// What the head announced; `None` for a chunked body.
    left: Option<u64>,
    ended: bool,
}

impl ClientBody {
    pub(super) fn new(wire: Rc<RefCell<Wire>>, framing: Framing) -> Self {
        let turn = wire.borrow().turn;
        let left = match framing {
            Framing::None => Some(0),
            Framing::Length(length) => Some(length),
            Framing::Chunked => None,
        };
        Self {
            wire,
            turn,
            left,
            ended: left == Some(0),
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
        let mut wire = this.wire.borrow_mut();
        if wire.turn != this.turn {
            this.ended = true;
            return Poll::Ready(Some(Err(ProxyError::ClientClosed)));
        }
        let frame = ready!(wire.poll_body(cx));
        match (&frame, &mut this.left) {
            (Some(Ok(frame)), Some(left)) => {
                let length = frame.data_ref().map_or(0, |data| data.len() as u64);
                *left = left.saturating_sub(length);
                this.ended = *left == 0;
            }
            (Some(Ok(_)), None) => {}
            (None | Some(Err(_)), _) => this.ended = true,
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.ended
    }

    fn size_hint(&self) -> SizeHint {
        self.left.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}
