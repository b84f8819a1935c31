//! Ending without loss: the orders to drain, to wind up what has no end of its own, to end what is left, and to cut; how to wait for each, and what
//! had to be ended.

use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::watch;

/// How far it is. It only ever gets stricter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    Serving,
    Draining,
    WindingUp,
    Ending,
    Cut,
}

#[derive(Clone, Copy, Debug)]
struct Orders {
    phase: Phase,
    /// Within which time it takes effect everywhere.
    spread: Duration,
    /// How long an answer that has begun may still go on once it is its connection's turn to end.
    grace: Duration,
}

/// One order for the whole process.
#[derive(Debug)]
pub struct Drain {
    orders: watch::Sender<Orders>,
    ended: [AtomicU64; Ended::ALL.len()],
}

/// What was open at the end of the drain, by what became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// A request without an answer yet: it got 503 `draining`.
    Request,
    /// An answer that had begun was broken off.
    Answer,
    /// A WebSocket got a Close frame.
    WebSocket,
    /// A connection was cut, since it did not end in time after all of this.
    Connection,
}

impl Ended {
    pub const ALL: [Self; 4] = [Self::Request, Self::Answer, Self::WebSocket, Self::Connection];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::Answer => "answer",
            Self::WebSocket => "websocket",
            Self::Connection => "connection",
        }
    }
}

impl Default for Drain {
    fn default() -> Self {
        Self {
            orders: watch::Sender::new(Orders {
                phase: Phase::Serving,
                spread: Duration::ZERO,
                grace: Duration::ZERO,
            }),
            ended: Default::default(),
        }
    }
}

impl Drain {
    /// From now on nothing new is taken, and nothing is kept open longer than its request; connections learn of it one after the other within
    /// `spread`, so that their clients do not all open new ones at once. Said again, a shorter time counts.
    pub fn order(&self, spread: Duration) {
        self.advance(Phase::Draining, spread, Duration::ZERO);
    }

    /// From now on what would go on for ever is brought to an end, each at a moment of its own within `spread`.
    pub fn wind_up(&self, spread: Duration) {
        self.advance(Phase::WindingUp, spread, Duration::ZERO);
    }

    /// From now on everything is brought to an end, each connection at a moment of its own within `spread`: what has no answer yet gets one
    /// that says why, what has begun may go on for `grace`.
    pub fn end(&self, spread: Duration, grace: Duration) {
        self.advance(Phase::Ending, spread, grace);
    }

    /// From now on nothing is waited for; so many connections are still open.
    pub fn cut(&self, open: &AtomicUsize) {
        let open = u64::try_from(open.load(Ordering::Relaxed)).unwrap_or(u64::MAX);
        if self.orders.borrow().phase < Phase::Cut {
            self.ended[Ended::Connection as usize].fetch_add(open, Ordering::Relaxed);
        }
        self.advance(Phase::Cut, Duration::ZERO, Duration::ZERO);
    }

    /// Whether the order to drain was given.
    pub fn is_ordered(&self) -> bool {
        self.orders.borrow().phase >= Phase::Draining
    }

    /// For those that want to be woken by an order.
    pub fn watcher(&self) -> Watcher {
        Watcher(self.orders.subscribe())
    }

    /// One more of what had to be ended.
    pub fn ended(&self, what: Ended) {
        self.ended[what as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub fn tally(&self) -> Tally {
        Tally(Ended::ALL.map(|what| (what, self.ended[what as usize].load(Ordering::Relaxed))))
    }

    fn advance(&self, to: Phase, spread: Duration, grace: Duration) {
        self.orders.send_if_modified(|orders| {
            let later = to > orders.phase || to == orders.phase && spread < orders.spread;
            if later {
                *orders = Orders {
                    phase: to,
                    spread,
                    grace,
                };
            }
            later
        });
    }
}

/// How many of each kind had to be ended so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tally(pub [(Ended, u64); Ended::ALL.len()]);

impl Tally {
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|(_, count)| *count == 0)
    }

    fn of(&self, wanted: Ended) -> u64 {
        let mut all = self.0.iter();
        all.find(|(what, _)| *what == wanted)
            .map_or(0, |(_, count)| *count)
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "requests answered 503 draining {}, answers broken off {}, WebSockets closed {}, connections cut {}",
            self.of(Ended::Request),
            self.of(Ended::Answer),
            self.of(Ended::WebSocket),
            self.of(Ended::Connection),
        )
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

    /// Within which time to tell the connections that they end, and how long each then has.
    pub async fn ending(&mut self) -> (Duration, Duration) {
        self.reached(Phase::Ending).await;
        let orders = *self.0.borrow();
        (orders.spread, orders.grace)
    }

    /// The order to end again, with less time.
    pub async fn hurried(&mut self, spread: Duration) {
        let stricter = |orders: &Orders| orders.phase > Phase::Ending || orders.spread < spread;
        let _ = self.0.wait_for(stricter).await;
    }

    pub async fn cut(&mut self) {
        self.reached(Phase::Cut).await;
    }

    async fn reached(&mut self, wanted: Phase) {
        // An error means that whoever gives the orders is gone: nobody is left to serve for.
        let _ = self.0.wait_for(|orders| orders.phase >= wanted).await;
    }
}
