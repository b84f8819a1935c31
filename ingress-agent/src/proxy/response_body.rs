//! The body of a response as a client gets it: a backend's, or a few words of our own.

use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use super::upstream::UpstreamBody;
use crate::error::ProxyError;

/// What the servers send to the client.
pub(crate) enum ResponseBody {
    Empty,
    Full(Bytes),
    Upstream(UpstreamBody),
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = ProxyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ProxyError>>> {
        match self.get_mut() {
            Self::Empty => Poll::Ready(None),
            Self::Full(data) if data.is_empty() => Poll::Ready(None),
            Self::Full(data) => Poll::Ready(Some(Ok(Frame::data(mem::take(data))))),
            Self::Upstream(body) => Pin::new(body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Full(data) => data.is_empty(),
            Self::Upstream(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Full(data) => SizeHint::with_exact(data.len() as u64),
            Self::Upstream(body) => body.size_hint(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_answers_tell_their_exact_size_and_are_given_once() {
        let mut body = ResponseBody::Full(Bytes::from("no"));
        assert_eq!(body.size_hint().exact(), Some(2));
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let frame = Pin::new(&mut body).poll_frame(&mut cx);
        assert!(
            matches!(frame, Poll::Ready(Some(Ok(frame))) if frame.data_ref().is_some_and(|data| data == "no"))
        );
        assert!(body.is_end_stream());
        assert!(ResponseBody::Empty.is_end_stream());
    }
}
