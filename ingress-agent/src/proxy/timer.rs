//! One timer for a connection, for limits that count from the last progress.

use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::Instant;

use super::alarm::Alarm;
use super::moment;

/// Asks for the time only when there is something to wait for.
#[derive(Default)]
pub(super) struct Timer {
    alarm: Alarm,
    /// When the present wait began.
    since: Option<Instant>,
}

impl Timer {
    /// Something moved: the next wait counts from its own beginning.
    pub(super) fn progress(&mut self) {
        self.since = None;
    }

    /// Ready when nothing has moved for `limit`. To be called whenever there is nothing left to do but wait.
    pub(super) fn poll_expired(&mut self, cx: &mut Context<'_>, limit: Duration) -> Poll<()> {
        let since = *self.since.get_or_insert_with(moment::now);
        match since.checked_add(limit) {
            Some(due) => self.alarm.poll_due(cx, due),
            None => Poll::Pending,
        }
    }
}
