//! Objects to the live state: translate → compile → one store. The only writer of the live state and of endpoint sets.
//!
//! Runs on a thread of its own. Endpoints have a faster lane: when nothing but EndpointSlices changed, routes are not compiled again.

mod changes;
mod ourselves;
mod problem_log;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use ingress_core::balance::EndpointRegistry;
use ingress_core::compile::compile;
use ingress_core::diagnostic::{Diagnostic, Severity};
use ingress_core::name::ObjectRef;
use ingress_core::resource::Nearness;
use ingress_core::resource::{CertificateKey, ClusterKey, Endpoint, EndpointCondition, EndpointList};
use ingress_core::snapshot::{Cluster, Snapshot};

use crate::live::{CertificateStore, Live};
use crate::memory;
use crate::objects::{Objects, SourceState};
use crate::resolve::Answers;
use crate::series::{DEFAULT_LIMIT, LiveSeries, SharedSeries};
use crate::translate::{self, Certificate, ExternalName, Memory, Options};
use changes::{EndpointChanges, only_endpoints_differ};
use ourselves::Ourselves;
pub use ourselves::Trust;
use problem_log::ProblemLog;

/// What is told to everyone else about a publication.
#[derive(Debug)]
pub struct Report {
    /// 1 for the first.
    pub generation: u64,
    pub at: SystemTime,
    pub snapshot: Arc<Snapshot>,
    pub diagnostics: Arc<[Diagnostic]>,
    /// As the source yielded them, for what is written back to it.
    pub source: Objects,
    /// By kind, as the source yielded them.
    pub objects: Vec<(&'static str, usize)>,
    /// End of validity by certificate, seconds since 1970.
    pub certificates: BTreeMap<CertificateKey, i64>,
    /// Ingresses that no controller owns.
    pub unowned: usize,
    pub took: Duration,
}

/// How often certificates are looked at when nothing else happens.
const RECHECK: Duration = Duration::from_secs(3600);

/// What the publisher acts on.
pub enum Event {
    Source(SourceState),
    /// Addresses of ExternalName Services.
    Resolved(Answers),
    /// Where we listen from now on.
    Listeners(Vec<SocketAddr>),
    Stop,
}

/// Told of a snapshot before it is in force.
pub type Prepare = Box<dyn FnMut(&Arc<Snapshot>) + Send>;

/// Turns each state of the source into the live state.
pub struct Publisher {
    live: Arc<ArcSwap<Live>>,
    series: SharedSeries,
    announce: Box<dyn FnMut(Report) + Send>,
    prepare: Prepare,
    options: Options,
    default_certificate: Arc<Certificate>,
    started: Instant,
    objects: Objects,
    lists: BTreeMap<ClusterKey, EndpointList>,
    registry: EndpointRegistry,
    memory: Memory,
    want_names: Box<dyn FnMut(BTreeSet<String>) + Send>,
    external: Vec<ExternalName>,
    answers: Answers,
    ourselves: Ourselves,
    /// Clusters with endpoints that lead back to us, or where nothing of a cluster may lead.
    loops: BTreeMap<ClusterKey, Diagnostic>,
    /// When everything was last translated: certificates expire without any change.
    translated: Instant,
    /// What the source said of its own input.
    source_diagnostics: Vec<Diagnostic>,
    /// Found while translating and compiling; endpoints have their own.
    found: Vec<Diagnostic>,
    /// The same for endpoints that were left out and names that do not resolve.
    of_endpoints: Vec<Diagnostic>,
    diagnostics: Arc<[Diagnostic]>,
    log: ProblemLog,
    certificates: BTreeMap<CertificateKey, i64>,
}

/// What a publisher is made of.
pub struct Setup {
    pub options: Options,
    /// Serves names that no other certificate covers, unless the options name a Secret for that.
    pub default_certificate: Arc<Certificate>,
    pub started: Instant,
    /// Which objects have metrics of their own; set before a snapshot is in force.
    pub series: SharedSeries,
    /// Called after each publication, on the publisher's thread.
    pub announce: Box<dyn FnMut(Report) + Send>,
    /// Called with a snapshot right before it is in force, on the publisher's thread: for what must know it first.
    pub prepare: Prepare,
    /// Told which names have to be resolved.
    pub want_names: Box<dyn FnMut(BTreeSet<String>) + Send>,
    /// Where we listen: no endpoint may lead back here.
    pub listeners: Vec<SocketAddr>,
    pub trust: Trust,
}

impl Publisher {
    pub fn new(setup: Setup) -> Self {
        let live = Live {
            generation: 0,
            snapshot: Arc::new(Snapshot::empty()),
            certificates: CertificateStore::default(),
        };
        Self {
            live: Arc::new(ArcSwap::from_pointee(live)),
            series: setup.series,
            announce: setup.announce,
            prepare: setup.prepare,
            options: setup.options,
            default_certificate: setup.default_certificate,
            started: setup.started,
            objects: Objects::default(),
            lists: BTreeMap::new(),
            registry: EndpointRegistry::default(),
            memory: Memory::default(),
            want_names: setup.want_names,
            external: Vec::new(),
            answers: Answers::default(),
            ourselves: Ourselves::new(setup.listeners, setup.trust),
            loops: BTreeMap::new(),
            translated: setup.started,
            source_diagnostics: Vec::new(),
            found: Vec::new(),
            of_endpoints: Vec::new(),
            diagnostics: Arc::new([]),
            log: ProblemLog::default(),
            certificates: BTreeMap::new(),
        }
    }

    pub fn live(&self) -> Arc<ArcSwap<Live>> {
        Arc::clone(&self.live)
    }

    /// Acts on events until it is told to stop; of several waiting states only the newest counts.
    pub fn run(mut self, events: &Receiver<Event>) {
        let mut owed = memory::Owed::default();
        loop {
            let sum_up = self.log.due_in(Instant::now());
            let rest = sum_up.into_iter().chain(owed.due_in()).min();
            let first = match events.recv_timeout(rest.unwrap_or(RECHECK).min(RECHECK)) {
                Ok(event) => Some(event),
                Err(RecvTimeoutError::Timeout) if owed.due_in().is_some() => {
                    owed.pay();
                    self.log.sum_up(Instant::now());
                    continue;
                }
                Err(RecvTimeoutError::Timeout) if sum_up.is_some() => {
                    self.log.sum_up(Instant::now());
                    continue;
                }
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            let mut newest = None;
            let mut answers = None;
            for event in first.into_iter().chain(events.try_iter()) {
                match event {
                    Event::Source(state) => newest = Some(state),
                    Event::Resolved(resolved) => answers = Some(resolved),
                    Event::Listeners(listeners) => self.listen(listeners),
                    Event::Stop => return,
                }
            }
            self.apply(newest, answers);
            owed.worked();
        }
    }

    /// An endpoint may be ourselves now that was not before, or the other way round.
    fn listen(&mut self, listeners: Vec<SocketAddr>) {
        self.ourselves.listen(listeners);
        if self.live.load().generation > 0 {
            self.apply_everything(self.source_diagnostics.clone());
        }
    }

    /// Puts a new state of the source, new addresses, or both in force.
    pub fn apply(&mut self, state: Option<SourceState>, answers: Option<Answers>) {
        let begun = Instant::now();
        if let Some(answers) = answers {
            self.answers = answers;
        }
        match state {
            Some(state) if self.needs_compiling(&state) || self.recheck_is_due() => {
                self.objects = state.objects;
                self.apply_everything(state.diagnostics);
            }
            Some(state) => {
                let changes = EndpointChanges::between(&self.objects, &state.objects);
                self.objects = state.objects;
                self.apply_endpoints_alone(&changes);
            }
            None if self.recheck_is_due() => self.apply_everything(self.source_diagnostics.clone()),
            None => self.apply_endpoints_alone(&EndpointChanges::default()),
        }
        let live = self.live.load_full();
        let unowned: HashSet<_> = live.snapshot.unowned_hosts().map(|u| &u.object).collect();
        (self.announce)(Report {
            generation: live.generation,
            at: SystemTime::now(),
            snapshot: Arc::clone(&live.snapshot),
            diagnostics: Arc::clone(&self.diagnostics),
            source: self.objects.clone(),
            objects: count(&self.objects),
            certificates: self.certificates.clone(),
            unowned: unowned.len(),
            took: begun.elapsed(),
        });
    }

    fn needs_compiling(&self, state: &SourceState) -> bool {
        let first = self.live.load().generation == 0;
        first
            || self.source_diagnostics != state.diagnostics
            || !only_endpoints_differ(&self.objects, &state.objects)
    }

    /// What a certificate is worth changes with time alone.
    fn recheck_is_due(&self) -> bool {
        !self.certificates.is_empty() && self.translated.elapsed() >= RECHECK
    }

    /// The slow lane: translate, compile, fill the endpoint cells, store.
    fn apply_everything(&mut self, source_diagnostics: Vec<Diagnostic>) {
        self.options.now_unix = unix_now();
        self.translated = Instant::now();
        let mut translation = translate::translate(&self.objects, &self.options, &mut self.memory);
        let previous = self.live.load_full();
        let (snapshot, conflicts) = compile(&translation.resources, &previous.snapshot);
        self.found = std::mem::take(&mut translation.diagnostics);
        self.found.extend(conflicts);
        self.found.sort();
        self.source_diagnostics = source_diagnostics;
        self.external = std::mem::take(&mut translation.external_names);
        (self.want_names)(
            self.external
                .iter()
                .map(|external| external.name.clone())
                .collect(),
        );
        let lists = std::mem::take(&mut translation.endpoints);
        self.loops.clear();
        let of_endpoints = self.fill_endpoints(&previous.snapshot, &snapshot, lists);
        let configured = translation.default_certificate.as_ref();
        let default = configured.and_then(|key| translation.certificates.get(key));
        let default = Arc::clone(default.unwrap_or(&self.default_certificate));
        self.series
            .store(Arc::new(LiveSeries::of(&snapshot, DEFAULT_LIMIT)));
        let certificates = CertificateStore::build(&translation, Some(default));
        let snapshot = Arc::new(snapshot);
        (self.prepare)(&snapshot);
        self.live.store(Arc::new(Live {
            generation: previous.generation + 1,
            snapshot,
            certificates,
        }));
        let parsed = translation.certificates.iter();
        self.certificates = parsed
            .map(|(key, certificate)| (key.clone(), certificate.not_after))
            .collect();
        self.tell(of_endpoints);
    }

    /// The fast lane: the routes stand, only the endpoint sets of those Services are swapped that changed.
    fn apply_endpoints_alone(&mut self, changes: &EndpointChanges) {
        let live = self.live.load_full();
        let clusters = live.snapshot.clusters().map(|cluster| &cluster.key);
        let keys: Vec<_> = clusters.filter(|key| changes.concern(key)).cloned().collect();
        let (mut lists, found) = translate::endpoints_only(&self.objects, &self.options, &keys);
        // Sorted: with thousands of problems, only those of what changed are worth work here.
        let before = self.found.len();
        self.found.retain(|diagnostic| !changes.outdate(diagnostic));
        let mut new = found;
        new.retain(|diagnostic| self.found.binary_search(diagnostic).is_err());
        let is_news = before != self.found.len() || !new.is_empty();
        if is_news {
            self.found.extend(new);
            self.found.sort();
            self.found.dedup();
        }
        let of_endpoints = self.complete(&mut lists);
        for (key, list) in lists {
            if let Some(cluster) = live.snapshot.cluster(&key)
                && self.lists.get(&key) != Some(&list)
            {
                self.give(cluster, &list);
                self.lists.insert(key, list);
            }
        }
        if is_news || of_endpoints != self.of_endpoints {
            self.tell(of_endpoints);
        }
    }

    /// Gives each cluster its endpoints, where they changed; says what is wrong with them.
    fn fill_endpoints(
        &mut self,
        previous: &Snapshot,
        snapshot: &Snapshot,
        mut lists: BTreeMap<ClusterKey, EndpointList>,
    ) -> Vec<Diagnostic> {
        let diagnostics = self.complete(&mut lists);
        let nothing = EndpointList::default();
        for cluster in snapshot.clusters() {
            let list = lists.get(&cluster.key).unwrap_or(&nothing);
            // A new cluster has nothing yet, whatever an older one of the same key had.
            let kept = previous
                .cluster(&cluster.key)
                .is_some_and(|old| Arc::ptr_eq(old, cluster));
            if !kept || self.lists.get(&cluster.key) != Some(list) {
                self.give(cluster, list);
            }
        }
        self.lists = lists;
        diagnostics
    }

    fn give(&mut self, cluster: &Cluster, list: &EndpointList) {
        let set = self.registry.build(&cluster.key, list, self.started.elapsed());
        cluster.set_endpoints(Arc::new(set));
    }

    /// Adds what DNS knows and takes out what leads back to us; says what is wrong.
    fn complete(&mut self, lists: &mut BTreeMap<ClusterKey, EndpointList>) -> Vec<Diagnostic> {
        let mut diagnostics = self.add_external(lists);
        for (key, list) in lists {
            match leave_out_refused(key, list, &mut self.ourselves) {
                Some(diagnostic) => self.loops.insert(key.clone(), diagnostic),
                None => self.loops.remove(key),
            };
        }
        diagnostics.extend(self.loops.values().cloned());
        diagnostics
    }

    /// The endpoints that DNS knows.
    fn add_external(&self, lists: &mut BTreeMap<ClusterKey, EndpointList>) -> Vec<Diagnostic> {
        let mut diagnostics = Vec::new();
        for external in &self.external {
            let addresses = self
                .answers
                .addresses
                .get(&external.name)
                .map_or(&[][..], Vec::as_slice);
            let endpoint = |ip: &std::net::IpAddr| Endpoint {
                address: SocketAddr::new(*ip, external.port),
                state: EndpointCondition::Ready,
                zone: None,
                node: None,
                nearness: Nearness::default(),
            };
            let list = EndpointList {
                endpoints: addresses.iter().map(endpoint).collect(),
                missing: None,
            };
            lists.insert(external.cluster.clone(), list);
            if let Some(failure) = self.answers.failures.get(&external.name) {
                diagnostics.push(unresolved(external, addresses.is_empty(), failure));
            }
        }
        diagnostics
    }

    /// Each new problem is logged once, within a bound; it is logged again only after it had gone.
    fn tell(&mut self, of_endpoints: Vec<Diagnostic>) {
        let mut all: Vec<_> = self
            .source_diagnostics
            .iter()
            .chain(&self.found)
            .cloned()
            .chain(of_endpoints.iter().cloned())
            .collect();
        all.sort();
        all.dedup();
        let told: HashSet<_> = self.diagnostics.iter().map(what).collect();
        let now: HashSet<_> = all.iter().map(what).collect();
        let moment = Instant::now();
        for diagnostic in all.iter().filter(|d| !told.contains(&what(d))) {
            self.log.found(diagnostic, moment);
        }
        for gone in self.diagnostics.iter().filter(|d| !now.contains(&what(d))) {
            self.log.resolved(gone, moment);
        }
        self.log.sum_up(moment);
        self.diagnostics = all.into();
        self.of_endpoints = of_endpoints;
    }
}

fn unresolved(external: &ExternalName, nothing_known: bool, failure: &str) -> Diagnostic {
    let (severity, rest) = if nothing_known {
        (Severity::Error, "requests get 503")
    } else {
        (Severity::Warning, "its last known addresses are used")
    };
    let message = format!("{:?} does not resolve, {rest}: {failure}", external.name);
    Diagnostic::new(
        severity,
        &external.cluster.service,
        "spec.externalName",
        "ExternalNameUnresolved",
        message,
    )
}

fn leave_out_refused(
    key: &ClusterKey,
    list: &mut EndpointList,
    ourselves: &mut Ourselves,
) -> Option<Diagnostic> {
    let mut first = None;
    list.endpoints.retain(|endpoint| {
        let refusal = ourselves.refuses(endpoint.address);
        if let Some(refusal) = refusal {
            first.get_or_insert((endpoint.address, refusal));
        }
        refusal.is_none()
    });
    let (address, refusal) = first?;
    let message = format!(
        "the endpoint {address} {} and is left out{}",
        refusal.what(),
        refusal.why()
    );
    Some(Diagnostic::new(
        Severity::Error,
        &key.service,
        "",
        refusal.reason(),
        message,
    ))
}

/// What makes two problems the same: not the generation of the object, which counts its edits.
fn what(diagnostic: &Diagnostic) -> (&ObjectRef, &str, &str, &str) {
    let Diagnostic {
        object,
        field,
        reason,
        message,
        ..
    } = diagnostic;
    (object, field, reason, message)
}

fn count(objects: &Objects) -> Vec<(&'static str, usize)> {
    vec![
        ("Ingress", objects.ingresses.len()),
        ("IngressClass", objects.ingress_classes.len()),
        ("Service", objects.services.len()),
        ("EndpointSlice", objects.endpoint_slices.len()),
        ("Secret", objects.secrets.len()),
        ("ConfigMap", objects.config_maps.len()),
        ("Namespace", objects.namespaces.len()),
        ("Node", objects.nodes.len()),
    ]
}

fn unix_now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}
