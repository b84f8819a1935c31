//! One request and its response on a shared connection, driven by the task that wants the answer.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::RecvStream;
use h2::client::ResponseFuture;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, EXPECT, HOST, TE, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Uri, Version};
use http_body::{Body, Frame, SizeHint};
use ingress_core::resource::Protocol;

use super::shared::{SharedConnection, StreamGuard};
use super::upload::{Upload, Waits};
use crate::error::ProxyError;
use crate::proxy::body::RequestBody;
use crate::proxy::message::Response;
use crate::proxy::timer::Timer;
use crate::proxy::upstream::request_head::{UploadFraming, expects_continue};
use crate::proxy::upstream::{Answer, Call, Failed, UpstreamBody};

/// More interim responses than this are a flood.
const MAX_INFORMATIONAL: usize = 16;

struct Exchange {
    upload: Upload,
    response: ResponseFuture,
    timer: Timer,
}

/// What comes before a body.
enum Head {
    Interim(http::Response<()>),
    Final(http::Response<RecvStream>),
}

/// Why there is none.
enum Fault {
    Ours(ProxyError),
    Stream(h2::Error),
}

/// Sends the request on a shared connection and waits for the response head.
pub(in crate::proxy::upstream) async fn exchange(
    connection: &SharedConnection,
    reused: bool,
    call: &mut Call<'_>,
    continue_wait: Duration,
    body: RequestBody,
) -> Result<Answer, Failed> {
    let guard = connection.stream();
    let mut exchange = match begin(connection, reused, call, body).await {
        Ok(exchange) => exchange,
        Err(failed) => return Err(failed),
    };
    match exchange.final_head(call, continue_wait).await {
        Ok(response) => Ok(Answer::Response(exchange.into_response(call, response, guard))),
        Err(fault) => Err(exchange.fail(connection, reused, fault)),
    }
}

async fn begin(
    connection: &SharedConnection,
    reused: bool,
    call: &Call<'_>,
    body: RequestBody,
) -> Result<Exchange, Failed> {
    let framing = UploadFraming::of(&body);
    let failed = |error, body| Failed {
        error,
        sent: false,
        body: Some(Box::new(body)),
    };
    let Some(request) = request(call, framing) else {
        let error = ProxyError::BadRequest("a target or host that cannot be sent");
        return Err(failed(error, body));
    };
    let mut sender = connection.sender.clone();
    let ends = body.is_end_stream();
    let sent = match poll_fn(|cx| sender.poll_ready(cx)).await {
        Ok(()) => sender.send_request(request, ends),
        Err(error) => Err(error),
    };
    match sent {
        Ok((response, stream)) => Ok(Exchange {
            upload: Upload::new(stream, body, expects_continue(&call.head, framing), ends),
            response,
            timer: Timer::default(),
        }),
        // It has ended, or takes no more; nothing of the request has gone.
        Err(_) => {
            connection.close();
            Err(failed(ProxyError::UpstreamReset { idle: reused }, body))
        }
    }
}

impl Exchange {
    async fn final_head(
        &mut self,
        call: &mut Call<'_>,
        continue_wait: Duration,
    ) -> Result<http::Response<RecvStream>, Fault> {
        for _ in 0..=MAX_INFORMATIONAL {
            let head = poll_fn(|cx| self.poll_head(cx, call, continue_wait)).await?;
            let interim = match head {
                Head::Final(response) => return Ok(response),
                Head::Interim(interim) => interim,
            };
            self.timer.progress();
            match interim.status() {
                StatusCode::SWITCHING_PROTOCOLS => {
                    return Err(Fault::Ours(ProxyError::UpstreamProtocol("101 in HTTP/2")));
                }
                StatusCode::CONTINUE => self.upload.let_body_go(),
                _ => {}
            }
            let (interim, ()) = interim.into_parts();
            (call.informational)(interim.status, &interim.headers.into());
        }
        Err(Fault::Ours(ProxyError::UpstreamProtocol(
            "too many interim responses",
        )))
    }

    fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        call: &Call<'_>,
        continue_wait: Duration,
    ) -> Poll<Result<Head, Fault>> {
        loop {
            let waits = self.upload.poll(cx).map_err(Fault::Ours)?;
            if let Poll::Ready(Some(interim)) = self.response.poll_informational(cx) {
                return Poll::Ready(interim.map(Head::Interim).map_err(Fault::Stream));
            }
            if let Poll::Ready(response) = Pin::new(&mut self.response).poll(cx) {
                return Poll::Ready(response.map(Head::Final).map_err(Fault::Stream));
            }
            if self.upload.take_moved() {
                self.timer.progress();
            }
            let limit = match waits {
                Waits::Nothing => call.timeouts.read,
                Waits::Backend => call.timeouts.send,
                Waits::Continue => continue_wait.min(call.timeouts.read),
                // The client's own pace is not the backend's fault; who reads from the client has a limit of its own.
                Waits::Client => {
                    self.timer.progress();
                    return Poll::Pending;
                }
            };
            ready!(self.timer.poll_expired(cx, limit));
            if waits != Waits::Continue {
                return Poll::Ready(Err(Fault::Ours(ProxyError::ResponseTimeout)));
            }
            self.timer.progress();
            self.upload.let_body_go();
        }
    }

    fn into_response(
        self,
        call: &Call<'_>,
        response: http::Response<RecvStream>,
        guard: StreamGuard,
    ) -> Response<UpstreamBody> {
        let left = content_length(response.headers()).filter(|_| *call.head.method != Method::HEAD);
        let (upload, limit) = (self.upload, call.timeouts.read);
        Response::from(response).map(|incoming| {
            UpstreamBody::http2(StreamBody {
                incoming,
                upload,
                timer: Timer::default(),
                limit,
                left,
                ended: false,
                _stream: guard,
            })
        })
    }

    fn fail(self, connection: &SharedConnection, reused: bool, fault: Fault) -> Failed {
        let (error, sent) = match fault {
            Fault::Ours(error) => (error, true),
            Fault::Stream(error) => {
                let sent = !was_refused(&error);
                (failure(&error, reused && !sent), sent)
            }
        };
        if matches!(error, ProxyError::UpstreamProtocol(_)) {
            // Who breaks the rules once is not asked again.
            connection.close();
        }
        let body = match error {
            ProxyError::ResponseTimeout => None,
            _ => self.upload.into_body().map(Box::new),
        };
        Failed { error, sent, body }
    }
}

fn request(call: &Call<'_>, framing: UploadFraming) -> Option<Request<()>> {
    let scheme = if call.protocol == Protocol::H2 {
        "https"
    } else {
        "http"
    };
    let uri = Uri::builder()
        .scheme(scheme)
        .authority(call.head.host)
        .path_and_query(call.head.target)
        .build()
        .ok()?;
    let mut request = Request::new(());
    *request.method_mut() = call.head.method.clone();
    *request.uri_mut() = uri;
    *request.version_mut() = Version::HTTP_2;
    let headers = request.headers_mut();
    *headers = call.head.fields.into();
    headers.remove(HOST);
    headers.remove(TRANSFER_ENCODING);
    let announced = headers.remove(CONTENT_LENGTH).is_some();
    match framing {
        UploadFraming::Length(length) => {
            headers.insert(CONTENT_LENGTH, length.into());
        }
        UploadFraming::None => {
            headers.remove(EXPECT);
            if announced {
                headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
            }
        }
        UploadFraming::Chunked => {}
    }
    for (name, value) in call.head.extra.iter().flat_map(|extra| extra.fields()) {
        if let Ok(value) = HeaderValue::from_bytes(value) {
            headers.append(HeaderName::from_static(name), value);
        }
    }
    headers.remove(TE);
    if headers.get(CONTENT_TYPE).is_some_and(is_grpc) {
        // gRPC servers refuse calls from intermediaries that would lose the trailers; this one does not.
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    Some(request)
}

fn is_grpc(content_type: &HeaderValue) -> bool {
    content_type.as_bytes().starts_with(b"application/grpc")
}

fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Whether the backend says that it did not look at the request: REFUSED_STREAM, or a graceful GOAWAY that leaves it out (RFC 9113, 8.7).
fn was_refused(error: &h2::Error) -> bool {
    let reason = error.reason();
    error.is_remote()
        && (error.is_reset() && reason == Some(h2::Reason::REFUSED_STREAM)
            || error.is_go_away() && reason == Some(h2::Reason::NO_ERROR))
}

fn failure(error: &h2::Error, idle: bool) -> ProxyError {
    if error.is_library() {
        return ProxyError::UpstreamProtocol("a malformed HTTP/2 response");
    }
    ProxyError::UpstreamReset { idle }
}

/// A response body on a shared connection; the rest of the request goes on beside it.
pub(in crate::proxy::upstream) struct StreamBody {
    incoming: RecvStream,
    upload: Upload,
    timer: Timer,
    limit: Duration,
    /// What is still to come of an announced length.
    left: Option<u64>,
    ended: bool,
    _stream: StreamGuard,
}

impl StreamBody {
    pub(in crate::proxy::upstream) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ProxyError>>> {
        if let Err(error) = self.upload.poll(cx) {
            return Poll::Ready(Some(Err(error)));
        }
        let moved = self.upload.take_moved();
        if let Poll::Ready(frame) = self.poll_incoming(cx) {
            self.timer.progress();
            return Poll::Ready(frame.map(|frame| frame.map_err(|error| failure(&error, false))));
        }
        if moved {
            self.timer.progress();
        }
        self.timer
            .poll_expired(cx, self.limit)
            .map(|()| Some(Err(ProxyError::ResponseTimeout)))
    }

    fn poll_incoming(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        match ready!(self.incoming.poll_data(cx)) {
            Some(Ok(data)) => {
                // Taken is taken: who is slow to pass it on doesn't ask for more.
                let _ = self.incoming.flow_control().release_capacity(data.len());
                let length = data.len() as u64;
                self.left = self.left.map(|left| left.saturating_sub(length));
                return Poll::Ready(Some(Ok(Frame::data(data))));
            }
            // RFC 9113, 8.1: a complete answer, and no interest in the rest of the request.
            Some(Err(error)) if error.is_reset() && error.reason() == Some(h2::Reason::NO_ERROR) => {
                self.ended = true;
                return Poll::Ready(None);
            }
            Some(Err(error)) => {
                self.ended = true;
                return Poll::Ready(Some(Err(error)));
            }
            None => {}
        }
        let trailers = ready!(self.incoming.poll_trailers(cx));
        self.ended = true;
        Poll::Ready(trailers.map(|trailers| trailers.map(Frame::trailers)).transpose())
    }

    pub(in crate::proxy::upstream) fn is_end_stream(&self) -> bool {
        self.ended || self.incoming.is_end_stream()
    }

    pub(in crate::proxy::upstream) fn size_hint(&self) -> SizeHint {
        self.left.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}
