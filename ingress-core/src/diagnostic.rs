//! What is wrong with an object, as data: feeds the log, metrics, Events, status and the command line alike.

use std::fmt;

use serde::Serialize;

use crate::name::ObjectRef;

/// How bad it is for traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Worth knowing; traffic is what the author wanted.
    Info,
    /// Part of what the object asks for has no effect.
    Warning,
    /// Some requests get an error, or go elsewhere, because of this.
    Error,
}

impl Severity {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// One problem of one object. Ordered by object first, so that a sorted list reads object by object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Diagnostic {
    pub object: ObjectRef,
    /// The field as a path from the object's root, such as `spec.rules[0].http.paths[1].backend`; empty for the whole object.
    pub field: String,
    /// A stable CamelCase word, such as `ServiceNotFound`: metric label and Event reason.
    pub reason: &'static str,
    pub severity: Severity,
    /// A sentence for the person who can fix it.
    pub message: String,
    /// `metadata.generation` of the object that was looked at, where it has one.
    pub generation: Option<i64>,
}

impl Diagnostic {
    /// Control characters, which a quoted key or value may have, are replaced, as they could forge lines of a log; long texts are cut.
    pub fn new(
        severity: Severity,
        object: &ObjectRef,
        field: impl Into<String>,
        reason: &'static str,
        message: impl Into<String>,
    ) -> Self {
        Self {
            object: named_on_one_line(object),
            field: on_one_line(field.into()),
            reason,
            severity,
            message: on_one_line(message.into()),
            generation: None,
        }
    }
}

/// Bytes of a name, field or message: a quoted key may be as long as its file.
const LONGEST: usize = 1000;

fn named_on_one_line(object: &ObjectRef) -> ObjectRef {
    if is_fine(&object.namespace) && is_fine(&object.name) {
        return object.clone();
    }
    let [namespace, name] = [&object.namespace, &object.name].map(|text| on_one_line(text.to_string()));
    ObjectRef::new(object.kind, namespace, name)
}

fn is_fine(text: &str) -> bool {
    text.len() <= LONGEST && !text.contains(char::is_control)
}

fn on_one_line(mut text: String) -> String {
    if is_fine(&text) {
        return text;
    }
    if text.len() > LONGEST {
        text.truncate(text.floor_char_boundary(LONGEST));
        text.push('\u{2026}');
    }
    text.replace(['\n', '\t'], " ")
        .replace(char::is_control, "\u{fffd}")
}

/// `error: Ingress shop/web spec.tls[0].secretName: Secret "shop/web-tls" does not exist (SecretNotFound)`
impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.severity.as_str(), self.object)?;
        if !self.field.is_empty() {
            write!(f, " {}", self.field)?;
        }
        write!(f, ": {} ({})", self.message, self.reason)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::name::Kind;

    #[test]
    fn a_quoted_line_break_forges_no_line_of_a_log() {
        let object = ObjectRef::new(Kind::Ingress, "shop", "we\nb");
        let message = "found \"a\n\tb\r\u{1b}[2J\"";
        let diagnostic = Diagnostic::new(
            Severity::Error,
            &object,
            "metadata.annotations[a\nb]",
            "Odd",
            message,
        );
        assert_eq!(
            diagnostic.to_string(),
            "error: Ingress shop/we b metadata.annotations[a b]: found \"a  b\u{fffd}\u{fffd}[2J\" (Odd)"
        );
    }
}
