//! What to do about the Lease: a pure decision for each look at it.
//!
//! Beside the holder two agents have a *seat*, written into an annotation of the Lease: they look as often as the holder renews, and take
//! over. All others look every few minutes, so that thousands of agents cost the API server next to nothing; a seat whose agent has gone is taken
//! away by the holder, and by the next one that looks it is taken.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use tokio::time::Instant;

/// A holder that was silent for so long is taken for dead. 12 s, one look and one list later another writes: within 20 s.
const DURATION: Duration = Duration::from_secs(12);
pub(super) const RENEW: Duration = Duration::from_secs(4);
/// Who has a seat: `NAME@SECONDS`, separated by commas. The seconds only have to change.
const SEATS_ANNOTATION: &str = "ingress-agent.io/standing";
const SEATS: usize = 2;
/// Between two signs of life of one that has a seat.
const SIGN: Duration = Duration::from_secs(60);
/// A seat without a sign for so long is free.
const SEAT_LASTS: Duration = Duration::from_secs(180);
/// Between two looks of one without a seat: at first, and in the end; with half of it by chance.
const FIRST_PAUSE: Duration = Duration::from_secs(7);
const LONGEST_PAUSE: Duration = Duration::from_secs(600);
/// No answer is no reason to look more seldom than this: there may be nobody else.
const UNANSWERED_PAUSE: Duration = Duration::from_secs(60);
/// A renewal that is so old by our own clock is worth a second look. It proves nothing: clocks differ.
const SUSPICIOUS: Duration = Duration::from_secs(30);

/// What the Lease said, and since when it has said so.
#[derive(Debug)]
struct Observed {
    holder: String,
    renewed: Option<MicroTime>,
    at: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Act {
    Create,
    /// Write our name and the time: renewal, or take-over.
    Hold,
    /// Take a seat, or give a sign of life.
    Sit,
    Wait,
}

/// What this agent is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Holder,
    Seated,
    Bystander,
}

#[derive(Debug)]
pub(super) struct Rules {
    me: String,
    role: Role,
    observed: Option<Observed>,
    /// The signs of others that have a seat, and since when we have known them.
    signs: BTreeMap<String, (String, Instant)>,
    signed: Option<Instant>,
    /// Of one without a seat.
    pause: Duration,
    /// There was an answer since the last pause.
    has_looked: bool,
    /// The last renewal looked old.
    suspects: bool,
    /// It has looked old and was none: our clock or the holder's is wrong.
    distrusts_clocks: bool,
}

impl Rules {
    pub(super) fn new(me: String) -> Self {
        Self {
            me,
            role: Role::Bystander,
            observed: None,
            signs: BTreeMap::new(),
            signed: None,
            pause: FIRST_PAUSE,
            has_looked: false,
            suspects: false,
            distrusts_clocks: false,
        }
    }

    /// `clock` is the time of day, which may be wrong.
    pub(super) fn decide(&mut self, lease: Option<&Lease>, now: Instant, clock: Timestamp) -> Act {
        self.has_looked = true;
        let Some(lease) = lease else {
            self.role = Role::Holder;
            return Act::Create;
        };
        let seats = seats(lease);
        self.note_signs(&seats, now);
        if self.is_free(lease, now, clock) {
            self.role = Role::Holder;
            return Act::Hold;
        }
        let seated = seats.iter().take(SEATS).any(|(name, _)| *name == self.me);
        let has_signed = self.signed.is_some_and(|signed| now < signed + SIGN);
        self.role = match seated || seats.len() < SEATS {
            true => Role::Seated,
            false => Role::Bystander,
        };
        match (self.role, seated && has_signed) {
            (Role::Seated, false) => Act::Sit,
            _ => Act::Wait,
        }
    }

    /// Nobody holds it, or we do, or who does was not seen to renew for its whole duration.
    fn is_free(&mut self, lease: &Lease, now: Instant, clock: Timestamp) -> bool {
        let spec = lease.spec.as_ref();
        let holder = spec
            .and_then(|spec| spec.holder_identity.clone())
            .unwrap_or_default();
        let renewed = spec.and_then(|spec| spec.renew_time.clone());
        if holder.is_empty() || holder == self.me {
            return true;
        }
        let looks_old = renewed
            .as_ref()
            .is_some_and(|time| clock.duration_since(time.0).as_secs() >= as_seconds(SUSPICIOUS));
        let is_news = self
            .observed
            .as_ref()
            .is_none_or(|seen| seen.holder != holder || seen.renewed != renewed);
        if is_news {
            self.distrusts_clocks |= self.suspects && looks_old;
            self.observed = Some(Observed {
                holder,
                renewed,
                at: now,
            });
        }
        self.suspects = looks_old;
        let duration = spec
            .and_then(|spec| spec.lease_duration_seconds)
            .and_then(|seconds| u64::try_from(seconds).ok())
            .map_or(DURATION, Duration::from_secs)
            .min(DURATION * 10);
        let seen = self.observed.as_ref();
        seen.is_some_and(|seen| now.saturating_duration_since(seen.at) >= duration)
    }

    fn note_signs(&mut self, seats: &[(String, String)], now: Instant) {
        self.signs
            .retain(|name, _| seats.iter().any(|(seat, _)| seat == name));
        for (name, sign) in seats {
            match self.signs.get(name) {
                Some((known, _)) if known == sign => {}
                _ => drop(self.signs.insert(name.clone(), (sign.clone(), now))),
            }
        }
    }

    /// The Lease as it is to be written.
    pub(super) fn written(
        &mut self,
        act: Act,
        lease: Option<Lease>,
        now: Instant,
        clock: Timestamp,
    ) -> Lease {
        let mut lease = lease.unwrap_or_default();
        let mut seats = seats(&lease);
        seats.retain(|(name, _)| *name != self.me);
        match act {
            Act::Sit => {
                seats.push((self.me.clone(), clock.as_second().to_string()));
                self.signed = Some(now);
            }
            _ => {
                seats.retain(|(name, _)| {
                    let known = self.signs.get(name);
                    known.is_none_or(|(_, since)| now.saturating_duration_since(*since) < SEAT_LASTS)
                });
                seats.truncate(SEATS);
                lease.spec = Some(self.held(lease.spec.take(), clock));
            }
        }
        write_seats(&mut lease, &seats);
        lease
    }

    fn held(&self, before: Option<LeaseSpec>, clock: Timestamp) -> LeaseSpec {
        let now = MicroTime(clock);
        let before = before.unwrap_or_default();
        let same = before.holder_identity.as_deref() == Some(&self.me);
        let transitions = before.lease_transitions.unwrap_or(0);
        LeaseSpec {
            holder_identity: Some(self.me.clone()),
            lease_duration_seconds: i32::try_from(DURATION.as_secs()).ok(),
            acquire_time: before.acquire_time.filter(|_| same).or_else(|| Some(now.clone())),
            renew_time: Some(now),
            lease_transitions: Some(if same {
                transitions
            } else {
                transitions.saturating_add(1)
            }),
            ..before
        }
    }

    /// The Lease without us, if it has us.
    pub(super) fn given_back(&mut self, mut lease: Lease) -> Option<Lease> {
        self.signed = None;
        let holds = |spec: &LeaseSpec| spec.holder_identity.as_deref() == Some(&self.me);
        let mut seats = seats(&lease);
        let is_there =
            lease.spec.as_ref().is_some_and(holds) || seats.iter().any(|(name, _)| *name == self.me);
        if let Some(spec) = lease.spec.as_mut().filter(|spec| holds(spec)) {
            spec.holder_identity = Some(String::new());
        }
        seats.retain(|(name, _)| *name != self.me);
        write_seats(&mut lease, &seats);
        is_there.then_some(lease)
    }

    /// Somebody else was quicker.
    pub(super) fn lost_seat(&mut self) {
        self.role = Role::Bystander;
        self.signed = None;
    }

    /// There is something to give back.
    pub(super) fn takes_part(&self) -> bool {
        self.role != Role::Bystander
    }

    /// Until the next look; `random` is from 0 to 1.
    pub(super) fn pause(&mut self, random: f64) -> Duration {
        if self.role != Role::Bystander {
            self.pause = FIRST_PAUSE;
            return RENEW.mul_f64(0.8 + 0.2 * random);
        }
        if self.suspects && !self.distrusts_clocks {
            // Long enough to be sure then.
            return DURATION + RENEW.mul_f64(random);
        }
        let pause = self.pause.mul_f64(0.5 + 0.5 * random);
        let longest = match std::mem::take(&mut self.has_looked) {
            true => LONGEST_PAUSE,
            false => UNANSWERED_PAUSE,
        };
        self.pause = self.pause.max((self.pause * 2).min(longest));
        pause
    }
}

fn as_seconds(time: Duration) -> i64 {
    i64::try_from(time.as_secs()).unwrap_or(i64::MAX)
}

/// A bounded number, whatever the annotation holds.
fn seats(lease: &Lease) -> Vec<(String, String)> {
    let annotations = lease.metadata.annotations.as_ref();
    let text = annotations.and_then(|all| all.get(SEATS_ANNOTATION));
    let entries = text.into_iter().flat_map(|text| text.split(','));
    entries
        .filter_map(|entry| entry.rsplit_once('@'))
        .take(SEATS * 4)
        .map(|(name, sign)| (name.to_owned(), sign.to_owned()))
        .collect()
}

fn write_seats(lease: &mut Lease, seats: &[(String, String)]) {
    let texts: Vec<_> = seats
        .iter()
        .map(|(name, sign)| format!("{name}@{sign}"))
        .collect();
    let annotations = lease.metadata.annotations.get_or_insert_default();
    annotations.insert(SEATS_ANNOTATION.to_owned(), texts.join(","));
}

#[cfg(test)]
mod tests;
