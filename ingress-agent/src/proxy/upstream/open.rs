//! The count of all connections to backends that are open, tunnels included.

use std::cell::Cell;
use std::rc::Rc;

/// Counts a connection for as long as it is open.
pub(super) struct OpenGuard(Rc<Cell<usize>>);

impl OpenGuard {
    pub(super) fn new(open: Rc<Cell<usize>>) -> Self {
        open.set(open.get() + 1);
        Self(open)
    }
}

impl Drop for OpenGuard {
    fn drop(&mut self) {
        self.0.set(self.0.get().saturating_sub(1));
    }
}
