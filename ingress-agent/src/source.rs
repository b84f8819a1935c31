//! Where objects come from. Every source yields the same [`crate::objects::SourceState`].

mod admission;
pub mod dir;
pub mod kube;
mod manifest;
