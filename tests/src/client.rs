//! One request on a connection of its own, and everything that can be seen of the answer. Blocks; has a deadline.
//!
//! Names are never resolved: the caller says which address to connect to, as `curl --resolve` does.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, Version, header};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::DigitallySignedStruct;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use crate::websocket;

/// Long enough for a machine that is ten times slower than it should be; reached only by a failing test.
const DEADLINE: Duration = Duration::from_secs(90);

/// What to ask. Build with [`Request::get`] and the methods below.
#[derive(Clone, Debug)]
pub struct Request {
    pub method: Method,
    pub uri: Uri,
    pub headers: HeaderMap,
    pub body: Bytes,
    /// HTTP/1.1 or HTTP/2: by ALPN under TLS, by prior knowledge without.
    pub version: Version,
    /// PEM of the authority to trust; none looks at certificates without judging them.
    pub authority: String,
    /// The server name that TLS asks for, where it is not the URL's host.
    pub server_name: Option<String>,
    /// In place of `authority`: a client with wishes of its own; sessions are resumed among requests that share it.
    pub tls: Option<TlsClient>,
}

/// What came back.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub version: Version,
    pub headers: HeaderMap,
    pub body: Bytes,
    pub trailers: HeaderMap,
    /// DNS names of the certificate that the server showed.
    pub certificate_names: Vec<String>,
    /// What the TLS handshake settled.
    pub tls: Option<TlsSeen>,
}

/// What can be seen of a TLS handshake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsSeen {
    pub version: rustls::ProtocolVersion,
    pub resumed: bool,
    /// What the key was agreed with, such as `X25519MLKEM768`.
    pub group: Option<rustls::NamedGroup>,
    /// The server's certificate, DER.
    pub certificate: Vec<u8>,
    /// `ECDSA` or `RSA` or what else the certificate's key is.
    pub key: String,
}

impl Request {
    pub fn get(url: &str) -> anyhow::Result<Self> {
        let uri: Uri = url.parse().with_context(|| format!("URL {url:?}"))?;
        if uri.host().is_none() {
            bail!("URL {url:?} has no host");
        }
        Ok(Self {
            method: Method::GET,
            uri,
            headers: HeaderMap::new(),
            body: Bytes::new(),
            version: Version::HTTP_11,
            authority: String::new(),
            server_name: None,
            tls: None,
        })
    }

    pub fn post(url: &str, body: impl Into<Bytes>) -> anyhow::Result<Self> {
        Ok(Self::get(url)?.method(Method::POST).body(body))
    }

    pub fn header(mut self, name: &str, value: &str) -> anyhow::Result<Self> {
        self.headers
            .append(HeaderName::try_from(name)?, HeaderValue::from_str(value)?);
        Ok(self)
    }

    pub fn method(mut self, method: Method) -> Self {
        self.method = method;
        self
    }

    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }

    pub fn h2(mut self) -> Self {
        self.version = Version::HTTP_2;
        self
    }

    pub fn trusting(mut self, authority_pem: &str) -> Self {
        authority_pem.clone_into(&mut self.authority);
        self
    }

    pub fn tls(mut self, client: &TlsClient) -> Self {
        self.tls = Some(client.clone());
        self
    }

    /// Asks TLS for this name, whatever the URL's host is.
    pub fn server_name(mut self, name: &str) -> Self {
        self.server_name = Some(name.to_owned());
        self
    }

    /// Asks the server at `address`.
    pub fn ask(self, address: SocketAddr) -> anyhow::Result<Answer> {
        block_on(async move {
            let Connected { io, names, tls } = connect(&self, address).await?;
            let mut answer = exchange(self, io).await?;
            answer.certificate_names = names;
            answer.tls = tls;
            Ok(answer)
        })
    }

    /// Opens a WebSocket, sends `text`, and gives what came back.
    pub fn ask_websocket(self, address: SocketAddr, text: &str) -> anyhow::Result<String> {
        block_on(async move {
            let mut websocket = open_websocket(self, address).await?;
            let echoed = websocket_echo(&mut websocket, text).await?;
            websocket::write_frame(&mut websocket, websocket::CLOSE, &[], MASK).await?;
            Ok(echoed)
        })
    }
}

impl Answer {
    /// A header's first value; empty when it is absent or not text.
    pub fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .and_then(|v| v.to_str().ok())
            .unwrap_or_default()
    }

    /// Which echo backend answered; when none did, why: `404 host_unknown`.
    pub fn served_by(&self) -> String {
        match self.backend() {
            "" => format!("{} {}", self.status, self.reason()),
            backend => backend.to_owned(),
        }
    }

    /// Which echo backend answered; empty when none did.
    pub fn backend(&self) -> &str {
        self.header("x-backend")
    }

    /// Why the agent answered by itself; empty when it did not.
    pub fn reason(&self) -> &str {
        self.header("x-ingress-agent-reason")
    }

    /// What the echo backend says it saw; null when the body is not its JSON.
    pub fn seen(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// A TLS client: what it trusts, speaks and remembers.
#[derive(Clone, Debug)]
pub struct TlsClient(Arc<rustls::ClientConfig>);

impl TlsClient {
    /// HTTP/1.1 over any version of TLS.
    pub fn trusting(authority_pem: &str) -> anyhow::Result<Self> {
        Self::with(
            authority_pem,
            rustls::ALL_VERSIONS,
            rustls_provider(),
            b"http/1.1",
        )
    }

    pub fn of_version(
        authority_pem: &str,
        version: &'static rustls::SupportedProtocolVersion,
    ) -> anyhow::Result<Self> {
        Self::with(authority_pem, &[version], rustls_provider(), b"http/1.1")
    }

    /// A client that knows no signatures but RSA's.
    pub fn of_rsa_alone(authority_pem: &str) -> anyhow::Result<Self> {
        let mut provider = rustls_provider();
        let algorithms = provider.signature_verification_algorithms;
        let rsa = |scheme: &rustls::SignatureScheme| format!("{scheme:?}").starts_with("RSA");
        let mapping = algorithms.mapping.iter().filter(|(s, _)| rsa(s)).copied();
        // Lives as long as the test binary: rustls wants it static.
        provider.signature_verification_algorithms.mapping = mapping.collect::<Vec<_>>().leak();
        Self::with(authority_pem, &[&rustls::version::TLS12], provider, b"http/1.1")
    }

    /// A client that agrees keys in this way alone.
    pub fn of_group(authority_pem: &str, group: rustls::NamedGroup) -> anyhow::Result<Self> {
        let mut provider = rustls_provider();
        provider.kx_groups.retain(|offered| offered.name() == group);
        Self::with(authority_pem, &[&rustls::version::TLS13], provider, b"http/1.1")
    }

    fn with(
        authority_pem: &str,
        versions: &[&'static rustls::SupportedProtocolVersion],
        provider: rustls::crypto::CryptoProvider,
        protocol: &[u8],
    ) -> anyhow::Result<Self> {
        let verifier = Indifferent(provider.clone());
        let mut roots = rustls::RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(authority_pem.as_bytes()) {
            roots.add(certificate?)?;
        }
        let builder = rustls::ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(versions)?;
        // Without an authority, a test looks at certificates and does not care who signed them.
        let mut config = if authority_pem.is_empty() {
            let builder = builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(verifier));
            builder.with_no_client_auth()
        } else {
            builder.with_root_certificates(roots).with_no_client_auth()
        };
        config.alpn_protocols = vec![protocol.to_vec()];
        Ok(Self(Arc::new(config)))
    }
}

fn rustls_provider() -> rustls::crypto::CryptoProvider {
    rustls::crypto::aws_lc_rs::default_provider()
}

/// Takes every certificate: for tests and loads, which look at something else.
#[derive(Debug)]
pub struct Indifferent(pub rustls::crypto::CryptoProvider);

impl ServerCertVerifier for Indifferent {
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
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

fn block_on<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(within_deadline(work))
}

pub(crate) async fn within_deadline<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::time::timeout(DEADLINE, work)
        .await
        .context("no whole answer before the deadline")?
}

pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A connection, and what its handshake showed.
pub(crate) struct Connected {
    pub(crate) io: TokioIo<Box<dyn Stream>>,
    pub(crate) names: Vec<String>,
    pub(crate) tls: Option<TlsSeen>,
}

pub(crate) async fn connect(request: &Request, address: SocketAddr) -> anyhow::Result<Connected> {
    let tcp = TcpStream::connect(address)
        .await
        .with_context(|| format!("connect to {address}"))?;
    tcp.set_nodelay(true)?;
    if request.uri.scheme_str() != Some("https") {
        let io = TokioIo::new(Box::new(tcp) as Box<dyn Stream>);
        return Ok(Connected {
            io,
            names: Vec::new(),
            tls: None,
        });
    }
    let host = request.uri.host().unwrap_or_default();
    let name = request.server_name.as_deref().unwrap_or(host).to_owned();
    let connector = tokio_rustls::TlsConnector::from(tls_config(request)?.0);
    let stream = connector
        .connect(ServerName::try_from(name)?, tcp)
        .await
        .context("TLS handshake")?;
    let session = stream.get_ref().1;
    let leaf = session.peer_certificates().and_then(<[_]>::first);
    let leaf = leaf.context("the server showed no certificate")?;
    let (names, key) = describe_certificate(leaf)?;
    let tls = TlsSeen {
        version: session
            .protocol_version()
            .context("handshake without a version")?,
        resumed: session.handshake_kind() == Some(rustls::HandshakeKind::Resumed),
        group: session.negotiated_key_exchange_group().map(|group| group.name()),
        certificate: leaf.to_vec(),
        key,
    };
    Ok(Connected {
        io: TokioIo::new(Box::new(stream)),
        names,
        tls: Some(tls),
    })
}

fn tls_config(request: &Request) -> anyhow::Result<TlsClient> {
    if let Some(client) = &request.tls {
        return Ok(client.clone());
    }
    let protocol: &[u8] = match request.version {
        Version::HTTP_2 => b"h2",
        _ => b"http/1.1",
    };
    TlsClient::with(
        &request.authority,
        rustls::ALL_VERSIONS,
        rustls_provider(),
        protocol,
    )
}

/// The DNS names and the kind of key.
fn describe_certificate(certificate: &CertificateDer<'_>) -> anyhow::Result<(Vec<String>, String)> {
    use x509_parser::extensions::GeneralName;
    use x509_parser::public_key::PublicKey;
    let (_, certificate) = x509_parser::parse_x509_certificate(certificate)?;
    let names = certificate.subject_alternative_name()?;
    let names = names.map_or_else(Vec::new, |names| {
        let names = names.value.general_names.iter();
        names
            .filter_map(|name| match name {
                GeneralName::DNSName(name) => Some((*name).to_owned()),
                _ => None,
            })
            .collect()
    });
    let key = match certificate.public_key().parsed()? {
        PublicKey::RSA(_) => "RSA",
        PublicKey::EC(_) => "ECDSA",
        _ => "other",
    };
    Ok((names, key.to_owned()))
}

async fn exchange(request: Request, io: TokioIo<Box<dyn Stream>>) -> anyhow::Result<Answer> {
    let is_h2 = request.version == Version::HTTP_2;
    let request = to_http(request, is_h2)?;
    let response = if is_h2 {
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await?;
        tokio::spawn(connection);
        sender.send_request(request).await
    } else {
        let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await?;
        tokio::spawn(connection.with_upgrades());
        sender.send_request(request).await
    };
    collect(response.context("no response head")?).await
}

pub(crate) async fn collect(response: http::Response<hyper::body::Incoming>) -> anyhow::Result<Answer> {
    let (parts, body) = response.into_parts();
    let collected = body.collect().await.context("response body")?;
    let trailers = collected.trailers().cloned().unwrap_or_default();
    Ok(Answer {
        status: parts.status.as_u16(),
        version: parts.version,
        headers: parts.headers,
        body: collected.to_bytes(),
        trailers,
        certificate_names: Vec::new(),
        tls: None,
    })
}

/// h2 carries the authority in the URI; HTTP/1.1 in Host, with the target in origin form (RFC 9112, 3.2.1).
pub(crate) fn to_http(request: Request, is_h2: bool) -> anyhow::Result<http::Request<Full<Bytes>>> {
    let mut http = http::Request::new(Full::new(request.body));
    *http.method_mut() = request.method;
    *http.headers_mut() = request.headers;
    if is_h2 {
        *http.uri_mut() = request.uri;
        return Ok(http);
    }
    if let (Some(authority), false) = (request.uri.authority(), http.headers().contains_key(header::HOST)) {
        let host = HeaderValue::from_str(authority.as_str())?;
        http.headers_mut().insert(header::HOST, host);
    }
    *http.uri_mut() = request
        .uri
        .path_and_query()
        .map_or("/", http::uri::PathAndQuery::as_str)
        .parse()?;
    Ok(http)
}

/// RFC 6455, 5.3: clients mask; how does not matter here.
const MASK: Option<[u8; 4]> = Some([1, 2, 3, 4]);

pub(crate) type Upgraded = TokioIo<hyper::upgrade::Upgraded>;

pub(crate) async fn open_websocket(request: Request, address: SocketAddr) -> anyhow::Result<Upgraded> {
    let key = "AAECAwQFBgcICQoLDA0ODw==";
    let io = connect(&request, address).await?.io;
    let request = request
        .header("connection", "upgrade")?
        .header("upgrade", "websocket")?
        .header("sec-websocket-version", "13")?
        .header("sec-websocket-key", key)?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await?;
    tokio::spawn(connection.with_upgrades());
    let response = sender.send_request(to_http(request, false)?).await?;
    let accept = response.headers().get(header::SEC_WEBSOCKET_ACCEPT);
    if response.status() != 101
        || accept.is_none_or(|v| v.as_bytes() != websocket::accept_key(key).as_bytes())
    {
        bail!("the upgrade was answered {}", response.status());
    }
    Ok(TokioIo::new(hyper::upgrade::on(response).await?))
}

pub(crate) async fn websocket_echo(stream: &mut Upgraded, text: &str) -> anyhow::Result<String> {
    websocket::write_frame(stream, websocket::TEXT, text.as_bytes(), MASK).await?;
    let (_, echoed) = websocket::read_frame(stream).await?;
    Ok(String::from_utf8_lossy(&echoed).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Echo;

    #[test]
    fn the_echo_backend_says_what_it_was_asked_over_http1_and_h2() {
        let echo = Echo::start("web-1").unwrap();
        let ask = Request::get("http://shop.test/cart?id=7").unwrap();
        let answer = ask.clone().ask(echo.address()).unwrap();
        assert_eq!((answer.status, answer.backend()), (200, "web-1"));
        assert_eq!(answer.seen()["path"], "/cart");
        assert_eq!(answer.seen()["query"], "id=7");
        assert_eq!(answer.seen()["host"], "shop.test");
        let answer = ask.h2().ask(echo.address()).unwrap();
        assert_eq!(answer.seen()["protocol"], "HTTP/2.0");
        assert_eq!((echo.requests(), echo.connections()), (2, 2));
    }

    #[test]
    fn the_echo_backend_answers_as_the_query_asks() {
        let echo = Echo::start("web-1").unwrap();
        let ask = Request::get("http://shop.test/?status=503&bytes=5").unwrap();
        let answer = ask.ask(echo.address()).unwrap();
        assert_eq!((answer.status, answer.text().as_str()), (503, "xxxxx"));
    }

    #[test]
    fn the_echo_backend_speaks_websocket_and_grpc() {
        let echo = Echo::start("web-1").unwrap();
        let ask = Request::get("http://shop.test/").unwrap();
        let echoed = ask.clone().ask_websocket(echo.address(), "hello").unwrap();
        assert_eq!(echoed, "hello");
        let ask = ask.header("content-type", "application/grpc").unwrap();
        let answer = ask.body("frames").h2().ask(echo.address()).unwrap();
        assert_eq!(answer.text(), "frames");
        assert_eq!(answer.trailers["grpc-status"], "0");
    }
}
