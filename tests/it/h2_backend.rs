//! A gRPC-like backend: echoes each piece of the body as it comes, then says its status in the trailers.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use hyper::body::{Body, Frame, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::sync::oneshot;

pub(crate) struct Streaming {
    address: SocketAddr,
    ended: Arc<AtomicUsize>,
    _stop: oneshot::Sender<()>,
}

impl Streaming {
    pub(crate) fn start() -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let ended = Arc::<AtomicUsize>::default();
        let counter = Arc::clone(&ended);
        let (stop, stopped) = oneshot::channel();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                tokio::select! {
                    () = accept(listener, counter) => {}
                    _ = stopped => {}
                }
            });
        });
        Self {
            address,
            ended,
            _stop: stop,
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Calls that are over, however they ended.
    pub(crate) fn ended(&self) -> usize {
        self.ended.load(Ordering::Relaxed)
    }
}

async fn accept(listener: std::net::TcpListener, ended: Arc<AtomicUsize>) {
    let listener = tokio::net::TcpListener::from_std(listener).unwrap();
    while let Ok((stream, _)) = listener.accept().await {
        let ended = Arc::clone(&ended);
        tokio::spawn(async move {
            let service = hyper::service::service_fn(move |request: Request<Incoming>| {
                let body = Mirror {
                    incoming: request.into_body(),
                    said_status: false,
                    ended: Arc::clone(&ended),
                };
                async move { Ok::<_, Infallible>(Response::new(body)) }
            });
            let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

struct Mirror {
    incoming: Incoming,
    said_status: bool,
    ended: Arc<AtomicUsize>,
}

impl Body for Mirror {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let this = self.get_mut();
        if this.said_status {
            return Poll::Ready(None);
        }
        let frame = ready!(Pin::new(&mut this.incoming).poll_frame(cx));
        Poll::Ready(Some(frame.unwrap_or_else(|| {
            this.said_status = true;
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
            Ok(Frame::trailers(trailers))
        })))
    }
}

impl Drop for Mirror {
    fn drop(&mut self) {
        self.ended.fetch_add(1, Ordering::Relaxed);
    }
}
