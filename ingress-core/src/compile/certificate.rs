//! Which certificates serve which names.

use crate::fast_map::FastMap;
use crate::host::{HostPattern, wildcard_suffix};
use crate::matching::HostMap;
use crate::resource::{CertificateBinding, CertificateKey};

pub(super) type Certificates = HostMap<Box<[CertificateKey]>>;

/// The certificates by host, most senior first, each once.
pub(super) fn collect(bindings: &[CertificateBinding]) -> Certificates {
    let mut sorted: Vec<_> = bindings.iter().collect();
    sorted.sort_unstable_by_key(|binding| (&binding.seniority, &binding.certificate));
    let mut by_host: FastMap<&HostPattern, Vec<CertificateKey>> = FastMap::default();
    for binding in sorted {
        let keys = by_host.entry(&binding.host).or_default();
        if !keys.contains(&binding.certificate) {
            keys.push(binding.certificate.clone());
        }
    }
    let mut map = Certificates::default();
    for (host, keys) in by_host {
        map.insert(host.clone(), keys.into_boxed_slice());
    }
    map.shrink();
    map
}

/// Whether all names under `host` have a certificate of their own.
pub(super) fn covers(certificates: &Certificates, host: &HostPattern) -> bool {
    let bound = |pattern: &HostPattern| certificates.of_pattern(pattern).is_some();
    let by_wildcard = match host {
        HostPattern::Exact(name) => wildcard_suffix(name).map(|suffix| HostPattern::Wildcard(suffix.into())),
        HostPattern::Wildcard(_) | HostPattern::Any => None,
    };
    bound(host) || by_wildcard.is_some_and(|wildcard| bound(&wildcard))
}
