//! HTTP/2 through the gate: bytes pass as they come, followed frame by frame; a refusal becomes a GOAWAY.

use std::io::{self, IoSlice};
use std::task::{Context, Poll, ready};

use ingress_core::reason::Reason;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::clock::Wait;
use super::transport::Transport;
use crate::proxy::wire::h2::{ErrorCode, Follower, H2Refusal};
use crate::proxy::wire::{Limits, Refusal};

pub(super) struct Http2 {
    follower: Follower,
    ending: Option<Ending>,
}

/// The way to the end of the connection.
struct Ending {
    code: ErrorCode,
    step: Step,
}

enum Step {
    /// An outgoing frame of hyper's has to end first.
    Boundary,
    Goaway([u8; GOAWAY], usize),
    Shutdown,
    Linger,
    Ended,
}

const GOAWAY: usize = 17;

impl Http2 {
    pub(super) fn new(limits: &Limits) -> Self {
        Self {
            follower: Follower::new(limits, Instant::now().into_std()),
            ending: None,
        }
    }

    pub(super) fn poll_read<S: AsyncRead + AsyncWrite + Unpin>(
        &mut self,
        t: &mut Transport<S>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.ending.is_none() {
            match self.poll_pass(t, cx, buf)? {
                Poll::Ready(true) => return Poll::Ready(Ok(())),
                Poll::Ready(false) => {}
                Poll::Pending => ready!(self.poll_wait(t, cx)),
            }
        }
        ready!(self.poll_end(t, cx))?;
        // Without a refusal (the client was idle) this is an ordinary end.
        Poll::Ready(
            t.shared
                .refusal
                .get()
                .map_or(Ok(()), |refusal| Err(io::Error::other(refusal))),
        )
    }

    pub(super) fn poll_write<S: AsyncRead + AsyncWrite + Unpin>(
        &mut self,
        t: &mut Transport<S>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.ending.is_some() {
            return self.poll_last_frame(t, cx, bufs);
        }
        let length = ready!(t.poll_write(cx, bufs))?;
        let now = Instant::now().into_std();
        let mut left = length;
        for buf in bufs {
            let part = buf.get(..left.min(buf.len())).unwrap_or_default();
            left = left.saturating_sub(part.len());
            if let Err(refusal) = self.follower.server(part, now) {
                self.refuse(t, refusal);
            }
        }
        t.shared.in_request.set(self.follower.has_open_streams());
        t.clock.end_of(Wait::Take);
        Poll::Ready(Ok(length))
    }

    /// A connection that ends does so from whichever side hyper polls: it may not read while it can't write.
    pub(super) fn poll_flush<S: AsyncRead + AsyncWrite + Unpin>(
        &mut self,
        t: &mut Transport<S>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        if self.ending.is_some() && self.follower.at_outgoing_boundary() {
            return self.poll_ended(t, cx).map(Err);
        }
        ready!(t.poll_flush(cx))?;
        // hyper may not read again before something comes: the wait that begins here must ring by itself.
        if self.ending.is_none() {
            self.begin_wait(t);
            t.clock.arm(cx);
        }
        Poll::Ready(Ok(()))
    }

    /// Ready(true) when bytes pass to hyper, or the client's end of stream; Ready(false) when the connection has to end.
    fn poll_pass<S: AsyncRead + AsyncWrite + Unpin>(
        &mut self,
        t: &mut Transport<S>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<bool>> {
        let before = buf.filled().len();
        if !t.stash.held().is_empty() {
            t.stash.release_all();
        }
        if !t.stash.deliver(buf) && ready!(t.poll_read(cx, buf))? == 0 {
            return Poll::Ready(Ok(true));
        }
        let new = buf.filled().get(before..).unwrap_or_default();
        let followed = self.follower.client(new, Instant::now().into_std());
        self.note_wait(t);
        if let Err(refusal) = followed {
            buf.set_filled(before);
            self.refuse(t, refusal);
        }
        t.shared.in_request.set(self.follower.has_open_streams());
        Poll::Ready(Ok(self.ending.is_none()))
    }

    /// Bytes came: a wait for just anything is over, that for a whole head isn't.
    fn note_wait<S>(&self, t: &mut Transport<S>) {
        if !self.follower.in_head() {
            t.clock.end();
        }
    }

    /// Ready when the client was silent for too long.
    fn poll_wait<S: AsyncRead + AsyncWrite + Unpin>(
        &mut self,
        t: &mut Transport<S>,
        cx: &mut Context<'_>,
    ) -> Poll<()> {
        t.shared.park_reader(cx);
        self.begin_wait(t);
        let wait = ready!(t.clock.poll_read(cx));
        if wait != Wait::Idle {
            t.refuse(Refusal::new(
                Reason::RequestTimeout,
                "an h2 header block, frame or window did not go on in time",
            ));
        }
        self.end(ErrorCode::NoError);
        Poll::Ready(())
    }

    fn begin_wait<S>(&self, t: &mut Transport<S>) {
        match () {
            () if self.follower.in_head() => t.clock.begin(Wait::Head, t.limits.head_wait),
            () if self.follower.in_frame() => t.clock.begin(Wait::Body, t.limits.body_gap),
            () if !self.follower.has_open_streams() => t.clock.begin(Wait::Idle, t.limits.idle_wait),
            // All answers are made: what is left of them waits for the client's windows.
            () if t.shared.stream_tasks.get() == 0 => t.clock.begin(Wait::Take, t.limits.write_stall),
            // How long a stream may take is the service's to say.
            () => t.clock.end(),
        }
    }

    fn refuse<S: AsyncRead + AsyncWrite + Unpin>(&mut self, t: &mut Transport<S>, refusal: H2Refusal) {
        t.refuse(refusal.refusal);
        self.end(refusal.code);
        t.shared.wake_reader();
    }

    fn end(&mut self, code: ErrorCode) {
        self.ending.get_or_insert(Ending {
            code,
            step: Step::Boundary,
        });
    }

    /// GOAWAY between two outgoing frames, our end, then a little patience.
    fn poll_end<S: AsyncRead + AsyncWrite + Unpin>(
        &mut self,
        t: &mut Transport<S>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        let Some(ending) = &mut self.ending else {
            return Poll::Ready(Ok(()));
        };
        loop {
            ending.step = match &mut ending.step {
                Step::Boundary if self.follower.at_outgoing_boundary() => {
                    Step::Goaway(goaway(self.follower.last_stream(), ending.code), 0)
                }
                Step::Boundary => {
                    t.clock.begin(Wait::Linger, t.limits.linger_wait);
                    t.shared.park_reader(cx);
                    ready!(t.clock.poll_read(cx));
                    Step::Shutdown
                }
                Step::Goaway(frame, at) => {
                    ready!(t.poll_write_all(cx, frame, at))?;
                    ready!(t.poll_flush(cx))?;
                    Step::Shutdown
                }
                Step::Shutdown => {
                    ready!(t.poll_shutdown(cx))?;
                    Step::Linger
                }
                Step::Linger => {
                    ready!(t.poll_linger(cx));
                    Step::Ended
                }
                Step::Ended => return Poll::Ready(Ok(())),
            };
        }
    }

    /// Ready with the error that tells hyper so.
    fn poll_ended<S: AsyncRead + AsyncWrite + Unpin>(
        &mut self,
        t: &mut Transport<S>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Error> {
        Poll::Ready(match ready!(self.poll_end(t, cx)) {
            Ok(()) => t
                .shared
                .refusal
                .get()
                .map_or(io::ErrorKind::BrokenPipe.into(), io::Error::other),
            Err(error) => error,
        })
    }

    /// Only the rest of a frame that hyper has begun still goes out.
    fn poll_last_frame<S: AsyncRead + AsyncWrite + Unpin>(
        &mut self,
        t: &mut Transport<S>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.follower.at_outgoing_boundary() {
            return self.poll_ended(t, cx).map(Err);
        }
        let rest = bufs.iter().find(|buf| !buf.is_empty()).map_or(&[][..], |buf| buf);
        let rest = rest.get(..self.follower.outgoing_left()).unwrap_or(rest);
        let length = ready!(t.poll_write(cx, &[IoSlice::new(rest)]))?;
        // The verdict is known already: only the boundary matters.
        let _ = self
            .follower
            .server(rest.get(..length).unwrap_or_default(), Instant::now().into_std());
        if self.follower.at_outgoing_boundary() {
            t.shared.wake_reader();
        }
        Poll::Ready(Ok(length))
    }
}

fn goaway(last_stream: u32, code: ErrorCode) -> [u8; GOAWAY] {
    let mut frame = [0; GOAWAY];
    let payload = last_stream
        .to_be_bytes()
        .into_iter()
        .chain(code.value().to_be_bytes());
    let bytes = [0, 0, 8, 0x7, 0, 0, 0, 0, 0].into_iter().chain(payload);
    for (place, byte) in frame.iter_mut().zip(bytes) {
        *place = byte;
    }
    frame
}
