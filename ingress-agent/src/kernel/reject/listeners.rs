//! Addresses that come and go while packets are judged.

use ingress_core::datapath::Listener;

use super::{Rejection, lock, settings};

impl Rejection {
    /// Other addresses are served from now on.
    pub(in crate::kernel) fn set_listeners(&self, listeners: Vec<Listener>) {
        let mut state = lock(&self.state);
        state.wanted.ground.listeners = listeners;
        state.settings.sources = settings(&state.wanted).sources;
        let settings = state.settings;
        let written = state.tables.set(&settings);
        state.check(written);
        state.again();
        state.look();
    }
}
