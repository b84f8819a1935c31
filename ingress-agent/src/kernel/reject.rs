//! Early rejection: the programs that judge packets on the ingress interfaces, their tables, and what they counted.
//!
//! Tables follow the snapshot: what lets more through is written before a snapshot is in force, what lets less through after. A write that
//! fails turns the checks off, and says so: a half-written table could reject what it should let pass.

mod attach;
mod auto;
mod gate;
mod ground;
mod links;
mod listeners;
mod local;
mod pins;
mod sample;
mod sys;
mod tables;
mod tally;
mod view;
mod wanted;

use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ingress_common::verdict::{COUNT, REJECT, Settings};
use ingress_core::datapath::{Changes, Contents, Ground, Note, contents, diff};
use ingress_core::snapshot::Snapshot;

use self::attach::Attachments;
use self::auto::Auto;
use self::links::Link;
pub(crate) use self::pins::{clear as clear_pins, list as pinned, remove_all as remove_pins};
use self::tables::Tables;
use self::tally::Tally;
pub use self::view::{AttachedView, CountView, RejectView};
pub use self::wanted::{Names, Wanted};
use self::wanted::{idle, settings};
use super::object;
use super::rights;
use super::trouble::{Hook, Trouble};

use self::ground::is_wanted;
pub(crate) use self::local::addresses as local_addresses;

/// In force until it is dropped.
#[derive(Debug)]
pub struct Rejection {
    state: Arc<Mutex<State>>,
    thread: Mutex<Option<(Sender<()>, JoinHandle<()>)>>,
}

/// Programs, tables and what is known of them. Dropping it detaches and removes everything.
struct State {
    attachments: Attachments,
    tables: Tables,
    wanted: Wanted,
    settings: Settings,
    auto: Option<Auto>,
    contents: Contents,
    /// Another agent has the traffic, and with it hosts and sources that are not known here: nothing is judged.
    waits: bool,
    /// Something beside the snapshot has changed in the middle of a change.
    stale: bool,
    /// The one that the tables are for.
    snapshot: Option<Arc<Snapshot>>,
    /// Written once the snapshot that they belong to is in force.
    after: Option<(Changes, Contents)>,
    notes: Vec<Note>,
    /// Counts of interfaces that are gone.
    tally: Tally,
    /// How long the tables took to follow the last change.
    followed: Duration,
    /// What can't be known of this node.
    blind: Option<String>,
    /// Nothing is judged any more, and nothing will be: a write failed, or another agent does it.
    ended: Option<String>,
    started: Instant,
}

/// How often counts are read and samples logged, and whether interfaces or addresses have changed is looked at.
const TICK: Duration = Duration::from_millis(200);
/// How often interfaces and addresses are read again although nothing was heard.
const LOOK_AGAIN: u32 = 50;
/// For how long XDP goes on judging after the agent last said that it lives, and how often it says so.
const ALIVE_FOR: Duration = Duration::from_secs(5);
const ALIVE: u32 = 5;

impl Rejection {
    /// Loads and attaches: from here on packets are judged, by tables that know no name until [`Self::before`] was called. All that needs a
    /// right happens here.
    ///
    /// # Errors
    /// With the step that failed; nothing is left behind then.
    pub fn prepare(wanted: Wanted) -> Result<Self, Trouble> {
        let mut ebpf = object::load(Hook::Reject, &tables::MAPS)?;
        let tables = Tables::take(&mut ebpf)?;
        let mut state = State {
            attachments: Attachments::load(ebpf, wanted.tc, wanted.xdp, idle(&wanted), &wanted.bpffs)?,
            tables,
            settings: settings(&wanted),
            auto: match wanted.names {
                Names::Auto { above } => Some(Auto::new(above)),
                Names::On | Names::Off => None,
            },
            wanted,
            contents: Contents::default(),
            waits: false,
            stale: false,
            snapshot: None,
            after: None,
            notes: Vec::new(),
            tally: Tally::default(),
            followed: Duration::ZERO,
            blind: None,
            ended: None,
            started: Instant::now(),
        };
        state.tables.set(&state.settings)?;
        Ok(Self {
            state: Arc::new(Mutex::new(state)),
            thread: Mutex::new(None),
        })
    }

    /// Attaches to the interfaces that are there, by descriptors alone where the kernel takes them for a right. What is returned: whether it
    /// does, and so will later, for interfaces that are new then.
    pub(super) fn attach(&self) -> bool {
        let look = || {
            let mut state = lock(&self.state);
            let settings = state.settings;
            let written = state.tables.set(&settings);
            state.look();
            written.is_ok() && state.attachments.refused().is_none()
        };
        if matches!(rights::without(look), Ok(true)) {
            return true;
        }
        look();
        false
    }

    /// Follows interfaces, addresses and counts from here on, on a thread of its own.
    ///
    /// # Errors
    /// When there can't be a thread.
    pub fn follow(&self) -> std::io::Result<()> {
        let (stop, stopped) = channel();
        let state = Arc::clone(&self.state);
        let changes = links::Changes::listen()
            .inspect_err(|error| tracing::warn!(%error, "kernel: changes of interfaces are not heard, only looked for"))
            .ok();
        let heart = lock(&state).tables.heart();
        let thread = std::thread::Builder::new().name("reject".into()).spawn(move || {
            let (mut ticks, mut changed, mut lives) = (0u32, false, true);
            while stopped.recv_timeout(TICK) == Err(RecvTimeoutError::Timeout) {
                ticks = ticks.wrapping_add(1);
                changed |= ticks.is_multiple_of(LOOK_AGAIN);
                changed |= changes.as_ref().is_some_and(links::Changes::any);
                let written = match lives && ticks.is_multiple_of(ALIVE) {
                    true => heart.beat(ALIVE_FOR),
                    false => Ok(()),
                };
                // Whoever writes the tables just now may take longer than XDP waits for a sign of life.
                let Some(mut state) = try_lock(&state) else {
                    continue;
                };
                state.check(written);
                if std::mem::take(&mut changed) {
                    state.look();
                }
                state.tick();
                lives = state.ended.is_none();
            }
        })?;
        *self.thread.lock().unwrap_or_else(PoisonError::into_inner) = Some((stop, thread));
        Ok(())
    }

    /// A snapshot is about to be in force.
    pub fn before(&self, snapshot: &Arc<Snapshot>) {
        let mut state = lock(&self.state);
        state.snapshot = Some(Arc::clone(snapshot));
        state.before(snapshot);
    }

    /// It is.
    pub fn after(&self) {
        lock(&self.state).after();
    }

    /// Whether all sources are ours, or only a share.
    pub(super) fn set_shared(&self, shared: bool) {
        let mut state = lock(&self.state);
        state.wanted.shared = shared;
        state.again();
    }

    /// Whether another agent has the traffic just now.
    pub(super) fn set_waits(&self, waits: bool) {
        let mut state = lock(&self.state);
        let ends = state.waits && !waits;
        state.waits = waits;
        state.again();
        // The tables are right: now XDP can be this agent's, in the place of the other's.
        if ends {
            state.attachments.take();
            state.look();
        }
    }

    /// Takes the programs off; the reason is shown. XDP that is pinned stays, and passes everything.
    pub(super) fn let_go(&self, why: &str) {
        let mut state = lock(&self.state);
        state.attachments.let_go();
        state.ended.get_or_insert_with(|| why.to_owned());
    }

    /// Takes the programs off, what is pinned too.
    pub(super) fn detach(&self, why: &str) {
        let mut state = lock(&self.state);
        state.attachments.detach();
        state.ended.get_or_insert_with(|| why.to_owned());
    }

    /// Whether this source is banned on the interfaces that are judged, for so long from now on. The program compares the time itself.
    pub(super) fn ban(&self, source: &[u8; 16], lasts: Duration) -> bool {
        let until = tables::clock().saturating_add(lasts.as_nanos().try_into().unwrap_or(u64::MAX));
        let mut state = lock(&self.state);
        if state.ended.is_some() {
            return false;
        }
        // A table without room, say, is no reason to judge nothing any more: the agent closes such connections itself.
        let written = state.tables.ban(source, until).and_then(|()| {
            state.settings.bans = REJECT;
            let settings = state.settings;
            state.tables.set(&settings)
        });
        written
            .inspect_err(|trouble| tracing::warn!("kernel: {trouble}"))
            .is_ok()
    }

    pub(super) fn lift(&self, source: &[u8; 16]) {
        if let Err(trouble) = lock(&self.state).tables.lift(source) {
            tracing::warn!("kernel: {trouble}");
        }
    }

    pub fn view(&self) -> RejectView {
        lock(&self.state).view()
    }
}

impl Drop for Rejection {
    fn drop(&mut self) {
        let thread = self.thread.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some((stop, thread)) = thread.take() {
            let _ = stop.send(());
            let _ = thread.join();
        }
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// `None`: somebody is at work on it.
fn try_lock(state: &Mutex<State>) -> Option<MutexGuard<'_, State>> {
    match state.try_lock() {
        Ok(state) => Some(state),
        Err(TryLockError::Poisoned(state)) => Some(state.into_inner()),
        Err(TryLockError::WouldBlock) => None,
    }
}

impl State {
    /// Looks at the node's interfaces and addresses again, and goes after them.
    fn look(&mut self) {
        if self.ended.is_some() {
            return;
        }
        let links = match links::all() {
            Ok(links) => links,
            Err(error) => {
                self.blind = Some(format!("interfaces cannot be read: {error}"));
                return;
            }
        };
        let missing = |name: &&String| links.iter().all(|link| link.name != **name);
        let missing: Vec<_> = self.wanted.interfaces.iter().filter(missing).cloned().collect();
        self.blind = (!missing.is_empty()).then(|| format!("no interface is called {}", missing.join(", ")));
        let local = local::addresses();
        if local != self.wanted.ground.local {
            tracing::debug!(
                addresses = local.len(),
                "kernel: the node's addresses have changed"
            );
            self.wanted.ground.local = local;
            self.again();
        }
        self.live();
        let wanted = &self.wanted;
        self.attachments
            .follow(&links, self.waits, |link| is_wanted(wanted, link));
        self.settle(&links);
    }

    fn live(&mut self) {
        if self.ended.is_none() {
            let written = self.tables.heart().beat(ALIVE_FOR);
            self.check(written);
        }
    }

    /// The kernel's table of counts has room for the interfaces that are there, and not for all that ever were.
    fn settle(&mut self, links: &[Link]) {
        let is_there = |index: u32| links.iter().any(|link| link.index == index);
        let counts = self.tables.counts().into_iter();
        for (key, packets) in counts.filter(|(key, _)| !is_there(key.interface)) {
            if self.tables.forget(&key) {
                let name = self.attachments.name(key.interface);
                self.tally.keep(name, key.verdict, packets);
            }
        }
        self.attachments.forget(is_there);
    }

    /// The tables for the snapshot in force, from what has changed beside it.
    fn again(&mut self) {
        // Between the two halves of a change the tables are half-way to what they will be.
        if self.after.is_some() {
            self.stale = true;
            return;
        }
        if let Some(snapshot) = self.snapshot.clone() {
            self.before(&snapshot);
            self.after();
        }
    }

    fn before(&mut self, snapshot: &Snapshot) {
        if self.ended.is_some() {
            return;
        }
        let began = Instant::now();
        let (next, notes) = if self.wanted.shared || self.waits {
            // Its sources alone: whoever is trusted stays so.
            let ground = Ground {
                listeners: Vec::new(),
                ingress: Vec::new(),
                ..self.wanted.ground.clone()
            };
            contents(snapshot, &ground)
        } else {
            contents(snapshot, &self.wanted.ground)
        };
        if notes != self.notes {
            for note in &notes {
                tracing::info!("kernel: {note}");
            }
            self.notes = notes;
        }
        let changes = diff(&self.contents, &next);
        let written = self.tables.apply(&changes.before, &mut self.settings);
        self.after = Some((changes, next));
        self.followed = began.elapsed();
        self.check(written);
    }

    fn after(&mut self) {
        let Some((changes, next)) = self.after.take() else {
            return;
        };
        if self.ended.is_some() {
            return;
        }
        let began = Instant::now();
        let written = self.tables.apply(&changes.after, &mut self.settings);
        self.followed += began.elapsed();
        self.contents = next;
        self.check(written);
        if std::mem::take(&mut self.stale) {
            self.again();
        }
    }

    /// Without its tables nothing may be judged.
    fn check(&mut self, written: Result<(), Trouble>) {
        let Err(trouble) = written else { return };
        tracing::error!("kernel: {trouble}; nothing is rejected any more");
        self.settings = Settings::default();
        let _ = self.tables.set(&self.settings);
        self.ended = Some(trouble.to_string());
    }

    fn tick(&mut self) {
        for sample in self.tables.samples() {
            tracing::info!(
                source = %sample.source, name = %sample.name, verdict = sample.verdict, port = sample.port,
                interface = self.attachments.name(sample.interface), rejected = sample.rejected, "kernel: unmatched traffic"
            );
        }
        let unmatched = self.tally.unmatched(&self.tables.counts());
        let Some(auto) = &mut self.auto else { return };
        let names = if auto.look(self.started.elapsed(), unmatched) {
            REJECT
        } else {
            COUNT
        };
        if self.ended.is_some() || names == self.settings.names {
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

    fn view(&self) -> RejectView {
        let now = self.tables.counts();
        let counts = self.tally.with(&now, |index| self.attachments.name(index));
        let interfaces = self.attachments.views();
        let nowhere = || "no interface that is up has a served address".to_owned();
        let reason = self.ended.clone().or_else(|| self.blind.clone());
        let reason = reason.or_else(|| interfaces.is_empty().then(nowhere));
        let [tc, xdp] = self.attachments.off();
        RejectView {
            on: self.ended.is_none() && interfaces.iter().any(|at| at.by != "nothing"),
            reason: reason.unwrap_or_default(),
            tc,
            xdp,
            interfaces,
            names: match self.settings.names {
                REJECT => "rejected",
                COUNT => "counted",
                _ => "off",
            }
            .to_owned(),
            known_names: self.contents.names.len(),
            most_names: ingress_common::verdict::MAX_NAMES,
            followed_in_us: u64::try_from(self.followed.as_micros()).unwrap_or(u64::MAX),
            notes: self.view_notes(),
            counts,
        }
    }

    fn view_notes(&self) -> Vec<String> {
        let mut notes: Vec<_> = self.notes.iter().map(ToString::to_string).collect();
        notes.extend(self.attachments.notes());
        if self.wanted.shared {
            notes.push("nothing is judged while only a share of the sources comes here".to_owned());
        }
        if self.waits {
            notes.push("nothing is judged while another agent has the traffic".to_owned());
        }
        notes
    }
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State")
            .field("interfaces", &self.attachments.views())
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
