//! The only wiring file: binds everything, starts every thread, and holds what ends them.
//!
//! Threads: source watch → publisher → (live state) ← workers, one a core; admin; access log writer. All are joined at the end.

mod accounting;
mod control;
mod inheritance;
mod rejection;
mod serving;
mod succession;

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use arc_swap::ArcSwap;
use ingress_core::filter::Forwarding;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use tokio::signal::unix::{Signal, SignalKind, signal};

use self::control::{Publication, Vital, spawn, start_publisher};
use self::inheritance::Heirlooms;
use self::serving::Serving;
use self::succession::{Estate, Succession};
use crate::account::Accounts;
use crate::admin::{self, AdminState};
use crate::bans::{Keeper, Rules};
use crate::config::Config;
use crate::drain::Drain;
use crate::kernel::Kernel;
use crate::live::Live;
use crate::proxy::door::Doors;
use crate::proxy::upstream::IdleBudget;
use crate::proxy::worker::{self, Equipment, Shared};
use crate::proxy::{tls, wire};
use crate::telemetry::access_log;
use crate::telemetry::metrics::{self, LiveSeries};
use crate::tickets::{self, TicketKeys};

/// A serving agent.
pub struct Running {
    pub http: Vec<SocketAddr>,
    pub https: Vec<SocketAddr>,
    pub admin: Option<SocketAddr>,
    pub live: Arc<ArcSwap<Live>>,
    pub state: Arc<AdminState>,
    kernel: Arc<Kernel>,
    succession: Option<Succession>,
    shared: Arc<Shared>,
    heirlooms: Arc<Heirlooms>,
    workers: Vec<JoinHandle<()>>,
    publication: Publication,
    admin_server: admin::Running,
    access_log: access_log::Writer,
    _bans: Keeper,
    accounts: Arc<Accounts>,
}

/// What becomes of the rights that the process has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Process {
    /// It is the agent's alone: they are given back.
    Ours,
    /// Others live in it, who need theirs.
    Shared,
}

/// Binds every address, waits for the first state of the source, and serves. In a process of others, whose rights stay as they are.
///
/// # Errors
/// When an address can't be bound (the message names the flag), the folder can't be watched, or TLS can't be set up.
pub fn start(config: Config) -> Result<Running> {
    start_in(config, Process::Shared)
}

fn start_in(config: Config, process: Process) -> Result<Running> {
    let started = Instant::now();
    // First what asks for a right, and no thread before they are given back: each has its own.
    let Serving {
        http,
        https,
        sockets,
        kernel,
        heirlooms,
    } = serving::bind(&config)?;
    let rejection = rejection::prepare(&config, &http, &https)?;
    kernel.set_rejection(rejection.clone());
    let accounts = accounting::prepare(&config, &kernel, &sockets)?;
    let (admin_server, admin_address) = serving::bind_admin(&config)?;
    kernel.give_rights_back(process == Process::Shared || config.kernel.keep_capabilities);
    if let Ok(rejection) = &rejection {
        rejection::follow(&config, rejection)?;
    }

    accounts.start().context("the thread account cannot be started")?;
    let bans = Keeper::start(ban_rules(&config), Arc::clone(&kernel)).context("penalties cannot be kept")?;
    let (log_sink, access_log) =
        access_log::start(config.access_log).context("the access log cannot be started")?;
    let series = Arc::new(ArcSwap::from_pointee(LiveSeries::default()));
    let (mailboxes, inboxes): (Vec<_>, Vec<_>) = (0..config.workers).map(|_| metrics::mailbox()).unzip();
    let state = AdminState::new(
        config.clone(),
        mailboxes,
        log_sink.counts(),
        Arc::clone(&series),
        Arc::clone(&kernel),
        started,
    );
    state.set_accounts(Arc::clone(&accounts));
    let listeners: Vec<_> = http.iter().chain(&https).chain(&admin_address).copied().collect();
    // Before the first state, which a cluster may take its time for: the probes are told why.
    let admin_server = admin_server.start(Arc::clone(&state))?;
    let publication = start_publisher(&config, &state, &series, (started, &listeners), rejection.ok())?;
    let live = Arc::clone(&publication.live);
    let drain = Arc::new(Drain::default());
    state.set_drain(Arc::clone(&drain));
    let tickets = TicketKeys::new(tickets::now()).context("no key for TLS session tickets can be made")?;
    let tickets = Arc::new(tickets);
    let shared = Arc::new(Shared {
        tls: tls::server_config(Arc::clone(&live), Arc::clone(&tickets)).context("TLS cannot be set up")?,
        live: Arc::clone(&live),
        limits: Arc::new(gate_limits(&config)),
        forwarding: Forwarding {
            trusted: config.trusted_proxies.clone(),
            forwarded: false,
        },
        idle_budget: Arc::new(idle_budget(&config)),
        accounts: Arc::clone(&accounts),
        series,
        drain,
        penalties: bans.penalties(),
        doors: Doors::default(),
        connections: AtomicUsize::new(0),
        https_port: redirect_port(&config, &https),
        started,
        config,
    });
    // Until they are ours alone.
    shared.doors.close(&heirlooms.adopted_addresses());
    let mut workers = Vec::new();
    for (index, (sockets, inbox)) in sockets.into_iter().zip(inboxes).enumerate() {
        let equipment = Equipment {
            shared: Arc::clone(&shared),
            sockets,
            access_log: log_sink.clone(),
            inbox,
        };
        let name = format!("worker-{index}");
        let vital = Vital::new(&name, &state);
        workers.push(spawn(&name, move || {
            if let Err(error) = worker::run(equipment) {
                tracing::error!(%error, "a worker has ended; its connections are lost");
                vital.failed();
            }
        })?);
    }
    let estate = Estate {
        kernel: Arc::clone(&kernel),
        state: Arc::clone(&state),
        penalties: bans.penalties(),
        shared: Arc::clone(&shared),
        tickets,
        addresses: http.iter().chain(&https).copied().collect(),
        heirlooms: Arc::new(heirlooms),
    };
    let heirlooms = Arc::clone(&estate.heirlooms);
    let succession = succession::take_over(&estate)?;
    state.set_listening();
    Ok(Running {
        http,
        https,
        kernel,
        succession,
        admin: admin_address,
        live,
        state,
        shared,
        heirlooms,
        workers,
        publication,
        admin_server,
        access_log,
        _bans: bans,
        accounts,
    })
}

impl Running {
    /// Ends without loss: nothing new, open requests go on until they are done or `drain_timeout` is nearly over; then they are ended.
    pub fn shutdown(self) {
        self.state.set_draining();
        self.heirlooms.close();
        let (drain, limit) = (&self.shared.drain, self.shared.config.drain_timeout);
        drain.order(Duration::ZERO);
        let begun = Instant::now();
        while self.workers.iter().any(|worker| !worker.is_finished()) {
            match begun.elapsed() {
                passed if passed >= limit => break,
                // So that clients do not all come back at once; what has begun gets a little time, and as much is left for the last words.
                passed if passed >= limit / 16 * 13 => drain.end(limit / 16, limit / 16),
                // WebSockets never end by themselves: they are closed in the last quarter, and with time for an answer.
                passed if passed >= limit / 4 * 3 => drain.wind_up(limit / 8),
                _ => {}
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        drain.cut(&self.shared.connections);
        for worker in self.workers {
            let _ = worker.join();
        }
        if !drain.tally().is_empty() {
            tracing::warn!("--drain-timeout: what was open at its end: {}", drain.tally());
        }
        self.kernel.let_go("the agent has ended");
        drop(self.succession);
        self.accounts.stop();
        self.publication.stop();
        self.admin_server.stop();
        self.access_log.finish(Duration::from_secs(1));
    }
}

/// `ingress-agent run`: serves until SIGTERM or SIGINT, then drains; a second signal ends at once.
///
/// # Errors
/// As [`start`].
pub fn run(config: Config) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let running = start_in(config, Process::Ours)?;
    announce(&running);
    // Once for both signals: a second one that comes at once must not fall between two pairs of ears.
    let mut signals = runtime.block_on(async { Signals::new() })?;
    runtime.block_on(signals.next());
    tracing::info!("stopping: open requests may finish; a second signal ends at once");
    let draining = std::thread::spawn(move || running.shutdown());
    runtime.block_on(async {
        let again = signals.next();
        tokio::pin!(again);
        loop {
            tokio::select! {
                () = &mut again => std::process::exit(130),
                () = tokio::time::sleep(Duration::from_millis(10)) => {
                    if draining.is_finished() {
                        return;
                    }
                }
            }
        }
    });
    tracing::info!("stopped");
    Ok(())
}

/// SIGTERM and SIGINT.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Must run on a runtime.
    fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// What is served, in a few lines.
fn announce(running: &Running) {
    let live = running.live.load();
    let hosts: std::collections::BTreeSet<_> = live
        .snapshot
        .routes()
        .map(|route| route.host.to_string())
        .collect();
    let list = |addresses: &[SocketAddr]| {
        let texts: Vec<_> = addresses.iter().map(ToString::to_string).collect();
        if texts.is_empty() {
            "off".to_owned()
        } else {
            texts.join(", ")
        }
    };
    tracing::info!(
        http = list(&running.http),
        https = list(&running.https),
        admin = list(running.admin.as_slice()),
        steering = running.kernel.view().steering.to_string(),
        accounting = running.kernel.view().accounting.to_string(),
        "serving"
    );
    let named: Vec<_> = hosts.iter().take(NAMED_AT_START).cloned().collect();
    let more = hosts.len().saturating_sub(named.len());
    tracing::info!(
        hosts = hosts.len(),
        routes = live.snapshot.routes().count(),
        clusters = live.snapshot.clusters().count(),
        "hosts: {}{}",
        if named.is_empty() {
            "none yet".to_owned()
        } else {
            named.join(", ")
        },
        if more > 0 {
            format!(" and {more} more")
        } else {
            String::new()
        }
    );
}

/// Hosts that the line at the start names.
const NAMED_AT_START: usize = 8;

fn ban_rules(config: &Config) -> Rules {
    let never = config.trusted_proxies.iter().chain(&config.bans.never);
    Rules {
        limits: config.bans.limits(),
        scan_paths: config.bans.scan_paths.clone(),
        // Whoever is on the node: our own requests to ourselves, for one.
        never: never.copied().chain(loopback()).collect(),
    }
}

fn loopback() -> [IpNet; 2] {
    let v4 = Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8);
    let v6 = Ipv6Net::new_assert(Ipv6Addr::LOCALHOST, 128);
    [v4.into(), v6.into()]
}

fn redirect_port(config: &Config, https: &[SocketAddr]) -> u16 {
    config
        .https_port_in_redirects
        .or_else(|| https.first().map(SocketAddr::port))
        .unwrap_or(443)
}

fn gate_limits(config: &Config) -> wire::Limits {
    let limits = &config.limits;
    wire::Limits {
        head_bytes: limits.head_bytes,
        head_fields: limits.header_fields,
        request_line: limits.uri_bytes,
        field_line: limits.head_bytes.min(32 * 1024),
        head_wait: limits.head_timeout,
        idle_wait: limits.idle_timeout,
        body_gap: limits.body_timeout,
        write_stall: limits.write_timeout,
        h2_resets: limits.h2_max_resets,
        reason_header: config.reason_header,
        ..wire::Limits::default()
    }
}

/// In all: as many as there may be clients.
fn idle_budget(config: &Config) -> IdleBudget {
    let bound = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    IdleBudget::new(
        bound(config.upstream.max_idle_per_endpoint),
        bound(config.limits.max_connections),
    )
}
