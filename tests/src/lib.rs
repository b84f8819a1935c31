//! The harness: a running agent, backends that say who they are, backends and clients that speak raw bytes, manifests in a few words.
//!
//! A case reads like prose and takes 5 to 15 lines. Everything here blocks, has a deadline, and ends when it is dropped;
//! nothing here knows the agent's insides: what is shown here is shown through sockets, files and the admin address. The one
//! exception is [`fuzz`], which gives parsers bytes.

pub mod agent;
pub mod certs;
pub mod client;
pub mod cluster;
pub mod dns;
pub mod echo;
pub mod expected;
pub mod fuzz;
pub mod gate;
pub mod kept;
pub mod load;
pub mod manifests;
pub mod process;
pub mod raw;
pub mod site;
pub mod syns;
pub mod websocket;

pub use agent::TestAgent;
pub use certs::{Certs, Leaf};
pub use client::{Answer, Request, TlsClient};
pub use cluster::{Cluster, Namespace, Pod};
pub use echo::Echo;
pub use gate::Gate;
pub use kept::{KeptConnection, KeptWebSocket};
pub use load::Load;
pub use manifests::{Ingress, Manifests};
pub use process::AgentProcess;
pub use raw::{RawBackend, RawClient, Refusing};
pub use site::Site;
