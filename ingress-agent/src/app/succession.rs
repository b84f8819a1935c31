//! Taking over from the agent before and handing over to the one after, where addresses are served by steering.

use std::io;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicIsize, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use anyhow::Result;
use arc_swap::ArcSwap;
use ingress_common::abi::WHOLE;

use super::listeners::Served;
use crate::admin::AdminState;
use crate::bans::{LONGEST_BAN, Penalties};
use crate::kernel::Kernel;
use crate::kernel::control::{self, Answer, Asked, Control, Status, Successor};
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
}

impl Estate {
    /// Whether there is anything to ask this agent or to order, although it steers nothing.
    fn is_told(&self) -> bool {
        self.kernel.has_rejection() || self.shared.config.bans.limits().is_on()
    }
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
    if !steers && !estate.is_told() {
        return Ok(None);
    }
    let run_dir = &estate.shared.config.kernel.run_dir;
    let place = control::meeting_place(run_dir).and_then(|place| Ok((control::lock(&place)?, place)));
    // Until the others are told: of two agents that start at once, the later one is the one that stays.
    let (_lock, place) = match place {
        Ok(place) => place,
        Err(error) => {
            let run_dir = run_dir.display();
            tracing::warn!(%error, "--run-dir {run_dir}: agents cannot meet here: no hand-over, and `ingress-agent kernel` does not see this agent");
            estate.kernel.take_traffic()?;
            return Ok(None);
        }
    };
    if steers {
        inherit_tickets(estate, &place);
        inherit_bans(estate, &place);
    }
    estate.kernel.take_traffic()?;
    let succession = meet(estate, &place, steers);
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

fn meet(estate: &Estate, place: &std::path::Path, steers: bool) -> io::Result<Succession> {
    // Who does not steer takes nothing over.
    let predecessors = if steers {
        control::tell_others(place, &estate.served.load().addresses)?
    } else {
        Vec::new()
    };
    let (stop, stopped) = mpsc::channel();
    let heir = Heir {
        estate: estate.clone(),
        watching: Arc::default(),
        stopped: Arc::new(std::sync::Mutex::new(stopped)),
    };
    Ok(Succession {
        _control: Control::start(place, move |asked| heir.answer(asked))?,
        _predecessors: predecessors,
        _stop: stop,
    })
}

/// For the last WebSocket that is closed: its client's answer.
const LAST_WORDS: Duration = Duration::from_secs(6);

/// Answers what comes by the control socket.
#[derive(Clone)]
struct Heir {
    estate: Estate,
    /// Successors that are watched just now.
    watching: Arc<AtomicIsize>,
    /// Disconnected when the agent ends by itself.
    stopped: Arc<std::sync::Mutex<mpsc::Receiver<()>>>,
}

impl Heir {
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
        let served = self.estate.served.load();
        if !served.all_steered {
            return Err("an address is bound here, and not steered: it cannot be handed over".into());
        }
        successor.covers(&served.addresses)?;
        let heir = self.clone();
        let thread = std::thread::Builder::new().name("hand-over".into());
        self.watch(1);
        let started = thread.spawn(move || heir.hand_over(&successor));
        started.map(|_| ()).map_err(|error| {
            self.watch(-1);
            error.to_string()
        })
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
            // The kernel has given the traffic back already: the other's program and sockets ended with it.
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
                "--hand-over-timeout has passed; WebSockets that are still open are closed over {spread:?}"
            );
            shared.drain.wind_up(spread);
            if goes_on(spread + LAST_WORDS) {
                let open = shared.connections.load(Ordering::Relaxed);
                tracing::warn!(open, "connections that are still open are cut");
                shared.drain.cut();
            }
        }
    }
}
