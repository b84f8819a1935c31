//! `spec.rules[].http.paths[]`: `path` and `pathType` to what a request's path is compared with.

use std::collections::HashMap;
use std::sync::Arc;

use ingress_core::path::normalise;
use ingress_core::resource::{PathMatch, PathRegex};

use super::notes::excerpt;

/// Which paths of an Ingress are expressions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Expressions {
    /// None: ImplementationSpecific is Prefix.
    #[default]
    None,
    /// ImplementationSpecific paths, and Prefix paths that would make no sense as a path (annotation `use-regex`, or a
    /// `rewrite-target` that names capture groups).
    WhereWritten,
}

/// Compiled expressions by their source, kept from one translation to the next.
#[derive(Debug, Default)]
pub(super) struct Regexes {
    before: HashMap<String, Arc<PathRegex>>,
    now: HashMap<String, Arc<PathRegex>>,
}

impl Regexes {
    /// Ends a translation: what it did not use is forgotten.
    pub(super) fn turn(&mut self) {
        self.before = std::mem::take(&mut self.now);
    }

    fn get(&mut self, source: &str) -> Result<Arc<PathRegex>, String> {
        if let Some(known) = self.now.get(source) {
            return Ok(Arc::clone(known));
        }
        let regex = match self.before.get(source) {
            Some(known) => Arc::clone(known),
            None => Arc::new(PathRegex::new(source)?),
        };
        self.now.insert(source.to_owned(), Arc::clone(&regex));
        Ok(regex)
    }
}

/// Reads one path; the error is a sentence about it.
pub(super) fn read(
    path: Option<&str>,
    path_type: &str,
    expressions: Expressions,
    regexes: &mut Regexes,
) -> Result<PathMatch, String> {
    let written = path.filter(|path| !path.is_empty());
    let is_expression = |path: &str| {
        expressions == Expressions::WhereWritten
            && (path_type == "ImplementationSpecific" || path.bytes().any(is_expression_byte))
    };
    match (path_type, written) {
        ("ImplementationSpecific", None) => Ok(PathMatch::Prefix("".into())),
        ("ImplementationSpecific" | "Prefix", Some(path)) if is_expression(path) => {
            must_be_absolute(path)?;
            regex(path, regexes)
        }
        ("ImplementationSpecific", Some(path)) => {
            must_be_absolute(path)?;
            prefix(path)
        }
        ("Exact" | "Prefix", None) => Err("is required for pathType Exact and Prefix".to_owned()),
        ("Exact", Some(path)) => {
            check_as_api_server(path)?;
            Ok(PathMatch::Exact(normal_form(path)?))
        }
        ("Prefix", Some(path)) => {
            check_as_api_server(path)?;
            prefix(path)
        }
        (other, _) => Err(format!(
            "has pathType {}; it must be Exact, Prefix or ImplementationSpecific",
            excerpt(other)
        )),
    }
}

fn regex(source: &str, regexes: &mut Regexes) -> Result<PathMatch, String> {
    // The regex crate's message spans lines and points at the spot; the last line says what is wrong.
    let last_line = |error: String| error.lines().last().unwrap_or_default().trim().to_owned();
    match regexes.get(source) {
        Ok(regex) => Ok(PathMatch::Regex(regex)),
        Err(error) => Err(format!(
            "{} is not a usable regular expression: {}",
            excerpt(source),
            last_line(error)
        )),
    }
}

fn prefix(path: &str) -> Result<PathMatch, String> {
    let normal = normal_form(path)?;
    Ok(PathMatch::Prefix(normal.trim_end_matches('/').into()))
}

fn normal_form(path: &str) -> Result<Arc<str>, String> {
    match normalise(path) {
        Ok(path) => Ok(path.into()),
        Err(why) => Err(format!("{} {}", excerpt(path), why.0)),
    }
}

fn must_be_absolute(path: &str) -> Result<(), String> {
    if path.starts_with('/') {
        return Ok(());
    }
    Err(format!("{} must be an absolute path", excerpt(path)))
}

/// What the API server refuses in Exact and Prefix paths (validateIngressHTTPPath).
fn check_as_api_server(path: &str) -> Result<(), String> {
    must_be_absolute(path)?;
    for sequence in ["//", "/./", "/../", "%2f", "%2F"] {
        if path.contains(sequence) {
            return Err(format!("{} must not contain '{sequence}'", excerpt(path)));
        }
    }
    for ending in ["/..", "/."] {
        if path.ends_with(ending) {
            return Err(format!("{} cannot end with '{ending}'", excerpt(path)));
        }
    }
    Ok(())
}

/// Bytes that no path has by itself (RFC 3986, 3.3 allows `(`, `)`, `*`, `+` and `$`, but whoever asks for expressions means one).
fn is_expression_byte(b: u8) -> bool {
    matches!(
        b,
        b'(' | b')' | b'[' | b']' | b'{' | b'}' | b'*' | b'+' | b'?' | b'^' | b'$' | b'|' | b'\\'
    )
}
