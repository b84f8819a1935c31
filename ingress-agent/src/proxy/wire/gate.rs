//! What stands on a client's connection: the HTTP/1 server, and the HTTP/2 server.
//!
//! Owns: what passes when, the waits, the agent's own last words. The judgement is in [`h1`](super::h1) and [`h2`](super::h2).

mod answer;
mod clock;
mod handle;
pub(crate) mod http2;
mod server;
mod stream;
#[cfg(test)]
mod tests;
mod transport;

pub(super) use answer::answer;
pub use handle::GateHandle;
pub(crate) use server::{ClientBody, End, Server};
pub(crate) use stream::ClientStream;
