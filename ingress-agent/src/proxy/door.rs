//! Which listening sockets are accepted from: two agents may hold the same ones, and only one of them should take from their queues.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::watch;

/// For the whole process.
#[derive(Debug)]
pub struct Doors {
    closed: watch::Sender<Arc<[SocketAddr]>>,
    /// Accept loops that stand at a closed door.
    waiting: AtomicUsize,
}

impl Default for Doors {
    fn default() -> Self {
        Self {
            closed: watch::Sender::new(Arc::default()),
            waiting: AtomicUsize::new(0),
        }
    }
}

impl Doors {
    /// Nothing is accepted at these addresses, and at all others again. What comes waits in the sockets' queues.
    pub fn close(&self, addresses: &[SocketAddr]) {
        self.closed.send_replace(addresses.into());
    }

    /// How many accept loops are ready to go on when their door opens.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    pub(super) fn is_closed(&self, address: SocketAddr) -> bool {
        self.closed.borrow().contains(&address)
    }

    pub(super) fn door(&self, address: SocketAddr) -> Door<'_> {
        Door {
            doors: self,
            closed: self.closed.subscribe(),
            address,
        }
    }
}

/// One listening socket's.
pub(super) struct Door<'a> {
    doors: &'a Doors,
    closed: watch::Receiver<Arc<[SocketAddr]>>,
    address: SocketAddr,
}

impl Door<'_> {
    pub(super) fn is_closed(&self) -> bool {
        self.closed.borrow().contains(&self.address)
    }

    /// Until it is open.
    pub(super) async fn open(&mut self) {
        if !self.is_closed() {
            return;
        }
        let _counted = Waiting::begin(&self.doors.waiting);
        let address = self.address;
        let _ = self.closed.wait_for(|closed| !closed.contains(&address)).await;
    }

    /// Until any door opens or closes.
    pub(super) async fn changed(&mut self) {
        if self.closed.changed().await.is_err() {
            std::future::pending().await
        }
    }
}

struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn begin(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
