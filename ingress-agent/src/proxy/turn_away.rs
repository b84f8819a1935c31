//! Connections beyond the limits: as many as cost next to nothing are told why, the rest are closed without a word.

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

const HANDSHAKE_WITHIN: Duration = Duration::from_secs(2);

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
