//! The timers of a connection, and what is waited for. Setting a deadline is a store; a timer itself moves only when a
//! deadline comes earlier than it stands, or when it rang too early.
//!
//! Reading and writing have one each: the body of a request may be read by another task than the one that writes, and a timer wakes only the last that asked.

use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::Instant;

use crate::proxy::alarm::Alarm;
use crate::proxy::moment;

/// What the reading side waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wait {
    /// The end of a head that has begun, or the first head of a connection.
    Head,
    /// The next request.
    Idle,
    /// The request that may be the last one, while the process drains.
    Last,
    /// More of a body.
    Body,
    /// The client's end of the connection, after ours.
    Linger,
}

pub(super) struct Clock {
    read_timer: Alarm,
    read: Option<(Wait, Instant)>,
    write_timer: Alarm,
    write: Option<Instant>,
}

impl Clock {
    pub(super) fn new() -> Self {
        Self {
            read_timer: Alarm::default(),
            read: None,
            write_timer: Alarm::default(),
            write: None,
        }
    }

    /// Starts the wait, unless the same one is under way.
    pub(super) fn begin(&mut self, wait: Wait, bound: Duration) {
        if self.read.is_none_or(|(kind, _)| kind != wait) {
            self.read = Some((wait, moment::now() + bound));
        }
    }

    /// Waits until then; from the beginning where another end was set.
    pub(super) fn begin_until(&mut self, wait: Wait, due: Instant) {
        self.read = Some((wait, due));
    }

    /// What was waited for came.
    pub(super) fn end(&mut self) {
        self.read = None;
    }

    /// Ready when the wait has been too long.
    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Wait> {
        match self.read {
            Some((wait, due)) => {
                ready!(self.read_timer.poll_due(cx, due));
                self.read = None;
                Poll::Ready(wait)
            }
            None => Poll::Pending,
        }
    }

    /// Ready when nothing could be written for too long.
    pub(super) fn poll_write(&mut self, cx: &mut Context<'_>, bound: Duration) -> Poll<()> {
        let due = *self.write.get_or_insert_with(|| Instant::now() + bound);
        self.write_timer.poll_due(cx, due)
    }

    pub(super) fn wrote(&mut self) {
        self.write = None;
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::future::poll_fn;
    use std::rc::Rc;

    use tokio::task::{LocalSet, spawn_local};

    use super::*;

    #[test]
    fn two_tasks_that_wait_on_one_connection_are_both_woken() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        let waits = async {
            let clock = Rc::new(RefCell::new(Clock::new()));
            let began = Instant::now();
            let writer = Rc::clone(&clock);
            let writing = spawn_local(async move {
                poll_fn(|cx| writer.borrow_mut().poll_write(cx, Duration::from_secs(1))).await;
                began.elapsed().as_secs()
            });
            let reading = spawn_local(async move {
                clock.borrow_mut().begin(Wait::Body, Duration::from_secs(60));
                poll_fn(|cx| clock.borrow_mut().poll_read(cx)).await;
                began.elapsed().as_secs()
            });
            assert_eq!((writing.await.unwrap(), reading.await.unwrap()), (1, 60));
        };
        LocalSet::new().block_on(&runtime, waits);
    }
}
