//! The body of a request: what the client sends, limited and counted.
//!
//! Knows the bodies of both servers; knows nothing of routes, connections or backends.

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};

use super::wire::ClientBody as Http1Body;
use super::wire::http2::ClientBody as Http2Body;

use crate::error::ProxyError;
use crate::proxy::timer::Timer;
use crate::proxy::wire::h1::is_forbidden_trailer;

/// The client's body on its way to a backend: never more than the limit, counted, and able to take back what no backend has seen.
///
/// Held by pointer, because it is handed down through every step of a request; a request without a body has none.
pub struct RequestBody(Option<Box<ClientBody>>);

struct ClientBody {
    source: Source,
    /// A chunk that was taken and given back; it comes first.
    returned: Option<Bytes>,
    /// The chunk that completes the announced length, until the client has ended its stream.
    held: Option<Bytes>,
    /// What came behind the chunk that was held.
    trailers: Option<HeaderMap>,
    touched: bool,
    limit: Option<u64>,
    received: u64,
    progress: Option<Rc<Progress>>,
    gap: Option<Gap>,
}

/// What a request's account sees of its body, and the body of the request.
#[derive(Debug, Default)]
pub struct Progress {
    /// Bytes of data received from the client so far.
    pub received: Cell<u64>,
    /// The response head has gone out: from then on a client that listens may be silent, as in a gRPC stream.
    pub answered: Cell<bool>,
}

/// How long the body may stand still while it is waited for.
struct Gap {
    limit: Duration,
    timer: Timer,
}

#[cfg(test)]
pub(crate) type FrameSender = tokio::sync::mpsc::UnboundedSender<Result<Frame<Bytes>, ProxyError>>;

/// Where a client's body comes from.
pub(crate) enum Source {
    Http1(Http1Body),
    Http2(Http2Body),
    #[cfg(test)]
    Script(Script),
}

/// What the test sends, and the part of the announced length that it has not sent yet. As in HTTP/1 the length is the end, unless it
/// stands for a stream that has an end of its own.
#[cfg(test)]
pub(crate) struct Script {
    frames: tokio::sync::mpsc::UnboundedReceiver<Result<Frame<Bytes>, ProxyError>>,
    left: Option<u64>,
    stream: bool,
}

#[cfg(test)]
impl Script {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, ProxyError>>> {
        let polled = self.frames.poll_recv(cx);
        if let (Poll::Ready(Some(Ok(frame))), Some(left)) = (&polled, &mut self.left) {
            let length = frame.data_ref().map_or(0, |data| data.len() as u64);
            *left = left.saturating_sub(length);
        }
        polled
    }

    fn has_ended(&self) -> bool {
        if self.stream {
            self.frames.is_closed() && self.frames.is_empty()
        } else {
            self.left == Some(0)
        }
    }
}

impl RequestBody {
    /// Refuses at once what announces more than `limit` bytes (`Content-Length`).
    pub(crate) fn new(source: Source, limit: Option<u64>) -> Result<Self, ProxyError> {
        if source.has_ended() {
            return Ok(Self::empty());
        }
        let body = Self::from_source(source, limit);
        body.refuse_announced_excess()?;
        Ok(body)
    }

    pub fn empty() -> Self {
        Self(None)
    }

    /// A body that the test feeds; `length` is what the client announced.
    #[cfg(test)]
    pub(crate) fn script(length: Option<u64>, limit: Option<u64>) -> (FrameSender, Self) {
        let (sender, frames) = tokio::sync::mpsc::unbounded_channel();
        let script = Script {
            frames,
            left: length,
            stream: false,
        };
        (sender, Self::from_source(Source::Script(script), limit))
    }

    /// The same, with an end of its own, as in HTTP/2: when the sender is dropped.
    #[cfg(test)]
    fn script_of_a_stream(length: u64) -> (FrameSender, Self) {
        let (sender, frames) = tokio::sync::mpsc::unbounded_channel();
        let script = Script {
            frames,
            left: Some(length),
            stream: true,
        };
        (sender, Self::from_source(Source::Script(script), None))
    }

    fn from_source(source: Source, limit: Option<u64>) -> Self {
        Self(Some(Box::new(ClientBody {
            source,
            returned: None,
            held: None,
            trailers: None,
            touched: false,
            limit,
            received: 0,
            progress: None,
            gap: None,
        })))
    }

    fn refuse_announced_excess(&self) -> Result<(), ProxyError> {
        match self.0.as_ref().and_then(|body| body.limit) {
            Some(limit) if self.size_hint().lower() > limit => Err(ProxyError::BodyTooLarge),
            _ => Ok(()),
        }
    }

    /// Where the number of bytes received so far is told from now on; `None` for a body that is empty.
    pub fn progress(&mut self) -> Option<Rc<Progress>> {
        let body = self.0.as_mut()?;
        Some(Rc::clone(body.progress.get_or_insert_default()))
    }

    /// Ends the body with [`ProxyError::RequestTimeout`] when it stands still for `limit` while a backend waits for it. For
    /// HTTP/2, where the gate can't tell a body that nobody waits for from one that doesn't come.
    pub fn limit_gap(&mut self, limit: Duration) {
        if let Some(body) = &mut self.0 {
            body.gap = Some(Gap {
                limit,
                timer: Timer::default(),
            });
        }
    }

    /// Whether nothing was announced, and the client can still break that word: over HTTP/2 it has not ended its stream yet.
    pub fn may_belie_its_emptiness(&self) -> bool {
        self.0.as_ref().is_some_and(|body| {
            !body.source.has_ended() && body.source.left() == Some(0) && body.returned.is_none()
        })
    }

    /// Waits for the end of a body that was announced as empty.
    pub async fn ended(&mut self) -> Result<(), ProxyError> {
        match poll_fn(|cx| Pin::new(&mut *self).poll_frame(cx)).await {
            None => Ok(()),
            Some(Ok(frame)) if frame.is_trailers() => Ok(()),
            Some(Ok(_)) => Err(ProxyError::BadRequest("a body where none was announced")),
            Some(Err(error)) => Err(error),
        }
    }

    /// Bytes of data received from the client so far.
    pub fn received(&self) -> u64 {
        self.0.as_ref().map_or(0, |body| body.received)
    }

    /// Whether the whole body is still there, so that another backend can be given it.
    pub fn untouched(&self) -> bool {
        self.0.as_ref().is_none_or(|body| !body.touched)
    }

    /// Takes the first and only chunk that was taken out back in, after which the body is whole again.
    pub(crate) fn give_back(&mut self, first: Bytes) {
        if let Some(body) = &mut self.0 {
            body.returned = (!first.is_empty()).then_some(first);
            body.touched = false;
        }
    }
}

impl ClientBody {
    fn count(&mut self, data: &Bytes) -> Result<(), ProxyError> {
        let length = u64::try_from(data.len()).unwrap_or(u64::MAX);
        self.received = self.received.saturating_add(length);
        if let Some(progress) = &self.progress {
            progress.received.set(self.received);
        }
        match self.limit {
            Some(limit) if self.received > limit => Err(ProxyError::BodyTooLarge),
            _ => Ok(()),
        }
    }

    /// A body that is too long or too short for its Content-Length is malformed (RFC 9113, 8.1.1), and must not become a whole request at a
    /// backend: the chunk that completes it waits for the end of the stream. (In HTTP/1 the length is the end.)
    fn poll_whole(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, ProxyError>>> {
        loop {
            let Poll::Ready(frame) = self.source.poll_frame(cx) else {
                return self.poll_gap(cx);
            };
            if let Some(gap) = &mut self.gap {
                gap.timer.progress();
            }
            let frame = match frame {
                Some(Ok(frame)) => frame,
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(self.held.take().map(|data| Ok(Frame::data(data)))),
            };
            let data = match frame.into_data() {
                Ok(data) => data,
                Err(frame) => return Poll::Ready(Some(self.trailers(frame))),
            };
            if let Err(error) = self.count(&data) {
                return Poll::Ready(Some(Err(error)));
            }
            let completes = self.source.left() == Some(0) && !self.source.has_ended();
            match &self.held {
                Some(_) if data.is_empty() => {}
                Some(_) => {
                    return Poll::Ready(Some(Err(ProxyError::BadRequest(
                        "a body longer than its Content-Length",
                    ))));
                }
                None if completes && !data.is_empty() => self.held = Some(data),
                None => return Poll::Ready(Some(Ok(Frame::data(data)))),
            }
        }
    }

    fn trailers(&mut self, frame: Frame<Bytes>) -> Result<Frame<Bytes>, ProxyError> {
        if frame.trailers_ref().is_some_and(has_forbidden) {
            return Err(ProxyError::BadRequest("a field that may not be a trailer"));
        }
        match self.held.take() {
            Some(data) => {
                self.trailers = frame.into_trailers().ok();
                Ok(Frame::data(data))
            }
            None => Ok(frame),
        }
    }

    /// Nothing is there: waits, unless that has taken too long. Costs a timer only here.
    fn poll_gap(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, ProxyError>>> {
        let answered = self.progress.as_ref().is_some_and(|p| p.answered.get());
        match &mut self.gap {
            Some(gap) if !answered => gap
                .timer
                .poll_expired(cx, gap.limit)
                .map(|()| Some(Err(ProxyError::RequestTimeout))),
            _ => Poll::Pending,
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = ProxyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ProxyError>>> {
        let Some(this) = &mut self.get_mut().0 else {
            return Poll::Ready(None);
        };
        if let Some(data) = this.returned.take() {
            this.touched = true;
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        if let Some(trailers) = this.trailers.take() {
            return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
        }
        let polled = this.poll_whole(cx);
        if let Poll::Ready(Some(Ok(_))) = &polled {
            this.touched = true;
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        let Some(this) = &self.0 else { return true };
        this.returned.is_none() && this.held.is_none() && this.trailers.is_none() && this.source.has_ended()
    }

    fn size_hint(&self) -> SizeHint {
        let Some(this) = &self.0 else {
            return SizeHint::with_exact(0);
        };
        let kept = [&this.returned, &this.held];
        let kept = kept.into_iter().flatten().map(|data| data.len() as u64).sum();
        let rest = this.source.size_hint();
        let mut hint = SizeHint::new();
        hint.set_lower(rest.lower().saturating_add(kept));
        if let Some(upper) = rest.upper() {
            hint.set_upper(upper.saturating_add(kept));
        }
        hint
    }
}

impl Source {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, ProxyError>>> {
        match self {
            Self::Http1(body) => Pin::new(body).poll_frame(cx),
            Self::Http2(body) => Pin::new(body).poll_frame(cx),
            #[cfg(test)]
            Self::Script(script) => script.poll_frame(cx),
        }
    }

    fn has_ended(&self) -> bool {
        match self {
            Self::Http1(body) => body.is_end_stream(),
            Self::Http2(body) => body.is_end_stream(),
            #[cfg(test)]
            Self::Script(script) => script.has_ended(),
        }
    }

    /// What is still to come of what the client announced.
    pub(crate) fn size_hint(&self) -> SizeHint {
        match self {
            Self::Http1(body) => body.size_hint(),
            Self::Http2(body) => body.size_hint(),
            #[cfg(test)]
            Self::Script(script) => script.left.map_or_else(SizeHint::default, SizeHint::with_exact),
        }
    }

    /// Bytes that are still to come, where a length was announced.
    fn left(&self) -> Option<u64> {
        self.size_hint().exact()
    }
}

/// For h2: in HTTP/1 the gate has seen them before.
fn has_forbidden(trailers: &HeaderMap) -> bool {
    trailers.keys().any(|name| is_forbidden_trailer(name.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fed(texts: &[&'static str], length: Option<u64>, limit: Option<u64>) -> RequestBody {
        let (sender, body) = RequestBody::script(length, limit);
        for text in texts {
            let data = Bytes::from_static(text.as_bytes());
            sender.send(Ok(Frame::data(data))).unwrap();
        }
        body
    }

    fn next(body: &mut RequestBody) -> Option<Result<Bytes, ProxyError>> {
        let mut cx = Context::from_waker(std::task::Waker::noop());
        match Pin::new(body).poll_frame(&mut cx) {
            Poll::Ready(frame) => frame.map(|frame| frame.map(|frame| frame.into_data().unwrap())),
            Poll::Pending => panic!("nothing there"),
        }
    }

    #[test]
    fn a_body_that_announces_more_than_its_limit_is_refused_before_it_is_read() {
        let refused = |length| fed(&[], length, Some(8)).refuse_announced_excess();
        assert_eq!(refused(Some(9)), Err(ProxyError::BodyTooLarge));
        assert_eq!(refused(Some(8)), Ok(()));
        assert_eq!(refused(None), Ok(()));
    }

    #[test]
    fn a_body_is_counted_and_stopped_at_its_limit() {
        let mut body = fed(&["12345", "678", "9"], None, Some(8));
        let progress = body.progress().unwrap();
        assert_eq!(next(&mut body), Some(Ok(Bytes::from("12345"))));
        assert_eq!(next(&mut body), Some(Ok(Bytes::from("678"))));
        assert_eq!(progress.received.get(), 8);
        assert_eq!(next(&mut body), Some(Err(ProxyError::BodyTooLarge)));
    }

    #[test]
    fn a_chunk_that_is_given_back_makes_the_body_whole_and_is_counted_once() {
        let mut body = fed(&["hello", "world"], Some(10), Some(10));
        assert!(body.untouched());
        let first = next(&mut body).unwrap().unwrap();
        assert!(!body.untouched());
        body.give_back(first);
        assert!(body.untouched());
        assert_eq!(body.size_hint().exact(), Some(10));
        assert_eq!(next(&mut body), Some(Ok(Bytes::from("hello"))));
        assert_eq!(next(&mut body), Some(Ok(Bytes::from("world"))));
        assert_eq!(body.received(), 10);
    }

    #[test]
    fn what_completes_a_body_waits_for_the_end_of_a_stream_that_has_one() {
        let (sender, mut body) = RequestBody::script_of_a_stream(5);
        let mut cx = Context::from_waker(std::task::Waker::noop());
        sender.send(Ok(Frame::data(Bytes::from("12")))).unwrap();
        sender.send(Ok(Frame::data(Bytes::from("345")))).unwrap();
        assert_eq!(next(&mut body), Some(Ok(Bytes::from("12"))));
        assert!(Pin::new(&mut body).poll_frame(&mut cx).is_pending());
        assert_eq!(body.size_hint().exact(), Some(3));
        assert!(!body.is_end_stream());
        sender.send(Ok(Frame::data(Bytes::new()))).unwrap();
        assert!(Pin::new(&mut body).poll_frame(&mut cx).is_pending());
        drop(sender);
        assert_eq!(next(&mut body), Some(Ok(Bytes::from("345"))));
        assert_eq!(next(&mut body), None);
        assert!(body.is_end_stream());
    }

    #[test]
    fn a_stream_that_breaks_its_word_never_completes_its_body() {
        let broken: [Result<Frame<Bytes>, ProxyError>; 2] =
            [Err(ProxyError::ClientClosed), Ok(Frame::data(Bytes::from("6")))];
        for broken in broken {
            let (sender, mut body) = RequestBody::script_of_a_stream(5);
            sender.send(Ok(Frame::data(Bytes::from("12345")))).unwrap();
            sender.send(broken).unwrap();
            assert!(matches!(next(&mut body), Some(Err(_))));
        }
    }

    #[test]
    fn trailers_come_behind_the_chunk_that_waited() {
        let (sender, mut body) = RequestBody::script_of_a_stream(2);
        sender.send(Ok(Frame::data(Bytes::from("12")))).unwrap();
        sender.send(Ok(Frame::trailers(HeaderMap::new()))).unwrap();
        assert_eq!(next(&mut body), Some(Ok(Bytes::from("12"))));
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let last = Pin::new(&mut body).poll_frame(&mut cx);
        assert!(matches!(last, Poll::Ready(Some(Ok(frame))) if frame.is_trailers()));
    }

    #[test]
    fn a_body_that_stands_still_times_out_unless_the_answer_has_begun() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(async {
            let (sender, mut body) = RequestBody::script(None, None);
            let progress = body.progress().unwrap();
            body.limit_gap(Duration::from_secs(60));
            let mut frame = async || std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await;
            let begun = tokio::time::Instant::now();
            for _ in 0..3 {
                let sender = sender.clone();
                tokio::spawn(async move {
                    tokio::time::sleep(Duration::from_secs(50)).await;
                    sender.send(Ok(Frame::data(Bytes::from("slow")))).unwrap();
                });
                assert!(frame().await.unwrap().is_ok());
            }
            let late = frame().await.unwrap().map(|_| ());
            assert_eq!(late, Err(ProxyError::RequestTimeout));
            assert_eq!(begun.elapsed().as_secs(), 3 * 50 + 60);
            progress.answered.set(true);
            let silence = tokio::time::timeout(Duration::from_secs(600), frame()).await;
            assert!(silence.is_err(), "a stream that is being answered may be silent");
        });
    }
}
