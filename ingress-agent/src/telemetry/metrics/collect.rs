//! Asking the workers for their numbers: a message to each, an answer within a second or its name on the list of the stalled.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::shard::{Shard, ShardSnapshot, UpstreamPool};

/// A worker that has not answered by then is stalled; the scrape goes on without it.
pub const PATIENCE: Duration = Duration::from_secs(1);

/// The asking side, kept by the admin thread. One for each worker, in the workers' order.
#[derive(Clone, Debug)]
pub struct Mailbox(Arc<ArcSwap<mpsc::Sender<Collect>>>);

/// The worker's side.
#[derive(Debug)]
pub struct Inbox(mpsc::Receiver<Collect>);

#[derive(Debug)]
struct Collect(oneshot::Sender<ShardSnapshot>);

/// Both sides of one worker's mailbox.
pub fn mailbox() -> (Mailbox, Inbox) {
    let (sender, receiver) = mpsc::channel(DEPTH);
    (Mailbox(Arc::new(ArcSwap::from_pointee(sender))), Inbox(receiver))
}

/// Questions that may wait at a worker.
const DEPTH: usize = 4;

impl Mailbox {
    /// The worker's side of one that was started again.
    pub fn renew(&self) -> Inbox {
        let (sender, receiver) = mpsc::channel(DEPTH);
        self.0.store(Arc::new(sender));
        Inbox(receiver)
    }
}

impl Inbox {
    /// Answers until the admin side is gone; the worker spawns this on its own thread. `pool` tells the pool's own numbers.
    pub async fn serve(mut self, shard: Rc<Shard>, pool: impl Fn() -> UpstreamPool) {
        while let Some(Collect(reply)) = self.0.recv().await {
            let snapshot = ShardSnapshot {
                upstream_pool: pool(),
                ..shard.snapshot()
            };
            // Nobody waits any more: the scrape timed out.
            let _ = reply.send(snapshot);
        }
    }
}

/// What the workers answered.
#[derive(Debug, Default)]
pub struct Collected {
    pub total: ShardSnapshot,
    /// By worker, whether it answered in time.
    pub answered: Vec<bool>,
}

impl Collected {
    pub fn stalled(&self) -> impl Iterator<Item = usize> {
        self.answered
            .iter()
            .enumerate()
            .filter(|(_, answered)| !**answered)
            .map(|(index, _)| index)
    }
}

/// Asks all workers at once and waits [`PATIENCE`] for all together.
pub async fn collect(mailboxes: &[Mailbox]) -> Collected {
    let deadline = Instant::now() + PATIENCE;
    let asked: Vec<_> = mailboxes.iter().map(ask).collect();
    let mut collected = Collected::default();
    for answer in asked {
        let snapshot = match answer {
            Some(answer) => tokio::time::timeout_at(deadline, answer)
                .await
                .ok()
                .and_then(Result::ok),
            None => None,
        };
        collected.answered.push(snapshot.is_some());
        if let Some(snapshot) = snapshot {
            collected.total.add(snapshot);
        }
    }
    collected
}

/// `None` when the mailbox is full (the worker takes nothing out) or closed.
fn ask(mailbox: &Mailbox) -> Option<oneshot::Receiver<ShardSnapshot>> {
    let (reply, answer) = oneshot::channel();
    mailbox.0.load().try_send(Collect(reply)).ok().map(|()| answer)
}
