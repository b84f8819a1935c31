//! The only wiring file: binds everything, starts every thread, and holds what ends them.
//!
//! Threads: source watch → publisher → (live state) ← workers, one a core; admin; access log writer. All are joined at the end.

mod accounting;
mod control;
mod inheritance;
mod listeners;
mod rejection;
mod serving;
mod succession;
mod workers;

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicUsize};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use arc_swap::ArcSwap;
use ingress_core::filter::Forwarding;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use tokio::signal::unix::{Signal, SignalKind, signal};

use self::control::{Publication, start_publisher};
use self::inheritance::Heirlooms;
use self::listeners::{Listeners, Served, Stamps};
use self::serving::Serving;
use self::succession::{Estate, Succession};
use crate::account::Accounts;
use crate::admin::{self, AdminState};
use crate::bans::{Keeper, Rules};
use crate::config::Config;
use crate::drain::Drain;
use crate::kernel::Kernel;
use crate::live::Live;
use crate::memory::pressure::Pressure;
use crate::proxy::roster::Roster;
use crate::proxy::upstream::IdleBudget;
use crate::proxy::worker::Shared;
use crate::proxy::{tls, wire};
use crate::series::LiveSeries;
use crate::telemetry::access_log;
use crate::telemetry::metrics;
use crate::tickets::{self, TicketKeys};

/// A serving agent.
pub struct Running {
    /// As at the start, as `https`.
    pub http: Vec<SocketAddr>,
    pub https: Vec<SocketAddr>,
    pub admin: Option<SocketAddr>,
    pub live: Arc<ArcSwap<Live>>,
    pub state: Arc<AdminState>,
    listeners: Listeners,
    kernel: Arc<Kernel>,
    succession: Option<Succession>,
    shared: Arc<Shared>,
    heirlooms: Arc<Heirlooms>,
    workers: Vec<JoinHandle<()>>,
    watch: workers::Watch,
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
        listening,
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
    let mailboxes: Vec<_> = (0..config.workers).map(|_| metrics::mailbox()).collect();
    let roster = Roster::new(config.workers);
    roster
        .open(sockets)
        .context("the listening sockets cannot be shared")?;
    let state = AdminState::new(
        config.clone(),
        mailboxes.iter().map(|(mailbox, _)| mailbox.clone()).collect(),
        log_sink.counts(),
        Arc::clone(&series),
        Arc::clone(&kernel),
        started,
    );
    state.set_accounts(Arc::clone(&accounts));
    state.set_roster(Arc::clone(&roster));
    let addresses: Vec<_> = http.iter().chain(&https).chain(&admin_address).copied().collect();
    // Before the first state, which a cluster may take its time for: the probes are told why.
    let admin_server = admin_server.start(Arc::clone(&state))?;
    let publication = start_publisher(&config, &state, &series, (started, &addresses), rejection.ok())?;
    let live = Arc::clone(&publication.live);
    let drain = Arc::new(Drain::default());
    state.set_drain(Arc::clone(&drain));
    let tickets = TicketKeys::new(tickets::now()).context("no key for TLS session tickets can be made")?;
    let tickets = Arc::new(tickets);
    let tls = tls::server_config(Arc::clone(&live), Arc::clone(&tickets)).context("TLS cannot be set up")?;
    let pressure = Pressure::watch(config.limits.memory).context("memory cannot be watched")?;
    let shared = Arc::new(Shared {
        tls_to_turn_away: tls::only_http1(&tls),
        tls,
        pressure,
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
        roster: Arc::clone(&roster),
        connections: AtomicUsize::new(0),
        https_port: AtomicU16::new(redirect_port(&config, &https)),
        started,
        config,
    });
    // Until they are ours alone.
    roster.doors.close(&heirlooms.adopted_addresses());
    let heirlooms = Arc::new(heirlooms);
    let workers = workers::start(&shared, &state, &log_sink, mailboxes)?;
    let watch = {
        let kernel = Arc::clone(&kernel);
        workers::Watch::start(&roster, move |loads| kernel.set_loads(loads))?
    };
    let served = Arc::new(ArcSwap::from_pointee(Served::of(&listening)));
    let estate = Estate {
        kernel: Arc::clone(&kernel),
        state: Arc::clone(&state),
        penalties: bans.penalties(),
        shared: Arc::clone(&shared),
        tickets,
        served: Arc::clone(&served),
        heirlooms: Arc::clone(&heirlooms),
    };
    let succession = succession::take_over(&estate)?;
    state.set_listening();
    let listeners = Listeners {
        kernel: Arc::clone(&kernel),
        state: Arc::clone(&state),
        file: Stamps::now(&shared.config),
        shared: Arc::clone(&shared),
        served,
        heirlooms: Arc::clone(&heirlooms),
        publisher: publication.events(),
        admin: admin_address,
        listening,
    };
    Ok(Running {
        http,
        https,
        listeners,
        kernel,
        succession,
        admin: admin_address,
        live,
        state,
        shared,
        heirlooms,
        workers,
        watch,
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
        drop(self.watch);
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
    let mut running = start_in(config, Process::Ours)?;
    announce(&running);
    // Once for both signals: a second one that comes at once must not fall between two pairs of ears.
    let mut signals = runtime.block_on(async { Signals::new() })?;
    while let Some(order) = runtime.block_on(signals.next_order()) {
        match order {
            Order::Reload => running.listeners.reload(),
            Order::Look => running.listeners.look(),
        }
    }
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

/// What there is to do while it serves.
enum Order {
    /// SIGHUP.
    Reload,
    /// From time to time.
    Look,
}

/// How often the file of settings is looked at.
const LOOK_AT_FILE: Duration = Duration::from_secs(1);

/// SIGTERM and SIGINT to end; SIGHUP to read the settings again.
struct Signals {
    hang_up: Signal,
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Must run on a runtime.
    fn new() -> io::Result<Self> {
        Ok(Self {
            hang_up: signal(SignalKind::hangup())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// `None`: it is to end.
    async fn next_order(&mut self) -> Option<Order> {
        tokio::select! {
            biased;
            _ = self.terminate.recv() => None,
            _ = self.interrupt.recv() => None,
            _ = self.hang_up.recv() => Some(Order::Reload),
            () = tokio::time::sleep(LOOK_AT_FILE) => Some(Order::Look),
        }
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

/// `off`: there are none. Ports that follow each other are shown as a range.
fn list(addresses: &[SocketAddr]) -> String {
    let follows = |before: &SocketAddr, next: &SocketAddr| {
        before.ip() == next.ip() && before.port().checked_add(1) == Some(next.port())
    };
    let mut texts = Vec::new();
    for run in addresses.chunk_by(follows) {
        match run {
            [first, _, .., last] => texts.push(format!("{first}-{}", last.port())),
            few => texts.extend(few.iter().map(ToString::to_string)),
        }
    }
    if texts.is_empty() {
        texts.push("off".to_owned());
    }
    texts.join(", ")
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
