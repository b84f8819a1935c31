//! From the text of a manifest file to typed objects, not yet admitted.
//!
//! Knows YAML, JSON, kinds and `List`s; knows nothing of folders, of other files, or of what an API server would refuse.

mod node;
pub(super) mod object;
mod typed;

use std::collections::BTreeMap;
use std::sync::Arc;

use ingress_core::diagnostic::{Diagnostic, Severity};
use ingress_core::name::{Kind, ObjectRef};
use k8s_openapi::NamespaceResourceScope;
use serde::de::DeserializeOwned;

use self::node::{Node, Value};
use self::object::Object;
use self::typed::Values;

/// The namespace of an object that names none, as with kubectl.
const DEFAULT_NAMESPACE: &str = "default";
/// `List`s within `List`s.
const MAX_LIST_DEPTH: usize = 4;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Yaml,
    Json,
}

/// What a file that could be read holds.
#[derive(Debug, Default)]
pub(super) struct Manifest {
    pub(super) entries: Vec<Entry>,
    /// What is worth saying about the file that has nothing to do with one object.
    pub(super) diagnostics: Vec<Diagnostic>,
}

#[derive(Debug)]
pub(super) enum Entry {
    Object {
        object: Object,
        warnings: Vec<Diagnostic>,
    },
    /// A document that names itself but is not of its kind's type.
    Broken { reference: ObjectRef, message: String },
}

/// Reads a file; an error is one that concerns the file as a whole, with line and column.
pub(super) fn parse(text: &[u8], format: Format, file: &ObjectRef) -> Result<Manifest, String> {
    let text = std::str::from_utf8(text).map_err(|error| utf8_message(text, &error))?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let documents = match format {
        Format::Yaml => node::parse_yaml(text)?,
        Format::Json => node::parse_json(text)?,
    };
    let mut reading = Reading {
        file,
        manifest: Manifest::default(),
        ignored: BTreeMap::new(),
    };
    for document in &documents {
        reading.document(document, 0)?;
    }
    Ok(reading.finish())
}

fn utf8_message(text: &[u8], error: &std::str::Utf8Error) -> String {
    let before = text.get(..error.valid_up_to()).unwrap_or_default();
    let line = before
        .iter()
        .filter(|byte| **byte == b'\n')
        .count()
        .saturating_add(1);
    let column = before
        .rsplit(|byte| *byte == b'\n')
        .next()
        .map_or(0, <[u8]>::len)
        .saturating_add(1);
    format!("line {line}, column {column}: expected UTF-8 text, found a byte that is none")
}

struct Reading<'f> {
    file: &'f ObjectRef,
    manifest: Manifest,
    /// Kinds that are none of ours, and how many of each.
    ignored: BTreeMap<String, usize>,
}

impl Reading<'_> {
    fn document(&mut self, node: &Node, depth: usize) -> Result<(), String> {
        if node.is_null() {
            return Ok(());
        }
        if !matches!(node.value, Value::Map(_)) {
            return Err(format!(
                "{}expected an object with apiVersion and kind, found {}",
                node.at,
                node.describe()
            ));
        }
        let api_version = required_text(node, "apiVersion")?;
        let kind = required_text(node, "kind")?;
        match (api_version, kind) {
            ("networking.k8s.io/v1", "Ingress") => self.object(node, Kind::Ingress, Object::Ingress),
            ("networking.k8s.io/v1", "IngressClass") => {
                self.object(node, Kind::IngressClass, Object::IngressClass)
            }
            ("v1", "Service") => self.object(node, Kind::Service, Object::Service),
            ("discovery.k8s.io/v1", "EndpointSlice") => {
                self.object(node, Kind::EndpointSlice, Object::EndpointSlice)
            }
            ("v1", "Secret") => self.object(node, Kind::Secret, Object::Secret),
            ("v1", "ConfigMap") => self.object(node, Kind::ConfigMap, Object::ConfigMap),
            ("v1", "Namespace") => self.object(node, Kind::Namespace, Object::Namespace),
            ("v1", "Node") => self.object(node, Kind::Node, Object::Node),
            _ if is_list(api_version, kind) => return self.list(node, depth),
            _ => self.other(api_version, kind, node),
        }
        Ok(())
    }

    fn list(&mut self, node: &Node, depth: usize) -> Result<(), String> {
        if depth >= MAX_LIST_DEPTH {
            return Err(format!(
                "{}a List may hold Lists at most {MAX_LIST_DEPTH} deep",
                node.at
            ));
        }
        let Some(items) = node.get("items") else {
            return Ok(());
        };
        match &items.value {
            Value::List(items) => items.iter().try_for_each(|item| {
                let item = with_type_of_list(node, item);
                self.document(&item, depth.saturating_add(1))
            }),
            Value::Null => Ok(()),
            _ => Err(format!(
                "{}items: expected a list of objects, found {}",
                items.at,
                items.describe()
            )),
        }
    }

    fn object<T>(&mut self, node: &Node, kind: Kind, wrap: fn(Arc<T>) -> Object)
    where
        T: DeserializeOwned + Defaulted,
    {
        let values = match kind {
            Kind::Secret => Values::Hidden,
            _ => Values::Shown,
        };
        match typed::from_node::<T>(node, values) {
            Ok((mut value, unknown)) => {
                value.default_namespace();
                let object = wrap(Arc::new(value));
                let reference = object.reference();
                let warnings = unknown
                    .into_iter()
                    .map(|field| unknown_field(&reference, &field))
                    .collect();
                self.manifest.entries.push(Entry::Object { object, warnings });
            }
            Err(error) => self.manifest.entries.push(Entry::Broken {
                reference: reference_of(node, kind),
                message: error.to_string(),
            }),
        }
    }

    fn other(&mut self, api_version: &str, kind: &str, node: &Node) {
        let Some(fix) = superseded(api_version, kind) else {
            let count = self.ignored.entry(format!("{kind} ({api_version})")).or_default();
            *count = count.saturating_add(1);
            return;
        };
        let name = node
            .get("metadata")
            .and_then(|metadata| metadata.get("name"))
            .and_then(Node::text);
        let message = format!(
            "{}{kind} {:?} has apiVersion {api_version}, which Kubernetes no longer serves: {fix}",
            node.at,
            name.unwrap_or_default()
        );
        let diagnostic = Diagnostic::new(
            Severity::Warning,
            self.file,
            "apiVersion",
            "UnsupportedVersion",
            message,
        );
        self.manifest.diagnostics.push(diagnostic);
    }

    fn finish(mut self) -> Manifest {
        if !self.ignored.is_empty() {
            let kinds: Vec<_> = self
                .ignored
                .iter()
                .map(|(kind, count)| format!("{count} {kind}"))
                .collect();
            let message = format!("not read, as the agent has no use for them: {}", kinds.join(", "));
            let diagnostic = Diagnostic::new(Severity::Info, self.file, "", "KindIgnored", message);
            self.manifest.diagnostics.push(diagnostic);
        }
        self.manifest
    }
}

/// What only the metadata's type parameter knows: whether objects of the kind live in a namespace.
trait Defaulted {
    fn default_namespace(&mut self);
}

impl<T> Defaulted for T
where
    T: k8s_openapi::Metadata<Ty = k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta>,
    T::Scope: 'static,
{
    fn default_namespace(&mut self) {
        let namespaced =
            std::any::TypeId::of::<T::Scope>() == std::any::TypeId::of::<NamespaceResourceScope>();
        let namespace = &mut self.metadata_mut().namespace;
        if namespaced && namespace.as_deref().unwrap_or_default().is_empty() {
            *namespace = Some(DEFAULT_NAMESPACE.to_owned());
        }
    }
}

fn required_text<'n>(node: &'n Node, field: &str) -> Result<&'n str, String> {
    match node.get(field) {
        Some(value) => value.text().ok_or_else(|| {
            format!(
                "{}{field}: expected a string, found {}",
                value.at,
                value.describe()
            )
        }),
        None => Err(format!(
            "{}expected an object with apiVersion and kind, found no {field}",
            node.at
        )),
    }
}

fn is_list(api_version: &str, kind: &str) -> bool {
    match api_version {
        "v1" => matches!(
            kind,
            "List" | "ServiceList" | "SecretList" | "ConfigMapList" | "NamespaceList" | "NodeList"
        ),
        "networking.k8s.io/v1" => matches!(kind, "IngressList" | "IngressClassList"),
        "discovery.k8s.io/v1" => kind == "EndpointSliceList",
        _ => false,
    }
}

/// The items of an `IngressList` need not say that they are Ingresses.
fn with_type_of_list<'n>(list: &Node, item: &'n Node) -> std::borrow::Cow<'n, Node> {
    let kind = list
        .get("kind")
        .and_then(Node::text)
        .and_then(|kind| kind.strip_suffix("List"));
    let (Some(kind), Some(version)) = (kind.filter(|kind| !kind.is_empty()), list.get("apiVersion")) else {
        return std::borrow::Cow::Borrowed(item);
    };
    if item.get("kind").is_some() {
        return std::borrow::Cow::Borrowed(item);
    }
    let mut item = item.clone();
    if let Value::Map(entries) = &mut item.value {
        let kind = Node {
            value: Value::String(kind.to_owned()),
            at: item.at,
        };
        entries.retain(|(name, _)| name != "apiVersion");
        entries.push(("kind".to_owned(), kind));
        entries.push(("apiVersion".to_owned(), version.clone()));
    }
    std::borrow::Cow::Owned(item)
}

/// What to do about a version of one of our kinds that is no more.
fn superseded(api_version: &str, kind: &str) -> Option<&'static str> {
    match (api_version, kind) {
        ("extensions/v1beta1" | "networking.k8s.io/v1beta1", "Ingress") => Some(
            "write networking.k8s.io/v1, with backend.service.name and backend.service.port instead of serviceName and servicePort, \
             and a pathType for every path",
        ),
        ("networking.k8s.io/v1beta1", "IngressClass") => Some("write networking.k8s.io/v1"),
        ("discovery.k8s.io/v1beta1", "EndpointSlice") => {
            Some("write discovery.k8s.io/v1, with nodeName and zone instead of topology")
        }
        _ => None,
    }
}

/// Worded as the API server's strict field validation.
fn unknown_field(reference: &ObjectRef, field: &typed::UnknownField) -> Diagnostic {
    let message = format!("{}unknown field {:?}", field.at, field.path);
    Diagnostic::new(
        Severity::Warning,
        reference,
        field.path.clone(),
        "UnknownField",
        message,
    )
}

/// The name that a document gives itself, as far as it can be read.
fn reference_of(node: &Node, kind: Kind) -> ObjectRef {
    let metadata = node.get("metadata");
    let text = |field| {
        metadata
            .and_then(|m| m.get(field))
            .and_then(Node::text)
            .unwrap_or_default()
    };
    let namespace = match (kind, text("namespace")) {
        (Kind::IngressClass | Kind::Namespace | Kind::Node, _) => "",
        (_, "") => DEFAULT_NAMESPACE,
        (_, namespace) => namespace,
    };
    ObjectRef::new(kind, namespace, text("name"))
}

#[cfg(test)]
mod tests;
