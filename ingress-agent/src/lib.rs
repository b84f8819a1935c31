//! The shell around the pure core: sources of objects, the publisher, the data plane, what an operator sees.
//!
//! Arrows: source → translate → publish → {proxy, status}; only [`app`] knows them all.

pub mod account;
pub mod admin;
pub mod app;
pub mod bans;
pub mod cli;
pub mod config;
pub mod drain;
pub mod error;
pub mod kernel;
pub mod listener;
pub mod live;
mod memory;
pub mod objects;
pub mod proxy;
pub mod publish;
pub mod published;
pub mod resolve;
pub mod series;
pub mod source;
pub mod status;
pub mod telemetry;
pub mod tickets;
pub mod translate;
