//! What the agents write back: the addresses in the status of our Ingresses, and Events, by the one agent that holds the Lease.
//!
//! Runs on a thread of its own and sees what was published. Planning is pure ([`plan`]); here it is carried out, at a bounded rate, and
//! only what differs is written.

mod addresses;
mod events;
mod lease;
mod plan;

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use ingress_core::diagnostic::Diagnostic;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::api::networking::v1::{Ingress, IngressClass, IngressLoadBalancerIngress};
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, interval, sleep_until};

use self::events::Ledger;
use self::lease::Election;
use self::plan::{FIELD_MANAGER, Fights, Seen};
use crate::config::{Address, Cluster, PublishFrom};
use crate::objects::{Key, Objects, Set};
use crate::source::kube::connect;
use crate::translate;

/// What is in force on this node.
#[derive(Clone, Debug, Default)]
pub struct View {
    pub objects: Objects,
    pub diagnostics: Arc<[Diagnostic]>,
}

#[derive(Debug)]
pub struct Setup {
    pub cluster: Cluster,
    pub options: translate::Options,
}

/// Ends the writer when stopped or dropped.
#[derive(Debug)]
pub struct Handle {
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

impl Handle {
    /// Gives the Lease back and waits for the thread.
    pub fn stop(mut self) {
        self.stop.send_replace(true);
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

/// After a publication, before an address is written: the other nodes see the change as we do, a moment sooner or later, and whoever reads
/// an address asks at once.
const SETTLE: Duration = Duration::from_millis(400);
/// All statuses are read again: somebody may have written one.
const LOOK_AGAIN: Duration = Duration::from_secs(300);
/// Ingresses of one answer when all statuses are read.
const PAGE: u32 = 500;
/// After a failure.
const AGAIN: Duration = Duration::from_secs(5);
/// 10,000 Ingresses settle within a minute: at most 333 a second, sixteen under way.
const GAP: Duration = Duration::from_millis(3);
const AT_ONCE: usize = 16;

/// Starts the writer.
///
/// # Errors
/// When the thread can't be started, or nothing usable says how to reach the cluster.
pub fn start(setup: Setup, views: watch::Receiver<View>) -> io::Result<Handle> {
    if setup.cluster.publish.from == PublishFrom::Nothing {
        tracing::info!(
            "the status of Ingresses is not written: none of --publish-address, --publish-service and --agent-service is set"
        );
    }
    let (runtime, config, client) = connect::open(&setup.cluster)?;
    let namespace = setup
        .cluster
        .pod_namespace
        .clone()
        .unwrap_or(config.default_namespace);
    let (stop, stopped) = watch::channel(false);
    let thread = std::thread::Builder::new().name("status".into()).spawn(move || {
        let (leads, leading) = watch::channel(false);
        let (may_lead, standing) = watch::channel(false);
        let me = identity(&setup.cluster);
        let election = Election::new(client.clone(), &namespace, me.clone(), leads);
        let writer = Writer {
            client,
            setup,
            me,
            views,
            leading,
            may_lead,
            seen: None,
            written: BTreeMap::new(),
            fights: Fights::default(),
            settled: None,
            ledger: Ledger::new(std::time::Instant::now()),
            told: None,
            events_refused: false,
        };
        runtime.block_on(async {
            let election = tokio::spawn(election.run(standing));
            writer.run(stopped).await;
            // The writer's end closes the election's channel: it resigns first.
            let _ = tokio::time::timeout(Duration::from_secs(3), election).await;
        });
        runtime.shutdown_background();
    })?;
    Ok(Handle {
        stop,
        thread: Some(thread),
    })
}

/// The pod's name, which nobody else has; else something by chance.
fn identity(cluster: &Cluster) -> String {
    match (&cluster.pod_name, &cluster.node_name) {
        (Some(pod), _) => pod.clone(),
        (None, Some(node)) => format!("{node}-{:08x}", fastrand::u32(..)),
        (None, None) => format!("ingress-agent-{:08x}", fastrand::u32(..)),
    }
}

/// What was last written out in full: as long as it is the same, there is nothing to do.
struct Settled {
    ingresses: Set<Ingress>,
    classes: Set<IngressClass>,
    addresses: Vec<Address>,
}

struct Writer {
    client: Client,
    setup: Setup,
    me: String,
    views: watch::Receiver<View>,
    leading: watch::Receiver<bool>,
    may_lead: watch::Sender<bool>,
    /// All Ingresses' statuses, while we lead.
    seen: Option<BTreeMap<Key, Seen>>,
    /// What we wrote ourselves since we lead.
    written: BTreeMap<Key, Vec<Address>>,
    fights: Fights,
    settled: Option<Settled>,
    ledger: Ledger,
    /// The last problem, which is said once.
    told: Option<String>,
    /// The same for Events.
    events_refused: bool,
}

impl Writer {
    async fn run(mut self, mut stopped: watch::Receiver<bool>) {
        let mut due: Option<Instant> = None;
        let mut look_again = Instant::now();
        self.stand();
        loop {
            let wait = async {
                match due {
                    Some(due) => sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                _ = stopped.changed() => break,
                changed = self.views.changed() => {
                    if changed.is_err() {
                        break;
                    }
                    self.stand();
                    let soon = Instant::now() + SETTLE;
                    due = Some(due.map_or(soon, |due| due.min(soon)));
                }
                changed = self.leading.changed() => {
                    if changed.is_err() {
                        break;
                    }
                    self.seen = None;
                    self.settled = None;
                    self.written.clear();
                    due = Some(Instant::now());
                }
                () = wait => {
                    due = None;
                    if !*self.leading.borrow() {
                        continue;
                    }
                    if look_again <= Instant::now() {
                        self.seen = None;
                        look_again = Instant::now() + LOOK_AGAIN;
                    }
                    let (work, has_more) = tokio::select! {
                        result = async { (self.settle().await, self.tell_authors().await) } => result,
                        _ = stopped.changed() => break,
                    };
                    let soon = work.is_err() || has_more;
                    due = Some(Instant::now() + if soon { AGAIN } else { LOOK_AGAIN });
                    self.tell(work);
                }
            }
        }
        self.may_lead.send_replace(false);
    }

    /// Says whether this agent should stand for election.
    fn stand(&self) {
        let may_lead = match &self.setup.cluster.publish.agent_service {
            Some(service) => {
                let agents = plan::agents(&self.views.borrow().objects, &addresses::key(service));
                plan::may_lead(&agents, self.setup.cluster.node_name.as_deref())
            }
            None => true,
        };
        self.may_lead
            .send_if_modified(|before| std::mem::replace(before, may_lead) != may_lead);
    }

    fn tell(&mut self, work: Result<(), String>) {
        match work {
            Ok(()) => {
                if self.told.take().is_some() {
                    tracing::info!("the status of Ingresses is written again");
                }
            }
            Err(problem) => {
                if self.told.as_ref() != Some(&problem) {
                    tracing::warn!("the status of Ingresses can't be written: {problem}");
                    self.told = Some(problem);
                }
            }
        }
    }

    /// Brings every status to where it should be.
    async fn settle(&mut self) -> Result<(), String> {
        if self.setup.cluster.publish.from == PublishFrom::Nothing {
            return Ok(());
        }
        let view = self.views.borrow_and_update().clone();
        let addresses = addresses::find(&self.client, &self.setup.cluster.publish, &view.objects).await?;
        let is_settled = |settled: &Settled| {
            settled.ingresses.is_same(&view.objects.ingresses)
                && settled.classes.is_same(&view.objects.ingress_classes)
                && settled.addresses == addresses
        };
        if self.seen.is_some() && self.settled.as_ref().is_some_and(is_settled) {
            return Ok(());
        }
        self.settled = None;
        let uid = |ingress: &Ingress| ingress.metadata.uid.clone().unwrap_or_default();
        let owned: BTreeMap<Key, String> = translate::owned(&view.objects, &self.setup.options)
            .map(|(key, ingress)| (key.clone(), uid(ingress)))
            .collect();
        if self.seen.is_none() {
            self.look().await?;
        }
        let Some(seen) = &mut self.seen else {
            return Ok(());
        };
        let patches = plan::plan(seen, &owned, &addresses, &self.fights, std::time::Instant::now());
        let mut under_way = JoinSet::new();
        let mut failed = None;
        // What a slow answer took is made up for.
        let mut pace = interval(GAP);
        for patch in patches {
            if !*self.leading.borrow() {
                break;
            }
            if under_way.len() >= AT_ONCE
                && let Some(done) = under_way.join_next().await
            {
                take_in(done, seen, &mut self.written, &mut failed);
            }
            under_way.spawn(write(self.client.clone(), patch));
            pace.tick().await;
        }
        while let Some(done) = under_way.join_next().await {
            take_in(done, seen, &mut self.written, &mut failed);
        }
        if let Some(problem) = failed {
            return Err(problem);
        }
        self.settled = Some(Settled {
            ingresses: view.objects.ingresses,
            classes: view.objects.ingress_classes,
            addresses,
        });
        Ok(())
    }

    /// Writes Events for what authors of objects can fix; true when more wait for the budget.
    async fn tell_authors(&mut self) -> bool {
        let view = self.views.borrow().clone();
        let now = std::time::Instant::now();
        for diagnostic in self.ledger.due(&view.diagnostics, &view.objects, now) {
            let (namespace, event) = events::event(&diagnostic, &view.objects, &self.me);
            let api: Api<Event> = Api::namespaced(self.client.clone(), &namespace);
            // One that is lost is told in the log, metrics and diagnostics all the same.
            let result = api.create(&PostParams::default(), &event).await;
            let refused = result.as_ref().err().map(|error| match error {
                kube::Error::Api(status) => format!("{} ({})", status.message, status.code),
                other => other.to_string(),
            });
            if let Some(why) = &refused
                && !self.events_refused
            {
                tracing::warn!(
                    "Events on objects can't be written (apiGroups [\"events.k8s.io\"], verb create): {why}"
                );
            }
            self.events_refused = refused.is_some();
        }
        self.ledger.has_more(&view.diagnostics, &view.objects)
    }

    /// Reads all statuses; notes where somebody wrote over ours.
    async fn look(&mut self) -> Result<(), String> {
        let namespaces = &self.setup.cluster.namespaces;
        let apis: Vec<Api<Ingress>> = if namespaces.is_empty() {
            vec![Api::all(self.client.clone())]
        } else {
            let within = |namespace: &String| Api::namespaced(self.client.clone(), namespace);
            namespaces.iter().map(within).collect()
        };
        let mut seen = BTreeMap::new();
        for api in apis {
            // The newest, not what the server's cache has: one that lags would show our own writes as another's, or not at all.
            let mut page = ListParams::default().limit(PAGE);
            loop {
                let list = api.list(&page).await.map_err(in_words)?;
                seen.extend(list.items.iter().map(|ingress| {
                    let metadata = &ingress.metadata;
                    let key = Key::new(
                        metadata.namespace.clone().unwrap_or_default(),
                        metadata.name.clone().unwrap_or_default(),
                    );
                    (key, Seen::of(ingress))
                }));
                match list.metadata.continue_.filter(|token| !token.is_empty()) {
                    Some(token) => page = page.continue_token(&token),
                    None => break,
                }
            }
        }
        let now = std::time::Instant::now();
        for (key, ours) in &self.written {
            let Some(theirs) = seen.get(key).filter(|seen| seen.addresses != *ours) else {
                continue;
            };
            if self.fights.lost(key, now) {
                tracing::warn!(
                    ingress = format!("{}/{}", key.namespace, key.name),
                    theirs = ?theirs.addresses,
                    "somebody else keeps writing this Ingress's status; it is left to him for an hour"
                );
            }
        }
        self.seen = Some(seen);
        Ok(())
    }
}

type Written = (plan::Patch, Result<(), String>);

async fn write(client: Client, patch: plan::Patch) -> Written {
    let api: Api<Ingress> = Api::namespaced(client, &patch.key.namespace);
    let entries: Vec<IngressLoadBalancerIngress> = patch.addresses.iter().map(Into::into).collect();
    let body = serde_json::json!({"status": {"loadBalancer": {"ingress": entries}}});
    let params = PatchParams {
        field_manager: Some(FIELD_MANAGER.to_owned()),
        ..PatchParams::default()
    };
    let result = api
        .patch_status(&patch.key.name, &params, &Patch::Merge(&body))
        .await;
    let result = match result {
        Ok(_) => Ok(()),
        // It was deleted meanwhile.
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        Err(error) => Err(in_words(error)),
    };
    (patch, result)
}

fn take_in(
    done: Result<Written, tokio::task::JoinError>,
    seen: &mut BTreeMap<Key, Seen>,
    written: &mut BTreeMap<Key, Vec<Address>>,
    failed: &mut Option<String>,
) {
    match done {
        Ok((patch, Ok(()))) => {
            let known = Seen {
                uid: patch.uid,
                addresses: patch.addresses.clone(),
                ours: true,
            };
            seen.insert(patch.key.clone(), known);
            if patch.addresses.is_empty() {
                written.remove(&patch.key);
            } else {
                written.insert(patch.key, patch.addresses);
            }
        }
        Ok((_, Err(problem))) => *failed = Some(problem),
        Err(error) => *failed = Some(error.to_string()),
    }
}

fn in_words(error: kube::Error) -> String {
    match error {
        kube::Error::Api(status) => format!("{} ({})", status.message, status.code),
        kube::Error::SerdeError(_) => "the API server's answer can't be read".to_owned(),
        error => error.to_string(),
    }
}
