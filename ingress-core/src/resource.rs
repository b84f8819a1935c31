//! The validated model: what translate makes of Kubernetes objects, and what compile reads.
//!
//! Nothing here knows Ingress or Gateway API fields; both become routes, clusters and certificate bindings.

mod policy;

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use http::{HeaderName, HeaderValue, Method};
use serde::Serialize;

use crate::host::HostPattern;
use crate::name::ObjectRef;
use crate::reason::Reason;

pub use policy::{
    CookieAffinity, CorsOrigin, CorsPolicy, DEFAULT_BODY_LIMIT, Redirect, RetryPolicy, Rewrite, RoutePolicy,
    SourceRanges, Timeouts, TlsRedirect,
};

/// Everything that routing depends on. Endpoints are apart ([`EndpointList`]): they change often and have a lane of their own.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Resources {
    pub routes: Vec<RouteSpec>,
    pub canaries: Vec<CanarySpec>,
    pub clusters: Vec<ClusterSpec>,
    pub certificates: Vec<CertificateBinding>,
    pub unowned: Vec<UnownedHost>,
}

/// Where a route stands among routes for the same host and path: the oldest object wins.
///
/// One that is about to go gives way to all that stay. No creation time sorts last; then namespace and name; then the place within the object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Seniority {
    /// Its namespace is being deleted.
    leaving: bool,
    /// `(false, seconds)` with a creation time, `(true, 0)` without.
    created: (bool, i64),
    pub object: Arc<ObjectRef>,
    /// Rule and path index within the object.
    pub place: (usize, usize),
}

impl Seniority {
    pub fn new(created_unix: Option<i64>, object: Arc<ObjectRef>, place: (usize, usize)) -> Self {
        Self {
            leaving: false,
            created: (created_unix.is_none(), created_unix.unwrap_or(0)),
            object,
            place,
        }
    }

    /// The same object when it is about to go (`true`): its end must not be what others wait for.
    pub fn leaving(self, leaving: bool) -> Self {
        Self { leaving, ..self }
    }

    pub fn is_leaving(&self) -> bool {
        self.leaving
    }
}

/// One rule: these requests go there, treated like this.
#[derive(Clone, Debug, PartialEq)]
pub struct RouteSpec {
    pub seniority: Seniority,
    /// The field that made it, such as `spec.rules[0].http.paths[1]` or `spec.defaultBackend`.
    pub field: String,
    pub host: HostPattern,
    pub path: PathMatch,
    pub conditions: Conditions,
    pub action: Action,
    pub policy: Arc<RoutePolicy>,
    /// `spec.defaultBackend` routes lose against every rule of their host, whatever their path says.
    pub fallback: bool,
}

/// How a path is compared. All forms are already normalised ([`crate::path`]).
#[derive(Clone, Debug)]
pub enum PathMatch {
    Exact(Arc<str>),
    /// By element: `/foo` covers `/foo` and `/foo/bar`, not `/foobar`. Held without a trailing slash; the root is "".
    Prefix(Arc<str>),
    /// Anchored at the start, case-insensitive, as ingress-nginx does it.
    Regex(Arc<PathRegex>),
}

/// A compiled path expression, compared by its source.
#[derive(Clone, Debug)]
pub struct PathRegex {
    pub source: String,
    pub regex: regex::Regex,
}

impl PathRegex {
    /// Compiles within bounded memory; the error says what is wrong with the source.
    pub fn new(source: &str) -> Result<Self, String> {
        let regex = regex::RegexBuilder::new(&format!("^(?:{source})"))
            .case_insensitive(true)
            .size_limit(1 << 20)
            .dfa_size_limit(1 << 20)
            .build()
            .map_err(|error| error.to_string())?;
        Ok(Self {
            source: source.to_owned(),
            regex,
        })
    }
}

impl PathMatch {
    /// The comparable form: kind and text.
    pub fn key(&self) -> (u8, &str) {
        match self {
            Self::Exact(path) => (0, path),
            Self::Prefix(path) => (1, path),
            Self::Regex(regex) => (2, &regex.source),
        }
    }
}

impl PartialEq for PathMatch {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for PathMatch {}

/// `Prefix /foo`
impl fmt::Display for PathMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(path) => write!(f, "Exact {path}"),
            Self::Prefix(path) if path.is_empty() => f.write_str("Prefix /"),
            Self::Prefix(path) => write!(f, "Prefix {path}"),
            Self::Regex(regex) => write!(f, "Regex {}", regex.source),
        }
    }
}

impl Serialize for PathMatch {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

/// What else a request must have. Empty for Ingress; Gateway API fills it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Conditions {
    pub method: Option<Method>,
    pub headers: Vec<(HeaderName, HeaderValue)>,
    pub query: Vec<(String, String)>,
}

/// What happens with a request that matched.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    Forward(Vec<WeightedCluster>),
    /// The route exists and cannot work; the answer carries this reason and the Diagnostic says why.
    Fail(Reason),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WeightedCluster {
    pub cluster: ClusterKey,
    pub weight: u32,
}

/// A canary Ingress: an alternative for the route of the same host and path (ingress-nginx semantics).
#[derive(Clone, Debug, PartialEq)]
pub struct CanarySpec {
    pub seniority: Seniority,
    pub field: String,
    pub host: HostPattern,
    pub path: PathMatch,
    pub cluster: ClusterKey,
    pub when: CanaryWhen,
}

/// When the canary is taken. Asked in this order: header, cookie, weight.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct CanaryWhen {
    #[serde(skip)]
    pub header: Option<CanaryHeader>,
    /// `always` takes the canary, `never` does not, anything else is ignored.
    pub cookie: Option<String>,
    /// Parts of `weight_total`.
    pub weight: u32,
    pub weight_total: u32,
}

/// `header X-Canary, cookie canary, 10 of 100`
impl fmt::Display for CanaryWhen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(header) = &self.header {
            write!(f, "header {}, ", header.name)?;
        }
        if let Some(cookie) = &self.cookie {
            write!(f, "cookie {cookie}, ")?;
        }
        write!(f, "{} of {}", self.weight, self.weight_total)
    }
}

#[derive(Clone, Debug)]
pub struct CanaryHeader {
    pub name: HeaderName,
    pub value: CanaryHeaderValue,
}

impl PartialEq for CanaryHeader {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name && self.value.source() == other.value.source()
    }
}

#[derive(Clone, Debug)]
pub enum CanaryHeaderValue {
    /// `always` takes the canary, `never` does not, anything else goes on to the cookie.
    AlwaysNever,
    Exact(String),
    Pattern(regex::Regex),
}

impl CanaryHeaderValue {
    /// Compiles an expression on the header's value within bounded memory.
    pub fn pattern(source: &str) -> Result<Self, String> {
        let mut builder = regex::RegexBuilder::new(source);
        let built = builder.size_limit(1 << 18).dfa_size_limit(1 << 18).build();
        built.map(Self::Pattern).map_err(|error| error.to_string())
    }

    fn source(&self) -> (u8, &str) {
        match self {
            Self::AlwaysNever => (0, ""),
            Self::Exact(value) => (1, value),
            Self::Pattern(regex) => (2, regex.as_str()),
        }
    }
}

/// What a cluster is: a Service's port, spoken to in one way. Two routes with equal keys share its endpoints and connections.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct ClusterKey {
    pub service: Arc<ObjectRef>,
    /// As the Ingress wrote it: number or name.
    pub port: PortRef,
    pub protocol: Protocol,
    pub balance: Balance,
}

/// `Service shop/web:http`
impl fmt::Display for ClusterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.service, self.port)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(untagged)]
pub enum PortRef {
    Number(u16),
    Name(Arc<str>),
}

impl fmt::Display for PortRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => write!(f, "{number}"),
            Self::Name(name) => f.write_str(name),
        }
    }
}

/// How a backend is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// HTTP/1.1 in clear text.
    Http,
    /// HTTP/1.1 over TLS (certificate not verified, as ingress-nginx does without `proxy-ssl-verify`).
    Https,
    /// HTTP/2 in clear text by prior knowledge; gRPC.
    H2c,
    /// HTTP/2 over TLS; gRPC.
    H2,
}

impl Protocol {
    pub fn is_tls(self) -> bool {
        matches!(self, Self::Https | Self::H2)
    }

    pub fn is_h2(self) -> bool {
        matches!(self, Self::H2c | Self::H2)
    }
}

/// How an endpoint is chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Balance {
    /// Power of two choices by peak EWMA of latency and requests in flight.
    #[default]
    P2cPeakEwma,
    RoundRobin,
    /// By source address.
    HashSource,
    /// By path and query.
    HashUri,
}

/// A cluster as translate found it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterSpec {
    pub key: ClusterKey,
}

/// The endpoints of one cluster at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct EndpointList {
    /// Sorted by address, without duplicates.
    pub endpoints: Vec<Endpoint>,
    /// Why the list is empty, when it is known to be for a reason other than "no endpoints".
    pub missing: Option<Reason>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Endpoint {
    pub address: SocketAddr,
    pub state: EndpointCondition,
    pub zone: Option<Arc<str>>,
    pub node: Option<Arc<str>>,
    /// Near ones are taken first.
    #[serde(skip_serializing_if = "Nearness::is_anywhere")]
    pub nearness: Nearness,
}

/// How near an endpoint is to this agent, the nearest first. Without a wish for near ones, all are anywhere.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Nearness {
    SameNode,
    SameZone,
    #[default]
    Anywhere,
}

impl Nearness {
    pub fn is_anywhere(&self) -> bool {
        *self == Self::Anywhere
    }
}

/// From an EndpointSlice's `ready`, `serving` and `terminating`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum EndpointCondition {
    Ready,
    /// Terminating and still serving: used when nothing is ready.
    Draining,
    NotReady,
}

/// Which certificate serves which names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CertificateBinding {
    pub seniority: Seniority,
    /// `spec.tls[0]`
    pub field: String,
    pub host: HostPattern,
    pub certificate: CertificateKey,
}

/// The Secret that holds a certificate and its key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct CertificateKey(pub Arc<ObjectRef>);

/// A host of an Ingress that no controller owns: kept only to explain its 404.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct UnownedHost {
    pub host: HostPattern,
    pub object: Arc<ObjectRef>,
    /// The mismatch in words: `ingressClassName "nginx" names no IngressClass`.
    pub why: Arc<str>,
}
