//! Signals to all tasks of a worker, which cost those that wait for them next to nothing.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::task::{Context, Waker};
use std::time::Duration;

use foldhash::fast::RandomState;

/// What the bell says, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stroke {
    /// Nothing new is taken any more.
    Drain,
    /// What is open has to end.
    End,
}

/// Rings once for each stroke, for good: for all at once, or for one after the other.
#[derive(Default)]
pub(crate) struct Bell {
    rung: Cell<Option<Stroke>>,
    listening: RefCell<HashMap<u64, Listening, RandomState>>,
    /// Ears for which the next stroke has rung before all others; they have not looked yet.
    called: RefCell<HashSet<u64, RandomState>>,
    next: Cell<u64>,
}

struct Listening {
    /// What comes next is waited for.
    heard: Option<Stroke>,
    waker: Waker,
}

/// Ears are called in at most so many groups.
const GROUPS: u32 = 500;

impl Bell {
    pub(crate) fn ring(&self, stroke: Stroke) {
        self.rung.set(self.rung.get().max(Some(stroke)));
        self.called.borrow_mut().clear();
        // Those that were called before all others have heard it, and wait for the next one.
        let listening = std::mem::take(&mut *self.listening.borrow_mut());
        let (told, others): (Vec<_>, Vec<_>) = listening
            .into_iter()
            .partition(|(_, ear)| ear.heard < Some(stroke));
        *self.listening.borrow_mut() = HashMap::from_iter(others);
        told.into_iter().for_each(|(_, ear)| ear.waker.wake());
    }

    /// Rings for those that listen now, the longest-standing first, evenly over a time; at its end for everybody. The stroke before has rung.
    pub(crate) async fn ring_over(&self, stroke: Stroke, spread: Duration) {
        let mut ids: Vec<_> = self.listening.borrow().keys().copied().collect();
        if !spread.is_zero() && !ids.is_empty() {
            ids.sort_unstable();
            let groups = u32::try_from(ids.len()).unwrap_or(GROUPS).min(GROUPS);
            for group in ids.chunks(ids.len().div_ceil(groups as usize)) {
                group.iter().for_each(|id| self.call(*id));
                tokio::time::sleep(spread / groups).await;
            }
        }
        self.ring(stroke);
    }

    fn call(&self, id: u64) {
        let ear = self.listening.borrow_mut().remove(&id);
        if let Some(ear) = ear {
            self.called.borrow_mut().insert(id);
            ear.waker.wake();
        }
    }

    pub(crate) fn ear(self: &Rc<Self>) -> Ear {
        Ear {
            bell: Rc::clone(self),
            id: None,
            listens: false,
            heard: None,
        }
    }
}

/// One task's ear. It must stay with the task that polls it first.
pub(crate) struct Ear {
    bell: Rc<Bell>,
    id: Option<u64>,
    /// The bell has its waker; not any more once it has woken it.
    listens: bool,
    heard: Option<Stroke>,
}

impl Ear {
    /// Each stroke once: at the first poll after it has rung. The last one alone where it came before another was heard.
    pub(crate) fn poll_rung(&mut self, cx: &Context<'_>) -> Option<Stroke> {
        if self.heard == Some(Stroke::End) {
            return None;
        }
        let rung = match self.is_called() {
            true => Some(self.heard.map_or(Stroke::Drain, |_| Stroke::End)),
            false => self.bell.rung.get(),
        };
        let news = rung > self.heard;
        if news {
            self.heard = rung;
            self.listens = false;
        }
        if !self.listens && self.heard < Some(Stroke::End) {
            self.listen(cx);
        }
        rung.filter(|_| news)
    }

    fn listen(&mut self, cx: &Context<'_>) {
        let id = *self.id.get_or_insert_with(|| {
            let id = self.bell.next.get();
            self.bell.next.set(id.wrapping_add(1));
            id
        });
        let ear = Listening {
            heard: self.heard,
            waker: cx.waker().clone(),
        };
        self.bell.listening.borrow_mut().insert(id, ear);
        self.listens = true;
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
    fn each_ear_hears_each_stroke_once_and_leaves_nothing_behind() {
        let bell = Rc::new(Bell::default());
        let (mut early, deaf) = (bell.ear(), bell.ear());
        let cx = Context::from_waker(Waker::noop());
        assert_eq!(early.poll_rung(&cx), None);
        bell.ring(Stroke::Drain);
        assert_eq!(early.poll_rung(&cx), Some(Stroke::Drain));
        assert_eq!(early.poll_rung(&cx), None);
        assert_eq!(bell.ear().poll_rung(&cx), Some(Stroke::Drain));
        bell.ring(Stroke::End);
        assert_eq!(early.poll_rung(&cx), Some(Stroke::End));
        assert_eq!(early.poll_rung(&cx), None);
        assert_eq!(
            bell.ear().poll_rung(&cx),
            Some(Stroke::End),
            "who comes late hears the last"
        );
        drop((early, deaf));
        assert!(bell.listening.borrow().is_empty());
    }

    #[test]
    fn a_bell_that_rings_over_a_time_calls_one_ear_after_the_other_and_then_all() {
        let bell = Rc::new(Bell::default());
        let mut ears: Vec<_> = (0..10).map(|_| bell.ear()).collect();
        let cx = Context::from_waker(Waker::noop());
        let heard = |ears: &mut Vec<Ear>, stroke| {
            let looked = ears.iter_mut().map(|ear| ear.poll_rung(&cx));
            looked.filter(|rung| *rung == Some(stroke)).count()
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        for stroke in [Stroke::Drain, Stroke::End] {
            assert_eq!(heard(&mut ears, stroke), 0);
            runtime.block_on(async {
                let ringing = bell.ring_over(stroke, Duration::from_secs(60));
                let looking = async {
                    for second in 0..60 {
                        tokio::time::sleep(Duration::from_millis(999)).await;
                        assert_eq!(
                            heard(&mut ears, stroke),
                            usize::from(second % 6 == 0),
                            "second {second}"
                        );
                        tokio::time::sleep(Duration::from_millis(1)).await;
                    }
                };
                tokio::join!(ringing, looking);
            });
            assert_eq!(bell.ear().poll_rung(&cx), Some(stroke), "whoever came meanwhile");
        }
        drop(ears);
        assert!(bell.listening.borrow().is_empty() && bell.called.borrow().is_empty());
    }
}
