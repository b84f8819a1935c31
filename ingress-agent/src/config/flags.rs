//! The one table of settings: name, value, default, what it means. Everything else about configuration is made from it.

mod bans;
mod input;
mod listeners;
mod overload;
mod reject;

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::parser::ValueSource;
use clap::{ArgAction, ArgMatches, Args, Command, FromArgMatches};

use self::bans::BanFlags;
use self::input::{Input, Status};
use self::listeners::{Listeners, addresses, one_address};
pub(crate) use self::reject::BPFFS;
use self::reject::RejectFlags;
use super::units::{self, BackendName, ObjectName, Sample};
use super::{
    AccessLog, AccessLogMode, Classes, Config, ConfigError, HookMode, Kernel, Limits, Log, LogFormat,
    LogLevel, ProxyProtocol, Served, Typed, Upstream, file,
};

/// The settings of `run`.
#[derive(Debug, Args)]
pub struct RunFlags {
    /// YAML file with any of these settings, by the same names. A flag or variable overrides what it says.
    #[arg(
        long,
        value_name = "FILE",
        env = "INGRESS_AGENT_CONFIG",
        help_heading = "Input"
    )]
    pub config: Option<PathBuf>,

    #[command(flatten)]
    input: Input,
    #[command(flatten)]
    pub classes: ClassFlags,
    #[command(flatten)]
    status: Status,
    #[command(flatten)]
    listeners: Listeners,
    #[command(flatten)]
    limits: ClientLimits,
    #[command(flatten)]
    serving: Serving,
    #[command(flatten)]
    kernel: KernelFlags,
    #[command(flatten)]
    bans: BanFlags,
    #[command(flatten)]
    logging: Logging,
}

/// Which Ingresses are ours, and what serves the rest; `check` takes these too.
#[derive(Debug, Args)]
#[command(next_help_heading = "What is served")]
pub struct ClassFlags {
    /// spec.controller value of the IngressClasses that are ours. Repeatable: add k8s.io/ingress-nginx to adopt its classes unchanged.
    #[arg(long = "controllers", value_name = "NAME", env = "INGRESS_AGENT_CONTROLLERS", value_delimiter = ',', default_value = "ingress-agent.io/controller", value_parser = not_empty)]
    controllers: Vec<String>,

    /// Class name that the legacy annotation kubernetes.io/ingress.class may use without an IngressClass object.
    #[arg(long, value_name = "NAME", env = "INGRESS_AGENT_INGRESS_CLASS", default_value = "ingress-agent", value_parser = not_empty)]
    ingress_class: String,

    /// Also serve Ingresses that name no class, although no IngressClass is the cluster's default (true or false).
    #[arg(long, value_name = "BOOL", env = "INGRESS_AGENT_WATCH_INGRESS_WITHOUT_CLASS", default_value = "false", default_missing_value = "true", num_args = 0..=1, require_equals = true, action = ArgAction::Set)]
    watch_ingress_without_class: bool,

    /// Service port for every request that nothing else matches: NAMESPACE/SERVICE:PORT, the port by number or name.
    #[arg(long, value_name = "BACKEND", env = "INGRESS_AGENT_DEFAULT_BACKEND")]
    default_backend: Option<BackendName>,

    /// Secret with the certificate for TLS names that no other certificate covers: NAMESPACE/NAME.
    #[arg(long, value_name = "SECRET", env = "INGRESS_AGENT_DEFAULT_CERTIFICATE")]
    default_certificate: Option<ObjectName>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Limits on clients")]
struct ClientLimits {
    /// Largest request head (request line and header fields), in bytes; k and m are 1024 and 1048576. More is answered 431.
    #[arg(long, value_name = "SIZE", env = "INGRESS_AGENT_MAX_HEAD_SIZE", default_value = "32k", value_parser = units::size)]
    max_head_size: usize,

    /// Largest number of header fields in a request (a count). More is answered 431.
    #[arg(long, value_name = "N", env = "INGRESS_AGENT_MAX_HEADER_FIELDS", default_value = "100", value_parser = units::count)]
    max_header_fields: usize,

    /// Longest request target (path and query), in bytes; k and m are 1024 and 1048576. More is answered 414.
    #[arg(long, value_name = "SIZE", env = "INGRESS_AGENT_MAX_URI_SIZE", default_value = "8k", value_parser = units::size)]
    max_uri_size: usize,

    /// Time for a TLS handshake (ms, s, m, h).
    #[arg(long, value_name = "DURATION", env = "INGRESS_AGENT_TLS_HANDSHAKE_TIMEOUT", default_value = "10s", value_parser = units::duration)]
    tls_handshake_timeout: Duration,

    /// Time from the first byte of a request head to its end (ms, s, m, h). Slower is answered 408.
    #[arg(long, value_name = "DURATION", env = "INGRESS_AGENT_HEAD_TIMEOUT", default_value = "15s", value_parser = units::duration)]
    head_timeout: Duration,

    /// Time that a client connection without a request is kept (ms, s, m, h).
    #[arg(long, value_name = "DURATION", env = "INGRESS_AGENT_IDLE_TIMEOUT", default_value = "75s", value_parser = units::duration)]
    idle_timeout: Duration,

    /// Time between two reads of a request body, not for the whole of it (ms, s, m, h). Slower is answered 408.
    #[arg(long, value_name = "DURATION", env = "INGRESS_AGENT_BODY_TIMEOUT", default_value = "60s", value_parser = units::duration)]
    body_timeout: Duration,

    /// Time that a client may take to accept the next part of a response (ms, s, m, h).
    #[arg(long, value_name = "DURATION", env = "INGRESS_AGENT_WRITE_TIMEOUT", default_value = "60s", value_parser = units::duration)]
    write_timeout: Duration,

    /// Client connections that may be open at the same time, in all (a count).
    #[arg(long, value_name = "N", env = "INGRESS_AGENT_MAX_CONNECTIONS", default_value = "65536", value_parser = units::count)]
    max_connections: usize,

    /// Client connections that one source address may have open at the same time (a count). Trusted proxies are not counted.
    #[arg(long, value_name = "N", env = "INGRESS_AGENT_MAX_CONNECTIONS_PER_SOURCE", default_value = "16384", value_parser = units::count)]
    max_connections_per_source: usize,

    /// Requests that may be open at the same time on one HTTP/2 connection (a count).
    #[arg(long, value_name = "N", env = "INGRESS_AGENT_H2_MAX_STREAMS", default_value = "128", value_parser = clap::value_parser!(u32).range(1..=65_535))]
    h2_max_streams: u32,

    /// Requests that a client may take back within 10 seconds on one HTTP/2 connection before it is closed (a count).
    #[arg(long, value_name = "N", env = "INGRESS_AGENT_H2_MAX_RESETS", default_value = "200", value_parser = clap::value_parser!(u32).range(1..=65_535))]
    h2_max_resets: u32,
    #[command(flatten)]
    overload: overload::OverloadFlags,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Serving")]
struct Serving {
    /// Worker threads that serve traffic (a count). [default: one for each core, at most 8]
    #[arg(long, value_name = "N", env = "INGRESS_AGENT_WORKERS", value_parser = clap::value_parser!(u16).range(1..=1024))]
    workers: Option<u16>,

    /// Time within which the agent ends after the signal to stop (ms, s, m, h). Open requests may go on for 13/16 of it; then they are ended (503 draining, or broken off).
    #[arg(long, value_name = "DURATION", env = "INGRESS_AGENT_DRAIN_TIMEOUT", default_value = "30s", value_parser = units::duration)]
    drain_timeout: Duration,

    /// Time that an unused connection to a backend is kept (ms, s, m, h). Keep it under the backends' own keep-alive time.
    #[arg(long, value_name = "DURATION", env = "INGRESS_AGENT_UPSTREAM_IDLE_TIMEOUT", default_value = "4s", value_parser = units::duration)]
    upstream_idle_timeout: Duration,

    /// Unused connections that are kept to one backend endpoint, over all workers (a count). As many as were needed at once a moment ago: with
    /// fewer, a burst of requests opens connections only to close them.
    #[arg(long, value_name = "N", env = "INGRESS_AGENT_UPSTREAM_MAX_IDLE", default_value = "1024", value_parser = units::count)]
    upstream_max_idle: usize,

    /// DNS server for the names of ExternalName Services: an address, or ADDRESS:PORT. Repeatable. [default: those of the node's /etc/resolv.conf]
    #[arg(long, value_name = "ADDR", env = "INGRESS_AGENT_DNS_SERVER", value_delimiter = ',', value_parser = units::name_server)]
    dns_server: Vec<SocketAddr>,

    /// Tell clients in the header x-ingress-agent-reason why the agent answered by itself (true or false).
    #[arg(long, value_name = "BOOL", env = "INGRESS_AGENT_REASON_HEADER", default_value = "true", action = ArgAction::Set)]
    reason_header: bool,

    /// Say `Server: ingress-agent` in answers that name no server; what a backend says of itself is passed on, and what refuses a malformed request names nobody (true or false).
    #[arg(long, value_name = "BOOL", env = "INGRESS_AGENT_SERVER_HEADER", default_value = "true", action = ArgAction::Set)]
    server_header: bool,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Kernel side")]
struct KernelFlags {
    /// What the agent does in the kernel by eBPF, all hooks at once: auto (each where it can be), on (each that is auto has to be) or off.
    #[arg(
        long,
        value_name = "MODE",
        env = "INGRESS_AGENT_KERNEL",
        default_value = "auto"
    )]
    kernel: HookMode,

    /// Socket steering: serve addresses without binding them, and hand over to a newer agent without loss. auto (where it can be, and nobody else
    /// has the port), on (or the start fails; takes ports that another process has, too) or off.
    #[arg(
        long,
        value_name = "MODE",
        env = "INGRESS_AGENT_KERNEL_STEERING",
        default_value = "auto"
    )]
    kernel_steering: HookMode,

    /// Share of client addresses whose new connections are taken where another process has the port too; the others stay with that process. 0 to 1, 10% or 1/10.
    #[arg(
        long,
        value_name = "SHARE",
        env = "INGRESS_AGENT_TAKEOVER",
        default_value = "1"
    )]
    takeover: Sample,

    /// Folder in which the agents of a node find each other, to hand over; must not outlive a restart of the node.
    #[arg(
        long,
        value_name = "DIR",
        env = "INGRESS_AGENT_RUN_DIR",
        default_value = "/run/ingress-agent"
    )]
    run_dir: PathBuf,

    /// After a newer agent took over: time that this one goes on as ever beside it and watches it (ms, s, m, h); then it drains. The default covers handshakes that began here.
    #[arg(long, value_name = "DURATION", env = "INGRESS_AGENT_HAND_OVER_OVERLAP", default_value = "5s", value_parser = units::duration)]
    hand_over_overlap: Duration,

    /// After a hand-over to a newer agent: time that open connections may go on (ms, s, m, h); then they are ended (503 draining, a Close frame, or broken off), spread over --hand-over-spread.
    #[arg(long, value_name = "DURATION", env = "INGRESS_AGENT_HAND_OVER_TIMEOUT", default_value = "1h", value_parser = units::duration)]
    hand_over_timeout: Duration,

    /// Keep the capabilities that the agent was started with (true or false). By default it gives all of them back once its addresses are bound
    /// and its programs are in the kernel: what comes later goes by the descriptors that it holds.
    #[arg(long, value_name = "BOOL", env = "INGRESS_AGENT_KEEP_CAPABILITIES", default_value = "false", action = ArgAction::Set)]
    keep_capabilities: bool,
    /// Accounting by connection: round trips, retransmits, resets and delays by route and backend. auto (where it can be), on (or the start fails)
    /// or off. Without it a part of the requests is sampled.
    #[arg(
        long,
        value_name = "MODE",
        env = "INGRESS_AGENT_KERNEL_ACCOUNTING",
        default_value = "auto"
    )]
    kernel_accounting: HookMode,

    /// After a hand-over: time over which connections are told to end, and after --hand-over-timeout ended, so that their clients do not all come back at once (ms, s, m, h).
    #[arg(long, value_name = "DURATION", env = "INGRESS_AGENT_HAND_OVER_SPREAD", default_value = "1m", value_parser = units::duration)]
    hand_over_spread: Duration,

    #[command(flatten)]
    reject: RejectFlags,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Logs")]
struct Logging {
    /// Which requests the access log (standard output) holds: all, errors (status 400 and above, or a problem) or off.
    #[arg(
        long,
        value_name = "MODE",
        env = "INGRESS_AGENT_ACCESS_LOG",
        default_value = "all"
    )]
    access_log: AccessLogMode,

    /// How access log lines are written: json or text.
    #[arg(
        long,
        value_name = "FORMAT",
        env = "INGRESS_AGENT_ACCESS_LOG_FORMAT",
        default_value = "json"
    )]
    access_log_format: LogFormat,

    /// Share of the requests without error that is logged: 0 to 1, 10% or 1/10. Errors are always logged.
    #[arg(
        long,
        value_name = "SHARE",
        env = "INGRESS_AGENT_ACCESS_LOG_SAMPLE",
        default_value = "1"
    )]
    access_log_sample: Sample,

    /// Least severity in the agent's own log (standard error): error, warn, info, debug or trace.
    #[arg(
        long,
        value_name = "LEVEL",
        env = "INGRESS_AGENT_LOG_LEVEL",
        default_value = "info"
    )]
    log_level: LogLevel,

    /// How the agent's own log is written: text or json.
    #[arg(
        long,
        value_name = "FORMAT",
        env = "INGRESS_AGENT_LOG_FORMAT",
        default_value = "text"
    )]
    log_format: LogFormat,
}

/// The flags alone, as a command: what the file, the docs and tests walk over.
pub fn command() -> Command {
    RunFlags::augment_args(Command::new("run").no_binary_name(true))
}

/// Arguments to the resolved whole; reads the file that `--config` names.
pub(super) fn parse(args: Vec<OsString>) -> Result<Config, ConfigError> {
    let typed = command()
        .try_get_matches_from(args.clone())
        .map_err(ConfigError::Flag)?;
    let Some(path) = typed.get_one::<PathBuf>("config") else {
        return resolve(&typed);
    };
    let file = Some(path.clone());
    // What the file adds is put in front of the arguments, so that one parser judges all of them alike.
    let all = file::read(path, &command()).map_err(ConfigError::File)?;
    let (overridden, settings): (Vec<_>, Vec<_>) =
        all.into_iter().partition(|setting| is_given(&typed, &setting.id));
    let added = settings.iter().flat_map(|setting| setting.arguments.clone());
    let all: Vec<OsString> = added.map(OsString::from).chain(args.clone()).collect();
    let typed = command().try_get_matches_from(all).map_err(ConfigError::Flag)?;
    Ok(Config {
        typed: Typed {
            args,
            file,
            settings,
            overridden,
        },
        ..resolve(&typed)?
    })
}

/// As a flag or in the environment; both stand above the file.
fn is_given(typed: &ArgMatches, id: &str) -> bool {
    matches!(
        typed.value_source(id),
        Some(ValueSource::CommandLine | ValueSource::EnvVariable)
    )
}

fn resolve(typed: &ArgMatches) -> Result<Config, ConfigError> {
    let flags = RunFlags::from_arg_matches(typed).map_err(ConfigError::Flag)?;
    let config = flags.resolve()?;
    if config.http.is_empty() && config.https.is_empty() {
        return Err(ConfigError::Contradiction(
            "http and https are both off: expected at least one address to serve on".into(),
        ));
    }
    if config.proxy_protocol == ProxyProtocol::On && config.trusted_proxies.is_empty() {
        return Err(ConfigError::Contradiction(
            "proxy-protocol is on but trusted-proxies is empty: expected the networks of the load balancers that send it".into(),
        ));
    }
    Ok(config)
}

impl RunFlags {
    fn resolve(self) -> Result<Config, ConfigError> {
        let in_pod = std::env::var_os("KUBERNETES_SERVICE_HOST").is_some();
        let served = Served {
            place: self.input.place(),
            ..self.classes.resolve()
        };
        let source = self.input.resolve(self.status, in_pod)?;
        Ok(Config {
            source,
            http: addresses(&self.listeners.http, "http")?,
            https: addresses(&self.listeners.https, "https")?,
            admin: one_address(self.listeners.admin, "admin")?,
            admin_socket: self.listeners.admin_socket,
            workers: self.serving.workers.map_or_else(default_workers, usize::from),
            served,
            trusted_proxies: self.listeners.trusted_proxies,
            proxy_protocol: self.listeners.proxy_protocol,
            access_log: self.logging.access_log(),
            limits: self.limits.resolve(),
            drain_timeout: self.serving.drain_timeout,
            upstream: Upstream {
                idle_timeout: self.serving.upstream_idle_timeout,
                max_idle_per_endpoint: self.serving.upstream_max_idle,
            },
            dns_servers: self.serving.dns_server,
            reason_header: self.serving.reason_header,
            server_header: self.serving.server_header,
            https_port_in_redirects: self.listeners.https_port_in_redirects,
            kernel: self.kernel.resolve(),
            bans: self.bans.resolve(),
            log: Log {
                level: self.logging.log_level,
                format: self.logging.log_format,
            },
            typed: Typed::default(),
        })
    }
}

impl ClassFlags {
    pub fn resolve(self) -> Served {
        let classes = Classes {
            controllers: self.controllers,
            ingress_class: self.ingress_class,
            watch_ingress_without_class: self.watch_ingress_without_class,
        };
        Served {
            classes,
            default_backend: self.default_backend,
            default_certificate: self.default_certificate,
            place: Default::default(),
        }
    }
}

impl ClientLimits {
    fn resolve(&self) -> Limits {
        Limits {
            head_bytes: self.max_head_size,
            header_fields: self.max_header_fields,
            uri_bytes: self.max_uri_size,
            tls_handshake_timeout: self.tls_handshake_timeout,
            head_timeout: self.head_timeout,
            idle_timeout: self.idle_timeout,
            body_timeout: self.body_timeout,
            write_timeout: self.write_timeout,
            max_connections: self.max_connections,
            max_connections_per_source: self.max_connections_per_source,
            h2_max_streams: self.h2_max_streams,
            h2_max_resets: self.h2_max_resets,
            memory: self.overload.memory_limit,
        }
    }
}

impl KernelFlags {
    fn resolve(self) -> Kernel {
        Kernel {
            steering: self.kernel_steering.under(self.kernel),
            takeover: self.takeover,
            run_dir: self.run_dir,
            hand_over_overlap: self.hand_over_overlap,
            hand_over_timeout: self.hand_over_timeout,
            keep_capabilities: self.keep_capabilities,
            hand_over_spread: self.hand_over_spread,
            reject: self.reject.resolve(self.kernel),
            accounting: self.kernel_accounting.under(self.kernel),
        }
    }
}

impl Logging {
    fn access_log(&self) -> AccessLog {
        AccessLog {
            mode: self.access_log,
            format: self.access_log_format,
            sample: self.access_log_sample,
        }
    }
}

fn default_workers() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from).min(8)
}

pub(super) fn not_empty(text: &str) -> Result<String, String> {
    if text.is_empty() {
        Err("expected a name, got nothing".into())
    } else {
        Ok(text.to_owned())
    }
}
