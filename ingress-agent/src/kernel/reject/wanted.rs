//! What is to be rejected, as it is asked for, and as the programs' settings. Pure.

use std::path::PathBuf;

use ingress_common::bucket::Rate;
use ingress_common::verdict::{COUNT, OFF, REJECT, SETTING_ANSWER, Settings};
use ingress_core::datapath::Ground;

use crate::config::HookMode;

/// What is to be rejected, and where.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// Empty: those with an address that is served.
    pub interfaces: Vec<String>,
    pub tc: HookMode,
    pub xdp: HookMode,
    /// A directory of bpffs, where XDP links outlive the agent.
    pub bpffs: PathBuf,
    pub names: Names,
    /// Answer rejected openings with a reset.
    pub answer: bool,
    pub by_source: Rate,
    pub in_total: Rate,
    pub ground: Ground,
    /// Sources may be banned at any time.
    pub bans: bool,
    /// Only a share of the sources is ours: what others get is none of our business, so nothing is judged.
    pub shared: bool,
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

/// Samples in the log, a second.
const SAMPLES: Rate = Rate::new(5, 20);

/// Why XDP has nothing to do; where it has, `None`.
pub(super) fn idle(wanted: &Wanted) -> Option<&'static str> {
    let settings = settings(wanted);
    let checks = [settings.sources, settings.unserved, settings.budgets];
    if wanted.answer {
        Some("--kernel-answer asks for an answer, which XDP does not give")
    } else if !wanted.bans && checks.iter().all(|check| *check == OFF) {
        Some("no list of sources, budget or penalty is set that it would judge by")
    } else {
        None
    }
}

pub(super) fn settings(wanted: &Wanted) -> Settings {
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
        // Until there is one.
        bans: OFF,
        flags: if wanted.answer { SETTING_ANSWER } else { 0 },
        padding: 0,
        by_source: wanted.by_source,
        in_total: wanted.in_total,
        samples: SAMPLES,
    }
}
