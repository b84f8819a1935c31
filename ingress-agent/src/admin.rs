//! The admin address and socket: health, readiness, metrics, the configuration dump. Reads only; knows no key material.

mod pages;
mod server;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use arc_swap::ArcSwap;

use crate::account::Accounts;
use crate::config::Config;
use crate::drain::Drain;
use crate::kernel::Kernel;
use crate::proxy::roster::Roster;
use crate::published::Published;
use crate::series::SharedSeries;
use crate::source::cluster::counts::SourceCounts;
use crate::telemetry::access_log;
use crate::telemetry::metrics::Mailbox;

pub use server::{Admin, Running};

/// What the admin pages are made of. `app` makes it, the publisher keeps it current.
#[derive(Debug)]
pub struct AdminState {
    config: ArcSwap<Config>,
    epoch: Instant,
    published: ArcSwap<Published>,
    workers: Vec<Mailbox>,
    access_log: Arc<access_log::Counts>,
    series: SharedSeries,
    kernel: Arc<Kernel>,
    listening: AtomicBool,
    draining: AtomicBool,
    /// The first thread that ended by a fault.
    dead: OnceLock<String>,
    /// Of the cluster, where that is the source.
    source: OnceLock<Arc<SourceCounts>>,
    /// Connections by route and endpoint.
    accounts: OnceLock<Arc<Accounts>>,
    /// The workers' queues.
    roster: OnceLock<Arc<Roster>>,
    /// What had to be ended at the end of a drain.
    drain: OnceLock<Arc<Drain>>,
}

impl AdminState {
    /// `series` is the same that the workers' shards were made with; `epoch` is when the endpoints' clock started.
    pub fn new(
        config: Config,
        workers: Vec<Mailbox>,
        access_log: Arc<access_log::Counts>,
        series: SharedSeries,
        kernel: Arc<Kernel>,
        epoch: Instant,
    ) -> Arc<Self> {
        Arc::new(Self {
            config: ArcSwap::from_pointee(config),
            epoch,
            published: ArcSwap::from_pointee(Published::nothing()),
            workers,
            access_log,
            series,
            kernel,
            listening: AtomicBool::new(false),
            draining: AtomicBool::new(false),
            dead: OnceLock::new(),
            source: OnceLock::new(),
            accounts: OnceLock::new(),
            roster: OnceLock::new(),
            drain: OnceLock::new(),
        })
    }

    /// After the snapshot is in force.
    pub fn publish(&self, published: Published) {
        self.published.store(Arc::new(published));
    }

    /// Every listener of every worker is bound and accepted from.
    pub fn set_listening(&self) {
        self.listening.store(true, Ordering::Relaxed);
    }

    /// A thread that the agent can't do without has ended by a fault: not healthy any more, so that somebody restarts it.
    pub fn thread_died(&self, name: &str) {
        self.dead.get_or_init(|| name.to_owned());
    }

    /// Objects come from a cluster, and this counts what comes.
    pub fn set_source(&self, counts: Arc<SourceCounts>) {
        let _ = self.source.set(counts);
    }

    /// What is known of connections.
    pub fn set_accounts(&self, accounts: Arc<Accounts>) {
        let _ = self.accounts.set(accounts);
    }

    /// Other addresses are served from now on.
    pub fn set_addresses(&self, http: Vec<SocketAddr>, https: Vec<SocketAddr>) {
        let config = Config::clone(&self.config.load());
        self.config.store(Arc::new(Config {
            http,
            https,
            ..config
        }));
    }

    /// Where the workers' listening sockets are.
    pub fn set_roster(&self, roster: Arc<Roster>) {
        let _ = self.roster.set(roster);
    }

    /// Who counts what a drain ends.
    pub fn set_drain(&self, drain: Arc<Drain>) {
        let _ = self.drain.set(drain);
    }

    /// The signal to stop has come: not ready any more, still healthy.
    pub fn set_draining(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests;
