//! The rights of this process, as capabilities(7) has them: given back as soon as everything that asks for one is done.
//!
//! A capability is a thread's, and what a thread has its children inherit: so this comes before the first other thread
//! (docs/decisions/0009).

use std::io;
use std::thread;

use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set,
    remove_capability_from_bounding_set, set_capabilities, set_no_new_privs,
};
use serde::{Deserialize, Serialize};

use super::capability::{self, Capability};

/// What an operator sees of the process's rights.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RightsView {
    /// Effective capabilities of any of its threads, by name; empty is as it should be.
    pub held: Vec<String>,
    /// What it was started with.
    pub had: Vec<String>,
    /// Why some are held; empty where none is.
    pub why: String,
}

/// What this process was started with, and what became of it.
#[derive(Clone, Debug, Default)]
pub struct Rights {
    had: Vec<String>,
    why: String,
}

impl Rights {
    /// All stay as they are.
    pub fn kept(why: &str) -> Self {
        Self {
            had: capability::names(held()),
            why: why.to_owned(),
        }
    }

    /// Gives back every capability in every set but those that `needs` asks for, and the way to ever get one by a program that is run
    /// (no_new_privs). For a process with one thread.
    pub fn give_back(needs: &[Need]) -> Self {
        let had = held();
        let keep = needs.iter().fold(0, |mask, need| mask | need.mask);
        let why: Vec<_> = needs.iter().map(|need| need.why.as_str()).collect();
        let mut rights = Self {
            had: capability::names(had),
            why: why.join("; "),
        };
        match settle(had, keep) {
            Ok(()) => tracing::debug!(had = rights.had.join(", "), "capabilities are given back"),
            Err(error) => {
                rights.why = format!("they could not be given back: {error}");
                tracing::warn!(%error, "capabilities could not be given back");
            }
        }
        if !needs.is_empty() {
            tracing::warn!(why = rights.why, "some capabilities are kept");
        }
        rights
    }

    pub fn view(&self) -> RightsView {
        let held = capability::names(held());
        RightsView {
            why: if held.is_empty() {
                String::new()
            } else {
                self.why.clone()
            },
            held,
            had: self.had.clone(),
        }
    }
}

/// Something that will ask for a right later.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Need {
    mask: u64,
    why: String,
}

impl Need {
    /// To make links and write maps, on a kernel that does not take the descriptors of program and map for the right to.
    pub(super) fn of_bpf(what: &str) -> Self {
        Self {
            mask: Capability::NetAdmin.mask() | Capability::Bpf.mask(),
            why: format!("this kernel asks for CAP_BPF and CAP_NET_ADMIN when {what}"),
        }
    }
}

fn settle(had: u64, keep: u64) -> io::Result<()> {
    clear_ambient_capability_set()?;
    // What a program could get that is run from here. Needs CAP_SETPCAP, which a pod has not; no_new_privs says the same.
    for bit in (0..64).filter(|bit| had >> bit & 1 == 1 && keep >> bit & 1 == 0) {
        let _ = remove_capability_from_bounding_set(CapabilitySet::from_bits_retain(1 << bit));
    }
    set_no_new_privs(true)?;
    set(keep & had)
}

/// The effective and permitted capabilities of this thread, and none that a program inherits.
fn set(mask: u64) -> io::Result<()> {
    let mask = CapabilitySet::from_bits_retain(mask);
    let sets = CapabilitySets {
        effective: mask,
        permitted: mask,
        inheritable: CapabilitySet::empty(),
    };
    Ok(set_capabilities(None, sets)?)
}

/// Runs something as it will be once all capabilities are given back.
///
/// # Errors
/// When there can't be such a thread.
pub(super) fn without<T: Send>(body: impl FnOnce() -> T + Send) -> io::Result<T> {
    let bare = || -> io::Result<T> {
        set(0)?;
        Ok(body())
    };
    thread::scope(|scope| {
        let thread = thread::Builder::new().spawn_scoped(scope, bare)?;
        thread.join().map_err(|_| io::Error::other("it panicked"))?
    })
}

/// The effective capabilities of all threads together; of this one, where /proc shows no threads.
fn held() -> u64 {
    let threads = std::fs::read_dir("/proc/self/task")
        .into_iter()
        .flatten()
        .flatten();
    let of_thread = |path: std::path::PathBuf| std::fs::read_to_string(path.join("status")).ok();
    let masks = threads.filter_map(|thread| capability::effective(&of_thread(thread.path())?));
    masks
        .reduce(|all, mask| all | mask)
        .or_else(|| Some(capabilities(None).ok()?.effective.bits()))
        .unwrap_or_default()
}
