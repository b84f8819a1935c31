//! Where the programs of early rejection are attached: by tc on every interface that is judged, by XDP too where that does no harm.
//!
//! All programs are loaded at the start, while there is the right to; attaching them later goes by the descriptors that are held.

use std::collections::BTreeMap;
use std::error::Error;

use aya::Ebpf;
use aya::programs::tc::{SchedClassifierLink, TcAttachOptions};
use aya::programs::xdp::{XdpLink, XdpMode};
use aya::programs::{LinkOrder, SchedClassifier, TcAttachType, Xdp};

use super::links::Link;
use super::view::AttachedView;
use crate::config::HookMode;
use crate::kernel::trouble::{Hook, Step, Trouble};

/// Drivers that take an XDP program natively without resetting queues or losing the link, each with what is known of it. Others may as well:
/// `--kernel-xdp on` tries them all.
const WITHOUT_HARM: [(&str, &str); 2] = [
    // drivers/net/veth.c, veth_xdp_set: NAPI is switched on, nothing is reset. Shown by the tests.
    ("veth", "a pair of virtual interfaces"),
    // drivers/net/virtio_net.c, virtnet_xdp_set: queues are paused, not reset; refuses by itself where queues or offloads don't allow it.
    ("virtio", "a virtual machine's interface"),
];

/// Interfaces that are judged at most; what is beyond is said.
const MOST: usize = 64;

/// Checks everything; or, beside XDP, first words alone.
const GATE: &str = "ingress_gate_tc";
const WORDS: &str = "ingress_words";
const XDP: &str = "ingress_gate";

/// Dropping it detaches everything.
pub(super) struct Attachments {
    ebpf: Ebpf,
    /// Loaded; or why not.
    tc: Result<(), String>,
    xdp: Result<(), String>,
    xdp_mode: HookMode,
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
    xdp: Option<(XdpLink, &'static str)>,
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
    ) -> Result<Self, Trouble> {
        let tc = sub_hook(tc, "--kernel-tc", || {
            load_tc(&mut ebpf, GATE)?;
            load_tc(&mut ebpf, WORDS)
        })?;
        let xdp_loaded = match xdp_idle {
            // Its price is paid where it is of use.
            Some(why) if xdp == HookMode::Auto => Err((format!("XDP: {why}"), None)),
            _ => sub_hook(xdp, "--kernel-xdp", || load_xdp(&mut ebpf))?,
        };
        if let (Err((why, Some(trouble))), Err(_)) = (&tc, &xdp_loaded) {
            tracing::debug!("kernel: {why}");
            return Err(trouble.clone());
        }
        let words = |result: Result<(), (String, Option<Trouble>)>| result.map_err(|(why, _)| why);
        Ok(Self {
            ebpf,
            tc: words(tc),
            xdp: words(xdp_loaded),
            xdp_mode: xdp,
            at: BTreeMap::new(),
            names: BTreeMap::new(),
            too_many: false,
            refused: None,
        })
    }

    /// Attaches to what is wanted and not attached yet, and lets go of what is not wanted any more, or gone.
    pub(super) fn follow(&mut self, links: &[Link], wanted: impl Fn(&Link) -> bool) {
        self.at.retain(|index, attached| {
            let stays = links.iter().any(|link| link.index == *index && wanted(link));
            if !stays {
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
            self.attach(link);
        }
    }

    fn attach(&mut self, link: &Link) {
        self.names.insert(link.index, link.name.clone());
        let attached = self.at.remove(&link.index);
        let is_new = attached.is_none();
        let mut attached = attached.unwrap_or_default();
        attached.name.clone_from(&link.name);
        let before = (attached.by(), attached.why.clone());
        attached.why.clear();
        self.by_tc(&mut attached, &link.name);
        self.by_xdp(&mut attached, link);
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

    fn by_xdp(&mut self, attached: &mut Attached, link: &Link) {
        if attached.xdp.is_some() {
            return;
        }
        if let Err(why) = &self.xdp {
            return attached.add(why);
        }
        let known = WITHOUT_HARM.iter().any(|(driver, _)| *driver == link.driver);
        if self.xdp_mode == HookMode::Auto && !known {
            return attached.add(&format!(
                "XDP: {} is not among the drivers that are known to take it without harm (--kernel-xdp on tries it)",
                if link.driver.is_empty() { "its driver" } else { &link.driver }
            ));
        }
        let native = attach_xdp(&mut self.ebpf, link.index, XdpMode::Driver);
        let xdp = match native {
            Ok(xdp) => Ok((xdp, "native")),
            Err(_) if self.xdp_mode == HookMode::On => {
                attach_xdp(&mut self.ebpf, link.index, XdpMode::Skb).map(|xdp| (xdp, "generic"))
            }
            Err(trouble) => Err(trouble),
        };
        match xdp {
            Ok(xdp) => attached.xdp = Some(xdp),
            Err(trouble) => return self.failed(attached, trouble),
        }
        // In this order no packet is unjudged; for a moment headers are judged twice.
        if let Some(tc) = attached.tc.take() {
            match replace(&mut self.ebpf, tc) {
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

    /// Takes everything off.
    pub(super) fn let_go(&mut self) {
        self.at.clear();
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
        };
        self.at.values().map(view).collect()
    }

    /// Why tc and XDP are at work nowhere.
    pub(super) fn off(&self) -> [String; 2] {
        [&self.tc, &self.xdp].map(|hook| hook.clone().err().unwrap_or_default())
    }

    pub(super) fn note(&self) -> Option<String> {
        let text = || format!("only {MOST} interfaces are judged; --kernel-interfaces names which");
        self.too_many.then(text)
    }
}

impl Attached {
    fn by(&self) -> String {
        match (&self.xdp, &self.tc) {
            (Some((_, mode)), Some(_)) => format!("xdp ({mode}) and tc"),
            (Some((_, mode)), None) => format!("xdp ({mode})"),
            (None, Some(_)) => "tc".to_owned(),
            (None, None) => "nothing".to_owned(),
        }
    }

    fn add(&mut self, why: &str) {
        if !self.why.is_empty() {
            self.why.push_str("; ");
        }
        self.why.push_str(why);
    }
}

type Loaded = Result<(), (String, Option<Trouble>)>;

/// The inner error says why it is off; the outer one, that it has to be on.
fn sub_hook(
    mode: HookMode,
    flag: &str,
    load: impl FnOnce() -> Result<(), Trouble>,
) -> Result<Loaded, Trouble> {
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

fn load_xdp(ebpf: &mut Ebpf) -> Result<(), Trouble> {
    let loaded = xdp(ebpf)?.load();
    loaded.map_err(|error| trouble(Hook::Xdp, Step::Load, &error))
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

/// First words alone from here on, in one step.
fn replace(ebpf: &mut Ebpf, link: SchedClassifierLink) -> Result<SchedClassifierLink, Trouble> {
    let attaching = |error: &(dyn Error + 'static)| trouble(Hook::Tc, Step::Attach, error);
    let program = tc(ebpf, WORDS)?;
    let link = program.attach_to_link(link).map_err(|error| attaching(&error))?;
    program.take_link(link).map_err(|error| attaching(&error))
}

fn attach_xdp(ebpf: &mut Ebpf, index: u32, mode: XdpMode) -> Result<XdpLink, Trouble> {
    let attaching = |error: &(dyn Error + 'static)| trouble(Hook::Xdp, Step::Attach, error);
    let program = xdp(ebpf)?;
    let link = program
        .attach_to_if_index(index, mode)
        .map_err(|error| attaching(&error))?;
    program.take_link(link).map_err(|error| attaching(&error))
}

fn tc<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut SchedClassifier, Trouble> {
    let program = ebpf.program_mut(name).and_then(|program| program.try_into().ok());
    program.ok_or_else(|| no_program(Hook::Tc, name))
}

fn xdp(ebpf: &mut Ebpf) -> Result<&mut Xdp, Trouble> {
    let program = ebpf.program_mut(XDP).and_then(|program| program.try_into().ok());
    program.ok_or_else(|| no_program(Hook::Xdp, XDP))
}

fn no_program(hook: Hook, name: &str) -> Trouble {
    Trouble::unfit(hook, Step::Load, format!("the object has no program {name}"))
}
