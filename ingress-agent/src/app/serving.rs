//! How the served addresses become sockets: by steering where the kernel does it, by binding them otherwise.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use ingress_common::abi::WHOLE;

use super::inheritance::{Heirlooms, Inherited};
use crate::admin;
use crate::config::{Config, HookMode};
use crate::kernel::steering::{Steering, Wanted};
use crate::kernel::{Kernel, Off, port_owner};
use crate::proxy::listener::{self, BoundListener, Owner};
use crate::telemetry::record::Listener;

/// Sockets for every worker, and the addresses that clients use.
pub(super) struct Serving {
    pub(super) http: Vec<SocketAddr>,
    pub(super) https: Vec<SocketAddr>,
    pub(super) sockets: Vec<Vec<(Listener, TcpListener)>>,
    pub(super) kernel: Arc<Kernel>,
    /// What is bound and not steered: a newer agent can be given these.
    pub(super) heirlooms: Heirlooms,
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
    let (kernel, mut sockets) = match steer(config, &steerable)? {
        Ok((steering, sockets)) => (Kernel::prepared(steering), sockets),
        Err(why) => {
            bindable.splice(0..0, steerable.iter().copied());
            let sockets = (0..config.workers).map(|_| Vec::new()).collect();
            (Kernel::off(why), sockets)
        }
    };
    let mut serving = Serving {
        http: Vec::new(),
        https: Vec::new(),
        sockets: Vec::new(),
        heirlooms: Heirlooms::default(),
        kernel: Arc::new(kernel),
    };
    if serving.kernel.is_prepared() {
        for (listener, address) in steerable {
            serving.list(listener).push(address);
        }
    }
    for (kind, address) in bindable {
        let (address, bound) = if inherited.has(address) {
            serving.heirlooms.adopted(address);
            let sockets = inherited.take(address, config.workers);
            (address, sockets.context("an inherited socket cannot be used")?)
        } else {
            let bound = BoundListener::bind(kind, address, config.workers)
                .with_context(|| format!("{}{}", busy(kind.as_str(), address), who_has(address)))?;
            let one_each = bound.sockets.into_iter().map(|socket| vec![socket]);
            (bound.address, one_each.collect())
        };
        serving.list(kind).push(address);
        for socket in bound.iter().flatten() {
            let kept = serving.heirlooms.keep(address, socket);
            kept.context("a socket cannot be kept for the next agent")?;
        }
        for (worker, bound) in sockets.iter_mut().zip(bound) {
            worker.extend(bound.into_iter().map(|socket| (kind, socket)));
        }
    }
    serving.sockets = sockets;
    Ok(serving)
}

impl Serving {
    fn list(&mut self, listener: Listener) -> &mut Vec<SocketAddr> {
        match listener {
            Listener::Http => &mut self.http,
            Listener::Https => &mut self.https,
        }
    }
}

fn addresses(config: &Config) -> Vec<(Listener, SocketAddr)> {
    let has_ipv6 = listener::has_ipv6();
    let of = |kind: Listener, addresses: &[SocketAddr]| -> Vec<_> {
        let usable = |address: &SocketAddr| (kind, listener::usable(*address, has_ipv6));
        addresses.iter().map(usable).collect()
    };
    let mut all = of(Listener::Http, &config.http);
    all.extend(of(Listener::Https, &config.https));
    all
}

type Steered = (Steering, Vec<Vec<(Listener, TcpListener)>>);

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
        Ok(steered) => Ok(Ok(steered)),
        Err(trouble) if mode == HookMode::On => Err(trouble).context("--kernel-steering is on"),
        Err(trouble) => {
            tracing::info!("{trouble}");
            Ok(Err(Off::Trouble(trouble)))
        }
    }
}

/// Steering would take a port from whoever has it, without a word. So that happens only when it is asked for.
fn wanted(mode: HookMode, listener: Listener, address: SocketAddr) -> Result<Wanted> {
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
