//! TLS towards clients: which certificate a server name gets, and one rustls configuration for all workers.
//!
//! Certificates are looked up in the live state at each handshake, so a rotated Secret needs no restart and closes nothing.

use std::io;
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::crypto::aws_lc_rs;
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert, ServerConfig};
use rustls::sign::CertifiedKey;
use rustls_pki_types::PrivatePkcs8KeyDer;

use crate::live::Live;
use crate::tickets::TicketKeys;
use crate::translate::Certificate;

/// Picks the certificate of a handshake from the live state.
#[derive(Debug)]
struct LiveCertificates {
    live: Arc<ArcSwap<Live>>,
}

impl ResolvesServerCert for LiveCertificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let live = self.live.load();
        // rustls has checked the name's syntax and lower-cases it.
        let candidates = || live.certificates_for(hello.server_name());
        let fits = |c: &&Arc<Certificate>| c.key.key.choose_scheme(hello.signature_schemes()).is_some();
        let chosen = candidates().find(fits).or_else(|| candidates().next())?;
        Some(Arc::clone(&chosen.key))
    }
}

/// The server side's configuration: TLS 1.2 and 1.3, h2 and HTTP/1.1 by ALPN, stateless tickets shared by all workers.
///
/// # Errors
/// When the crypto provider does not support the protocol versions.
pub fn server_config(
    live: Arc<ArcSwap<Live>>,
    tickets: Arc<TicketKeys>,
) -> Result<Arc<ServerConfig>, rustls::Error> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(LiveCertificates { live }));
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.ticketer = tickets;
    // One ticket is enough to resume; the default of two costs every full handshake another one.
    config.send_tls13_tickets = 1;
    Ok(Arc::new(config))
}

/// The same for connections that get one answer of HTTP/1.1 and no more.
pub(crate) fn only_http1(config: &ServerConfig) -> Arc<ServerConfig> {
    let mut config = config.clone();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.send_tls13_tickets = 0;
    Arc::new(config)
}

/// Whether a handshake may have failed for our certificate: none was there for it, or one that the client does not take. That says nothing
/// against the client.
pub(crate) fn may_be_our_fault(error: &io::Error) -> bool {
    use rustls::AlertDescription as Alert;
    let error = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match error {
        // RFC 8446, 6.2: what a client says of a certificate.
        Some(rustls::Error::AlertReceived(alert)) => matches!(
            alert,
            Alert::BadCertificate
                | Alert::UnsupportedCertificate
                | Alert::CertificateRevoked
                | Alert::CertificateExpired
                | Alert::CertificateUnknown
                | Alert::UnknownCA
                | Alert::AccessDenied
                | Alert::BadCertificateStatusResponse
                | Alert::UserCanceled
        ),
        // "no server certificate chain resolved" is one of these, and none of them is the client's.
        Some(rustls::Error::General(_)) => true,
        _ => false,
    }
}

/// What a server name without a certificate gets: self-signed and made at each start, so that a handshake succeeds
/// and the answer can say what is wrong (as ingress-nginx's "fake certificate" does).
///
/// # Errors
/// When the key or certificate can't be made.
pub fn self_signed() -> Result<Arc<Certificate>, rustls::Error> {
    const NAME: &str = "ingress-agent.invalid";
    let general = |error: rcgen::Error| rustls::Error::General(error.to_string());
    let key = rcgen::KeyPair::generate().map_err(general)?;
    let mut params = rcgen::CertificateParams::new(vec![NAME.to_owned()]).map_err(general)?;
    params
        .distinguished_name
        .push(rcgen::DnType::CommonName, "ingress-agent default certificate");
    let certificate = params.self_signed(&key).map_err(general)?;
    let private = PrivatePkcs8KeyDer::from(key.serialize_der());
    let signing = aws_lc_rs::sign::any_supported_type(&private.into())?;
    Ok(Arc::new(Certificate {
        key: Arc::new(CertifiedKey::new(vec![certificate.der().clone()], signing)),
        names: vec![NAME.to_owned()],
        not_after: i64::MAX,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_that_does_not_take_our_certificate_has_done_nothing_wrong_and_one_that_talks_nonsense_has() {
        let failed = |error: rustls::Error| io::Error::new(io::ErrorKind::InvalidData, error);
        let alert = |alert| failed(rustls::Error::AlertReceived(alert));
        assert!(may_be_our_fault(&alert(rustls::AlertDescription::UnknownCA)));
        assert!(may_be_our_fault(&alert(
            rustls::AlertDescription::CertificateExpired
        )));
        assert!(may_be_our_fault(&failed(rustls::Error::General(
            "no server certificate chain resolved".to_owned()
        ))));
        assert!(!may_be_our_fault(&alert(rustls::AlertDescription::DecodeError)));
        assert!(!may_be_our_fault(&failed(rustls::Error::DecryptError)));
        assert!(!may_be_our_fault(&io::ErrorKind::UnexpectedEof.into()));
    }
}
