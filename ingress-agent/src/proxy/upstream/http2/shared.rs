//! An HTTP/2 connection that many requests share: whether it takes one more, and how long nobody has used it.

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::client::SendRequest;

use crate::proxy::upstream::connection::ConnectionKey;

/// One connection and how many requests are on it.
pub(in crate::proxy::upstream) struct SharedConnection {
    pub(in crate::proxy::upstream) key: ConnectionKey,
    pub(super) sender: SendRequest<Bytes>,
    pub(super) state: Rc<State>,
}

/// What a connection's task and its requests share.
pub(super) struct State {
    pub(super) streams: Cell<usize>,
    /// What the backend's SETTINGS allow.
    pub(super) allowed: Cell<usize>,
    /// It takes no more requests.
    pub(super) closed: Cell<bool>,
    pub(super) last_used: Cell<Instant>,
}

impl SharedConnection {
    pub(in crate::proxy::upstream) fn is_closed(&self) -> bool {
        self.state.closed.get()
    }

    pub(in crate::proxy::upstream) fn has_room(&self, limit: usize) -> bool {
        !self.is_closed() && self.state.streams.get() < limit.min(self.state.allowed.get())
    }

    pub(in crate::proxy::upstream) fn is_idle(&self) -> bool {
        self.state.streams.get() == 0
    }

    pub(in crate::proxy::upstream) fn idle_for(&self, now: Instant, limit: Duration) -> bool {
        self.is_idle() && now.saturating_duration_since(self.state.last_used.get()) >= limit
    }

    /// Nobody shall use it for another request.
    pub(super) fn close(&self) {
        self.state.closed.set(true);
    }

    pub(super) fn stream(&self) -> StreamGuard {
        self.state.streams.set(self.state.streams.get() + 1);
        StreamGuard(Rc::clone(&self.state))
    }
}

/// Counts a request on its connection until its response has ended.
pub(super) struct StreamGuard(Rc<State>);

impl Drop for StreamGuard {
    fn drop(&mut self) {
        self.0.streams.set(self.0.streams.get().saturating_sub(1));
        self.0.last_used.set(Instant::now());
    }
}
