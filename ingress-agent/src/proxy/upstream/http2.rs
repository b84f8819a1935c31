//! HTTP/2 to backends: hyper's client, its connections shared by many requests.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST, TE};
use http::{HeaderName, HeaderValue, Request, Uri, Version};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioIo, TokioTimer};
use ingress_core::reason::Reason;
use ingress_core::resource::Protocol;

use super::io::Transport;
use super::pool::{ConnectionKey, OpenGuard};
use super::timer::Timer;
use super::{Answer, Call, Failed, Shared, UpstreamBody};
use crate::error::ProxyError;
use crate::proxy::body::RequestBody;
use crate::proxy::message::Response;

/// One connection and how many requests are on it.
pub(super) struct SharedConnection {
    pub(super) key: ConnectionKey,
    sender: SendRequest<Upload>,
    streams: Rc<Cell<usize>>,
    /// What the backend's SETTINGS allow.
    allowed: Rc<Cell<usize>>,
    last_used: Rc<Cell<Instant>>,
}

impl SharedConnection {
    pub(super) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    pub(super) fn has_room(&self, limit: usize) -> bool {
        !self.is_closed() && self.streams.get() < limit.min(self.allowed.get())
    }

    pub(super) fn is_idle(&self) -> bool {
        self.streams.get() == 0
    }

    pub(super) fn idle_for(&self, now: Instant, limit: Duration) -> bool {
        self.is_idle() && now.saturating_duration_since(self.last_used.get()) >= limit
    }

    fn stream(&self) -> StreamGuard {
        self.streams.set(self.streams.get() + 1);
        StreamGuard {
            streams: Rc::clone(&self.streams),
            last_used: Rc::clone(&self.last_used),
        }
    }
}

/// Counts a request on its connection until its response has ended.
struct StreamGuard {
    streams: Rc<Cell<usize>>,
    last_used: Rc<Cell<Instant>>,
}

impl Drop for StreamGuard {
    fn drop(&mut self) {
        self.streams.set(self.streams.get().saturating_sub(1));
        self.last_used.set(Instant::now());
    }
}

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
    let handshake = http2::Builder::new(LocalExecutor)
        .timer(TokioTimer::new())
        .initial_stream_window_size(256 * 1024)
        .initial_connection_window_size(1024 * 1024)
        .max_header_list_size(64 * 1024)
        .keep_alive_interval(Some(Duration::from_secs(30)))
        .handshake(TokioIo::new(transport));
    let (sender, connection) = tokio::time::timeout(call.timeouts.connect, handshake)
        .await
        .map_err(|_| ProxyError::ConnectTimeout)?
        .map_err(|_| ProxyError::UpstreamReset { idle: false })?;
    let allowed = Rc::new(Cell::new(connection.current_max_send_streams()));
    tokio::task::spawn_local(drive(connection, Rc::clone(&allowed), open));
    Ok(SharedConnection {
        key: shared.key(call),
        sender,
        streams: Rc::default(),
        allowed,
        last_used: Rc::new(Cell::new(Instant::now())),
    })
}

type Driver = http2::Connection<TokioIo<Transport>, Upload, LocalExecutor>;

/// Ends when the connection has ended, or when nobody holds it any more. Every request on it is told its own error.
async fn drive(mut connection: Driver, allowed: Rc<Cell<usize>>, _open: OpenGuard) {
    let _ = std::future::poll_fn(|cx| {
        let ended = Pin::new(&mut connection).poll(cx);
        allowed.set(connection.current_max_send_streams());
        ended
    })
    .await;
}

#[derive(Clone)]
struct LocalExecutor;

impl<F: Future<Output = ()> + 'static> hyper::rt::Executor<F> for LocalExecutor {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(future);
    }
}

/// Sends the request on a shared connection and waits for the response head.
pub(super) async fn exchange(
    connection: &SharedConnection,
    reused: bool,
    call: &Call<'_>,
    body: RequestBody,
) -> Result<Answer, Failed> {
    let progress = Rc::new(Progress::default());
    let upload = Upload::new(body, Rc::clone(&progress));
    let request = request(call, upload)?;
    let guard = connection.stream();
    let mut sender = connection.sender.clone();
    let mut response = std::pin::pin!(sender.try_send_request(request));
    let mut timer = Timer::default();
    let limit = call.timeouts.read;
    let answer = std::future::poll_fn(|cx| match response.as_mut().poll(cx) {
        Poll::Ready(answer) => Poll::Ready(Some(answer)),
        Poll::Pending => progress.poll_expired(&mut timer, cx, limit).map(|()| None),
    })
    .await;
    match answer {
        Some(Ok(response)) => {
            progress.answered.set(true);
            Ok(Answer::Response(Response::from(response).map(|incoming| {
                UpstreamBody::http2(StreamBody {
                    incoming,
                    timer,
                    limit,
                    progress,
                    _stream: guard,
                })
            })))
        }
        Some(Err(mut error)) => {
            let unsent = error.take_message().map(Request::into_body);
            let sent = unsent.is_none() && !was_refused(error.error());
            drop(unsent);
            let error = progress.cause(error.error(), reused && !sent);
            Err(Failed {
                error,
                sent,
                body: progress.whole_body().await.map(Box::new),
            })
        }
        None => Err(Failed {
            error: ProxyError::ResponseTimeout,
            sent: true,
            body: None,
        }),
    }
}

fn request(call: &Call<'_>, upload: Upload) -> Result<Request<Upload>, Failed> {
    let scheme = if call.protocol == Protocol::H2 {
        "https"
    } else {
        "http"
    };
    let uri = Uri::builder()
        .scheme(scheme)
        .authority(call.head.host)
        .path_and_query(call.head.target)
        .build();
    let Ok(uri) = uri else {
        return Err(Failed {
            error: ProxyError::BadRequest("a target or host that cannot be sent"),
            sent: false,
            body: upload.into_body().map(Box::new),
        });
    };
    let mut request = Request::new(upload);
    *request.method_mut() = call.head.method.clone();
    *request.uri_mut() = uri;
    *request.version_mut() = Version::HTTP_2;
    let headers = request.headers_mut();
    *headers = call.head.fields.into();
    headers.remove(HOST);
    for (name, value) in call.head.extra.iter().flat_map(|extra| extra.fields()) {
        if let Ok(value) = HeaderValue::from_bytes(value) {
            headers.append(HeaderName::from_static(name), value);
        }
    }
    if headers.get(CONTENT_TYPE).is_some_and(is_grpc) {
        // gRPC servers refuse calls from intermediaries that would lose the trailers; this one does not.
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    Ok(request)
}

fn is_grpc(content_type: &HeaderValue) -> bool {
    content_type.as_bytes().starts_with(b"application/grpc")
}

/// Whether the backend says that it did not look at the request: REFUSED_STREAM, or a graceful GOAWAY that leaves it out (RFC 9113, 8.7).
fn was_refused(error: &hyper::Error) -> bool {
    let cause = std::error::Error::source(error).and_then(|cause| cause.downcast_ref::<h2::Error>());
    cause.is_some_and(|cause| {
        let reason = cause.reason();
        cause.is_remote()
            && (cause.is_reset() && reason == Some(h2::Reason::REFUSED_STREAM)
                || cause.is_go_away() && reason == Some(h2::Reason::NO_ERROR))
    })
}

fn reset(error: &hyper::Error, idle: bool) -> ProxyError {
    if error.is_parse() {
        return ProxyError::UpstreamProtocol("a malformed HTTP/2 response");
    }
    ProxyError::UpstreamReset { idle }
}

/// What the connection's task tells the request's task about the upload.
#[derive(Default)]
struct Progress {
    /// Chunks that were taken from the client.
    steps: Cell<u64>,
    /// The client, not the backend, is waited for.
    starved: Cell<bool>,
    seen: Cell<u64>,
    /// Why the client's body ended badly; hyper only resets the stream for it.
    client_error: Cell<Option<ProxyError>>,
    /// The response has begun: from then on it has to go on, whatever the client does.
    answered: Cell<bool>,
    /// hyper has let go of the body.
    ended: Cell<bool>,
    /// The body, if it was whole then.
    body: Cell<Option<RequestBody>>,
}

impl Progress {
    /// The body, if all of it is still there; the task that hyper gave it to may need a moment to let it go.
    async fn whole_body(&self) -> Option<RequestBody> {
        for _ in 0..8 {
            if self.ended.get() {
                break;
            }
            tokio::task::yield_now().await;
        }
        self.body.take()
    }

    /// The cause of a stream's failure: the client's, if there is one.
    fn cause(&self, error: &hyper::Error, idle: bool) -> ProxyError {
        self.client_error.take().unwrap_or_else(|| reset(error, idle))
    }

    /// Counts from the last step of the upload; before the response, not at all while the client is slow.
    fn poll_expired(&self, timer: &mut Timer, cx: &mut Context<'_>, limit: Duration) -> Poll<()> {
        loop {
            if self.seen.replace(self.steps.get()) != self.steps.get() {
                timer.progress();
            }
            let expired = timer.poll_expired(cx, limit).is_ready();
            if !expired {
                return Poll::Pending;
            }
            let moved = self.seen.get() != self.steps.get();
            if !moved && (self.answered.get() || !self.starved.get()) {
                return Poll::Ready(());
            }
            timer.progress();
        }
    }
}

/// The request body as hyper reads it. Whole when hyper drops it, it goes back to who sent it.
struct Upload {
    body: Option<RequestBody>,
    /// All that was taken from the body, while that is one chunk at most.
    taken: Option<Bytes>,
    progress: Rc<Progress>,
}

impl Upload {
    fn new(body: RequestBody, progress: Rc<Progress>) -> Self {
        Self {
            body: Some(body),
            taken: Some(Bytes::new()),
            progress,
        }
    }

    fn into_body(mut self) -> Option<RequestBody> {
        self.take_whole()
    }

    fn take_whole(&mut self) -> Option<RequestBody> {
        let mut body = self.body.take()?;
        if !body.untouched() {
            body.give_back(self.taken.take()?);
        }
        Some(body)
    }

    fn note(&mut self, frame: &Poll<Option<Result<Frame<Bytes>, ProxyError>>>) {
        self.progress.starved.set(frame.is_pending());
        self.progress.steps.set(self.progress.steps.get() + 1);
        match frame {
            Poll::Pending | Poll::Ready(None) => {}
            Poll::Ready(Some(Ok(frame))) => {
                let first = self.taken.take().is_some_and(|taken| taken.is_empty());
                self.taken = frame.data_ref().filter(|_| first).cloned();
            }
            Poll::Ready(Some(Err(error))) => {
                self.taken = None;
                self.progress.client_error.set(Some(error.clone()));
            }
        }
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        self.progress.ended.set(true);
        let whole = self.take_whole();
        self.progress.body.set(whole);
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = ProxyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ProxyError>>> {
        let this = self.get_mut();
        let Some(body) = &mut this.body else {
            return Poll::Ready(None);
        };
        let frame = Pin::new(body).poll_frame(cx);
        this.note(&frame);
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body
            .as_ref()
            .map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

/// A response body on a shared connection.
pub(super) struct StreamBody {
    incoming: Incoming,
    timer: Timer,
    limit: Duration,
    progress: Rc<Progress>,
    _stream: StreamGuard,
}

impl StreamBody {
    pub(super) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ProxyError>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.incoming).poll_frame(cx) {
            self.timer.progress();
            return Poll::Ready(frame.map(|frame| frame.map_err(|error| self.progress.cause(&error, false))));
        }
        self.progress
            .poll_expired(&mut self.timer, cx, self.limit)
            .map(|()| Some(Err(ProxyError::ResponseTimeout)))
    }

    pub(super) fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}
