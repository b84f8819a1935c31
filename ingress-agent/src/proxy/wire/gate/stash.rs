//! Bytes that were read and may not pass yet. Empty, and without memory, on an idle connection.

use tokio::io::ReadBuf;

#[derive(Default)]
pub(super) struct Stash {
    bytes: Vec<u8>,
    /// What was handed on already.
    at: usize,
    /// How much of the rest may pass.
    released: usize,
}

impl Stash {
    pub(super) fn new(bytes: Vec<u8>) -> Self {
        Self {
            bytes,
            at: 0,
            released: 0,
        }
    }

    /// What awaits a verdict.
    pub(super) fn held(&self) -> &[u8] {
        self.bytes
            .get(self.at.saturating_add(self.released)..)
            .unwrap_or_default()
    }

    pub(super) fn release_all(&mut self) {
        self.released = self.bytes.len().saturating_sub(self.at);
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Hands on what may pass. False when there is nothing.
    pub(super) fn deliver(&mut self, buf: &mut ReadBuf<'_>) -> bool {
        let length = self.released.min(buf.remaining());
        if length == 0 {
            return false;
        }
        let end = self.at.saturating_add(length);
        buf.put_slice(self.bytes.get(self.at..end).unwrap_or_default());
        self.at = end;
        self.released = self.released.saturating_sub(length);
        if self.at == self.bytes.len() {
            self.clear();
        }
        true
    }
}
