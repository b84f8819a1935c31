//! What the product promises, shown on the running agent: one binary, a module for each area.
//!
//! A case is named by its promise and takes a few lines; `docs/promises.toml` says which case shows what.

mod access_log;
mod admin;
mod admission;
mod annotations;
mod backends;
mod bad_backend;
mod bad_client;
mod balance;
mod certificates;
mod changes;
mod default_backends;
mod drain;
mod drain_end;
mod external_name;
mod folder;
mod forwarded;
mod frames;
mod fuzz;
mod grpc;
mod h2;
mod h2_backend;
mod harness;
mod heads;
mod hosts;
mod lifecycle;
mod limits;
mod listeners;
mod nearness;
mod ocsp;
mod ownership;
mod papers;
mod paths;
mod proxy_protocol;
mod reasons;
mod retries;
mod site;
mod smuggling;
mod streaming;
mod strict;
mod tls;
mod tls_client;
mod websocket;

/// Cases end early with `?` where the harness fails, and by assertion where the agent does.
type Done = anyhow::Result<()>;
