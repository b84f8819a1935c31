//! How a connection waits, and how it ends: by itself, by our leave, or because the client broke a rule.

use std::io;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::BytesMut;
use ingress_core::reason::Reason;

use super::wire::{Wire, kind};
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

/// How far the farewell is (RFC 9113, 6.8): first a GOAWAY that refuses nothing and a PING; when that has come back, the last word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leaving {
    No,
    Said,
    Final,
}

/// The steps to the end of the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// What is queued, GOAWAY last.
    Words,
    Shutdown,
    Linger,
    Ended,
}

impl Wire {
    pub(super) fn leave(&mut self) {
        self.leaving = Leaving::Said;
        self.send_goaway(LAST_STREAM, ErrorCode::NoError);
        self.send(kind::PING, 0, 0, &LEAVING);
    }

    /// The client knows that we leave: what it has sent until now is the last.
    pub(super) fn client_knows(&mut self) {
        if self.leaving == Leaving::Said {
            self.leaving = Leaving::Final;
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
                    self.t.clock.end();
                    Ending::Shutdown
                }
                Ending::Shutdown => {
                    ready!(self.t.poll_shutdown(cx))?;
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
        let limits = &self.t.limits;
        match () {
            () if self.follower.in_head() => {
                self.t.clock.begin(Wait::Head, limits.head_wait);
            }
            () if !self.input.is_empty() => self.t.clock.begin(Wait::Body, limits.body_gap),
            () if self.streams.is_empty() => self.t.clock.begin(Wait::Idle, limits.idle_wait),
            // How long a stream may take is its service's to say.
            () => {
                self.t.clock.end();
                return self.poll_alive(cx);
            }
        }
        let wait = ready!(self.t.clock.poll_read(cx));
        if wait != Wait::Idle {
            self.t.refuse(Refusal::new(
                Reason::RequestTimeout,
                "an h2 header block or frame did not go on in time",
            ));
        }
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
