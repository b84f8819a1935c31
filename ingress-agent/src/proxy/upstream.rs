//! Connections to backends: the pool, the HTTP/1.1 codec driven by the request's own task, HTTP/2 by the `h2` crate.
//!
//! One [`Upstreams`] for each worker; nothing in here crosses threads but [`IdleBudget`]. It knows addresses and protocols, not routes, clusters or
//! which endpoint is best: who calls it picks, and retries elsewhere.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{Method, StatusCode};
use ingress_core::fields::Fields;
use ingress_core::filter::Forwarded;
use ingress_core::resource::{Protocol, Timeouts};

use crate::account::Desk;
use crate::error::ProxyError;
use crate::proxy::body::RequestBody;
use crate::proxy::message::Response;
use crate::proxy::moment;
use crate::proxy::timer::Timer;

mod chunked;
mod connect;
mod connection;
mod exchange;
mod http1;
mod http2;
mod io;
mod open;
mod pool;
mod proxy_header;
mod request_head;
mod response_body;
mod response_head;
#[cfg(test)]
mod tests;
mod upload;

use connect::Connector;
use connection::{Connection, ConnectionKey};
pub use io::UpstreamIo;
use pool::Pool;
pub use pool::{IdleBudget, PoolStats};
pub use proxy_header::ProxyHeader;
pub use response_body::UpstreamBody;

/// How connections to backends are kept and driven; the same for every endpoint.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How long an unused connection is kept. The default, 4 s, stays below the keep-alive of common servers (Node.js, uvicorn and Apache: 5 s), because a POST
    /// that meets a connection just being closed cannot be sent again. A backend's own `Keep-Alive: timeout` shortens it further.
    pub idle_timeout: Duration,
    /// Requests at once on one HTTP/2 connection, if the backend allows as many.
    pub streams_per_connection: usize,
    /// TCP keepalive probes on silent connections; `None` switches them off.
    pub tcp_keepalive: Option<Duration>,
    /// How long a request with `Expect: 100-continue` waits for the backend's word before its body follows anyway (RFC 9110, 10.1.1).
    pub continue_wait: Duration,
    /// Where connections are accounted for; tests have none.
    pub desk: Option<Rc<Desk>>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            idle_timeout: Duration::from_secs(4),
            streams_per_connection: 100,
            tcp_keepalive: Some(Duration::from_secs(60)),
            continue_wait: Duration::from_secs(1),
            desk: None,
        }
    }
}

/// A worker's connections to all backends. Clones share them.
#[derive(Clone)]
pub struct Upstreams {
    shared: Rc<Shared>,
}

struct Shared {
    settings: Settings,
    pool: Rc<Pool>,
    connector: Connector,
}

/// One request to one endpoint.
pub struct Call<'a> {
    pub address: SocketAddr,
    pub protocol: Protocol,
    /// SNI for TLS; without one the address stands in and no SNI is sent.
    pub server_name: Option<&'a str>,
    pub head: RequestHead<'a>,
    pub timeouts: &'a Timeouts,
    /// Sent first on a connection of its own, which is never kept.
    pub proxy_header: Option<ProxyHeader>,
    /// Told every 1xx but 101. A 100 comes here too; note that the servers say 100 by themselves when the request's body is first polled.
    pub informational: &'a mut dyn FnMut(StatusCode, &Fields),
}

/// The request line and fields as the backend gets them.
pub struct RequestHead<'a> {
    pub method: &'a Method,
    /// Path and query, as sent.
    pub target: &'a str,
    pub host: &'a [u8],
    /// Without hop-by-hop fields. Host is passed over, and so are Content-Length and Transfer-Encoding: the body decides.
    pub fields: &'a Fields,
    /// What is sent after `fields`.
    pub extra: Option<&'a Forwarded<'a>>,
    /// Ask for an upgrade to `websocket` (HTTP/1.1 only).
    pub websocket: bool,
}

/// What came back, and how long it took.
pub struct Reply {
    pub answer: Answer,
    pub timing: Timing,
}

pub enum Answer {
    /// Without connection-level fields (RFC 9110, 7.6.1).
    Response(Response<UpstreamBody>),
    /// 101 to a request that asked for it; `io` begins with whatever came right after the head.
    Upgraded { response: Response<()>, io: UpstreamIo },
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timing {
    /// TCP and TLS; `None` on a reused connection.
    pub connect: Option<Duration>,
    /// From the moment that a connection was there to the response head.
    pub first_byte: Duration,
}

impl Timing {
    pub fn reused(&self) -> bool {
        self.connect.is_none()
    }
}

/// Why there is no answer, and what is left to try again with.
pub struct Failed {
    pub error: ProxyError,
    /// Whether any byte of the request may have reached the backend.
    pub sent: bool,
    /// The request body, when all of it is still there.
    pub body: Option<Box<RequestBody>>,
}

impl Upstreams {
    pub fn new(settings: Settings, idle_budget: Arc<IdleBudget>) -> Self {
        let pool = Pool::new(idle_budget, settings.idle_timeout);
        let connector = Connector::new(settings.tcp_keepalive, settings.desk.clone());
        let shared = Rc::new(Shared {
            settings,
            pool,
            connector,
        });
        Self { shared }
    }

    /// Sends one request on a kept or new connection and waits for the response head. Must run on a `LocalRuntime` or in a `LocalSet`.
    ///
    /// A kept connection that turns out to be closed is replaced once, when that is safe (RFC 9110, 9.2.2); every other failure is the caller's to judge.
    pub async fn send(&self, call: &mut Call<'_>, body: RequestBody) -> Result<Reply, Failed> {
        if matches!(call.protocol, Protocol::Http | Protocol::H2c) {
            // Without TLS the name tells no two connections apart.
            call.server_name = None;
        }
        match call.protocol {
            Protocol::Http | Protocol::Https => self.shared.send_http1(call, body).await,
            Protocol::H2c | Protocol::H2 => Box::pin(self.shared.send_http2(call, body)).await,
        }
    }

    /// Closes the idle connections of endpoints that `keep` says no to.
    pub fn close_idle(&self, keep: &dyn Fn(&SocketAddr) -> bool) {
        self.shared.pool.close_idle(keep);
    }

    pub fn stats(&self) -> PoolStats {
        self.shared.pool.stats()
    }
}

impl Shared {
    async fn send_http1(&self, call: &mut Call<'_>, mut body: RequestBody) -> Result<Reply, Failed> {
        let started = moment::now().into_std();
        if let Some(connection) = self.kept(call, started) {
            match http1::exchange(self, connection, true, call, body).await {
                Ok(answer) => return Ok(reply(answer, None, started)),
                Err(failed) => body = failed.repeatable(call.head.method)?,
            }
        }
        let connecting = Instant::now();
        let mut connection = match Box::pin(self.connector.connect(call)).await {
            Ok(transport) => self.connection(call, transport),
            Err(error) => return Err(Failed::before(error, body)),
        };
        if connection.transport.has_spoken() {
            return Err(Failed::before(SPOKE_FIRST, body));
        }
        let started = Instant::now();
        let answer = http1::exchange(self, connection, false, call, body).await?;
        Ok(reply(answer, Some(started - connecting), started))
    }

    async fn send_http2(&self, call: &mut Call<'_>, mut body: RequestBody) -> Result<Reply, Failed> {
        // A kept connection may be on its way out (GOAWAY); the next one is taken or made.
        for last in [false, true] {
            let (connection, connect) = match http2::connection(self, call).await {
                Ok(connected) => connected,
                Err(error) => return Err(Failed::before(error, body)),
            };
            let started = Instant::now();
            let wait = self.settings.continue_wait;
            match http2::exchange(&connection, connect.is_none(), call, wait, body).await {
                Ok(answer) => return Ok(reply(answer, connect, started)),
                Err(failed) if last => return Err(failed),
                Err(failed) => body = failed.repeatable(call.head.method)?,
            }
        }
        Err(Failed::before(ProxyError::UpstreamReset { idle: true }, body))
    }

    fn kept(&self, call: &Call<'_>, now: Instant) -> Option<Connection> {
        if call.proxy_header.is_some() {
            return None;
        }
        self.pool
            .take(&call.address, call.protocol, call.server_name, now)
    }

    fn connection(&self, call: &Call<'_>, transport: io::Transport) -> Connection {
        Connection {
            transport,
            timer: Timer::default(),
            key: self.key(call),
            line: self
                .settings
                .desk
                .as_ref()
                .map(|desk| desk.endpoint(call.address)),
            single_use: call.proxy_header.is_some(),
            open: self.pool.opened(),
        }
    }

    fn key(&self, call: &Call<'_>) -> ConnectionKey {
        ConnectionKey {
            address: call.address,
            protocol: call.protocol,
            server_name: call.server_name.map(Rc::from),
        }
    }
}

impl Failed {
    fn before(error: ProxyError, body: RequestBody) -> Self {
        Self {
            error,
            sent: false,
            body: Some(Box::new(body)),
        }
    }

    /// The body to send again, if a kept connection was closed under a request that is safe to repeat.
    fn repeatable(mut self, method: &Method) -> Result<RequestBody, Self> {
        let safe = !self.sent || method.is_idempotent();
        match (&self.error, self.body.take()) {
            (ProxyError::UpstreamReset { idle: true }, Some(body)) if safe => Ok(*body),
            (_, body) => Err(Self { body, ..self }),
        }
    }
}

/// RFC 9112, 9.2: what comes before anything was asked can be no answer.
const SPOKE_FIRST: ProxyError = ProxyError::UpstreamProtocol("bytes before the first request");

fn reply(answer: Answer, connect: Option<Duration>, started: Instant) -> Reply {
    Reply {
        answer,
        timing: Timing {
            connect,
            first_byte: moment::now().into_std().saturating_duration_since(started),
        },
    }
}
