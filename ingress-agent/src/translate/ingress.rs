//! One Ingress to routes, canaries and un-owned hosts.

use std::collections::BTreeSet;
use std::sync::Arc;

use ingress_core::diagnostic::Diagnostic;
use ingress_core::host::HostPattern;
use ingress_core::name::{Kind, ObjectRef};
use ingress_core::nearness;
use ingress_core::reason::Reason;
use ingress_core::resource::{
    Action, CanarySpec, ClusterKey, ClusterSpec, Conditions, PathMatch, PortRef, Redirect, RouteSpec,
    Seniority, UnownedHost, WeightedCluster,
};
use k8s_openapi::api::networking::v1::{Ingress, IngressBackend, IngressRule};

use super::annotations::{self, Settings};
use super::canary::Mains;
use super::class::Mismatch;
use super::endpoints;
use super::notes::{Notes, excerpt};
use super::policies::Policies;
use super::rule_path::{self, Expressions, Regexes};
use super::service::{Backends, Speech};
use super::tls::{self, Certificates};
use crate::objects::{Key, Objects};

/// What all Ingresses add to.
pub(super) struct Build<'a> {
    pub(super) objects: &'a Objects,
    pub(super) place: nearness::Place,
    pub(super) backends: Backends<'a>,
    pub(super) certificates: Certificates<'a>,
    pub(super) regexes: &'a mut Regexes,
    pub(super) out: &'a mut super::Translation,
    /// Hosts that rules name; aliases give way to them.
    pub(super) rule_hosts: BTreeSet<HostPattern>,
    /// Routes under another name than the rule's (`server-alias`, `from-to-www-redirect`).
    pub(super) by_alias: Vec<RouteSpec>,
    /// Translated after all others, from which they inherit.
    pub(super) canaries: Vec<Read<'a>>,
    pub(super) mains: Mains,
    pub(super) policies: Policies,
}

/// An Ingress whose annotations have been read.
pub(super) struct Read<'a> {
    key: &'a Key,
    ingress: &'a Ingress,
    settings: Settings,
    notes: Notes,
}

impl Build<'_> {
    /// The operator's backend for all that nothing else matches: it loses against every Ingress.
    pub(super) fn global_default(&mut self, service: Key, port: PortRef) {
        let (cluster, found) = self.backends.cluster(service, port, Default::default());
        if let Err(problem) = found {
            let mut notes = Notes::new(Arc::clone(&cluster.service), None);
            let message = format!("{}, and is configured as the default backend", problem.message);
            notes.error("", problem.reason(), message);
            notes.finish(&mut self.out.diagnostics);
        }
        self.out.resources.routes.push(RouteSpec {
            seniority: Seniority::new(None, Arc::clone(&cluster.service), (usize::MAX, usize::MAX)),
            field: "--default-backend".to_owned(),
            host: HostPattern::Any,
            path: PathMatch::Prefix("".into()),
            conditions: Conditions::default(),
            action: action(Some(cluster)),
            policy: Settings::default().policy,
            fallback: true,
        });
    }

    /// After the last Ingress: canaries, aliases that no rule claims, endpoints, certificates.
    pub(super) fn finish(mut self) {
        let canaries = std::mem::take(&mut self.canaries);
        if !canaries.is_empty() {
            self.mains.index(&self.out.resources.routes);
        }
        for canary in canaries {
            translate_with(canary, &mut self);
        }
        let out = self.out;
        let (aliases, taken): (Vec<_>, Vec<_>) = self
            .by_alias
            .into_iter()
            .partition(|route| !self.rule_hosts.contains(&route.host));
        out.resources.routes.extend(aliases);
        report_taken_aliases(&taken, &mut out.diagnostics);

        out.default_certificate = self.certificates.default_certificate();
        let (certificates, mut problems) = self.certificates.finish();
        out.certificates = certificates;
        out.diagnostics.append(&mut problems);

        let clusters = self.backends.into_clusters();
        let mut found = endpoints::find(self.objects, &self.place, &clusters);
        out.endpoints = found.endpoints;
        out.external_names = found.external_names;
        out.diagnostics.append(&mut found.diagnostics);
        out.resources.clusters = clusters.into_iter().map(|key| ClusterSpec { key }).collect();
        self.regexes.turn();
    }
}

fn report_taken_aliases(taken: &[RouteSpec], into: &mut Vec<Diagnostic>) {
    let taken: BTreeSet<_> = taken
        .iter()
        .map(|route| (&route.seniority.object, &route.host))
        .collect();
    for (object, host) in taken {
        let mut notes = Notes::new(Arc::clone(object), None);
        let message =
            format!("{host} is the host of a rule already, which wins over an alias or www redirect");
        notes.warning("metadata.annotations", "AliasTaken", message);
        notes.finish(into);
    }
}

/// Where a route stands in its Ingress.
struct Place {
    field: String,
    index: (usize, usize),
}

/// An Ingress under translation.
struct One<'a, 'b> {
    build: &'b mut Build<'a>,
    namespace: &'b str,
    created: Option<i64>,
    /// Its namespace is being deleted.
    leaving: bool,
    settings: Settings,
    /// Hosts that `from-to-www-redirect` has been done for.
    www_done: BTreeSet<Arc<str>>,
    notes: Notes,
}

pub(super) fn reference(key: &Key) -> Arc<ObjectRef> {
    ObjectRef::new(Kind::Ingress, key.namespace.as_str(), key.name.as_str()).into()
}

/// Translates an Ingress that is ours.
pub(super) fn translate<'a>(key: &'a Key, ingress: &'a Ingress, build: &mut Build<'a>) {
    let mut notes = Notes::new(reference(key), ingress.metadata.generation);
    let mut settings = annotations::read(ingress, build.objects, &mut notes);
    settings.policy = build.policies.share(settings.policy);
    let read = Read {
        key,
        ingress,
        settings,
        notes,
    };
    if read.settings.canary.is_some() {
        return build.canaries.push(read);
    }
    build
        .mains
        .note_protocol(&read.notes.object, read.settings.speech.protocol);
    translate_with(read, build);
}

fn translate_with(read: Read<'_>, build: &mut Build<'_>) {
    let created = read.ingress.metadata.creation_timestamp.as_ref();
    let namespace = build.objects.namespaces.get(&Key::new("", &read.key.namespace));
    let leaving = namespace.is_some_and(|namespace| namespace.metadata.deletion_timestamp.is_some());
    let mut one = One {
        build,
        namespace: &read.key.namespace,
        created: created.map(|time| time.0.as_second()),
        leaving,
        settings: read.settings,
        www_done: BTreeSet::new(),
        notes: read.notes,
    };
    if leaving {
        let message = format!(
            "namespace {} is being deleted: this Ingress is served until it is deleted itself, and gives way to those of other namespaces with the same host and path",
            excerpt(one.namespace)
        );
        // No Event: none can be made there any more.
        one.notes
            .info("metadata.namespace", "NamespaceTerminating", message);
    }
    one.all(read.ingress);
    one.notes.finish(&mut one.build.out.diagnostics);
}

/// Remembers the hosts of an Ingress that is nobody's, to explain their 404, and says so.
pub(super) fn disown(key: &Key, ingress: &Ingress, mismatch: Mismatch, out: &mut super::Translation) {
    let object = reference(key);
    let why: Arc<str> = mismatch.why.as_str().into();
    let hosts: BTreeSet<HostPattern> = rules(ingress)
        .filter_map(|rule| HostPattern::parse(rule.host.as_deref().unwrap_or_default()).ok())
        // A rule without a host would claim every 404 there is.
        .filter(|host| *host != HostPattern::Any)
        .collect();
    out.resources
        .unowned
        .extend(hosts.into_iter().map(|host| UnownedHost {
            host,
            object: Arc::clone(&object),
            why: Arc::clone(&why),
        }));
    let mut notes = Notes::new(object, ingress.metadata.generation);
    let message = format!("{}, so no controller serves it; {}", mismatch.why, mismatch.fix);
    notes.error(mismatch.field, mismatch.reason, message);
    notes.finish(&mut out.diagnostics);
}

impl One<'_, '_> {
    fn all(&mut self, ingress: &Ingress) {
        let Some(spec) = &ingress.spec else {
            let message = "has neither rules nor a defaultBackend".to_owned();
            return self.notes.error("spec", "EmptyIngress", message);
        };
        let mut hosts = BTreeSet::new();
        for (index, rule) in rules(ingress).enumerate() {
            let has_fallback = spec.default_backend.is_some();
            hosts.extend(self.rule(index, rule, has_fallback));
        }
        let has_rules = spec.rules.as_ref().is_some_and(|rules| !rules.is_empty());
        match &spec.default_backend {
            Some(backend) => self.default_backend(backend, &hosts, has_rules),
            None if !has_rules => {
                let message = "has neither rules nor a defaultBackend".to_owned();
                self.notes.error("spec", "EmptyIngress", message);
            }
            None => {}
        }
        let binder = tls::Binder {
            namespace: self.namespace,
            created: self.created,
            leaving: self.leaving,
            rule_hosts: &hosts,
        };
        let bindings = binder.bind(
            spec.tls.as_deref().unwrap_or_default(),
            &mut self.build.certificates,
            &mut self.notes,
        );
        self.build.out.resources.certificates.extend(bindings);
    }

    /// Returns the rule's host, unless that is bad.
    fn rule(&mut self, index: usize, rule: &IngressRule, has_fallback: bool) -> Option<HostPattern> {
        let text = rule.host.as_deref().unwrap_or_default();
        let host = match HostPattern::parse(text) {
            Ok(host) => host,
            Err(why) => {
                let message = format!("{} {why}; this rule is left out", excerpt(text));
                self.notes
                    .error(&format!("spec.rules[{index}].host"), "InvalidHost", message);
                return None;
            }
        };
        let paths = rule.http.as_ref().map_or(&[][..], |http| &http.paths);
        if paths.is_empty() && !has_fallback {
            let message = "has no paths, and there is no spec.defaultBackend for its host".to_owned();
            self.notes
                .warning(&format!("spec.rules[{index}]"), "RuleWithoutPaths", message);
        }
        self.build.rule_hosts.insert(host.clone());
        for (position, path) in paths.iter().enumerate() {
            let field = format!("spec.rules[{index}].http.paths[{position}]");
            let expressions = self.expressions(&host, path.path.as_deref());
            match rule_path::read(
                path.path.as_deref(),
                &path.path_type,
                expressions,
                self.build.regexes,
            ) {
                Ok(matches) => {
                    self.check_groups(&field, &matches);
                    let place = Place {
                        field,
                        index: (index, position),
                    };
                    self.path(place, &host, matches, &path.backend);
                }
                Err(why) => {
                    let message = format!("{why}; this path is left out");
                    self.notes.error(&format!("{field}.path"), "InvalidPath", message);
                }
            }
        }
        Some(host)
    }

    fn path(&mut self, place: Place, host: &HostPattern, path: PathMatch, backend: &IngressBackend) {
        let mut speech = self.settings.speech;
        if self.settings.canary.is_some() {
            speech.protocol = speech.protocol.or_else(|| self.build.mains.protocol(host, &path));
        }
        let cluster = self.backend(&format!("{}.backend", place.field), backend, speech);
        if let Some(when) = self.settings.canary.clone() {
            let seniority = self.seniority(place.index);
            // A canary without a backend is no canary; the Diagnostic is there already.
            self.build
                .out
                .resources
                .canaries
                .extend(cluster.map(|cluster| CanarySpec {
                    seniority,
                    field: place.field,
                    host: host.clone(),
                    path,
                    cluster,
                    when,
                }));
            return;
        }
        let route = RouteSpec {
            seniority: self.seniority(place.index),
            field: place.field,
            host: host.clone(),
            path,
            conditions: Conditions::default(),
            action: action(cluster),
            policy: Arc::clone(&self.settings.policy),
            fallback: false,
        };
        self.other_names(&route);
        self.build.out.resources.routes.push(route);
    }

    fn default_backend(&mut self, backend: &IngressBackend, hosts: &BTreeSet<HostPattern>, has_rules: bool) {
        if self.settings.canary.is_some() {
            let message =
                "has no effect in a canary: a canary is an alternative for paths of another Ingress"
                    .to_owned();
            return self.notes.warning("spec.defaultBackend", "Unsupported", message);
        }
        let cluster = self.backend("spec.defaultBackend", backend, self.settings.speech);
        let everywhere = BTreeSet::from([HostPattern::Any]);
        for (index, host) in if has_rules { hosts } else { &everywhere }.iter().enumerate() {
            let route = RouteSpec {
                seniority: self.seniority((usize::MAX, index)),
                field: "spec.defaultBackend".to_owned(),
                host: host.clone(),
                path: PathMatch::Prefix("".into()),
                conditions: Conditions::default(),
                action: action(cluster.clone()),
                policy: Arc::clone(&self.settings.policy),
                fallback: true,
            };
            self.other_names(&route);
            self.build.out.resources.routes.push(route);
        }
    }

    /// The cluster of a backend; `None` where there can't be one, which has been said then.
    fn backend(&mut self, field: &str, backend: &IngressBackend, speech: Speech) -> Option<ClusterKey> {
        let Some(service) = &backend.service else {
            match &backend.resource {
                Some(resource) => self.notes.error(
                    &format!("{field}.resource"),
                    "Unsupported",
                    format!(
                        "names {} {}; only Services are supported as backends, so requests get an error",
                        excerpt(&resource.kind),
                        excerpt(&resource.name)
                    ),
                ),
                None => self
                    .notes
                    .error(field, "InvalidBackend", "must name a service".to_owned()),
            }
            return None;
        };
        let port = service.port.as_ref();
        let number = port.and_then(|port| port.number);
        let name = port
            .and_then(|port| port.name.as_deref())
            .filter(|name| !name.is_empty());
        let port = match (number.map(u16::try_from), name) {
            (None, Some(name)) => PortRef::Name(name.into()),
            (Some(Ok(number)), None) if number > 0 => PortRef::Number(number),
            _ => {
                let message = "must have either a name or a number from 1 to 65535".to_owned();
                self.notes
                    .error(&format!("{field}.service.port"), "InvalidBackend", message);
                return None;
            }
        };
        let service = Key::new(self.namespace, service.name.as_str());
        let (cluster, found) = self.build.backends.cluster(service, port, speech);
        if let Err(problem) = found {
            let reason = problem.reason();
            // A route that only redirects never asks its backend.
            match self.settings.policy.redirect {
                Some(_) => self
                    .notes
                    .info(&format!("{field}.service"), reason, problem.message),
                None => self
                    .notes
                    .error(&format!("{field}.service"), reason, problem.message),
            }
        }
        Some(cluster)
    }

    fn expressions(&self, host: &HostPattern, path: Option<&str>) -> Expressions {
        match self.settings.canary {
            Some(_) if self.build.mains.is_expression(host, path) => Expressions::WhereWritten,
            _ => self.settings.expressions,
        }
    }

    /// `$3` of a rewrite stays empty where the path has two groups: hardly what was meant.
    fn check_groups(&mut self, field: &str, path: &PathMatch) {
        let Some(rewrite) = &self.settings.policy.rewrite else {
            return;
        };
        let groups = match path {
            PathMatch::Regex(regex) => regex.regex.captures_len().saturating_sub(1),
            _ => 0,
        };
        if let Some(group) = annotations::highest_group(&rewrite.template).filter(|group| *group > groups) {
            let message =
                format!("has {groups} capture groups, and rewrite-target names ${group}, which stays empty");
            self.notes
                .warning(&format!("{field}.path"), "RewriteGroupMissing", message);
        }
    }

    /// The same route under `server-alias` names, and the way from or to `www.`.
    fn other_names(&mut self, route: &RouteSpec) {
        if route.host == HostPattern::Any {
            return;
        }
        let aliases = self.settings.aliases.iter().map(|alias| RouteSpec {
            host: alias.clone(),
            ..route.clone()
        });
        self.build.by_alias.extend(aliases);
        let HostPattern::Exact(host) = &route.host else {
            return;
        };
        if !self.settings.www_redirect || !self.www_done.insert(Arc::clone(host)) {
            return; // one redirect answers for the whole host
        }
        let other = host
            .strip_prefix("www.")
            .map_or_else(|| format!("www.{host}"), str::to_owned);
        let mut policy = (*self.settings.policy).clone();
        policy.app_root = None; // that is the other host's
        policy.redirect = Some(Redirect {
            location: format!("$scheme://{host}$request_uri"),
            status: 308,
        });
        self.build.by_alias.push(RouteSpec {
            host: HostPattern::Exact(other.into()),
            path: PathMatch::Prefix("".into()),
            policy: policy.into(),
            fallback: false,
            ..route.clone()
        });
    }

    fn seniority(&self, place: (usize, usize)) -> Seniority {
        Seniority::new(self.created, Arc::clone(&self.notes.object), place).leaving(self.leaving)
    }
}

fn rules(ingress: &Ingress) -> impl Iterator<Item = &IngressRule> {
    ingress.spec.iter().flat_map(|spec| spec.rules.iter().flatten())
}

fn action(cluster: Option<ClusterKey>) -> Action {
    match cluster {
        Some(cluster) => Action::Forward(Vec::from([WeightedCluster { cluster, weight: 1 }])),
        None => Action::Fail(Reason::RouteInvalid),
    }
}
