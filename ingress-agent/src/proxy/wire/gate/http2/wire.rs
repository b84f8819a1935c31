//! The connection itself: its buffers, windows and streams, and when it reads and writes.
//!
//! What the client's frames do to it is in [`receive`](super::receive), what it sends in [`send`](super::send), what it waits for and how
//! it ends in [`end`](super::end).

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use http_body::Frame;

use super::ending::{Ending, Leaving};
use super::out::Out;
use super::peer::Peer;
use super::streams::{RECEIVE_WINDOW, Stream, Streams};
use crate::error::ProxyError;
use crate::proxy::message::Head;
use crate::proxy::moment;
use crate::proxy::timer::Timer;
use crate::proxy::wire::Limits;
use crate::proxy::wire::gate::stream::ClientStream;
use crate::proxy::wire::gate::transport::Transport;
use crate::proxy::wire::h2::{ErrorCode, Follower, encode, frame};

const READ: usize = 4 * 1024;
/// While much comes.
const LARGEST_READ: usize = 32 * 1024;
/// So often is read before answers are looked after.
const READS: usize = 4;
/// No stream queues data behind this much.
pub(super) const ROOM: usize = 64 * 1024;
/// Behind this much that the client doesn't take nothing more is read of it: answers to its frames must not pile up.
const PAUSE: usize = 256 * 1024;
/// What a client may send of all bodies together that nobody has read yet.
const CONNECTION_WINDOW: i64 = 1024 * 1024;
/// Streams that we broke off, whose last frames may still be on their way.
const BROKEN_OFF: usize = 256;

pub(super) mod kind {
    pub(in super::super) const DATA: u8 = 0x0;
    pub(in super::super) const HEADERS: u8 = 0x1;
    pub(in super::super) const RST_STREAM: u8 = 0x3;
    pub(in super::super) const SETTINGS: u8 = 0x4;
    pub(in super::super) const PING: u8 = 0x6;
    pub(in super::super) const GOAWAY: u8 = 0x7;
    pub(in super::super) const WINDOW_UPDATE: u8 = 0x8;
    pub(in super::super) const CONTINUATION: u8 = 0x9;
}

pub(super) struct Wire {
    pub(super) t: Transport<ClientStream>,
    pub(super) follower: Follower,
    /// Read, and not yet a whole frame.
    pub(super) input: BytesMut,
    pub(super) partial: Option<Partial>,
    pub(super) out: Out,
    pub(super) streams: Streams,
    pub(super) most_streams: usize,
    /// Requests whose service has not begun.
    pub(super) opened: VecDeque<(u32, Box<Head>)>,
    /// Streams that wait for room or for the connection's window, the longest first.
    pub(super) waiting: VecDeque<u32>,
    /// Streams that waited, and whose turn it is.
    pub(super) turns: usize,
    /// With what their windows still allow.
    broken_off: VecDeque<(u32, i64)>,
    pub(super) send_window: i64,
    /// Data that went to the client on any stream.
    pub(super) sent: u64,
    pub(super) receive_window: i64,
    unreturned: i64,
    pub(super) peer: Peer,
    /// Something happened that the same turn has to look after.
    pub(super) stirred: bool,
    pub(super) leaving: Leaving,
    /// When the last word of the farewell is said at the latest.
    pub(super) leaves_at: Option<tokio::time::Instant>,
    /// The streams' services have been woken for the end of the process.
    pub(super) told_end: bool,
    /// When a connection without a stream has had its time: only requests put it off.
    pub(super) idle_until: Option<tokio::time::Instant>,
    pub(super) ending: Option<Ending>,
    pub(super) alive: Timer,
    pub(super) asked_alive: bool,
    /// Of the last read.
    pub(super) now: Instant,
    /// `input` has bytes that were not looked at.
    unseen: bool,
    /// How much the next read makes room for.
    read: usize,
}

/// A header block that is not yet complete.
pub(super) struct Partial {
    pub(super) head: frame::Frame,
    pub(super) block: BytesMut,
}

impl Wire {
    pub(super) fn new(io: ClientStream, first: &[u8], limits: Arc<Limits>, streams: u32) -> Self {
        let now = tokio::time::Instant::now().into_std();
        let mut wire = Self {
            follower: Follower::new(&limits, now),
            t: Transport::new(io, limits),
            input: BytesMut::from(first),
            partial: None,
            out: Out::default(),
            streams: Streams::default(),
            most_streams: usize::try_from(streams).unwrap_or(usize::MAX),
            opened: VecDeque::new(),
            waiting: VecDeque::new(),
            turns: 0,
            broken_off: VecDeque::new(),
            send_window: 65_535,
            sent: 0,
            receive_window: CONNECTION_WINDOW,
            unreturned: 0,
            peer: Peer::default(),
            stirred: false,
            leaving: Leaving::No,
            leaves_at: None,
            told_end: false,
            idle_until: None,
            ending: None,
            alive: Timer::default(),
            asked_alive: false,
            now,
            unseen: true,
            read: READ,
        };
        wire.t.shared.speaks_http2();
        wire.t.count_read(first.len());
        wire.send_settings(streams);
        let more = u32::try_from(CONNECTION_WINDOW - 65_535).unwrap_or_default();
        wire.send(kind::WINDOW_UPDATE, 0, 0, &more.to_be_bytes());
        wire
    }

    /// Reads what is there; Ready when the connection has ended.
    pub(super) fn poll_in(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.t.shared.draining.get() {
            self.follow_orders();
        }
        for _ in 0..READS {
            if self.ending.is_none()
                && std::mem::take(&mut self.unseen)
                && let Err(refusal) = self.take_input()
            {
                self.refuse(refusal);
            }
            self.end_if_done();
            self.t.shared.in_request.set(!self.streams.is_empty());
            if self.ending.is_some() {
                return self.poll_end(cx);
            }
            if self.out.len() > PAUSE {
                return Poll::Pending;
            }
            match self.poll_read(cx)? {
                Poll::Ready(0) => {
                    // RFC 9113 has no half-closed connections.
                    self.forget_streams();
                    self.ending = Some(Ending::Shutdown);
                    self.stirred = true;
                }
                Poll::Ready(_) => {}
                Poll::Pending => return self.poll_wait(cx),
            }
        }
        self.stirred = true;
        Poll::Pending
    }

    /// Writes what there is. Streams that waited for room are woken when half of it is there.
    pub(super) fn poll_out(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if matches!(
            self.ending,
            Some(Ending::Shutdown | Ending::Linger | Ending::Ended)
        ) {
            return Poll::Ready(Ok(()));
        }
        let paused = self.out.len() > PAUSE;
        let written = self.out.poll_write(&mut self.t, cx)?;
        self.rouse();
        self.stirred |= paused && self.out.len() <= PAUSE;
        if written.is_ready() && self.streams.is_empty() {
            self.out.release();
        }
        written.map(Ok)
    }

    /// Whether the connection has to be looked after once more before its task may rest.
    pub(super) fn take_stirred(&mut self) -> bool {
        std::mem::take(&mut self.stirred)
    }

    // For the streams' futures.

    pub(super) fn is_open(&self, id: u32) -> bool {
        self.streams.contains_key(&id)
    }

    pub(super) fn is_head(&self, id: u32) -> bool {
        self.streams.get(&id).is_some_and(|stream| stream.is_head)
    }

    /// False when there is nothing to wait for: the stream is over.
    pub(super) fn park(&mut self, id: u32, cx: &Context<'_>) -> bool {
        self.streams.get_mut(&id).map(|stream| stream.park(cx)).is_some()
    }

    /// Breaks the stream off, if it isn't over.
    pub(super) fn reset(&mut self, id: u32, code: ErrorCode) {
        let Some(stream) = self.close(id) else {
            return;
        };
        if !stream.ended {
            self.remember_broken_off(id, stream.receive_window);
        }
        self.send(kind::RST_STREAM, 0, id, &code.value().to_be_bytes());
    }

    /// Whether the stream only waits for its turn, and those before it go on.
    pub(super) fn others_move(&self, id: u32, seen: &mut u64) -> bool {
        let before = std::mem::replace(seen, self.sent);
        before != self.sent && self.streams.get(&id).is_some_and(|stream| stream.waits)
    }

    // For the bodies of requests.

    /// The length that the head announced, and whether there is no body at all.
    pub(super) fn announced(&self, id: u32) -> (Option<u64>, bool) {
        self.streams
            .get(&id)
            .map_or((None, false), |stream| (stream.to_be_read(), stream.is_drained()))
    }

    pub(super) fn is_body_drained(&self, id: u32) -> bool {
        self.streams.get(&id).is_some_and(Stream::is_drained)
    }

    pub(super) fn poll_body(
        &mut self,
        id: u32,
        cx: &Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ProxyError>>> {
        let Some(stream) = self.streams.get_mut(&id) else {
            return Poll::Ready(Some(Err(ProxyError::ClientClosed)));
        };
        if let Some(data) = stream.pop() {
            self.give_back(id, data.len());
            return Poll::Ready(Some(Ok(Frame::data(data.freeze()))));
        }
        if stream.ended {
            return Poll::Ready(
                stream
                    .trailers
                    .take()
                    .map(|trailers| Ok(Frame::trailers(trailers))),
            );
        }
        stream.park_reader(cx);
        if std::mem::take(&mut stream.expects) && !stream.answered {
            let mut block = Vec::new();
            encode::status(&mut block, http::StatusCode::CONTINUE);
            self.send_block(id, 0, &block);
            self.stirred = true;
        }
        Poll::Pending
    }

    /// Nobody will read what still comes: it counts for the connection alone, and the client is not asked for more.
    pub(super) fn stop_reading(&mut self, id: u32) {
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.is_read = false;
            let unread = stream.unread();
            stream.forget_received();
            self.return_credit(unread);
        }
    }

    // Windows.

    /// The service has read so much of the stream's body.
    fn give_back(&mut self, id: u32, length: usize) {
        self.return_credit(length);
        let Some(stream) = self.streams.get_mut(&id).filter(|stream| !stream.ended) else {
            return;
        };
        stream.unreturned += i64::try_from(length).unwrap_or(0);
        if stream.unreturned >= RECEIVE_WINDOW / 2 {
            let more = std::mem::take(&mut stream.unreturned);
            stream.receive_window += more;
            self.send_window_update(id, more);
        }
    }

    /// So much of the connection's window is free again.
    pub(super) fn return_credit(&mut self, length: usize) {
        self.unreturned += i64::try_from(length).unwrap_or(0);
        if self.unreturned >= CONNECTION_WINDOW / 2 {
            let more = std::mem::take(&mut self.unreturned);
            self.receive_window += more;
            self.send_window_update(0, more);
        }
    }

    fn send_window_update(&mut self, id: u32, more: i64) {
        let more = u32::try_from(more).unwrap_or_default();
        self.send(kind::WINDOW_UPDATE, 0, id, &more.to_be_bytes());
        self.stirred = true;
    }

    /// Lets those who wait go on when half of the room is free; false when there is nobody or no room.
    pub(super) fn rouse(&mut self) -> bool {
        let may = self.out.len() <= ROOM / 2 && self.send_window > 0 && !self.waiting.is_empty();
        if may {
            self.wake_waiting();
        }
        may
    }

    /// It is the turn of those who waited longest: of as many as have room for a frame each, so that one with much to say
    /// doesn't come before one that has said nothing.
    pub(super) fn wake_waiting(&mut self) {
        let mut room = ROOM.saturating_sub(self.out.len());
        while room > 0
            && let Some(id) = self.waiting.pop_front()
        {
            if let Some(stream) = self.streams.get_mut(&id) {
                stream.waits = false;
                stream.is_next = true;
                self.turns = self.turns.saturating_add(1);
                stream.wake();
                self.stirred = true;
                room = room.saturating_sub(self.peer.frame_bytes);
            }
        }
    }

    // Streams.

    /// Our side has ended well. A client that hasn't ended its own is told that nobody reads on (RFC 9113, 8.1).
    pub(super) fn finish(&mut self, id: u32) {
        if self.streams.get(&id).is_some_and(|stream| !stream.ended) {
            self.reset(id, ErrorCode::NoError);
        } else {
            self.close(id);
        }
    }

    pub(super) fn close(&mut self, id: u32) -> Option<Stream> {
        let mut stream = self.streams.remove(&id)?;
        self.turns = self.turns.saturating_sub(usize::from(stream.is_next));
        // A request whose service has not begun never was.
        self.opened.retain(|(opened, _)| *opened != id);
        // What is waited for now may be another request, or the end.
        self.stirred |= self.streams.is_empty();
        self.return_credit(stream.unread());
        stream.wake();
        stream.wake_reader();
        Some(stream)
    }

    /// All of them, because the process ends.
    pub(super) fn break_off_all(&mut self) {
        let open: Vec<u32> = self.streams.keys().copied().collect();
        for id in open {
            self.close(id);
            // Not by what a client may provoke: this is our own decision.
            self.out
                .push(kind::RST_STREAM, 0, id, &ErrorCode::Cancel.value().to_be_bytes());
        }
    }

    /// Whoever serves a stream looks at its connection again.
    pub(super) fn wake_streams(&mut self) {
        self.streams.values_mut().for_each(Stream::wake);
    }

    fn remember_broken_off(&mut self, id: u32, window: i64) {
        if self.broken_off.len() >= BROKEN_OFF {
            self.broken_off.pop_front();
        }
        self.broken_off.push_back((id, window));
    }

    /// What was left of the window of a stream that we broke off, if we still know.
    pub(super) fn broken_off(&mut self, id: u32) -> Option<&mut i64> {
        let known = self.broken_off.iter_mut().find(|(known, _)| *known == id);
        known.map(|(_, window)| window)
    }

    pub(super) fn forget_streams(&mut self) {
        self.opened.clear();
        for (_, mut stream) in self.streams.drain() {
            stream.wake();
            stream.wake_reader();
        }
        self.t.shared.in_request.set(false);
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.input.capacity() == 0 {
            ready!(self.t.io.poll_readable(cx));
        }
        self.input.reserve(self.read);
        let read = self.t.poll_read_buf(cx, &mut self.input);
        if let Poll::Ready(Ok(length @ 1..)) = read {
            self.unseen = true;
            self.read = if length < self.read {
                READ
            } else {
                (self.read * 2).min(LARGEST_READ)
            };
            self.now = moment::now().into_std();
            self.alive.progress();
            self.asked_alive = false;
        } else if self.input.is_empty() && self.streams.is_empty() {
            self.input = BytesMut::new();
        }
        read
    }

    #[cfg(test)]
    pub(super) fn buffered(&self) -> usize {
        self.input.capacity() + self.out.capacity()
    }
}
