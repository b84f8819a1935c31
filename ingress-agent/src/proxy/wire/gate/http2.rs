//! The HTTP/2 server of one connection: reads frames, runs a service for each stream, writes answers.
//!
//! All of a connection is one task: its streams' futures are polled by it, each when its own waker has been called. Frames are judged
//! ([`h2`](crate::proxy::wire::h2)) before they do anything; what is written is whole frames, so that a GOAWAY always fits in between.

mod client_body;
mod end;
mod ending;
mod exchange;
mod out;
mod peer;
mod receive;
mod send;
mod settings;
mod streams;
#[cfg(test)]
mod tests;
mod wire;

use std::cell::RefCell;
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use http_body::Body;

use super::GateHandle;
use super::stream::ClientStream;
use crate::proxy::message::{Head, Response};
use crate::proxy::wire::Limits;
pub(crate) use client_body::ClientBody;
use exchange::Exchange;
use wire::Wire;

/// One HTTP/2 connection.
pub(crate) struct Server {
    wire: Rc<RefCell<Wire>>,
}

impl Server {
    /// `first` are bytes that were read already ([`detect`](crate::proxy::wire::detect)); `streams` is how many requests may be under way.
    pub(crate) fn new(
        io: ClientStream,
        first: &[u8],
        limits: Arc<Limits>,
        streams: u32,
    ) -> (Self, GateHandle) {
        let wire = Wire::new(io, first, limits, streams);
        let handle = GateHandle::new(wire.t.shared.clone());
        let wire = Rc::new(RefCell::new(wire));
        (Self { wire }, handle)
    }

    /// Answers requests until the connection has ended.
    ///
    /// # Errors
    /// When it did not end cleanly: the client is gone, or was refused.
    pub(crate) async fn serve<F, B, E>(
        &self,
        mut service: impl FnMut(Box<Head>, ClientBody) -> F,
    ) -> io::Result<()>
    where
        F: Future<Output = Result<Response<B>, E>>,
        B: Body<Data = Bytes> + Unpin,
        E: fmt::Display,
    {
        let mut exchanges = FuturesUnordered::new();
        poll_fn(|cx| {
            loop {
                let ended = self.wire.borrow_mut().poll_in(cx);
                while let Some((id, head)) = self.next_opened() {
                    let body = ClientBody::new(&self.wire, id);
                    // On memory of its own: the set has room for one future even while it is empty, and most connections are idle.
                    let service = Box::pin(service(head, body));
                    exchanges.push(Exchange::new(Rc::clone(&self.wire), id, service));
                }
                loop {
                    while exchanges.poll_next_unpin(cx) == Poll::Ready(Some(())) {}
                    // Not each few of those who wait are worth a write.
                    if !self.wire.borrow_mut().rouse() {
                        break;
                    }
                }
                if ended.is_ready() {
                    return ended;
                }
                let mut wire = self.wire.borrow_mut();
                if let Poll::Ready(Err(error)) = wire.poll_out(cx) {
                    return Poll::Ready(Err(error));
                }
                if !wire.take_stirred() {
                    return Poll::Pending;
                }
            }
        })
        .await
    }

    /// The same with the messages of the `http` crate.
    #[cfg(test)]
    pub(crate) async fn serve_http<F, B, E>(
        &self,
        mut service: impl FnMut(http::Request<ClientBody>) -> F,
    ) -> io::Result<()>
    where
        F: Future<Output = Result<http::Response<B>, E>>,
        B: Body<Data = Bytes> + Unpin,
        E: fmt::Display,
    {
        let service = |head: Box<Head>, body| {
            let answer = service(head.into_http(body));
            async { answer.await.map(Response::from) }
        };
        self.serve(service).await
    }

    fn next_opened(&self) -> Option<(u32, Box<Head>)> {
        self.wire.borrow_mut().opened.pop_front()
    }

    /// Bytes of memory that are held for what is read or written.
    #[cfg(test)]
    pub(crate) fn buffered(&self) -> usize {
        self.wire.borrow().buffered()
    }
}
