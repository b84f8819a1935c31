//! What is watched in a cluster, and what it is called there.

use super::failure::{Cause, Failure};

/// The kinds of watches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Resource {
    Ingresses,
    IngressClasses,
    Services,
    EndpointSlices,
    /// All Secrets of type `kubernetes.io/tls`.
    TlsSecrets,
    /// One Secret that something names.
    Secret,
    /// One ConfigMap that something names.
    ConfigMap,
    Namespaces,
    /// The agent's own.
    Node,
}

impl Resource {
    pub const ALL: [Self; 9] = [
        Self::Ingresses,
        Self::IngressClasses,
        Self::Services,
        Self::EndpointSlices,
        Self::TlsSecrets,
        Self::Secret,
        Self::ConfigMap,
        Self::Namespaces,
        Self::Node,
    ];

    /// As metrics and messages call it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ingresses => "ingresses",
            Self::IngressClasses => "ingressclasses",
            Self::Services => "services",
            Self::EndpointSlices => "endpointslices",
            Self::TlsSecrets => "tls-secrets",
            Self::Secret => "secret",
            Self::ConfigMap => "configmap",
            Self::Namespaces => "namespaces",
            Self::Node => "node",
        }
    }

    /// As RBAC rules call it: resource and API group (empty for the core group).
    pub(super) fn rule(self) -> (&'static str, &'static str) {
        match self {
            Self::Ingresses => ("ingresses", "networking.k8s.io"),
            Self::IngressClasses => ("ingressclasses", "networking.k8s.io"),
            Self::Services => ("services", ""),
            Self::EndpointSlices => ("endpointslices", "discovery.k8s.io"),
            Self::TlsSecrets | Self::Secret => ("secrets", ""),
            Self::ConfigMap => ("configmaps", ""),
            Self::Namespaces => ("namespaces", ""),
            Self::Node => ("nodes", ""),
        }
    }

    /// What is off while the agent may not read it; `None` for what it can't do without.
    pub(super) fn without(self) -> Option<&'static str> {
        match self {
            Self::Namespaces => {
                Some("an Ingress whose namespace is being deleted does not give way to others")
            }
            Self::Node => Some(
                "the agent does not know its zone unless --zone says it, and Services that prefer a zone get no preference",
            ),
            _ => None,
        }
    }
}

/// What one watch covers.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Scope {
    pub(super) resource: Resource,
    /// `None`: all.
    pub(super) namespace: Option<String>,
    /// `None`: all.
    pub(super) name: Option<String>,
}

impl Scope {
    /// Whether the rest is served without it. Of what may be forbidden, only that: an API server that does not answer is waited for.
    pub(super) fn can_be_missing(&self, failure: &Failure) -> bool {
        match self.resource.without() {
            Some(_) => matches!(failure.cause, Cause::Forbidden(_)),
            None => self.name.is_some(),
        }
    }

    pub(super) fn covers(&self, namespace: &str, name: &str) -> bool {
        self.namespace.as_deref().is_none_or(|own| own == namespace)
            && self.name.as_deref().is_none_or(|own| own == name)
    }
}

/// `secrets "tls" in namespace shop`
impl std::fmt::Display for Scope {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.resource.rule().0)?;
        if let Some(name) = &self.name {
            write!(f, " {name:?}")?;
        }
        if let Some(namespace) = &self.namespace {
            write!(f, " in namespace {namespace}")?;
        }
        Ok(())
    }
}
