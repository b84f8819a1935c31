//! The request on its way out: head and body, one chunk at a time, in as few writes as possible.
//!
//! Holds at most one chunk of the body: the client is read no faster than the backend takes it.

use std::io::{self, IoSlice, Write};
use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use http::HeaderMap;
use http_body::Body;
use ingress_core::fields::write_field;
use tokio::io::AsyncWrite;

use super::io::Transport;
use super::request_head::UploadFraming;
use crate::error::ProxyError;
use crate::proxy::body::RequestBody;

pub(super) struct Upload {
    /// Head, chunk sizes, trailers: what goes before `data`; written up to `at`.
    front: Vec<u8>,
    at: usize,
    data: Bytes,
    /// What goes after `data`.
    tail: &'static [u8],
    body: RequestBody,
    framing: UploadFraming,
    stage: Stage,
    /// All that was taken from the body, while that is one chunk at most: enough to give the body back whole.
    taken: Option<Bytes>,
    written: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// The body waits for the backend's 100.
    Continue,
    Body,
    /// Everything is queued; it only has to be written.
    Last,
    Done,
    /// The backend takes no more, or wants no more; it may still answer.
    Stopped,
}

/// What the upload waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Waits {
    Nothing,
    Backend,
    Client,
    Continue,
}

impl Upload {
    pub(super) fn new(
        head: Vec<u8>,
        body: RequestBody,
        framing: UploadFraming,
        expects_continue: bool,
    ) -> Self {
        Self {
            front: head,
            at: 0,
            data: Bytes::new(),
            tail: &[],
            body,
            framing,
            stage: match framing {
                UploadFraming::None => Stage::Last,
                _ if expects_continue => Stage::Continue,
                _ => Stage::Body,
            },
            taken: Some(Bytes::new()),
            written: 0,
        }
    }

    /// Writes as much as can be written now. An error is the client's; a backend that takes no more only stops the upload.
    pub(super) fn poll(
        &mut self,
        transport: &mut Transport,
        cx: &mut Context<'_>,
    ) -> Result<Waits, ProxyError> {
        loop {
            // The head waits for a body that is already there: one write instead of two.
            let drained = self.data.is_empty() && self.tail.is_empty();
            if self.stage == Stage::Body && drained && self.poll_take(cx)?.is_pending() {
                return Ok(match self.poll_write(transport, cx) {
                    Poll::Pending => Waits::Backend,
                    Poll::Ready(()) if self.stage == Stage::Stopped => Waits::Nothing,
                    Poll::Ready(()) => Waits::Client,
                });
            }
            if self.poll_write(transport, cx).is_pending() {
                return Ok(Waits::Backend);
            }
            match self.stage {
                Stage::Continue => return Ok(Waits::Continue),
                Stage::Body => {}
                Stage::Last => self.stage = Stage::Done,
                Stage::Done | Stage::Stopped => return Ok(Waits::Nothing),
            }
        }
    }

    pub(super) fn is_done(&self) -> bool {
        self.stage == Stage::Done
    }

    pub(super) fn is_active(&self) -> bool {
        !matches!(self.stage, Stage::Done | Stage::Stopped)
    }

    /// Bytes that the connection has taken.
    pub(super) fn written(&self) -> u64 {
        self.written
    }

    /// The backend said 100, or nothing for too long.
    pub(super) fn let_body_go(&mut self) {
        if self.stage == Stage::Continue {
            self.stage = Stage::Body;
        }
    }

    /// The final status is there: no more retries, and a body that was never asked for stays where it is.
    pub(super) fn answered(&mut self) {
        self.taken = None;
        if self.stage == Stage::Continue {
            self.stage = Stage::Stopped;
        }
    }

    /// The body, if all of it is still there, and the head's buffer.
    pub(super) fn into_parts(self) -> (Option<RequestBody>, Vec<u8>) {
        let mut body = self.body;
        if body.untouched() {
            return (Some(body), self.front);
        }
        let whole = self.taken.map(|taken| {
            body.give_back(taken);
            body
        });
        (whole, self.front)
    }

    /// Queues the next chunk of the body, or its end.
    fn poll_take(&mut self, cx: &mut Context<'_>) -> Result<Poll<()>, ProxyError> {
        let frame = match Pin::new(&mut self.body).poll_frame(cx) {
            Poll::Pending => return Ok(Poll::Pending),
            Poll::Ready(frame) => frame,
        };
        match frame {
            None => self.queue_end(None)?,
            Some(Err(error)) => {
                self.taken = None;
                return Err(error);
            }
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => self.queue_data(data)?,
                Err(frame) => self.queue_end(frame.into_trailers().ok())?,
            },
        }
        Ok(Poll::Ready(()))
    }

    fn queue_data(&mut self, data: Bytes) -> Result<(), ProxyError> {
        if data.is_empty() {
            return Ok(());
        }
        self.taken = match self.taken.take() {
            Some(taken) if taken.is_empty() => Some(data.clone()),
            _ => None,
        };
        self.drop_written_front();
        match &mut self.framing {
            UploadFraming::Chunked => {
                // Writing to a Vec cannot fail.
                let _ = write!(self.front, "{:x}\r\n", data.len());
                self.tail = b"\r\n";
            }
            UploadFraming::Length(left) => {
                *left = left
                    .checked_sub(data.len() as u64)
                    .ok_or(ProxyError::BadRequest("a body longer than its Content-Length"))?;
                if *left == 0 {
                    self.stage = Stage::Last;
                }
            }
            UploadFraming::None => return Err(ProxyError::BadRequest("a body where none was announced")),
        }
        self.data = data;
        Ok(())
    }

    fn queue_end(&mut self, trailers: Option<HeaderMap>) -> Result<(), ProxyError> {
        self.stage = Stage::Last;
        match self.framing {
            UploadFraming::Chunked => {
                self.drop_written_front();
                self.front.extend_from_slice(b"0\r\n");
                for (name, value) in trailers.iter().flatten() {
                    write_field(&mut self.front, name.as_str().as_bytes(), value.as_bytes());
                }
                if trailers.is_some() {
                    self.taken = None;
                }
                self.front.extend_from_slice(b"\r\n");
                Ok(())
            }
            UploadFraming::Length(0) | UploadFraming::None => Ok(()),
            UploadFraming::Length(_) => Err(ProxyError::ClientClosed),
        }
    }

    fn drop_written_front(&mut self) {
        if self.at == self.front.len() {
            self.front.clear();
            self.at = 0;
        }
    }

    /// Ready when everything queued is with the kernel, or the upload has stopped.
    fn poll_write(&mut self, transport: &mut Transport, cx: &mut Context<'_>) -> Poll<()> {
        while self.is_active() && self.has_queued() {
            match self.poll_write_some(transport, cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(length)) if length > 0 => self.advance(length),
                Poll::Ready(_) => self.stage = Stage::Stopped,
            }
        }
        if self.is_active() && transport.is_tls() {
            match Pin::new(transport).poll_flush(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(_)) => self.stage = Stage::Stopped,
            }
        }
        Poll::Ready(())
    }

    fn has_queued(&self) -> bool {
        self.at < self.front.len() || !self.data.is_empty() || !self.tail.is_empty()
    }

    fn poll_write_some(&self, transport: &mut Transport, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let front = self.front.get(self.at..).unwrap_or_default();
        let transport = Pin::new(transport);
        if self.data.is_empty() && self.tail.is_empty() {
            return transport.poll_write(cx, front);
        }
        let slices = [front, &self.data, self.tail].map(IoSlice::new);
        transport.poll_write_vectored(cx, &slices)
    }

    fn advance(&mut self, length: usize) {
        self.written = self.written.saturating_add(length as u64);
        let front = length.min(self.front.len() - self.at);
        self.at += front;
        let data = (length - front).min(self.data.len());
        self.data.advance(data);
        let tail = length - front - data;
        self.tail = self.tail.get(tail..).unwrap_or_default();
        if self.data.is_empty() {
            // Lets go of the client's buffer before the next one is asked for.
            drop(mem::take(&mut self.data));
        }
    }
}
