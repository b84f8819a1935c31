//! The reading side of an HTTP/1 connection: bodies, and who has gone. Heads are read in [`heads`](super::heads).
//!
//! Bytes are judged in the order of their arrival and before anybody gets them. Between two requests a connection holds no buffer.

use std::io;
use std::mem::{self, MaybeUninit};
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use bytes::{Bytes, BytesMut};
use http_body::Frame;
use ingress_core::reason::Reason;
use tokio::io::ReadBuf;

use super::chunked::{Decoder, Piece};
use crate::error::ProxyError;
use crate::proxy::wire::gate::clock::Wait;
use crate::proxy::wire::gate::stream::ClientStream;
use crate::proxy::wire::gate::transport::Transport;
use crate::proxy::wire::h1::{Body, HeadReader};
use crate::proxy::wire::{Limits, Refusal};

/// Most heads fit; read onto the stack, so that no connection keeps a buffer for what may come.
pub(super) const HEAD_READ: usize = 4 * 1024;
pub(super) const BODY_READ: usize = 16 * 1024;
const LARGEST_BODY_READ: usize = 128 * 1024;
/// What a client may send ahead while its request is under way; beyond that the kernel holds it.
const READ_AHEAD: usize = 16 * 1024;
const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

pub(super) struct Wire {
    pub(super) t: Transport<ClientStream>,
    /// Read and not yet used.
    pub(super) buffer: BytesMut,
    pub(super) phase: Phase,
    /// To be written before anything else: interim heads, the response's head.
    pub(super) out: Vec<u8>,
    pub(super) written: usize,
    /// Something was written that the stream below may still hold (TLS does).
    pub(super) unflushed: bool,
    /// At least one request was answered.
    pub(super) answered: bool,
    /// Which request the connection is at; a body belongs to one and reads nothing of another.
    pub(super) turn: u32,
    /// The task that waits for more of the present body.
    body_reader: Option<Waker>,
    /// An answer broke off that has no end but the connection's: there must be no clean one.
    pub(super) broken: bool,
    shut: bool,
    ended: bool,
}

pub(super) enum Phase {
    Head(HeadReader),
    Body(Inbound),
    Closed,
}

/// A request's body on its way in.
pub(super) struct Inbound {
    pub(super) follower: Body,
    /// How much of the buffer's front belongs to this body.
    pub(super) judged: usize,
    pub(super) decoder: Option<Decoder>,
    /// The client waits for our 100.
    pub(super) expects: bool,
    pub(super) read_size: usize,
}

impl Wire {
    pub(super) fn new(io: ClientStream, first: &[u8], limits: Arc<Limits>) -> Self {
        let t = Transport::new(io, limits);
        t.count_read(first.len());
        Self {
            t,
            buffer: BytesMut::from(first),
            phase: Phase::Head(HeadReader::default()),
            out: Vec::new(),
            written: 0,
            unflushed: false,
            answered: false,
            turn: 0,
            body_reader: None,
            broken: false,
            shut: false,
            ended: false,
        }
    }

    /// The connection, and what was read of it and not used.
    pub(super) fn into_parts(self) -> (ClientStream, Vec<u8>) {
        (self.t.io, self.buffer.to_vec())
    }

    #[cfg(test)]
    pub(super) fn buffered(&self) -> usize {
        self.buffer.capacity() + self.out.capacity()
    }

    /// Keeps what the client sends ahead.
    fn poll_read_ahead(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut space = [const { MaybeUninit::uninit() }; HEAD_READ];
        let mut read = ReadBuf::uninit(&mut space);
        let length = ready!(self.t.poll_read(cx, &mut read))?;
        self.buffer.extend_from_slice(read.filled());
        Poll::Ready(Ok(length))
    }

    /// An idle connection holds none.
    pub(super) fn let_buffers_go(&mut self) {
        if self.buffer.is_empty() && self.buffer.capacity() > 0 {
            self.buffer = BytesMut::new();
        }
        if self.out.is_empty() && self.out.capacity() > 0 {
            self.out = Vec::new();
        }
    }

    /// While a request is under way and nobody asks for its body: true when the client has gone. A half-close is no leave
    /// (RFC 9112, 9.6), and what a client sends ahead stays where it is, within bounds.
    pub(super) fn poll_gone(&mut self, cx: &mut Context<'_>) -> bool {
        let in_body = matches!(self.phase, Phase::Body(ref inbound) if !inbound.follower.done());
        while !in_body && !self.t.shared.peer_closed.get() && self.buffer.len() < READ_AHEAD {
            if self.t.io.poll_readable(cx).is_pending() {
                return false;
            }
            match self.poll_read_ahead(cx) {
                Poll::Ready(Ok(_)) => {}
                // TLS that ends without its own word: the same half-close, told by TCP alone.
                Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    self.t.shared.peer_closed.set(true);
                }
                Poll::Ready(Err(_)) => return true,
                Poll::Pending => return false,
            }
        }
        false
    }

    /// Part of the request's body is still to come, or it was refused.
    pub(super) fn lacks_body(&self) -> bool {
        match &self.phase {
            Phase::Head(_) => false,
            Phase::Body(inbound) => !inbound.follower.done(),
            Phase::Closed => true,
        }
    }

    /// After the response: whether another request can be read. What is here of a body that nobody wanted is passed over; what would
    /// have to be waited for is not. Who still holds the body, as the task of an HTTP/2 backend may, gets no more of it.
    pub(super) fn finish_body(&mut self) -> bool {
        self.end_turn();
        if self.lacks_body() {
            return false;
        }
        if let Phase::Body(inbound) = &self.phase {
            let _ = self.buffer.split_to(inbound.judged.min(self.buffer.len()));
            self.phase = Phase::Head(HeadReader::default());
        }
        true
    }

    /// Whoever still waits for the present body is told that there is no more: from here on somebody else reads the socket.
    fn end_turn(&mut self) {
        self.turn = self.turn.wrapping_add(1);
        let reader = self.body_reader.take();
        if let (Some(reader), Phase::Body(_)) = (reader, &self.phase) {
            reader.wake();
        }
    }

    /// Ends the connection: last words, our end, a little patience with what the client still sends.
    pub(super) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.ended {
            return Poll::Ready(Ok(()));
        }
        self.end_turn();
        if self.broken {
            self.t.io.reset_at_close();
            self.t.shared.in_request.set(false);
            self.ended = true;
            return Poll::Ready(Ok(()));
        }
        let out = self.poll_out(cx)?;
        if out.is_pending() && self.t.shared.broken_off.get() {
            // The process ends: who does not read now is not waited for.
            self.t.io.reset_at_close();
            self.ended = true;
            return Poll::Ready(Ok(()));
        }
        ready!(out);
        if !self.shut {
            ready!(self.t.poll_shutdown(cx))?;
            self.shut = true;
        }
        let unread = matches!(self.phase, Phase::Body(_))
            || self.t.shared.refusal.get().is_some()
            || !self.buffer.is_empty();
        if unread {
            ready!(self.t.poll_linger(cx));
        }
        self.ended = true;
        self.t.shared.in_request.set(false);
        Poll::Ready(Ok(()))
    }

    pub(super) fn poll_body(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ProxyError>>> {
        loop {
            match self.take_frame() {
                Ok(Taken::Frame(frame)) => return Poll::Ready(Some(Ok(frame))),
                Ok(Taken::End) => return Poll::Ready(None),
                Ok(Taken::More) => {}
                Err(error) => return Poll::Ready(Some(Err(error))),
            }
            self.say_continue(cx);
            match self.poll_more(cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Some(Err(error))),
                Poll::Pending => {
                    match &mut self.body_reader {
                        Some(reader) => reader.clone_from(cx.waker()),
                        none => *none = Some(cx.waker().clone()),
                    }
                    return Poll::Pending;
                }
            }
        }
    }

    /// What the buffer holds of the body.
    fn take_frame(&mut self) -> Result<Taken, ProxyError> {
        let Phase::Body(inbound) = &mut self.phase else {
            return match self.t.shared.refusal.get() {
                Some(refusal) => Err(broken(refusal)),
                None => Ok(Taken::End),
            };
        };
        let before = self.buffer.len();
        let taken = match &mut inbound.decoder {
            None if inbound.judged > 0 => {
                let data = self.buffer.split_to(inbound.judged.min(before)).freeze();
                Taken::Frame(Frame::data(data))
            }
            None if inbound.follower.done() => Taken::End,
            None => Taken::More,
            Some(_) if inbound.judged == 0 && !inbound.follower.done() => Taken::More,
            Some(decoder) => match decoder.next(&mut self.buffer, inbound.judged) {
                Piece::Data(data) => Taken::Frame(Frame::data(data)),
                Piece::Trailers(trailers) => Taken::Frame(Frame::trailers(trailers)),
                Piece::End => Taken::End,
                Piece::More => Taken::More,
            },
        };
        inbound.judged = inbound
            .judged
            .saturating_sub(before.saturating_sub(self.buffer.len()));
        let all_taken = inbound.decoder.is_none() && inbound.judged == 0 && inbound.follower.done();
        if all_taken || matches!(taken, Taken::End) {
            self.phase = Phase::Head(HeadReader::default());
        }
        Ok(taken)
    }

    /// The body is asked for, so the client may send it (RFC 9110, 10.1.1).
    fn say_continue(&mut self, cx: &mut Context<'_>) {
        let Phase::Body(inbound) = &mut self.phase else {
            return;
        };
        if mem::take(&mut inbound.expects) && self.t.shared.may_inform.get() {
            self.queue_informational();
            self.out.extend_from_slice(CONTINUE);
            // What can't be written now goes out before the response; an error is found there too.
            let _ = self.poll_out(cx);
        }
    }

    fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ProxyError>> {
        let Phase::Body(inbound) = &mut self.phase else {
            return Poll::Ready(Ok(()));
        };
        let from = self.buffer.len();
        if self.buffer.capacity() - from < inbound.read_size / 4 {
            self.buffer.reserve(inbound.read_size);
        }
        let room = self.buffer.capacity() - from;
        match self.t.poll_read_buf(cx, &mut self.buffer) {
            Poll::Ready(Ok(0)) | Poll::Ready(Err(_)) => {
                self.phase = Phase::Closed;
                Poll::Ready(Err(ProxyError::ClientClosed))
            }
            Poll::Ready(Ok(length)) => {
                self.t.clock.end();
                if length == room {
                    inbound.read_size = (inbound.read_size * 2).min(LARGEST_BODY_READ);
                }
                let new = self.buffer.get(from..).unwrap_or_default();
                let followed = inbound.follower.follow(new);
                inbound.judged = inbound.judged.saturating_add(*followed.as_ref().unwrap_or(&0));
                if inbound.follower.done() {
                    self.t.shared.body_open.set(false);
                }
                Poll::Ready(followed.map(|_| ()).map_err(|refusal| self.refuse_body(refusal)))
            }
            Poll::Pending => {
                self.t.clock.begin(Wait::Body, self.t.limits.body_gap);
                ready!(self.t.clock.poll_read(cx));
                let late = Refusal::new(Reason::RequestTimeout, "the request body did not go on in time");
                Poll::Ready(Err(self.refuse_body(late)))
            }
        }
    }

    /// The service has the request already: the answer is its own, from the refusal in the handle.
    fn refuse_body(&mut self, refusal: Refusal) -> ProxyError {
        self.t.refuse(refusal);
        self.buffer.clear();
        self.phase = Phase::Closed;
        broken(refusal)
    }

    /// Interim heads that the service has queued.
    pub(super) fn queue_informational(&mut self) {
        if self.t.shared.has_informational() {
            let queue = self.t.shared.take_informational();
            self.out.extend_from_slice(&queue);
        }
    }

    /// Writes what is queued, down to the socket.
    pub(super) fn poll_out(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.out.is_empty() {
            self.unflushed = true;
            ready!(self.t.poll_write_all(cx, &self.out, &mut self.written))?;
            self.out.clear();
            self.written = 0;
        }
        // Also when it was written before: then the flush is what was waited for.
        if self.unflushed {
            ready!(self.t.poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }
}

enum Taken {
    Frame(Frame<Bytes>),
    End,
    More,
}

fn broken(refusal: Refusal) -> ProxyError {
    match refusal.reason {
        Reason::RequestTimeout => ProxyError::RequestTimeout,
        _ => ProxyError::BadRequest(refusal.detail),
    }
}
