//! Who writes: one agent holds a Lease (coordination.k8s.io/v1), and renews it. What to do is decided by pure [`rules`]; the task here asks
//! and writes.
//!
//! Clocks of nodes differ, so that nobody's `renewTime` is believed: a Lease is stale when it was seen unchanged for its whole duration
//! by our own clock (as client-go does).

mod rules;

use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use self::rules::{Act, Rules};

/// The Lease's name, in the agent's namespace.
pub(super) const NAME: &str = "ingress-agent-leader";
/// A holder that could not renew for so long stops to write, before anybody else may begin.
const GIVE_UP: Duration = Duration::from_secs(8);
const ANSWER: Duration = Duration::from_secs(4);
/// Writes of a look: with a seat, others write the Lease too.
const ATTEMPTS: u32 = 3;

/// Takes part in the election while `may_lead` says so; tells whether we lead.
pub(super) struct Election {
    api: Api<Lease>,
    rules: Rules,
    renewed: Option<Instant>,
    leads: watch::Sender<bool>,
}

impl Election {
    pub(super) fn new(client: Client, namespace: &str, me: String, leads: watch::Sender<bool>) -> Self {
        Self {
            api: Api::namespaced(client, namespace),
            rules: Rules::new(me),
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
                () = sleep(self.rules.pause(fastrand::f64())) => {}
                changed = may_lead.changed() => if changed.is_err() { return },
            }
        }
    }

    /// Whether we hold the Lease now.
    async fn step(&mut self, now: Instant) -> Result<bool, String> {
        let mut conflict = String::new();
        for _ in 0..ATTEMPTS {
            let lease = self.api.get_opt(NAME).await.map_err(in_words)?;
            let clock = Timestamp::now();
            let act = self.rules.decide(lease.as_ref(), now, clock);
            if act == Act::Wait {
                return Ok(false);
            }
            let mut lease = self.rules.written(act, lease, now, clock);
            lease.metadata.name = Some(NAME.to_owned());
            let params = PostParams::default();
            let written = match act {
                Act::Create => self.api.create(&params, &lease).await,
                // With the resource version that was read: who comes second gets 409.
                _ => self.api.replace(NAME, &params, &lease).await,
            };
            match written {
                Ok(_) => return Ok(act != Act::Sit),
                Err(kube::Error::Api(status)) if status.code == 409 => conflict = status.message.clone(),
                Err(error) => return Err(in_words(error)),
            }
            // Who wants a seat may have another one later; the holder wants its Lease now.
            if act == Act::Sit {
                self.rules.lost_seat();
                return Ok(false);
            }
        }
        Err(conflict)
    }

    /// Gives the Lease or the seat back, so that another takes it at once.
    async fn resign(&mut self) {
        self.leads.send_replace(false);
        if !self.rules.takes_part() {
            return;
        }
        self.renewed = None;
        let giving_back = async {
            for _ in 0..ATTEMPTS {
                let lease = self.api.get(NAME).await?;
                let Some(lease) = self.rules.given_back(lease) else {
                    return Ok(());
                };
                match self.api.replace(NAME, &PostParams::default(), &lease).await {
                    Err(kube::Error::Api(status)) if status.code == 409 => {}
                    result => return result.map(drop),
                }
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
