//! An order of events that the test decides: what waits at a gate goes on when the test opens it.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use crate::raw::DEADLINE;

/// Closed until opened; clones are the same gate. A wait ends at [`DEADLINE`] at the latest, so that no thread stays for ever.
#[derive(Clone, Debug, Default)]
pub struct Gate(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    open: Mutex<bool>,
    opened: Condvar,
}

impl Gate {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn open(&self) {
        *self.0.open.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.0.opened.notify_all();
    }

    pub fn is_open(&self) -> bool {
        *self.0.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn wait(&self) {
        let open = self.0.open.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = self.0.opened.wait_timeout_while(open, DEADLINE, |open| !*open);
    }

    /// The same for a task: its thread goes on with others meanwhile.
    pub async fn passed(&self) {
        let opened = async {
            while !self.is_open() {
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        };
        let _ = tokio::time::timeout(DEADLINE, opened).await;
    }
}

const LOOK_AGAIN: Duration = Duration::from_millis(5);
