//! Who is slow: from what was measured of a route to the client's network, the proxy, the network to the pod, or the pod.
//!
//! Each party gets a share of a request's mean time, in whole; the one with most of it is named when it is worth naming. Means, and not
//! percentiles, because shares have to add up.

use std::fmt;
use std::time::Duration;

use ingress_common::account::{BUCKETS, bucket};
use serde::{Deserialize, Serialize};

/// Durations, counted by powers of two of microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Times {
    pub counts: [u64; BUCKETS],
    pub micros: u64,
}

impl Times {
    pub fn observe(&mut self, micros: u64) {
        if let Some(count) = self.counts.get_mut(bucket(micros)) {
            *count += 1;
        }
        self.micros = self.micros.saturating_add(micros);
    }

    pub fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.counts.iter_mut().zip(other.counts) {
            *mine += theirs;
        }
        self.micros = self.micros.saturating_add(other.micros);
    }

    pub fn since(&self, earlier: &Self) -> Self {
        let count = |n: usize| self.counts.get(n).copied().unwrap_or_default();
        let before = |n: usize| earlier.counts.get(n).copied().unwrap_or_default();
        Self {
            counts: std::array::from_fn(|n| count(n).saturating_sub(before(n))),
            micros: self.micros.saturating_sub(earlier.micros),
        }
    }

    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// `None` of nothing.
    pub fn mean(&self) -> Option<Duration> {
        self.micros.checked_div(self.count()).map(Duration::from_micros)
    }

    /// What 90 of 100 were below, as exact as the buckets are.
    pub fn most(&self) -> Option<Duration> {
        let enough = (self.count() * 9).div_ceil(10);
        let mut so_far = 0;
        let place = self.counts.iter().position(|count| {
            so_far += count;
            so_far > 0 && so_far >= enough
        })?;
        Some(Duration::from_micros(1 << place))
    }
}

/// One side's network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Network {
    /// Smoothed round trips.
    pub rtt: Times,
    pub segments: u64,
    pub retransmits: u64,
}

impl Network {
    /// Of segments that were sent; a few say nothing.
    fn loss(&self) -> f64 {
        match self.segments {
            0..SOME_SEGMENTS => 0.0,
            segments => ratio(self.retransmits, segments),
        }
    }

    /// What a request waits for it: one round trip, and, as often as one of its segments is lost, the time until that is sent again.
    fn wait(&self) -> Duration {
        let rtt = self.rtt.mean().unwrap_or_default();
        let hit = (self.loss() * SEGMENTS_A_REQUEST).min(1.0);
        rtt + (LEAST_RTO + rtt).mul_f64(hit)
    }
}

/// Below that, one retransmit would look like much loss.
const SOME_SEGMENTS: u64 = 20;
/// A response of ten segments is what an initial window carries (RFC 6928).
const SEGMENTS_A_REQUEST: f64 = 10.0;
/// Linux's least retransmission timeout (TCP_RTO_MIN).
const LEAST_RTO: Duration = Duration::from_millis(200);

/// What was measured of a route, of late.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Evidence {
    pub client: Network,
    pub backend: Network,
    /// New connections to endpoints, TLS included.
    pub connect: Times,
    /// From a connection that is there to the response's head; of requests without a long body, which a slow client could hold up.
    pub first_byte: Times,
    /// From a request's head to its response's, without what its endpoint took.
    pub own: Times,
    /// How late the workers come to what is ready for them.
    pub lag: Times,
    /// How long connections waited to be accepted.
    pub accept: Times,
}

/// Who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Slow {
    Client,
    Proxy,
    BackendNetwork,
    Pod,
    Nothing,
}

impl fmt::Display for Slow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Client => "the client's network",
            Self::Proxy => "the proxy",
            Self::BackendNetwork => "the network to the pod",
            Self::Pod => "the pod",
            Self::Nothing => "nothing stands out",
        })
    }
}

/// The verdict, with what every party takes of a mean request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    pub slow: Slow,
    pub client: Duration,
    pub proxy: Duration,
    pub backend_network: Duration,
    pub pod: Duration,
}

/// Less is not worth anybody's time.
const WORTH_NAMING: Duration = Duration::from_millis(20);
/// Fewer requests say nothing.
pub const ENOUGH_REQUESTS: u64 = 3;

/// Pure: the same evidence gives the same verdict.
pub fn verdict(evidence: &Evidence) -> Verdict {
    let backend_rtt = evidence.backend.rtt.mean().unwrap_or_default();
    let connected = share_of(&evidence.connect, evidence.first_byte.count());
    let backend_network = evidence.backend.wait() + connected;
    let first_byte = evidence.first_byte.mean().unwrap_or_default();
    // The answer's way is the network's; loss stands in it too, but is an estimate, and must not clear the pod.
    let pod = first_byte.saturating_sub(backend_rtt);
    let mean = |times: &Times| times.mean().unwrap_or_default();
    let shares = Verdict {
        slow: Slow::Nothing,
        client: evidence.client.wait(),
        // Each event that a request needs may come late: its own bytes, and the endpoint's.
        proxy: mean(&evidence.own) + 2 * mean(&evidence.lag) + mean(&evidence.accept),
        backend_network: backend_network.min(connected + first_byte.max(backend_rtt)),
        // With loss on the way to it, the waiting in its time is not the pod's.
        pod: pod.saturating_sub(backend_network.saturating_sub(backend_rtt + connected)),
    };
    Verdict {
        slow: culprit(&shares, evidence.own.count()),
        ..shares
    }
}

fn culprit(shares: &Verdict, requests: u64) -> Slow {
    let parties = [
        (shares.client, Slow::Client),
        (shares.proxy, Slow::Proxy),
        (shares.backend_network, Slow::BackendNetwork),
        (shares.pod, Slow::Pod),
    ];
    let total: Duration = parties.iter().map(|(time, _)| *time).sum();
    match parties.into_iter().max_by_key(|(time, _)| *time) {
        Some((most, slow))
            if requests >= ENOUGH_REQUESTS && most >= WORTH_NAMING && stands_out(most, total) =>
        {
            slow
        }
        _ => Slow::Nothing,
    }
}

/// A quarter more than all others together: of two that are slow nearly alike neither does.
fn stands_out(most: Duration, total: Duration) -> bool {
    most * 4 > (total - most) * 5
}

/// Of something that happens to some requests only: what it is to each.
fn share_of(times: &Times, requests: u64) -> Duration {
    Duration::from_micros(
        times
            .micros
            .checked_div(requests.max(times.count()))
            .unwrap_or_default(),
    )
}

fn ratio(part: u64, whole: u64) -> f64 {
    let small = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
    f64::from(small(part)) / f64::from(small(whole)).max(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn times(micros: u64, count: u64) -> Times {
        let mut times = Times::default();
        (0..count).for_each(|_| times.observe(micros));
        times
    }

    fn quick() -> Evidence {
        let network = Network {
            rtt: times(300, 20),
            segments: 200,
            retransmits: 0,
        };
        Evidence {
            client: network,
            backend: network,
            connect: times(500, 1),
            first_byte: times(2_000, 20),
            own: times(100, 20),
            lag: times(50, 20),
            accept: times(100, 20),
        }
    }

    #[test]
    fn each_party_is_named_when_it_is_the_slow_one() {
        assert_eq!(verdict(&quick()).slow, Slow::Nothing);
        let mut far = quick();
        far.client.rtt = times(150_000, 20);
        assert_eq!(verdict(&far).slow, Slow::Client);
        let mut lossy = quick();
        lossy.client.retransmits = 20;
        assert_eq!(verdict(&lossy).slow, Slow::Client);
        let mut pod = quick();
        pod.first_byte = times(200_000, 20);
        assert_eq!(verdict(&pod).slow, Slow::Pod);
        let mut far_pod = quick();
        far_pod.backend.rtt = times(100_000, 20);
        far_pod.first_byte = times(102_000, 20);
        assert_eq!(verdict(&far_pod).slow, Slow::BackendNetwork);
        let mut lossy_pod = quick();
        lossy_pod.backend.retransmits = 20;
        lossy_pod.first_byte = times(150_000, 20);
        assert_eq!(verdict(&lossy_pod).slow, Slow::BackendNetwork);
        for busy in [
            Evidence {
                own: times(80_000, 20),
                ..quick()
            },
            Evidence {
                lag: times(80_000, 20),
                ..quick()
            },
            Evidence {
                accept: times(80_000, 20),
                ..quick()
            },
        ] {
            assert_eq!(verdict(&busy).slow, Slow::Proxy);
        }
    }

    #[test]
    fn of_two_that_are_slow_alike_neither_is_blamed_and_a_few_requests_say_nothing() {
        let mut both = quick();
        both.client.rtt = times(100_000, 20);
        both.first_byte = times(99_000, 20);
        assert_eq!(verdict(&both).slow, Slow::Nothing);
        let mut once = quick();
        once.first_byte = times(900_000, 2);
        once.own = times(100, 2);
        assert_eq!(verdict(&once).slow, Slow::Nothing);
        assert_eq!(verdict(&Evidence::default()).slow, Slow::Nothing);
    }

    #[test]
    fn connections_that_are_kept_cost_their_requests_little() {
        let mut evidence = quick();
        evidence.connect = times(100_000, 1);
        evidence.first_byte = times(2_000, 100);
        assert!(verdict(&evidence).backend_network < Duration::from_millis(5));
        evidence.connect = times(100_000, 100);
        assert_eq!(verdict(&evidence).slow, Slow::BackendNetwork);
    }

    #[test]
    fn most_is_the_bound_of_nine_in_ten() {
        let mut mixed = times(1_000, 9);
        assert_eq!(mixed.most(), Some(Duration::from_micros(1024)));
        mixed.merge(&times(1_000_000, 9));
        assert_eq!(mixed.most(), Some(Duration::from_micros(1 << 20)));
        assert_eq!(Times::default().most(), None);
        assert_eq!(mixed.since(&times(1_000, 9)).mean(), Some(Duration::from_secs(1)));
    }

    proptest! {
        #[test]
        fn whatever_was_measured_gives_a_verdict_and_shares_that_are_finite(
            rtt: u32, first in 0u64..u64::MAX / 4, own: u64, segments: u64, retransmits: u64, count in 0u64..5,
        ) {
            let network = Network { rtt: times(rtt.into(), count), segments, retransmits };
            let evidence = Evidence {
                client: network,
                backend: network,
                connect: times(own, count),
                first_byte: times(first, count),
                own: times(own / 4, count),
                lag: times(first / 4, count),
                accept: Times::default(),
            };
            let verdict = verdict(&evidence);
            prop_assert!(verdict.client < Duration::from_secs(1 << 20));
        }
    }
}
