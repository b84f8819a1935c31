//! From settings to early rejection: what is to be judged, and what becomes of it when the kernel can't.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use ingress_common::abi::WHOLE;
use ingress_common::bucket::Rate;
use ingress_core::datapath::{Ground, Listener, SourceLists};
use ipnet::IpNet;

use crate::config::{Config, HookMode, ListenerChoice, ProxyProtocol, Reject, SourceRule};
use crate::kernel::reject::{Names, Rejection, Wanted, clear_pins, local_addresses};

/// Programs and tables of early rejection, attached nowhere yet; or why not.
///
/// # Errors
/// When it has to be and can't.
pub(super) fn prepare(
    config: &Config,
    http: &[SocketAddr],
    https: &[SocketAddr],
) -> Result<Result<Arc<Rejection>, String>> {
    let reject = &config.kernel.reject;
    if reject.mode == HookMode::Off {
        clear_pins(&reject.bpffs);
        return Ok(Err("switched off by --kernel or --kernel-rejection".to_owned()));
    }
    check(reject, http, https)?;
    match Rejection::prepare(wanted(config, http, https)) {
        Ok(rejection) => Ok(Ok(Arc::new(rejection))),
        Err(trouble) if reject.mode == HookMode::On => Err(trouble).context("--kernel-rejection is on"),
        Err(trouble) => {
            tracing::info!("{trouble}");
            Ok(Err(trouble.to_string()))
        }
    }
}

/// Follows interfaces and addresses from here on.
///
/// # Errors
/// When it has to be at work on the interfaces that are named, and is not on one of them.
pub(super) fn follow(config: &Config, rejection: &Rejection) -> Result<()> {
    let reject = &config.kernel.reject;
    if reject.mode == HookMode::On && !reject.interfaces.is_empty() {
        let view = rejection.view();
        let idle = view.interfaces.iter().find(|at| at.by == "nothing");
        if let Some(at) = idle {
            bail!("--kernel-rejection is on: {}: {}", at.interface, at.why);
        }
        if view.interfaces.len() < reject.interfaces.len() {
            bail!("--kernel-rejection is on: --kernel-interfaces: {}", view.reason);
        }
    }
    rejection.follow().context("early rejection cannot be followed")
}

/// The networks of some rules.
fn networks(rules: &[SourceRule], which: impl Fn(&Option<ListenerChoice>) -> bool) -> Vec<IpNet> {
    let chosen = rules.iter().filter(|rule| which(&rule.listener));
    chosen.map(|rule| rule.network).collect()
}

/// What is said of one listener alone.
fn of_listener(reject: &Reject, address: SocketAddr, tls: bool) -> SourceLists {
    let is_this = |choice: &Option<ListenerChoice>| match choice {
        None => false,
        Some(ListenerChoice::Http) => !tls,
        Some(ListenerChoice::Https) => tls,
        // `:80` may have become `0.0.0.0:80`, where there is no IPv6.
        Some(ListenerChoice::At(at)) => {
            let both_any = at.ip().is_unspecified() && address.ip().is_unspecified();
            at.port() == address.port() && (both_any || at.ip().to_canonical() == address.ip().to_canonical())
        }
    };
    SourceLists {
        allow: networks(&reject.allow, is_this),
        deny: networks(&reject.deny, is_this),
        trusted: Vec::new(),
    }
}

/// Each listener that a rule names has to be one.
fn check(reject: &Reject, http: &[SocketAddr], https: &[SocketAddr]) -> Result<()> {
    for (flag, rules) in [("--kernel-deny", &reject.deny), ("--kernel-allow", &reject.allow)] {
        for rule in rules.iter().filter(|rule| rule.listener.is_some()) {
            let only = Reject {
                deny: vec![rule.clone()],
                allow: Vec::new(),
                ..reject.clone()
            };
            let plain = http.iter().map(|address| (address, false));
            let mut all = plain.chain(https.iter().map(|address| (address, true)));
            if !all.any(|(address, tls)| !of_listener(&only, *address, tls).deny.is_empty()) {
                bail!("{flag}: {:?} names none of the listeners", rule.listener);
            }
        }
    }
    Ok(())
}

/// What is judged, and how.
pub(super) fn listeners(config: &Config, http: &[SocketAddr], https: &[SocketAddr]) -> Vec<Listener> {
    let proxy_protocol = config.proxy_protocol == ProxyProtocol::On;
    let listener = |address: &SocketAddr, tls| Listener {
        address: *address,
        tls,
        proxy_protocol,
        sources: of_listener(&config.kernel.reject, *address, tls),
    };
    let plain = http.iter().map(|address| listener(address, false));
    let encrypted = https.iter().map(|address| listener(address, true));
    plain.chain(encrypted).collect()
}

fn wanted(config: &Config, http: &[SocketAddr], https: &[SocketAddr]) -> Wanted {
    let reject = &config.kernel.reject;
    Wanted {
        interfaces: reject.interfaces.clone(),
        tc: reject.tc,
        xdp: reject.xdp,
        bpffs: reject.bpffs.clone(),
        names: match reject.names {
            HookMode::Off => Names::Off,
            HookMode::On => Names::On,
            HookMode::Auto => Names::Auto {
                above: reject.names_above,
            },
        },
        answer: reject.answer,
        bans: config.bans.limits().is_on(),
        shared: config.kernel.takeover.parts_of(WHOLE) < WHOLE,
        by_source: Rate::new(reject.by_source, reject.by_source),
        in_total: Rate::new(reject.in_total, reject.in_total),
        ground: Ground {
            listeners: listeners(config, http, https),
            local: local_addresses(),
            // Who names the loopback interface wants its traffic judged.
            loopback: reject.interfaces.iter().any(|interface| interface == "lo"),
            also_known: Vec::new(),
            sources: SourceLists {
                allow: networks(&reject.allow, Option::is_none),
                deny: networks(&reject.deny, Option::is_none),
                trusted: config.trusted_proxies.clone(),
            },
            ingress: reject.closed.clone(),
        },
    }
}
