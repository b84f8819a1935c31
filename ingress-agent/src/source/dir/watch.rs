//! Watches the folder: inotify says what to look at, and a look at everything now and then catches what it did not say.
//!
//! A change is sent some 15 ms after it came to rest, and 50 ms into a burst. What inotify can't tell is found within five seconds: a file
//! outside that a link leads to, another folder behind the same link.
//!
//! Knows when to look; what is found there is the business of [`super::load`].

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use std::{fs, io, thread};

use ingress_core::diagnostic::{Diagnostic, Severity};
use notify::event::{AccessKind, AccessMode};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};

use super::scan::{self, Listing};
use super::{LastGood, absent, file, update};
use crate::memory;
use crate::objects::SourceState;

/// So long nothing more must happen before the folder is read: a write comes as several events.
const QUIET: Duration = Duration::from_millis(10);
/// So long at most reading is put off while more happens.
const BURST: Duration = Duration::from_millis(50);
/// The look at everything, where inotify works.
const SAFETY_NET: Duration = Duration::from_secs(5);
/// The look at everything, where it does not.
const POLL: Duration = Duration::from_millis(500);
/// A folder that is away, or one that just got new folders (whose files may be older than inotify's watch on them).
const SOON: Duration = Duration::from_millis(100);
/// More changed paths than this are cheaper to find by a look at everything.
const MAX_PATHS: usize = 1000;

/// Ends the watch when dropped.
#[derive(Debug)]
pub struct WatchHandle {
    signal: Arc<Signal>,
    thread: Option<JoinHandle<()>>,
}

impl WatchHandle {
    /// Ends the watch and waits for its thread.
    pub fn stop(mut self) {
        self.signal.stop();
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

impl Drop for WatchHandle {
    fn drop(&mut self) {
        self.signal.stop();
    }
}

/// Watches the folder on a thread of its own. The first state is sent at once, later ones whenever something changed;
/// ends when `send` answers false or the handle is dropped. A folder that is not there is waited for.
pub fn watch(
    dir: PathBuf,
    send: impl FnMut(SourceState) -> bool + Send + 'static,
) -> io::Result<WatchHandle> {
    let signal = Arc::new(Signal::default());
    let theirs = Arc::clone(&signal);
    let watch = Watch::new(&dir, theirs)?;
    let thread = thread::Builder::new()
        .name("manifests".to_owned())
        .spawn(move || watch.run(send))?;
    Ok(WatchHandle {
        signal,
        thread: Some(thread),
    })
}

/// What happened since the folder was last read; bounded, however much happens.
#[derive(Debug, Default)]
struct Pending {
    paths: BTreeSet<PathBuf>,
    everything: bool,
    /// Why inotify can't be relied upon any more.
    failure: Option<String>,
    stop: bool,
    /// Counts events, so that quiet can be told from noise.
    events: u64,
}

impl Pending {
    fn is_idle(&self) -> bool {
        self.paths.is_empty() && !self.everything && self.failure.is_none() && !self.stop
    }

    fn note(&mut self, event: notify::Result<notify::Event>) {
        match event {
            Ok(event) if is_reading(event.kind) => return,
            Ok(event) if event.need_rescan() || event.paths.is_empty() => self.everything = true,
            Ok(event) => self.paths.extend(event.paths),
            // What vanished while a watch was put on it tells of itself by other events.
            Err(error) if matches!(error.kind, notify::ErrorKind::PathNotFound) => self.everything = true,
            Err(error) => self.failure = Some(error.to_string()),
        }
        if self.paths.len() > MAX_PATHS {
            self.paths.clear();
            self.everything = true;
        }
        self.events = self.events.wrapping_add(1);
    }
}

/// Opening and reading files, as the agent itself does.
fn is_reading(kind: EventKind) -> bool {
    matches!(kind, EventKind::Access(access) if access != AccessKind::Close(AccessMode::Write))
}

#[derive(Debug, Default)]
struct Signal {
    pending: Mutex<Pending>,
    wake: Condvar,
}

impl Signal {
    fn lock(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, event: notify::Result<notify::Event>) {
        self.lock().note(event);
        self.wake.notify_one();
    }

    fn stop(&self) {
        self.lock().stop = true;
        self.wake.notify_one();
    }

    /// What happened, once it is over; nothing when `patience` ran out.
    fn wait(&self, patience: Duration) -> Pending {
        let (pending, _) = self
            .wake
            .wait_timeout_while(self.lock(), patience, |pending| pending.is_idle())
            .unwrap_or_else(PoisonError::into_inner);
        let mut pending = if pending.is_idle() {
            pending
        } else {
            self.settle(pending)
        };
        let stop = pending.stop;
        let taken = std::mem::take(&mut *pending);
        pending.stop = stop;
        taken
    }

    fn settle<'s>(&'s self, mut pending: MutexGuard<'s, Pending>) -> MutexGuard<'s, Pending> {
        let end = later(BURST);
        while !pending.stop {
            let seen = pending.events;
            let left = end.saturating_duration_since(Instant::now()).min(QUIET);
            let (next, timeout) = self
                .wake
                .wait_timeout_while(pending, left, |pending| pending.events == seen && !pending.stop)
                .unwrap_or_else(PoisonError::into_inner);
            pending = next;
            if timeout.timed_out() {
                break;
            }
        }
        pending
    }
}

struct Watch {
    dir: PathBuf,
    signal: Arc<Signal>,
    watcher: Option<RecommendedWatcher>,
    /// The folder that is watched, by device and inode: another one may take its name.
    identity: Option<(u64, u64)>,
    /// Why the folder is polled.
    degraded: Option<String>,
    listing: Listing,
    next_full_look: Instant,
    last: LastGood,
}

impl Watch {
    fn new(dir: &Path, signal: Arc<Signal>) -> io::Result<Self> {
        Ok(Self {
            // As inotify will name what is in it.
            dir: std::path::absolute(dir)?,
            signal,
            watcher: None,
            identity: None,
            degraded: None,
            listing: Listing::default(),
            next_full_look: Instant::now(),
            last: LastGood::default(),
        })
    }

    fn run(mut self, mut send: impl FnMut(SourceState) -> bool) {
        let mut pending = Pending::default();
        let mut sent = None;
        let mut owed = memory::Owed::default();
        while !pending.stop {
            let state = self.look(pending);
            if sent.as_ref().is_none_or(|sent| !is_same(sent, &state)) {
                sent = Some(state.clone());
                if !send(state) {
                    return;
                }
                owed.worked();
            }
            let full_look = self.next_full_look.saturating_duration_since(Instant::now());
            pending = self
                .signal
                .wait(owed.due_in().map_or(full_look, |rest| rest.min(full_look)));
            if pending.is_idle() {
                owed.pay();
            }
        }
    }

    /// Reads what there is to read.
    fn look(&mut self, pending: Pending) -> SourceState {
        if let Some(failure) = pending.failure {
            self.degrade(failure);
        }
        if pending.paths.contains(&self.dir) {
            // Removed or moved, and maybe already replaced: the watch on it is of no more use.
            self.identity = None;
        }
        let looked = self.attend().and_then(|arrived| {
            let due = arrived || pending.everything || Instant::now() >= self.next_full_look;
            if due || !self.follow(&pending.paths) {
                let soon = arrived || !pending.paths.is_empty();
                self.look_at_everything(soon)?;
            }
            Ok(())
        });
        match looked {
            Ok(()) => self.read(),
            Err(error) => self.away(&error),
        }
    }

    /// Sees that the folder is there and watched; true when it was not before.
    fn attend(&mut self) -> io::Result<bool> {
        let metadata = fs::metadata(&self.dir)?;
        let identity = Some((metadata.dev(), metadata.ino()));
        if self.identity == identity {
            return Ok(false);
        }
        self.identity = identity;
        self.degraded = None;
        self.watcher = None;
        match self.start() {
            Ok(watcher) => self.watcher = Some(watcher),
            Err(error) => self.degrade(error.to_string()),
        }
        Ok(true)
    }

    fn start(&self) -> notify::Result<RecommendedWatcher> {
        let signal = Arc::clone(&self.signal);
        let mut watcher = notify::recommended_watcher(move |event| signal.note(event))?;
        watcher.watch(&self.dir, RecursiveMode::Recursive)?;
        Ok(watcher)
    }

    fn degrade(&mut self, why: String) {
        self.watcher = None;
        self.degraded = Some(why);
        self.next_full_look = Instant::now();
    }

    /// Looks at these paths alone; false when that is not enough.
    fn follow(&mut self, paths: &BTreeSet<PathBuf>) -> bool {
        paths
            .iter()
            .all(|path| scan::refresh(&self.dir, &mut self.listing, path))
    }

    fn look_at_everything(&mut self, again_soon: bool) -> io::Result<()> {
        self.listing = scan::list(&self.dir)?;
        let rest = match self.degraded {
            Some(_) => POLL,
            None if again_soon => SOON,
            None => SAFETY_NET,
        };
        self.next_full_look = later(rest);
        Ok(())
    }

    fn read(&mut self) -> SourceState {
        let (mut state, last) = update(&self.dir, &self.listing, std::mem::take(&mut self.last));
        self.last = last;
        if let Some(why) = &self.degraded {
            let message =
                format!("changes are found by looking every {POLL:?}, as inotify does not work: {why}");
            let folder = file::reference(&self.dir);
            let diagnostic = Diagnostic::new(Severity::Warning, &folder, "", "WatchDegraded", message);
            state.diagnostics.push(diagnostic);
        }
        state
    }

    fn away(&mut self, error: &io::Error) -> SourceState {
        self.watcher = None;
        self.identity = None;
        self.next_full_look = later(SOON);
        absent(&self.dir, error, &self.last)
    }
}

fn later(rest: Duration) -> Instant {
    let now = Instant::now();
    now.checked_add(rest).unwrap_or(now)
}

/// Whether the two tell the same; objects that did not change keep their `Arc`.
fn is_same(a: &SourceState, b: &SourceState) -> bool {
    let (x, y) = (&a.objects, &b.objects);
    a.diagnostics == b.diagnostics
        && x.ingresses.is_same(&y.ingresses)
        && x.ingress_classes.is_same(&y.ingress_classes)
        && x.services.is_same(&y.services)
        && x.endpoint_slices.is_same(&y.endpoint_slices)
        && x.secrets.is_same(&y.secrets)
        && x.config_maps.is_same(&y.config_maps)
        && x.namespaces.is_same(&y.namespaces)
        && x.nodes.is_same(&y.nodes)
}

#[cfg(test)]
mod tests;
