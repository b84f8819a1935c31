//! Which kind of listener a connection came to. Knows nothing of sockets: accounting, steering, metrics and the data plane all name it.

/// Connections that the kernel keeps for each listening socket until they are accepted.
pub(crate) const BACKLOG: i32 = 4096;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listener {
    Http,
    Https,
}

impl Listener {
    pub const ALL: [Self; 2] = [Self::Http, Self::Https];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}
