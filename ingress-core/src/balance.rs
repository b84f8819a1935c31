//! Choosing an endpoint, and what is learnt about each.
//!
//! Time and randomness are arguments. What is learnt is kept in relaxed atomics: a request never waits for another one, and
//! a lost update costs a little precision at most.

mod budget;
mod hash;
mod health;
mod latency;
mod learned;
mod near;
mod pick;
mod registry;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use arc_swap::ArcSwapOption;

use crate::reason::Reason;
use crate::resource::{Balance, Endpoint};

pub use budget::RetryBudget;
pub use hash::hash_bytes;
pub use registry::EndpointRegistry;

use hash::Table;
use health::Health;
use latency::Latency;
use registry::Membership;

/// The endpoints of a cluster with what is known of each, ready to pick from.
#[derive(Debug, Default)]
pub struct EndpointSet {
    /// Those that take requests: the ready ones or, when nothing is ready, the draining ones. Sorted by nearness, then by address.
    active: Box<[Arc<LiveEndpoint>]>,
    /// Where in `active` each nearness ends, the nearest first; empty when all are alike.
    tiers: Box<[usize]>,
    /// The others, for the eyes of an operator.
    passive: Box<[Arc<LiveEndpoint>]>,
    /// Why nothing can be picked when `active` is empty.
    empty: Option<Reason>,
    /// Where round robin stands.
    turn: AtomicUsize,
    /// Indices into `active` by affinity id, sorted.
    by_id: Box<[(u64, usize)]>,
    /// For consistent hashing over many endpoints.
    table: Option<Table>,
    /// Holds what was learnt of every endpoint of the set, also of those that are not ready.
    _members: Box<[Arc<Membership>]>,
}

/// One endpoint and what has been learnt about it.
#[derive(Debug)]
pub struct LiveEndpoint {
    pub endpoint: Endpoint,
    id: u64,
    learned: Arc<Learned>,
}

/// What is known of one endpoint, whoever uses it.
#[derive(Debug)]
struct Learned {
    load: learned::Load,
    latency: Latency,
    health: Arc<Health>,
    /// The endpoints that it shares the load with now, itself included: they decide whether it may be ejected. Not part of
    /// [`LiveEndpoint`], so that a long request does not hold the peers of its day.
    peers: ArcSwapOption<Peers>,
}

type Peers = Box<[Arc<Health>]>;

/// What the picker may look at besides the endpoints.
#[derive(Clone, Copy, Debug)]
pub struct PickRequest<'a> {
    pub balance: Balance,
    /// Hash of what the balance hashes by (source address or URI): [`hash_bytes`].
    pub hash: u64,
    /// The affinity cookie's value, when the request has one.
    pub sticky: Option<&'a str>,
    /// Endpoints that this request already failed on.
    pub tried: &'a [SocketAddr],
    /// Time since the process started.
    pub now: Duration,
}

/// Why there is nothing to pick.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NothingToPick(pub Reason);

/// How an attempt on an endpoint ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attempt {
    /// An answer, and how long its head took.
    Answered {
        status: u16,
        latency: Duration,
    },
    Failed,
    /// Says nothing about the endpoint (the client left).
    Abandoned,
}

impl EndpointSet {
    /// The endpoints that take requests.
    pub fn active(&self) -> &[Arc<LiveEndpoint>] {
        &self.active
    }

    /// The endpoints that take none for now: not ready, or draining while others are ready.
    pub fn passive(&self) -> &[Arc<LiveEndpoint>] {
        &self.passive
    }

    /// Why nothing can be picked, if nothing can.
    pub fn why_empty(&self) -> Option<Reason> {
        let reason = self.empty.unwrap_or(Reason::NoEndpoints);
        self.active.is_empty().then_some(reason)
    }

    /// The endpoint that an affinity cookie remembers, if it takes requests.
    pub fn by_sticky_id(&self, id: &str) -> Option<&Arc<LiveEndpoint>> {
        let id = hash::parse_id(id)?;
        let at = self.by_id.binary_search_by_key(&id, |(id, _)| *id).ok()?;
        let (_, index) = self.by_id.get(at)?;
        self.active.get(*index)
    }
}

#[cfg(test)]
mod tests;
