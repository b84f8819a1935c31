//! Memory that goes back when load goes away, and the bound on it. Knows the allocator's habits, and nothing of what is allocated.

pub(crate) mod pressure;

use std::hint::black_box;
use std::time::Duration;

/// mimalloc gives pages back a while after they were freed, but looks for such pages only when another one is freed. In a process that has
/// become quiet nobody frees one: so a block that needs a page of its own is taken, never touched, and given back.
pub(crate) fn give_back() {
    drop(black_box(Vec::<u8>::with_capacity(PAGE_OF_ITS_OWN)));
}

const PAGE_OF_ITS_OWN: usize = 1 << 20;

/// What a thread that has just freed much still has to do: twice, with a rest after each, as mimalloc first notes what is free and gives it
/// back a while later.
#[derive(Debug, Default)]
pub(crate) struct Owed {
    times: u8,
}

impl Owed {
    /// Work was done: something may have been freed.
    pub(crate) fn worked(&mut self) {
        self.times = TIMES;
    }

    /// How long to rest before the next [`Owed::pay`].
    pub(crate) fn due_in(&self) -> Option<Duration> {
        (self.times > 0).then_some(PAUSE)
    }

    /// After a rest: gives back.
    pub(crate) fn pay(&mut self) {
        if self.times > 0 {
            self.times -= 1;
            give_back();
        }
    }
}

const TIMES: u8 = 3;

/// For a thread that serves: once in a while, for ever.
pub(crate) async fn keep_giving_back() {
    loop {
        tokio::time::sleep(PAUSE).await;
        give_back();
    }
}

/// Longer than mimalloc's own pause.
const PAUSE: Duration = Duration::from_secs(2);
