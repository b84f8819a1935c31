//! What the request handler and the listener see of a gate: the reason of a refusal, counters, and the few orders that they give.

use std::cell::{Cell, RefCell};
use std::mem;
use std::rc::Rc;
use std::task::{Context, Waker};

use http::StatusCode;
use ingress_core::fields::Fields;

use crate::proxy::wire::Refusal;

/// More queued 1xx heads than this are dropped: the client isn't reading, and they are only information.
const MAX_INFORMATIONAL: usize = 16 * 1024;
/// The same for those of one h2 stream that have not yet gone to the connection.
const MAX_INTERIM: usize = 16;

/// A view of one connection's server, of HTTP/1 or HTTP/2. Cheap to clone; of the gate's thread only.
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
    pub(super) ending: Cell<bool>,
    pub(super) broken_off: Cell<bool>,
    pub(super) peer_closed: Cell<bool>,
    pub(super) in_request: Cell<bool>,
    pub(super) body_open: Cell<bool>,
    /// 1xx heads to be written before the response; only while `may_inform`.
    informational: RefCell<Vec<u8>>,
    /// The outgoing side is at a message boundary of a request that may get 1xx answers.
    pub(super) may_inform: Cell<bool>,
    /// On an h2 connection: 1xx heads that the service of the stream that is polled has for its client.
    interim: RefCell<Option<Vec<Interim>>>,
    /// On an h2 connection: what was wrong with requests that ended in a reset before any service saw them.
    malformed: RefCell<Vec<&'static str>>,
    reader: RefCell<Option<Waker>>,
}

/// A 1xx head.
pub(super) type Interim = (StatusCode, Fields);

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

    pub(super) fn speaks_http2(&self) {
        *self.interim.borrow_mut() = Some(Vec::new());
    }

    pub(super) fn has_interim(&self) -> bool {
        self.interim
            .borrow()
            .as_ref()
            .is_some_and(|queue| !queue.is_empty())
    }

    pub(super) fn take_interim(&self) -> Vec<Interim> {
        self.interim
            .borrow_mut()
            .as_mut()
            .map(mem::take)
            .unwrap_or_default()
    }

    pub(super) fn malformed(&self, how: &'static str) {
        self.malformed.borrow_mut().push(how);
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

    /// What was wrong with the requests that the h2 server has reset unseen since this was last asked. As many as resets may be provoked.
    pub(crate) fn take_malformed(&self) -> Vec<&'static str> {
        self.shared.malformed.take()
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

    /// Whether no request is served any more: those that have no answer get 503 `draining`.
    pub fn is_ending(&self) -> bool {
        self.shared.ending.get()
    }

    /// Whether answers that have begun are broken off.
    pub fn is_broken_off(&self) -> bool {
        self.shared.broken_off.get()
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

    /// A 1xx head for the client of the request that is polled, to go out before its response's. False when it can't be sent any more.
    pub fn inform(&self, status: StatusCode, fields: &Fields) -> bool {
        if let Some(queue) = self.shared.interim.borrow_mut().as_mut() {
            let room = queue.len() < MAX_INTERIM;
            if room {
                queue.push((status, fields.clone()));
            }
            return room;
        }
        self.send_informational(&http1_head(status, fields))
    }

    /// Closes after the current response; an idle connection after its next one, if that comes soon. On HTTP/1 the service adds `Connection: close` to
    /// the current response by itself. On h2 it begins the farewell with a GOAWAY.
    pub fn begin_drain(&self) {
        self.shared.draining.set(true);
        self.shared.wake_reader();
    }

    /// Closes as soon as the answers that have begun are out. To be polled next, so that services learn of it.
    pub fn begin_end(&self) {
        self.shared.ending.set(true);
        self.begin_drain();
    }

    /// Breaks off what is still under way, so that no client takes a part for the whole. To be polled next.
    pub fn break_off(&self) {
        self.shared.broken_off.set(true);
        self.begin_end();
    }
}

fn http1_head(status: StatusCode, fields: &Fields) -> Vec<u8> {
    let reason = status.canonical_reason().unwrap_or_default();
    let mut head = format!("HTTP/1.1 {} {reason}\r\n", status.as_u16()).into_bytes();
    fields.write(&mut head, |_| false);
    head.extend_from_slice(b"\r\n");
    head
}
