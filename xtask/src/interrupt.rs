//! Ctrl-C and SIGTERM as a value to wait for, so that a task can put things away before it ends.

use std::process::{Child, ExitStatus};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};

/// From its creation on, neither signal ends this process by itself.
pub(crate) struct Interrupt {
    arrived: Receiver<()>,
}

/// Why a wait ended.
pub(crate) enum Ended {
    Exited(ExitStatus),
    Interrupted,
}

impl Interrupt {
    pub(crate) fn catch() -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let mut signals = {
            let _context = runtime.enter();
            [
                signal(SignalKind::interrupt())?,
                signal(SignalKind::terminate())?,
                signal(SignalKind::hangup())?,
            ]
        };
        let (tell, arrived) = channel();
        std::thread::Builder::new()
            .name("signals".into())
            .spawn(move || {
                runtime.block_on(async {
                    let [a, b, c] = &mut signals;
                    loop {
                        tokio::select! { _ = a.recv() => {}, _ = b.recv() => {}, _ = c.recv() => {} }
                        if tell.send(()).is_err() {
                            return;
                        }
                    }
                });
            })
            .context("start the signal thread")?;
        Ok(Self { arrived })
    }

    /// Whether one arrives within this time.
    pub(crate) fn within(&self, time: Duration) -> bool {
        !matches!(self.arrived.recv_timeout(time), Err(RecvTimeoutError::Timeout))
    }

    pub(crate) fn or_exit_of(&self, child: &mut Child) -> anyhow::Result<Ended> {
        loop {
            if let Some(status) = child.try_wait()? {
                return Ok(Ended::Exited(status));
            }
            // std cannot wait for a child and a channel at once.
            if self.within(Duration::from_millis(50)) {
                return Ok(Ended::Interrupted);
            }
        }
    }
}
