//! A cluster, watched through its API server: yields the same states as the folder.
//!
//! Runs on a thread of its own. The first state is handed on when every watch has its whole list; from then on a watch that is down keeps
//! what it knew, and its next list is swapped in at once. Knows nothing of what objects mean, but which Secrets and ConfigMaps they name.

pub(crate) mod connect;
pub mod counts;
mod failure;
mod health;
mod pace;
pub mod resource;
mod retry;
mod singles;
mod state;
mod store;
mod trim;
mod watch;

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{Namespace, Node, Secret, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::{Ingress, IngressClass};
use kube::{Api, Client, Config};
use tokio::sync::{mpsc, oneshot};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::sleep;

use self::counts::SourceCounts;
use self::health::Health;
use self::pace::Pace;
use self::resource::{Resource, Scope};
use self::singles::Singles;
use self::state::Shelf;
use self::store::{Store, Touched};
use self::trim::Kept;
use self::watch::{Feed, FeedId, News};
use crate::config::{Cluster, SecretAccess};
use crate::objects::{Objects, SourceState};
use crate::translate;

/// What is watched, and for whom.
#[derive(Debug)]
pub struct Setup {
    pub cluster: Cluster,
    /// Which Ingresses are ours: only what they name is asked for.
    pub options: translate::Options,
    pub counts: Arc<SourceCounts>,
}

/// Ends the source when stopped or dropped.
#[derive(Debug)]
pub struct Handle {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Handle {
    /// Ends the watches and waits for the thread.
    pub fn stop(mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

/// News that may wait to be applied; more hold the watches back.
const BACKLOG: usize = 1024;
/// Watches that share a connection: API servers allow 100 streams, and single objects come on top.
const WATCHES_PER_CONNECTION: usize = 40;
/// At most, with a list of namespaces.
const WATCHES_PER_NAMESPACE: usize = 5;

/// How long the API server may take for the first state before the one on the node is used.
const PATIENCE: Duration = Duration::from_secs(5);
/// From a change to its being saved: seldom, as disks wear out, and nobody needs the last minute.
const FIRST_SAVE: Duration = Duration::from_secs(5);
const SAVE: Duration = Duration::from_secs(60);

async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment.into()).await,
        None => std::future::pending().await,
    }
}

/// Counts for [`Setup`].
pub fn counts() -> Arc<SourceCounts> {
    Arc::new(SourceCounts::new())
}

/// Starts to watch. `tell` is called, on the source's thread, with each state; it ends when that answers false.
///
/// # Errors
/// When the thread can't be started, or nothing usable says how to reach the cluster.
pub fn start(setup: Setup, tell: impl FnMut(SourceState) -> bool + Send + 'static) -> io::Result<Handle> {
    // Tried here so that what can never work is said at the start.
    let (runtime, config, client) = connect::open(&setup.cluster)?;
    let (stop, stopped) = oneshot::channel();
    let thread = std::thread::Builder::new().name("source".into()).spawn(move || {
        let work = Work::new(setup, config, client, Box::new(tell));
        runtime.block_on(async {
            tokio::select! {
                () = work.run() => {}
                // Also when the handle is dropped.
                _ = stopped => {}
            }
        });
        runtime.shutdown_background();
    })?;
    Ok(Handle {
        stop: Some(stop),
        thread: Some(thread),
    })
}

struct Work {
    setup: Setup,
    config: Config,
    /// For single objects; the last of those for whole kinds.
    client: Client,
    tell: Box<dyn FnMut(SourceState) -> bool + Send>,
    tasks: JoinSet<()>,
    next_id: FeedId,
    news: mpsc::Sender<(FeedId, News)>,
    inbox: mpsc::Receiver<(FeedId, News)>,
    store: Store,
    singles: Singles,
    health: Health,
    pace: Pace,
    /// As last handed on.
    told: Option<Objects>,
    shelf: Option<Shelf>,
    /// When the state is to be saved next.
    save: Option<Instant>,
}

impl Work {
    fn new(
        setup: Setup,
        config: Config,
        client: Client,
        tell: Box<dyn FnMut(SourceState) -> bool + Send>,
    ) -> Self {
        let (news, inbox) = mpsc::channel(BACKLOG);
        let health = Health::new(Arc::clone(&setup.counts));
        let secrets = setup.cluster.state_secrets_dir.clone();
        let dir = setup.cluster.state_dir.clone();
        Self {
            shelf: dir.map(|dir| Shelf::new(dir, secrets)),
            save: None,
            setup,
            config,
            client,
            tell,
            tasks: JoinSet::new(),
            next_id: 0,
            news,
            inbox,
            store: Store::default(),
            singles: Singles::default(),
            health,
            pace: Pace::default(),
            told: None,
        }
    }

    async fn run(mut self) {
        tracing::info!(server = %self.config.cluster_url, "reading objects from the cluster");
        if let Err(problem) = self.watch_kinds() {
            tracing::error!("{problem}");
            return;
        }
        let patience = sleep(PATIENCE);
        tokio::pin!(patience);
        let mut is_patient = self.shelf.is_some();
        loop {
            let due = self.pace.due();
            let save = self.save;
            // Also while news come without a pause.
            if due.is_some_and(|due| due <= Instant::now()) && !self.hand_on() {
                return;
            }
            tokio::select! {
                // News first: what has come already belongs into the next state.
                biased;
                Some((id, news)) = self.inbox.recv() => self.learn(id, news),
                () = until(due) => if !self.hand_on() { return },
                () = &mut patience, if is_patient => {
                    is_patient = false;
                    if self.told.is_none() && !self.serve_from_shelf() {
                        return;
                    }
                }
                () = until(save) => self.save(),
                () = self.health.remind() => {}
            }
        }
    }

    fn learn(&mut self, id: FeedId, news: News) {
        let Some(scope) = self.store.scope(id) else {
            return;
        };
        match &news {
            News::Failed(failure) => self.health.failed(id, scope, failure),
            _ => self.health.well(id),
        }
        let touched = self.store.apply(id, news);
        if self.told.is_none() {
            self.say_what_is_missing();
        }
        self.pace.note(touched, Instant::now());
    }

    /// False when nobody listens any more.
    fn hand_on(&mut self) -> bool {
        let touched = self.pace.take(Instant::now());
        let objects = match (&self.told, touched) {
            (_, Touched::Nothing) => return true,
            (Some(told), Touched::Endpoints) => Objects {
                endpoint_slices: self.store.endpoint_slices(),
                ..told.clone()
            },
            (None, Touched::Endpoints) => return true,
            (_, Touched::Rules) => {
                self.ask_for_what_is_named();
                if self.told.is_none() && self.store.incomplete().next().is_some() {
                    return true;
                }
                self.store.objects()
            }
        };
        if self.shelf.is_some() {
            let rest = if self.told.is_none() { FIRST_SAVE } else { SAVE };
            self.save.get_or_insert_with(|| Instant::now() + rest);
        }
        if self.told.is_none() {
            self.setup.counts.set_waiting(None);
            self.setup.counts.set_stored(0);
            tracing::info!(ingresses = objects.ingresses.len(), "the cluster has been read");
        }
        self.told = Some(objects.clone());
        self.setup.counts.publication();
        let diagnostics = Vec::new();
        (self.tell)(SourceState { objects, diagnostics })
    }

    /// The API server doesn't answer: what it said before is better than nothing. False when nobody listens any more.
    fn serve_from_shelf(&mut self) -> bool {
        let Some(stored) = self.shelf.as_ref().map(Shelf::load) else {
            return true;
        };
        match stored {
            Ok(Some(stored)) => {
                if let Some(problem) = stored.problem {
                    tracing::error!("{problem}");
                }
                let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                let age_seconds = now.as_secs().saturating_sub(stored.saved);
                tracing::warn!(
                    age_seconds,
                    ingresses = stored.objects.ingresses.len(),
                    secrets = stored.objects.secrets.len(),
                    "the cluster has not been read; serving from the state saved on this node until it is"
                );
                self.setup.counts.set_stored(stored.saved);
                (self.tell)(SourceState {
                    objects: stored.objects,
                    diagnostics: Vec::new(),
                })
            }
            Ok(None) => {
                tracing::info!("the cluster has not been read, and no state is saved on this node yet");
                true
            }
            Err(problem) => {
                tracing::error!("{problem}");
                true
            }
        }
    }

    /// Off this thread: news are not kept waiting by a disk.
    fn save(&mut self) {
        self.save = None;
        if let (Some(shelf), Some(objects)) = (self.shelf.clone(), self.told.clone()) {
            tokio::task::spawn_blocking(move || shelf.save_and_say(&objects));
        }
    }

    fn say_what_is_missing(&self) {
        let mut missing: Vec<_> = self.store.incomplete().map(ToString::to_string).collect();
        missing.sort();
        missing.dedup();
        let said = (!missing.is_empty()).then(|| {
            let failure = self.health.worst().map(|words| format!(": {words}"));
            format!(
                "not read yet from the cluster: {}{}",
                missing.join(", "),
                failure.unwrap_or_default()
            )
        });
        self.setup.counts.set_waiting(said);
    }

    /// The watches of whole kinds.
    fn watch_kinds(&mut self) -> Result<(), String> {
        let cluster = &self.setup.cluster;
        let (selector, secrets) = (cluster.ingress_selector.clone(), cluster.secrets);
        let namespaces: Vec<Option<String>> = match cluster.namespaces.as_slice() {
            [] => vec![None],
            some => some.iter().cloned().map(Some).collect(),
        };
        let node = cluster.node_name.clone();
        self.watch_named::<IngressClass>(Resource::IngressClasses, None);
        if let Some(node) = node {
            self.watch_named::<Node>(Resource::Node, Some(&node));
        }
        for namespace in namespaces {
            if self.next_id >= WATCHES_PER_CONNECTION
                && self.next_id % WATCHES_PER_CONNECTION < WATCHES_PER_NAMESPACE
            {
                self.client = connect::client(&self.config)?;
            }
            let namespace = namespace.as_deref();
            self.watch_named::<Namespace>(Resource::Namespaces, namespace);
            let tls = Some("type=kubernetes.io/tls".to_owned());
            self.watch_in::<Ingress>(Resource::Ingresses, namespace, selector.clone(), None);
            self.watch_in::<Service>(Resource::Services, namespace, None, None);
            self.watch_in::<EndpointSlice>(Resource::EndpointSlices, namespace, None, None);
            if secrets == SecretAccess::Tls {
                self.watch_in::<Secret>(Resource::TlsSecrets, namespace, None, tls);
            }
        }
        Ok(())
    }

    fn watch_in<K: Kept + kube::Resource<Scope = NamespaceResourceScope>>(
        &mut self,
        resource: Resource,
        namespace: Option<&str>,
        labels: Option<String>,
        fields: Option<String>,
    ) {
        let client = self.client.clone();
        let api = match namespace {
            Some(namespace) => Api::namespaced(client, namespace),
            None => Api::all(client),
        };
        let scope = Scope {
            resource,
            namespace: namespace.map(str::to_owned),
            name: None,
        };
        let feed = self.feed::<K>(scope, api, labels, fields);
        self.tasks.spawn(feed.follow());
    }

    /// Objects that live in no namespace: all, or one.
    fn watch_named<K: Kept>(&mut self, resource: Resource, name: Option<&str>) {
        let scope = Scope {
            resource,
            namespace: None,
            name: name.map(str::to_owned),
        };
        let fields = name.map(|name| format!("metadata.name={name}"));
        let feed = self.feed::<K>(scope, Api::all(self.client.clone()), None, fields);
        self.tasks.spawn(feed.follow());
    }

    /// A watch or poll of one object.
    fn ask_for<K: Kept + kube::Resource<Scope = NamespaceResourceScope>>(
        &mut self,
        want: &singles::Want,
    ) -> (FeedId, AbortHandle) {
        let (namespace, name) = (&want.key.namespace, &want.key.name);
        let scope = Scope {
            resource: want.resource,
            namespace: Some(namespace.clone()),
            name: Some(name.clone()),
        };
        let api = Api::namespaced(self.client.clone(), namespace);
        let fields = Some(format!("metadata.name={name}"));
        let feed = self.feed::<K>(scope, api, None, fields);
        let id = feed.id;
        let task = match want.polled {
            true => self.tasks.spawn(feed.poll(name.clone())),
            false => self.tasks.spawn(feed.follow()),
        };
        (id, task)
    }

    fn feed<K: Kept>(
        &mut self,
        scope: Scope,
        api: Api<K>,
        labels: Option<String>,
        fields: Option<String>,
    ) -> Feed<K> {
        let id = self.next_id;
        self.next_id += 1;
        self.store.add(id, scope.clone());
        Feed {
            id,
            scope,
            api,
            labels,
            fields,
            tell: self.news.clone(),
            counts: Arc::clone(&self.setup.counts),
            size: AtomicU32::new(0),
        }
    }

    /// Begins to watch the objects that Ingresses name now, and ends what is no longer named.
    fn ask_for_what_is_named(&mut self) {
        let mut named = translate::references(&self.store.objects(), &self.setup.options);
        let all_tls = self.setup.cluster.secrets == SecretAccess::Tls;
        named
            .secrets
            .retain(|key| !(all_tls && self.store.has_tls_secret(key)));
        let orders = self.singles.want(&named, !all_tls);
        for want in orders.begin {
            let started = match want.resource {
                Resource::ConfigMap => self.ask_for::<k8s_openapi::api::core::v1::ConfigMap>(&want),
                _ => self.ask_for::<Secret>(&want),
            };
            self.singles.begun(want, started);
        }
        for (id, task) in orders.end {
            task.abort();
            self.health.forget(id);
            self.store.remove(id);
        }
        // Finished tasks would pile up otherwise.
        while self.tasks.try_join_next().is_some() {}
    }
}
