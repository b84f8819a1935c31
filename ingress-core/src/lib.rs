//! The pure middle of ingress-agent.
//!
//! Everything here is a function of its arguments: no sockets, no clock, no environment, no async.
//! Time and randomness come in as arguments; problems go out as [`diagnostic::Diagnostic`] values.
//!
//! ```text
//! Resources ──compile──▶ Snapshot ──find──▶ Matched ──pick──▶ Endpoint
//!     ▲                     │
//! translate (agent)         └─ explain: the same match, told step by step
//! ```
#![forbid(unsafe_code)]

pub mod balance;
pub mod compile;
pub mod datapath;
pub mod diagnostic;
pub mod explain;
mod fast_map;
pub mod fields;
pub mod filter;
#[cfg(test)]
mod fixture;
pub mod host;
pub mod matching;
pub mod name;
pub mod nearness;
pub mod path;
pub mod penalty;
pub mod reason;
pub mod resource;
pub mod slow;
pub mod snapshot;
