//! One choice.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::hash::{affinity, mix, scale};
use super::{EndpointSet, LiveEndpoint, NothingToPick, PickRequest};
use crate::reason::Reason;
use crate::resource::Balance;

impl EndpointSet {
    /// Chooses an endpoint for a request.
    ///
    /// Those tried before are skipped while another one is left, and so are ejected ones. The affinity cookie goes before
    /// the balance.
    pub fn pick(&self, request: &PickRequest<'_>, random: u64) -> Result<&Arc<LiveEndpoint>, NothingToPick> {
        if let Some(reason) = self.why_empty() {
            return Err(NothingToPick(reason));
        }
        let remembered = request.sticky.and_then(|id| self.by_sticky_id(id));
        remembered
            .filter(|endpoint| is_fit(endpoint, request))
            .or_else(|| self.balance(request, random))
            .ok_or(NothingToPick(Reason::NoEndpoints))
    }

    fn balance(&self, request: &PickRequest<'_>, random: u64) -> Option<&Arc<LiveEndpoint>> {
        match request.balance {
            Balance::P2cPeakEwma => self.better_of_two(request, random),
            Balance::RoundRobin => self.next_in_turn(request),
            Balance::HashSource | Balance::HashUri => self.by_hash(request),
        }
    }

    /// Power of two choices.
    fn better_of_two(&self, request: &PickRequest<'_>, random: u64) -> Option<&Arc<LiveEndpoint>> {
        self.nearest(request, random, |tier| fit_of_two(tier, request, random))
            .or_else(|| {
                let candidates = Candidates::new(&self.active, request);
                candidates.better_of_two(random)
            })
    }

    fn next_in_turn(&self, request: &PickRequest<'_>) -> Option<&Arc<LiveEndpoint>> {
        let turn = self.turn.fetch_add(1, Relaxed);
        let random = mix(u64::try_from(turn).unwrap_or_default());
        self.nearest(request, random, |tier| fit_from(tier, turn, request))
            .or_else(|| {
                let candidates = Candidates::new(&self.active, request);
                candidates.nth(turn.checked_rem(candidates.count())?)
            })
    }

    /// Consistent: the table's or else the endpoint that the key belongs to most; the next one when that is out.
    fn by_hash(&self, request: &PickRequest<'_>) -> Option<&Arc<LiveEndpoint>> {
        let of_table = self
            .table
            .as_ref()
            .and_then(|table| self.active.get(table.get(request.hash)?));
        of_table.filter(|endpoint| is_fit(endpoint, request)).or_else(|| {
            let candidates = Candidates::new(&self.active, request);
            candidates
                .iter()
                .max_by_key(|endpoint| affinity(request.hash, endpoint.id()))
        })
    }
}

/// The better one of two, if any is fit.
fn fit_of_two<'a>(
    endpoints: &'a [Arc<LiveEndpoint>],
    request: &PickRequest<'_>,
    random: u64,
) -> Option<&'a Arc<LiveEndpoint>> {
    let (a, b) = two_of(endpoints.len(), random);
    let (a, b) = (endpoints.get(a)?, endpoints.get(b)?);
    if is_fit(a, request) && is_fit(b, request) {
        return Some(rather(a, b, request, mix(random)));
    }
    let lenience = Lenience::Fit;
    let candidates = Candidates {
        endpoints,
        request,
        lenience,
    };
    candidates.better_of_two(random)
}

/// The first fit one from a place on.
fn fit_from<'a>(
    endpoints: &'a [Arc<LiveEndpoint>],
    turn: usize,
    request: &PickRequest<'_>,
) -> Option<&'a Arc<LiveEndpoint>> {
    let at = turn.checked_rem(endpoints.len())?;
    let (before, after) = endpoints.split_at_checked(at)?;
    let mut in_turn = after.iter().chain(before);
    in_turn.find(|endpoint| is_fit(endpoint, request))
}

/// Neither tried before nor ejected.
fn is_fit(endpoint: &LiveEndpoint, request: &PickRequest<'_>) -> bool {
    !request.tried.contains(&endpoint.endpoint.address) && !endpoint.is_ejected(request.now)
}

/// What is left to choose from when the first choice was not fit.
struct Candidates<'a, 'r> {
    endpoints: &'a [Arc<LiveEndpoint>],
    request: &'r PickRequest<'r>,
    lenience: Lenience,
}

#[derive(Clone, Copy)]
enum Lenience {
    Fit,
    /// Nothing is fit: an ejected endpoint is better than one that just failed.
    Untried,
    Any,
}

impl<'a, 'r> Candidates<'a, 'r> {
    fn new(endpoints: &'a [Arc<LiveEndpoint>], request: &'r PickRequest<'r>) -> Self {
        let with = |lenience| Self {
            endpoints,
            request,
            lenience,
        };
        let mut strict = [with(Lenience::Fit), with(Lenience::Untried)].into_iter();
        strict
            .find(|candidates| candidates.iter().next().is_some())
            .unwrap_or(with(Lenience::Any))
    }

    fn iter(&self) -> impl Iterator<Item = &'a Arc<LiveEndpoint>> + use<'a, 'r> {
        let (request, lenience) = (self.request, self.lenience);
        self.endpoints.iter().filter(move |endpoint| match lenience {
            Lenience::Fit => is_fit(endpoint, request),
            Lenience::Untried => !request.tried.contains(&endpoint.endpoint.address),
            Lenience::Any => true,
        })
    }

    fn better_of_two(&self, random: u64) -> Option<&'a Arc<LiveEndpoint>> {
        let (first, second) = two_of(self.count(), random);
        let (a, b) = (self.nth(first)?, self.nth(second)?);
        Some(rather(a, b, self.request, mix(random)))
    }

    fn count(&self) -> usize {
        self.iter().count()
    }

    fn nth(&self, index: usize) -> Option<&'a Arc<LiveEndpoint>> {
        self.iter().nth(index)
    }
}

/// Two different indices below `count`, or the only one twice.
fn two_of(count: usize, random: u64) -> (usize, usize) {
    let first = scale(random, count);
    if count < 2 {
        return (first, first);
    }
    let second = scale(mix(random ^ 0x5bd1_e995), count - 1);
    (first, if second >= first { second + 1 } else { second })
}

fn rather<'a>(
    a: &'a Arc<LiveEndpoint>,
    b: &'a Arc<LiveEndpoint>,
    request: &PickRequest<'_>,
    random: u64,
) -> &'a Arc<LiveEndpoint> {
    if Arc::ptr_eq(a, b) {
        return a;
    }
    let now = request.now;
    let (share_a, share_b) = (a.share(now), b.share(now));
    // One that starts slowly stands back for the other one most of the time at first, whatever it costs.
    if share_a < share_b && !happens(share_a, random) {
        return b;
    }
    if share_b < share_a && !happens(share_b, random) {
        return a;
    }
    // One without measurements counts as fast as the other: a fair trial.
    let unknown = a.measured(now).or(b.measured(now)).unwrap_or(1.0);
    let (cost_a, cost_b) = (a.cost(now, unknown), b.cost(now, unknown));
    match happens(share_of_first(cost_a, cost_b), random) {
        true => a,
        false => b,
    }
}

/// How often the first of two is taken: by the square of what it saves.
///
/// Always taking the cheaper one would starve its twin for seconds after a single slow answer when requests come one by one,
/// and nothing new would be learnt of it.
fn share_of_first(cost_a: f64, cost_b: f64) -> f64 {
    let (a, b) = (cost_a * cost_a, cost_b * cost_b);
    b / (a + b)
}

/// Whether an event of this probability happens in this throw.
pub(super) fn happens(probability: f64, random: u64) -> bool {
    let throw = u32::try_from(random >> 32).unwrap_or(u32::MAX);
    f64::from(throw) < probability * f64::from(u32::MAX)
}
