//! A small HTTP/1.1 server on a thread of its own: it answers while every worker is busy, and takes nothing from them.

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
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
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinSet;

use super::AdminState;
use super::pages::{self, Page};

/// Scrapers, probes and a few people.
const MAX_CONNECTIONS: usize = 64;
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// Nobody holds a place for longer, whatever they do with it.
const CONNECTION_LIFETIME: Duration = Duration::from_secs(120);
const MAX_HEAD: usize = 16 * 1024;

/// Between two attempts at an address that somebody else has.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// What is bound, not yet served.
#[derive(Debug, Default)]
pub struct Admin {
    places: Vec<Place>,
}

/// Where the pages are asked for.
#[derive(Debug)]
enum Place {
    Address(TcpListener),
    /// Somebody else has it, until now.
    Taken(SocketAddr),
    Socket(UnixListener, SocketFile),
}

/// The file of a Unix socket; goes with this.
#[derive(Debug)]
struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

impl Admin {
    /// Binds; connections wait in the queue until [`Admin::start`].
    pub fn listen(&mut self, address: SocketAddr) -> io::Result<SocketAddr> {
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        let bound = listener.local_addr()?;
        self.places.push(Place::Address(listener));
        Ok(bound)
    }

    /// The same, but an address that somebody has is taken when it becomes free: at an upgrade, the agent before this one still has it.
    pub fn listen_when_free(&mut self, address: SocketAddr) -> io::Result<SocketAddr> {
        match self.listen(address) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                tracing::warn!(%address, "another process has the admin address: it is taken when it becomes free, and the pages are at the socket meanwhile");
                self.places.push(Place::Taken(address));
                Ok(address)
            }
            other => other,
        }
    }

    /// A Unix socket for the agent's own user; a file that an agent before this one left is replaced, a socket that lives is not.
    pub fn listen_on_socket(&mut self, path: &Path) -> io::Result<()> {
        match UnixStream::connect(path) {
            Ok(_) => return Err(io::ErrorKind::AddrInUse.into()),
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused && is_socket(path) => {
                std::fs::remove_file(path)?;
            }
            // Not there; or binding says what is wrong.
            Err(_) => {}
        }
        let listener = UnixListener::bind(path)?;
        let file = SocketFile(path.to_path_buf());
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
        listener.set_nonblocking(true)?;
        self.places.push(Place::Socket(listener, file));
        Ok(())
    }

    pub fn start(self, state: Arc<AdminState>) -> io::Result<Running> {
        let (stop, stopped) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let thread = std::thread::Builder::new().name("admin".into()).spawn(move || {
            runtime.block_on(async {
                let mut accepting = JoinSet::new();
                let counter = Counter {
                    seats: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
                    state,
                };
                for place in self.places {
                    accepting.spawn(counter.clone().accept(place));
                }
                // Ends the tasks, and with them the socket's file.
                let _ = stopped.await;
                accepting.shutdown().await;
            });
        })?;
        Ok(Running { stop, thread })
    }
}

/// Takes connections, from all places together not more than there are seats.
#[derive(Clone)]
struct Counter {
    seats: Arc<Semaphore>,
    state: Arc<AdminState>,
}

impl Counter {
    async fn accept(self, place: Place) {
        let served = match place {
            Place::Address(listener) => self.accept_tcp(listener).await,
            Place::Taken(address) => {
                let listener = when_free(address).await;
                tracing::info!(%address, "the admin address is free, and taken");
                self.accept_tcp(listener).await
            }
            Place::Socket(listener, _file) => self.accept_unix(listener).await,
        };
        if let Err(error) = served {
            tracing::error!(%error, "the admin pages cannot be served");
        }
    }

    async fn accept_tcp(&self, listener: TcpListener) -> io::Result<()> {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        loop {
            self.seat(listener.accept().await.map(|(stream, _)| stream)).await;
        }
    }

    async fn accept_unix(&self, listener: UnixListener) -> io::Result<()> {
        let listener = tokio::net::UnixListener::from_std(listener)?;
        loop {
            self.seat(listener.accept().await.map(|(stream, _)| stream)).await;
        }
    }

    async fn seat<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(&self, accepted: io::Result<S>) {
        match accepted {
            // Beyond the limit the connection is closed at once: a place in a queue would only hide it.
            Ok(stream) => {
                if let Ok(seat) = Arc::clone(&self.seats).try_acquire_owned() {
                    let connection = serve(stream, Arc::clone(&self.state));
                    tokio::spawn(async move {
                        let _ = tokio::time::timeout(CONNECTION_LIFETIME, connection).await;
                        drop(seat);
                    });
                }
            }
            // Out of descriptors: wait for some rather than spin.
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

/// A file that is none refuses connections, too.
fn is_socket(path: &Path) -> bool {
    std::fs::symlink_metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket())
}

async fn when_free(address: SocketAddr) -> TcpListener {
    loop {
        tokio::time::sleep(LOOK_AGAIN).await;
        if let Ok(listener) = TcpListener::bind(address)
            && listener.set_nonblocking(true).is_ok()
        {
            return listener;
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

async fn serve<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(stream: S, state: Arc<AdminState>) {
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
