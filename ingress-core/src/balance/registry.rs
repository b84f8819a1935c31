//! What is learnt of endpoints, by identity; outlives snapshots and endpoint lists.

use std::net::SocketAddr;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Weak};
use std::time::Duration;

use super::hash::Table;
use super::learned::micros;
use super::{EndpointSet, Learned, LiveEndpoint, Peers};
use crate::fast_map::FastMap;
use crate::reason::Reason;
use crate::resource::Nearness;
use crate::resource::{Balance, ClusterKey, Endpoint, EndpointCondition, EndpointList, Protocol};

/// What is learnt of endpoints, by identity; outlives snapshots. Owned by the publisher.
#[derive(Debug, Default)]
pub struct EndpointRegistry {
    known: FastMap<(Protocol, SocketAddr), Weak<Membership>>,
    /// Entries after the last sweep: the next one comes when there are twice as many.
    swept: usize,
}

/// An endpoint's place in a set. Sets alone hold it, requests in flight do not: an endpoint is known as long as some set has
/// it, and starts anew when it returns after having left all.
#[derive(Debug)]
pub(super) struct Membership(Arc<Learned>);

/// A request in flight may still hold what was learnt, but shares the load with nobody any more.
impl Drop for Membership {
    fn drop(&mut self) {
        self.0.peers.store(None);
    }
}

impl EndpointRegistry {
    /// Makes the set of a cluster; endpoints known from before keep what was learnt.
    ///
    /// The set before must be alive until this returns, as it is while the cluster holds it.
    pub fn build(&mut self, key: &ClusterKey, list: &EndpointList, now: Duration) -> EndpointSet {
        self.sweep();
        let members: Vec<_> = list
            .endpoints
            .iter()
            .map(|e| self.member(key.protocol, e))
            .collect();
        note_readiness(list, &members, now);
        let mut all: Vec<_> = list.endpoints.iter().zip(members.iter().map(|m| &m.0)).collect();
        let wanted = match list.endpoints.iter().any(|e| e.state == EndpointCondition::Ready) {
            true => EndpointCondition::Ready,
            false => EndpointCondition::Draining,
        };
        // A hashed key belongs to the same endpoint wherever it is asked from: nearness has no say there.
        let hashes = matches!(key.balance, Balance::HashSource | Balance::HashUri);
        let nearness = |endpoint: &Endpoint| {
            if hashes {
                Nearness::Anywhere
            } else {
                endpoint.nearness
            }
        };
        all.sort_by_key(|(endpoint, _)| (endpoint.state != wanted, nearness(endpoint), endpoint.address));
        let split = all.partition_point(|(endpoint, _)| endpoint.state == wanted);
        let (active, passive) = all.split_at(split);
        introduce(active);
        let tiers = tiers(active.iter().map(|(endpoint, _)| nearness(endpoint)));
        let active = live(active);
        EndpointSet {
            empty: active.is_empty().then(|| why_empty(list)),
            // Not 0: with frequent changes, the first endpoints would get more than the others.
            turn: AtomicUsize::new(usize::try_from(micros(now)).unwrap_or_default()),
            by_id: index_by_id(&active),
            table: table(key.balance, &active),
            active,
            tiers,
            passive: live(passive),
            _members: members.into_boxed_slice(),
        }
    }

    /// How many endpoints are remembered, those included that left since the last sweep.
    pub fn len(&self) -> usize {
        self.known.len()
    }

    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    fn member(&mut self, protocol: Protocol, endpoint: &Endpoint) -> Arc<Membership> {
        let known = self.known.entry((protocol, endpoint.address)).or_default();
        known.upgrade().unwrap_or_else(|| {
            let member = Arc::new(Membership(Arc::new(Learned::new())));
            *known = Arc::downgrade(&member);
            member
        })
    }

    /// Forgets endpoints that are in no set any more: a constant price an entry over time.
    fn sweep(&mut self) {
        const SMALL: usize = 64;
        if self.known.len() > self.swept.saturating_mul(2).max(SMALL) {
            self.known.retain(|_, member| member.strong_count() > 0);
            self.known.shrink_to(self.known.len().saturating_mul(2));
            self.swept = self.known.len();
        }
    }
}

/// An endpoint starts slowly when it becomes ready among others that were ready before.
fn note_readiness(list: &EndpointList, members: &[Arc<Membership>], now: Duration) {
    let others = members.iter().any(|member| member.0.load.is_ready());
    for (endpoint, member) in list.endpoints.iter().zip(members) {
        let load = &member.0.load;
        match endpoint.state {
            EndpointCondition::NotReady => load.set_not_ready(),
            _ if !load.is_ready() => load.set_ready(now, others),
            _ => {}
        }
    }
}

/// The endpoints that take requests know each other.
fn introduce(active: &[(&Endpoint, &Arc<Learned>)]) {
    let peers: Peers = active
        .iter()
        .map(|(_, learned)| Arc::clone(&learned.health))
        .collect();
    let peers = Arc::new(peers);
    for (_, learned) in active {
        learned.peers.store(Some(Arc::clone(&peers)));
    }
}

fn live(endpoints: &[(&Endpoint, &Arc<Learned>)]) -> Box<[Arc<LiveEndpoint>]> {
    let one = |(endpoint, learned): &(&Endpoint, &Arc<Learned>)| {
        Arc::new(LiveEndpoint::new((*endpoint).clone(), Arc::clone(learned)))
    };
    endpoints.iter().map(one).collect()
}

/// Where each run of the same nearness ends, if there are several.
fn tiers(sorted: impl Iterator<Item = Nearness>) -> Box<[usize]> {
    let all: Vec<_> = sorted.collect();
    let runs = all.chunk_by(|a, b| a == b).map(<[_]>::len);
    let ends: Vec<_> = runs
        .scan(0, |end, len| {
            *end += len;
            Some(*end)
        })
        .collect();
    match ends.len() {
        0 | 1 => Box::default(),
        _ => ends.into(),
    }
}

fn why_empty(list: &EndpointList) -> Reason {
    match list.endpoints.is_empty() {
        true => list.missing.unwrap_or(Reason::NoEndpoints),
        false => Reason::EndpointsNotReady,
    }
}

fn index_by_id(active: &[Arc<LiveEndpoint>]) -> Box<[(u64, usize)]> {
    let mut index: Vec<_> = active.iter().enumerate().map(|(at, e)| (e.id(), at)).collect();
    index.sort_unstable();
    index.into_boxed_slice()
}

fn table(balance: Balance, active: &[Arc<LiveEndpoint>]) -> Option<Table> {
    match balance {
        Balance::HashSource | Balance::HashUri => {
            let ids: Vec<_> = active.iter().map(|endpoint| endpoint.id()).collect();
            Table::new(&ids)
        }
        Balance::P2cPeakEwma | Balance::RoundRobin => None,
    }
}
