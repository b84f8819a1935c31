//! Objects to the core's Resources, with a Diagnostic for each thing that is wrong. Pure: Kubernetes types in, core types out.

mod annotations;
mod canary;
mod class;
pub(crate) mod endpoints;
mod ingress;
pub(crate) mod nearness;
mod notes;
mod policies;
mod references;
mod rule_path;
mod secret;
mod service;
#[cfg(test)]
pub(crate) mod tests;
mod tls;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ingress_core::diagnostic::Diagnostic;
use ingress_core::nearness::Place;
use ingress_core::resource::{CertificateKey, ClusterKey, EndpointList, PortRef, Resources};
use k8s_openapi::api::networking::v1::Ingress;

use self::canary::Mains;
use self::class::{Classes, Ownership};
use self::ingress::Build;
use self::policies::Policies;
use self::service::Backends;
use self::tls::Certificates;
use crate::objects::{Key, Objects};

pub use self::references::{References, references};

/// What translate is told besides the objects.
#[derive(Clone, Debug)]
pub struct Options {
    /// `spec.controller` values that are ours.
    pub controllers: Vec<String>,
    /// The class that a bare `kubernetes.io/ingress.class` annotation may name.
    pub class: String,
    /// Serve Ingresses that name no class at all.
    pub classless: bool,
    /// The backend for all that is unmatched, `namespace/service:port`.
    pub default_backend: Option<(String, String, PortRef)>,
    /// Namespace and name of the Secret for names that no other certificate has.
    pub default_certificate: Option<(String, String)>,
    /// Where the agent is, as far as it was told; its Node says more.
    pub place: Place,
    /// Seconds since 1970, to judge the validity of certificates by.
    pub now_unix: i64,
}

/// Everything that publish needs.
#[derive(Debug, Default)]
pub struct Translation {
    pub resources: Resources,
    /// Of every cluster but those in `external_names`.
    pub endpoints: BTreeMap<ClusterKey, EndpointList>,
    /// Clusters whose endpoints DNS knows; resolving them, and refusing what leads back to our own listeners, is the caller's work.
    pub external_names: Vec<ExternalName>,
    /// The usable ones; `resources.certificates` binds no others.
    pub certificates: BTreeMap<CertificateKey, Arc<Certificate>>,
    /// `Options::default_certificate`, when it is usable.
    pub default_certificate: Option<CertificateKey>,
    pub diagnostics: Vec<Diagnostic>,
}

/// A cluster behind a Service of type ExternalName.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ExternalName {
    pub cluster: ClusterKey,
    /// Lower case, without a trailing dot.
    pub name: String,
    pub port: u16,
}

/// A usable certificate chain and key.
#[derive(Debug)]
pub struct Certificate {
    pub key: Arc<rustls::sign::CertifiedKey>,
    /// Lower-case DNS names of the leaf, `*.` form for wildcards.
    pub names: Vec<String>,
    /// End of validity, seconds since 1970.
    pub not_after: i64,
}

/// What translations remember from one to the next: parsed certificates and expressions, so that a change elsewhere
/// does not parse them again.
#[derive(Debug, Default)]
pub struct Memory {
    certificates: secret::Shelf,
    regexes: rule_path::Regexes,
}

/// Translates everything; total: a bad object costs only itself.
pub fn translate(objects: &Objects, options: &Options, memory: &mut Memory) -> Translation {
    let mut out = Translation::default();
    let classes = Classes::new(objects, options);
    class::check_classes(objects, options, &mut out.diagnostics);
    let mut build = Build {
        objects,
        place: nearness::place(objects, options),
        backends: Backends::new(objects),
        certificates: Certificates::new(objects, options, &mut memory.certificates),
        regexes: &mut memory.regexes,
        out: &mut out,
        rule_hosts: BTreeSet::new(),
        by_alias: Vec::new(),
        canaries: Vec::new(),
        mains: Mains::default(),
        policies: Policies::default(),
    };
    for (key, ingress) in &objects.ingresses {
        match classes.owner_of(ingress) {
            Ownership::Ours => ingress::translate(key, ingress, &mut build),
            Ownership::Theirs => {}
            Ownership::Nobody(mismatch) => ingress::disown(key, ingress, mismatch, build.out),
        }
    }
    if let Some((namespace, name, port)) = &options.default_backend {
        build.global_default(Key::new(namespace, name), port.clone());
    }
    build.finish();
    out.diagnostics.sort();
    out
}

/// The endpoints alone, for clusters that a translation named: the lane of EndpointSlice churn, which recompiles no route.
///
/// Clusters of ExternalName Services that need DNS are left out, as in [`Translation::endpoints`].
pub fn endpoints_only(
    objects: &Objects,
    options: &Options,
    clusters: &[ClusterKey],
) -> (BTreeMap<ClusterKey, EndpointList>, Vec<Diagnostic>) {
    let found = endpoints::find(objects, &nearness::place(objects, options), clusters);
    (found.endpoints, found.diagnostics)
}

/// The Ingresses that are ours.
pub fn owned<'a>(
    objects: &'a Objects,
    options: &'a Options,
) -> impl Iterator<Item = (&'a Key, &'a Arc<Ingress>)> {
    let classes = Classes::new(objects, options);
    let ingresses = objects.ingresses.iter();
    ingresses.filter(move |(_, ingress)| classes.owner_of(ingress) == Ownership::Ours)
}

/// The annotations page of the documentation.
pub fn annotations_markdown() -> String {
    annotations::table::markdown()
}
