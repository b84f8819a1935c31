//! Configuration: as typed (flags, environment, one YAML file) to resolved. No I/O after this.
//!
//! One precedence: flag, then environment, then file, then default. The flags in [`flags`] are the only table: the environment
//! variables, the file's keys, `--help` and docs/configuration.md are all made from it.

pub mod docs;
pub mod file;
pub mod flags;
mod typed;
pub mod units;

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::ValueEnum;
use ingress_core::nearness::Place;
use ingress_core::penalty::Limits as BanLimits;
use ipnet::IpNet;
use serde::Serialize;

pub use file::FileError;
pub use typed::Typed;
pub use units::{Address, BackendName, ObjectName, Sample};

use crate::translate;

/// Everything that `run` needs, resolved.
#[derive(Clone, Debug, Serialize)]
pub struct Config {
    pub source: Source,
    /// Empty: no plain HTTP.
    pub http: Vec<SocketAddr>,
    /// Empty: no HTTPS.
    pub https: Vec<SocketAddr>,
    pub admin: Option<SocketAddr>,
    /// The same pages, for `ingress-agent probe`.
    pub admin_socket: Option<PathBuf>,
    /// At least 1.
    pub workers: usize,
    pub served: Served,
    /// Peers whose forwarded headers and PROXY protocol are believed.
    pub trusted_proxies: Vec<IpNet>,
    pub proxy_protocol: ProxyProtocol,
    pub access_log: AccessLog,
    pub limits: Limits,
    /// How long open requests may go on after the signal to stop.
    #[serde(serialize_with = "units::as_text")]
    pub drain_timeout: Duration,
    pub upstream: Upstream,
    /// For ExternalName Services; empty: those of the node.
    pub dns_servers: Vec<SocketAddr>,
    /// Send `x-ingress-agent-reason` with the agent's own answers.
    pub reason_header: bool,
    /// Send `Server` with answers that name none.
    pub server_header: bool,
    /// The port that redirects to HTTPS name; `None` leaves it out (443).
    pub https_port_in_redirects: Option<u16>,
    pub kernel: Kernel,
    pub bans: Bans,
    pub log: Log,
    #[serde(skip)]
    pub typed: Typed,
}

/// Where objects come from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// A folder of Kubernetes manifests.
    Manifests(PathBuf),
    Cluster(Box<Cluster>),
}

/// A cluster, and what of it is read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Cluster {
    /// `None`: the pod's service account.
    pub kubeconfig: Option<PathBuf>,
    /// `None`: the kubeconfig's current one.
    pub context: Option<String>,
    /// Empty: all.
    pub namespaces: Vec<String>,
    /// A label selector; `None`: all Ingresses.
    pub ingress_selector: Option<String>,
    pub secrets: SecretAccess,
    pub node_name: Option<String>,
    pub pod_name: Option<String>,
    pub pod_namespace: Option<String>,
    /// Where the last state is kept on the node; `None`: nowhere.
    pub state_dir: Option<PathBuf>,
    /// The same for Secrets; on a tmpfs.
    pub state_secrets_dir: PathBuf,
    pub publish: Publish,
}

/// What is written into the status of our Ingresses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Publish {
    pub from: PublishFrom,
    /// Which address of a node.
    pub node_address: NodeAddress,
    /// The headless Service over the agents themselves.
    pub agent_service: Option<ObjectName>,
}

/// Where the addresses come from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum PublishFrom {
    /// No status is written.
    Nothing,
    Fixed(Vec<Address>),
    /// Copied from that Service's status, else its externalIPs.
    Service(ObjectName),
    /// The nodes of that Service's ready endpoints: the agents.
    Agents(ObjectName),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum NodeAddress {
    Internal,
    External,
}

/// How Secrets are read from the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum SecretAccess {
    /// Those of type `kubernetes.io/tls` are watched; others where they are referenced.
    Tls,
    /// Only the referenced ones, by `get`.
    Referenced,
}

/// What translate is told: ownership, and what serves the rest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Served {
    pub classes: Classes,
    pub default_backend: Option<BackendName>,
    /// The Secret whose certificate serves names that no other covers.
    pub default_certificate: Option<ObjectName>,
    /// Where the agent is: some Services prefer endpoints that are near.
    pub place: Place,
}

/// Which Ingresses are ours.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Classes {
    /// `IngressClass.spec.controller` values that are ours.
    pub controllers: Vec<String>,
    /// The class name that a bare `kubernetes.io/ingress.class` annotation may use.
    pub ingress_class: String,
    /// Serve Ingresses that name no class although the cluster has no default class.
    pub watch_ingress_without_class: bool,
}

/// Whether connections open with a PROXY protocol header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum ProxyProtocol {
    /// No connection does.
    Off,
    /// Version 1 or 2 is expected from the peers in `trusted_proxies`; nobody else may send one.
    On,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct AccessLog {
    pub mode: AccessLogMode,
    pub format: LogFormat,
    /// The share of requests without error that is logged. Errors always are.
    pub sample: Sample,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum AccessLogMode {
    Off,
    All,
    /// Status 400 and above, and answers of the agent itself that report a problem.
    Errors,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    Json,
    Text,
}

/// What one client may use. Every bound has a default.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Limits {
    /// Request line and header fields together, in bytes.
    pub head_bytes: usize,
    pub header_fields: usize,
    /// The request target, in bytes.
    pub uri_bytes: usize,
    #[serde(serialize_with = "units::as_text")]
    pub tls_handshake_timeout: Duration,
    /// From the first byte of a head to its end.
    #[serde(serialize_with = "units::as_text")]
    pub head_timeout: Duration,
    /// Between two requests of one connection.
    #[serde(serialize_with = "units::as_text")]
    pub idle_timeout: Duration,
    /// Between two reads of a request body.
    #[serde(serialize_with = "units::as_text")]
    pub body_timeout: Duration,
    /// Between two writes to a client that does not read.
    #[serde(serialize_with = "units::as_text")]
    pub write_timeout: Duration,
    /// Of the whole process.
    pub max_connections: usize,
    /// Of one client address.
    pub max_connections_per_source: usize,
    /// Open at the same time on one HTTP/2 connection.
    pub h2_max_streams: u32,
    /// Streams that a client may reset within 10 seconds on one HTTP/2 connection.
    pub h2_max_resets: u32,
    /// Of the whole process.
    pub memory: MemoryLimit,
}

/// How much resident memory the process may have before it sheds load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum MemoryLimit {
    /// What the cgroup of the process allows; none where it sets no limit.
    Auto,
    Off,
    Bytes(usize),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Upstream {
    /// How long an unused connection to an endpoint is kept.
    #[serde(serialize_with = "units::as_text")]
    pub idle_timeout: Duration,
    /// Of the whole process.
    pub max_idle_per_endpoint: usize,
}

/// What the agent does in the kernel.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Kernel {
    pub steering: HookMode,
    /// The share of client addresses that is taken.
    pub takeover: Sample,
    /// Where the agents of a node find each other.
    pub run_dir: PathBuf,
    /// How long the old agent goes on as ever beside the new one. Handshakes that began with it end with it: a SYN-ACK that was lost is sent
    /// again after 1 and 3 seconds (RFC 6298, initial RTO 1 s, doubled), so 5 s cover two losses.
    #[serde(serialize_with = "units::as_text")]
    pub hand_over_overlap: Duration,
    /// After a hand-over, for what is still open.
    #[serde(serialize_with = "units::as_text")]
    pub hand_over_timeout: Duration,
    /// Give no right back after the set-up.
    pub keep_capabilities: bool,
    /// What is still open then ends within this time.
    #[serde(serialize_with = "units::as_text")]
    pub hand_over_spread: Duration,
    pub reject: Reject,
    /// Accounting by connection.
    pub accounting: HookMode,
}

/// Early rejection of unmatched traffic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Reject {
    /// `off` when `--kernel` is.
    pub mode: HookMode,
    /// Empty: found by the addresses that are served.
    pub interfaces: Vec<String>,
    pub tc: HookMode,
    pub xdp: HookMode,
    /// A directory of bpffs for XDP links.
    pub bpffs: PathBuf,
    pub names: HookMode,
    /// Unmatched first segments a second from which `names: auto` rejects.
    pub names_above: u32,
    pub deny: Vec<SourceRule>,
    pub allow: Vec<SourceRule>,
    /// Where unserved ports are refused.
    pub closed: Vec<IpAddr>,
    /// New connections a second; 0 is unlimited.
    pub by_source: u32,
    pub in_total: u32,
    /// Answer with a reset instead of silence.
    pub answer: bool,
}

/// When sources are banned for a time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Bans {
    /// Offences of each kind within the window from which a source is banned; 0: never.
    pub handshakes: u32,
    pub unmatched: u32,
    pub scans: u32,
    /// Beginnings of paths.
    pub scan_paths: Vec<String>,
    #[serde(serialize_with = "units::as_text")]
    pub window: Duration,
    #[serde(serialize_with = "units::as_text")]
    pub lasts: Duration,
    /// Beside the trusted proxies.
    pub never: Vec<IpNet>,
}

impl Bans {
    pub fn limits(&self) -> BanLimits {
        BanLimits {
            offences: [self.handshakes, self.unmatched, self.scans],
            window: self.window,
            lasts: self.lasts,
        }
    }
}

/// A network of a list of sources.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SourceRule {
    /// `None`: for every listener.
    pub listener: Option<ListenerChoice>,
    pub network: IpNet,
}

/// Some of the listeners.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ListenerChoice {
    Http,
    Https,
    /// As it stands in `http` or `https`.
    At(SocketAddr),
}

/// Whether something in the kernel is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum HookMode {
    /// Where it can be and harms nobody.
    #[default]
    Auto,
    /// Or the agent does not start.
    On,
    Off,
}

impl HookMode {
    /// One hook's own setting below the one for all: `off` there wins, and `on` there makes `auto` a must.
    fn under(self, all: Self) -> Self {
        match (all, self) {
            (Self::Off, _) => Self::Off,
            (Self::On, Self::Auto) => Self::On,
            (_, own) => own,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Log {
    pub level: LogLevel,
    pub format: LogFormat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

impl Config {
    /// What `run` would resolve from these arguments (without the program's and command's name); reads the file that `--config` names.
    pub fn from_args<I, T>(args: I) -> Result<Self, ConfigError>
    where
        I: IntoIterator<Item = T>,
        T: Into<std::ffi::OsString>,
    {
        flags::parse(args.into_iter().map(Into::into).collect())
    }
}

impl Served {
    /// As translate takes it; `now_unix` is what certificates' validity is judged by.
    pub fn translate_options(&self, now_unix: i64) -> translate::Options {
        let backend = |b: &BackendName| (b.namespace.clone(), b.service.clone(), b.port.clone());
        translate::Options {
            controllers: self.classes.controllers.clone(),
            class: self.classes.ingress_class.clone(),
            classless: self.classes.watch_ingress_without_class,
            default_backend: self.default_backend.as_ref().map(backend),
            default_certificate: self
                .default_certificate
                .as_ref()
                .map(|c| (c.namespace.clone(), c.name.clone())),
            place: self.place.clone(),
            now_unix,
        }
    }
}

/// Why there is no configuration.
#[derive(Debug)]
pub enum ConfigError {
    /// A flag or variable; clap's own words (or its `--help`).
    Flag(clap::Error),
    File(FileError),
    /// The whole makes no sense; the text says what to change.
    Contradiction(String),
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(error) => write!(f, "{error}"),
            Self::File(error) => write!(f, "{error}"),
            Self::Contradiction(text) => f.write_str(text),
        }
    }
}

impl std::error::Error for ConfigError {}

#[cfg(test)]
mod tests;
