//! The live state: what the data plane reads. Only the publisher makes one.

use std::collections::HashMap;
use std::sync::Arc;

use foldhash::fast::RandomState;
use ingress_core::host::wildcard_suffix;
use ingress_core::resource::CertificateKey;
use ingress_core::snapshot::Snapshot;

use crate::translate::{Certificate, Translation};

/// What the data plane reads: routes and keys change together.
#[derive(Debug)]
pub struct Live {
    /// Counts the stores; 0 is "nothing received yet".
    pub generation: u64,
    pub snapshot: Arc<Snapshot>,
    pub certificates: CertificateStore,
}

/// The certificates in force. Which name each serves is in the snapshot. Holds keys; never shown.
#[derive(Debug, Default)]
pub struct CertificateStore {
    by_key: HashMap<CertificateKey, Arc<Certificate>, RandomState>,
    default: Option<Arc<Certificate>>,
}

impl CertificateStore {
    pub(crate) fn build(translation: &Translation, default: Option<Arc<Certificate>>) -> Self {
        let parsed = translation.certificates.iter();
        Self {
            by_key: parsed
                .map(|(key, certificate)| (key.clone(), Arc::clone(certificate)))
                .collect(),
            default,
        }
    }
}

impl Live {
    /// Certificates for a server name (lower case): exact before wildcard, else the default one.
    pub fn certificates_for(&self, name: Option<&str>) -> impl Iterator<Item = &Arc<Certificate>> {
        let keys = name.map_or(&[][..], |name| self.snapshot.certificates_for(name));
        let bound = keys.iter().filter_map(|key| self.certificates.by_key.get(key));
        let unbound = bound.clone().next().is_none();
        bound.chain(self.certificates.default.iter().filter(move |_| unbound))
    }

    /// Whether a connection opened for `server_name` may carry requests for `host` (RFC 9110, 7.4 and 15.5.20).
    pub fn may_share(&self, server_name: &str, host: &str) -> bool {
        server_name == host
            || self
                .certificates_for(Some(server_name))
                .any(|certificate| certificate.covers(host))
    }
}

impl Certificate {
    /// Whether one of the certificate's DNS names covers the host (RFC 9525, 6.3).
    pub fn covers(&self, host: &str) -> bool {
        self.names.iter().any(|name| match name.strip_prefix("*.") {
            Some(suffix) => wildcard_suffix(host) == Some(suffix),
            None => name == host,
        })
    }
}
