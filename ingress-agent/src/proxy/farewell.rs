//! What a connection is told of the end of the process: that it drains, that it ends, and, when its grace is over, that it breaks off.

use std::pin::Pin;
use std::rc::Rc;
use std::task::Context;

use tokio::time::{Sleep, sleep};

use super::bell::{Ear, Stroke};
use super::wire::GateHandle;
use super::worker::Worker;

/// One connection's, polled before its server is.
pub(super) struct Farewell {
    worker: Rc<Worker>,
    ear: Ear,
    gate: GateHandle,
    grace: Option<Pin<Box<Sleep>>>,
}

impl Farewell {
    pub(super) fn new(worker: &Rc<Worker>, gate: &GateHandle) -> Self {
        Self {
            worker: Rc::clone(worker),
            ear: worker.bell.ear(),
            gate: gate.clone(),
            grace: None,
        }
    }

    pub(super) fn poll(&mut self, cx: &mut Context<'_>) {
        match self.ear.poll_rung(cx) {
            None => {}
            Some(Stroke::Drain) => self.gate.begin_drain(),
            Some(Stroke::End) => {
                self.gate.begin_end();
                self.grace = Some(Box::pin(sleep(self.worker.grace.get())));
            }
        }
        if let Some(grace) = &mut self.grace
            && grace.as_mut().poll(cx).is_ready()
        {
            self.grace = None;
            self.gate.break_off();
        }
    }
}
