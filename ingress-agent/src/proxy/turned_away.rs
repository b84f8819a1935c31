//! What a worker spends on turning connections away: as many at once, as many handshakes a second. Knows no socket.

use std::cell::Cell;

use crate::listener::Listener;

/// Told at the same time, by each worker.
const AT_ONCE: usize = 64;
/// The same by TLS: each takes some 50 KiB while it lasts.
const HANDSHAKES_AT_ONCE: usize = 8;
/// Handshakes that a worker makes for it in a second: at 300 µs each they are half a per cent of its time, whatever comes.
const HANDSHAKES_A_SECOND: u32 = 16;

/// What a worker spends on turning away.
#[derive(Debug, Default)]
pub(crate) struct TurnedAway {
    plain: Cell<usize>,
    secure: Cell<usize>,
    /// The second since the start, and the handshakes begun in it.
    begun: Cell<(u64, u32)>,
}

impl TurnedAway {
    pub(super) fn may_begin(&self, listener: Listener, second: u64) -> bool {
        if listener == Listener::Http {
            return self.plain.get() < AT_ONCE;
        }
        let begun = match self.begun.get() {
            (then, begun) if then == second => begun,
            _ => 0,
        };
        let may = self.secure.get() < HANDSHAKES_AT_ONCE && begun < HANDSHAKES_A_SECOND;
        if may {
            self.begun.set((second, begun + 1));
        }
        may
    }

    pub(super) fn count(&self, listener: Listener) -> &Cell<usize> {
        match listener {
            Listener::Http => &self.plain,
            Listener::Https => &self.secure,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handshakes_for_those_turned_away_are_bounded_at_once_and_by_the_second() {
        let turned_away = TurnedAway::default();
        let begin = |second| {
            (0..100)
                .filter(|_| turned_away.may_begin(Listener::Https, second))
                .count()
        };
        assert_eq!(begin(1), 16);
        assert_eq!(begin(1), 0);
        assert_eq!(begin(2), 16);
        turned_away.secure.set(HANDSHAKES_AT_ONCE);
        assert_eq!(begin(3), 0);
        assert!(
            turned_away.may_begin(Listener::Http, 3),
            "plain HTTP costs no handshake"
        );
    }
}
