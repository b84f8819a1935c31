//! The request's body on its way to a backend, as the stream's windows allow. Whole when the attempt fails, it can be sent elsewhere.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use h2::{Reason, SendStream};
use http_body::Body;

use crate::error::ProxyError;
use crate::proxy::body::RequestBody;

/// Who the upload waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Waits {
    /// All of it is on its way.
    Nothing,
    Backend,
    Client,
    /// The backend's 100 (RFC 9110, 10.1.1).
    Continue,
}

pub(super) struct Upload {
    stream: SendStream<Bytes>,
    body: RequestBody,
    /// Taken from the body, and not sent yet.
    data: Bytes,
    /// All that was taken from the body, while that is one chunk at most.
    taken: Option<Bytes>,
    held: bool,
    done: bool,
    /// Something went on since it was last asked.
    moved: bool,
}

impl Upload {
    /// `held`: the body waits for [`let_body_go`](Self::let_body_go); `done`: it ended with the head.
    pub(super) fn new(stream: SendStream<Bytes>, body: RequestBody, held: bool, done: bool) -> Self {
        Self {
            stream,
            body,
            data: Bytes::new(),
            taken: Some(Bytes::new()),
            held,
            done,
            moved: false,
        }
    }

    pub(super) fn let_body_go(&mut self) {
        self.held = false;
    }

    pub(super) fn take_moved(&mut self) -> bool {
        std::mem::take(&mut self.moved)
    }

    /// The body, if all of it is still there.
    pub(super) fn into_body(mut self) -> Option<RequestBody> {
        if !self.body.untouched() {
            self.body.give_back(self.taken.take()?);
        }
        Some(self.body)
    }

    /// Sends what there is.
    ///
    /// # Errors
    /// The client's: its body ended badly.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Result<Waits, ProxyError> {
        while !self.done {
            if self.held {
                return Ok(Waits::Continue);
            }
            if !self.data.is_empty() {
                if self.poll_data(cx).is_pending() {
                    return Ok(Waits::Backend);
                }
                continue;
            }
            match Pin::new(&mut self.body).poll_frame(cx) {
                Poll::Pending => return Ok(Waits::Client),
                Poll::Ready(None) => self.sent(|stream| stream.send_data(Bytes::new(), true), true),
                Poll::Ready(Some(Err(error))) => {
                    self.taken = None;
                    self.done = true;
                    self.stream.send_reset(Reason::CANCEL);
                    return Err(error);
                }
                Poll::Ready(Some(Ok(frame))) => {
                    let first = self.taken.take().is_some_and(|taken| taken.is_empty());
                    self.taken = frame.data_ref().filter(|_| first).cloned();
                    match frame.into_data() {
                        Ok(data) => self.data = data,
                        Err(frame) => {
                            let trailers = frame.into_trailers().unwrap_or_default();
                            self.sent(|stream| stream.send_trailers(trailers), true);
                        }
                    }
                }
            }
        }
        Ok(Waits::Nothing)
    }

    /// Ready when something of `data` went, or nothing will any more.
    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.stream.reserve_capacity(self.data.len());
        while self.stream.capacity() == 0 {
            match self.stream.poll_capacity(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Some(Ok(_))) => {}
                // The stream is over; why, the response tells. An early answer may still be on its way.
                Poll::Ready(None | Some(Err(_))) => {
                    self.done = true;
                    return Poll::Ready(());
                }
            }
        }
        let length = self.stream.capacity().min(self.data.len());
        let chunk = self.data.split_to(length);
        let last = self.data.is_empty() && self.body.is_end_stream();
        self.sent(|stream| stream.send_data(chunk, last), last);
        Poll::Ready(())
    }

    fn sent(&mut self, send: impl FnOnce(&mut SendStream<Bytes>) -> Result<(), h2::Error>, last: bool) {
        let failed = send(&mut self.stream).is_err();
        self.done = last || failed;
        self.moved = true;
    }
}
