//! One stream: what has come of its body, its windows, and who waits for it.

use std::collections::{HashMap, VecDeque};
use std::task::{Context, Waker};

use bytes::BytesMut;
use http::HeaderMap;

/// What a client may send of a body that nobody has read yet.
pub(super) const RECEIVE_WINDOW: i64 = 256 * 1024;
/// Chunks are joined up to here, so that a body in tiny frames takes no more memory than one in large ones.
const JOINED: usize = 4 * 1024;
/// Chunks below this are copied; the largest buffer that others were read into is twice as large.
const COPIED: usize = 16 * 1024;

pub(super) type Streams = HashMap<u32, Stream, foldhash::fast::RandomState>;

pub(super) struct Stream {
    /// What we may send. Negative after SETTINGS that made it smaller (RFC 9113, 6.9.2).
    pub(super) send_window: i64,
    pub(super) receive_window: i64,
    /// Read by the service and not yet given back to the client.
    pub(super) unreturned: i64,
    received: VecDeque<BytesMut>,
    pub(super) trailers: Option<HeaderMap>,
    /// The client has ended its side.
    pub(super) ended: bool,
    /// What is still to come of an announced length.
    pub(super) announced: Option<u64>,
    /// Somebody may still read the body.
    pub(super) is_read: bool,
    /// The client waits for a 100 (RFC 9110, 10.1.1).
    pub(super) expects: bool,
    /// The final head has gone out.
    pub(super) answered: bool,
    /// The answer has no body whatever it says of one.
    pub(super) is_head: bool,
    /// It is among those that wait for the connection.
    pub(super) waits: bool,
    /// It waited for the connection, and may send a frame before those that still wait.
    pub(super) is_next: bool,
    task: Option<Waker>,
    reader: Option<Waker>,
}

impl Stream {
    pub(super) fn new(send_window: i64) -> Self {
        Self {
            send_window,
            receive_window: RECEIVE_WINDOW,
            unreturned: 0,
            received: VecDeque::new(),
            trailers: None,
            ended: false,
            announced: None,
            is_read: true,
            expects: false,
            answered: false,
            is_head: false,
            waits: false,
            is_next: false,
            task: None,
            reader: None,
        }
    }

    pub(super) fn push(&mut self, data: BytesMut) {
        match self.received.back_mut() {
            Some(last) if last.len().saturating_add(data.len()) <= JOINED => last.extend_from_slice(&data),
            // Not to hold what it was read with for so little.
            _ if data.len() < COPIED => self.received.push_back(BytesMut::from(&data[..])),
            _ => self.received.push_back(data),
        }
    }

    pub(super) fn pop(&mut self) -> Option<BytesMut> {
        self.received.pop_front()
    }

    /// Whether so much more, and perhaps the end, is in keeping with what was announced (RFC 9113, 8.1.1).
    pub(super) fn arrives(&mut self, length: usize, ends: bool) -> bool {
        let Some(left) = &mut self.announced else {
            return true;
        };
        match left.checked_sub(length as u64) {
            Some(rest) => {
                *left = rest;
                !ends || rest == 0
            }
            None => false,
        }
    }

    /// What is still to be read of an announced length.
    pub(super) fn to_be_read(&self) -> Option<u64> {
        let left = self.announced?;
        Some(left.saturating_add(self.unread() as u64))
    }

    /// All that was sent has been read.
    pub(super) fn is_drained(&self) -> bool {
        self.ended && self.received.is_empty() && self.trailers.is_none()
    }

    /// Bytes that nobody has read.
    pub(super) fn unread(&self) -> usize {
        self.received.iter().map(BytesMut::len).sum()
    }

    pub(super) fn forget_received(&mut self) {
        self.received = VecDeque::new();
    }

    /// The stream's own future waits; whatever happens to the stream wakes it.
    pub(super) fn park(&mut self, cx: &Context<'_>) {
        park(&mut self.task, cx);
    }

    pub(super) fn park_reader(&mut self, cx: &Context<'_>) {
        park(&mut self.reader, cx);
    }

    pub(super) fn wake(&mut self) {
        if let Some(waker) = self.task.take() {
            waker.wake();
        }
    }

    pub(super) fn wake_reader(&mut self) {
        if let Some(waker) = self.reader.take() {
            waker.wake();
        }
    }
}

fn park(place: &mut Option<Waker>, cx: &Context<'_>) {
    match place {
        Some(waker) => waker.clone_from(cx.waker()),
        None => *place = Some(cx.waker().clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn little_data_does_not_hold_the_buffer_that_it_came_in() {
        let mut stream = Stream::new(0);
        for _ in 0..10 {
            let mut read = BytesMut::zeroed(32 * 1024);
            stream.push(read.split_to(3000));
        }
        let held: usize = stream.received.iter().map(BytesMut::capacity).sum();
        assert!(held < 64 * 1024, "{held}");
        assert_eq!(stream.unread(), 30_000);
    }
}
