//! Ending without loss: the orders to drain, to wind up what has no end of its own, and to cut what is left, and how to wait for each.

use std::time::Duration;

use tokio::sync::watch;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    Serving,
    Draining,
    WindingUp,
    Cut,
}

#[derive(Clone, Copy, Debug)]
struct Orders {
    phase: Phase,
    /// Within which time it takes effect everywhere.
    spread: Duration,
}

/// One order for the whole process. It only ever gets stricter.
#[derive(Debug)]
pub struct Drain {
    orders: watch::Sender<Orders>,
}

impl Default for Drain {
    fn default() -> Self {
        Self {
            orders: watch::Sender::new(Orders {
                phase: Phase::Serving,
                spread: Duration::ZERO,
            }),
        }
    }
}

impl Drain {
    /// From now on nothing new is taken, and nothing is kept open longer than its request; connections learn of it one after the other within
    /// `spread`, so that their clients do not all open new ones at once. Said again, a shorter time counts.
    pub fn order(&self, spread: Duration) {
        self.advance(Phase::Draining, spread);
    }

    /// From now on what would go on for ever is brought to an end, each at a moment of its own within `spread`.
    pub fn wind_up(&self, spread: Duration) {
        self.advance(Phase::WindingUp, spread);
    }

    /// From now on nothing is waited for.
    pub fn cut(&self) {
        self.advance(Phase::Cut, Duration::ZERO);
    }

    /// Whether the order to drain was given.
    pub fn is_ordered(&self) -> bool {
        self.orders.borrow().phase >= Phase::Draining
    }

    /// For those that want to be woken by an order.
    pub fn watcher(&self) -> Watcher {
        Watcher(self.orders.subscribe())
    }

    fn advance(&self, to: Phase, spread: Duration) {
        self.orders.send_if_modified(|orders| {
            let later = to > orders.phase || to == orders.phase && spread < orders.spread;
            if later {
                *orders = Orders { phase: to, spread };
            }
            later
        });
    }
}

/// Waits for orders.
#[derive(Clone, Debug)]
pub struct Watcher(watch::Receiver<Orders>);

impl Watcher {
    /// Within which time to tell the connections.
    pub async fn ordered(&mut self) -> Duration {
        self.reached(Phase::Draining).await;
        self.0.borrow().spread
    }

    /// The order to drain has reached everybody.
    pub async fn in_force(&mut self) {
        let spread = self.ordered().await;
        let _ = tokio::time::timeout(spread, self.hastened(spread)).await;
    }

    /// The same order again, with less time, or a stricter one.
    pub async fn hastened(&mut self, spread: Duration) {
        let stricter = |orders: &Orders| orders.phase > Phase::Draining || orders.spread < spread;
        let _ = self.0.wait_for(stricter).await;
    }

    /// Within which time to end.
    pub async fn winding_up(&mut self) -> Duration {
        self.reached(Phase::WindingUp).await;
        self.0.borrow().spread
    }

    pub async fn cut(&mut self) {
        self.reached(Phase::Cut).await;
    }

    async fn reached(&mut self, wanted: Phase) {
        // An error means that whoever gives the orders is gone: nobody is left to serve for.
        let _ = self.0.wait_for(|orders| orders.phase >= wanted).await;
    }
}
