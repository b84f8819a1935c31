//! What an HTTP/1.1 exchange holds from its first byte to its last, beyond the response head too: the connection, the request on its way
//! out, and what was read.

use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::BytesMut;
use ingress_core::resource::Timeouts;
use tokio::io::AsyncReadExt;

use super::connection::Connection;
use super::pool::Pool;
use super::response_head::Persistence;
use super::upload::{Upload, Waits};
use crate::error::ProxyError;

const LARGEST_READ: usize = 64 * 1024;
/// RFC 9112, 9.2: nothing was asked that these bytes could answer.
pub(super) const AFTER_BODY: ProxyError = ProxyError::UpstreamProtocol("bytes after the response");

pub(super) struct Exchange {
    pub(super) connection: Connection,
    pub(super) buffer: BytesMut,
    pub(super) upload: Upload,
    pub(super) timeouts: Timeouts,
    pub(super) pool: Rc<Pool>,
    pub(super) read_size: usize,
    pub(super) received: bool,
    pub(super) reused: bool,
}

impl Exchange {
    /// Drives the request; a step forward begins a new wait.
    pub(super) fn poll_upload(&mut self, cx: &mut Context<'_>) -> Result<Waits, ProxyError> {
        let before = self.upload.written();
        let waits = self.upload.poll(&mut self.connection.transport, cx)?;
        if self.upload.written() != before {
            self.connection.timer.progress();
        }
        Ok(waits)
    }

    /// Reads once, in larger steps while the backend fills them.
    pub(super) fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let spare = self.buffer.capacity() - self.buffer.len();
        if spare < self.read_size / 4 {
            self.buffer.reserve(self.read_size);
        }
        let room = self.buffer.capacity() - self.buffer.len();
        let read = pin!(self.connection.transport.read_buf(&mut self.buffer)).poll(cx);
        if let Poll::Ready(Ok(length)) = &read {
            self.received |= *length > 0;
            self.connection.timer.progress();
            if *length == room {
                self.read_size = (self.read_size * 2).min(LARGEST_READ);
            }
        }
        read
    }

    /// The response is complete: the connection goes back to the pool, if the request is complete too, and all else that can be used
    /// again. To be called with an empty buffer.
    pub(super) fn release(self, persistence: Persistence) {
        let complete = self.upload.is_done();
        let (_, head) = self.upload.into_parts();
        self.pool.keep_head_buffer(head);
        self.pool.keep_read_buffer(self.buffer);
        if let (true, Persistence::Keep(limit)) = (complete, persistence) {
            let mut connection = self.connection;
            connection.timer.progress();
            self.pool.put(connection, limit);
        }
    }
}
