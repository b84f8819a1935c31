//! What the request handler and the listener see of a gate: the reason of a refusal, counters, and the few orders that they give.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Waker};

use crate::proxy::wire::Refusal;

/// More queued 1xx heads than this are dropped: the client isn't reading, and they are only information.
const MAX_INFORMATIONAL: usize = 16 * 1024;

/// A view of one connection's [`Server`](super::Server) or [`Gate`](super::Gate). Cheap to clone; of the gate's thread only.
#[derive(Clone)]
pub struct GateHandle {
    shared: Rc<Shared>,
}

/// What gate and handle share.
#[derive(Default)]
pub(super) struct Shared {
    pub(super) refusal: Cell<Option<Refusal>>,
    pub(super) bytes_read: Cell<u64>,
    pub(super) bytes_written: Cell<u64>,
    pub(super) draining: Cell<bool>,
    pub(super) peer_closed: Cell<bool>,
    pub(super) in_request: Cell<bool>,
    /// h2 streams whose answer is still being made.
    pub(super) stream_tasks: Cell<usize>,
    pub(super) body_open: Cell<bool>,
    /// 1xx heads to be written before the response; only while `may_inform`.
    informational: RefCell<Vec<u8>>,
    /// The outgoing side is at a message boundary of a request that may get 1xx answers.
    pub(super) may_inform: Cell<bool>,
    reader: RefCell<Option<Waker>>,
}

impl Shared {
    /// Remembers who waits for bytes, so that an order through the handle wakes it.
    pub(super) fn park_reader(&self, cx: &Context<'_>) {
        let mut reader = self.reader.borrow_mut();
        match reader.as_mut() {
            Some(waker) => waker.clone_from(cx.waker()),
            None => *reader = Some(cx.waker().clone()),
        }
    }

    pub(super) fn has_informational(&self) -> bool {
        !self.informational.borrow().is_empty()
    }

    pub(super) fn take_informational(&self) -> Vec<u8> {
        self.informational.take()
    }

    pub(super) fn wake_reader(&self) {
        // Taken out first: waking may run code that comes back here.
        let reader = self.reader.borrow_mut().take();
        if let Some(waker) = reader {
            waker.wake();
        }
    }
}

impl GateHandle {
    pub(super) fn new(shared: Rc<Shared>) -> Self {
        Self { shared }
    }

    /// Why the gate broke off this connection, if it did. A body that ends with an error has its reason here.
    pub fn refusal(&self) -> Option<Refusal> {
        self.shared.refusal.get()
    }

    /// Bytes received from the client, what the gate refused included.
    pub fn bytes_read(&self) -> u64 {
        self.shared.bytes_read.get()
    }

    /// Bytes handed to the transport.
    pub fn bytes_written(&self) -> u64 {
        self.shared.bytes_written.get()
    }

    /// Between the release of a request's head and the end of its answer; for h2, while a stream is open.
    pub fn in_request(&self) -> bool {
        self.shared.in_request.get()
    }

    /// HTTP/1 only: part of the current request's body is still to come from the client.
    pub fn is_body_open(&self) -> bool {
        self.shared.body_open.get()
    }

    pub fn is_draining(&self) -> bool {
        self.shared.draining.get()
    }

    /// Whether the client has ended its side.
    pub fn peer_closed(&self) -> bool {
        self.shared.peer_closed.get()
    }

    /// The service is done with the request: its response body ended or was dropped.
    pub fn request_finished(&self) {
        self.shared.in_request.set(false);
        self.shared.may_inform.set(false);
    }

    /// Queues a whole 1xx head (status line to empty line) to go out before the response's. HTTP/1.1 only. False when it can't be sent
    /// any more: the response has begun, the client speaks HTTP/1.0, or too much is queued. It goes out after the present
    /// poll of the service.
    pub fn send_informational(&self, head: &[u8]) -> bool {
        let mut queue = self.shared.informational.borrow_mut();
        if !self.shared.may_inform.get() || queue.len().saturating_add(head.len()) > MAX_INFORMATIONAL {
            return false;
        }
        queue.extend_from_slice(head);
        true
    }

    /// The task of an h2 stream begins: until it ends, what the stream waits for is not the gate's concern.
    pub fn stream_task_begins(&self) {
        let tasks = &self.shared.stream_tasks;
        tasks.set(tasks.get().saturating_add(1));
    }

    pub fn stream_task_ended(&self) {
        let tasks = &self.shared.stream_tasks;
        tasks.set(tasks.get().saturating_sub(1));
        if tasks.get() == 0 {
            self.shared.wake_reader();
        }
    }

    /// Closes after the current response; an idle connection after its next one, if that comes soon. HTTP/1 only: the service adds `Connection: close` to
    /// the current response by itself. For h2, hyper's `graceful_shutdown` says GOAWAY and does all.
    pub fn begin_drain(&self) {
        self.shared.draining.set(true);
        self.shared.wake_reader();
    }
}
