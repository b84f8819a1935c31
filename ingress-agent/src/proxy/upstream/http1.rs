//! One HTTP/1.1 exchange on one connection, driven by the task that wants the answer: no task, channel or timer of its own.

use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::StatusCode;

use super::connection::Connection;
use super::exchange::{AFTER_BODY, Exchange};
use super::request_head::{UploadFraming, expects_continue, write_head};
use super::response_body::UpstreamBody;
use super::response_head::{Asked, Framing, HeadReader, Persistence, ResponseHead, take_head};
use super::upload::{Upload, Waits};
use super::{Answer, Call, Failed, Shared, UpstreamIo};
use crate::error::ProxyError;
use crate::proxy::body::RequestBody;
use crate::proxy::message::Response;

const FIRST_READ: usize = 8 * 1024;
/// A body up to here is copied, so that the buffer is free for the next exchange.
const SMALL: u64 = 2 * 1024;
/// More interim responses than this are a flood.
const MAX_INFORMATIONAL: usize = 16;

/// Sends the request on `connection` and reads up to the response head.
pub(super) async fn exchange(
    shared: &Shared,
    connection: Connection,
    reused: bool,
    call: &mut Call<'_>,
    body: RequestBody,
) -> Result<Answer, Failed> {
    let framing = UploadFraming::of(&body);
    let mut head = shared.pool.head_buffer();
    if let Err(error) = write_head(&mut head, &call.head, framing, connection.single_use) {
        return Err(Failed {
            error,
            sent: false,
            body: Some(Box::new(body)),
        });
    }
    let expects = expects_continue(&call.head, framing);
    let mut exchange = Exchange {
        connection,
        buffer: shared.pool.read_buffer(),
        upload: Upload::new(head, body, framing, expects),
        timeouts: call.timeouts.clone(),
        pool: Rc::clone(&shared.pool),
        read_size: FIRST_READ,
        received: false,
        reused,
    };
    match exchange.final_head(shared, call).await {
        Ok(head) => exchange.into_answer(head),
        Err(error) => Err(exchange.fail(error)),
    }
}

impl Exchange {
    async fn final_head(&mut self, shared: &Shared, call: &mut Call<'_>) -> Result<ResponseHead, ProxyError> {
        let asked = Asked::new(call.head.method, call.head.websocket);
        let mut reader = HeadReader::default();
        for _ in 0..=MAX_INFORMATIONAL {
            let head = std::future::poll_fn(|cx| self.poll_head(cx, &mut reader, asked, shared)).await?;
            if !head.status.is_informational() || head.status == StatusCode::SWITCHING_PROTOCOLS {
                return Ok(head);
            }
            if head.status == StatusCode::CONTINUE {
                self.upload.let_body_go();
            }
            (call.informational)(head.status, &head.fields);
        }
        Err(ProxyError::UpstreamProtocol("too many interim responses"))
    }

    fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        reader: &mut HeadReader,
        asked: Asked,
        shared: &Shared,
    ) -> Poll<Result<ResponseHead, ProxyError>> {
        loop {
            let waits = self.poll_upload(cx)?;
            match take_head(&mut self.buffer, reader, asked).map_err(ProxyError::UpstreamProtocol)? {
                Some(head) => return Poll::Ready(Ok(head)),
                None => match self.poll_fill(cx) {
                    Poll::Ready(Ok(length)) if length > 0 => continue,
                    Poll::Ready(_) => return Poll::Ready(Err(self.reset())),
                    Poll::Pending => {}
                },
            }
            let limit = match waits {
                Waits::Nothing => self.timeouts.read,
                Waits::Backend => self.timeouts.send,
                Waits::Continue => shared.settings.continue_wait.min(self.timeouts.read),
                // The client's own pace is not the backend's fault; who reads from the client has a limit of its own.
                Waits::Client => {
                    self.connection.timer.progress();
                    return Poll::Pending;
                }
            };
            if self.connection.timer.poll_expired(cx, limit).is_pending() {
                return Poll::Pending;
            }
            if waits != Waits::Continue {
                return Poll::Ready(Err(ProxyError::ResponseTimeout));
            }
            self.connection.timer.progress();
            self.upload.let_body_go();
        }
    }

    /// The connection ended before a response head.
    fn reset(&self) -> ProxyError {
        ProxyError::UpstreamReset {
            idle: self.reused && !self.received,
        }
    }

    fn fail(self, error: ProxyError) -> Failed {
        let sent = self.upload.written() > 0;
        let (body, head) = self.upload.into_parts();
        self.pool.keep_head_buffer(head);
        self.pool.keep_read_buffer(self.buffer);
        Failed {
            error,
            sent,
            body: body.map(Box::new),
        }
    }

    fn into_answer(mut self, head: ResponseHead) -> Result<Answer, Failed> {
        self.upload.answered();
        let ResponseHead {
            status,
            fields,
            framing,
            persistence,
        } = head;
        if status == StatusCode::SWITCHING_PROTOCOLS {
            let early = self.buffer.freeze();
            let Connection { transport, open, .. } = self.connection;
            let io = UpstreamIo::new(early, transport, open);
            let response = Response {
                status,
                fields,
                body: (),
            };
            return Ok(Answer::Upgraded { response, io });
        }
        let body = self.into_body(framing, persistence)?;
        Ok(Answer::Response(Response { status, fields, body }))
    }

    /// A body that is there already needs no connection any more.
    fn into_body(mut self, framing: Framing, persistence: Persistence) -> Result<UpstreamBody, Failed> {
        let length = match framing {
            Framing::None => 0,
            Framing::Length(length) => length,
            Framing::Chunked | Framing::UntilClose => {
                return Ok(UpstreamBody::streaming(self, framing, persistence));
            }
        };
        let there = self.buffer.len() as u64;
        if there > length {
            return Err(self.fail(AFTER_BODY));
        }
        if there < length {
            return Ok(UpstreamBody::streaming(self, framing, persistence));
        }
        let data = if there <= SMALL {
            let data = Bytes::copy_from_slice(&self.buffer);
            self.buffer.clear();
            data
        } else {
            self.buffer.split().freeze()
        };
        self.release(persistence);
        Ok(UpstreamBody::full(data))
    }
}
