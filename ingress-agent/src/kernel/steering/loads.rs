//! When the program is told what workers have to do: not while a handshake by SYN cookie may be under way.
//!
//! With a cookie the kernel keeps nothing between SYN and ACK: the ACK finds no half-open connection, so the program is asked again. A listener
//! takes a cookie only if its own queue has been full lately (`tcp_synq_no_recent_overflow`), and each of ours is alone. If the choice between
//! two workers changed meanwhile, a listener that was never full would answer with a reset. So it does not change.

use std::time::{Duration, Instant};

/// For so long a cookie is taken (MAX_SYNCOOKIE_AGE in net/tcp.h), and a client without an answer goes on sending what came after it.
const COOKIE_LASTS: Duration = Duration::from_secs(120);

/// What the program knows.
#[derive(Debug, Default)]
pub(super) struct Told {
    loads: Vec<u32>,
    /// Cookies that were sent, when it was last asked for.
    sent: u64,
    /// Until then cookies may come back.
    until: Option<Instant>,
}

impl Told {
    pub(super) fn new(sent: u64) -> Self {
        Self {
            sent,
            ..Self::default()
        }
    }

    /// Whether it is to be told this now. `sent` is asked only where something has changed.
    pub(super) fn is_to_be_told(&mut self, loads: &[u32], sent: impl FnOnce() -> u64, now: Instant) -> bool {
        if loads == self.loads {
            return false;
        }
        let sent = sent();
        if sent != std::mem::replace(&mut self.sent, sent) {
            self.until = Some(now + COOKIE_LASTS);
        }
        if self.until.is_some_and(|until| now < until) {
            return false;
        }
        self.loads = loads.to_vec();
        true
    }

    /// Not all of it got there.
    pub(super) fn forget(&mut self) {
        self.loads.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_choice_between_workers_does_not_change_while_syn_cookies_may_come_back() {
        let start = Instant::now();
        let mut told = Told::new(7);
        let at = |seconds| start + Duration::from_secs(seconds);
        assert!(told.is_to_be_told(&[0, 8], || 7, at(0)));
        assert!(!told.is_to_be_told(&[0, 8], || 7, at(1)), "it is known");
        assert!(told.is_to_be_told(&[8, 0], || 7, at(2)));
        // A flood begins: who was sent a cookie by a listener comes back to that one.
        for second in 3..60 {
            assert!(!told.is_to_be_told(&[0, 8], || 10 + second, at(second)));
        }
        assert!(!told.is_to_be_told(&[0, 8], || 69, at(60)));
        assert!(!told.is_to_be_told(&[0, 8], || 69, at(170)));
        assert!(
            told.is_to_be_told(&[0, 8], || 69, at(181)),
            "none can come back any more"
        );
        told.forget();
        assert!(
            told.is_to_be_told(&[0, 8], || 69, at(182)),
            "new listeners are told too"
        );
    }
}
