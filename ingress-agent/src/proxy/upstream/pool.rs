//! Connections that wait for their next request, and the count of all that are open.
//!
//! Last in, first out, so that a quiet time lets the surplus run out. A sweep closes what is over its time, and ends itself when nothing is left.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::hash::BuildHasher;
use std::net::SocketAddr;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use ingress_core::resource::Protocol;
use tokio::sync::Notify;

use super::connection::{Connection, ConnectionKey};
use super::http2::shared::SharedConnection;
use super::open::OpenGuard;
use crate::error::ProxyError;
use crate::proxy::moment;

/// Buffers kept for the next exchange, of each kind.
const SPARE_BUFFERS: usize = 32;
const SWEEP: Duration = Duration::from_secs(1);
/// An HTTP/2 connection can be kept longer: GOAWAY tells which requests were not looked at.
const IDLE_HTTP2: Duration = Duration::from_secs(60);

/// The process-wide cap on idle connections, by endpoint and in all. Shared by the workers; relaxed atomics, no lock.
///
/// Endpoints are counted in a fixed table by hash: two that fall together share one cap, which is harmless and needs no memory for endpoints that went away.
pub struct IdleBudget {
    per_endpoint: u32,
    total: u32,
    all: AtomicU32,
    slots: Box<[AtomicU32]>,
    hasher: foldhash::fast::FixedState,
}

impl IdleBudget {
    const SLOTS: usize = 1 << 14;

    pub fn new(per_endpoint: u32, total: u32) -> Self {
        Self {
            per_endpoint,
            total,
            all: AtomicU32::new(0),
            slots: (0..Self::SLOTS).map(|_| AtomicU32::new(0)).collect(),
            hasher: foldhash::fast::FixedState::default(),
        }
    }

    /// Idle connections of all workers.
    pub fn idle(&self) -> u32 {
        self.all.load(Ordering::Relaxed)
    }

    /// Where an endpoint is counted.
    fn place(&self, address: &SocketAddr) -> usize {
        let hash = self.hasher.hash_one(address);
        usize::try_from(hash % self.slots.len() as u64).unwrap_or_default()
    }

    fn take(&self, place: usize) -> bool {
        let Some(slot) = self.slots.get(place) else {
            return false;
        };
        if slot.fetch_add(1, Ordering::Relaxed) >= self.per_endpoint {
            slot.fetch_sub(1, Ordering::Relaxed);
            return false;
        }
        if self.all.fetch_add(1, Ordering::Relaxed) >= self.total {
            self.all.fetch_sub(1, Ordering::Relaxed);
            slot.fetch_sub(1, Ordering::Relaxed);
            return false;
        }
        true
    }

    fn give(&self, place: usize) {
        if let Some(slot) = self.slots.get(place) {
            slot.fetch_sub(1, Ordering::Relaxed);
            self.all.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// For tests; what is in force comes from `--upstream-max-idle` and `--max-connections`.
#[cfg(test)]
impl Default for IdleBudget {
    fn default() -> Self {
        Self::new(320, 1 << 14)
    }
}

/// One worker's view of its backend connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolStats {
    /// Open and unused.
    pub idle: usize,
    /// Open in all, tunnels included.
    pub open: usize,
    /// Opened since the start.
    pub created: u64,
    /// Requests that found a kept connection.
    pub reused: u64,
}

pub(super) struct Pool {
    /// The pool is its own weak friend: the sweep must not keep it alive.
    this: Weak<Pool>,
    budget: Arc<IdleBudget>,
    idle_timeout: Duration,
    endpoints: RefCell<HashMap<SocketAddr, Endpoint, foldhash::fast::RandomState>>,
    connecting: RefCell<Vec<Rc<Connecting>>>,
    open: Rc<Cell<usize>>,
    created: Cell<u64>,
    reused: Cell<u64>,
    sweeping: Cell<bool>,
    read_buffers: RefCell<Vec<BytesMut>>,
    head_buffers: RefCell<Vec<Vec<u8>>>,
}

struct Endpoint {
    /// In the budget.
    place: usize,
    idle: Vec<Idle>,
    shared: Vec<Rc<SharedConnection>>,
}

/// A shared connection in the making.
pub(super) struct Connecting {
    key: ConnectionKey,
    error: Cell<Option<ProxyError>>,
    end: Notify,
}

impl Connecting {
    /// Until there is a connection, or the attempt was given up, or it failed: then it failed for everyone who waited.
    pub(super) async fn ended(&self) -> Result<(), ProxyError> {
        self.end.notified().await;
        let error = self.error.take();
        self.error.set(error.clone());
        error.map_or(Ok(()), Err)
    }
}

/// Held while connecting; its end wakes those who wait.
pub(super) struct ConnectTurn<'a> {
    pool: &'a Pool,
    connecting: Rc<Connecting>,
}

impl ConnectTurn<'_> {
    pub(super) fn failed(self, error: ProxyError) {
        self.connecting.error.set(Some(error));
    }
}

impl Drop for ConnectTurn<'_> {
    fn drop(&mut self) {
        let mut all = self.pool.connecting.borrow_mut();
        all.retain(|one| !Rc::ptr_eq(one, &self.connecting));
        self.connecting.end.notify_waiters();
    }
}

struct Idle {
    connection: Connection,
    until: Instant,
}

impl Pool {
    pub(super) fn new(budget: Arc<IdleBudget>, idle_timeout: Duration) -> Rc<Self> {
        Rc::new_cyclic(|this| Self {
            this: this.clone(),
            budget,
            idle_timeout,
            endpoints: RefCell::default(),
            connecting: RefCell::default(),
            open: Rc::default(),
            created: Cell::new(0),
            reused: Cell::new(0),
            sweeping: Cell::new(false),
            read_buffers: RefCell::default(),
            head_buffers: RefCell::default(),
        })
    }

    /// A kept connection that is still good, the latest first.
    pub(super) fn take(
        &self,
        address: &SocketAddr,
        protocol: Protocol,
        server_name: Option<&str>,
        now: Instant,
    ) -> Option<Connection> {
        let mut endpoints = self.endpoints.borrow_mut();
        let Endpoint {
            idle, place: budget, ..
        } = endpoints.get_mut(address)?;
        loop {
            let place = idle
                .iter()
                .rposition(|idle| idle.connection.key.is(protocol, server_name))?;
            let mut found = idle.remove(place);
            self.budget.give(*budget);
            if found.until > now && found.connection.transport.is_quiet() {
                self.count_reuse();
                return Some(found.connection);
            }
        }
    }

    /// Keeps a connection whose last exchange ended cleanly; over the budget it is closed.
    pub(super) fn put(&self, connection: Connection, backend_limit: Option<Duration>) {
        if let Some(line) = &connection.line {
            line.used(connection.transport.socket());
        }
        let Some(until) = self.idle_end(backend_limit) else {
            return;
        };
        let address = connection.key.address;
        if connection.single_use {
            return;
        }
        self.at_endpoint(address, |endpoint| {
            if self.budget.take(endpoint.place) {
                endpoint.idle.push(Idle { connection, until });
            }
        });
    }

    /// One second before the backend's own limit, so that it does not close while we send.
    fn idle_end(&self, backend_limit: Option<Duration>) -> Option<Instant> {
        let limit = match backend_limit {
            Some(limit) => limit.checked_sub(Duration::from_secs(1))?.min(self.idle_timeout),
            None => self.idle_timeout,
        };
        (!limit.is_zero())
            .then(|| moment::now().into_std().checked_add(limit))
            .flatten()
    }

    /// An HTTP/2 connection that takes one more stream.
    pub(super) fn shared(
        &self,
        address: &SocketAddr,
        protocol: Protocol,
        server_name: Option<&str>,
        limit: usize,
    ) -> Option<Rc<SharedConnection>> {
        let mut endpoints = self.endpoints.borrow_mut();
        let shared = &mut endpoints.get_mut(address)?.shared;
        shared.retain(|connection| !connection.is_closed());
        shared
            .iter()
            .find(|connection| connection.key.is(protocol, server_name) && connection.has_room(limit))
            .cloned()
    }

    pub(super) fn share(&self, connection: Rc<SharedConnection>) {
        self.at_endpoint(connection.key.address, |endpoint| {
            endpoint.shared.push(connection)
        });
    }

    /// Adds to what is kept for an endpoint.
    fn at_endpoint(&self, address: SocketAddr, add: impl FnOnce(&mut Endpoint)) {
        let mut endpoints = self.endpoints.borrow_mut();
        let endpoint = endpoints.entry(address).or_insert_with(|| Endpoint {
            place: self.budget.place(&address),
            idle: Vec::new(),
            shared: Vec::new(),
        });
        add(endpoint);
        drop(endpoints);
        self.start_sweep();
    }

    /// Someone who is making such a connection right now.
    pub(super) fn connecting(
        &self,
        address: &SocketAddr,
        protocol: Protocol,
        server_name: Option<&str>,
    ) -> Option<Rc<Connecting>> {
        let connecting = self.connecting.borrow();
        connecting
            .iter()
            .find(|one| one.key.address == *address && one.key.is(protocol, server_name))
            .cloned()
    }

    pub(super) fn begin_connecting(&self, key: ConnectionKey) -> ConnectTurn<'_> {
        let connecting = Rc::new(Connecting {
            key,
            error: Cell::new(None),
            end: Notify::new(),
        });
        self.connecting.borrow_mut().push(Rc::clone(&connecting));
        ConnectTurn {
            pool: self,
            connecting,
        }
    }

    pub(super) fn opened(&self) -> OpenGuard {
        self.created.set(self.created.get() + 1);
        OpenGuard::new(Rc::clone(&self.open))
    }

    pub(super) fn count_reuse(&self) {
        self.reused.set(self.reused.get() + 1);
    }

    pub(super) fn close_idle(&self, keep: &dyn Fn(&SocketAddr) -> bool) {
        self.endpoints.borrow_mut().retain(|address, endpoint| {
            let keep = keep(address);
            if !keep {
                endpoint
                    .idle
                    .iter()
                    .for_each(|_| self.budget.give(endpoint.place));
            }
            keep
        });
    }

    pub(super) fn stats(&self) -> PoolStats {
        let endpoints = self.endpoints.borrow();
        let idle = endpoints
            .values()
            .map(|endpoint| {
                endpoint.idle.len() + endpoint.shared.iter().filter(|shared| shared.is_idle()).count()
            })
            .sum();
        PoolStats {
            idle,
            open: self.open.get(),
            created: self.created.get(),
            reused: self.reused.get(),
        }
    }

    pub(super) fn read_buffer(&self) -> BytesMut {
        self.read_buffers.borrow_mut().pop().unwrap_or_default()
    }

    pub(super) fn keep_read_buffer(&self, buffer: BytesMut) {
        let mut buffers = self.read_buffers.borrow_mut();
        if buffer.is_empty() && buffers.len() < SPARE_BUFFERS {
            buffers.push(buffer);
        }
    }

    pub(super) fn head_buffer(&self) -> Vec<u8> {
        self.head_buffers.borrow_mut().pop().unwrap_or_default()
    }

    pub(super) fn keep_head_buffer(&self, mut buffer: Vec<u8>) {
        let mut buffers = self.head_buffers.borrow_mut();
        if buffer.capacity() <= 16 * 1024 && buffers.len() < SPARE_BUFFERS {
            buffer.clear();
            buffers.push(buffer);
        }
    }

    fn start_sweep(&self) {
        if self.sweeping.replace(true) {
            return;
        }
        let pool = self.this.clone();
        tokio::task::spawn_local(async move {
            let mut ticks = tokio::time::interval_at(tokio::time::Instant::now() + SWEEP, SWEEP);
            ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                match pool.upgrade() {
                    Some(pool) if pool.sweep(Instant::now()) => {}
                    _ => return,
                }
            }
        });
    }

    /// Closes what is over its time or was closed by the backend; whether anything is left.
    fn sweep(&self, now: Instant) -> bool {
        let mut endpoints = self.endpoints.borrow_mut();
        endpoints.retain(|_, endpoint| {
            let place = endpoint.place;
            endpoint.idle.retain_mut(|idle| {
                let keep = idle.until > now && idle.connection.transport.is_quiet();
                if !keep {
                    self.budget.give(place);
                }
                keep
            });
            endpoint
                .shared
                .retain(|shared| !shared.is_closed() && !shared.idle_for(now, IDLE_HTTP2));
            !endpoint.idle.is_empty() || !endpoint.shared.is_empty()
        });
        let left = !endpoints.is_empty();
        if !left {
            endpoints.shrink_to_fit();
            self.read_buffers.take();
            self.head_buffers.take();
        }
        self.sweeping.set(left);
        left
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        for endpoint in self.endpoints.get_mut().values() {
            endpoint
                .idle
                .iter()
                .for_each(|_| self.budget.give(endpoint.place));
        }
    }
}
