//! One runtime timer for a limit that mostly isn't reached.
//!
//! Made when it is first needed, and moved only when it rings or would ring too late: a connection whose requests are answered in time costs
//! the runtime's timers nothing beyond the first.

use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use tokio::time::{Instant, Sleep, sleep_until};

use super::moment;

#[derive(Default)]
pub(crate) struct Alarm(Option<Set>);

struct Set {
    sleep: Pin<Box<Sleep>>,
    /// Whom it wakes.
    waker: Option<Waker>,
}

impl Alarm {
    /// Ready when `due` is over; else the task is woken then, or earlier.
    pub(crate) fn poll_due(&mut self, cx: &mut Context<'_>, due: Instant) -> Poll<()> {
        let set = self.0.get_or_insert_with(|| Set {
            sleep: Box::pin(sleep_until(due)),
            waker: None,
        });
        if set.sleep.deadline() > due {
            set.sleep.as_mut().reset(due);
        } else if set.wakes(cx) && moment::now() < set.sleep.deadline() {
            // It stands already: asking it would only tell it whom to wake once more.
            return Poll::Pending;
        }
        set.waker = Some(cx.waker().clone());
        ready!(set.sleep.as_mut().poll(cx));
        if Instant::now() >= due {
            return Poll::Ready(());
        }
        // It rang for a wait that has ended since.
        set.sleep.as_mut().reset(due);
        set.sleep.as_mut().poll(cx)
    }
}

impl Set {
    fn wakes(&self, cx: &Context<'_>) -> bool {
        self.waker
            .as_ref()
            .is_some_and(|waker| waker.will_wake(cx.waker()))
    }
}
