//! Where a body ends, followed as its bytes pass.

use super::{Chunked, Framing};
use crate::proxy::wire::Refusal;

/// What is left of the current body.
#[derive(Clone, Debug)]
pub enum Body {
    /// So many bytes.
    Length(u64),
    Chunked(Box<Chunked>),
}

impl Body {
    pub fn new(framing: Framing) -> Self {
        match framing {
            Framing::None => Self::Length(0),
            Framing::Length(length) => Self::Length(length),
            Framing::Chunked => Self::Chunked(Box::default()),
        }
    }

    /// How many of the bytes belong to this body.
    pub fn follow(&mut self, bytes: &[u8]) -> Result<usize, Refusal> {
        match self {
            Self::Length(left) => {
                let used = usize::try_from(*left).map_or(bytes.len(), |left| left.min(bytes.len()));
                *left = left.saturating_sub(used as u64);
                Ok(used)
            }
            Self::Chunked(chunked) => chunked.follow(bytes),
        }
    }

    pub fn done(&self) -> bool {
        match self {
            Self::Length(left) => *left == 0,
            Self::Chunked(chunked) => chunked.done(),
        }
    }
}
