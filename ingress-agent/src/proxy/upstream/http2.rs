//! HTTP/2 to backends: the `h2` crate, its connections shared by many requests, each request driven by its own task.

mod exchange;
pub(super) mod shared;
mod turn;
mod upload;

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::client::Builder;
use h2::{Ping, PingPong};
use ingress_core::reason::Reason;

use super::io::Transport;
use super::open::OpenGuard;
use super::{Call, Shared};
use crate::error::ProxyError;
use crate::proxy::timer::Timer;
pub(super) use exchange::{StreamBody, exchange};
use shared::{SharedConnection, State};
use turn::{Turn, TurnIo};

/// A backend that was silent for so long while it owes answers is asked whether it is still there.
const ASK_ALIVE: Duration = Duration::from_secs(30);
const SAY_ALIVE: Duration = Duration::from_secs(20);

/// Whether a connection was there already, else how long it took to make.
pub(super) type Connected = (Rc<SharedConnection>, Option<Duration>);

/// A connection with room for one more stream, kept or new.
pub(super) async fn connection(shared: &Shared, call: &Call<'_>) -> Result<Connected, ProxyError> {
    if call.head.websocket {
        // RFC 8441 towards backends is not spoken.
        return Err(ProxyError::Answered(Reason::NotImplemented));
    }
    if call.proxy_header.is_some() {
        let started = Instant::now();
        let connection = Rc::new(connect(shared, call).await?);
        return Ok((connection, Some(started.elapsed())));
    }
    // Whoever has waited twice for others' connections to have room makes its own.
    for _ in 0..2 {
        if let Some(found) = kept(shared, call) {
            return Ok((found, None));
        }
        match shared
            .pool
            .connecting(&call.address, call.protocol, call.server_name)
        {
            None => break,
            Some(connecting) => connecting.ended().await?,
        }
    }
    if let Some(found) = kept(shared, call) {
        return Ok((found, None));
    }
    connect_for_all(shared, call).await
}

fn kept(shared: &Shared, call: &Call<'_>) -> Option<Rc<SharedConnection>> {
    let limit = shared.settings.streams_per_connection;
    let found = shared
        .pool
        .shared(&call.address, call.protocol, call.server_name, limit)?;
    shared.pool.count_reuse();
    Some(found)
}

/// Connects, while those who would do the same wait: a burst must not open a connection for each request.
async fn connect_for_all(shared: &Shared, call: &Call<'_>) -> Result<Connected, ProxyError> {
    let started = Instant::now();
    let turn = shared.pool.begin_connecting(shared.key(call));
    match connect(shared, call).await {
        Ok(connection) => {
            let connection = Rc::new(connection);
            shared.pool.share(Rc::clone(&connection));
            Ok((connection, Some(started.elapsed())))
        }
        Err(error) => {
            turn.failed(error.clone());
            Err(error)
        }
    }
}

async fn connect(shared: &Shared, call: &Call<'_>) -> Result<SharedConnection, ProxyError> {
    let transport = shared.connector.connect(call).await?;
    let open = shared.pool.opened();
    let turn = Rc::<Turn>::default();
    let handshake = Builder::new()
        .enable_push(false)
        .initial_window_size(256 * 1024)
        .initial_connection_window_size(1024 * 1024)
        .max_header_list_size(64 * 1024)
        .max_send_buffer_size(64 * 1024)
        .handshake(TurnIo::new(transport, Rc::clone(&turn)));
    let (sender, mut connection) = tokio::time::timeout(call.timeouts.connect, handshake)
        .await
        .map_err(|_| ProxyError::ConnectTimeout)?
        .map_err(|_| ProxyError::UpstreamReset { idle: false })?;
    let state = Rc::new(State {
        streams: Cell::new(0),
        allowed: Cell::new(connection.max_concurrent_send_streams()),
        closed: Cell::new(false),
        last_used: Cell::new(Instant::now()),
    });
    let driver = Driver {
        pings: connection.ping_pong(),
        connection,
        state: Rc::clone(&state),
        turn,
        timer: Timer::default(),
        asked: false,
        _open: open,
    };
    tokio::task::spawn_local(driver.run());
    Ok(SharedConnection {
        key: shared.key(call),
        sender,
        state,
    })
}

/// The task of a connection: bytes in and out, and whether the backend is still there.
struct Driver {
    connection: h2::client::Connection<TurnIo<Transport>, Bytes>,
    pings: Option<PingPong>,
    state: Rc<State>,
    turn: Rc<Turn>,
    timer: Timer,
    asked: bool,
    _open: OpenGuard,
}

impl Driver {
    /// Ends when the connection has ended, or when nobody holds it any more. Every request on it is told its own error.
    async fn run(mut self) {
        poll_fn(|cx| self.poll(cx)).await;
        self.state.closed.set(true);
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            self.turn.begin();
            if Pin::new(&mut self.connection).poll(cx).is_ready() {
                return Poll::Ready(());
            }
            self.state
                .allowed
                .set(self.connection.max_concurrent_send_streams());
            if self.turn.has_read() || self.state.streams.get() == 0 {
                self.timer.progress();
                self.asked = false;
            }
            match self.poll_alive(cx) {
                Poll::Ready(true) => {}
                Poll::Ready(false) => return Poll::Ready(()),
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    /// Ready when there is something to send (true), or nobody to send it to.
    fn poll_alive(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        let (Some(pings), 1..) = (&mut self.pings, self.state.streams.get()) else {
            return Poll::Pending;
        };
        // That it comes back shows as bytes that were read; it is only taken off here, so that the next can be sent.
        let _ = pings.poll_pong(cx);
        let wait = if self.asked { SAY_ALIVE } else { ASK_ALIVE };
        std::task::ready!(self.timer.poll_expired(cx, wait));
        if self.asked || pings.send_ping(Ping::opaque()).is_err() {
            return Poll::Ready(false);
        }
        self.asked = true;
        self.timer.progress();
        Poll::Ready(true)
    }
}
