//! What a canary inherits from the Ingress that it is an alternative of.
//!
//! ingress-nginx ignores most annotations of a canary Ingress and takes those of the main one: so a canary that carries
//! `canary-…` alone must find its main route also where that one's path is an expression, and speak its protocol.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use ingress_core::host::HostPattern;
use ingress_core::name::ObjectRef;
use ingress_core::resource::{PathMatch, Protocol, RouteSpec};

/// The routes that canaries may be alternatives of.
#[derive(Debug, Default)]
pub(super) struct Mains {
    by_path: HashMap<(HostPattern, PathKey), Arc<ObjectRef>>,
    /// By Ingress: what `backend-protocol` says.
    protocols: BTreeMap<Arc<ObjectRef>, Protocol>,
}

/// [`PathMatch::key`], owned.
type PathKey = (u8, String);

impl Mains {
    /// Only an annotation is inherited; `appProtocol` is each Service's own.
    pub(super) fn note_protocol(&mut self, ingress: &Arc<ObjectRef>, protocol: Option<Protocol>) {
        if let Some(protocol) = protocol {
            self.protocols.insert(Arc::clone(ingress), protocol);
        }
    }

    /// Takes in all routes; of several for one host and path the most senior counts, as it does in traffic.
    pub(super) fn index(&mut self, routes: &[RouteSpec]) {
        let mut routes: Vec<_> = routes.iter().filter(|route| !route.fallback).collect();
        routes.sort_by(|a, b| b.seniority.cmp(&a.seniority));
        let entries = routes.into_iter().map(|route| {
            let key = (route.host.clone(), key_of(&route.path));
            (key, Arc::clone(&route.seniority.object))
        });
        self.by_path = entries.collect();
    }

    /// Whether the main route of this path, as written, is an expression.
    pub(super) fn is_expression(&self, host: &HostPattern, path: Option<&str>) -> bool {
        let source = path.unwrap_or_default().to_owned();
        self.by_path.contains_key(&(host.clone(), (2, source)))
    }

    pub(super) fn protocol(&self, host: &HostPattern, path: &PathMatch) -> Option<Protocol> {
        let main = self.by_path.get(&(host.clone(), key_of(path)))?;
        self.protocols.get(main).copied()
    }
}

fn key_of(path: &PathMatch) -> PathKey {
    let (kind, text) = path.key();
    (kind, text.to_owned())
}
