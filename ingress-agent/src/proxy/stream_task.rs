//! The tasks of h2 streams, and the end of those that only the client holds up.
//!
//! hyper stops asking for a response body while the client's window is shut, and waits without a bound. So each stream's task is watched from
//! outside: after a poll in which nothing of ours was pending, it can only be the client that is waited for.

use std::cell::Cell;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use super::upstream::timer::Timer;
use super::wire::GateHandle;

/// Who is waited for; shared by the streams of a connection, which are polled one at a time.
#[derive(Default)]
pub(crate) struct Pace {
    ours: Cell<bool>,
}

impl Pace {
    /// Something on our side or the backend's is pending.
    pub(crate) fn waits_for_us(&self) {
        self.ours.set(true);
    }

    /// Notes that it is our turn, whenever `work` is pending.
    pub(crate) async fn watch<F: Future>(&self, work: F) -> F::Output {
        let mut work = pin!(work);
        std::future::poll_fn(|cx| {
            let polled = work.as_mut().poll(cx);
            if polled.is_pending() {
                self.waits_for_us();
            }
            polled
        })
        .await
    }
}

/// Runs h2 streams on the worker's own thread.
#[derive(Clone)]
pub(crate) struct StreamExecutor {
    pub(crate) pace: Rc<Pace>,
    pub(crate) gate: GateHandle,
    /// How long a client may take none of what is there for it.
    pub(crate) stall: Duration,
}

impl<F> hyper::rt::Executor<F> for StreamExecutor
where
    F: Future + 'static,
    F::Output: 'static,
{
    fn execute(&self, future: F) {
        self.gate.stream_task_begins();
        tokio::task::spawn_local(StreamTask {
            future: Box::pin(future),
            timer: Timer::default(),
            executor: self.clone(),
        });
    }
}

struct StreamTask<F> {
    future: Pin<Box<F>>,
    timer: Timer,
    executor: StreamExecutor,
}

impl<F: Future> Future for StreamTask<F> {
    type Output = ();

    /// Ready also when the client stalls: dropping the stream resets it.
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        let pace = &this.executor.pace;
        pace.ours.set(false);
        if this.future.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        if pace.ours.get() {
            this.timer.progress();
            return Poll::Pending;
        }
        this.timer.poll_expired(cx, this.executor.stall)
    }
}

impl<F> Drop for StreamTask<F> {
    fn drop(&mut self) {
        self.executor.gate.stream_task_ended();
    }
}
