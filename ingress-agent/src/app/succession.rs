//! Taking over from the agent before and handing over to the one after: by steering, or by the very sockets that it listens on.

use std::io;
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicIsize, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use arc_swap::ArcSwap;
use ingress_common::abi::WHOLE;

use super::inheritance::Heirlooms;
use super::listeners::Served;
use crate::admin::AdminState;
use crate::bans::{LONGEST_BAN, Penalties};
use crate::kernel::Kernel;
use crate::kernel::control::{self, Answer, Asked, Control, Reply, Status, Successor};
use crate::proxy::worker::Shared;
use crate::tickets::{self, TicketKeys};

/// What a hand-over touches.
#[derive(Clone)]
pub(super) struct Estate {
    pub(super) kernel: Arc<Kernel>,
    pub(super) state: Arc<AdminState>,
    pub(super) shared: Arc<Shared>,
    pub(super) penalties: Arc<Penalties>,
    pub(super) tickets: Arc<TicketKeys>,
    pub(super) served: Arc<ArcSwap<Served>>,
    /// What is bound and not steered.
    pub(super) heirlooms: Arc<Heirlooms>,
}

impl Estate {
    /// Whether there is anything to ask this agent or to order, although it steers nothing.
    fn is_told(&self) -> bool {
        self.kernel.has_rejection() || self.shared.config.bans.limits().is_on()
    }

    /// Whether it has listening sockets that another agent could want.
    fn has_heirlooms(&self) -> bool {
        let config = &self.shared.config;
        config
            .http
            .iter()
            .chain(&config.https)
            .any(|address| address.port() != 0)
    }
}

/// Workers of an agent that has its first state take milliseconds.
const READY_WITHIN: Duration = Duration::from_secs(30);
/// Between two looks at a successor that is there to stay.
const A_LONG_TIME: Duration = Duration::from_secs(3600);

/// A successor's process, and the addresses of which it has our sockets.
type PassedOn = (u32, Vec<SocketAddr>);

fn taken(passed_on: &[PassedOn]) -> Vec<SocketAddr> {
    passed_on.iter().flat_map(|(_, taken)| taken).copied().collect()
}

/// What fits into an answer.
const MOST_LISTED: usize = 400;

/// This agent's place among the others; ends with it.
pub(super) struct Succession {
    _control: Control,
    /// The agents before us watch these.
    _predecessors: Vec<UnixStream>,
    _stop: mpsc::Sender<()>,
}

/// Takes the traffic, then tells whoever had it. `None`: there is nothing to tell or to be told, or agents can't meet here (said in the log).
pub(super) fn take_over(estate: &Estate) -> Result<Option<Succession>> {
    let steers = estate.kernel.is_prepared();
    if !steers && !estate.is_told() && !estate.has_heirlooms() {
        return Ok(None);
    }
    let adopted = estate.heirlooms.adopted_addresses();
    wait_for_workers(estate)?;
    let run_dir = &estate.shared.config.kernel.run_dir;
    let place = control::meeting_place(run_dir).and_then(|place| Ok((control::lock(&place)?, place)));
    // Until the others are told: of two agents that start at once, the later one is the one that stays.
    let (_lock, place) = match place {
        Ok(place) => place,
        Err(error) => {
            let run_dir = run_dir.display();
            if !steers && !estate.is_told() {
                tracing::info!(%error, "--run-dir {run_dir}: agents cannot meet here: this one cannot hand over to a newer one");
                return Ok(None);
            }
            tracing::warn!(%error, "--run-dir {run_dir}: agents cannot meet here: no hand-over, and `ingress-agent kernel` does not see this agent");
            estate.kernel.take_traffic()?;
            estate.shared.roster.doors.close(&[]);
            return Ok(None);
        }
    };
    if steers || !adopted.is_empty() {
        inherit_tickets(estate, &place);
        inherit_bans(estate, &place);
    }
    estate.kernel.take_traffic()?;
    let succession = meet(estate, &place, &adopted);
    // The agents before us take nothing any more from the queues that we share with them.
    estate.shared.roster.doors.close(&[]);
    Ok(succession
        .inspect_err(|error| tracing::warn!(%error, "the control socket cannot be opened: no hand-over"))
        .ok())
}

/// Clients go on resuming their sessions; before the first of them comes here.
fn inherit_tickets(estate: &Estate, place: &std::path::Path) {
    let adopted = estate.tickets.adopt(&control::ticket_keys(place), tickets::now());
    if adopted > 0 {
        tracing::info!(
            keys = adopted,
            "TLS sessions of the agent before can be resumed here"
        );
    }
}

/// Who is banned stays so, until the time that was said, and whatever this agent is told to ban for.
fn inherit_bans(estate: &Estate, place: &std::path::Path) {
    let adopted = estate.penalties.adopt(&control::bans(place));
    if adopted > 0 {
        tracing::info!(sources = adopted, "banned by the agent before, and here too");
    }
}

/// Whoever is given sockets of an agent that serves has to be ready: each worker stands at their doors.
fn wait_for_workers(estate: &Estate) -> Result<()> {
    let until = Instant::now() + READY_WITHIN;
    while estate.shared.roster.doors.waiting() < estate.heirlooms.loops() {
        if Instant::now() > until {
            bail!("not every worker was ready within {READY_WITHIN:?}: the agent before keeps its addresses");
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

fn meet(estate: &Estate, place: &std::path::Path, adopted: &[SocketAddr]) -> io::Result<Succession> {
    let predecessors = control::tell_others(place, &estate.served.load().addresses, adopted)?;
    let (stop, stopped) = mpsc::channel();
    let heir = Heir {
        estate: estate.clone(),
        watching: Arc::default(),
        passed_on: Arc::default(),
        stopped: Arc::new(std::sync::Mutex::new(stopped)),
    };
    Ok(Succession {
        _control: Control::start(place, move |asked| heir.reply(asked))?,
        _predecessors: predecessors,
        _stop: stop,
    })
}

/// How long an answer that has begun may still go on when its connection's turn to end has come.
const GRACE: Duration = Duration::from_secs(5);
/// For the last connection that ends: its grace, and what there is to say.
const LAST_WORDS: Duration = Duration::from_secs(8);

/// Answers what comes by the control socket.
#[derive(Clone)]
struct Heir {
    estate: Estate,
    /// Successors that are watched just now.
    watching: Arc<AtomicIsize>,
    /// Addresses whose sockets successors have taken, by the process.
    passed_on: Arc<Mutex<Vec<PassedOn>>>,
    /// Disconnected when the agent ends by itself.
    stopped: Arc<std::sync::Mutex<mpsc::Receiver<()>>>,
}

impl Heir {
    fn reply(&self, asked: Asked) -> Reply {
        let Asked::Listeners { skip } = asked else {
            return self.answer(asked).into();
        };
        if self.estate.shared.drain.is_ordered() {
            return Answer::refused("it drains").into();
        }
        let taken = taken(&self.passed_on.lock().unwrap_or_else(PoisonError::into_inner));
        match self.estate.heirlooms.some(skip, &taken) {
            Ok((beside, more)) => Reply {
                answer: Answer::Listeners { more },
                beside,
            },
            Err(error) => Answer::refused(error).into(),
        }
    }

    fn answer(&self, asked: Asked) -> Answer {
        let done = |result: Result<(), String>| result.map_or_else(Answer::refused, |()| Answer::Done);
        match asked {
            Asked::Status => Answer::Status(self.status()),
            Asked::Detach => {
                tracing::warn!("steering ends by order: new connections go to whoever else has the ports");
                self.estate.kernel.detach();
                Answer::Done
            }
            Asked::Bans { skip } => {
                let (bans, more) = self.estate.penalties.list(skip, MOST_LISTED);
                Answer::Bans { bans, more }
            }
            Asked::Ban(_, lasts) if lasts.is_zero() || lasts > LONGEST_BAN => {
                Answer::refused("a ban lasts from a millisecond to a year")
            }
            Asked::Ban(address, lasts) => done(self.estate.penalties.order(address, lasts)),
            Asked::Lift(address) => {
                let lifted = self.estate.penalties.lift(address);
                done(lifted.then_some(()).ok_or_else(|| "it is not banned".to_owned()))
            }
            Asked::Share(share) if share > WHOLE => Answer::refused("more than everything"),
            Asked::Share(share) => {
                tracing::info!(share, "the share of sources that is taken changes (of {WHOLE})");
                let off = || "steering is off".to_owned();
                let result = self.estate.kernel.set_share(share);
                done(result.map_err(|trouble| trouble.map_or_else(off, |trouble| trouble.to_string())))
            }
            Asked::Listeners { .. } => Answer::refused("asked for in another way"),
            Asked::TicketKeys => Answer::TicketKeys {
                keys: self.estate.tickets.share(tickets::now()),
            },
            Asked::Retire(successor) => done(self.retire(successor)),
        }
    }

    fn status(&self) -> Status {
        let phase = if self.estate.shared.drain.is_ordered() {
            "draining"
        } else if self.watching.load(Ordering::Relaxed) > 0 {
            "handing over"
        } else {
            "serving"
        };
        Status {
            pid: std::process::id(),
            release: env!("CARGO_PKG_VERSION").into(),
            phase: phase.into(),
            connections: self.estate.shared.connections.load(Ordering::Relaxed),
            kernel: self.estate.kernel.view(),
        }
    }

    fn retire(&self, successor: Successor) -> Result<(), String> {
        let bound = self.estate.heirlooms.addresses();
        let (taken, left): (Vec<_>, Vec<_>) =
            bound.into_iter().partition(|address| successor.adopted(address));
        let covers = match left.first() {
            Some(address) => Err(format!(
                "{address} is bound here, and the new agent does not have its socket"
            )),
            None => successor.covers(&self.estate.served.load().addresses),
        };
        let heir = self.clone();
        let thread = std::thread::Builder::new().name("hand-over".into());
        match covers {
            Ok(()) => {
                self.pass_on(&successor, taken);
                self.watch(1);
                let started = thread.spawn(move || heir.hand_over(&successor));
                started.map(|_| ()).map_err(|error| {
                    self.watch(-1);
                    self.passed_on
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .clear();
                    self.shut_doors(&[]);
                    error.to_string()
                })
            }
            Err(why) if taken.is_empty() => Err(why),
            Err(why) => {
                self.pass_on(&successor, taken);
                let started = thread.spawn(move || heir.share(&successor));
                started.map_err(|error| error.to_string())?;
                Err(format!("{why}; what both serve is the new agent's"))
            }
        }
    }

    /// From now on the successor alone takes from the queues of these sockets.
    fn pass_on(&self, successor: &Successor, taken: Vec<SocketAddr>) {
        let mut passed_on = self.passed_on.lock().unwrap_or_else(PoisonError::into_inner);
        passed_on.push((successor.pid(), taken));
        self.shut_doors(&passed_on);
    }

    /// It has ended: what nobody else has taken is accepted here again.
    fn take_back(&self, successor: &Successor) {
        let mut passed_on = self.passed_on.lock().unwrap_or_else(PoisonError::into_inner);
        passed_on.retain(|(pid, _)| *pid != successor.pid());
        self.shut_doors(&passed_on);
    }

    fn shut_doors(&self, passed_on: &[PassedOn]) {
        self.estate.shared.roster.doors.close(&taken(passed_on));
    }

    /// The successor serves a part of our addresses for as long as it lives, and we the others.
    fn share(&self, successor: &Successor) {
        while successor.outlives(A_LONG_TIME) {}
        self.take_back(successor);
        let pid = successor.pid();
        tracing::warn!(
            pid,
            "the agent that served a part of the addresses has ended: this one serves them again"
        );
    }

    /// One more successor, or one less. While there is any, it is the one that judges packets.
    fn watch(&self, change: isize) {
        let before = self.watching.fetch_add(change, Ordering::Relaxed);
        self.estate.kernel.rest(before + change > 0);
    }

    fn hand_over(&self, successor: &Successor) {
        let pid = successor.pid();
        let overlap = self.estate.shared.config.kernel.hand_over_overlap;
        tracing::info!(
            pid,
            "another agent has the traffic now; this one watches it for {overlap:?}, then drains"
        );
        let lives = successor.outlives(overlap);
        if !lives {
            self.watch(-1);
            self.take_back(successor);
            // What is steered the kernel has given back already: the other's program and sockets ended with it.
            tracing::warn!(
                pid,
                "the agent that took over has ended: this one goes on serving"
            );
            return;
        }
        let Estate {
            kernel,
            state,
            shared,
            ..
        } = &self.estate;
        state.set_draining();
        self.estate.heirlooms.close();
        kernel.let_go("handed over to a newer agent");
        let spread = shared.config.kernel.hand_over_spread;
        shared.drain.order(spread);
        self.watch(-1);
        let limit = shared.config.kernel.hand_over_timeout;
        tracing::info!(
            pid,
            ?limit,
            "handed over: open connections may finish; the process waits for its signal to stop"
        );
        let stopped = self
            .stopped
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let goes_on = |time| stopped.recv_timeout(time) == Err(mpsc::RecvTimeoutError::Timeout);
        if goes_on(limit) {
            let open = shared.connections.load(Ordering::Relaxed);
            tracing::warn!(
                open,
                "--hand-over-timeout has passed: what is still open is ended over {spread:?}"
            );
            shared.drain.end(spread, GRACE);
            if goes_on(spread + LAST_WORDS) {
                shared.drain.cut(&shared.connections);
                tracing::warn!("what was open at the end: {}", shared.drain.tally());
            }
        }
    }
}
