//! Accounting by connection in the kernel: the program that adds up what tagged sockets did, and the tags.
//!
//! Attached to the agent's own control group; sockets of others that are in it (where that is the root) have no tag and do not count. Tags are
//! written and sums read by descriptors alone: no capability is needed after the start.

mod cgroup;
pub mod queues;
mod sys;

use std::collections::{HashMap as Plain, HashSet};
use std::fs::File;
use std::os::fd::{AsFd, RawFd};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use aya::maps::{Array, HashMap, Map, MapData, RingBuf};
use aya::programs::{BtfTracePoint, CgroupAttachMode, SockOps};
use aya::{Btf, Ebpf};
use ingress_common::account::{
    Connection, LOST_BUFFER_FULL, LOST_NO_ROOM, LOST_RATE, MAX_SUMS, NOBODY, OTHERS, SumKey, Sums, Tag,
};
use serde::{Deserialize, Serialize};

use super::trouble::{Hook, Step, Trouble};
use super::{object, rights};

pub use self::sys::{TcpInfo, monotonic, tcp_info};

/// In force until it is dropped or detached.
pub struct Accounting {
    /// Programs and their links; `None` once they are detached.
    programs: Mutex<Option<Ebpf>>,
    tags: MapData,
    sums: Mutex<HashMap<MapData, SumKey, Sums>>,
    lost: Array<MapData, u64>,
    ended: Mutex<RingBuf<MapData>>,
    cgroup: String,
    /// Why it isn't known who reset a connection; empty where it is.
    resets_unknown: String,
    tagged: AtomicU64,
    untagged: AtomicU64,
}

/// What an operator sees.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccountView {
    pub on: bool,
    /// Why it is off; empty while it is on.
    pub reason: String,
    /// The control group whose sockets are seen.
    pub cgroup: String,
    /// What is not known, and why.
    pub notes: Vec<String>,
    /// Routes and endpoints with sums, and how many the agent tells apart; more are counted together.
    pub owners: usize,
    pub most_owners: usize,
    /// Entries of the kernel's table, and its room: a route that is asked for by http and by https has two.
    #[serde(default)]
    pub sums: usize,
    #[serde(default)]
    pub most_sums: u32,
    /// Connections counted under nobody's name, because there was no room.
    pub lost: u64,
    /// Connections that were to be told one by one, and were not.
    #[serde(default)]
    pub untold: Untold,
    /// Tags written; each costs a system call.
    #[serde(default)]
    pub tagged: u64,
    /// Sockets that could not be tagged.
    pub untagged: u64,
}

/// Why a connection was counted, and not told by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Untold {
    /// The agent had not read what came before.
    pub buffer_full: u64,
    /// Of those that ended badly or were slow: more came than are told in a second.
    pub rate: u64,
}

impl AccountView {
    pub(super) fn off(reason: &str) -> Self {
        Self {
            reason: reason.to_owned(),
            ..Self::default()
        }
    }
}

impl std::fmt::Display for AccountView {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.on {
            true => f.write_str("on"),
            false => write!(f, "off: {}", self.reason),
        }
    }
}

/// Routes and endpoints that are told apart; the kernel's table has room for as many, and for both listeners of some.
pub const MOST_OWNERS: usize = 8_192;

const MAPS: [&str; 7] = [
    "SUMS",
    "EMPTY_SUMS",
    "LOST",
    "TAGS",
    "LIVES",
    "ENDED",
    "ENDED_BUCKETS",
];
const PROGRAM: &str = "ingress_account";
const RESETS: &str = "ingress_reset_seen";
const RESETS_AT: &str = "tcp_receive_reset";

impl Accounting {
    /// Loads and attaches: from here on every tagged socket counts.
    ///
    /// # Errors
    /// With the step that failed; nothing is left behind then.
    pub fn start() -> Result<Self, Trouble> {
        let cgroup = cgroup::own().map_err(|why| Trouble::unfit(Hook::Account, Step::Attach, why))?;
        let mut ebpf = object::load(Hook::Account, &MAPS)?;
        attach(&mut ebpf, &cgroup)?;
        let resets_unknown = watch_resets(&mut ebpf)
            .err()
            .map(|trouble| trouble.to_string())
            .unwrap_or_default();
        Ok(Self {
            tags: tags(&mut ebpf)?,
            sums: Mutex::new(object::take(Hook::Account, &mut ebpf, "SUMS")?),
            lost: object::take(Hook::Account, &mut ebpf, "LOST")?,
            ended: Mutex::new(object::take(Hook::Account, &mut ebpf, "ENDED")?),
            programs: Mutex::new(Some(ebpf)),
            cgroup: cgroup.display().to_string(),
            resets_unknown,
            tagged: AtomicU64::new(0),
            untagged: AtomicU64::new(0),
        })
    }

    /// Whether the kernel takes the descriptors of the maps for the right to use them.
    pub(super) fn needs_no_right(&self) -> bool {
        let read = || self.lost.get(&LOST_NO_ROOM, 0).is_ok();
        matches!(rights::without(read), Ok(true))
    }

    /// Says whose a socket is; of a listener, whose those will be that it accepts. A failure counts, and costs the connection nothing.
    pub fn tag(&self, socket: RawFd, tag: &Tag) {
        let counter = match sys::set_tag(self.tags.fd().as_fd(), socket, tag) {
            Ok(()) => &self.tagged,
            Err(_) => &self.untagged,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// All sums so far.
    pub fn sums(&self) -> Plain<SumKey, Sums> {
        let sums = self.sums.lock().unwrap_or_else(PoisonError::into_inner);
        sums.iter().filter_map(Result::ok).collect()
    }

    /// Connections that have ended since this was asked last, as far as the kernel's side tells them one by one; at most `most`.
    pub fn ended(&self, most: usize) -> Vec<Connection> {
        let mut ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        let mut connections = Vec::new();
        while connections.len() < most
            && let Some(entry) = ended.next()
        {
            connections.extend(sys::connection(&entry));
        }
        connections
    }

    /// Those that should have been among them.
    pub fn untold(&self) -> Untold {
        let lost = |reason| self.lost.get(&reason, 0).unwrap_or_default();
        Untold {
            buffer_full: lost(LOST_BUFFER_FULL),
            rate: lost(LOST_RATE),
        }
    }

    /// Lets go of sums that nobody asks for any more.
    pub fn forget(&self, key: &SumKey) {
        let mut sums = self.sums.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = sums.remove(key) {
            tracing::debug!(%error, ?key, "sums that nobody owns stay in the kernel");
        }
    }

    /// Takes the programs out of the kernel; what was counted stays readable.
    pub fn detach(&self) {
        drop(
            self.programs
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take(),
        );
    }

    pub fn view(&self) -> AccountView {
        let on = self
            .programs
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .is_some();
        let sums = self.sums.lock().unwrap_or_else(PoisonError::into_inner);
        let keys: Vec<_> = sums.keys().filter_map(Result::ok).collect();
        let reason = if on {
            ""
        } else {
            "detached by `ingress-agent kernel detach`"
        };
        AccountView {
            on,
            reason: reason.to_owned(),
            cgroup: self.cgroup.clone(),
            notes: Some(self.resets_unknown.clone())
                .filter(|why| !why.is_empty())
                .map(|why| format!("who resets a connection is not told apart: {why}"))
                .into_iter()
                .collect(),
            owners: told_apart(&keys),
            most_owners: MOST_OWNERS,
            sums: keys.len(),
            most_sums: MAX_SUMS,
            lost: self.lost.get(&LOST_NO_ROOM, 0).unwrap_or_default(),
            untold: self.untold(),
            tagged: self.tagged.load(Ordering::Relaxed),
            untagged: self.untagged.load(Ordering::Relaxed),
        }
    }
}

impl std::fmt::Debug for Accounting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Accounting")
            .field("cgroup", &self.cgroup)
            .finish_non_exhaustive()
    }
}

fn told_apart(keys: &[SumKey]) -> usize {
    let owned = keys.iter().filter(|key| ![NOBODY, OTHERS].contains(&key.owner));
    let owners: HashSet<_> = owned.map(|key| (key.side, key.owner)).collect();
    owners.len()
}

fn attach(ebpf: &mut Ebpf, cgroup: &Path) -> Result<(), Trouble> {
    let trouble =
        |step, error: &(dyn std::error::Error + 'static)| Trouble::from_aya(Hook::Account, step, error);
    let folder = File::open(cgroup).map_err(|error| trouble(Step::Attach, &error))?;
    let program: &mut SockOps = ebpf
        .program_mut(PROGRAM)
        .and_then(|program| program.try_into().ok())
        .ok_or_else(|| missing(PROGRAM))?;
    program.load().map_err(|error| trouble(Step::Load, &error))?;
    // A link of a cgroup always stands beside others; the kernel takes no flag that says so (EINVAL).
    program
        .attach(folder, CgroupAttachMode::Single)
        .map_err(|error| trouble(Step::Attach, &error))?;
    Ok(())
}

/// Needs the kernel's own type information and CAP_PERFMON; accounting goes on without.
fn watch_resets(ebpf: &mut Ebpf) -> Result<(), Trouble> {
    let trouble =
        |step, error: &(dyn std::error::Error + 'static)| Trouble::from_aya(Hook::Resets, step, error);
    let btf = Btf::from_sys_fs().map_err(|error| trouble(Step::Load, &error))?;
    let program: &mut BtfTracePoint = ebpf
        .program_mut(RESETS)
        .and_then(|program| program.try_into().ok())
        .ok_or_else(|| missing(RESETS))?;
    program
        .load(RESETS_AT, &btf)
        .map_err(|error| trouble(Step::Load, &error))?;
    program.attach().map_err(|error| trouble(Step::Attach, &error))?;
    Ok(())
}

fn missing(program: &str) -> Trouble {
    Trouble::unfit(
        Hook::Account,
        Step::Load,
        format!("the object has no program {program}"),
    )
}

fn tags(ebpf: &mut Ebpf) -> Result<MapData, Trouble> {
    match ebpf.take_map("TAGS") {
        Some(Map::SkStorage(tags)) => Ok(tags),
        _ => Err(Trouble::unfit(
            Hook::Account,
            Step::Maps,
            "the object has no map TAGS of socket storage",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_with_both_listeners_is_one_of_those_that_are_told_apart() {
        let key = |side, listener, owner| SumKey {
            side,
            listener,
            owner,
        };
        let keys = [
            key(0, 0, 5),
            key(0, 1, 5),
            key(1, 0, 5),
            key(0, 0, NOBODY),
            key(0, 1, OTHERS),
        ];
        assert_eq!(told_apart(&keys), 2);
    }
}
