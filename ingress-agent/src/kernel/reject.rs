//! Early rejection: the programs that judge packets on the ingress interfaces, their tables, and what they counted.
//!
//! Tables follow the snapshot: what lets more through is written before a snapshot is in force, what lets less through after. A write that
//! fails turns the checks off, and says so: a half-written table could reject what it should let pass.

mod auto;
mod local;
mod sample;
mod tables;

use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use aya::Ebpf;
use aya::programs::tc::TcAttachOptions;
use aya::programs::{LinkOrder, SchedClassifier, TcAttachType, Xdp, xdp::XdpMode};
use ingress_common::bucket::Rate;
use ingress_common::verdict::{COUNT, OFF, REJECT, SETTING_ANSWER, Settings, Verdict};
use ingress_core::datapath::{Changes, Contents, Ground, Note, contents, diff};
use ingress_core::snapshot::Snapshot;
use serde::{Deserialize, Serialize};

use self::auto::Auto;
use self::tables::Tables;
use super::object;
use super::trouble::{Hook, Step, Trouble};

pub(crate) use self::local::addresses as local_addresses;

/// What is to be rejected, and where.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    pub interfaces: Vec<String>,
    /// Judge headers in XDP; else in tc.
    pub xdp: bool,
    pub names: Names,
    /// Answer rejected openings with a reset.
    pub answer: bool,
    pub by_source: Rate,
    pub in_total: Rate,
    pub ground: Ground,
}

/// What happens to names that nobody serves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Names {
    #[default]
    Off,
    /// Rejected always.
    On,
    /// Counted, and rejected while more than so many come in a second.
    Auto { above: u32 },
}

/// What an operator sees.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RejectView {
    pub on: bool,
    /// Why it is off, or off in part; empty while all that is asked for is in force.
    pub reason: String,
    pub interfaces: Vec<AttachedView>,
    /// What happens now to names that nobody serves: `off`, `counted` or `rejected`.
    pub names: String,
    /// Entries in the table of known names, and how many there may be.
    pub known_names: usize,
    pub most_names: u32,
    /// What is not checked, and why.
    pub notes: Vec<String>,
    pub counts: Vec<CountView>,
}

impl RejectView {
    pub(super) fn off(reason: &str) -> Self {
        Self {
            reason: reason.to_owned(),
            ..Self::default()
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttachedView {
    pub interface: String,
    /// `tc`, or `xdp and tc`.
    pub by: String,
}

/// Packets by verdict since the agent began.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct CountView {
    pub interface: String,
    pub verdict: String,
    pub packets: u64,
}

/// In force until it is dropped.
#[derive(Debug)]
pub struct Rejection {
    state: Arc<Mutex<State>>,
    stop: Sender<()>,
    thread: Option<JoinHandle<()>>,
}

/// Programs, tables and what is known of them. Dropping it detaches and removes everything.
struct State {
    ebpf: Ebpf,
    tables: Tables,
    wanted: Wanted,
    settings: Settings,
    auto: Option<Auto>,
    contents: Contents,
    /// Written once the snapshot that they belong to is in force.
    after: Option<(Changes, Contents)>,
    notes: Vec<Note>,
    interfaces: Vec<(u32, AttachedView)>,
    /// A write failed: everything stays off.
    broken: Option<String>,
    started: Instant,
}

/// How often counts are read and samples logged.
const TICK: Duration = Duration::from_millis(200);
/// Samples in the log, a second.
const SAMPLES: Rate = Rate::new(5, 20);

impl Rejection {
    /// Loads, fills and attaches: from here on packets are judged, by tables that know no name until [`Self::before`] was called.
    ///
    /// # Errors
    /// With the step that failed; nothing is left behind then.
    pub fn start(wanted: Wanted) -> Result<Self, Trouble> {
        let mut ebpf = object::load(Hook::Reject)?;
        let tables = Tables::take(&mut ebpf)?;
        let mut state = State {
            ebpf,
            tables,
            settings: settings(&wanted),
            auto: match wanted.names {
                Names::Auto { above } => Some(Auto::new(above)),
                Names::On | Names::Off => None,
            },
            wanted,
            contents: Contents::default(),
            after: None,
            notes: Vec::new(),
            interfaces: Vec::new(),
            broken: None,
            started: Instant::now(),
        };
        state.tables.set(&state.settings)?;
        state.attach()?;
        let state = Arc::new(Mutex::new(state));
        let (stop, stopped) = channel();
        let ticking = Arc::clone(&state);
        let thread = std::thread::Builder::new().name("reject".into()).spawn(move || {
            while stopped.recv_timeout(TICK) == Err(RecvTimeoutError::Timeout) {
                lock(&ticking).tick();
            }
        });
        let thread = thread.map_err(|error| Trouble::io(Hook::Reject, Step::Attach, &error))?;
        Ok(Self {
            state,
            stop,
            thread: Some(thread),
        })
    }

    /// A snapshot is about to be in force.
    pub fn before(&self, snapshot: &Snapshot) {
        lock(&self.state).before(snapshot);
    }

    /// It is.
    pub fn after(&self) {
        lock(&self.state).after();
    }

    pub fn view(&self) -> RejectView {
        lock(&self.state).view()
    }
}

impl Drop for Rejection {
    fn drop(&mut self) {
        let _ = self.stop.send(());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn settings(wanted: &Wanted) -> Settings {
    let on = |on: bool| if on { REJECT } else { OFF };
    let ground = &wanted.ground;
    let lists = ground.listeners.iter().map(|listener| &listener.sources);
    let listed = lists
        .chain([&ground.sources])
        .any(|list| !list.allow.is_empty() || !list.deny.is_empty());
    Settings {
        names: match wanted.names {
            Names::Off => OFF,
            Names::On => REJECT,
            Names::Auto { .. } => COUNT,
        },
        sources: on(listed),
        unserved: on(!ground.ingress.is_empty()),
        budgets: on(wanted.by_source.is_limited() || wanted.in_total.is_limited()),
        malformed: REJECT,
        flags: if wanted.answer { SETTING_ANSWER } else { 0 },
        by_source: wanted.by_source,
        in_total: wanted.in_total,
        samples: SAMPLES,
    }
}

impl State {
    fn attach(&mut self) -> Result<(), Trouble> {
        let tc = if self.wanted.xdp {
            "ingress_words"
        } else {
            "ingress_gate_tc"
        };
        for interface in self.wanted.interfaces.clone() {
            attach_tc(&mut self.ebpf, tc, &interface)?;
            if self.wanted.xdp {
                attach_xdp(&mut self.ebpf, &interface)?;
            }
            let index = local::interface(&interface).unwrap_or(0);
            let by = if self.wanted.xdp { "xdp and tc" } else { "tc" };
            let view = AttachedView {
                interface,
                by: by.to_owned(),
            };
            self.interfaces.push((index, view));
        }
        Ok(())
    }

    fn before(&mut self, snapshot: &Snapshot) {
        if self.broken.is_some() {
            return;
        }
        let (next, notes) = contents(snapshot, &self.wanted.ground);
        if notes != self.notes {
            for note in &notes {
                tracing::info!("kernel: {note}");
            }
            self.notes = notes;
        }
        let changes = diff(&self.contents, &next);
        let written = self.tables.apply(&changes.before, &mut self.settings);
        self.after = Some((changes, next));
        self.check(written);
    }

    fn after(&mut self) {
        let Some((changes, next)) = self.after.take() else {
            return;
        };
        if self.broken.is_some() {
            return;
        }
        let written = self.tables.apply(&changes.after, &mut self.settings);
        self.contents = next;
        self.check(written);
    }

    /// Without its tables nothing may be judged.
    fn check(&mut self, written: Result<(), Trouble>) {
        let Err(trouble) = written else { return };
        tracing::error!("kernel: {trouble}; nothing is rejected any more");
        self.settings = Settings::default();
        let _ = self.tables.set(&self.settings);
        self.broken = Some(trouble.to_string());
    }

    fn tick(&mut self) {
        for sample in self.tables.samples() {
            let interface = self.interface(sample.interface);
            tracing::info!(
                source = %sample.source, name = %sample.name, verdict = sample.verdict, port = sample.port,
                interface, rejected = sample.rejected, "kernel: unmatched traffic"
            );
        }
        let unmatched = self.tables.unmatched();
        let Some(auto) = &mut self.auto else { return };
        let names = if auto.look(self.started.elapsed(), unmatched) {
            REJECT
        } else {
            COUNT
        };
        if self.broken.is_some() || names == self.settings.names {
            return;
        }
        let words = if names == REJECT {
            "rejected"
        } else {
            "only counted"
        };
        tracing::info!("kernel: names that nobody serves are {words} from now on");
        self.settings.names = names;
        let written = self.tables.set(&self.settings);
        self.check(written);
    }

    fn interface(&self, index: u32) -> String {
        let known = self.interfaces.iter().find(|(known, _)| *known == index);
        known.map_or_else(|| index.to_string(), |(_, view)| view.interface.clone())
    }

    fn view(&self) -> RejectView {
        let mut counts: Vec<_> = self
            .tables
            .counts()
            .into_iter()
            .filter_map(|(key, packets)| {
                let index = usize::try_from(key.verdict).ok()?;
                Some(CountView {
                    interface: self.interface(key.interface),
                    verdict: Verdict::ALL.get(index)?.code().to_owned(),
                    packets,
                })
            })
            .collect();
        counts.sort();
        RejectView {
            on: self.broken.is_none(),
            reason: self.broken.clone().unwrap_or_default(),
            interfaces: self.interfaces.iter().map(|(_, view)| view.clone()).collect(),
            names: match self.settings.names {
                REJECT => "rejected",
                COUNT => "counted",
                _ => "off",
            }
            .to_owned(),
            known_names: self.contents.names.len(),
            most_names: ingress_common::verdict::MAX_NAMES,
            notes: self.notes.iter().map(ToString::to_string).collect(),
            counts,
        }
    }
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State")
            .field("interfaces", &self.interfaces)
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

/// By a tcx link (Linux 6.6): beside other programs, and gone with this process.
fn attach_tc(ebpf: &mut Ebpf, name: &str, interface: &str) -> Result<(), Trouble> {
    let trouble =
        |step, error: &(dyn std::error::Error + 'static)| Trouble::from_aya(Hook::Reject, step, error);
    let program: &mut SchedClassifier = ebpf
        .program_mut(name)
        .and_then(|program| program.try_into().ok())
        .ok_or_else(|| no_program(name))?;
    if program.fd().is_err() {
        program.load().map_err(|error| trouble(Step::Load, &error))?;
    }
    let options = TcAttachOptions::TcxOrder(LinkOrder::default());
    let attached = program.attach_with_options(interface, TcAttachType::Ingress, options);
    attached.map(drop).map_err(|error| trouble(Step::Attach, &error))
}

fn attach_xdp(ebpf: &mut Ebpf, interface: &str) -> Result<(), Trouble> {
    const NAME: &str = "ingress_gate";
    let trouble =
        |step, error: &(dyn std::error::Error + 'static)| Trouble::from_aya(Hook::Reject, step, error);
    let program: &mut Xdp = ebpf
        .program_mut(NAME)
        .and_then(|program| program.try_into().ok())
        .ok_or_else(|| no_program(NAME))?;
    if program.fd().is_err() {
        program.load().map_err(|error| trouble(Step::Load, &error))?;
    }
    let attached = program.attach(interface, XdpMode::Default);
    attached.map(drop).map_err(|error| trouble(Step::Attach, &error))
}

fn no_program(name: &str) -> Trouble {
    Trouble::unfit(
        Hook::Reject,
        Step::Load,
        format!("the object has no program {name}"),
    )
}

#[cfg(test)]
mod tests;
