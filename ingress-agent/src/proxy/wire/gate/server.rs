//! The HTTP/1.x server of one connection: reads requests, runs the service, writes answers.
//!
//! It is one task and one loop: a request is read whole and judged ([`h1`](crate::proxy::wire::h1)), its service runs while the client is
//! watched, its answer is written, and only then are the next bytes looked at. Between two requests nothing is held but the stream.

mod chunked;
mod client_body;
mod heads;
mod inbound;
mod outbound;
mod request;
#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::StatusCode;
use http_body::Body;

use super::GateHandle;
use super::stream::ClientStream;
use crate::proxy::message::{Head, Response};
use crate::proxy::wire::Limits;
pub(crate) use client_body::ClientBody;
use heads::Next;
use inbound::Wire;
use outbound::Outbound;
use request::Asked;

/// One HTTP/1.x connection.
pub(crate) struct Server {
    wire: Rc<RefCell<Wire>>,
}

/// How a connection stops being HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// To be [`shutdown`](Server::shutdown).
    Closed,
    /// A 101 has gone out: from here on the stream is the service's.
    Tunnel,
}

/// What becomes of the connection after an exchange.
enum After {
    NextRequest,
    End(End),
}

impl Server {
    /// `first` are bytes that were read already ([`detect`](crate::proxy::wire::detect)).
    pub(crate) fn new(io: ClientStream, first: &[u8], limits: Arc<Limits>) -> (Self, GateHandle) {
        let wire = Wire::new(io, first, limits);
        let handle = GateHandle::new(wire.t.shared.clone());
        let wire = Rc::new(RefCell::new(wire));
        (Self { wire }, handle)
    }

    /// Answers requests until the connection ends.
    ///
    /// # Errors
    /// When it must not end cleanly: the client is gone, or an answer broke off.
    pub(crate) async fn serve<F, B, E>(
        &self,
        mut service: impl FnMut(Box<Head>, ClientBody) -> F,
    ) -> io::Result<End>
    where
        F: Future<Output = Result<Response<B>, E>>,
        B: Body<Data = Bytes> + Unpin,
        B::Error: fmt::Display,
        E: fmt::Display,
    {
        loop {
            let next = poll_fn(|cx| self.wire.borrow_mut().poll_head(cx)).await?;
            let Some(Next { head, asked, framing }) = next else {
                return Ok(End::Closed);
            };
            let body = ClientBody::new(&self.wire, framing);
            // By pointer: an idle connection does not keep the room for a request, and none is moved about.
            let mut service = Box::pin(service(head, body));
            let response = poll_fn(|cx| self.poll_answer(service.as_mut(), cx)).await?;
            drop(service);
            if let After::End(end) = self.send(response, asked).await? {
                return Ok(end);
            }
        }
    }

    /// The same with the messages of the `http` crate.
    #[cfg(test)]
    pub(crate) async fn serve_http<F, B, E>(
        &self,
        mut service: impl FnMut(http::Request<ClientBody>) -> F,
    ) -> io::Result<End>
    where
        F: Future<Output = Result<http::Response<B>, E>>,
        B: Body<Data = Bytes> + Unpin,
        B::Error: fmt::Display,
        E: fmt::Display,
    {
        let service = |head: Box<Head>, body| {
            let answer = service(head.into_http(body));
            async { answer.await.map(Response::from) }
        };
        self.serve(service).await
    }

    /// Ends the connection: what is still to be said, our end, a little patience.
    ///
    /// # Errors
    /// Of the connection below.
    pub(crate) async fn shutdown(&self) -> io::Result<()> {
        poll_fn(|cx| self.wire.borrow_mut().poll_shutdown(cx)).await
    }

    /// Bytes of memory that are held for what is read or written.
    #[cfg(test)]
    pub(crate) fn buffered(&self) -> usize {
        self.wire.borrow().buffered()
    }

    /// The connection below, and what was read of it and not used.
    pub(crate) fn into_stream(self) -> Option<(ClientStream, Vec<u8>)> {
        Some(Rc::into_inner(self.wire)?.into_inner().into_parts())
    }

    /// Runs the service while 1xx heads go out, and gives up when the client has gone.
    fn poll_answer<F, B, E>(
        &self,
        service: Pin<&mut F>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<Response<B>>>
    where
        F: Future<Output = Result<Response<B>, E>>,
        E: fmt::Display,
    {
        if let Poll::Ready(answer) = service.poll(cx) {
            return Poll::Ready(answer.map_err(|error| io::Error::other(error.to_string())));
        }
        let mut wire = self.wire.borrow_mut();
        wire.queue_informational();
        if let Poll::Ready(Err(error)) = wire.poll_out(cx) {
            return Poll::Ready(Err(error));
        }
        watch(&mut wire, cx).map(Err)
    }

    async fn send<B>(&self, response: Response<B>, mut asked: Asked) -> io::Result<After>
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: fmt::Display,
    {
        // Nobody holds the body who could still read it to its end: the connection ends, which the client must be told (RFC 9112, 9.6).
        asked.close |= Rc::weak_count(&self.wire) == 0 && self.wire.borrow().lacks_body();
        let switches = response.status == StatusCode::SWITCHING_PROTOCOLS;
        let mut outbound = Outbound::new(&mut self.wire.borrow_mut(), asked, response);
        self.wire.borrow().t.shared.may_inform.set(false);
        if let Err(error) = poll_fn(|cx| self.poll_send(&mut outbound, cx)).await {
            self.wire.borrow_mut().broken = outbound.ends_with_connection();
            return Err(error);
        }
        let close = outbound.close;
        drop(outbound);
        let mut wire = self.wire.borrow_mut();
        wire.answered = true;
        wire.t.shared.in_request.set(false);
        Ok(match () {
            () if switches => After::End(End::Tunnel),
            () if wire.finish_body() && !close => After::NextRequest,
            () => After::End(End::Closed),
        })
    }

    fn poll_send<B>(&self, outbound: &mut Outbound<B>, cx: &mut Context<'_>) -> Poll<io::Result<()>>
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: fmt::Display,
    {
        loop {
            if self.wire.borrow().t.shared.broken_off.get() {
                return Poll::Ready(Err(io::Error::other("the agent ends before the answer does")));
            }
            let mut waits = false;
            while !outbound.is_complete() && outbound.has_room(&self.wire.borrow()) {
                // The body may read the request's, so the connection can't be held meanwhile.
                match outbound.poll_body(cx)? {
                    Poll::Ready(Some(frame)) => outbound.queue(&mut self.wire.borrow_mut(), frame)?,
                    Poll::Ready(None) => {}
                    Poll::Pending => {
                        waits = true;
                        break;
                    }
                }
            }
            let mut wire = self.wire.borrow_mut();
            if outbound.poll_write(&mut wire, cx)?.is_pending() {
                return Poll::Pending;
            }
            if outbound.is_complete() {
                return Poll::Ready(Ok(()));
            }
            if waits {
                return watch(&mut wire, cx).map(Err);
            }
        }
    }
}

/// Ready with the reason when nobody is left to answer.
fn watch(wire: &mut Wire, cx: &mut Context<'_>) -> Poll<io::Error> {
    match wire.poll_gone(cx) {
        true => Poll::Ready(io::Error::new(
            io::ErrorKind::ConnectionReset,
            "the client has reset the connection",
        )),
        false => Poll::Pending,
    }
}
