//! HTTP/1.x through the gate: which bytes hyper may have, and when.
//!
//! What is relied on: hyper asks for a new head only when the response before is encoded as a whole, and calls `poll_flush` of its I/O only
//! when its own write buffer is empty. So a flush after the last byte of a request and after the last write means: the
//! outgoing side is at a message boundary.

use std::io::{self, IoSlice};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use ingress_core::reason::Reason;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::answer::answer;
use super::clock::Wait;
use super::transport::Transport;
use crate::proxy::wire::Refusal;
use crate::proxy::wire::h1::{Body, HeadReader, Version};

/// What hyper writes by itself when an expected body is first polled.
const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// How long the end of the process waits for the first request of a connection.
const FIRST_REQUEST_WHILE_DRAINING: Duration = Duration::from_secs(1);

pub(super) struct Http1 {
    phase: Phase,
    out: Outgoing,
    last_words: Option<LastWords>,
    shut: bool,
    ended: bool,
}

enum Phase {
    Head(HeadReader),
    Body(Body),
    /// A WebSocket handshake was released: what follows isn't read until it is decided.
    Upgrade,
    Tunnel,
    Closed,
}

/// Where the outgoing side stands.
struct Outgoing {
    /// Written since the last flush.
    dirty: bool,
    /// Flushed since the last byte of a request was released.
    flushed: bool,
    /// The final response of the current exchange has begun.
    responding: bool,
    /// What is left of a 100 Continue.
    interim_left: usize,
    /// A reader waits for the boundary.
    awaited: bool,
}

struct LastWords {
    bytes: Vec<u8>,
    at: usize,
}

impl Http1 {
    pub(super) fn new() -> Self {
        let out = Outgoing {
            dirty: false,
            flushed: true,
            responding: false,
            interim_left: 0,
            awaited: false,
        };
        Self {
            phase: Phase::Head(HeadReader::default()),
            out,
            last_words: None,
            shut: false,
            ended: false,
        }
    }

    pub(super) fn poll_read<S: AsyncRead + AsyncWrite + Unpin>(
        &mut self,
        t: &mut Transport<S>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if t.stash.deliver(buf) {
            return Poll::Ready(Ok(()));
        }
        if matches!(self.phase, Phase::Upgrade) {
            ready!(self.poll_upgrade(t, cx));
        }
        match &self.phase {
            Phase::Head(_) => self.poll_head(t, cx, buf),
            Phase::Body(_) => self.poll_body(t, cx, buf),
            Phase::Tunnel if t.stash.deliver(buf) => Poll::Ready(Ok(())),
            Phase::Tunnel => t.poll_read(cx, buf).map_ok(|_| ()),
            Phase::Upgrade => Poll::Pending,
            Phase::Closed => Poll::Ready(Ok(())),
        }
    }

    pub(super) fn poll_write<S: AsyncRead + AsyncWrite + Unpin>(
        &mut self,
        t: &mut Transport<S>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_inform(t, cx))?;
        let length = ready!(t.poll_write(cx, bufs))?;
        self.out.dirty = true;
        if !self.out.responding {
            self.out.note(bufs.first().map_or(&[], |b| b), length);
            t.shared
                .may_inform
                .set(t.shared.may_inform.get() && !self.out.responding);
        }
        Poll::Ready(Ok(length))
    }

    pub(super) fn poll_flush<S: AsyncRead + AsyncWrite + Unpin>(
        &mut self,
        t: &mut Transport<S>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(self.poll_inform(t, cx))?;
        ready!(t.poll_flush(cx))?;
        self.out.dirty = false;
        self.out.flushed = true;
        if std::mem::take(&mut self.out.awaited) {
            t.shared.wake_reader();
        }
        Poll::Ready(Ok(()))
    }

    /// hyper is done. Says what is still to be said, ends our side, and waits a little for the client's.
    pub(super) fn poll_shutdown<S: AsyncRead + AsyncWrite + Unpin>(
        &mut self,
        t: &mut Transport<S>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        if self.ended {
            return Poll::Ready(Ok(()));
        }
        if let Some(words) = &mut self.last_words {
            ready!(t.poll_write_all(cx, &words.bytes, &mut words.at))?;
        }
        if !self.shut {
            ready!(t.poll_flush(cx))?;
            ready!(t.poll_shutdown(cx))?;
            self.shut = true;
        }
        let unread = matches!(self.phase, Phase::Body(_))
            || t.shared.refusal.get().is_some()
            || !t.stash.held().is_empty();
        if unread {
            ready!(t.poll_linger(cx));
        }
        self.ended = true;
        t.shared.in_request.set(false);
        Poll::Ready(Ok(()))
    }

    /// Ready when the handshake is decided.
    fn poll_upgrade<S: AsyncRead + AsyncWrite + Unpin>(
        &mut self,
        t: &mut Transport<S>,
        cx: &mut Context<'_>,
    ) -> Poll<()> {
        if t.shared.tunnel.get() {
            t.stash.release_all();
            self.phase = Phase::Tunnel;
        } else if t.shared.resumed.replace(false) || (self.out.responding && self.out.at_boundary()) {
            self.phase = Phase::Head(HeadReader::default());
        } else {
            self.out.awaited = true;
            t.shared.park_reader(cx);
            return Poll::Pending;
        }
        Poll::Ready(())
    }

    fn poll_head<S: AsyncRead + AsyncWrite + Unpin>(
        &mut self,
        t: &mut Transport<S>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.out.at_boundary() {
            self.out.awaited = true;
            t.shared.park_reader(cx);
            return Poll::Pending;
        }
        t.shared.in_request.set(false);
        t.shared.may_inform.set(false);
        if self.judge_held(t) {
            t.stash.deliver(buf);
            return Poll::Ready(Ok(()));
        }
        loop {
            match t.poll_read(cx, buf) {
                Poll::Ready(Ok(0)) => return self.ends_in_head(t),
                Poll::Ready(Ok(_)) if self.judge_read(t, buf) => return Poll::Ready(Ok(())),
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                // Only now: a request that has already arrived is answered.
                Poll::Pending if self.is_idle() && t.shared.draining.get() => return self.close(),
                Poll::Pending => {
                    ready!(self.poll_head_wait(t, cx));
                    return Poll::Ready(Ok(()));
                }
            }
        }
    }

    /// True when `poll_read` has its outcome: bytes in the stash to deliver, or the end.
    fn judge_held<S: AsyncRead + AsyncWrite + Unpin>(&mut self, t: &mut Transport<S>) -> bool {
        if t.stash.held().is_empty() {
            return false;
        }
        let verdict = self.judge(t.stash.held(), t);
        match verdict {
            Ok(Some(length)) => {
                t.clock.end();
                t.stash.release(length);
            }
            Ok(None) => return false,
            Err(refusal) => self.refuse_head(t, refusal),
        }
        true
    }

    /// Judges what was just read into hyper's buffer, in place when nothing was withheld before. True as in `judge_held`.
    fn judge_read<S: AsyncRead + AsyncWrite + Unpin>(
        &mut self,
        t: &mut Transport<S>,
        buf: &mut ReadBuf<'_>,
    ) -> bool {
        if !t.stash.held().is_empty() {
            t.stash.hold(buf.filled());
            buf.clear();
            let judged = self.judge_held(t);
            t.stash.deliver(buf);
            return judged;
        }
        match self.judge(buf.filled(), t) {
            Ok(Some(length)) => {
                t.clock.end();
                if let Some(next @ [_, ..]) = buf.filled().get(length..) {
                    t.stash.hold(next);
                    buf.set_filled(length);
                }
                return true;
            }
            Ok(None) => t.stash.hold(buf.filled()),
            Err(refusal) => self.refuse_head(t, refusal),
        }
        buf.clear();
        matches!(self.phase, Phase::Closed)
    }

    /// How much of `bytes` may pass: a whole head, and what is there of its body. None while the head is incomplete.
    fn judge<S>(&mut self, bytes: &[u8], t: &Transport<S>) -> Result<Option<usize>, Refusal> {
        let Phase::Head(reader) = &mut self.phase else {
            return Ok(None);
        };
        let Some(info) = reader.advance(bytes, &t.limits)? else {
            return Ok(None);
        };
        let mut body = Body::new(info.framing);
        let used = body.follow(bytes.get(info.end..).unwrap_or_default())?;
        self.phase = match () {
            () if info.upgrade_websocket => {
                // What was said of requests before is not about this one.
                t.shared.resumed.set(false);
                Phase::Upgrade
            }
            () if body.done() => Phase::Head(HeadReader::default()),
            () => Phase::Body(body),
        };
        self.out.exchange();
        t.shared.body_open.set(matches!(self.phase, Phase::Body(_)));
        t.shared.in_request.set(true);
        t.shared.may_inform.set(info.version == Version::Http11);
        Ok(Some(info.end.saturating_add(used)))
    }

    fn poll_body<S: AsyncRead + AsyncWrite + Unpin>(
        &mut self,
        t: &mut Transport<S>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        match t.poll_read(cx, buf) {
            // hyper finds the body too short, and says so to the service.
            Poll::Ready(Ok(0)) => self.close(),
            Poll::Ready(Ok(_)) => {
                t.clock.end();
                Poll::Ready(self.follow_body(t, buf, before))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => {
                t.clock.begin(Wait::Body, t.limits.body_gap);
                ready!(t.clock.poll_read(cx));
                let late = Refusal::new(Reason::RequestTimeout, "the request body did not go on in time");
                Poll::Ready(Err(self.refuse_body(t, late)))
            }
        }
    }

    fn follow_body<S: AsyncRead + AsyncWrite + Unpin>(
        &mut self,
        t: &mut Transport<S>,
        buf: &mut ReadBuf<'_>,
        before: usize,
    ) -> io::Result<()> {
        let Phase::Body(body) = &mut self.phase else {
            return Ok(());
        };
        let new = buf.filled().get(before..).unwrap_or_default();
        match body.follow(new) {
            Ok(used) => {
                if let Some(next @ [_, ..]) = new.get(used..) {
                    t.stash.hold(next);
                    buf.set_filled(before.saturating_add(used));
                }
                if body.done() {
                    t.shared.body_open.set(false);
                    self.phase = Phase::Head(HeadReader::default());
                }
                self.out.flushed = false;
                Ok(())
            }
            Err(refusal) => {
                buf.set_filled(before);
                Err(self.refuse_body(t, refusal))
            }
        }
    }

    /// Ready when the head is too late.
    fn poll_head_wait<S: AsyncRead + AsyncWrite + Unpin>(
        &mut self,
        t: &mut Transport<S>,
        cx: &mut Context<'_>,
    ) -> Poll<()> {
        t.shared.park_reader(cx);
        if !self.untouched() {
            t.clock.begin(Wait::Head, t.limits.head_wait);
        } else if t.shared.draining.get() {
            // Of a new connection: its first request is probably on its way.
            t.clock
                .begin(Wait::Idle, t.limits.head_wait.min(FIRST_REQUEST_WHILE_DRAINING));
        } else if self.out.responding {
            t.clock.begin(Wait::Idle, t.limits.idle_wait);
        }
        ready!(t.clock.poll_read(cx));
        if self.untouched() {
            self.phase = Phase::Closed;
        } else {
            let late = Refusal::new(Reason::RequestTimeout, "the request head did not arrive in time");
            self.refuse_head(t, late);
        }
        Poll::Ready(())
    }

    fn ends_in_head<S: AsyncRead + AsyncWrite + Unpin>(
        &mut self,
        t: &mut Transport<S>,
    ) -> Poll<io::Result<()>> {
        if !self.untouched() {
            self.refuse_head(t, Refusal::bad("the request head ends early"));
        }
        self.close()
    }

    /// Between two requests.
    fn is_idle(&self) -> bool {
        self.untouched() && self.out.responding
    }

    fn untouched(&self) -> bool {
        matches!(&self.phase, Phase::Head(reader) if reader.untouched())
    }

    fn close(&mut self) -> Poll<io::Result<()>> {
        self.phase = Phase::Closed;
        Poll::Ready(Ok(()))
    }

    /// hyper sees the end of the stream at a message boundary, and shuts down; then come our own words.
    fn refuse_head<S: AsyncRead + AsyncWrite + Unpin>(&mut self, t: &mut Transport<S>, refusal: Refusal) {
        t.refuse(refusal);
        self.last_words = Some(LastWords {
            bytes: answer(refusal, t.limits.reason_header),
            at: 0,
        });
        self.phase = Phase::Closed;
    }

    /// The service has the request already: the answer is its own, from the refusal in the handle.
    fn refuse_body<S: AsyncRead + AsyncWrite + Unpin>(
        &mut self,
        t: &mut Transport<S>,
        refusal: Refusal,
    ) -> io::Error {
        t.refuse(refusal);
        self.phase = Phase::Closed;
        let kind = match refusal.reason {
            Reason::RequestTimeout => io::ErrorKind::TimedOut,
            _ => io::ErrorKind::InvalidData,
        };
        io::Error::new(kind, refusal)
    }

    /// Queued 1xx heads go first, as long as the outgoing side stands before a response.
    fn poll_inform<S: AsyncRead + AsyncWrite + Unpin>(
        &mut self,
        t: &mut Transport<S>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        if !t.shared.has_informational() || self.out.interim_left > 0 {
            return Poll::Ready(Ok(()));
        }
        let (queue, mut at) = t.shared.take_informational();
        let written = t.poll_write_all(cx, &queue, &mut at);
        if at < queue.len() {
            t.shared.put_back_informational(queue, at);
        }
        written
    }
}

impl Outgoing {
    fn at_boundary(&self) -> bool {
        self.flushed && !self.dirty && self.interim_left == 0
    }

    /// A new exchange begins.
    fn exchange(&mut self) {
        self.flushed = false;
        self.responding = false;
        self.interim_left = 0;
    }

    /// hyper wrote `length` bytes that begin with `first`: a 100 Continue of its own, or the response.
    fn note(&mut self, first: &[u8], length: usize) {
        if self.interim_left == 0 && first.starts_with(CONTINUE) {
            self.interim_left = CONTINUE.len();
        }
        let interim = length.min(self.interim_left);
        self.interim_left = self.interim_left.saturating_sub(interim);
        self.responding = length > interim;
    }
}
