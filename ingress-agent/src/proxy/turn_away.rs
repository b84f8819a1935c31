//! Connections beyond the limits: as many as cost next to nothing are told why, the rest are closed without a word.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use ingress_core::reason::Reason;
use tokio::net::TcpStream;
use tokio::task::spawn_local;
use tokio::time::timeout;

use super::worker::Worker;
use super::{serve, wire};
use crate::config::ProxyProtocol;
use crate::listener::Listener;
use crate::telemetry::metrics::Refusal;

/// Told at the same time, by each worker.
const AT_ONCE: usize = 64;
/// The same by TLS: each takes some 50 KiB while it lasts.
const HANDSHAKES_AT_ONCE: usize = 8;
/// Handshakes that a worker makes for it in a second: at 300 µs each they are half a per cent of its time, whatever comes.
const HANDSHAKES_A_SECOND: u32 = 16;
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(2);

/// What a worker spends on turning away.
#[derive(Debug, Default)]
pub(crate) struct TurnedAway {
    plain: Cell<usize>,
    secure: Cell<usize>,
    /// The second since the start, and the handshakes begun in it.
    begun: Cell<(u64, u32)>,
}

impl TurnedAway {
    fn may_begin(&self, listener: Listener, second: u64) -> bool {
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

    fn count(&self, listener: Listener) -> &Cell<usize> {
        match listener {
            Listener::Http => &self.plain,
            Listener::Https => &self.secure,
        }
    }
}

/// Says why in an answer of HTTP/1.1, which does not wait for a request.
pub(crate) fn turn_away(
    worker: &Rc<Worker>,
    listener: Listener,
    (mut stream, peer): (TcpStream, SocketAddr),
    refusal: Refusal,
) {
    // What comes first there is no ClientHello.
    let behind_proxy = worker.shared.config.proxy_protocol == ProxyProtocol::On && worker.trusts(peer.ip());
    let is_secure = listener == Listener::Https;
    if is_secure && behind_proxy || !worker.turned_away.may_begin(listener, worker.now().as_secs()) {
        return;
    }
    let answer = wire::last_answer(why(refusal), worker.limits());
    let open = worker.turned_away.count(listener);
    open.set(open.get() + 1);
    let worker = Rc::clone(worker);
    spawn_local(async move {
        if is_secure {
            let acceptor = tokio_rustls::TlsAcceptor::from(Arc::clone(&worker.shared.tls_to_turn_away));
            let accepted = timeout(HANDSHAKE_WITHIN, Box::pin(acceptor.accept(stream))).await;
            if let Ok(Ok(mut stream)) = accepted {
                serve::last_words(&mut stream, &answer).await;
            }
        } else {
            serve::last_words(&mut stream, &answer).await;
        }
        let open = worker.turned_away.count(listener);
        open.set(open.get().saturating_sub(1));
    });
}

fn why(refusal: Refusal) -> wire::Refusal {
    match refusal {
        Refusal::Limit => wire::Refusal::new(Reason::Overloaded, "too many connections"),
        Refusal::Memory => wire::Refusal::new(Reason::Overloaded, "memory is short"),
        Refusal::SourceLimit | Refusal::Banned => {
            wire::Refusal::new(Reason::RateLimited, "too many connections")
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
