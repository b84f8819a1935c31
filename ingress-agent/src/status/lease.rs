//! Who writes: one agent holds a Lease (coordination.k8s.io/v1), and renews it. The decision is pure; the task beside it asks and writes.
//!
//! Clocks of nodes differ, so that nobody's `renewTime` is believed: a Lease is stale when it was seen unchanged for its whole duration
//! by our own clock (as client-go does).

use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

/// The Lease's name, in the agent's namespace.
pub(super) const NAME: &str = "ingress-agent-leader";
/// A holder that was silent for so long is taken for dead. 12 s, one look and one list later another writes: within 20 s.
const DURATION: Duration = Duration::from_secs(12);
const RENEW: Duration = Duration::from_secs(4);
/// A holder that could not renew for so long stops to write, before anybody else may begin.
const GIVE_UP: Duration = Duration::from_secs(8);
const ANSWER: Duration = Duration::from_secs(4);

/// What the Lease said, and since when it has said so.
#[derive(Debug)]
struct Observed {
    holder: String,
    renewed: Option<MicroTime>,
    at: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Act {
    Create,
    /// Write our name and the time: renewal, or take-over.
    Write,
    Wait,
}

fn decide(lease: Option<&Lease>, me: &str, observed: &mut Option<Observed>, now: Instant) -> Act {
    let Some(lease) = lease else {
        return Act::Create;
    };
    let spec = lease.spec.as_ref();
    let holder = spec
        .and_then(|spec| spec.holder_identity.clone())
        .unwrap_or_default();
    let renewed = spec.and_then(|spec| spec.renew_time.clone());
    if holder.is_empty() || holder == me {
        return Act::Write;
    }
    let is_news = observed
        .as_ref()
        .is_none_or(|seen| seen.holder != holder || seen.renewed != renewed);
    if is_news {
        *observed = Some(Observed {
            holder,
            renewed,
            at: now,
        });
    }
    let duration = spec
        .and_then(|spec| spec.lease_duration_seconds)
        .and_then(|seconds| u64::try_from(seconds).ok())
        .map_or(DURATION, Duration::from_secs)
        .min(DURATION * 10);
    match observed {
        Some(seen) if now.saturating_duration_since(seen.at) >= duration => Act::Write,
        _ => Act::Wait,
    }
}

/// Takes part in the election while `may_lead` says so; tells whether we lead.
pub(super) struct Election {
    api: Api<Lease>,
    me: String,
    observed: Option<Observed>,
    renewed: Option<Instant>,
    leads: watch::Sender<bool>,
}

impl Election {
    pub(super) fn new(client: Client, namespace: &str, me: String, leads: watch::Sender<bool>) -> Self {
        Self {
            api: Api::namespaced(client, namespace),
            me,
            observed: None,
            renewed: None,
            leads,
        }
    }

    pub(super) async fn run(mut self, mut may_lead: watch::Receiver<bool>) {
        let mut told = None;
        loop {
            if !*may_lead.borrow_and_update() {
                self.resign().await;
                if may_lead.changed().await.is_err() {
                    return;
                }
                continue;
            }
            let begun = Instant::now();
            let result = match timeout(ANSWER, self.step(begun)).await {
                Ok(result) => result,
                Err(_elapsed) => Err("no answer".to_owned()),
            };
            match result {
                Ok(true) => self.renewed = Some(begun),
                Ok(false) => self.renewed = None,
                Err(_) => {}
            }
            if let Err(problem) = result
                && told.as_ref() != Some(&problem)
            {
                tracing::warn!(
                    "the Lease {NAME} can't be read or written, so that this agent does not write status: {problem}"
                );
                told = Some(problem);
            }
            let leads = self.renewed.is_some_and(|renewed| renewed.elapsed() < GIVE_UP);
            let changed = self
                .leads
                .send_if_modified(|before| std::mem::replace(before, leads) != leads);
            if changed && leads {
                tracing::info!("this agent holds the Lease {NAME}: it writes status and Events");
            } else if changed {
                tracing::info!("this agent has lost the Lease {NAME}: another writes status and Events");
            }
            tokio::select! {
                () = sleep(RENEW.mul_f64(0.8 + 0.2 * fastrand::f64())) => {}
                changed = may_lead.changed() => if changed.is_err() { return },
            }
        }
    }

    /// Whether we hold the Lease now.
    async fn step(&mut self, now: Instant) -> Result<bool, String> {
        let lease = self.api.get_opt(NAME).await.map_err(in_words)?;
        let written = match decide(lease.as_ref(), &self.me, &mut self.observed, now) {
            Act::Wait => return Ok(false),
            Act::Create => {
                let lease = Lease {
                    metadata: ObjectMeta {
                        name: Some(NAME.to_owned()),
                        ..ObjectMeta::default()
                    },
                    spec: Some(self.spec(None)),
                };
                self.api.create(&PostParams::default(), &lease).await
            }
            Act::Write => {
                let mut lease = lease.unwrap_or_default();
                lease.spec = Some(self.spec(lease.spec.take()));
                // With the resource version that was read: who comes second gets 409.
                self.api.replace(NAME, &PostParams::default(), &lease).await
            }
        };
        match written {
            Ok(_) => Ok(true),
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
            Err(error) => Err(in_words(error)),
        }
    }

    fn spec(&self, before: Option<LeaseSpec>) -> LeaseSpec {
        let now = MicroTime(Timestamp::now());
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

    /// Gives the Lease back, so that another takes it at once.
    async fn resign(&mut self) {
        self.leads.send_replace(false);
        if self.renewed.take().is_none() {
            return;
        }
        let giving_back = async {
            let mut lease = self.api.get(NAME).await?;
            if let Some(spec) = &mut lease.spec
                && spec.holder_identity.as_deref() == Some(&self.me)
            {
                spec.holder_identity = Some(String::new());
                self.api.replace(NAME, &PostParams::default(), &lease).await?;
            }
            Ok::<_, kube::Error>(())
        };
        // Best effort: it runs out by itself.
        let _ = timeout(ANSWER, giving_back).await;
    }
}

fn in_words(error: kube::Error) -> String {
    match error {
        kube::Error::Api(status) if status.code == 403 => format!(
            "the agent's Role needs the verbs get, create and update on leases (apiGroups [\"coordination.k8s.io\"]): {}",
            status.message
        ),
        error => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(holder: &str, second: i64) -> Lease {
        Lease {
            metadata: ObjectMeta::default(),
            spec: Some(LeaseSpec {
                holder_identity: Some(holder.to_owned()),
                lease_duration_seconds: Some(12),
                renew_time: Some(MicroTime(Timestamp::from_second(second).unwrap())),
                ..LeaseSpec::default()
            }),
        }
    }

    #[test]
    fn a_lease_is_taken_when_nobody_has_it_and_kept_while_it_is_ours() {
        let (mut seen, now) = (None, Instant::now());
        assert_eq!(decide(None, "me", &mut seen, now), Act::Create);
        assert_eq!(decide(Some(&lease("", 1)), "me", &mut seen, now), Act::Write);
        assert_eq!(decide(Some(&lease("me", 1)), "me", &mut seen, now), Act::Write);
    }

    #[test]
    fn anothers_lease_is_taken_only_when_it_was_seen_unchanged_for_its_duration() {
        let (mut seen, start) = (None, Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        // Its own clock is years behind: that says nothing.
        assert_eq!(
            decide(Some(&lease("other", 1)), "me", &mut seen, at(0)),
            Act::Wait
        );
        assert_eq!(
            decide(Some(&lease("other", 1)), "me", &mut seen, at(11)),
            Act::Wait
        );
        assert_eq!(
            decide(Some(&lease("other", 2)), "me", &mut seen, at(12)),
            Act::Wait,
            "it was renewed"
        );
        assert_eq!(
            decide(Some(&lease("other", 2)), "me", &mut seen, at(23)),
            Act::Wait
        );
        assert_eq!(
            decide(Some(&lease("other", 2)), "me", &mut seen, at(24)),
            Act::Write
        );
    }
}
