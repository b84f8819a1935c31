//! Collecting what is wrong with one object. Bounded: a hostile object gets a bounded number of bounded sentences.

use std::sync::Arc;

use ingress_core::diagnostic::{Diagnostic, Severity};
use ingress_core::name::ObjectRef;

/// More than this about one object helps nobody, and an object can be made to have a million problems.
const LIMIT: usize = 50;

/// The Diagnostics of one object.
#[derive(Debug)]
pub(super) struct Notes {
    pub(super) object: Arc<ObjectRef>,
    generation: Option<i64>,
    list: Vec<Diagnostic>,
    suppressed: usize,
}

impl Notes {
    pub(super) fn new(object: Arc<ObjectRef>, generation: Option<i64>) -> Self {
        Self {
            object,
            generation,
            list: Vec::new(),
            suppressed: 0,
        }
    }

    pub(super) fn error(&mut self, field: &str, reason: &'static str, message: String) {
        self.add(Severity::Error, field, reason, message);
    }

    pub(super) fn warning(&mut self, field: &str, reason: &'static str, message: String) {
        self.add(Severity::Warning, field, reason, message);
    }

    pub(super) fn info(&mut self, field: &str, reason: &'static str, message: String) {
        self.add(Severity::Info, field, reason, message);
    }

    pub(super) fn add(&mut self, severity: Severity, field: &str, reason: &'static str, message: String) {
        if self.is_full() {
            self.suppressed += 1;
            return;
        }
        self.push(severity, field, reason, message);
    }

    /// Whether another Diagnostic would only be counted: a reason not to work on its text.
    pub(super) fn is_full(&self) -> bool {
        self.list.len() >= LIMIT
    }

    /// Hands everything over, with one closing line where something was left out.
    pub(super) fn finish(mut self, into: &mut Vec<Diagnostic>) {
        if self.suppressed > 0 {
            let message = format!("has {} more problems, which are not listed", self.suppressed);
            self.push(Severity::Warning, "", "MoreProblems", message);
        }
        into.append(&mut self.list);
    }

    fn push(&mut self, severity: Severity, field: &str, reason: &'static str, message: String) {
        let mut diagnostic = Diagnostic::new(severity, &self.object, field, reason, message);
        diagnostic.generation = self.generation;
        self.list.push(diagnostic);
    }
}

/// A value as a message may show it: quoted, escaped (it goes to logs), and not a megabyte long.
pub(super) fn excerpt(value: &str) -> String {
    const SHOWN: usize = 80;
    match value.char_indices().nth(SHOWN) {
        None => format!("{value:?}"),
        Some((end, _)) => format!("{:?}… ({} bytes)", &value[..end], value.len()),
    }
}
