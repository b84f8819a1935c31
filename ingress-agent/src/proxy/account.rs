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
use http::Version;
use http_body::{Body, Frame, SizeHint};
use ingress_core::balance::{Attempt, LiveEndpoint};
use ingress_core::reason::Reason;
use ingress_core::resource::UnownedHost;
use ingress_core::snapshot::{Cluster, Route};

use super::body::Progress;
use super::connection::Connection;
use super::message::{Head, Response};
use super::moment;
use super::response_body::ResponseBody;
use super::upstream::Timing;
use super::worker::Worker;
use crate::account::{ClientTcp, Finished};
use crate::drain::Ended;
use crate::error::{ProxyError, Side};
use crate::telemetry::metrics::UpstreamEvent;
use crate::telemetry::record::{HttpVersion, RequestRecord, TlsRecord, UpstreamRecord};

/// A request body that comes with its head, more or less.
const SHORT_BODY: u64 = 8 * 1024;

/// The open account of one request.
pub(crate) struct Account {
    connection: Rc<Connection>,
    /// The request head. Fields that the backend does not get are taken out on the way.
    pub(crate) head: Box<Head>,
    /// What this hop calls the request; `None` where it brings a name that is believed.
    pub(crate) request_id: Option<[u8; 32]>,
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
    /// Of the request body, where there is one.
    pub(crate) progress: Option<Rc<Progress>>,
    /// Ends when the response has been sent.
    pub(crate) in_flight: Option<InFlight>,
    /// Until the head of the answer was there.
    answered_after: Option<Duration>,
    status: u16,
    sent: u64,
}

impl Account {
    pub(crate) fn open(connection: &Rc<Connection>, head: Box<Head>) -> Box<Self> {
        Box::new(Self {
            connection: Rc::clone(connection),
            head,
            request_id: None,
            started: moment::now().into_std(),
            client: connection.client.ip(),
            route: None,
            cluster: None,
            endpoint: None,
            attempts: 0,
            timing: None,
            reason: None,
            error: None,
            unowned: None,
            progress: None,
            in_flight: None,
            answered_after: None,
            status: 0,
            sent: 0,
        })
    }

    /// The request has its route, and with it its connection.
    pub(crate) fn routed(&mut self, route: &Arc<Route>) {
        self.connection.line.routed(route, self.started);
        self.route = Some(Arc::clone(route));
    }

    /// Hands the account over to the response's body.
    pub(crate) fn serve(mut self: Box<Self>, response: Response<ResponseBody>) -> Response<Served> {
        self.status = response.status.as_u16();
        let now = moment::now().into_std();
        self.answered_after = self.timing.map(|_| now.saturating_duration_since(self.started));
        if let Some(progress) = &self.progress {
            progress.answered.set(true);
        }
        response.map(|body| Served {
            body,
            account: Some(self),
        })
    }

    /// The account of a request that became a tunnel stays open beside its response.
    pub(crate) fn open_tunnel(mut self: Box<Self>, response: Response<()>) -> (Response<Served>, Box<Self>) {
        self.status = response.status.as_u16();
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
        self.progress.get_or_insert_default().received.set(up);
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

    /// What the client's connection tells, where this request is one that is looked at.
    fn look(&self, ended: Instant) -> Option<ClientTcp> {
        let timing = self.timing;
        let finished = Finished {
            duration: ended.saturating_duration_since(self.started),
            head: self.answered_after,
            connect: timing.and_then(|timing| timing.connect),
            // While a long body came, the endpoint had to wait for the client.
            first_byte: timing
                .filter(|_| self.received() <= SHORT_BODY)
                .map(|timing| timing.first_byte),
            once: self.attempts == 1,
        };
        self.connection.line.finished(self.route.as_ref()?, &finished)
    }

    /// Bytes of the request's body.
    fn received(&self) -> u64 {
        self.progress
            .as_ref()
            .map_or(0, |progress| progress.received.get())
    }

    /// An answer of our own may be out before the moment has passed in which its request was read; it took its time all the same.
    fn end(&self) -> Instant {
        match moment::now().into_std() {
            now if now > self.started => now,
            _ => Instant::now(),
        }
    }

    fn record(&self, ended: Instant) -> RequestRecord<'_> {
        let connection = &self.connection;
        let Head {
            method,
            version: spoken,
            fields,
            ..
        } = &*self.head;
        let duration = ended.saturating_duration_since(self.started);
        RequestRecord {
            started: connection.worker.wall_clock(self.started),
            duration,
            client: self.client,
            peer: connection.peer,
            listener: connection.listener,
            protocol: version(*spoken),
            tls: connection.tls.as_ref().map(|tls| TlsRecord {
                version: tls.version,
                server_name: tls.server_name.as_deref(),
            }),
            method: method.as_str().as_bytes(),
            host: self.head.host().unwrap_or_default(),
            target: self.head.target_bytes(),
            status: self.status,
            reason: self.reason,
            route: self.route.as_deref(),
            client_tcp: self.look(ended),
            upstream: self.cluster.as_ref().map(|cluster| UpstreamRecord {
                cluster: &cluster.key,
                endpoint: self.endpoint,
                attempts: self.attempts,
                connect: self.timing.and_then(|timing| timing.connect),
                first_byte: self.timing.map(|timing| timing.first_byte),
                reused: self.timing.is_some_and(|timing| timing.reused()),
            }),
            request_bytes: self.received(),
            response_bytes: self.sent,
            request_id: match &self.request_id {
                Some(id) => id,
                None => fields.get("x-request-id").unwrap_or_default(),
            },
            user_agent: fields.get("user-agent"),
            referer: fields.get("referer"),
            error: self.error.as_ref().map(|error| error as &dyn std::fmt::Display),
            unowned: self.unowned.as_deref(),
        }
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        if self.status == 0 && self.reason.is_none() {
            self.reason = Some(Reason::ClientClosed);
        } else if self.reason.is_none() && self.connection.gate.is_broken_off() {
            // What was under way then; what was complete has closed its account before.
            self.connection.worker.shared.drain.ended(Ended::Answer);
            self.reason = Some(Reason::Draining);
        }
        self.connection.gate.request_finished();
        let ended = self.end();
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
        let ended = self.ended.unwrap_or_else(|| moment::now().into_std());
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
