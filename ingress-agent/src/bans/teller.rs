//! A worker's side of penalties: asks whether a source is banned, and tells what happened. Never waits.

use std::cell::RefCell;
use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ingress_core::penalty::{Offence, Source};
use ingress_core::reason::Reason;

use super::{Event, Penalties};
use crate::telemetry::record::RequestRecord;

/// One worker's.
pub(crate) struct Teller {
    penalties: Arc<Penalties>,
    /// Anything is counted at all.
    counts: bool,
    /// Who was told to be good since then: once in a while is enough.
    good: RefCell<(Instant, HashSet<Source>)>,
}

/// Far below any sensible window.
const AGAIN: Duration = Duration::from_secs(1);
const MOST_REMEMBERED: usize = 4096;

impl Teller {
    pub(crate) fn new(penalties: Arc<Penalties>) -> Self {
        Self {
            counts: penalties.rules.limits.is_on(),
            penalties,
            good: RefCell::new((Instant::now(), HashSet::new())),
        }
    }

    /// Asked of every connection: next to nothing while nobody is banned.
    pub(crate) fn is_banned(&self, peer: IpAddr) -> bool {
        let bans = self.penalties.in_force.load();
        !bans.is_empty() && bans.is_banned(Source::of(peer), self.penalties.now())
    }

    pub(crate) fn handshake_failed(&self, peer: IpAddr) {
        self.offence(peer, Offence::Handshake);
    }

    /// By the peer, which is what packets have: behind a trusted proxy nobody is banned.
    pub(crate) fn finished(&self, record: &RequestRecord<'_>) {
        if !self.counts {
            return;
        }
        let peer = record.peer.ip();
        // A 5xx is ours or the backend's fault, whatever was asked for.
        if (400..500).contains(&record.status) && self.is_scan(record.target) {
            self.offence(peer, Offence::Scan);
        } else if record.reason == Some(Reason::HostUnknown) {
            self.offence(peer, Offence::Unmatched);
        } else if record.route.is_some() && record.reason.is_none() && (200..400).contains(&record.status) {
            self.good(peer);
        }
    }

    fn is_scan(&self, target: &[u8]) -> bool {
        let mut paths = self.penalties.rules.scan_paths.iter();
        paths.any(|path| target.starts_with(path.as_bytes()))
    }

    fn offence(&self, peer: IpAddr, offence: Offence) {
        self.tell(Event::Offence(Source::of(peer), offence));
    }

    fn good(&self, peer: IpAddr) {
        let source = Source::of(peer);
        let mut good = self.good.borrow_mut();
        let (since, told) = &mut *good;
        if since.elapsed() >= AGAIN || told.len() >= MOST_REMEMBERED {
            *since = Instant::now();
            told.clear();
        }
        // What found no room is told again by its next request: a flood of offences must not hide who is good.
        if !told.contains(&source) && self.tell(Event::Good(source)) {
            told.insert(source);
        }
    }

    /// Whether it found room.
    fn tell(&self, event: Event) -> bool {
        self.counts && self.penalties.events.try_send(event).is_ok()
    }
}
