//! The data plane: from an accepted connection to an answered request.
//!
//! Sees the live state; knows no Kubernetes objects. No locks on the request path.

pub mod accept;
mod account;
mod alarm;
mod answer;
mod bell;
pub mod body;
mod connection;
pub mod door;
mod farewell;
mod forward;
pub mod listener;
pub mod message;
mod moment;
mod prefixed;
pub mod proxy_protocol;
mod refused;
mod request;
mod response_body;
pub mod roster;
mod serve;
mod timer;
pub mod tls;
mod tunnel;
mod turn_away;
mod turned_away;
pub mod upstream;
pub mod wire;
pub mod worker;
