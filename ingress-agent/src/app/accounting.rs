//! From settings to accounting by connection: in the kernel where it can be, else by samples alone.

use std::net::TcpListener;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use anyhow::{Context as _, Result};

use crate::account::{Accounts, listener_tag};
use crate::config::{Config, HookMode};
use crate::kernel::Kernel;
use crate::kernel::account::Accounting;
use crate::kernel::account::queues::Queues;
use crate::listener::Listener;

/// Before the first connection is accepted: what these sockets accept counts from its first packet on.
///
/// # Errors
/// When it has to be in the kernel and can't.
pub(super) fn prepare(
    config: &Config,
    kernel: &Kernel,
    sockets: &[Vec<(Listener, TcpListener)>],
) -> Result<Arc<Accounts>> {
    let accounting = in_kernel(config)?;
    if let Ok(accounting) = &accounting {
        for (listener, socket) in sockets.iter().flatten() {
            accounting.tag(socket.as_raw_fd(), &listener_tag(*listener));
        }
    }
    kernel.set_accounting(accounting.clone());
    let sockets = sockets.iter().flatten();
    let queues = Arc::new(Queues::new(
        sockets.map(|(listener, socket)| (listener.as_str(), socket)),
    ));
    kernel.set_queues(Arc::clone(&queues));
    Ok(Accounts::new(accounting.ok(), Some(queues)))
}

fn in_kernel(config: &Config) -> Result<Result<Arc<Accounting>, String>> {
    let mode = config.kernel.accounting;
    if mode == HookMode::Off {
        return Ok(Err("switched off by --kernel or --kernel-accounting".to_owned()));
    }
    match Accounting::start() {
        Ok(accounting) => Ok(Ok(Arc::new(accounting))),
        Err(trouble) if mode == HookMode::On => Err(trouble).context("--kernel-accounting is on"),
        Err(trouble) => {
            tracing::info!("{trouble}");
            Ok(Err(trouble.to_string()))
        }
    }
}
