//! A small HTTP/1.1 server on a thread of its own: it answers while every worker is busy, and takes nothing from them.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::{Semaphore, oneshot};

use super::AdminState;
use super::pages::{self, Page};

/// Scrapers, probes and a few people.
const MAX_CONNECTIONS: usize = 64;
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// Nobody holds a place for longer, whatever they do with it.
const CONNECTION_LIFETIME: Duration = Duration::from_secs(120);
const MAX_HEAD: usize = 16 * 1024;

/// The bound address, not yet served.
#[derive(Debug)]
pub struct Admin {
    listener: TcpListener,
    state: Arc<AdminState>,
}

/// Binds; connections wait in the queue until [`Admin::start`].
pub fn bind(address: SocketAddr, state: Arc<AdminState>) -> std::io::Result<Admin> {
    let listener = TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    Ok(Admin { listener, state })
}

impl Admin {
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    pub fn start(self) -> std::io::Result<Running> {
        let (stop, stopped) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let thread = std::thread::Builder::new().name("admin".into()).spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    () = self.accept() => {}
                    _ = stopped => {}
                }
            });
        })?;
        Ok(Running { stop, thread })
    }

    async fn accept(self) {
        let listener = match tokio::net::TcpListener::from_std(self.listener) {
            Ok(listener) => listener,
            Err(error) => return tracing::error!(%error, "the admin address cannot be served"),
        };
        let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        loop {
            match listener.accept().await {
                // Beyond the limit the connection is closed at once: a place in a queue would only hide it.
                Ok((stream, _)) => {
                    if let Ok(place) = Arc::clone(&places).try_acquire_owned() {
                        let connection = serve(stream, Arc::clone(&self.state));
                        tokio::spawn(async move {
                            let _ = tokio::time::timeout(CONNECTION_LIFETIME, connection).await;
                            drop(place);
                        });
                    }
                }
                // Out of descriptors: wait for some rather than spin.
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    }
}

/// The serving thread.
#[derive(Debug)]
pub struct Running {
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

impl Running {
    /// Ends it, open connections included.
    pub fn stop(self) {
        let _ = self.stop.send(());
        let _ = self.thread.join();
    }
}

async fn serve(stream: tokio::net::TcpStream, state: Arc<AdminState>) {
    let service = service_fn(move |request| {
        let state = Arc::clone(&state);
        async move { Ok::<_, Infallible>(answer(&request, &state).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(stream), service);
    // A client that breaks HTTP or leaves has nobody to be told.
    let _ = connection.await;
}

async fn answer(request: &Request<Incoming>, state: &AdminState) -> Response<Full<Bytes>> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut response = respond(Page::text(
            StatusCode::METHOD_NOT_ALLOWED,
            "only GET and HEAD are served here\n",
        ));
        response
            .headers_mut()
            .insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    let host = request
        .headers()
        .get(header::HOST)
        .and_then(|host| host.to_str().ok());
    if !host.is_some_and(is_ours) {
        let text = "this address is asked by IP address, localhost or a cluster-internal name only\n";
        return respond(Page::text(StatusCode::MISDIRECTED_REQUEST, text));
    }
    respond(pages::page(request.uri().path(), request.headers(), state).await)
}

/// A web page whose name was pointed at this address (DNS rebinding) must not read it through somebody's browser.
fn is_ours(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or(""),
        None => host.split(':').next().unwrap_or(""),
    };
    let name = name.to_ascii_lowercase();
    let internal = [".localhost", ".svc", ".cluster.local"]
        .iter()
        .any(|suffix| name.ends_with(suffix));
    name.parse::<IpAddr>().is_ok() || internal || (!name.is_empty() && !name.contains('.'))
}

fn respond(page: Page) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(page.body)));
    *response.status_mut() = page.status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(page.content_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    response
}
