//! Frames on their way to the client: small ones gathered in one buffer, large data left where it is.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};

use crate::proxy::wire::gate::stream::ClientStream;
use crate::proxy::wire::gate::transport::Transport;
use crate::proxy::wire::h2::frame;

/// Data up to here is copied behind its frame's header.
const COPIED: usize = 2 * 1024;
/// Room for the answers to a few requests that came together.
const FIRST: usize = 2 * 1024;
/// How many pieces are written at once.
const SLICES: usize = 16;

#[derive(Default)]
pub(super) struct Out {
    /// Written before `tail`.
    pieces: VecDeque<Bytes>,
    tail: BytesMut,
    length: usize,
    /// Something was written that the stream below may still hold (TLS does).
    unflushed: bool,
}

impl Out {
    /// Bytes that wait.
    pub(super) fn len(&self) -> usize {
        self.length
    }

    pub(super) fn push(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        if self.tail.capacity() == 0 {
            self.tail.reserve(FIRST);
        }
        let header = frame::header(kind, flags, stream, payload.len());
        self.tail.extend_from_slice(&header);
        self.tail.extend_from_slice(payload);
        self.length = self
            .length
            .saturating_add(header.len())
            .saturating_add(payload.len());
    }

    pub(super) fn push_large(&mut self, kind: u8, flags: u8, stream: u32, payload: Bytes) {
        if payload.len() <= COPIED {
            return self.push(kind, flags, stream, &payload);
        }
        let header = frame::header(kind, flags, stream, payload.len());
        self.tail.extend_from_slice(&header);
        self.length = self
            .length
            .saturating_add(header.len())
            .saturating_add(payload.len());
        self.pieces.push_back(self.tail.split().freeze());
        self.pieces.push_back(payload);
    }

    /// Ready when everything is with the kernel.
    pub(super) fn poll_write(
        &mut self,
        t: &mut Transport<ClientStream>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while self.length > 0 {
            let written = ready!(self.poll_some(t, cx))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.unflushed = true;
            self.advance(written);
        }
        if self.unflushed {
            ready!(t.poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Gives back the memory of what has been written.
    pub(super) fn release(&mut self) {
        if self.length == 0 {
            self.pieces = VecDeque::new();
            self.tail = BytesMut::new();
        }
    }

    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.tail.capacity() + self.pieces.capacity()
    }

    fn poll_some(&self, t: &mut Transport<ClientStream>, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.pieces.is_empty() {
            return t.poll_write(cx, &[IoSlice::new(&self.tail)]);
        }
        let mut slices = [IoSlice::new(&[]); SLICES];
        let pieces = self.pieces.iter().map(Bytes::as_ref).chain([self.tail.as_ref()]);
        let mut count = 0;
        for (place, piece) in slices.iter_mut().zip(pieces) {
            *place = IoSlice::new(piece);
            count += 1;
        }
        t.poll_write(cx, slices.get(..count).unwrap_or_default())
    }

    fn advance(&mut self, mut written: usize) {
        self.length = self.length.saturating_sub(written);
        while let Some(piece) = self.pieces.front_mut() {
            if written < piece.len() {
                return piece.advance(written);
            }
            written = written.saturating_sub(piece.len());
            self.pieces.pop_front();
        }
        self.tail.advance(written.min(self.tail.len()));
    }
}
