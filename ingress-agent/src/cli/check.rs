//! `check`: the whole way from files to a snapshot, without serving it.

use std::io::Write;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use ingress_core::compile::compile;
use ingress_core::diagnostic::{Diagnostic, Severity};
use ingress_core::snapshot::Snapshot;
use serde::Serialize;

use super::{CheckFlags, Exit, Output, complain, print};
use crate::config::Served;
use crate::source::dir;
use crate::translate::{Memory, translate};

/// What was found. `-o json` prints exactly this.
#[derive(Debug, Serialize)]
pub(super) struct Findings {
    ingresses: usize,
    routes: usize,
    errors: usize,
    warnings: usize,
    diagnostics: Vec<Diagnostic>,
}

pub(super) fn check(flags: CheckFlags, out: &mut dyn Write) -> Exit {
    if !flags.dir.is_dir() {
        let problem = format!(
            "{} is not a folder: expected a folder of manifests",
            flags.dir.display()
        );
        return complain(&problem, Exit::Usage);
    }
    let findings = examine(&flags.dir, &flags.classes.resolve());
    let printed = match flags.output {
        Output::Text => print(out, text(&findings).as_bytes()),
        Output::Json => match serde_json::to_string_pretty(&findings) {
            Ok(json) => print(out, (json + "\n").as_bytes()),
            Err(error) => complain(&error.to_string(), Exit::Failed),
        },
    };
    if printed == Exit::Ok {
        verdict(&findings)
    } else {
        printed
    }
}

fn examine(dir: &Path, served: &Served) -> Findings {
    let (state, _) = dir::load(dir, &dir::LastGood::default());
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs();
    let options = served.translate_options(i64::try_from(now).unwrap_or(i64::MAX));
    let translation = translate(&state.objects, &options, &mut Memory::default());
    let (snapshot, compiled) = compile(&translation.resources, &Snapshot::empty());
    let diagnostics = [state.diagnostics, translation.diagnostics, compiled].concat();
    sum_up(
        state.objects.ingresses.len(),
        snapshot.routes().count(),
        diagnostics,
    )
}

pub(super) fn sum_up(ingresses: usize, routes: usize, mut diagnostics: Vec<Diagnostic>) -> Findings {
    diagnostics.sort();
    diagnostics.dedup();
    let count = |severity| {
        diagnostics
            .iter()
            .filter(|diagnostic| diagnostic.severity == severity)
            .count()
    };
    let (errors, warnings) = (count(Severity::Error), count(Severity::Warning));
    Findings {
        ingresses,
        routes,
        errors,
        warnings,
        diagnostics,
    }
}

pub(super) fn verdict(findings: &Findings) -> Exit {
    match (findings.errors, findings.warnings) {
        (0, 0) => Exit::Ok,
        (0, _) => Exit::Warnings,
        _ => Exit::Failed,
    }
}

/// One problem a line, then the sum.
pub(super) fn text(findings: &Findings) -> String {
    let mut text: String = findings
        .diagnostics
        .iter()
        .map(|diagnostic| printable(&diagnostic.to_string()) + "\n")
        .collect();
    text += &format!(
        "{} Ingresses, {} routes: {} errors, {} warnings\n",
        findings.ingresses, findings.routes, findings.errors, findings.warnings
    );
    text
}

/// Manifests may come from anybody: what they hold must not steer the terminal.
fn printable(line: &str) -> String {
    line.replace(char::is_control, "\u{fffd}")
}
