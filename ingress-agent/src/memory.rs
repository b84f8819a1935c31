//! Memory that goes back when load goes away. Knows the allocator's habits, and nothing of what is allocated.

use std::hint::black_box;
use std::time::Duration;

/// mimalloc gives pages back a while after they were freed, but looks for such pages only when another one is freed. In a process that has
/// become quiet nobody frees one: so a block that needs a page of its own is taken, never touched, and given back.
pub(crate) fn give_back() {
    drop(black_box(Vec::<u8>::with_capacity(PAGE_OF_ITS_OWN)));
}

const PAGE_OF_ITS_OWN: usize = 1 << 20;

/// For a thread that serves: once in a while, for ever.
pub(crate) async fn keep_giving_back() {
    loop {
        tokio::time::sleep(PAUSE).await;
        give_back();
    }
}

/// Longer than mimalloc's own pause.
const PAUSE: Duration = Duration::from_secs(2);
