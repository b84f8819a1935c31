//! Near endpoints first, spilling over by load.
//!
//! An endpoint is overloaded when it has several requests in flight *and* one more would cost it far more (latency times requests in
//! flight) than it would cost one farther away. So an idle or lightly used Service never leaves its zone, and as long as latencies are alike an
//! endpoint farther away gets at most a sixteenth of a near one's load; one that has become slow is relieved sooner.

use std::sync::Arc;

use super::hash::mix;
use super::pick::happens;
use super::{EndpointSet, LiveEndpoint, PickRequest};

/// With fewer requests of this agent in flight, nothing is overloaded.
const BUSY: u32 = 4;
/// How many times as much as farther away one more request may cost.
const SPILL: f64 = 16.0;

impl EndpointSet {
    /// What `choose` takes of the nearest endpoints, or of farther ones where those have none that is fit, or are overloaded.
    pub(super) fn nearest<'a>(
        &'a self,
        request: &PickRequest<'_>,
        random: u64,
        choose: impl Fn(&'a [Arc<LiveEndpoint>]) -> Option<&'a Arc<LiveEndpoint>>,
    ) -> Option<&'a Arc<LiveEndpoint>> {
        if self.tiers.is_empty() {
            return choose(&self.active);
        }
        let mut nearest: Option<&Arc<LiveEndpoint>> = None;
        let mut start = 0;
        for end in &self.tiers {
            let tier = self.active.get(start..*end).unwrap_or_default();
            start = *end;
            let Some(candidate) = choose(tier) else {
                continue;
            };
            if let Some(near) = nearest
                && !gives_way(near, candidate, request, random)
            {
                return Some(near);
            }
            nearest = Some(candidate);
            if candidate.in_flight() < BUSY && candidate.share(request.now) >= 1.0 {
                break;
            }
        }
        nearest
    }
}

fn gives_way(near: &LiveEndpoint, far: &LiveEndpoint, request: &PickRequest<'_>, random: u64) -> bool {
    let share = near.share(request.now);
    // One that starts slowly can't be fast yet, however near it is.
    let stands_back = share < far.share(request.now) && !happens(share, mix(random ^ 0x6a09_e667));
    stands_back || (near.in_flight() >= BUSY && near.lasting_cost(far) > SPILL * far.lasting_cost(near))
}
