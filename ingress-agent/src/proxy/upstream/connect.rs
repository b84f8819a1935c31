//! A new connection to an endpoint: TCP, then the PROXY header if any, then TLS.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature,
};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use socket2::{SockRef, TcpKeepalive};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::io::Transport;
use super::{Call, ProxyHeader};
use crate::account::Desk;
use crate::error::ProxyError;
use ingress_core::resource::Protocol;

/// Opens connections; holds the TLS sessions that can be resumed.
pub(super) struct Connector {
    keepalive: Option<TcpKeepalive>,
    desk: Option<Rc<Desk>>,
    http1: Option<TlsConnector>,
    http2: Option<TlsConnector>,
}

impl Connector {
    pub(super) fn new(keepalive: Option<Duration>, desk: Option<Rc<Desk>>) -> Self {
        Self {
            desk,
            keepalive: keepalive.map(|time| TcpKeepalive::new().with_time(time).with_interval(time)),
            http1: tls(b"http/1.1"),
            http2: tls(b"h2"),
        }
    }

    /// Within the connect timeout, TLS included.
    pub(super) async fn connect(&self, call: &Call<'_>) -> Result<Transport, ProxyError> {
        let connect = self.connect_untimed(call);
        tokio::time::timeout(call.timeouts.connect, connect)
            .await
            .unwrap_or(Err(ProxyError::ConnectTimeout))
    }

    async fn connect_untimed(&self, call: &Call<'_>) -> Result<Transport, ProxyError> {
        let tls = match call.protocol {
            Protocol::Http | Protocol::H2c => None,
            Protocol::Https => Some(&self.http1),
            Protocol::H2 => Some(&self.http2),
        };
        let tcp = self
            .tcp(call.address, call.proxy_header)
            .await
            .map_err(|error| ProxyError::ConnectFailed(error.kind()))?;
        let Some(tls) = tls else {
            return Ok(Transport::Plain(tcp));
        };
        let connector = tls
            .as_ref()
            .ok_or_else(|| ProxyError::UpstreamTls("no usable TLS provider".to_owned()))?;
        let name = server_name(call)?;
        let stream = connector
            .connect(name, tcp)
            .await
            .map_err(|error| ProxyError::UpstreamTls(error.to_string()))?;
        Ok(Transport::Tls(Box::new(stream)))
    }

    async fn tcp(&self, address: SocketAddr, header: Option<ProxyHeader>) -> io::Result<TcpStream> {
        let mut stream = match &self.desk {
            Some(desk) => desk.connect(address).await?,
            None => TcpStream::connect(address).await?,
        };
        stream.set_nodelay(true)?;
        if let Some(keepalive) = &self.keepalive {
            SockRef::from(&stream).set_tcp_keepalive(keepalive)?;
        }
        if let Some(header) = header {
            let mut bytes = Vec::with_capacity(52);
            header.encode(&mut bytes);
            stream.write_all(&bytes).await?;
        }
        Ok(stream)
    }
}

fn server_name(call: &Call<'_>) -> Result<ServerName<'static>, ProxyError> {
    match call.server_name {
        Some(name) => ServerName::try_from(name.to_owned())
            .map_err(|_| ProxyError::UpstreamTls(format!("{name:?} is no server name"))),
        None => Ok(ServerName::from(call.address.ip())),
    }
}

fn tls(protocol: &[u8]) -> Option<TlsConnector> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = Arc::new(Unverified(provider.signature_verification_algorithms));
    let mut config = config(provider, verifier).ok()?;
    config.alpn_protocols = vec![protocol.to_vec()];
    Some(TlsConnector::from(Arc::new(config)))
}

fn config(provider: Arc<CryptoProvider>, verifier: Arc<Unverified>) -> Result<ClientConfig, rustls::Error> {
    Ok(ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth())
}

/// Takes any certificate, as ingress-nginx does without `proxy-ssl-verify`: pods' certificates are mostly self-signed, and the address came from the API
/// server. The handshake's signature is still checked, so whoever answers holds the key of the certificate that it shows.
#[derive(Debug)]
struct Unverified(WebPkiSupportedAlgorithms);

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.0)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}
