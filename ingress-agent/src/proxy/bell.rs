//! One signal to all tasks of a worker, which costs those that wait for it next to nothing.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::task::{Context, Waker};
use std::time::Duration;

use foldhash::fast::RandomState;

/// Rings once, for good: for all at once, or for one after the other.
#[derive(Default)]
pub(crate) struct Bell {
    rung: Cell<bool>,
    listening: RefCell<HashMap<u64, Waker, RandomState>>,
    /// Ears for which it has rung before all others; they have not looked yet.
    called: RefCell<HashSet<u64, RandomState>>,
    next: Cell<u64>,
}

/// Ears are called in at most so many groups.
const GROUPS: u32 = 500;

impl Bell {
    pub(crate) fn ring(&self) {
        self.rung.set(true);
        let listening = std::mem::take(&mut *self.listening.borrow_mut());
        listening.into_values().for_each(Waker::wake);
    }

    /// Rings for those that listen now, the longest-standing first, evenly over a time; at its end for everybody.
    pub(crate) async fn ring_over(&self, spread: Duration) {
        let mut ids: Vec<_> = self.listening.borrow().keys().copied().collect();
        if !spread.is_zero() && !ids.is_empty() {
            ids.sort_unstable();
            let groups = u32::try_from(ids.len()).unwrap_or(GROUPS).min(GROUPS);
            for group in ids.chunks(ids.len().div_ceil(groups as usize)) {
                group.iter().for_each(|id| self.call(*id));
                tokio::time::sleep(spread / groups).await;
            }
        }
        self.ring();
    }

    fn call(&self, id: u64) {
        if let Some(waker) = self.listening.borrow_mut().remove(&id) {
            self.called.borrow_mut().insert(id);
            waker.wake();
        }
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
        if self.heard {
            return false;
        }
        if self.bell.rung.get() || self.is_called() {
            self.heard = true;
            return true;
        }
        if self.id.is_none() {
            let id = self.bell.next.get();
            self.bell.next.set(id.wrapping_add(1));
            self.bell.listening.borrow_mut().insert(id, cx.waker().clone());
            self.id = Some(id);
        }
        false
    }

    fn is_called(&self) -> bool {
        let mut called = self.bell.called.borrow_mut();
        // Nearly always empty, which costs less to see than to look into.
        !called.is_empty() && self.id.is_some_and(|id| called.remove(&id))
    }
}

impl Drop for Ear {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            self.bell.listening.borrow_mut().remove(&id);
            self.bell.called.borrow_mut().remove(&id);
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

    #[test]
    fn a_bell_that_rings_over_a_time_calls_one_ear_after_the_other_and_then_all() {
        let bell = Rc::new(Bell::default());
        let mut ears: Vec<_> = (0..10).map(|_| bell.ear()).collect();
        let cx = Context::from_waker(Waker::noop());
        let heard = |ears: &mut Vec<Ear>| {
            let looked = ears.iter_mut().map(|ear| ear.poll_rung(&cx));
            looked.filter(|rung| *rung).count()
        };
        heard(&mut ears);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(async {
            let ringing = bell.ring_over(Duration::from_secs(60));
            let looking = async {
                for second in 0..60 {
                    tokio::time::sleep(Duration::from_millis(999)).await;
                    assert_eq!(heard(&mut ears), usize::from(second % 6 == 0), "second {second}");
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            };
            tokio::join!(ringing, looking);
        });
        assert!(bell.ear().poll_rung(&cx), "whoever came meanwhile");
        drop(ears);
        assert!(bell.listening.borrow().is_empty() && bell.called.borrow().is_empty());
    }
}
