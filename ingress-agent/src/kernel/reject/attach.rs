//! Where the programs of early rejection are attached: by tc on every interface that is judged, by XDP too where that does no harm.
//!
//! All programs are loaded at the start, while there is the right to; attaching them later goes by the descriptors that are held.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::path::{Path, PathBuf};

use aya::Ebpf;
use aya::programs::tc::{SchedClassifierLink, TcAttachOptions};
use aya::programs::{LinkOrder, SchedClassifier, TcAttachType};

use super::gate::{Gate, Place, Refusal, no_program};
use super::links::Link;
use super::pins;
use super::view::AttachedView;
use crate::config::HookMode;
use crate::kernel::trouble::{Hook, Step, Trouble};

/// Interfaces that are judged at most; what is beyond is said.
const MOST: usize = 64;

/// Checks everything; or, beside XDP, first words alone.
const GATE: &str = "ingress_gate_tc";
const WORDS: &str = "ingress_words";

/// Dropping it takes tc off, and XDP too where it is not pinned; where it is, everything passes from then on.
pub(super) struct Attachments {
    ebpf: Ebpf,
    /// Loaded; or why not.
    tc: Result<(), String>,
    xdp: Result<Gate, String>,
    /// For pins.
    bpffs: PathBuf,
    /// Pins that nobody needs have been looked for, since this agent has had the traffic.
    tidied: bool,
    at: BTreeMap<u32, Attached>,
    /// Of all that there are and were attached to: their counts stay.
    names: BTreeMap<u32, String>,
    /// More are wanted than there may be.
    too_many: bool,
    /// What the kernel did not permit, the last time.
    refused: Option<Trouble>,
}

#[derive(Default)]
struct Attached {
    name: String,
    tc: Option<SchedClassifierLink>,
    xdp: Option<Place>,
    /// The device refused XDP: it is not asked again.
    no_xdp: Option<String>,
    /// The program of a newer agent that is there in the place of ours. That one's it is for as long as it runs, or two agents that both serve
    /// would replace each other's for ever.
    lost_to: Option<u32>,
    why: String,
}

impl Attachments {
    /// Loads what the settings allow.
    ///
    /// # Errors
    /// When neither can be loaded, or one that has to be can't.
    pub(super) fn load(
        mut ebpf: Ebpf,
        tc: HookMode,
        xdp: HookMode,
        xdp_idle: Option<&str>,
        bpffs: &Path,
    ) -> Result<Self, Trouble> {
        let tc = sub_hook(tc, "--kernel-tc", || {
            load_tc(&mut ebpf, GATE)?;
            load_tc(&mut ebpf, WORDS)
        })?;
        let xdp_loaded = match xdp_idle {
            // Its price is paid where it is of use.
            Some(why) if xdp == HookMode::Auto => Err((format!("XDP: {why}"), None)),
            _ => sub_hook(xdp, "--kernel-xdp", || Gate::load(&mut ebpf, xdp, bpffs))?,
        };
        if let (Err((why, Some(trouble))), Err(_)) = (&tc, &xdp_loaded) {
            tracing::debug!("kernel: {why}");
            return Err(trouble.clone());
        }
        Ok(Self {
            ebpf,
            tc: tc.map_err(|(why, _)| why),
            xdp: xdp_loaded.map_err(|(why, _)| why),
            bpffs: bpffs.to_owned(),
            tidied: false,
            at: BTreeMap::new(),
            names: BTreeMap::new(),
            too_many: false,
            refused: None,
        })
    }

    /// Attaches to what is wanted and not attached yet, and lets go of what is not wanted any more, or gone. While another agent has the
    /// traffic (`waits`) that one keeps its XDP; from then on it is replaced in place.
    pub(super) fn follow(&mut self, links: &[Link], waits: bool, wanted: impl Fn(&Link) -> bool) {
        self.at.retain(|index, attached| {
            let stays = links.iter().any(|link| link.index == *index && wanted(link));
            if !stays {
                if let (Ok(gate), Some(place)) = (&self.xdp, attached.xdp.take()) {
                    gate.remove(place);
                }
                tracing::info!(
                    interface = attached.name,
                    "kernel: packets are not judged here any more"
                );
            }
            stays
        });
        let wanted: Vec<_> = links.iter().filter(|link| wanted(link)).collect();
        self.too_many = wanted.len() > MOST;
        self.refused = None;
        for link in wanted.into_iter().take(MOST) {
            self.attach(link, waits);
        }
        if !waits && !self.tidied {
            self.tidy();
        }
        self.tidied = !waits;
    }

    /// What earlier agents left and none needs.
    fn tidy(&self) {
        match &self.xdp {
            Ok(gate) => {
                let places = self.at.values().filter_map(|attached| attached.xdp.as_ref());
                let kept: BTreeSet<_> = places.filter_map(|place| place.pin().cloned()).collect();
                gate.tidy(&kept);
            }
            Err(_) => pins::clear(&self.bpffs),
        }
    }

    fn attach(&mut self, link: &Link, waits: bool) {
        self.names.insert(link.index, link.name.clone());
        let attached = self.at.remove(&link.index);
        let is_new = attached.is_none();
        let mut attached = attached.unwrap_or_default();
        attached.name.clone_from(&link.name);
        let before = (attached.by(), attached.why.clone());
        attached.why.clear();
        self.by_tc(&mut attached, &link.name);
        self.by_xdp(&mut attached, link, waits);
        if is_new || before != (attached.by(), attached.why.clone()) {
            tracing::info!(
                interface = attached.name,
                by = attached.by(),
                why = attached.why,
                "kernel: packets are judged"
            );
        }
        self.at.insert(link.index, attached);
    }

    fn by_tc(&mut self, attached: &mut Attached, interface: &str) {
        if attached.tc.is_some() {
            return;
        }
        let program = if attached.xdp.is_some() { WORDS } else { GATE };
        match &self.tc {
            Err(why) => attached.add(why),
            Ok(()) => match attach_tc(&mut self.ebpf, program, interface) {
                Ok(link) => attached.tc = Some(link),
                Err(trouble) => self.failed(attached, trouble),
            },
        }
    }

    fn by_xdp(&mut self, attached: &mut Attached, link: &Link, waits: bool) {
        let gate = match &self.xdp {
            Ok(gate) => gate,
            Err(why) => return attached.add(why),
        };
        let other = |place| gate.other(place);
        let lost = attached.xdp.as_ref().and_then(other);
        if let Some(other) = lost {
            // A newer agent has put its program in place of ours.
            attached.xdp = None;
            attached.lost_to = Some(other);
            self.instead(attached, GATE);
        }
        let Ok(gate) = &self.xdp else { return };
        let there = link.xdp.map(|there| there.program);
        // With the traffic XDP is this agent's, whoever had it.
        let takes = !waits && !self.tidied;
        let is_anothers = lost.is_some() || (attached.lost_to.is_some() && attached.lost_to == there);
        if is_anothers && !takes {
            return attached.add("XDP: a newer agent has it here; tc judges");
        }
        attached.lost_to = None;
        if attached.xdp.is_none() {
            let refused = attached.no_xdp.clone();
            match refused.map_or_else(|| gate.enter(link, waits), |why| Err(Refusal::Now(why))) {
                Ok(place) => attached.xdp = Some(place),
                Err(Refusal::Now(why)) => return attached.add(&why),
                Err(Refusal::ByDevice(trouble)) => {
                    if !trouble.is_not_permitted() {
                        attached.no_xdp = Some(format!("{trouble}; it is not tried again"));
                    }
                    return self.failed(attached, trouble);
                }
            }
            // In this order no packet is unjudged; for a moment headers are judged twice.
            self.instead(attached, WORDS);
        }
        if let (Ok(gate), Some(place), false) = (&self.xdp, &mut attached.xdp, waits) {
            gate.keep(place);
        }
    }

    /// Another program of ours at tc, in one step.
    fn instead(&mut self, attached: &mut Attached, program: &str) {
        if let Some(tc) = attached.tc.take() {
            match replace(&mut self.ebpf, program, tc) {
                Ok(tc) => attached.tc = Some(tc),
                Err(trouble) => self.failed(attached, trouble),
            }
        }
    }

    fn failed(&mut self, attached: &mut Attached, trouble: Trouble) {
        attached.add(&trouble.to_string());
        if trouble.is_not_permitted() {
            self.refused = Some(trouble);
        }
    }

    /// What the kernel did not permit when interfaces were last gone after.
    pub(super) fn refused(&self) -> Option<Trouble> {
        self.refused.clone()
    }

    /// Judges nothing any more. What is pinned stays on its device, and passes everything.
    pub(super) fn let_go(&mut self) {
        for attached in std::mem::take(&mut self.at).into_values() {
            if let (Ok(gate), Some(place)) = (&self.xdp, attached.xdp) {
                gate.leave(place);
            }
        }
    }

    /// The traffic is this agent's from now on, and XDP with the next look.
    pub(super) fn take(&mut self) {
        self.tidied = false;
    }

    /// Takes everything off, what is pinned too.
    pub(super) fn detach(&mut self) {
        for attached in std::mem::take(&mut self.at).into_values() {
            if let (Ok(gate), Some(place)) = (&self.xdp, attached.xdp) {
                gate.remove(place);
            }
        }
        if let Ok(gate) = &self.xdp {
            gate.forget();
        }
    }

    pub(super) fn name(&self, index: u32) -> String {
        let known = self.names.get(&index);
        known.map_or_else(|| index.to_string(), Clone::clone)
    }

    /// Names are kept of what is there.
    pub(super) fn forget(&mut self, is_there: impl Fn(u32) -> bool) {
        self.names.retain(|index, _| is_there(*index));
    }

    pub(super) fn views(&self) -> Vec<AttachedView> {
        let view = |attached: &Attached| AttachedView {
            interface: attached.name.clone(),
            by: attached.by(),
            why: attached.why.clone(),
            pinned: attached.pinned(),
        };
        self.at.values().map(view).collect()
    }

    /// Why tc and XDP are at work nowhere.
    pub(super) fn off(&self) -> [String; 2] {
        let why = |off: Option<&String>| off.cloned().unwrap_or_default();
        [why(self.tc.as_ref().err()), why(self.xdp.as_ref().err())]
    }

    pub(super) fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        if self.too_many {
            notes.push(format!(
                "only {MOST} interfaces are judged; --kernel-interfaces names which"
            ));
        }
        let places = self.at.values().filter_map(|attached| attached.xdp.as_ref());
        for why in places.filter_map(Place::unpinned).collect::<BTreeSet<_>>() {
            notes.push(format!("XDP is not pinned, and ends with this agent: {why}"));
        }
        notes
    }
}

impl Drop for Attachments {
    fn drop(&mut self) {
        self.let_go();
    }
}

impl Attached {
    fn by(&self) -> String {
        match (&self.xdp, &self.tc) {
            (Some(place), Some(_)) => format!("xdp ({}) and tc", place.mode()),
            (Some(place), None) => format!("xdp ({})", place.mode()),
            (None, Some(_)) => "tc".to_owned(),
            (None, None) => "nothing".to_owned(),
        }
    }

    fn pinned(&self) -> String {
        let pin = self.xdp.as_ref().and_then(Place::pin);
        pin.map_or_else(String::new, |path| path.display().to_string())
    }

    fn add(&mut self, why: &str) {
        if !self.why.is_empty() {
            self.why.push_str("; ");
        }
        self.why.push_str(why);
    }
}

type Loaded<T> = Result<T, (String, Option<Trouble>)>;

/// The inner error says why it is off; the outer one, that it has to be on.
fn sub_hook<T>(
    mode: HookMode,
    flag: &str,
    load: impl FnOnce() -> Result<T, Trouble>,
) -> Result<Loaded<T>, Trouble> {
    if mode == HookMode::Off {
        return Ok(Err((format!("switched off by {flag}"), None)));
    }
    match load() {
        Err(trouble) if mode == HookMode::On => Err(trouble),
        loaded => Ok(loaded.map_err(|trouble| (trouble.to_string(), Some(trouble)))),
    }
}

fn trouble(hook: Hook, step: Step, error: &(dyn Error + 'static)) -> Trouble {
    Trouble::from_aya(hook, step, error)
}

fn load_tc(ebpf: &mut Ebpf, name: &str) -> Result<(), Trouble> {
    let loaded = tc(ebpf, name)?.load();
    loaded.map_err(|error| trouble(Hook::Tc, Step::Load, &error))
}

/// By a tcx link (Linux 6.6): beside other programs, and gone with this process.
fn attach_tc(ebpf: &mut Ebpf, name: &str, interface: &str) -> Result<SchedClassifierLink, Trouble> {
    let attaching = |error: &(dyn Error + 'static)| trouble(Hook::Tc, Step::Attach, error);
    let program = tc(ebpf, name)?;
    let options = TcAttachOptions::TcxOrder(LinkOrder::default());
    let link = program
        .attach_with_options(interface, TcAttachType::Ingress, options)
        .map_err(|error| attaching(&error))?;
    program.take_link(link).map_err(|error| attaching(&error))
}

fn replace(ebpf: &mut Ebpf, name: &str, link: SchedClassifierLink) -> Result<SchedClassifierLink, Trouble> {
    let attaching = |error: &(dyn Error + 'static)| trouble(Hook::Tc, Step::Attach, error);
    let program = tc(ebpf, name)?;
    let link = program.attach_to_link(link).map_err(|error| attaching(&error))?;
    program.take_link(link).map_err(|error| attaching(&error))
}

fn tc<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut SchedClassifier, Trouble> {
    let program = ebpf.program_mut(name).and_then(|program| program.try_into().ok());
    program.ok_or_else(|| no_program(Hook::Tc, name))
}
