//! The present moment, asked of the kernel once for each time that a connection's task is woken.
//!
//! What a task does between two waits takes microseconds; a look at the clock for each of its steps would be a good part of that. Outside
//! of such a poll every question is a look at the clock.

use std::cell::Cell;

use tokio::time::Instant;

thread_local! {
    static NOW: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// As long as it lives, time stands still for this thread.
pub(crate) struct Moment(());

impl Moment {
    pub(crate) fn begin() -> Self {
        NOW.set(Some(Instant::now()));
        Self(())
    }
}

impl Drop for Moment {
    fn drop(&mut self) {
        NOW.set(None);
    }
}

/// Now, as the runtime's timers count it.
pub(crate) fn now() -> Instant {
    NOW.get().unwrap_or_else(Instant::now)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn time_stands_still_while_a_task_is_polled_and_goes_on_after_it() {
        let moment = Moment::begin();
        let within = now();
        std::thread::sleep(Duration::from_millis(2));
        assert_eq!(now(), within);
        drop(moment);
        assert!(now() > within);
    }
}
