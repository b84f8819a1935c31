//! Penalties: sources that keep failing are banned for a time, by their deeds or by order. In force in the kernel where packets are judged,
//! and at accept everywhere.
//!
//! Workers tell what happens and never wait; one thread keeps the books ([`ingress_core::penalty`]). Knows addresses, no routes.

mod teller;

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use ingress_core::penalty::{Ban, Bans, Limits, Offence, Offences, Source, Why};
use ipnet::IpNet;

pub(crate) use self::teller::Teller;
use crate::kernel::Kernel;
use crate::kernel::control::BanView;

/// When sources are banned, and which never.
#[derive(Clone, Debug)]
pub struct Rules {
    pub limits: Limits,
    /// Beginnings of paths that only scanners ask for.
    pub scan_paths: Vec<String>,
    /// Never banned: trusted proxies, loopback, and who is named.
    pub never: Vec<IpNet>,
}

/// The list and the books; shared by workers, control socket and the thread that keeps them.
pub struct Penalties {
    rules: Rules,
    kernel: Arc<Kernel>,
    started: Instant,
    /// As workers see it at accept.
    in_force: ArcSwap<Bans>,
    /// Taken by whoever changes it, never for long, and by no worker.
    books: Mutex<Bans>,
    events: SyncSender<Event>,
    /// That there was no room is said once, and again when there was some meanwhile.
    is_full: AtomicBool,
}

/// What a worker tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    Offence(Source, Offence),
    Good(Source),
    Stop,
}

/// Events that wait; what finds no room is forgotten, and so nobody is banned for it.
const QUEUE: usize = 4096;
/// By order or taken over from another agent.
pub(crate) const LONGEST_BAN: Duration = Duration::from_secs(366 * 24 * 60 * 60);
/// How often bans that are over are taken out.
const TICK: Duration = Duration::from_millis(500);

/// The thread that keeps the books, until it is dropped.
pub struct Keeper {
    penalties: Arc<Penalties>,
    thread: Option<JoinHandle<()>>,
}

impl Keeper {
    /// # Errors
    /// When there can't be a thread.
    pub fn start(rules: Rules, kernel: Arc<Kernel>) -> std::io::Result<Self> {
        let (events, told) = sync_channel(QUEUE);
        let offences = Offences::new(rules.limits);
        let penalties = Arc::new(Penalties {
            rules,
            kernel,
            started: Instant::now(),
            in_force: ArcSwap::from_pointee(Bans::default()),
            books: Mutex::new(Bans::default()),
            events,
            is_full: AtomicBool::new(false),
        });
        let kept = Arc::clone(&penalties);
        let thread = std::thread::Builder::new().name("bans".into());
        let thread = thread.spawn(move || keep(&kept, offences, &told))?;
        Ok(Self {
            penalties,
            thread: Some(thread),
        })
    }

    pub fn penalties(&self) -> Arc<Penalties> {
        Arc::clone(&self.penalties)
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        let _ = self.penalties.events.send(Event::Stop);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn keep(penalties: &Penalties, mut offences: Offences, told: &Receiver<Event>) {
    let mut looked = Instant::now();
    loop {
        match told.recv_timeout(TICK) {
            Ok(Event::Offence(source, offence)) => {
                let now = penalties.now();
                if offences.offence(source, offence, now) {
                    let lasts = penalties.rules.limits.lasts;
                    if let Err(why) = penalties.add(source, Why::Offence(offence), lasts) {
                        tracing::debug!(%source, "not banned: {why}");
                    }
                }
            }
            Ok(Event::Good(source)) => offences.good(source, penalties.now()),
            Err(RecvTimeoutError::Timeout) => {}
            Ok(Event::Stop) | Err(RecvTimeoutError::Disconnected) => return,
        }
        if looked.elapsed() >= TICK {
            looked = Instant::now();
            penalties.expire();
        }
    }
}

impl Penalties {
    /// By order.
    ///
    /// # Errors
    /// With the reason why it is not banned.
    pub fn order(&self, ip: IpAddr, lasts: Duration) -> Result<(), String> {
        self.add(Source::of(ip), Why::Order, lasts)
    }

    /// Whether it was banned.
    pub fn lift(&self, ip: IpAddr) -> bool {
        let source = Source::of(ip);
        let mut books = self.books();
        let was = books.lift(source);
        if was {
            self.in_force.store(Arc::new(books.clone()));
            self.kernel.lift(source.key());
            tracing::info!(%source, "the ban is lifted");
        }
        was
    }

    /// Those that end first, but for so many of them and at most so many; and how many more there are.
    pub fn list(&self, skip: usize, most: usize) -> (Vec<BanView>, usize) {
        let now = self.now();
        let all = self.books().list();
        let view = |ban: &Ban| BanView {
            source: ban.source.to_string(),
            why: ban.why.code().to_owned(),
            seconds_left: ban.until.saturating_sub(now).as_secs(),
        };
        let shown: Vec<_> = all.iter().skip(skip).take(most).map(view).collect();
        let more = all.len().saturating_sub(skip).saturating_sub(shown.len());
        (shown, more)
    }

    /// What the agent before banned, for the time that is left; how many there were. Whoever is trusted here is not.
    pub fn adopt(&self, bans: &[BanView]) -> usize {
        let mut books = self.books();
        let mut adopted = 0;
        for ban in bans {
            let lasts = Duration::from_secs(ban.seconds_left).min(LONGEST_BAN);
            let address = ban.source.split('/').next().and_then(|ip| ip.parse().ok());
            let (Some(ip), Some(why), false) = (address, Why::of(&ban.why), lasts.is_zero()) else {
                continue;
            };
            let source = Source::of(ip);
            if let Ok(lasts) = self.enter(&mut books, source, why, lasts) {
                self.kernel.ban(source.key(), lasts);
                adopted += 1;
            }
        }
        self.in_force.store(Arc::new(books.clone()));
        adopted
    }

    /// How long it lasts in the end: a shorter ban than the one before changes nothing.
    fn enter(&self, books: &mut Bans, source: Source, why: Why, lasts: Duration) -> Result<Duration, String> {
        if let Some(network) = self.rules.never.iter().find(|network| source.overlaps(network)) {
            return Err(format!("{source} is never banned: {network} is trusted"));
        }
        let now = self.now();
        let until = now.saturating_add(lasts);
        let Ok(until) = books.add(Ban { source, why, until }) else {
            if !self.is_full.swap(true, Ordering::Relaxed) {
                tracing::warn!(
                    "as many sources are banned as there is room for: no more until some are over"
                );
            }
            return Err("the list of banned sources is full".to_owned());
        };
        self.is_full.store(false, Ordering::Relaxed);
        Ok(until.saturating_sub(now))
    }

    /// In the kernel last: whoever is banned there is banned here.
    fn add(&self, source: Source, why: Why, lasts: Duration) -> Result<(), String> {
        let mut books = self.books();
        let lasts = self.enter(&mut books, source, why, lasts)?;
        self.in_force.store(Arc::new(books.clone()));
        let in_kernel = self.kernel.ban(source.key(), lasts);
        tracing::warn!(
            %source, reason = why.code(), seconds = lasts.as_secs(), in_kernel,
            "banned: its connections are refused until then"
        );
        Ok(())
    }

    fn expire(&self) {
        let mut books = self.books();
        let over = books.expire(self.now());
        if over.is_empty() {
            return;
        }
        self.in_force.store(Arc::new(books.clone()));
        for ban in over {
            // There its time is over already: this makes room.
            self.kernel.lift(ban.source.key());
            tracing::info!(source = %ban.source, "the ban is over");
        }
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    fn books(&self) -> MutexGuard<'_, Bans> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
