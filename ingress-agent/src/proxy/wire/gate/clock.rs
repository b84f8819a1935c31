//! The one timer of a connection, and what it is waited for. Setting a deadline is a store; the timer itself moves only when a
//! deadline comes earlier than it stands, or when it rang too early.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

/// What the reading side waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wait {
    /// The end of a head that has begun, or the first head of a connection.
    Head,
    /// The next request.
    Idle,
    /// More of a body.
    Body,
    /// That the client takes what is written to it: h2, which has windows.
    Take,
    /// The client's end of the connection, after ours.
    Linger,
}

pub(super) struct Clock {
    sleep: Option<Pin<Box<Sleep>>>,
    read: Option<(Wait, Instant)>,
    write: Option<Instant>,
}

impl Clock {
    pub(super) fn new() -> Self {
        Self {
            sleep: None,
            read: None,
            write: None,
        }
    }

    /// Starts the wait, unless the same one is under way.
    pub(super) fn begin(&mut self, wait: Wait, bound: Duration) {
        if self.read.is_none_or(|(kind, _)| kind != wait) {
            self.read = Some((wait, Instant::now() + bound));
        }
    }

    /// Sees to it that the task is woken when the wait under way has been too long.
    pub(super) fn arm(&mut self, cx: &mut Context<'_>) {
        if let Some((_, due)) = self.read {
            // If it is over already, the waking comes with the next poll for reading, which `poll_due` has seen to.
            if self.poll_due(cx, due).is_ready() {
                cx.waker().wake_by_ref();
            }
        }
    }

    /// What was waited for came, if it was this.
    pub(super) fn end_of(&mut self, wait: Wait) {
        if self.read.is_some_and(|(kind, _)| kind == wait) {
            self.read = None;
        }
    }

    /// What was waited for came.
    pub(super) fn end(&mut self) {
        self.read = None;
    }

    /// Ready when the wait has been too long.
    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Wait> {
        match self.read {
            Some((wait, due)) => {
                ready!(self.poll_due(cx, due));
                self.read = None;
                Poll::Ready(wait)
            }
            None => Poll::Pending,
        }
    }

    /// Ready when nothing could be written for too long.
    pub(super) fn poll_write(&mut self, cx: &mut Context<'_>, bound: Duration) -> Poll<()> {
        let due = *self.write.get_or_insert_with(|| Instant::now() + bound);
        self.poll_due(cx, due)
    }

    pub(super) fn wrote(&mut self) {
        self.write = None;
    }

    fn poll_due(&mut self, cx: &mut Context<'_>, due: Instant) -> Poll<()> {
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(sleep_until(due)));
        if sleep.deadline() > due {
            sleep.as_mut().reset(due);
        }
        ready!(sleep.as_mut().poll(cx));
        if Instant::now() >= due {
            return Poll::Ready(());
        }
        // It rang for a wait that has ended since.
        sleep.as_mut().reset(due);
        sleep.as_mut().poll(cx)
    }
}
