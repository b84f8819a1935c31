//! The response body as it streams from the backend.

use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};

use super::chunked::{Chunked, Piece, take_at_most};
use super::exchange::{AFTER_BODY, Exchange};
use super::http2::StreamBody;
use super::response_head::{Framing, Persistence};
use crate::error::ProxyError;

/// A backend's response body; holds the connection for as long as it needs it. Dropped early, it closes the connection (HTTP/2: the stream).
pub struct UpstreamBody(Kind);

enum Kind {
    Ended,
    Full(Bytes),
    Streaming(Box<Streaming>),
    Http2(Box<StreamBody>),
}

/// An HTTP/1.1 body whose end is still to come; meanwhile the rest of the request may still be on its way out.
struct Streaming {
    exchange: Exchange,
    decoder: Decoder,
    persistence: Persistence,
}

enum Decoder {
    Length(u64),
    Chunked(Chunked),
    UntilClose,
}

/// One step of a streaming body.
enum Step {
    Data(Bytes),
    /// These were the last bytes.
    LastData(Bytes),
    End(Option<HeaderMap>),
}

impl UpstreamBody {
    pub(super) fn full(data: Bytes) -> Self {
        Self(if data.is_empty() {
            Kind::Ended
        } else {
            Kind::Full(data)
        })
    }

    pub(super) fn streaming(exchange: Exchange, framing: Framing, persistence: Persistence) -> Self {
        let decoder = match framing {
            Framing::None => Decoder::Length(0),
            Framing::Length(length) => Decoder::Length(length),
            Framing::Chunked => Decoder::Chunked(Chunked::new()),
            Framing::UntilClose => Decoder::UntilClose,
        };
        Self(Kind::Streaming(Box::new(Streaming {
            exchange,
            decoder,
            persistence,
        })))
    }

    pub(super) fn http2(body: StreamBody) -> Self {
        Self(Kind::Http2(Box::new(body)))
    }

    /// Lets go of the connection: kept after a clean end.
    fn end(&mut self) {
        if let Kind::Streaming(streaming) = mem::replace(&mut self.0, Kind::Ended) {
            streaming.exchange.release(streaming.persistence);
        }
    }
}

impl Body for UpstreamBody {
    type Data = Bytes;
    type Error = ProxyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ProxyError>>> {
        let this = self.get_mut();
        let step = match &mut this.0 {
            Kind::Ended => return Poll::Ready(None),
            Kind::Full(data) => {
                let data = mem::take(data);
                this.0 = Kind::Ended;
                return Poll::Ready(Some(Ok(Frame::data(data))));
            }
            Kind::Http2(body) => return body.poll_frame(cx),
            Kind::Streaming(streaming) => ready!(streaming.poll_step(cx)),
        };
        Poll::Ready(match step {
            Ok(Step::Data(data)) => Some(Ok(Frame::data(data))),
            Ok(Step::LastData(data)) => {
                this.end();
                Some(Ok(Frame::data(data)))
            }
            Ok(Step::End(trailers)) => {
                this.end();
                trailers.map(|trailers| Ok(Frame::trailers(trailers)))
            }
            Err(error) => {
                this.0 = Kind::Ended;
                Some(Err(error))
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Kind::Ended => true,
            Kind::Http2(body) => body.is_end_stream(),
            Kind::Full(_) | Kind::Streaming(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Ended => SizeHint::with_exact(0),
            Kind::Full(data) => SizeHint::with_exact(data.len() as u64),
            Kind::Http2(body) => body.size_hint(),
            Kind::Streaming(streaming) => match streaming.decoder {
                Decoder::Length(left) => SizeHint::with_exact(left),
                Decoder::Chunked(_) | Decoder::UntilClose => SizeHint::default(),
            },
        }
    }
}

impl Streaming {
    fn poll_step(&mut self, cx: &mut Context<'_>) -> Poll<Result<Step, ProxyError>> {
        loop {
            if self.exchange.upload.is_active() {
                self.exchange.poll_upload(cx)?;
            }
            if let Some(step) = self.decode()? {
                return Poll::Ready(Ok(step));
            }
            match self.exchange.poll_fill(cx) {
                Poll::Ready(Ok(length)) if length > 0 => {}
                Poll::Ready(Ok(_)) if matches!(self.decoder, Decoder::UntilClose) => {
                    return Poll::Ready(Ok(Step::End(None)));
                }
                // Never a clean end: the client must see that something is missing.
                Poll::Ready(_) => {
                    return Poll::Ready(Err(ProxyError::UpstreamReset { idle: false }));
                }
                Poll::Pending => {
                    let limit = self.exchange.timeouts.read;
                    return self
                        .exchange
                        .connection
                        .timer
                        .poll_expired(cx, limit)
                        .map(|()| Err(ProxyError::ResponseTimeout));
                }
            }
        }
    }

    /// What the buffer holds, or `None` when more must be read.
    fn decode(&mut self) -> Result<Option<Step>, ProxyError> {
        let buffer = &mut self.exchange.buffer;
        match &mut self.decoder {
            Decoder::Length(left) if buffer.len() as u64 > *left => Err(AFTER_BODY),
            Decoder::Length(_) | Decoder::UntilClose if buffer.is_empty() => Ok(None),
            Decoder::Length(left) => {
                let data = take_at_most(buffer, *left);
                *left -= data.len() as u64;
                Ok(Some(if *left == 0 {
                    Step::LastData(data)
                } else {
                    Step::Data(data)
                }))
            }
            Decoder::UntilClose => Ok(Some(Step::Data(buffer.split().freeze()))),
            Decoder::Chunked(chunked) => {
                let piece = chunked.next(buffer).map_err(ProxyError::UpstreamProtocol)?;
                let trailers = match piece {
                    Piece::More => return Ok(None),
                    Piece::Data(data) => return Ok(Some(Step::Data(data))),
                    Piece::Trailers(trailers) => Some(trailers),
                    Piece::End => None,
                };
                if buffer.is_empty() {
                    Ok(Some(Step::End(trailers)))
                } else {
                    Err(AFTER_BODY)
                }
            }
        }
    }
}
