//! From an accepted socket to its server: PROXY protocol, TLS, which HTTP it is, the gate, and the end of the connection.

use std::cell::Cell;
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::body::Source;
use super::connection::{Connection, TlsFacts};
use super::farewell::Farewell;
use super::moment::Moment;
use super::prefixed::Prefixed;
use super::proxy_protocol::{self, Verdict};
use super::refused;
use super::request::{self, Tunnel, TunnelPlace};
use super::tls;
use super::tunnel;
use super::wire::detect::{self, Speaks};
use super::wire::{self, ClientStream, End, GateHandle, Refusal, Server, http2};
use super::worker::{ConnectionSlot, Worker};
use crate::account::ClientLine;
use crate::config::ProxyProtocol;
use crate::listener::Listener;
use crate::telemetry::metrics::{self, TlsOutcome};
use crate::telemetry::record::{HttpVersion, TlsVersion};

/// A connection that the limits let in.
pub(crate) struct Accepted {
    pub(crate) listener: Listener,
    pub(crate) stream: TcpStream,
    pub(crate) counted: metrics::Connection,
    pub(crate) slot: ConnectionSlot,
}

/// Serves one accepted connection to its end. Whatever goes wrong costs this connection alone.
pub(crate) async fn connection(worker: Rc<Worker>, accepted: Accepted) {
    let Accepted {
        listener,
        stream,
        counted,
        mut slot,
    } = accepted;
    super::listener::prepare(&stream);
    let (Ok(peer), Ok(local)) = (stream.peer_addr(), stream.local_addr()) else {
        return; // reset while it was in the queue
    };
    let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
    let line = worker.desk.client(&stream, listener);
    let stream = Prefixed::new(stream).on_line(line.guard());
    let (stream, client) = match read_proxy_header(&worker, stream, peer).await {
        Ok(read) => read,
        Err(how) => return tracing::debug!(%peer, "connection closed: {how}"),
    };
    if let Err(refusal) = slot.count_for(client.ip()) {
        return worker.shard.refused(refusal);
    }
    let opening = Opening {
        worker,
        listener,
        peer,
        client,
        local: SocketAddr::new(local.ip().to_canonical(), local.port()),
        line,
        counted,
        _slot: slot,
    };
    match listener {
        Listener::Http => opening.plain(stream).await,
        Listener::Https => opening.secure(stream).await,
    }
}

/// A connection of which it isn't known yet what it speaks.
struct Opening {
    worker: Rc<Worker>,
    listener: Listener,
    peer: SocketAddr,
    client: SocketAddr,
    local: SocketAddr,
    line: Rc<ClientLine>,
    counted: metrics::Connection,
    /// Held as long as the connection counts against the limits.
    _slot: ConnectionSlot,
}

impl Opening {
    async fn plain(self, mut stream: Prefixed<TcpStream>) {
        let wait = self.worker.limits().head_wait;
        let Some(detected) = before_the_end(&self.worker, detect::detect(&mut stream, wait)).await else {
            return;
        };
        match detected {
            Ok((Speaks::Http1, first)) => self.http1(ClientStream::Plain(stream), first, None).await,
            Ok((Speaks::Http2, first)) => self.http2(ClientStream::Plain(stream), first, None).await,
            Ok((Speaks::Tls, _)) => {
                self.closed("TLS on a plain HTTP port");
                let _ = timeout(GOODBYE, stream.write_all(detect::TLS_ALERT)).await;
            }
            Ok((Speaks::Garbage, first)) if !first.is_empty() => self.closed("neither HTTP nor TLS"),
            Ok((Speaks::Garbage, _)) | Err(_) => {}
        }
    }

    async fn secure(self, mut stream: Prefixed<TcpStream>) {
        let wait = self.worker.shared.config.limits.tls_handshake_timeout;
        let first = before_the_end(&self.worker, first_bytes(&mut stream, wait)).await;
        match first.unwrap_or(FirstBytes::None) {
            FirstBytes::PlainHttp => {
                self.closed("plain HTTP on a TLS port");
                // As nginx does.
                let answer =
                    wire::last_answer(Refusal::bad("plain HTTP on a TLS port"), self.worker.limits());
                return last_words(&mut stream, &answer).await;
            }
            FirstBytes::None => return,
            FirstBytes::Other => {}
        }
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::clone(&self.worker.shared.tls));
        let stream = match timeout(wait, Box::pin(acceptor.accept(stream))).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                self.worker.shard.tls_handshake(TlsOutcome::Failed);
                if !tls::may_be_our_fault(&error) {
                    self.worker.bans.handshake_failed(self.peer.ip());
                }
                return self.closed(format_args!("TLS handshake failed: {error}"));
            }
            Err(_elapsed) => {
                self.worker.shard.tls_handshake(TlsOutcome::TimedOut);
                self.worker.bans.handshake_failed(self.peer.ip());
                return self.closed("the TLS handshake took too long");
            }
        };
        self.worker.shard.tls_handshake(TlsOutcome::Ok);
        let (_, session) = stream.get_ref();
        let facts = TlsFacts {
            version: match session.protocol_version() {
                Some(rustls::ProtocolVersion::TLSv1_2) => TlsVersion::Tls12,
                _ => TlsVersion::Tls13,
            },
            server_name: session.server_name().map(|name| name.to_ascii_lowercase().into()),
        };
        let is_http2 = session.alpn_protocol() == Some(b"h2");
        let stream = ClientStream::Tls(Box::new(stream));
        if is_http2 {
            self.http2(stream, Vec::new(), Some(facts)).await;
        } else {
            self.http1(stream, Vec::new(), Some(facts)).await;
        }
    }

    async fn http1(mut self, stream: ClientStream, first: Vec<u8>, tls: Option<TlsFacts>) {
        self.counted.speaks(HttpVersion::Http11);
        let (server, handle) = Server::new(stream, &first, Arc::clone(self.worker.limits()));
        drop(first);
        let mut farewell = Farewell::new(&self.worker, &handle);
        let (connection, place) = (self.established(tls, handle), TunnelPlace::default());
        let ended = {
            let serving = server.serve(|head, body| {
                request::answer(Rc::clone(&connection), &place, head, Source::Http1(body))
            });
            let mut serving = pin!(serving);
            poll_fn(|cx| {
                let _moment = Moment::begin();
                farewell.poll(cx);
                serving.as_mut().poll(cx)
            })
            .await
        };
        refused::tell(&connection, HttpVersion::Http11);
        match ended {
            Ok(End::Tunnel) => {
                return match (place.take(), server.into_stream()) {
                    (Some(tunnel), Some((stream, early))) => {
                        carry(&self.worker, tunnel, Prefixed::with(early, stream)).await;
                    }
                    _ => self.closed("an upgrade that left no tunnel"),
                };
            }
            Ok(End::Closed) => {}
            Err(error) => self.closed(error),
        }
        let _ = server.shutdown().await;
    }

    async fn http2(mut self, stream: ClientStream, first: Vec<u8>, tls: Option<TlsFacts>) {
        self.counted.speaks(HttpVersion::Http2);
        let streams = self.worker.shared.config.limits.h2_max_streams;
        let limits = Arc::clone(self.worker.limits());
        let (server, handle) = http2::Server::new(stream, &first, limits, streams);
        drop(first);
        let mut farewell = Farewell::new(&self.worker, &handle);
        // Nobody leaves a tunnel there: upgrades are HTTP/1.1's (RFC 9113, 8.6).
        let (connection, place) = (self.established(tls, handle.clone()), TunnelPlace::default());
        let ended = {
            let serving = server.serve(|head, body| {
                request::answer(Rc::clone(&connection), &place, head, Source::Http2(body))
            });
            let mut serving = pin!(serving);
            poll_fn(|cx| {
                let _moment = Moment::begin();
                farewell.poll(cx);
                let served = serving.as_mut().poll(cx);
                for how in handle.take_malformed() {
                    refused::tell_malformed(&connection, how);
                }
                served
            })
            .await
        };
        refused::tell(&connection, HttpVersion::Http2);
        if let Err(error) = ended {
            self.closed(error);
        }
    }

    fn established(&self, tls: Option<TlsFacts>, gate: GateHandle) -> Rc<Connection> {
        Rc::new(Connection {
            worker: Rc::clone(&self.worker),
            listener: self.listener,
            peer: self.peer,
            client: self.client,
            local: self.local,
            client_text: HeaderValue::try_from(self.client.ip().to_string())
                .unwrap_or(HeaderValue::from_static("unknown")),
            local_port_text: HeaderValue::from(self.local.port()),
            tls,
            line: Rc::clone(&self.line),
            gate,
            refusal_told: Cell::new(false),
        })
    }

    fn closed(&self, why: impl fmt::Display) {
        tracing::debug!(client = %self.client, listener = self.listener.as_str(), "connection closed: {why}");
    }
}

/// What a new connection begins with; `None` when the process is about to end and nothing has come within a second.
async fn before_the_end<T>(worker: &Worker, beginning: impl Future<Output = T>) -> Option<T> {
    let mut drain = worker.drain_watcher();
    let end = async {
        drain.in_force().await;
        tokio::time::sleep(GOODBYE).await;
    };
    tokio::select! {
        biased;
        begun = beginning => Some(begun),
        () = end => None,
    }
}

/// How long a last word to a client may take.
const GOODBYE: Duration = Duration::from_secs(1);

/// The 101 has gone out: from here bytes pass both ways.
async fn carry(worker: &Worker, tunnel: Tunnel, client: Prefixed<ClientStream>) {
    let Tunnel { io, account, idle } = tunnel;
    let carried = tunnel::run(client, io, idle, worker.end_of_the_endless(), &worker.scratch).await;
    account.tunnelled(carried.up, carried.down);
}

/// Takes the PROXY header off, when the listener expects one from this peer (proxy-protocol.txt, section 2: never guessed).
async fn read_proxy_header(
    worker: &Worker,
    mut stream: Prefixed<TcpStream>,
    peer: SocketAddr,
) -> Result<(Prefixed<TcpStream>, SocketAddr), &'static str> {
    let expected = worker.shared.config.proxy_protocol == ProxyProtocol::On && worker.trusts(peer.ip());
    if !expected {
        return Ok((stream, peer));
    }
    let reading = async {
        loop {
            match proxy_protocol::parse(stream.seen()) {
                Verdict::Header { length, source } => {
                    stream.consume(length);
                    return Ok(source);
                }
                Verdict::Malformed(how) => return Err(how),
                Verdict::Incomplete => {}
            }
            if !matches!(stream.look().await, Ok(1..)) {
                return Err("it ended before its PROXY header did");
            }
        }
    };
    let source = match timeout(worker.limits().head_wait, reading).await {
        Ok(source) => source?,
        Err(_elapsed) => return Err("its PROXY header took too long"),
    };
    let client = match source {
        proxy_protocol::Source::Client(client) => SocketAddr::new(client.ip().to_canonical(), client.port()),
        proxy_protocol::Source::Peer => peer,
    };
    Ok((stream, client))
}

enum FirstBytes {
    PlainHttp,
    Other,
    None,
}

async fn first_bytes(stream: &mut Prefixed<TcpStream>, wait: Duration) -> FirstBytes {
    if stream.seen().is_empty() && !matches!(timeout(wait, stream.look()).await, Ok(Ok(1..))) {
        return FirstBytes::None;
    }
    if detect::is_plain_http(stream.seen()) {
        FirstBytes::PlainHttp
    } else {
        FirstBytes::Other
    }
}

/// An answer to a connection that gets no other, and its end.
pub(crate) async fn last_words<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S, words: &[u8]) {
    let _ = timeout(GOODBYE, async {
        stream.write_all(words).await?;
        stream.shutdown().await?;
        // Reads what the client still sends, so that a reset does not overtake the answer.
        let mut rest = [0; 1024];
        for _ in 0..64 {
            if stream.read(&mut rest).await? == 0 {
                break;
            }
        }
        io::Result::Ok(())
    })
    .await;
}
