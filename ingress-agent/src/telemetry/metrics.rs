//! Metrics: counted by each worker for itself, summed when somebody asks.
//!
//! A worker owns a [`Shard`] that only its thread touches: no atomics and no locks on the request path. The admin thread asks every
//! worker by message for a copy of its numbers, with a bounded wait, and renders the sum.

pub mod collect;
pub mod histogram;
mod kernel;
pub mod process;
pub mod render;
pub mod shard;
mod source;
mod tcp;
mod text;

pub use collect::{Inbox, Mailbox, mailbox};
pub use shard::{Connection, Refusal, Shard, ShardSnapshot, TlsOutcome, UpstreamEvent, UpstreamPool};

#[cfg(test)]
mod tests;
