//! One worker's thread: its runtime, the loops that accept from its listening sockets, and its end.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::task::{JoinSet, spawn_local};

use super::bell::Stroke;
use super::roster::Post;
use super::serve;
use super::turn_away;
use super::upstream::Upstreams;
use super::worker::{ConnectionSlot, Shared, Worker};
use crate::account::Desk;
use crate::listener::Listener;
use crate::memory;
use crate::telemetry::access_log::{self, AccessLog};
use crate::telemetry::metrics::{self, Inbox};

/// What one worker is given at its start.
pub struct Equipment {
    pub shared: Arc<Shared>,
    /// Its place in the roster, where its sockets are.
    pub index: usize,
    pub access_log: access_log::Sink,
    pub inbox: Inbox,
}

/// Serves until drained. Returns when the last connection has ended.
pub fn run(equipment: Equipment) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .event_interval(31)
        .build_local(tokio::runtime::LocalOptions::default())?;
    runtime.block_on(serve_all(equipment))
}

async fn serve_all(equipment: Equipment) -> io::Result<()> {
    let Equipment {
        shared,
        index,
        access_log,
        inbox,
    } = equipment;
    let worker = Worker::new(shared, index, access_log.worker());
    let upstreams = worker.upstreams.clone();
    spawn_local(inbox.serve(Rc::clone(&worker.shard), move || pool_numbers(&upstreams)));
    spawn_local(memory::keep_giving_back());
    spawn_local(AccessLog::keep_flushing(Rc::downgrade(&worker.access_log)));
    spawn_local(Desk::watch_lag(Rc::downgrade(&worker.desk)));
    let drained = serve_listeners(&worker);
    spawn_local(ring_orders(Rc::clone(&worker)));
    let mut drain = worker.drain_watcher();
    tokio::select! {
        ended = drained => ended,
        () = drain.cut() => Ok(()),
    }
}

/// Passes the orders on to the connections.
async fn ring_orders(worker: Rc<Worker>) {
    let (bell, mut drain) = (&worker.bell, worker.drain_watcher());
    let spread = drain.ordered().await;
    tokio::select! {
        () = bell.ring_over(Stroke::Drain, spread) => {}
        () = drain.hastened(spread) => bell.ring(Stroke::Drain),
    }
    let (spread, grace) = drain.ending().await;
    worker.grace.set(grace);
    tokio::select! {
        () = bell.ring_over(Stroke::End, spread) => {}
        () = drain.hurried(spread) => {
            worker.grace.set(drain.ending().await.1);
            bell.ring(Stroke::End);
        }
    }
}

fn pool_numbers(upstreams: &Upstreams) -> metrics::UpstreamPool {
    let stats = upstreams.stats();
    metrics::UpstreamPool {
        created: stats.created,
        reused: stats.reused,
        idle: u64::try_from(stats.idle).unwrap_or(u64::MAX),
    }
}

/// Accepts from every listener there is, and takes what waits at other workers that don't. Returns when drained.
async fn serve_listeners(worker: &Rc<Worker>) -> io::Result<()> {
    let roster = Arc::clone(&worker.shared.roster);
    let seat = worker.seat(&roster)?;
    seat.sit_down();
    let mut drain = worker.drain_watcher();
    let mut accepting = JoinSet::new();
    let mut known: Vec<std::sync::Weak<Post>> = Vec::new();
    loop {
        known.retain(|post| post.strong_count() > 0);
        for post in seat.posts().iter() {
            let is_new = known
                .iter()
                .all(|known| !std::ptr::eq(known.as_ptr(), Arc::as_ptr(post)));
            if is_new {
                known.push(Arc::downgrade(post));
                accepting.spawn_local(accept(Rc::clone(worker), Arc::clone(post)));
            }
        }
        tokio::select! {
            Some(ended) = accepting.join_next() => {
                // A panic in one accept loop must not pass for a drain, nor go unseen while the others run.
                ended.map_err(io::Error::other)??;
            }
            () = seat.called() => roster.take(worker.index, |listener, stream, peer| take_std(worker, listener, stream, peer)),
            _ = drain.ordered(), if accepting.is_empty() => break,
        }
    }
    while worker.open.get() > 0 {
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    Ok(())
}

/// Accepts until the listener is taken away or the order to drain comes, and beyond that one for as long as there is something to finish
/// anyway (but not for more than half of `drain-timeout`): whoever still comes here is answered. At the end takes what the kernel has
/// already queued.
async fn accept(worker: Rc<Worker>, post: Arc<Post>) -> io::Result<()> {
    let Some(socket) = post.socket() else {
        return Ok(());
    };
    let listener = post.listener;
    let socket = TcpListener::from_std(socket?)?;
    let roster = Arc::clone(&worker.shared.roster);
    let seat = worker.seat(&roster)?;
    let mut drain = worker.drain_watcher();
    let mut door = roster.doors.door(socket.local_addr()?);
    let drains = loop {
        if door.is_closed() {
            tokio::select! {
                biased;
                _ = drain.ordered() => break true,
                () = post.closing() => break false,
                () = door.open() => {}
            }
        }
        tokio::select! {
            biased;
            _ = drain.ordered() => break true,
            () = post.closing() => break false,
            () = door.changed() => {}
            accepted = socket.accept() => {
                seat.accepted();
                take_accepted(&worker, listener, accepted).await;
            }
        }
    };
    if drains && door.is_closed() {
        // Another agent has the same socket, and takes what is in its queue.
        seat.leave(&post);
        return Ok(());
    }
    let last_call = tokio::time::sleep(worker.shared.config.drain_timeout / 2);
    let mut last_call = std::pin::pin!(last_call);
    while drains && worker.open.get() > 0 {
        tokio::select! {
            biased;
            () = last_call.as_mut() => break,
            accepted = socket.accept() => {
                seat.accepted();
                take_accepted(&worker, listener, accepted).await;
            }
            () = tokio::time::sleep(LOOK_AGAIN) => {}
        }
    }
    seat.leave(&post);
    // Straight from the kernel: the reactor may not have heard of them yet.
    let socket = socket.into_std()?;
    while let Ok((stream, peer)) = socket.accept() {
        take_std(&worker, listener, stream, peer)?;
    }
    Ok(())
}

/// While draining, between two looks at whether all is done.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// A connection that was reset in the queue costs nothing; running out of descriptors or memory is waited out.
async fn accept_failed(error: &io::Error) {
    let transient = matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted
    );
    if !transient {
        tracing::error!(%error, "accepting connections fails; trying again in 50 ms");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn take_accepted(
    worker: &Rc<Worker>,
    listener: Listener,
    accepted: io::Result<(tokio::net::TcpStream, SocketAddr)>,
) {
    match accepted {
        Ok((stream, peer)) => take(worker, listener, stream, peer),
        Err(error) => accept_failed(&error).await,
    }
}

/// As it comes from the kernel.
fn take_std(
    worker: &Rc<Worker>,
    listener: Listener,
    stream: std::net::TcpStream,
    peer: SocketAddr,
) -> io::Result<()> {
    stream.set_nonblocking(true)?;
    take(worker, listener, tokio::net::TcpStream::from_std(stream)?, peer);
    Ok(())
}

fn take(worker: &Rc<Worker>, listener: Listener, stream: tokio::net::TcpStream, peer: SocketAddr) {
    // Without a word, as the kernel does it.
    if worker.bans.is_banned(peer.ip()) {
        return worker.shard.refused(metrics::Refusal::Banned);
    }
    match ConnectionSlot::take(worker, peer.ip().to_canonical()) {
        Ok(slot) => {
            let counted = worker.shard.connection(listener);
            let accepted = serve::Accepted {
                listener,
                stream,
                counted,
                slot,
            };
            spawn_local(serve::connection(Rc::clone(worker), accepted));
        }
        Err(refusal) => {
            worker.shard.refused(refusal);
            turn_away::turn_away(worker, listener, (stream, peer), refusal);
        }
    }
}
