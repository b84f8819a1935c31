//! Which backend of a route a request goes to: canaries first, then the weighted backends.

use std::sync::Arc;

use super::affinity::cookie;
use crate::fields::Fields;
use crate::reason::Reason;
use crate::resource::{CanaryHeader, CanaryHeaderValue, CanaryWhen};
use crate::snapshot::{Canary, Cluster, Route, Target, WeightedBackend};

/// The cluster of a request: a canary's, else a backend's. The error is the reason for the answer.
pub fn choose_cluster<'a>(
    route: &'a Route,
    headers: &Fields,
    random: u64,
) -> Result<&'a Arc<Cluster>, Reason> {
    let (canaries, backends) = match &route.target {
        Target::Fail(reason) => return Err(*reason),
        Target::Forward { canaries, backends } => (canaries, backends),
    };
    match choose_canary(canaries, headers, random) {
        Some(canary) => Ok(&canary.cluster),
        None => choose_backend(backends, random.rotate_left(32)).ok_or(Reason::RouteInvalid),
    }
}

/// The canary that takes a request: one that its header or cookie asks for, else one by weight.
///
/// Of several, the more senior one is asked first; weights add up.
pub fn choose_canary<'a>(canaries: &'a [Canary], headers: &Fields, random: u64) -> Option<&'a Canary> {
    if canaries.is_empty() {
        return None;
    }
    let said = |canary: &Canary| verdict(&canary.when, headers);
    let asked_for = canaries.iter().find(|canary| said(canary) == Verdict::Take);
    asked_for.or_else(|| {
        let open = canaries.iter().filter(|canary| said(canary) == Verdict::Open);
        by_share(open, random)
    })
}

/// A backend by weight; `None` when all weights are 0.
pub fn choose_backend(backends: &[WeightedBackend], random: u64) -> Option<&Arc<Cluster>> {
    if let [only] = backends {
        return (only.weight > 0).then_some(&only.cluster);
    }
    let total: u128 = backends.iter().map(|backend| u128::from(backend.weight)).sum();
    let at = (u128::from(random) * total) >> 64;
    let mut sum = 0;
    let chosen = backends.iter().find(|backend| {
        sum += u128::from(backend.weight);
        at < sum
    });
    chosen.map(|backend| &backend.cluster)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Take,
    Never,
    /// Neither header nor cookie says anything: the weight decides.
    Open,
}

fn verdict(when: &CanaryWhen, headers: &Fields) -> Verdict {
    let by_header = when
        .header
        .as_ref()
        .map_or(Verdict::Open, |header| header_verdict(header, headers));
    if by_header != Verdict::Open {
        return by_header;
    }
    let value = when.cookie.as_deref().and_then(|name| cookie(headers, name));
    value.map_or(Verdict::Open, always_never)
}

fn header_verdict(header: &CanaryHeader, headers: &Fields) -> Verdict {
    let Some(value) = headers.text(header.name.as_str()) else {
        return Verdict::Open;
    };
    let matches = match &header.value {
        CanaryHeaderValue::AlwaysNever => return always_never(value),
        CanaryHeaderValue::Exact(exact) => value == exact,
        CanaryHeaderValue::Pattern(pattern) => pattern.is_match(value),
    };
    if matches { Verdict::Take } else { Verdict::Open }
}

fn always_never(value: &str) -> Verdict {
    match value {
        "always" => Verdict::Take,
        "never" => Verdict::Never,
        _ => Verdict::Open,
    }
}

fn by_share<'a>(mut canaries: impl Iterator<Item = &'a Canary>, random: u64) -> Option<&'a Canary> {
    let mut sum = 0_u128;
    canaries.find(|canary| {
        let total = u128::from(canary.when.weight_total.max(1));
        sum += (u128::from(canary.when.weight) << 64) / total;
        u128::from(random) < sum
    })
}
