//! What is sent: the heads, data and trailers of answers, and every other frame.

use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use ingress_core::fields::{Fields, write_number};

use super::peer::Table;
use super::wire::{ROOM, Wire, kind};
use crate::proxy::wire::gate::answer::with_date;
use crate::proxy::wire::h2::encode;
use crate::proxy::wire::h2::frame::{self, END_HEADERS, END_STREAM};

impl Wire {
    /// The 1xx heads that the stream's service has queued (RFC 9110, 15.2).
    pub(super) fn send_interim(&mut self, id: u32) {
        if !self.t.shared.has_interim() {
            return;
        }
        for (status, fields) in self.t.shared.take_interim() {
            let awaited = self.streams.get_mut(&id).is_some_and(|stream| !stream.answered);
            // They are only information: a client that doesn't read goes without.
            if awaited && self.out.len() <= ROOM {
                let mut block = Vec::with_capacity(128);
                encode::status(&mut block, status);
                encode::fields(&mut block, &fields);
                self.send_block(id, 0, &block);
            }
        }
    }

    /// `length` is told unless the fields do.
    pub(super) fn send_head(
        &mut self,
        id: u32,
        (status, fields): (StatusCode, &Fields),
        length: Option<u64>,
        ends: bool,
    ) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        stream.answered = true;
        let mut block = Vec::with_capacity(256);
        encode::status(&mut block, status);
        encode::fields(&mut block, fields);
        if let Some(length) = length
            && !fields.contains("content-length")
        {
            let mut digits = Vec::with_capacity(20);
            write_number(&mut digits, length);
            encode::field(&mut block, b"content-length", &digits, false);
        }
        if !fields.contains("date") {
            with_date(|date| encode::field(&mut block, b"date", date, false));
        }
        self.send_block(id, if ends { END_STREAM } else { 0 }, &block);
        if ends {
            self.finish(id);
        }
    }

    /// Sends of `data` what the windows allow; Ready when it is empty. `ends`: nothing comes behind it.
    pub(super) fn poll_data(&mut self, id: u32, data: &mut Bytes, ends: bool, cx: &Context<'_>) -> Poll<()> {
        while !data.is_empty() {
            let Some(stream) = self.streams.get_mut(&id) else {
                data.clear();
                return Poll::Ready(());
            };
            let window = self.send_window.min(stream.send_window);
            // One frame; then it is the turn of those who wait.
            let is_next = std::mem::take(&mut stream.is_next);
            let may = is_next || self.turns == 0 && self.waiting.is_empty();
            self.turns = self.turns.saturating_sub(usize::from(is_next));
            if window <= 0 || self.out.len() >= ROOM || !may {
                stream.park(cx);
                if stream.send_window > 0 && !std::mem::replace(&mut stream.waits, true) {
                    match is_next {
                        true => self.waiting.push_front(id),
                        false => self.waiting.push_back(id),
                    }
                }
                return Poll::Pending;
            }
            let most = usize::try_from(window)
                .unwrap_or(usize::MAX)
                .min(self.peer.frame_bytes);
            let chunk = data.split_to(data.len().min(most));
            let length = i64::try_from(chunk.len()).unwrap_or(i64::MAX);
            stream.send_window -= length;
            self.send_window -= length;
            self.sent = self.sent.wrapping_add(chunk.len() as u64);
            let flags = if ends && data.is_empty() { END_STREAM } else { 0 };
            if !self.may_send(kind::DATA, flags, id, chunk.len()) {
                return Poll::Ready(());
            }
            self.out.push_large(kind::DATA, flags, id, chunk);
        }
        if ends {
            self.finish(id);
        }
        Poll::Ready(())
    }

    pub(super) fn send_end(&mut self, id: u32, trailers: Option<&HeaderMap>) {
        if !self.is_open(id) {
            return;
        }
        match trailers {
            Some(trailers) => {
                let mut block = Vec::with_capacity(64);
                encode::map(&mut block, trailers);
                self.send_block(id, END_STREAM, &block);
            }
            None => self.send(kind::DATA, END_STREAM, id, &[]),
        }
        self.finish(id);
    }

    pub(super) fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        if self.may_send(kind, flags, stream, payload.len()) {
            self.out.push(kind, flags, stream, payload);
        }
    }

    pub(super) fn send_block(&mut self, id: u32, flags: u8, block: &[u8]) {
        let most = self.peer.frame_bytes;
        let emptied = self.empty_table(block);
        let block = emptied.as_deref().unwrap_or(block);
        let (first, mut rest) = block.split_at(block.len().min(most));
        let last = |rest: &[u8]| if rest.is_empty() { END_HEADERS } else { 0 };
        self.send(kind::HEADERS, flags | last(rest), id, first);
        while !rest.is_empty() {
            let (next, after) = rest.split_at(rest.len().min(most));
            rest = after;
            self.send(kind::CONTINUATION, last(rest), id, next);
        }
    }

    /// The block with what its reader has to hear of the table before it.
    fn empty_table(&mut self, block: &[u8]) -> Option<Vec<u8>> {
        if self.peer.table != Table::ToBeEmptied {
            return None;
        }
        self.peer.table = Table::Empty;
        Some([&[encode::EMPTY_TABLE], block].concat())
    }

    /// Counts what a client makes us send; false when the connection is about to end.
    fn may_send(&mut self, kind: u8, flags: u8, stream: u32, length: usize) -> bool {
        let frame = frame::Frame::parse(frame::header(kind, flags, stream, length));
        if self.ending.is_none()
            && let Err(refusal) = self.follower.server_frame(frame, self.now)
        {
            self.refuse(refusal);
        }
        self.ending.is_none()
    }
}
