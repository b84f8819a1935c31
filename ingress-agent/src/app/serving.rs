//! How the served addresses become sockets: by steering where the kernel does it, by binding them otherwise.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use ingress_common::abi::WHOLE;

use super::inheritance::{Heirlooms, Inherited};
use crate::admin;
use crate::config::{Config, HookMode};
use crate::kernel::steering::{Sockets, Steering, Wanted};
use crate::kernel::{Kernel, Off, port_owner};
use crate::listener::Listener;
use crate::proxy::listener::{self, BoundListener, Owner};

/// Sockets for every worker, and the addresses that clients use.
pub(super) struct Serving {
    pub(super) http: Vec<SocketAddr>,
    pub(super) https: Vec<SocketAddr>,
    pub(super) sockets: Sockets,
    pub(super) kernel: Arc<Kernel>,
    pub(super) listening: Vec<Listening>,
    /// What is bound and not steered: a newer agent can be given these.
    pub(super) heirlooms: Heirlooms,
}

/// One served address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Listening {
    pub(super) listener: Listener,
    /// As the settings have it.
    pub(super) asked: SocketAddr,
    /// With the real port when port 0 was asked for.
    pub(super) address: SocketAddr,
    pub(super) by: By,
}

/// How the kernel brings connections to a served address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum By {
    Steering {
        /// Loopback addresses too, where the address means all.
        loopback: bool,
    },
    Binding,
}

impl Listening {
    /// `None`: it is bound.
    pub(super) fn wanted(&self) -> Option<Wanted> {
        match self.by {
            By::Steering { loopback } => Some(Wanted {
                listener: self.listener,
                address: self.address,
                loopback,
            }),
            By::Binding => None,
        }
    }
}

/// Nobody is served before [`Kernel::take_traffic`] where addresses are steered; what is bound, queues at once.
pub(super) fn bind(config: &Config) -> Result<Serving> {
    let mut inherited = Inherited::ask(config);
    let (steerable, mut bindable): (Vec<_>, Vec<_>) =
        addresses(config)
            .into_iter()
            .partition(|(_, address)| match config.kernel.steering {
                HookMode::Off => false,
                HookMode::On => address.port() != 0,
                // An agent before us has bound it, and gives us its sockets.
                HookMode::Auto => address.port() != 0 && !inherited.has(*address),
            });
    let mut listening = Vec::new();
    let (kernel, mut sockets) = match steer(config, &steerable)? {
        Ok(((steering, sockets), wanted)) => {
            listening.extend(wanted.iter().map(steered));
            (Kernel::prepared(steering), sockets)
        }
        Err(why) => {
            bindable.splice(0..0, steerable.iter().copied());
            let sockets = (0..config.workers).map(|_| Vec::new()).collect();
            (Kernel::off(why), sockets)
        }
    };
    if bindable.len() > MOST_BOUND {
        let why = match &kernel.view().steering.reason {
            why if why.is_empty() => String::new(),
            why => format!(" (it is off: {why})"),
        };
        bail!(
            "{} addresses would have to be bound, each with a socket a worker: at most {MOST_BOUND} are; steering serves more{why}",
            bindable.len()
        );
    }
    let mut heirlooms = Heirlooms::default();
    for (kind, asked) in bindable {
        let (bound, of_workers) = if inherited.has(asked) {
            heirlooms.adopted(asked);
            let sockets = inherited.take(asked, config.workers);
            (
                bound(kind, asked, asked),
                sockets.context("an inherited socket cannot be used")?,
            )
        } else {
            let (bound, sockets) = bind_one(kind, asked, config.workers)?;
            (bound, sockets.into_iter().map(|socket| vec![socket]).collect())
        };
        for socket in of_workers.iter().flatten() {
            let kept = heirlooms.keep(bound.address, socket);
            kept.context("a socket cannot be kept for the next agent")?;
        }
        listening.push(bound);
        for (worker, sockets_of_worker) in sockets.iter_mut().zip(of_workers) {
            worker.extend(sockets_of_worker.into_iter().map(|socket| (kind, socket)));
        }
    }
    Ok(Serving {
        http: of(&listening, Listener::Http),
        https: of(&listening, Listener::Https),
        sockets,
        kernel: Arc::new(kernel),
        listening,
        heirlooms,
    })
}

/// Addresses that are bound, where steering does not serve them.
pub(super) const MOST_BOUND: usize = 64;

/// The addresses of one kind.
pub(super) fn of(listening: &[Listening], kind: Listener) -> Vec<SocketAddr> {
    let of_kind = listening.iter().filter(|listening| listening.listener == kind);
    of_kind.map(|listening| listening.address).collect()
}

pub(super) fn steered(wanted: &Wanted) -> Listening {
    Listening {
        listener: wanted.listener,
        asked: wanted.address,
        address: wanted.address,
        by: By::Steering {
            loopback: wanted.loopback,
        },
    }
}

/// Sockets for every worker.
pub(super) fn bind_one(
    listener: Listener,
    asked: SocketAddr,
    workers: usize,
) -> Result<(Listening, Vec<TcpListener>)> {
    let bound = BoundListener::bind(listener, asked, workers)
        .with_context(|| format!("{}{}", busy(listener.as_str(), asked), who_has(asked)))?;
    Ok((self::bound(listener, asked, bound.address), bound.sockets))
}

fn bound(listener: Listener, asked: SocketAddr, address: SocketAddr) -> Listening {
    Listening {
        listener,
        asked,
        address,
        by: By::Binding,
    }
}

/// As the settings have them, for this node.
pub(super) fn addresses(config: &Config) -> Vec<(Listener, SocketAddr)> {
    let has_ipv6 = listener::has_ipv6();
    let usable = |kind: Listener, addresses: &[SocketAddr]| -> Vec<_> {
        let usable = |address: &SocketAddr| (kind, listener::usable(*address, has_ipv6));
        addresses.iter().map(usable).collect()
    };
    let mut all = usable(Listener::Http, &config.http);
    all.extend(usable(Listener::Https, &config.https));
    all
}

type Steered = ((Steering, Sockets), Vec<Wanted>);

/// The inner error is a reason to bind instead; the outer one to give up.
fn steer(config: &Config, addresses: &[(Listener, SocketAddr)]) -> Result<Result<Steered, Off>> {
    let mode = config.kernel.steering;
    if mode == HookMode::Off {
        return Ok(Err(Off::Setting));
    }
    if addresses.is_empty() {
        return Ok(Err(Off::NothingToDo));
    }
    let wanted: Vec<_> = addresses
        .iter()
        .map(|(listener, address)| wanted(mode, *listener, *address))
        .collect::<Result<_>>()?;
    let share = config.kernel.takeover.parts_of(WHOLE);
    match Steering::prepare(&wanted, config.workers, share) {
        Ok(prepared) => Ok(Ok((prepared, wanted))),
        Err(trouble) if mode == HookMode::On => Err(trouble).context("--kernel-steering is on"),
        Err(trouble) => {
            tracing::info!("{trouble}");
            Ok(Err(Off::Trouble(trouble)))
        }
    }
}

/// Steering would take a port from whoever has it, without a word. So that happens only when it is asked for.
pub(super) fn wanted(mode: HookMode, listener: Listener, address: SocketAddr) -> Result<Wanted> {
    let owner = listener::owner(address);
    if owner == Owner::Somebody && mode != HookMode::On {
        bail!(
            "{}: another process has this port{}; --kernel-steering on would take its connections over (--takeover: which share of them)",
            busy(listener.as_str(), address),
            who_has(address)
        );
    }
    if owner == Owner::Somebody {
        let who = who_has(address);
        tracing::info!(%address, "another process has this port{who}: the share of --takeover comes here, and what is for loopback stays there");
    }
    Ok(Wanted {
        listener,
        address,
        loopback: owner == Owner::Nobody,
    })
}

/// The admin pages, not yet served, and their address.
pub(super) fn bind_admin(config: &Config) -> Result<(admin::Admin, Option<SocketAddr>)> {
    let mut server = admin::Admin::default();
    if let Some(path) = &config.admin_socket {
        server
            .listen_on_socket(path)
            .with_context(|| format!("--admin-socket {}: cannot listen here", path.display()))?;
    }
    let bind = |address| {
        // Where the pages can be asked for in another way, the address is worth no failed start.
        let bound = match config.admin_socket {
            Some(_) => server.listen_when_free(address),
            None => server.listen(address),
        };
        bound.with_context(|| format!("{}{}", busy("admin", address), who_has(address)))
    };
    let address = config.admin.map(bind).transpose()?;
    Ok((server, address))
}

/// As far as it can be known; empty where nobody has it.
fn who_has(address: SocketAddr) -> String {
    port_owner::of(address).map_or_else(String::new, |owner| format!(": {owner}"))
}

pub(super) fn busy(flag: &str, address: SocketAddr) -> String {
    format!(
        "--{flag} {address}: cannot listen here (another address can be given with --{flag} ADDRESS:PORT)"
    )
}
