//! What the client has said of itself in its SETTINGS and by GOAWAY (RFC 9113, 6.5 and 6.8).

/// What the client has said of itself.
pub(super) struct Peer {
    pub(super) initial_window: i64,
    /// The largest payload that it is sent.
    pub(super) frame_bytes: usize,
    pub(super) table: Table,
    /// It has sent a GOAWAY.
    pub(super) leaves: bool,
}

/// What the client believes of the dynamic table that it keeps for us and that we never use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Table {
    /// As large as it is to begin with.
    Untold,
    /// The client made it smaller; the next header block has to say so before anything else (RFC 9113, 4.3.1).
    ToBeEmptied,
    /// Nothing is smaller.
    Empty,
}

impl Default for Peer {
    fn default() -> Self {
        Self {
            initial_window: 65_535,
            frame_bytes: 16 * 1024,
            table: Table::Untold,
            leaves: false,
        }
    }
}
