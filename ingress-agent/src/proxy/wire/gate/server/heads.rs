//! The heads that a connection reads: judged from where they were read to, in the order of their arrival.

use std::io;
use std::mem::{self, MaybeUninit};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Buf;
use ingress_core::fields::Block;
use ingress_core::reason::Reason;
use tokio::io::ReadBuf;

use super::chunked::Decoder;
use super::inbound::{BODY_READ, HEAD_READ, Inbound, Phase, Wire};
use super::request::{self, Asked};
use crate::proxy::message::Head;
use crate::proxy::wire::Refusal;
use crate::proxy::wire::gate::answer::answer;
use crate::proxy::wire::gate::clock::Wait;
use crate::proxy::wire::h1::{Body, Framing, HeadInfo, HeadReader, Version};

/// How long the end of the process waits for a request on a connection that has none under way. One may be on its way to us, and who closes then
/// lets it fail; its answer can say that it was the last (RFC 9112, 9.6).
const LAST_REQUEST: Duration = Duration::from_secs(1);

/// A request whose head is whole and judged.
pub(super) struct Next {
    pub(super) head: Box<Head>,
    pub(super) asked: Asked,
    pub(super) framing: Framing,
}

/// What the bytes that are there say of the next request.
enum Judged {
    More,
    /// What is to be said is queued.
    Refused,
    /// And how many bytes its head has.
    Next(Next, usize),
}

impl Wire {
    /// The next request; `None` when the connection is over, and what is to be said is queued.
    pub(super) fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Next>>> {
        if let Some(next) = self.judge_buffer() {
            return Poll::Ready(Ok(next));
        }
        loop {
            if matches!(self.phase, Phase::Closed) {
                return Poll::Ready(Ok(None));
            }
            let mut space = [const { MaybeUninit::uninit() }; HEAD_READ];
            let mut read = ReadBuf::uninit(&mut space);
            match self.t.poll_read(cx, &mut read) {
                Poll::Ready(Ok(0)) => {
                    self.end_in_head();
                    return Poll::Ready(Ok(None));
                }
                Poll::Ready(Ok(_)) => {
                    if let Some(next) = self.judge_read(read.filled()) {
                        return Poll::Ready(Ok(next));
                    }
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {
                    self.let_buffers_go();
                    ready!(self.poll_head_wait(cx));
                    return Poll::Ready(Ok(None));
                }
            }
        }
    }

    /// Judges what was read just now from where it is: only what is left over is kept.
    fn judge_read(&mut self, read: &[u8]) -> Option<Option<Next>> {
        if !self.buffer.is_empty() {
            self.buffer.extend_from_slice(read);
            return self.judge_buffer();
        }
        match self.judge_head(read) {
            Judged::More => self.buffer.extend_from_slice(read),
            Judged::Refused => return Some(None),
            Judged::Next(next, used) => {
                self.buffer
                    .extend_from_slice(read.get(used..).unwrap_or_default());
                return Some(Some(next));
            }
        }
        None
    }

    fn judge_buffer(&mut self) -> Option<Option<Next>> {
        if self.buffer.is_empty() {
            return None;
        }
        let mut buffer = mem::take(&mut self.buffer);
        match self.judge_head(&buffer) {
            Judged::More => self.buffer = buffer,
            Judged::Refused => return Some(None),
            Judged::Next(next, used) => {
                buffer.advance(used);
                self.buffer = buffer;
                return Some(Some(next));
            }
        }
        None
    }

    /// The first offending byte decides, in the body too as far as it is here: then no service sees the request.
    fn judge_head(&mut self, bytes: &[u8]) -> Judged {
        let Phase::Head(reader) = &mut self.phase else {
            return Judged::Refused;
        };
        let taken = match reader.advance(bytes, &self.t.limits) {
            Ok(None) => return Judged::More,
            Ok(Some(info)) => self.take_head(bytes, &info),
            Err(refusal) => Err(refusal),
        };
        match taken {
            Ok(next) => next,
            Err(refusal) => {
                self.refuse_head(refusal);
                Judged::Refused
            }
        }
    }

    fn take_head(&mut self, bytes: &[u8], info: &HeadInfo) -> Result<Judged, Refusal> {
        let Phase::Head(reader) = mem::replace(&mut self.phase, Phase::Closed) else {
            return Ok(Judged::Refused);
        };
        let mut follower = Body::new(info.framing);
        let judged = follower.follow(bytes.get(info.end..).unwrap_or_default())?;
        let block = Block::from(bytes.get(..info.end).unwrap_or_default());
        let (head, asked) = request::build(block, reader.into_lines(), info)?;
        self.t.clock.end();
        self.t.shared.body_open.set(!follower.done());
        self.t.shared.in_request.set(true);
        self.t.shared.may_inform.set(info.version == Version::Http11);
        self.phase = if matches!(info.framing, Framing::None | Framing::Length(0)) {
            Phase::Head(HeadReader::default())
        } else {
            Phase::Body(Inbound {
                follower,
                judged,
                decoder: (info.framing == Framing::Chunked).then_some(Decoder::Size),
                expects: info.expect_continue && judged == 0,
                read_size: BODY_READ,
            })
        };
        let next = Next {
            head,
            asked,
            framing: info.framing,
        };
        Ok(Judged::Next(next, info.end))
    }

    /// Ready when the head is too late.
    fn poll_head_wait(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.t.shared.park_reader(cx);
        if self.t.shared.ending.get() {
            if self.t.shared.broken_off.get() {
                return Poll::Ready(());
            }
            self.t.clock.begin(Wait::Last, LAST_REQUEST);
        } else if !self.untouched() {
            self.t.clock.begin(Wait::Head, self.t.limits.head_wait);
        } else if self.t.shared.draining.get() {
            let wait = self.t.limits.head_wait.min(LAST_REQUEST);
            self.t.clock.begin(Wait::Last, wait);
        } else if self.answered {
            self.t.clock.begin(Wait::Idle, self.t.limits.idle_wait);
        }
        ready!(self.t.clock.poll_read(cx));
        if !self.untouched() {
            self.refuse_head(match self.t.shared.ending.get() {
                true => Refusal::new(Reason::Draining, "the agent ends before the request head does"),
                false => Refusal::new(Reason::RequestTimeout, "the request head did not arrive in time"),
            });
        }
        Poll::Ready(())
    }

    fn end_in_head(&mut self) {
        if !self.untouched() {
            self.refuse_head(Refusal::bad("the request head ends early"));
        }
    }

    fn untouched(&self) -> bool {
        matches!(&self.phase, Phase::Head(reader) if reader.untouched())
    }

    /// Our own last words are queued, and nothing that follows is looked at.
    fn refuse_head(&mut self, refusal: Refusal) {
        self.t.refuse(refusal);
        self.buffer.clear();
        self.out
            .extend_from_slice(&answer(refusal, self.t.limits.reason_header));
        self.phase = Phase::Closed;
    }
}
