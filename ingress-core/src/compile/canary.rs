//! Canaries, waiting for the route of the same host and path.

use crate::diagnostic::{Diagnostic, Severity};
use crate::fast_map::FastMap;
use crate::host::HostPattern;
use crate::resource::{CanarySpec, PathMatch};

/// The canaries by host and path, most senior first.
pub(super) struct CanariesByPath<'a> {
    by_path: FastMap<(&'a HostPattern, (u8, &'a str)), Waiting<'a>>,
}

#[derive(Default)]
struct Waiting<'a> {
    canaries: Vec<&'a CanarySpec>,
    attached: bool,
}

impl<'a> CanariesByPath<'a> {
    /// Of canaries of one object for one path, the first has effect.
    pub(super) fn new(canaries: &'a [CanarySpec], diagnostics: &mut Vec<Diagnostic>) -> Self {
        let mut sorted: Vec<_> = canaries.iter().collect();
        sorted.sort_unstable_by_key(|canary| (&canary.seniority, &canary.field, &canary.cluster));
        let mut by_path: FastMap<_, Waiting<'a>> = FastMap::default();
        for canary in sorted {
            let waiting = by_path.entry((&canary.host, canary.path.key())).or_default();
            let same_object = |other: &&CanarySpec| other.seniority.object == canary.seniority.object;
            match waiting.canaries.iter().any(same_object) {
                true => diagnostics.push(repeated(canary)),
                false => waiting.canaries.push(canary),
            }
        }
        Self { by_path }
    }

    /// The canaries for a route that forwards.
    pub(super) fn attach(&mut self, host: &'a HostPattern, path: &'a PathMatch) -> &[&'a CanarySpec] {
        match self.by_path.get_mut(&(host, path.key())) {
            Some(waiting) => {
                waiting.attached = true;
                &waiting.canaries
            }
            None => &[],
        }
    }

    /// ingress-nginx ignores a canary without a main route, too; we say so.
    pub(super) fn report_unused(self, diagnostics: &mut Vec<Diagnostic>) {
        let unused = self.by_path.into_values().filter(|waiting| !waiting.attached);
        diagnostics.extend(unused.flat_map(|waiting| waiting.canaries).map(without_route));
    }
}

fn without_route(canary: &CanarySpec) -> Diagnostic {
    let message = format!(
        "no usable route has host {} and path {}; a canary needs a main Ingress with both, so this one has no effect",
        canary.host, canary.path
    );
    warning(canary, "CanaryWithoutRoute", message)
}

fn repeated(canary: &CanarySpec) -> Diagnostic {
    let message = format!(
        "host {} with path {} appears earlier in the same object; this one has no effect",
        canary.host, canary.path
    );
    warning(canary, "RouteConflict", message)
}

fn warning(canary: &CanarySpec, reason: &'static str, message: String) -> Diagnostic {
    let object = &canary.seniority.object;
    Diagnostic::new(Severity::Warning, object, canary.field.as_str(), reason, message)
}
