//! Annotations of an Ingress to its policy. What exists, and what it does, is in [`table`] alone.

mod draft;
pub(super) mod table;
#[cfg(test)]
mod tests;
mod value;

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use http::{HeaderName, HeaderValue, header};
use ingress_core::diagnostic::Severity;
use ingress_core::host::HostPattern;
use ingress_core::resource::{CanaryWhen, RoutePolicy};
use k8s_openapi::api::networking::v1::Ingress;

use self::draft::Draft;
use super::notes::{Notes, excerpt};
use super::rule_path::Expressions;
use super::service::Speech;
use crate::objects::{Key, Objects};

/// Both mean the same; our own, the last, wins.
pub(super) const PREFIXES: [&str; 2] = ["nginx.ingress.kubernetes.io/", "ingress-agent.io/"];

/// What the annotations of one Ingress say.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Settings {
    pub(super) policy: Arc<RoutePolicy>,
    pub(super) speech: Speech,
    pub(super) expressions: Expressions,
    /// The Ingress is a canary: its paths are alternatives for those of another.
    pub(super) canary: Option<CanaryWhen>,
    /// More hosts for each rule that has one.
    pub(super) aliases: Vec<HostPattern>,
    pub(super) www_redirect: bool,
}

impl Default for Settings {
    fn default() -> Self {
        static PLAIN: LazyLock<Arc<RoutePolicy>> = LazyLock::new(Arc::default);
        Self {
            policy: Arc::clone(&PLAIN),
            speech: Speech::default(),
            expressions: Expressions::default(),
            canary: None,
            aliases: Vec::new(),
            www_redirect: false,
        }
    }
}

/// Reads all annotations under our prefixes; what is wrong with one changes nothing else.
pub(super) fn read(ingress: &Ingress, objects: &Objects, notes: &mut Notes) -> Settings {
    let given = given(ingress);
    if given.is_empty() {
        return Settings::default();
    }
    let mut draft = Draft::default();
    for (name, written) in &given {
        apply(name, written, &mut draft, notes);
    }
    check_canary(&draft, &given, notes);
    let headers = custom_headers(&draft, &given, objects, notes);
    draft.finish(headers)
}

/// The highest `$n` of a rewrite template.
pub(super) fn highest_group(template: &str) -> Option<usize> {
    let after_dollar = template.split('$').skip(1);
    let numbers = after_dollar.filter_map(|rest| {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        rest.get(..digits)?.parse().ok()
    });
    numbers.max()
}

/// An annotation as it stands on the Ingress.
struct Written<'a> {
    key: &'a str,
    value: &'a str,
}

impl Written<'_> {
    fn field(&self) -> String {
        // The API server allows 317 bytes (253 for the prefix, 63 for the name); a file may hold anything.
        let cut = self.key.char_indices().nth(320);
        let (shown, more) = match cut.and_then(|(end, _)| self.key.get(..end)) {
            Some(start) => (start, "…"),
            None => (self.key, ""),
        };
        format!("metadata.annotations[{}{more}]", shown.escape_debug())
    }
}

/// By name without prefix; where both prefixes have it, ours.
fn given(ingress: &Ingress) -> BTreeMap<&str, Written<'_>> {
    let mut given = BTreeMap::new();
    for prefix in PREFIXES {
        for (key, value) in ingress.metadata.annotations.iter().flatten() {
            if let Some(name) = key.strip_prefix(prefix) {
                given.insert(
                    name,
                    Written {
                        key,
                        value: value.trim(),
                    },
                );
            }
        }
    }
    given
}

fn apply(name: &str, written: &Written<'_>, draft: &mut Draft, notes: &mut Notes) {
    let Some(row) = table::find(name) else {
        if !notes.is_full() {
            return unknown(name, written, notes);
        }
        return notes.warning("", "UnknownAnnotation", String::new());
    };
    if let Err(expected) = (row.apply)(written.value, draft) {
        let message = format!("{} is not valid: expected {expected}", excerpt(written.value));
        // A list of sources with a mistake in it denies or admits others than its author thinks.
        let severity = match name.ends_with("-source-range") {
            true => Severity::Error,
            false => Severity::Warning,
        };
        notes.add(severity, &written.field(), "InvalidAnnotation", message);
    }
}

fn unknown(name: &str, written: &Written<'_>, notes: &mut Notes) {
    let field = written.field();
    if let Some(entry) = table::find_unsupported(name) {
        let message = format!("{} is not supported: {}", excerpt(name), entry.consequence);
        let severity = if entry.grave {
            Severity::Error
        } else {
            Severity::Warning
        };
        return notes.add(severity, &field, "UnsupportedAnnotation", message);
    }
    let message = match nearest(name) {
        Some(near) => format!("is not known; did you mean {near:?}?"),
        None => "is not known and has no effect".to_owned(),
    };
    notes.warning(&field, "UnknownAnnotation", message);
}

/// The annotation whose name is a slip of the pen away.
fn nearest(name: &str) -> Option<&'static str> {
    const LONGEST: usize = 64;
    if name.len() > LONGEST {
        return None;
    }
    let by_distance = table::rows().map(|row| (distance(name.as_bytes(), row.name.as_bytes()), row.name));
    let (distance, near) = by_distance.min()?;
    (distance <= 1 + near.len() / 6).then_some(near)
}

/// Levenshtein's.
fn distance(a: &[u8], b: &[u8]) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (cell, y) in row.iter_mut().skip(1).zip(b) {
            let substituted = diagonal + usize::from(x != y);
            diagonal = *cell;
            left = substituted.min(left + 1).min(diagonal + 1);
            *cell = left;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or_default()
}

/// A canary that nothing leads to, and details of a canary that is none.
fn check_canary(draft: &Draft, given: &BTreeMap<&str, Written<'_>>, notes: &mut Notes) {
    let Some(written) = given.get("canary") else {
        if let Some((name, written)) = given.iter().find(|(name, _)| name.starts_with("canary-")) {
            let message = format!("{name:?} has no effect without the annotation \"canary\": \"true\"");
            notes.warning(&written.field(), "CanaryOff", message);
        }
        return;
    };
    let leads = draft.canary_weight.is_some_and(|weight| weight > 0)
        || draft.canary_header.is_some()
        || draft.canary_cookie.is_some();
    if draft.canary == Some(true) && !leads {
        let message =
            "no request takes this canary: it has no weight above 0, no header and no cookie".to_owned();
        notes.warning(&written.field(), "CanaryUnreachable", message);
    }
}

/// The entries of the ConfigMap that `custom-headers` names.
fn custom_headers(
    draft: &Draft,
    given: &BTreeMap<&str, Written<'_>>,
    objects: &Objects,
    notes: &mut Notes,
) -> Vec<(HeaderName, HeaderValue)> {
    let (Some((namespace, name)), Some(written)) = (&draft.custom_headers, given.get("custom-headers"))
    else {
        return Vec::new();
    };
    let own = Arc::clone(&notes.object.namespace);
    let field = written.field();
    if namespace.as_deref().is_some_and(|namespace| *namespace != *own) {
        let message = format!(
            "{} must be in the namespace of the Ingress, {own:?}",
            excerpt(written.value)
        );
        notes.warning(&field, "InvalidAnnotation", message);
        return Vec::new();
    }
    let Some(map) = objects.config_maps.get(&Key::new(&*own, name.as_str())) else {
        let message = format!("ConfigMap {} does not exist", excerpt(&format!("{own}/{name}")));
        notes.warning(&field, "ConfigMapNotFound", message);
        return Vec::new();
    };
    let mut headers = Vec::new();
    for (name, value) in map.data.iter().flatten() {
        match custom_header(name, value.trim()) {
            Ok(pair) => headers.push(pair),
            Err(why) => {
                let message = format!("the ConfigMap's entry {} {why}; it is left out", excerpt(name));
                notes.warning(&field, "InvalidHeader", message);
            }
        }
    }
    headers
}

fn custom_header(name: &str, value: &str) -> Result<(HeaderName, HeaderValue), &'static str> {
    let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| "is not the name of a header")?;
    // These say how a message is framed (RFC 9110, 7.6.1): a wrong one breaks the connection.
    let framing = [
        header::CONNECTION,
        header::CONTENT_LENGTH,
        header::TE,
        header::TRAILER,
        header::TRANSFER_ENCODING,
        header::UPGRADE,
    ];
    if framing.contains(&name) || matches!(name.as_str(), "keep-alive" | "proxy-connection") {
        return Err("belongs to the connection and can't be set");
    }
    let value = HeaderValue::from_str(value).map_err(|_| "has a value that a header can't have")?;
    Ok((name, value))
}
