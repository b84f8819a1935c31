//! From settings to early rejection: what is to be judged, and what becomes of it when the kernel can't.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use ingress_common::bucket::Rate;
use ingress_core::datapath::{Ground, Listener, SourceLists};

use crate::config::{Config, HookMode, ProxyProtocol};
use crate::kernel::reject::{Names, Rejection, Wanted, local_addresses};

/// Judges packets from here on, or says why not.
///
/// # Errors
/// When it has to be and can't.
pub(super) fn start(
    config: &Config,
    http: &[SocketAddr],
    https: &[SocketAddr],
) -> Result<Result<Arc<Rejection>, String>> {
    let reject = &config.kernel.reject;
    if reject.mode == HookMode::Off {
        return Ok(Err("switched off by --kernel".to_owned()));
    }
    if reject.interfaces.is_empty() {
        return Ok(Err("no interface is named by --kernel-interfaces".to_owned()));
    }
    match Rejection::start(wanted(config, http, https)) {
        Ok(rejection) => {
            tracing::info!(
                interfaces = reject.interfaces.join(", "),
                "kernel: packets are judged"
            );
            Ok(Ok(Arc::new(rejection)))
        }
        Err(trouble) if reject.mode == HookMode::On => Err(trouble).context("--kernel is on"),
        Err(trouble) => {
            tracing::warn!("{trouble}");
            Ok(Err(trouble.to_string()))
        }
    }
}

fn wanted(config: &Config, http: &[SocketAddr], https: &[SocketAddr]) -> Wanted {
    let reject = &config.kernel.reject;
    let proxy_protocol = config.proxy_protocol == ProxyProtocol::On;
    let listener = |address: &SocketAddr, tls| Listener {
        address: *address,
        tls,
        proxy_protocol,
        sources: SourceLists::default(),
    };
    let plain = http.iter().map(|address| listener(address, false));
    let encrypted = https.iter().map(|address| listener(address, true));
    Wanted {
        interfaces: reject.interfaces.clone(),
        xdp: reject.xdp,
        names: match reject.names {
            HookMode::Off => Names::Off,
            HookMode::On => Names::On,
            HookMode::Auto => Names::Auto {
                above: reject.names_above,
            },
        },
        answer: reject.answer,
        by_source: Rate::new(reject.by_source, reject.by_source),
        in_total: Rate::new(reject.in_total, reject.in_total),
        ground: Ground {
            listeners: plain.chain(encrypted).collect(),
            local: local_addresses(),
            // Who names the loopback interface wants its traffic judged.
            loopback: reject.interfaces.iter().any(|interface| interface == "lo"),
            also_known: Vec::new(),
            sources: SourceLists {
                allow: reject.allow.clone(),
                deny: reject.deny.clone(),
                trusted: config.trusted_proxies.clone(),
            },
            ingress: reject.closed.clone(),
        },
    }
}
