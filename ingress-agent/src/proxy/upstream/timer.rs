//! One timer for a connection, for limits that count from the last progress.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

/// Arms a runtime timer only when there is something to wait for, and moves it only when it fires or comes too late: a request that is answered in time
/// costs no timer at all beyond the first one on its connection.
#[derive(Default)]
pub(in crate::proxy) struct Timer {
    sleep: Option<Pin<Box<Sleep>>>,
    /// When the present wait began.
    since: Option<Instant>,
}

impl Timer {
    /// Something moved: the next wait counts from its own beginning.
    pub(in crate::proxy) fn progress(&mut self) {
        self.since = None;
    }

    /// Ready when nothing has moved for `limit`. To be called whenever there is nothing left to do but wait.
    pub(in crate::proxy) fn poll_expired(&mut self, cx: &mut Context<'_>, limit: Duration) -> Poll<()> {
        let since = *self.since.get_or_insert_with(Instant::now);
        let Some(due) = since.checked_add(limit) else {
            return Poll::Pending;
        };
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(sleep_until(due)));
        if sleep.deadline() > due {
            sleep.as_mut().reset(due);
        }
        while sleep.as_mut().poll(cx).is_ready() {
            if Instant::now() >= due {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(due);
        }
        Poll::Pending
    }
}
