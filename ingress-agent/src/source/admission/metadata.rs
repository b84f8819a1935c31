//! What all kinds have in common: name, namespace, labels, annotations.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::field::{Errors, Path};
use super::names;

/// Keys and values of all annotations of an object.
const MAX_ANNOTATION_BYTES: usize = 256 * 1024;

/// Where objects of a kind live.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    Namespace,
    Cluster,
}

pub(super) fn validate(
    meta: &ObjectMeta,
    scope: Scope,
    name_rule: fn(&str) -> Vec<String>,
    errors: &mut Errors,
) {
    let path = Path::new("metadata");
    name(meta, name_rule, &path, errors);
    namespace(meta, scope, &path, errors);
    labels(meta.labels.iter().flatten(), &path.child("labels"), errors);
    annotations(meta, &path.child("annotations"), errors);
}

/// Keys and values of labels or of a selector.
pub(super) fn labels<'a>(
    labels: impl Iterator<Item = (&'a String, &'a String)>,
    path: &Path,
    errors: &mut Errors,
) {
    for (key, value) in labels {
        errors.invalid_each(path, key.as_str(), names::qualified_name(key));
        errors.invalid_each(path, value.as_str(), names::label_value(value));
    }
}

fn name(meta: &ObjectMeta, name_rule: fn(&str) -> Vec<String>, path: &Path, errors: &mut Errors) {
    let generated = meta.generate_name.as_deref().unwrap_or_default();
    match meta.name.as_deref().unwrap_or_default() {
        "" if generated.is_empty() => {
            errors.required(&path.child("name"), "name or generateName is required")
        }
        // The same file read twice would be two objects.
        "" => errors.required(
            &path.child("name"),
            "in a folder of manifests nobody completes a generateName",
        ),
        name => errors.invalid_each(&path.child("name"), name, name_rule(name)),
    }
}

fn namespace(meta: &ObjectMeta, scope: Scope, path: &Path, errors: &mut Errors) {
    let namespace = meta.namespace.as_deref().unwrap_or_default();
    let path = path.child("namespace");
    match scope {
        Scope::Namespace => errors.invalid_each(&path, namespace, names::dns_label(namespace)),
        Scope::Cluster => {}
    }
}

fn annotations(meta: &ObjectMeta, path: &Path, errors: &mut Errors) {
    let mut total = 0_usize;
    for (key, value) in meta.annotations.iter().flatten() {
        // Upper case is fine in the prefix of an annotation, unlike in a label's.
        errors.invalid_each(path, key.as_str(), names::qualified_name(&key.to_lowercase()));
        total = total.saturating_add(key.len()).saturating_add(value.len());
    }
    if total > MAX_ANNOTATION_BYTES {
        errors.too_long(path, MAX_ANNOTATION_BYTES);
    }
}
