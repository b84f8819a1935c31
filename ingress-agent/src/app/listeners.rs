//! Listeners at run time: the file is read again on SIGHUP and when it has changed; addresses come and go without touching a connection.

use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::Sender;

use anyhow::anyhow;
use arc_swap::ArcSwap;

use super::inheritance::Heirlooms;
use super::serving::{self, Listening};
use super::{list, redirect_port, rejection};
use crate::admin::AdminState;
use crate::config::{Config, HookMode};
use crate::kernel::steering::Sockets;
use crate::kernel::{Kernel, Trouble};
use crate::listener::Listener;
use crate::proxy::worker::Shared;
use crate::publish::Event;

/// What an agent that comes after this one has to serve too.
#[derive(Clone, Debug)]
pub(super) struct Served {
    pub(super) addresses: Vec<SocketAddr>,
}

impl Served {
    pub(super) fn of(listening: &[Listening]) -> Self {
        let of = |kind| serving::of(listening, kind);
        Self {
            addresses: [of(Listener::Http), of(Listener::Https)].concat(),
        }
    }
}

/// All that has to know which addresses are served.
pub(super) struct Listeners {
    pub(super) kernel: Arc<Kernel>,
    pub(super) state: Arc<AdminState>,
    pub(super) shared: Arc<Shared>,
    pub(super) served: Arc<ArcSwap<Served>>,
    pub(super) heirlooms: Arc<Heirlooms>,
    pub(super) publisher: Sender<Event>,
    pub(super) admin: Option<SocketAddr>,
    pub(super) listening: Vec<Listening>,
    pub(super) file: Stamps,
}

/// The file as it was at two moments: one that is being written is not read.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Stamps {
    read: Option<Stamp>,
    last: Option<Stamp>,
}

/// Inode, size, and when it was written.
type Stamp = (u64, u64, i64, i64);

fn stamp(config: &Config) -> Option<Stamp> {
    let file = std::fs::metadata(config.typed.file()?).ok()?;
    Some((file.ino(), file.size(), file.mtime(), file.mtime_nsec()))
}

impl Stamps {
    /// As it is now, which is what was read.
    pub(super) fn now(config: &Config) -> Self {
        let now = stamp(config);
        Self { read: now, last: now }
    }

    /// Whether it has changed, and not since the look before.
    fn has_changed(&mut self, now: Option<Stamp>) -> bool {
        let stands = now == std::mem::replace(&mut self.last, now);
        // A file that is not there, or can't be seen, says nothing.
        let changed = stands && now.is_some() && now != self.read;
        if changed {
            self.read = now;
        }
        changed
    }
}

impl Listeners {
    /// Reads the file again if it has changed.
    pub(super) fn look(&mut self) {
        if self.file.has_changed(stamp(&self.shared.config)) {
            self.reload();
        }
    }

    /// Reads the file again, and puts in force what can be without a restart. What is wrong changes nothing.
    pub(super) fn reload(&mut self) {
        let typed = &self.shared.config.typed;
        let Some(file) = typed.file() else {
            return tracing::warn!("there is no file of settings to read again (--config)");
        };
        let file = file.display();
        let newer = match typed.again() {
            Ok(newer) => newer,
            Err(error) => {
                return tracing::error!("the settings stay as they are: {error}");
            }
        };
        let in_vain = typed.in_vain(&newer.typed);
        if !in_vain.is_empty() {
            tracing::warn!(
                %file,
                "a change of {} has no effect: a flag or the environment overrides the file",
                in_vain.join(", ")
            );
        }
        let restart = typed.needs_restart(&newer.typed);
        if !restart.is_empty() {
            tracing::warn!(%file, "a change of {} needs a restart", restart.join(", "));
        }
        if self.shared.drain.is_ordered() {
            return tracing::warn!(%file, "this agent drains: its listeners stay as they are");
        }
        self.change(&newer);
    }

    fn change(&mut self, newer: &Config) {
        let wanted = serving::addresses(newer);
        let place = |one: &Listening| {
            wanted
                .iter()
                .position(|other| *other == (one.listener, one.asked))
        };
        let (mut next, gone): (Vec<_>, Vec<_>) = self
            .listening
            .iter()
            .copied()
            .partition(|one| place(one).is_some());
        let is_there = |(kind, asked): &&(Listener, SocketAddr)| {
            next.iter()
                .any(|one| (one.listener, one.asked) == (*kind, *asked))
        };
        let added: Vec<_> = wanted.iter().filter(|one| !is_there(one)).copied().collect();
        if added.is_empty() && gone.is_empty() {
            return tracing::info!("the settings were read again: the listeners are the same");
        }
        let (new, sockets) = self.make(&added);
        if next.is_empty() && new.is_empty() {
            return tracing::error!("nothing could be served: the listeners stay as they are");
        }
        next.extend(new);
        next.sort_by_key(place);
        // What comes is judged before it is served, and what goes until it is not any more.
        self.judge(&[&next[..], &gone].concat());
        self.give(sockets);
        let mut kept = gone;
        if let Err(trouble) = self.steer(&next) {
            let why = trouble.map_or_else(|| "steering is off".to_owned(), |trouble| trouble.to_string());
            tracing::error!("steered addresses stay as they are: {why}");
            let before = self.listening.iter().filter(|one| one.wanted().is_some());
            next.retain(|one| one.wanted().is_none());
            next.extend(before);
            kept.retain(|one| one.wanted().is_none());
        }
        for one in kept.iter().filter(|one| one.wanted().is_none()) {
            self.heirlooms.forget(one.address);
            self.shared.roster.close(one.listener, one.address);
        }
        self.listening = next;
        self.tell();
    }

    /// New listeners, as far as there can be any, with the sockets of those that are bound.
    fn make(&self, added: &[(Listener, SocketAddr)]) -> (Vec<Listening>, Sockets) {
        let config = &self.shared.config;
        let mode = config.kernel.steering;
        let mut sockets: Sockets = (0..config.workers).map(|_| Vec::new()).collect();
        let mut new = Vec::new();
        for (listener, address) in added.iter().copied() {
            let is_steered = mode != HookMode::Off && address.port() != 0 && self.kernel.is_steering();
            let made = if is_steered {
                serving::wanted(mode, listener, address).map(|wanted| serving::steered(&wanted))
            } else if self.bound() + new.len() >= serving::MOST_BOUND {
                Err(anyhow!(
                    "--{} {address}: {} addresses are bound already, and no more are",
                    listener.as_str(),
                    serving::MOST_BOUND
                ))
            } else {
                serving::bind_one(listener, address, config.workers).map(|(listening, bound)| {
                    if let Err(error) = bound
                        .iter()
                        .try_for_each(|socket| self.heirlooms.keep(listening.address, socket))
                    {
                        // All of its sockets or none: what waits in one that was left out would be lost.
                        self.heirlooms.forget(listening.address);
                        tracing::error!(%error, %address, "an agent that comes after this one cannot be given this listener");
                    }
                    for (worker, socket) in sockets.iter_mut().zip(bound) {
                        worker.push((listener, socket));
                    }
                    listening
                })
            };
            match made {
                Ok(listening) => new.push(listening),
                Err(error) => tracing::error!("{error:#}; the other listeners go on"),
            }
        }
        (new, sockets)
    }

    fn bound(&self) -> usize {
        let bound = self.listening.iter().filter(|one| one.wanted().is_none());
        bound.count()
    }

    /// To the workers.
    fn give(&self, sockets: Sockets) {
        for (listener, socket) in sockets.iter().flatten() {
            self.shared.accounts.listens(*listener, socket);
        }
        if let Err(error) = self.shared.roster.open(sockets) {
            tracing::error!(%error, "a new listening socket is lost");
        }
    }

    fn steer(&self, next: &[Listening]) -> Result<(), Option<Trouble>> {
        let wanted_of =
            |listening: &[Listening]| -> Vec<_> { listening.iter().filter_map(Listening::wanted).collect() };
        let wanted = wanted_of(next);
        if wanted == wanted_of(&self.listening) {
            return Ok(());
        }
        self.give(self.kernel.make_room(&wanted)?);
        self.kernel.serve(&wanted)
    }

    fn judge(&self, listening: &[Listening]) {
        let of = |kind| serving::of(listening, kind);
        let config = &self.shared.config;
        let listeners = rejection::listeners(config, &of(Listener::Http), &of(Listener::Https));
        self.kernel.set_listeners(listeners);
    }

    /// Everybody who has to know.
    fn tell(&self) {
        let of = |kind| serving::of(&self.listening, kind);
        let (http, https) = (of(Listener::Http), of(Listener::Https));
        self.judge(&self.listening);
        let port = redirect_port(&self.shared.config, &https);
        self.shared.https_port.store(port, Ordering::Relaxed);
        self.served.store(Arc::new(Served::of(&self.listening)));
        let everywhere = http.iter().chain(&https).chain(&self.admin).copied();
        // Where it is gone, the agent is about to end.
        let _ = self.publisher.send(Event::Listeners(everywhere.collect()));
        let (plain, encrypted) = (list(&http), list(&https));
        self.state.set_addresses(http, https);
        tracing::info!(http = plain, https = encrypted, "serving");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_again_once_it_has_changed_and_stands_still() {
        let at = |time| Some((1, 10, time, 0));
        let mut file = Stamps {
            read: at(1),
            last: at(1),
        };
        assert!(!file.has_changed(at(1)));
        assert!(!file.has_changed(at(2)), "it may still be written");
        assert!(!file.has_changed(at(3)));
        assert!(file.has_changed(at(3)));
        assert!(!file.has_changed(at(3)), "once");
        assert!(!file.has_changed(None), "gone");
        assert!(!file.has_changed(None));
        assert!(!file.has_changed(at(4)));
        assert!(file.has_changed(at(4)));
    }
}
