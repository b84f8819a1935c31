//! Events on objects for what their authors can fix: each problem once, and no more in a minute than anybody can read. The choice is pure.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use ingress_core::diagnostic::{Diagnostic, Severity};
use ingress_core::name::{Kind, ObjectRef};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;

use crate::objects::{Key, Objects};

/// An API server keeps an Event for an hour: as long as the problem stands it is told again then.
const AGAIN: Duration = Duration::from_secs(3600);
/// The budget: so many at once, and one more each interval.
const BURST: u32 = 25;
const INTERVAL: Duration = Duration::from_secs(6);
/// The API server's own bounds (validation of events.k8s.io/v1), in bytes.
const LONGEST_NOTE: usize = 1000;
const LONGEST_INSTANCE: usize = 128;

/// What has been told.
#[derive(Debug)]
pub(super) struct Ledger {
    /// Without their generations: an edit of something else in the object makes no new problem.
    told: HashMap<Diagnostic, Instant>,
    tokens: u32,
    refilled: Instant,
}

impl Ledger {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            told: HashMap::new(),
            tokens: BURST,
            refilled: now,
        }
    }

    /// The problems to tell now; they count as told. What has gone is forgotten, but not sooner than it may be told again: a problem that
    /// comes and goes is one.
    pub(super) fn due(
        &mut self,
        diagnostics: &[Diagnostic],
        objects: &Objects,
        now: Instant,
    ) -> Vec<Diagnostic> {
        self.refill(now);
        self.told
            .retain(|_, told| now.saturating_duration_since(*told) < AGAIN);
        let mut due: Vec<_> = diagnostics
            .iter()
            .filter(|diagnostic| self.is_new(diagnostic, objects))
            .collect();
        // Errors first, when not all can be told.
        due.sort_by_key(|diagnostic| std::cmp::Reverse(diagnostic.severity));
        due.truncate(usize::try_from(self.tokens).unwrap_or(usize::MAX));
        self.tokens = self
            .tokens
            .saturating_sub(u32::try_from(due.len()).unwrap_or(u32::MAX));
        let due: Vec<_> = due.into_iter().cloned().collect();
        self.told
            .extend(due.iter().map(|diagnostic| (without_generation(diagnostic), now)));
        due
    }

    /// Whether something waits for the budget.
    pub(super) fn has_more(&self, diagnostics: &[Diagnostic], objects: &Objects) -> bool {
        diagnostics
            .iter()
            .any(|diagnostic| self.is_new(diagnostic, objects))
    }

    fn is_new(&self, diagnostic: &Diagnostic, objects: &Objects) -> bool {
        is_telling(diagnostic)
            && !is_leaving(&diagnostic.object, objects)
            && !self.told.contains_key(&without_generation(diagnostic))
    }

    fn refill(&mut self, now: Instant) {
        while self.tokens < BURST && now.saturating_duration_since(self.refilled) >= INTERVAL {
            self.tokens += 1;
            self.refilled += INTERVAL;
        }
        if self.tokens == BURST {
            self.refilled = now;
        }
    }
}

fn without_generation(diagnostic: &Diagnostic) -> Diagnostic {
    Diagnostic {
        generation: None,
        ..diagnostic.clone()
    }
}

fn is_telling(diagnostic: &Diagnostic) -> bool {
    diagnostic.severity >= Severity::Warning && group(diagnostic.object.kind).is_some()
}

/// In a namespace that is being deleted nothing can be created any more, so that the API server refuses an Event; and whoever deletes a
/// namespace needs none about Services that go before their Ingresses.
fn is_leaving(object: &ObjectRef, objects: &Objects) -> bool {
    let namespace = objects.namespaces.get(&Key::new("", &*object.namespace));
    namespace.is_some_and(|namespace| namespace.metadata.deletion_timestamp.is_some())
}

/// The apiVersion of a kind; none for what is in no cluster.
fn group(kind: Kind) -> Option<&'static str> {
    match kind {
        Kind::ConfigMap | Kind::Namespace | Kind::Node | Kind::Secret | Kind::Service => Some("v1"),
        Kind::EndpointSlice => Some("discovery.k8s.io/v1"),
        Kind::Ingress | Kind::IngressClass => Some("networking.k8s.io/v1"),
        Kind::File => None,
    }
}

/// The namespace to write it in, and the Event; `me` is the agent that tells.
pub(super) fn event(diagnostic: &Diagnostic, objects: &Objects, me: &str) -> (String, Event) {
    let object = &diagnostic.object;
    // Events on objects without a namespace are in this one, as everywhere in Kubernetes.
    let namespace = match &*object.namespace {
        "" => "default",
        namespace => namespace,
    };
    let note = match diagnostic.field.as_str() {
        "" => diagnostic.message.clone(),
        field => format!("{field}: {}", diagnostic.message),
    };
    let reference = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
    let name: String = object.name.chars().take(200).collect();
    let event = Event {
        metadata: ObjectMeta {
            name: Some(format!("{name}.{:016x}", fastrand::u64(..))),
            namespace: Some(namespace.to_owned()),
            ..ObjectMeta::default()
        },
        action: Some("Check".to_owned()),
        event_time: Some(MicroTime(Timestamp::now())),
        note: Some(cut(&note, LONGEST_NOTE)),
        reason: Some(diagnostic.reason.to_owned()),
        regarding: Some(ObjectReference {
            api_version: group(object.kind).map(str::to_owned),
            kind: Some(object.kind.as_str().to_owned()),
            namespace: reference(&object.namespace),
            name: reference(&object.name),
            // kubectl describe finds Events by it.
            uid: uid(object, objects),
            ..ObjectReference::default()
        }),
        reporting_controller: Some("ingress-agent.io/controller".to_owned()),
        reporting_instance: Some(cut(me, LONGEST_INSTANCE)),
        type_: Some("Warning".to_owned()),
        ..Event::default()
    };
    (namespace.to_owned(), event)
}

fn uid(object: &ObjectRef, objects: &Objects) -> Option<String> {
    let key = Key::new(&*object.namespace, &*object.name);
    let metadata = match object.kind {
        Kind::ConfigMap => objects.config_maps.get(&key).map(|object| &object.metadata),
        Kind::EndpointSlice => objects.endpoint_slices.get(&key).map(|object| &object.metadata),
        Kind::Ingress => objects.ingresses.get(&key).map(|object| &object.metadata),
        Kind::IngressClass => objects.ingress_classes.get(&key).map(|object| &object.metadata),
        Kind::Secret => objects.secrets.get(&key).map(|object| &object.metadata),
        Kind::Service => objects.services.get(&key).map(|object| &object.metadata),
        Kind::Namespace => objects.namespaces.get(&key).map(|object| &object.metadata),
        Kind::Node => objects.nodes.get(&key).map(|object| &object.metadata),
        Kind::File => None,
    };
    metadata.and_then(|metadata| metadata.uid.clone())
}

fn cut(text: &str, bytes: usize) -> String {
    let end = (0..=bytes.min(text.len()))
        .rev()
        .find(|end| text.is_char_boundary(*end));
    text[..end.unwrap_or(0)].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(severity: Severity, name: &str) -> Diagnostic {
        let object = ObjectRef::new(Kind::Ingress, "shop", name);
        Diagnostic::new(
            severity,
            &object,
            "spec.tls[0]",
            "SecretNotFound",
            "does not exist",
        )
    }

    fn none() -> Objects {
        Objects::default()
    }

    #[test]
    fn in_a_namespace_that_is_being_deleted_no_event_is_tried_and_none_of_the_budget_spent() {
        let json =
            serde_json::json!({"metadata": {"name": "shop", "deletionTimestamp": "2026-01-01T00:00:00Z"}});
        let mut objects = none();
        let namespace = std::sync::Arc::new(serde_json::from_value(json).unwrap());
        objects.namespaces.insert(Key::new("", "shop"), namespace);
        let start = Instant::now();
        let mut ledger = Ledger::new(start);
        let mut all: Vec<_> = (0..100)
            .map(|index| problem(Severity::Error, &format!("web-{index}")))
            .collect();
        assert!(ledger.due(&all, &objects, start).is_empty() && !ledger.has_more(&all, &objects));
        let other = ObjectRef::new(Kind::Ingress, "office", "web");
        all.push(Diagnostic::new(
            Severity::Warning,
            &other,
            "spec",
            "ServiceNotFound",
            "does not exist",
        ));
        let due = ledger.due(&all, &objects, start);
        assert_eq!(due.len(), 1);
        assert_eq!(&*due[0].object.namespace, "office");
    }

    #[test]
    fn a_problem_is_told_once_an_hour_as_long_as_it_stands() {
        let start = Instant::now();
        let mut ledger = Ledger::new(start);
        let all = [problem(Severity::Error, "web"), problem(Severity::Info, "web")];
        assert_eq!(ledger.due(&all, &none(), start).len(), 1);
        let mut edited = problem(Severity::Error, "web");
        edited.generation = Some(2);
        assert!(
            ledger.due(&[edited], &none(), start).is_empty(),
            "the same problem"
        );
        assert!(ledger.due(&all, &none(), start + AGAIN / 2).is_empty());
        assert!(
            ledger.due(&[], &none(), start + AGAIN / 2).is_empty(),
            "gone, and back:"
        );
        assert!(ledger.due(&all, &none(), start + AGAIN / 2).is_empty());
        assert_eq!(ledger.due(&all, &none(), start + AGAIN).len(), 1);
    }

    #[test]
    fn a_thousand_problems_keep_to_the_budget_errors_first() {
        let start = Instant::now();
        let mut ledger = Ledger::new(start);
        let mut all: Vec<_> = (0..1000)
            .map(|index| problem(Severity::Warning, &format!("web-{index}")))
            .collect();
        all.push(problem(Severity::Error, "worst"));
        let first = ledger.due(&all, &none(), start);
        assert_eq!(first.len(), 25);
        assert_eq!(&*first[0].object.name, "worst");
        assert!(ledger.due(&all, &none(), start).is_empty() && ledger.has_more(&all, &none()));
        assert_eq!(
            ledger.due(&all, &none(), start + Duration::from_secs(60)).len(),
            10
        );
    }

    #[test]
    fn an_event_names_its_object_by_uid_and_is_within_the_api_servers_bounds() {
        let mut objects = Objects::default();
        let json = serde_json::json!({"metadata": {"namespace": "shop", "name": "web", "uid": "42"}});
        let ingress = std::sync::Arc::new(serde_json::from_value(json).unwrap());
        objects.ingresses.insert(Key::new("shop", "web"), ingress);
        let object = ObjectRef::new(Kind::Ingress, "shop", "web");
        let long = Diagnostic::new(
            Severity::Error,
            &object,
            "spec",
            "SecretNotFound",
            "ü".repeat(2000),
        );
        let (namespace, event) = event(&long, &objects, &"n".repeat(300));
        assert_eq!(namespace, "shop");
        assert_eq!(event.regarding.unwrap().uid.as_deref(), Some("42"));
        assert!(event.note.unwrap().len() <= 1024);
        assert!(event.reporting_instance.unwrap().len() <= 128);
    }
}
