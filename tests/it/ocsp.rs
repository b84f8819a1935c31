//! OCSP responses that come with certificates are stapled.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex};

use ingress_tests::{Certs, Ingress, Leaf, Site};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, RootCertStore, SignatureScheme, StreamOwned,
    SupportedCipherSuite,
};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::Done;

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
    let staple = response(&leaf, "20990101000000Z")?;
    site.manifests.stapled_tls_secret("tls", &leaf, &staple)?;
    agent.wait_until("the staple is shown", |_| Ok(stapled()? == staple))?;
    site.manifests
        .stapled_tls_secret("tls", &leaf, b"no response at all")?;
    let message = agent.diagnostic("Secret default/tls", "OcspStapleUnusable")?;
    assert!(message.contains("RFC 6960"), "{message}");
    agent.wait_until("it is served without", |_| Ok(stapled()?.is_empty()))
}

#[test]
fn a_staple_about_another_certificate_or_one_that_is_too_old_is_told_and_left_out() -> Done {
    let certs = Certs::new()?;
    let (leaf, other) = (certs.leaf(&["a.test"])?, certs.leaf(&["a.test"])?);
    let site = Site::new(&[Ingress::new("web")
        .tls(&["a.test"], "tls")
        .host("a.test")
        .prefix("/", "web")])?;
    let foreign = response(&other, "20990101000000Z")?;
    site.manifests.stapled_tls_secret("tls", &leaf, &foreign)?;
    let agent = site.start()?;
    let message = agent.diagnostic("Secret default/tls", "OcspStapleUnusable")?;
    assert!(message.contains("about another certificate"), "{message}");
    let stapled = || stapled(agent.https, &certs.authority_pem());
    assert_eq!(stapled()?, b"");
    let staple = response(&leaf, "20990101000000Z")?;
    site.manifests.stapled_tls_secret("tls", &leaf, &staple)?;
    agent.wait_until("the right one is shown", |_| Ok(stapled()? == staple))?;
    let old = response(&leaf, "20200108000000Z")?;
    site.manifests.stapled_tls_secret("tls", &leaf, &old)?;
    let message = agent.diagnostic("Secret default/tls", "OcspStapleExpired")?;
    assert!(message.contains("nextUpdate"), "{message}");
    agent.wait_until("it is served without", |_| Ok(stapled()?.is_empty()))
}

/// What a responder says of a good certificate (RFC 6960, 4.2.1), but for its signature.
fn response(leaf: &Leaf, next_update: &str) -> anyhow::Result<Vec<u8>> {
    let certificate = CertificateDer::from_pem_slice(leaf.certificate.as_bytes())?;
    let (_, certificate) = X509Certificate::from_der(&certificate)?;
    let SupportedCipherSuite::Tls13(suite) = TLS13_AES_128_GCM_SHA256 else {
        anyhow::bail!("a suite of TLS 1.3");
    };
    let issuer = suite.common.hash_provider.hash(certificate.issuer().as_raw());
    let sha256 = der(
        0x30,
        &[&der(0x06, &[&[0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 1]])?, &[5, 0]],
    )?;
    let issuer = [der(0x04, &[issuer.as_ref()])?, der(0x04, &[&[7; 32]])?].concat();
    let id = der(
        0x30,
        &[&sha256, &issuer, &der(0x02, &[certificate.raw_serial()])?],
    )?;
    let since = der(0x18, &[b"20200101000000Z"])?;
    let until = der(0xa0, &[&der(0x18, &[next_update.as_bytes()])?])?;
    let single = der(0x30, &[&id, &[0x80, 0], &since, &until])?;
    let responder = der(0xa2, &[&der(0x04, &[&[1; 20]])?])?;
    let data = der(0x30, &[&responder, &since, &der(0x30, &[&single])?])?;
    let basic = der(0x30, &[&data, &der(0x03, &[&[0; 8]])?])?;
    let kind = der(0x06, &[&[0x2b, 6, 1, 5, 5, 7, 0x30, 1, 1]])?;
    let bytes = der(0x30, &[&kind, &der(0x04, &[&basic])?])?;
    der(0x30, &[&[0x0a, 1, 0], &der(0xa0, &[&bytes])?])
}

fn der(tag: u8, parts: &[&[u8]]) -> anyhow::Result<Vec<u8>> {
    let content = parts.concat();
    let length = u16::try_from(content.len())?;
    let [high, low] = length.to_be_bytes();
    let head = match length {
        0..=0x7f => vec![tag, low],
        0x80..=0xff => vec![tag, 0x81, low],
        _ => vec![tag, 0x82, high, low],
    };
    Ok([head, content].concat())
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
