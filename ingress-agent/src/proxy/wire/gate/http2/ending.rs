//! How far a connection is on its way to its end.

/// How far the farewell is (RFC 9113, 6.8): first a GOAWAY that refuses nothing and a PING; when that has come back, the last word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leaving {
    No,
    Said,
    Final,
}

/// The steps to the end of the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// What is queued, GOAWAY last.
    Words,
    Shutdown,
    Linger,
    Ended,
}
