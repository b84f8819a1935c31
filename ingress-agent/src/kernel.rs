//! The kernel's side of the agent: loads the eBPF programs, attaches them, fills their maps, reads their counts.
//!
//! Every hook is optional by itself, and one that is off says why. Programs and maps live by the descriptors that this
//! process holds, so whatever way it ends, the kernel takes them away with it (docs/decisions/0005); but for XDP links, which are pinned where
//! that can be. Knows sockets and addresses, no routes.

pub mod account;
mod capability;
pub mod control;
mod netlink;
mod object;
pub mod port_owner;
pub(crate) mod priority;
pub mod reject;
pub mod rights;
pub mod steering;
mod trouble;

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use ingress_common::abi::WHOLE;
use ingress_core::datapath::Listener;
use serde::{Deserialize, Serialize};

use self::account::queues::{Queues, QueuesView};
use self::account::{AccountView, Accounting};
use self::reject::{RejectView, Rejection};
use self::rights::{Need, Rights, RightsView};
use self::steering::{AddressView, Sockets, Steering, Wanted};
pub use self::trouble::{Cause, Hook, Step, Trouble};

/// All hooks of this process. Shared by whoever shows, counts or changes them; no request ever asks.
#[derive(Debug)]
pub struct Kernel {
    steering: Mutex<State>,
    /// Set once, when it is known whether packets are judged; or why not.
    rejection: OnceLock<Result<Arc<Rejection>, String>>,
    /// Set once, when all that asks for a right is done.
    rights: OnceLock<Rights>,
    /// The same of accounting.
    accounting: OnceLock<Result<Arc<Accounting>, String>>,
    /// Set once, when there are sockets that listen.
    queues: OnceLock<Arc<Queues>>,
}

/// One hook.
#[derive(Debug)]
enum State {
    Off(Off),
    /// Ready, not in force: no connection is taken yet.
    Prepared(Box<Steering>),
    On(Box<Steering>),
}

/// Why a hook is off.
#[derive(Debug)]
pub enum Off {
    /// By the settings.
    Setting,
    /// Nothing that is served has a fixed port.
    NothingToDo,
    /// It can't be.
    Trouble(Trouble),
    /// Given up to a newer agent, or by order.
    LetGo(&'static str),
}

impl std::fmt::Display for Off {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Setting => f.write_str("switched off by --kernel or --kernel-steering"),
            Self::NothingToDo => f.write_str("no address with a fixed port is served"),
            Self::Trouble(trouble) => trouble.fmt(f),
            Self::LetGo(why) => f.write_str(why),
        }
    }
}

/// What an operator sees of the hooks; `ingress-agent kernel status -o json` and `/kernel` print exactly this.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelView {
    pub steering: HookView,
    /// Served by steering, with what became of new connections.
    pub addresses: Vec<AddressView>,
    /// Early rejection of unmatched traffic.
    #[serde(default)]
    pub rejection: Box<RejectView>,
    #[serde(default)]
    pub rights: RightsView,
    /// Accounting by connection.
    pub accounting: Box<AccountView>,
    /// What waits at our listeners, and what found no room.
    #[serde(default)]
    pub queues: Box<QueuesView>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HookView {
    pub on: bool,
    /// Why it is off; empty while it is on.
    pub reason: String,
}

impl Kernel {
    pub fn off(why: Off) -> Self {
        Self {
            steering: Mutex::new(State::Off(why)),
            rejection: OnceLock::new(),
            rights: OnceLock::new(),
            accounting: OnceLock::new(),
            queues: OnceLock::new(),
        }
    }

    pub fn prepared(steering: Steering) -> Self {
        Self {
            steering: Mutex::new(State::Prepared(Box::new(steering))),
            rejection: OnceLock::new(),
            rights: OnceLock::new(),
            accounting: OnceLock::new(),
            queues: OnceLock::new(),
        }
    }

    /// Whether there is anything to put in force.
    pub fn is_prepared(&self) -> bool {
        matches!(*self.lock(), State::Prepared(_))
    }

    /// Whether addresses are steered just now.
    pub fn is_steering(&self) -> bool {
        matches!(*self.lock(), State::On(_))
    }

    /// Private listeners for what is to be steered and whose kind or family is new: the workers have to have them before [`Self::serve`].
    ///
    /// # Errors
    /// When steering is off (`None`), or there can't be any.
    pub fn make_room(&self, wanted: &[Wanted]) -> Result<Sockets, Option<Trouble>> {
        match &mut *self.lock() {
            State::On(steering) => steering.make_room(wanted).map_err(Some),
            State::Off(_) | State::Prepared(_) => Err(None),
        }
    }

    /// Steers these addresses and no others, by a change of the map: no connection is touched.
    ///
    /// # Errors
    /// When steering is off (`None`), or the kernel refuses the change: then all is as before.
    pub fn serve(&self, wanted: &[Wanted]) -> Result<(), Option<Trouble>> {
        match &mut *self.lock() {
            State::On(steering) => steering.serve(wanted).map_err(Some),
            State::Off(_) | State::Prepared(_) => Err(None),
        }
    }

    /// How much each worker has to do; where connections are not steered, nobody wants to know.
    pub fn set_loads(&self, loads: &[u32]) {
        if let State::On(steering) = &mut *self.lock()
            && let Err(trouble) = steering.set_loads(loads)
        {
            tracing::debug!("kernel: {trouble}");
        }
    }

    /// Which addresses are judged from now on.
    pub fn set_listeners(&self, listeners: Vec<Listener>) {
        if let Some(Ok(rejection)) = self.rejection.get() {
            rejection.set_listeners(listeners);
        }
    }

    /// Puts the hooks in force: from now on new connections come. Before it, each private listener has to answer a request.
    ///
    /// # Errors
    /// When a listener does not answer, or the kernel refuses the program now, which it accepted before.
    pub fn take_traffic(&self) -> Result<(), Trouble> {
        let mut state = self.lock();
        let State::Prepared(steering) = &mut *state else {
            return Ok(());
        };
        steering.check_itself()?;
        steering.attach()?;
        let was = std::mem::replace(&mut *state, State::Off(Off::Setting));
        if let State::Prepared(steering) = was {
            *state = State::On(steering);
        }
        drop(state);
        self.rest(false);
        Ok(())
    }

    /// Judges no packet while another agent has the traffic, which may serve hosts that are not known here; or does so again.
    pub fn rest(&self, rests: bool) {
        if let Some(Ok(rejection)) = self.rejection.get() {
            rejection.set_waits(rests);
        }
    }

    /// Attaches what judges packets, and gives back the rights that the process was started with, but for what this kernel asks for later.
    pub fn give_rights_back(&self, keep: bool) {
        let mut needs = Vec::new();
        if let State::Prepared(steering) = &*self.lock()
            && !steering.needs_no_right()
        {
            needs.push(Need::of_bpf("steering is put in force"));
        }
        if let Some(Ok(rejection)) = self.rejection.get()
            && !rejection.attach()
        {
            needs.push(Need::of_bpf("packets of an interface are to be judged"));
        }
        if let Some(Ok(accounting)) = self.accounting.get()
            && !accounting.needs_no_right()
        {
            needs.push(Need::of_bpf(
                "a connection is tagged, and what was counted is read",
            ));
        }
        let _ = self.rights.set(if keep {
            Rights::kept("--keep-capabilities is set")
        } else {
            Rights::give_back(&needs)
        });
    }

    /// Ends all hooks: new connections go where the kernel would send them without this agent. What is accepted or waits stays.
    pub fn let_go(&self, why: &'static str) {
        if let Some(Ok(rejection)) = self.rejection.get() {
            rejection.let_go(why);
        }
        let mut state = self.lock();
        if !matches!(*state, State::Off(_)) {
            *state = State::Off(Off::LetGo(why));
        }
    }

    /// Changes which share of sources is taken, in [`ingress_common::abi::WHOLE`] parts; on every address.
    ///
    /// # Errors
    /// When steering is off (`None`), or the kernel refuses the change.
    pub fn set_share(&self, share: u32) -> Result<(), Option<Trouble>> {
        let set_shared = |shared| {
            if let Some(Ok(rejection)) = self.rejection.get() {
                rejection.set_shared(shared);
            }
        };
        let mut state = self.lock();
        let (State::Prepared(steering) | State::On(steering)) = &mut *state else {
            return Err(None);
        };
        // What is not ours is judged at no moment.
        if share < WHOLE {
            set_shared(true);
        }
        steering.set_share(share).map_err(Some)?;
        drop(state);
        set_shared(share < WHOLE);
        Ok(())
    }

    /// What judges packets, or why nothing does. Where addresses are steered, not before they are ours: see [`Self::rest`].
    pub fn set_rejection(&self, rejection: Result<Arc<Rejection>, String>) {
        let _ = self.rejection.set(rejection);
        self.rest(self.is_prepared());
    }

    /// Whether the kernel bans this source (as [`ingress_core::penalty::Source::key`] has it) for so long from now on.
    pub fn ban(&self, source: &[u8; 16], lasts: Duration) -> bool {
        match self.rejection.get() {
            Some(Ok(rejection)) => rejection.ban(source, lasts),
            _ => false,
        }
    }

    pub fn lift(&self, source: &[u8; 16]) {
        if let Some(Ok(rejection)) = self.rejection.get() {
            rejection.lift(source);
        }
    }

    pub fn has_rejection(&self) -> bool {
        matches!(self.rejection.get(), Some(Ok(_)))
    }

    /// What counts connections, or why nothing does.
    pub fn set_accounting(&self, accounting: Result<Arc<Accounting>, String>) {
        let _ = self.accounting.set(accounting);
    }

    pub fn set_queues(&self, queues: Arc<Queues>) {
        let _ = self.queues.set(queues);
    }

    /// Takes out of the kernel what no open connection needs; steering ends by [`Self::let_go`].
    pub fn detach(&self) {
        let why = "detached by `ingress-agent kernel detach`";
        if let Some(Ok(rejection)) = self.rejection.get() {
            rejection.detach(why);
        }
        self.let_go(why);
        if let Some(Ok(accounting)) = self.accounting.get() {
            accounting.detach();
        }
    }

    pub fn view(&self) -> KernelView {
        KernelView {
            accounting: Box::new(match self.accounting.get() {
                Some(Ok(accounting)) => accounting.view(),
                Some(Err(why)) => AccountView::off(why),
                None => AccountView::off("not started"),
            }),
            rejection: Box::new(match self.rejection.get() {
                Some(Ok(rejection)) => rejection.view(),
                Some(Err(why)) => RejectView::off(why),
                None => RejectView::off("not started"),
            }),
            rights: self.rights.get().map(Rights::view).unwrap_or_default(),
            queues: Box::new(self.queues.get().map(|queues| queues.view()).unwrap_or_default()),
            ..self.steering_view()
        }
    }

    fn steering_view(&self) -> KernelView {
        match &*self.lock() {
            State::Off(why) => KernelView::off(why.to_string()),
            State::Prepared(_) => KernelView::off("prepared, not in force yet".into()),
            State::On(steering) => KernelView {
                steering: HookView {
                    on: true,
                    reason: String::new(),
                },
                addresses: steering.addresses(),
                rejection: Box::default(),
                rights: RightsView::default(),
                accounting: Box::default(),
                queues: Box::default(),
            },
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.steering.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Display for HookView {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.on {
            f.write_str("on")
        } else {
            write!(f, "off: {}", self.reason)
        }
    }
}

impl KernelView {
    fn off(reason: String) -> Self {
        Self {
            steering: HookView { on: false, reason },
            addresses: Vec::new(),
            rejection: Box::default(),
            rights: RightsView::default(),
            accounting: Box::default(),
            queues: Box::default(),
        }
    }
}
