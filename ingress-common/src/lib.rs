//! What the agent and its eBPF programs share: the layout of every map, and the decisions that both sides must make alike.
//!
//! Runs in the kernel as it stands here: no allocation, no panic, no dependency, loops with fixed bounds. It may not know aya (but for
//! `Pod` with the feature `user`), sockets, the clock or the agent's configuration.
#![no_std]

#[cfg(test)]
extern crate std;

pub mod abi;
pub mod account;
pub mod bucket;
pub mod early;
pub mod http;
pub mod names;
pub mod packet;
pub mod steer;
pub mod tls;
pub mod verdict;
pub mod window;
