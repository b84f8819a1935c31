//! How a connection waits, and how it ends: by itself, by our leave, or because the client broke a rule.

use std::io;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::BytesMut;
use ingress_core::reason::Reason;
use tokio::time::Instant;

use super::ending::{Ending, Leaving};
use super::wire::{Wire, kind};
use crate::proxy::moment;
use crate::proxy::wire::Refusal;
use crate::proxy::wire::gate::clock::Wait;
use crate::proxy::wire::h2::{ErrorCode, H2Refusal};

/// In a GOAWAY that refuses nothing yet.
const LAST_STREAM: u32 = 0x7fff_ffff;
/// A client that was silent for so long while it waits for answers is asked whether it is still there.
const ASK_ALIVE: Duration = Duration::from_secs(60);
const SAY_ALIVE: Duration = Duration::from_secs(20);
const ALIVE: [u8; 8] = *b"alive???";
pub(super) const LEAVING: [u8; 8] = *b"leaving.";
/// How long a client may take to say that it knows that we leave (RFC 9113, 6.8: at least a round trip).
const HEAR_LEAVING: Duration = Duration::from_secs(2);

impl Wire {
    pub(super) fn leave(&mut self) {
        self.leaving = Leaving::Said;
        self.leaves_at = Some(moment::now() + HEAR_LEAVING);
        self.send_goaway(LAST_STREAM, ErrorCode::NoError);
        self.send(kind::PING, 0, 0, &LEAVING);
    }

    /// What the process has ordered, as far as it has not been done.
    pub(super) fn follow_orders(&mut self) {
        if self.leaving == Leaving::No {
            self.leave();
        }
        if self.leaves_at.is_some_and(|at| at <= moment::now()) {
            self.client_knows();
        }
        if self.t.shared.ending.get() && !std::mem::replace(&mut self.told_end, true) {
            self.wake_streams();
        }
        if self.t.shared.broken_off.get() {
            self.client_knows();
            self.break_off_all();
        }
    }

    /// The client knows that we leave, or has had the time to: what it has sent until now is the last.
    pub(super) fn client_knows(&mut self) {
        if self.leaving == Leaving::Said {
            self.leaving = Leaving::Final;
            self.leaves_at = None;
            self.send_goaway(self.follower.last_stream(), ErrorCode::NoError);
        }
    }

    /// Whether new streams are refused.
    pub(super) fn takes_no_more(&self) -> bool {
        self.leaving == Leaving::Final || self.streams.len() >= self.most_streams
    }

    pub(super) fn end_if_done(&mut self) {
        let last = self.leaving == Leaving::Final || self.peer.leaves;
        if last && self.streams.is_empty() && self.ending.is_none() {
            self.ending = Some(Ending::Words);
        }
    }

    pub(super) fn refuse(&mut self, refusal: H2Refusal) {
        self.t.refuse(refusal.refusal);
        self.end(refusal.code);
    }

    pub(super) fn end(&mut self, code: ErrorCode) {
        self.ending = Some(Ending::Words);
        self.stirred = true;
        self.input = BytesMut::new();
        self.forget_streams();
        self.send_goaway(self.follower.last_stream(), code);
    }

    pub(super) fn send_goaway(&mut self, last: u32, code: ErrorCode) {
        let mut payload = [0; 8];
        let bytes = last.to_be_bytes().into_iter().chain(code.value().to_be_bytes());
        for (place, byte) in payload.iter_mut().zip(bytes) {
            *place = byte;
        }
        self.out.push(kind::GOAWAY, 0, 0, &payload);
    }

    /// The last words, our end, then a little patience.
    pub(super) fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(ending) = self.ending {
            let next = match ending {
                Ending::Words => {
                    self.t.clock.begin(Wait::Linger, self.t.limits.linger_wait);
                    if self.out.poll_write(&mut self.t, cx)?.is_pending() {
                        // Who doesn't take them in time goes without.
                        ready!(self.t.clock.poll_read(cx));
                    }
                    Ending::Shutdown
                }
                Ending::Shutdown => {
                    if self.t.poll_shutdown(cx)?.is_pending() {
                        ready!(self.t.clock.poll_read(cx));
                    }
                    Ending::Linger
                }
                Ending::Linger => {
                    ready!(self.t.poll_linger(cx));
                    Ending::Ended
                }
                Ending::Ended => break,
            };
            self.ending = Some(next);
        }
        Poll::Ready(match self.t.shared.refusal.get() {
            Some(refusal) => Err(io::Error::other(refusal)),
            // The client was idle, or we were about to go.
            None => Ok(()),
        })
    }

    /// Ready when the connection has ended because the client was silent for too long.
    pub(super) fn poll_wait(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.t.shared.park_reader(cx);
        let idle_until = self.idle_until();
        if idle_until.is_some_and(|until| until <= moment::now()) {
            return self.poll_idle_end(cx);
        }
        let limits = &self.t.limits;
        match (idle_until, ()) {
            (_, ()) if self.follower.in_head() => {
                self.t.clock.begin(Wait::Head, limits.head_wait);
            }
            (until, ()) if !self.input.is_empty() => {
                let left = until.map(|until| until.saturating_duration_since(moment::now()));
                let gap = limits.body_gap.min(left.unwrap_or(Duration::MAX));
                self.t.clock.begin(Wait::Body, gap);
            }
            (Some(until), ()) => self.t.clock.begin_until(Wait::Idle, until),
            // How long a stream may take is its service's to say.
            (None, ()) => {
                self.t.clock.end();
                return self.poll_alive(cx);
            }
        }
        ready!(self.t.clock.poll_read(cx));
        if idle_until.is_some_and(|until| until <= Instant::now()) {
            return self.poll_idle_end(cx);
        }
        self.t.refuse(Refusal::new(
            Reason::RequestTimeout,
            "an h2 header block or frame did not go on in time",
        ));
        self.end(ErrorCode::NoError);
        self.poll_end(cx)
    }

    /// When a connection that has no request under way, and none on its way, has been so for long enough. Frames that ask for nothing change
    /// nothing about that.
    fn idle_until(&mut self) -> Option<Instant> {
        if !self.streams.is_empty() || self.follower.in_head() {
            return None;
        }
        let idle = self.t.limits.idle_wait;
        let until = *self.idle_until.get_or_insert_with(|| moment::now() + idle);
        Some(self.leaves_at.map_or(until, |leaves_at| until.min(leaves_at)))
    }

    fn poll_idle_end(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.end(ErrorCode::NoError);
        self.poll_end(cx)
    }

    fn poll_alive(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let wait = if self.asked_alive { SAY_ALIVE } else { ASK_ALIVE };
        ready!(self.alive.poll_expired(cx, wait));
        if self.asked_alive {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        self.asked_alive = true;
        self.alive.progress();
        self.send(kind::PING, 0, 0, &ALIVE);
        self.stirred = true;
        Poll::Pending
    }
}
