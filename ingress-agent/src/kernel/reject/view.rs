//! What an operator sees of early rejection: `/kernel`, `ingress-agent kernel status -o json` and the metrics print exactly this.

use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RejectView {
    pub on: bool,
    /// Why it is off, or off in part; empty while all that is asked for is in force.
    pub reason: String,
    /// Why tc or XDP is at work nowhere; empty where it may be.
    #[serde(default)]
    pub tc: String,
    #[serde(default)]
    pub xdp: String,
    pub interfaces: Vec<AttachedView>,
    /// What happens now to names that nobody serves: `off`, `counted` or `rejected`.
    pub names: String,
    /// Entries in the table of known names, and how many there may be.
    pub known_names: usize,
    pub most_names: u32,
    /// How long the tables took to follow the last change, in microseconds.
    #[serde(default)]
    pub followed_in_us: u64,
    /// What is not checked, and why.
    pub notes: Vec<String>,
    pub counts: Vec<CountView>,
}

impl RejectView {
    pub(in crate::kernel) fn off(reason: &str) -> Self {
        Self {
            reason: reason.to_owned(),
            ..Self::default()
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttachedView {
    pub interface: String,
    /// `tc`, `xdp (native)`, `xdp (generic)`, or `xdp (native) and tc`; `nothing` where none could be attached.
    pub by: String,
    /// Why it is not more; empty where it is all that there is.
    #[serde(default)]
    pub why: String,
    /// Where the XDP link has its name in bpffs, by which it outlives this agent; empty where it has none.
    #[serde(default)]
    pub pinned: String,
}

/// Packets by verdict since the agent began.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct CountView {
    pub interface: String,
    pub verdict: String,
    pub packets: u64,
}
