//! OCSP responses that come with certificates are stapled.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex};

use ingress_tests::{Certs, Ingress, Site};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, RootCertStore, SignatureScheme, StreamOwned,
};

use crate::Done;

/// A response whose responder said "successful" and not much else (RFC 6960, 4.2.1).
const STAPLE: &[u8] = &[0x30, 0x07, 0x0a, 0x01, 0x00, 0xa0, 0x02, 0x30, 0x00];

#[test]
fn a_staple_that_comes_with_its_certificate_is_shown_to_clients_that_ask_for_it() -> Done {
    let certs = Certs::new()?;
    let leaf = certs.leaf(&["a.test"])?;
    let site = Site::new(&[Ingress::new("web")
        .tls(&["a.test"], "tls")
        .host("a.test")
        .prefix("/", "web")])?;
    site.manifests.tls_secret("tls", &leaf)?;
    let agent = site.start()?;
    let stapled = || stapled(agent.https, &certs.authority_pem());
    assert_eq!(stapled()?, b"");
    site.manifests.stapled_tls_secret("tls", &leaf, STAPLE)?;
    agent.wait_until("the staple is shown", |_| Ok(stapled()? == STAPLE))?;
    site.manifests
        .stapled_tls_secret("tls", &leaf, b"no response at all")?;
    let message = agent.diagnostic("Secret default/tls", "OcspStapleUnusable")?;
    assert!(message.contains("RFC 6960"), "{message}");
    agent.wait_until("it is served without", |_| Ok(stapled()?.is_empty()))
}

/// What came in the handshake beside a certificate that verifies.
fn stapled(address: SocketAddr, authority: &str) -> anyhow::Result<Vec<u8>> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.as_bytes())?)?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = Arc::new(Noting {
        inner: WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build()?,
        staple: Mutex::default(),
    });
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::clone(&verifier) as Arc<dyn ServerCertVerifier>)
        .with_no_client_auth();
    let connection = ClientConnection::new(Arc::new(config), ServerName::try_from("a.test")?)?;
    let mut stream = StreamOwned::new(connection, TcpStream::connect(address)?);
    stream.write_all(b"GET / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    assert!(answer.starts_with(b"HTTP/1.1 200 "));
    let staple = verifier.staple.lock().map(|staple| staple.clone());
    Ok(staple.unwrap_or_default())
}

/// Verifies as ever, and notes the staple.
#[derive(Debug)]
struct Noting {
    inner: Arc<WebPkiServerVerifier>,
    staple: Mutex<Vec<u8>>,
}

impl ServerCertVerifier for Noting {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if let Ok(mut staple) = self.staple.lock() {
            *staple = ocsp.to_vec();
        }
        self.inner
            .verify_server_cert(end_entity, intermediates, name, ocsp, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}
