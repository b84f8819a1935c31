//! One signal to all tasks of a worker, which costs those that wait for it next to nothing.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::task::{Context, Waker};

use foldhash::fast::RandomState;

/// Rings once, for good.
#[derive(Default)]
pub(crate) struct Bell {
    rung: Cell<bool>,
    listening: RefCell<HashMap<u64, Waker, RandomState>>,
    next: Cell<u64>,
}

impl Bell {
    pub(crate) fn ring(&self) {
        self.rung.set(true);
        let listening = std::mem::take(&mut *self.listening.borrow_mut());
        listening.into_values().for_each(Waker::wake);
    }

    pub(crate) fn ear(self: &Rc<Self>) -> Ear {
        Ear {
            bell: Rc::clone(self),
            id: None,
            heard: false,
        }
    }
}

/// One task's ear. It must stay with the task that polls it first.
pub(crate) struct Ear {
    bell: Rc<Bell>,
    id: Option<u64>,
    heard: bool,
}

impl Ear {
    /// True once: at the first poll after the bell has rung.
    pub(crate) fn poll_rung(&mut self, cx: &Context<'_>) -> bool {
        if self.bell.rung.get() {
            return !std::mem::replace(&mut self.heard, true);
        }
        if self.id.is_none() {
            let id = self.bell.next.get();
            self.bell.next.set(id.wrapping_add(1));
            self.bell.listening.borrow_mut().insert(id, cx.waker().clone());
            self.id = Some(id);
        }
        false
    }
}

impl Drop for Ear {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            self.bell.listening.borrow_mut().remove(&id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_ear_hears_the_bell_once_and_leaves_nothing_behind() {
        let bell = Rc::new(Bell::default());
        let (mut early, deaf) = (bell.ear(), bell.ear());
        let cx = Context::from_waker(Waker::noop());
        assert!(!early.poll_rung(&cx));
        bell.ring();
        assert!(early.poll_rung(&cx) && !early.poll_rung(&cx));
        assert!(bell.ear().poll_rung(&cx));
        drop((early, deaf));
        assert!(bell.listening.borrow().is_empty());
    }
}
