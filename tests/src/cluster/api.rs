//! The API server asked directly, one request a connection: for dry runs and for looking, where `kubectl` says less or takes longer.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::Value;

use super::control_plane::Facts;

const DEADLINE: Duration = Duration::from_secs(30);

/// A client that may do everything.
#[derive(Clone, Debug)]
pub struct Api {
    address: SocketAddr,
    tls: Arc<rustls::ClientConfig>,
}

#[derive(Clone, Debug)]
pub struct ApiAnswer {
    pub status: u16,
    /// JSON where it is, or a string.
    pub body: Value,
}

impl Api {
    pub fn new(facts: &Facts) -> anyhow::Result<Self> {
        Ok(Self {
            address: (Ipv4Addr::LOCALHOST, facts.api_port).into(),
            tls: Arc::new(admin_tls(facts)?),
        })
    }

    pub fn get(&self, path: &str) -> anyhow::Result<ApiAnswer> {
        self.ask("GET", path, "")
    }

    /// The body is YAML or JSON.
    pub fn post(&self, path: &str, body: &str) -> anyhow::Result<ApiAnswer> {
        self.ask("POST", path, body)
    }

    fn ask(&self, method: &str, path: &str, body: &str) -> anyhow::Result<ApiAnswer> {
        let tcp = TcpStream::connect_timeout(&self.address, DEADLINE)?;
        tcp.set_read_timeout(Some(DEADLINE))?;
        let name = ServerName::from(std::net::IpAddr::from(Ipv4Addr::LOCALHOST));
        let connection = rustls::ClientConnection::new(Arc::clone(&self.tls), name)?;
        let mut stream = rustls::StreamOwned::new(connection, tcp);
        // HTTP/1.0: the body ends with the connection, and is never chunked.
        write!(
            stream,
            "{method} {path} HTTP/1.0\r\nHost: kubernetes\r\nAccept: application/json\r\n"
        )?;
        // A type without a body is refused by some paths.
        if !body.is_empty() {
            write!(
                stream,
                "Content-Type: application/yaml\r\nContent-Length: {}\r\n",
                body.len()
            )?;
        }
        write!(stream, "\r\n{body}")?;
        stream.flush()?;
        let mut bytes = Vec::new();
        // Some servers close without a TLS alert; a body cut short shows when it is parsed.
        let read = stream.read_to_end(&mut bytes);
        let text = String::from_utf8_lossy(&bytes);
        let (head, body) = text
            .split_once("\r\n\r\n")
            .with_context(|| format!("{method} {path}: no answer: {read:?}"))?;
        let status = head.split(' ').nth(1).unwrap_or_default().parse()?;
        let body = serde_json::from_str(body).unwrap_or_else(|_| Value::from(body));
        Ok(ApiAnswer { status, body })
    }
}

/// Trusts the API server, and is known to it as one that may do everything.
pub(super) fn admin_tls(facts: &Facts) -> anyhow::Result<rustls::ClientConfig> {
    let file = |name: &str| facts.folder.join("pki").join(name);
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(file("ca.crt"))?)?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    Ok(rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_client_auth_cert(
            vec![CertificateDer::from_pem_file(file("admin.crt"))?],
            PrivateKeyDer::from_pem_file(file("admin.key"))?,
        )?)
}
