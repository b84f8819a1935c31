//! A stream's own future: its service, then its answer, frame by frame as the client's windows allow.

use std::cell::RefCell;
use std::fmt;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use http_body::Body;

use super::wire::Wire;
use crate::proxy::message::Response;
use crate::proxy::timer::Timer;
use crate::proxy::wire::h2::ErrorCode;

/// Serves one request to the end of its stream. Written out, because an `async fn` would copy the service's future into itself.
pub(super) struct Exchange<F, B> {
    step: Step<F, B>,
    place: Place,
}

enum Step<F, B> {
    Service(Pin<Box<F>>),
    Sending(Sending<B>),
    Over,
}

/// The stream's place on its connection; given up when dropped.
struct Place {
    wire: Rc<RefCell<Wire>>,
    id: u32,
}

/// An answer whose head has gone out.
struct Sending<B> {
    body: B,
    /// Of the body, and not sent yet.
    data: Bytes,
    /// The body has nothing after `data` but perhaps trailers.
    ended: bool,
    timer: Timer,
    /// What the connection had sent when this stream was last polled.
    sent: u64,
}

impl<F, B> Exchange<F, B> {
    pub(super) fn new(wire: Rc<RefCell<Wire>>, id: u32, service: Pin<Box<F>>) -> Self {
        Self {
            step: Step::Service(service),
            place: Place { wire, id },
        }
    }
}

impl<F, B, E> Future for Exchange<F, B>
where
    F: Future<Output = Result<Response<B>, E>>,
    B: Body<Data = Bytes> + Unpin,
    E: fmt::Display,
{
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let Self { step, place } = self.get_mut();
        if let Step::Service(service) = step {
            let answer = ready!(place.poll_answer(service.as_mut(), cx));
            *step = Step::Over;
            match answer {
                // The stream is over already.
                None => {}
                Some(Ok(response)) => {
                    if let Some(sending) = place.begin(response) {
                        *step = Step::Sending(sending);
                    }
                }
                Some(Err(error)) => {
                    tracing::trace!(stream = place.id, "no answer: {error}");
                    place.break_off(ErrorCode::Internal);
                }
            }
        }
        if let Step::Sending(sending) = step {
            let ended = ready!(place.poll_send(sending, cx));
            // The account of the request is in the body: it closes before the stream does.
            *step = Step::Over;
            if let Err(code) = ended {
                place.break_off(code);
            }
        }
        Poll::Ready(())
    }
}

impl Place {
    /// Runs the service, and passes on what it says before its answer; None when the stream ends first.
    fn poll_answer<F: Future>(&self, service: Pin<&mut F>, cx: &mut Context<'_>) -> Poll<Option<F::Output>> {
        if !self.wire.borrow().is_open(self.id) {
            return Poll::Ready(None);
        }
        let polled = service.poll(cx);
        let mut wire = self.wire.borrow_mut();
        wire.send_interim(self.id);
        match polled {
            Poll::Ready(answer) => Poll::Ready(Some(answer)),
            Poll::Pending if wire.park(self.id, cx) => Poll::Pending,
            Poll::Pending => Poll::Ready(None),
        }
    }

    /// Sends the head; None when that is all.
    fn begin<B: Body<Data = Bytes>>(&self, response: Response<B>) -> Option<Sending<B>> {
        let Response { status, fields, body } = response;
        let bodiless = matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        let is_head = self.wire.borrow().is_head(self.id);
        let ends = bodiless || is_head || body.is_end_stream();
        // A length that is known is told.
        let length = body.size_hint().exact().filter(|_| !bodiless && !is_head);
        self.wire
            .borrow_mut()
            .send_head(self.id, (status, &fields), length, ends);
        if ends {
            // The body is dropped, and with it perhaps what is left of the request's, which is a view of the connection.
            return None;
        }
        Some(Sending {
            body,
            data: Bytes::new(),
            ended: false,
            timer: Timer::default(),
            sent: 0,
        })
    }

    fn poll_send<B: Body<Data = Bytes> + Unpin>(
        &self,
        sending: &mut Sending<B>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), ErrorCode>> {
        loop {
            if !sending.data.is_empty() {
                let mut wire = self.wire.borrow_mut();
                let before = sending.data.len();
                let sent = wire.poll_data(self.id, &mut sending.data, sending.ended, cx);
                if sending.data.len() < before || wire.others_move(self.id, &mut sending.sent) {
                    sending.timer.progress();
                }
                if sent.is_pending() {
                    if !wire.park(self.id, cx) {
                        return Poll::Ready(Ok(()));
                    }
                    // Nothing of ours is pending: it is the client that doesn't take what is there for it.
                    let stall = wire.t.limits.write_stall;
                    ready!(sending.timer.poll_expired(cx, stall));
                    return Poll::Ready(Err(ErrorCode::Cancel));
                }
                if sending.ended {
                    return Poll::Ready(Ok(()));
                }
            }
            if !self.wire.borrow().is_open(self.id) {
                return Poll::Ready(Ok(()));
            }
            match Pin::new(&mut sending.body).poll_frame(cx) {
                Poll::Pending if self.wire.borrow_mut().park(self.id, cx) => return Poll::Pending,
                Poll::Pending => return Poll::Ready(Ok(())),
                Poll::Ready(None) => return Poll::Ready(self.end(None)),
                Poll::Ready(Some(Err(_broken))) => return Poll::Ready(Err(ErrorCode::Internal)),
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => {
                        sending.data = data;
                        sending.ended = sending.body.is_end_stream();
                        if sending.ended && sending.data.is_empty() {
                            return Poll::Ready(self.end(None));
                        }
                    }
                    Err(frame) => return Poll::Ready(self.end(frame.into_trailers().ok())),
                },
            }
        }
    }

    fn end(&self, trailers: Option<HeaderMap>) -> Result<(), ErrorCode> {
        self.wire.borrow_mut().send_end(self.id, trailers.as_ref());
        Ok(())
    }

    fn break_off(&self, code: ErrorCode) {
        self.wire.borrow_mut().reset(self.id, code);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // Taken at this moment only when the connection itself is on its way out.
        if let Ok(mut wire) = self.wire.try_borrow_mut() {
            wire.reset(self.id, ErrorCode::Cancel);
        }
    }
}
