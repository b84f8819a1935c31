//! Ending without loss: the order to drain, the order to cut what is left, and how to wait for either.

use tokio::sync::watch;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    Serving,
    Draining,
    Cut,
}

/// One order for the whole process. It only ever gets stricter.
#[derive(Debug)]
pub struct Drain {
    phase: watch::Sender<Phase>,
}

impl Default for Drain {
    fn default() -> Self {
        Self {
            phase: watch::Sender::new(Phase::Serving),
        }
    }
}

impl Drain {
    /// From now on nothing new is taken, and nothing is kept open longer than its request.
    pub fn order(&self) {
        self.advance(Phase::Draining);
    }

    /// From now on nothing is waited for.
    pub fn cut(&self) {
        self.advance(Phase::Cut);
    }

    /// Whether the order to drain was given.
    pub fn is_ordered(&self) -> bool {
        *self.phase.borrow() >= Phase::Draining
    }

    /// For those that want to be woken by an order.
    pub fn watcher(&self) -> Watcher {
        Watcher(self.phase.subscribe())
    }

    fn advance(&self, to: Phase) {
        self.phase.send_if_modified(|phase| {
            let later = to > *phase;
            if later {
                *phase = to;
            }
            later
        });
    }
}

/// Waits for orders.
#[derive(Clone, Debug)]
pub struct Watcher(watch::Receiver<Phase>);

impl Watcher {
    pub async fn ordered(&mut self) {
        self.reached(Phase::Draining).await;
    }

    pub async fn cut(&mut self) {
        self.reached(Phase::Cut).await;
    }

    async fn reached(&mut self, wanted: Phase) {
        // An error means that whoever gives the orders is gone: nobody is left to serve for.
        let _ = self.0.wait_for(|phase| *phase >= wanted).await;
    }
}
