//! Where objects come from. Every source yields the same [`crate::objects::SourceState`].

mod admission;
pub mod dir;
pub mod kube;
mod manifest;

/// Our module, not the crate of its name: beside this folder and `status`, nobody speaks with the API server.
pub use self::kube as cluster;
