//! XDP on an interface: attached once, replaced in place by whoever comes next, and never taken off in between.
//!
//! Where a bpffs is there the link has a name in it and outlives the agent: a device that has to be set up for XDP is set up once. What an
//! agent leaves there passes everything.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use aya::Ebpf;
use aya::programs::Xdp;

use super::links::{self, Link};
use super::pins::Pins;
use super::sys::{self, Object};
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

/// The program that judges, and the one that takes its place when an agent ends.
const JUDGES: &str = "ingress_gate";
const PASSES: &str = "ingress_pass";

/// Loaded, and where its links are kept.
pub(super) struct Gate {
    judges: Program,
    passes: Program,
    mode: HookMode,
    /// Or why there are none.
    pins: Result<Pins, String>,
}

struct Program {
    descriptor: OwnedFd,
    id: u32,
}

/// Ours on one interface, for as long as no other agent replaces it.
pub(super) struct Place {
    link: OwnedFd,
    interface: u32,
    generic: bool,
    /// Its name; or why it has none.
    pin: Result<PathBuf, String>,
}

/// Why it is not on an interface.
pub(super) enum Refusal {
    /// It may be otherwise later.
    Now(String),
    ByDevice(Trouble),
}

impl Place {
    pub(super) fn mode(&self) -> &'static str {
        if self.generic { "generic" } else { "native" }
    }

    pub(super) fn pin(&self) -> Option<&PathBuf> {
        self.pin.as_ref().ok()
    }

    pub(super) fn unpinned(&self) -> Option<&str> {
        self.pin.as_ref().err().map(String::as_str)
    }
}

impl Gate {
    /// `dir`: for pins, where it is in a bpffs.
    ///
    /// # Errors
    /// When the kernel takes the programs not.
    pub(super) fn load(ebpf: &mut Ebpf, mode: HookMode, dir: &Path) -> Result<Self, Trouble> {
        Ok(Self {
            judges: program(ebpf, JUDGES)?,
            passes: program(ebpf, PASSES)?,
            mode,
            pins: Pins::open(dir).inspect_err(|why| {
                tracing::info!("kernel: XDP is not pinned, and ends with this agent: {why}")
            }),
        })
    }

    /// Ours on an interface: new, or in the place of another agent's. Where that one still has the traffic (`waits`), later.
    pub(super) fn enter(&self, link: &Link, waits: bool) -> Result<Place, Refusal> {
        let known = WITHOUT_HARM.iter().any(|(driver, _)| *driver == link.driver);
        if self.mode == HookMode::Auto && !known {
            return Err(Refusal::Now(format!(
                "XDP: {} is not among the drivers that are known to take it without harm (--kernel-xdp on tries it)",
                if link.driver.is_empty() {
                    "its driver"
                } else {
                    &link.driver
                }
            )));
        }
        if let Some(there) = link.xdp {
            return self.succeed(link.index, there, waits);
        }
        let attach = |generic| sys::attach(self.judges.descriptor.as_fd(), link.index, generic);
        let attached = match attach(false) {
            Err(_) if self.mode == HookMode::On => attach(true).map(|link| (link, true)),
            native => native.map(|link| (link, false)),
        };
        match attached {
            Ok((held, generic)) => Ok(Place {
                link: held,
                interface: link.index,
                generic,
                pin: Err("not yet".to_owned()),
            }),
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => Err(Refusal::Now(
                "XDP: another program has come to this interface".to_owned(),
            )),
            Err(error) => Err(Refusal::ByDevice(trouble(&error))),
        }
    }

    /// In the place of what is there, if that is an agent's.
    fn succeed(&self, interface: u32, there: links::Xdp, waits: bool) -> Result<Place, Refusal> {
        let links::Xdp { program, generic } = there;
        let not = |why: String| Err(Refusal::Now(why));
        let found = self
            .pins
            .as_ref()
            .ok()
            .and_then(|pins| pins.find(interface, program));
        let Some(found) = found else {
            return not(format!(
                "XDP: another program (number {program}) is on this interface and stays; tc judges"
            ));
        };
        let path = found.path.display();
        if !found.ours {
            return not(format!(
                "XDP: {path} holds a program (number {program}) that is not an agent's; it stays, and tc judges"
            ));
        }
        if waits {
            return not("XDP: another agent has it here until this one has the traffic".to_owned());
        }
        if generic && self.mode == HookMode::Auto {
            // Left by an agent with `--kernel-xdp on`.
            let _ = std::fs::remove_file(&found.path);
            return not(
                "XDP: it was attached generically here, which auto does not do; it is taken off".to_owned(),
            );
        }
        // First the names: an agent that dies between the two steps would leave a link that nobody knows for an agent's.
        if let Ok(pins) = &self.pins {
            self.name_programs(pins)
                .map_err(|error| Refusal::Now(format!("XDP: {path}: {error}; tc judges")))?;
        }
        sys::replace(found.link.as_fd(), self.judges.descriptor.as_fd(), None)
            .map_err(|error| Refusal::ByDevice(trouble(&error)))?;
        let mut place = Place {
            link: found.link,
            interface,
            generic,
            pin: Err("not yet".to_owned()),
        };
        self.keep(&mut place);
        // Of another format.
        if place.pin().is_some_and(|pin| *pin != found.path) {
            let _ = std::fs::remove_file(&found.path);
        }
        Ok(place)
    }

    /// The program that is there in the place of ours. Where that can't be known, it is ours.
    pub(super) fn other(&self, place: &Place) -> Option<u32> {
        match sys::what_is(place.link.as_fd()) {
            Ok(Object::XdpLink { program, .. }) if program != self.judges.id => Some(program),
            _ => None,
        }
    }

    /// Gives link and programs their names, those that they have lost as well.
    pub(super) fn keep(&self, place: &mut Place) {
        let pin = |pins: &Pins| {
            self.name_programs(pins)?;
            pins.keep(place.link.as_fd(), place.interface)
        };
        let pinned = match &self.pins {
            Ok(pins) => {
                pin(pins).map_err(|error| format!("{}: {error}", pins.place(place.interface).display()))
            }
            Err(why) => Err(why.clone()),
        };
        place.pin = pinned;
    }

    fn name_programs(&self, pins: &Pins) -> io::Result<()> {
        pins.name(self.judges.descriptor.as_fd(), self.judges.id)?;
        pins.name(self.passes.descriptor.as_fd(), self.passes.id)
    }

    /// What is pinned stays on the device and passes everything, unless another agent has put its own there.
    pub(super) fn leave(&self, place: Place) {
        if place.pin.is_err() {
            return;
        }
        // An agent of another namespace may have tidied away the name of a program that no link ran.
        if let Ok(pins) = &self.pins
            && self.other(&place).is_none()
        {
            let _ = self.name_programs(pins);
        }
        let (passes, judges) = (self.passes.descriptor.as_fd(), self.judges.descriptor.as_fd());
        if let Err(error) = sys::replace(place.link.as_fd(), passes, Some(judges)) {
            tracing::debug!(interface = place.interface, %error, "kernel: XDP is another agent's now, or passes everything in a moment");
        }
    }

    /// Takes it off the device, unless another agent has put its own there.
    pub(super) fn remove(&self, place: Place) {
        if let Ok(path) = &place.pin
            && self.other(&place).is_none()
        {
            let _ = std::fs::remove_file(path);
        }
    }

    /// Removes pins that no agent of this network namespace needs: links but for those.
    pub(super) fn tidy(&self, kept: &BTreeSet<PathBuf>) {
        if let Ok(pins) = &self.pins {
            pins.tidy(Some(kept), &[self.judges.id, self.passes.id]);
        }
    }

    /// Removes the names of our programs, unless a link runs one.
    pub(super) fn forget(&self) {
        if let Ok(pins) = &self.pins {
            pins.tidy(None, &[]);
        }
    }
}

fn program(ebpf: &mut Ebpf, name: &str) -> Result<Program, Trouble> {
    let program: Option<&mut Xdp> = ebpf.program_mut(name).and_then(|program| program.try_into().ok());
    let program = program.ok_or_else(|| no_program(Hook::Xdp, name))?;
    let aya = |error: aya::programs::ProgramError| Trouble::from_aya(Hook::Xdp, Step::Load, &error);
    program.load().map_err(aya)?;
    let held = program.fd().map_err(aya)?.as_fd().try_clone_to_owned();
    let io = |error: io::Error| Trouble::io(Hook::Xdp, Step::Load, &error);
    let descriptor = held.map_err(io)?;
    match sys::what_is(descriptor.as_fd()).map_err(io)? {
        Object::Program { id, .. } => Ok(Program { descriptor, id }),
        _ => Err(Trouble::unfit(
            Hook::Xdp,
            Step::Load,
            "the kernel does not say what it has loaded",
        )),
    }
}

fn trouble(error: &io::Error) -> Trouble {
    Trouble::io(Hook::Xdp, Step::Attach, error)
}

pub(super) fn no_program(hook: Hook, name: &str) -> Trouble {
    Trouble::unfit(hook, Step::Load, format!("the object has no program {name}"))
}
