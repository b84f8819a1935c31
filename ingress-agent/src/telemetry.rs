//! What an operator sees: the agent's own log, the access log and metrics.
//!
//! The data plane describes each finished request once, as a [`record::RequestRecord`]; everything here is made from that.
//! Nothing here may block or wait on the request path.

pub mod access_log;
pub mod log;
pub mod metrics;
pub mod record;

#[cfg(test)]
pub(crate) mod samples;
