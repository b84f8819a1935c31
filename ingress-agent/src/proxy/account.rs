//! What becomes of a request, from its head to the last byte of its answer: told once to the access log and the metrics.
//!
//! The account travels inside the response body; wherever the request ends, even by being dropped, it is closed exactly once.

use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{HOST, REFERER, USER_AGENT};
use http::request::Parts;
use http::{HeaderValue, Response, Version};
use http_body::{Body, Frame, SizeHint};
use ingress_core::balance::{Attempt, LiveEndpoint};
use ingress_core::reason::Reason;
use ingress_core::resource::UnownedHost;
use ingress_core::snapshot::{Cluster, Route};

use super::body::{Progress, ResponseBody};
use super::serve::Connection;
use super::upstream::Timing;
use super::worker::Worker;
use crate::error::{ProxyError, Side};
use crate::telemetry::metrics::UpstreamEvent;
use crate::telemetry::record::{HttpVersion, RequestRecord, TlsRecord, UpstreamRecord};

/// The open account of one request.
pub(crate) struct Account {
    connection: Rc<Connection>,
    /// The request head. Fields that the backend does not get are taken out on the way.
    pub(crate) parts: Parts,
    pub(crate) request_id: Option<HeaderValue>,
    started: Instant,
    pub(crate) client: IpAddr,
    pub(crate) route: Option<Arc<Route>>,
    pub(crate) cluster: Option<Arc<Cluster>>,
    pub(crate) endpoint: Option<SocketAddr>,
    pub(crate) attempts: u32,
    pub(crate) timing: Option<Timing>,
    pub(crate) reason: Option<Reason>,
    pub(crate) error: Option<ProxyError>,
    pub(crate) unowned: Option<Arc<UnownedHost>>,
    /// Of the request body.
    pub(crate) progress: Rc<Progress>,
    /// Ends when the response has been sent.
    pub(crate) in_flight: Option<InFlight>,
    status: u16,
    sent: u64,
}

impl Account {
    pub(crate) fn open(connection: &Rc<Connection>, parts: Parts) -> Box<Self> {
        Box::new(Self {
            connection: Rc::clone(connection),
            parts,
            request_id: None,
            started: Instant::now(),
            client: connection.client.ip(),
            route: None,
            cluster: None,
            endpoint: None,
            attempts: 0,
            timing: None,
            reason: None,
            error: None,
            unowned: None,
            progress: Rc::default(),
            in_flight: None,
            status: 0,
            sent: 0,
        })
    }

    /// Hands the account over to the response's body.
    pub(crate) fn serve(mut self: Box<Self>, response: Response<ResponseBody>) -> Response<Served> {
        self.status = response.status().as_u16();
        self.progress.answered.set(true);
        response.map(|body| Served {
            body,
            account: Some(self),
        })
    }

    /// The account of a request that became a tunnel stays open beside its response.
    pub(crate) fn open_tunnel(mut self: Box<Self>, response: Response<()>) -> (Response<Served>, Box<Self>) {
        self.status = response.status().as_u16();
        let served = Served {
            body: ResponseBody::Empty,
            account: None,
        };
        (response.map(|()| served), self)
    }

    /// When the request began, in the balancer's time.
    pub(crate) fn began(&self) -> Duration {
        self.connection.worker.since_start(self.started)
    }

    pub(crate) fn now(&self) -> Duration {
        self.connection.worker.now()
    }

    /// Closes the account of a tunnel, which has no body to travel in.
    pub(crate) fn tunnelled(mut self: Box<Self>, up: u64, down: u64) {
        self.progress.received.set(up);
        self.sent = down;
    }

    /// Learns from a frame of the response body.
    fn follow(&mut self, frame: &Result<Frame<Bytes>, ProxyError>) {
        match frame {
            Ok(frame) => self.sent += frame.data_ref().map_or(0, |data| data.len() as u64),
            // The head is out: all that is left is to break off, and to say why in the log.
            Err(error) => {
                if let (Side::Upstream, Some(in_flight)) = (error.side(), &mut self.in_flight) {
                    in_flight.failed();
                }
                let refused = self
                    .connection
                    .gate
                    .refusal()
                    .filter(|_| error.side() == Side::Client);
                if refused.is_some() {
                    self.connection.refusal_told.set(true);
                }
                self.reason = Some(refused.map_or(error.reason(), |refusal| refusal.reason));
                self.error = Some(error.clone());
            }
        }
    }

    fn record(&self, ended: Instant) -> RequestRecord<'_> {
        let connection = &self.connection;
        let headers = &self.parts.headers;
        let duration = ended.saturating_duration_since(self.started);
        let host = self.parts.uri.authority().map(|a| a.as_str().as_bytes());
        RequestRecord {
            started: connection.worker.wall_clock(self.started),
            duration,
            client: self.client,
            peer: connection.peer,
            listener: connection.listener,
            protocol: version(self.parts.version),
            tls: connection.tls.as_ref().map(|tls| TlsRecord {
                version: tls.version,
                server_name: tls.server_name.as_deref(),
            }),
            method: self.parts.method.as_str().as_bytes(),
            host: host
                .or(headers.get(HOST).map(HeaderValue::as_bytes))
                .unwrap_or_default(),
            target: self
                .parts
                .uri
                .path_and_query()
                .map_or("*", |p| p.as_str())
                .as_bytes(),
            status: self.status,
            reason: self.reason,
            route: self.route.as_deref(),
            upstream: self.cluster.as_ref().map(|cluster| UpstreamRecord {
                cluster: &cluster.key,
                endpoint: self.endpoint,
                attempts: self.attempts,
                connect: self.timing.and_then(|timing| timing.connect),
                first_byte: self.timing.map(|timing| timing.first_byte),
                reused: self.timing.is_some_and(|timing| timing.reused()),
            }),
            request_bytes: self.progress.received.get(),
            response_bytes: self.sent,
            request_id: self.request_id.as_ref().map_or(b"", HeaderValue::as_bytes),
            user_agent: headers.get(USER_AGENT).map(HeaderValue::as_bytes),
            referer: headers.get(REFERER).map(HeaderValue::as_bytes),
            error: self.error.as_ref().map(|error| error as &dyn std::fmt::Display),
            unowned: self.unowned.as_deref(),
        }
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        if self.status == 0 && self.reason.is_none() {
            self.reason = Some(Reason::ClientClosed);
        }
        self.connection.gate.request_finished();
        let ended = Instant::now();
        if let Some(in_flight) = &mut self.in_flight {
            in_flight.ended = Some(ended);
        }
        self.connection.worker.finished(&self.record(ended));
    }
}

pub(crate) fn version(version: Version) -> HttpVersion {
    match version {
        Version::HTTP_10 => HttpVersion::Http10,
        Version::HTTP_2 => HttpVersion::Http2,
        _ => HttpVersion::Http11,
    }
}

/// A request in flight at an endpoint: the balancer knows of it until it ends, even when it is dropped.
pub(crate) struct InFlight {
    endpoint: Arc<LiveEndpoint>,
    worker: Rc<Worker>,
    outcome: Attempt,
    /// When it ended, where that is known already.
    ended: Option<Instant>,
}

impl InFlight {
    pub(crate) fn begin(endpoint: Arc<LiveEndpoint>, worker: Rc<Worker>) -> Self {
        endpoint.begin();
        Self {
            endpoint,
            worker,
            outcome: Attempt::Abandoned,
            ended: None,
        }
    }

    /// The response head is there: this is what there is to learn, unless the body fails.
    pub(crate) fn answered(&mut self, status: u16, latency: Duration) {
        self.outcome = Attempt::Answered { status, latency };
    }

    pub(crate) fn endpoint(&self) -> &LiveEndpoint {
        &self.endpoint
    }

    pub(crate) fn failed(&mut self) {
        self.outcome = Attempt::Failed;
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let ended = self.ended.unwrap_or_else(Instant::now);
        if self.endpoint.end(self.outcome, self.worker.since_start(ended)) {
            self.worker.shard.upstream(UpstreamEvent::Ejected);
        }
    }
}

/// The body that is sent, with the account of its request.
pub(crate) struct Served {
    body: ResponseBody,
    /// `None` on a 101: the tunnel has it.
    account: Option<Box<Account>>,
}

impl Body for Served {
    type Data = Bytes;
    type Error = ProxyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ProxyError>>> {
        let this = self.get_mut();
        let frame = ready!(Pin::new(&mut this.body).poll_frame(cx));
        if let (Some(frame), Some(account)) = (&frame, &mut this.account) {
            account.follow(frame);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
