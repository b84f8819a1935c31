//! What the publisher last put in force, as the admin pages and the metrics tell it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use ingress_core::diagnostic::Diagnostic;
use ingress_core::resource::CertificateKey;
use ingress_core::snapshot::Snapshot;

/// What the publisher last put in force.
#[derive(Debug)]
pub struct Published {
    /// 1 for the first; 0 is "nothing yet".
    pub generation: u64,
    pub changed: SystemTime,
    pub snapshot: Arc<Snapshot>,
    pub diagnostics: Arc<[Diagnostic]>,
    /// By kind, as the source yielded them: `("Ingress", 12)`.
    pub objects: Vec<(&'static str, usize)>,
    /// End of validity in seconds since 1970, by Secret.
    pub certificates: BTreeMap<CertificateKey, i64>,
    /// Ingresses that no controller owns.
    pub unowned: usize,
}

impl Published {
    pub(crate) fn nothing() -> Self {
        Self {
            generation: 0,
            changed: SystemTime::UNIX_EPOCH,
            snapshot: Arc::new(Snapshot::empty()),
            diagnostics: Arc::new([]),
            objects: Vec::new(),
            certificates: BTreeMap::new(),
            unowned: 0,
        }
    }
}
