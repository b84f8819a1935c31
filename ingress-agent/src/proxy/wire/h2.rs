//! The follower of h2 frame headers: pure, over bytes, no I/O; time is an argument.
//!
//! Owns: the preface, the order of frames as far as it can be abused, and the budgets. What frames mean is for hyper and its
//! h2, which checks RFC 9113 strictly and ends connections for it; what costs work without serving anyone is counted here.

mod budget;
mod frame;
#[cfg(test)]
mod tests;

use std::time::Instant;

use ingress_core::reason::Reason;

use super::detect::H2_PREFACE;
use super::{Limits, Refusal};
use budget::Budgets;
use frame::{Frame, Frames, Kind};

/// CONTINUATION frames of one header block: with the default frame size, sixteen hold more than any block that is accepted.
const CONTINUATIONS: u32 = 16;
/// Open streams that can't be: far above the concurrency that hyper allows.
const OPEN_STREAMS: usize = 4096;

/// Error codes for GOAWAY (RFC 9113 7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorCode {
    NoError,
    Protocol,
    FrameSize,
    EnhanceYourCalm,
}

impl ErrorCode {
    pub fn value(self) -> u32 {
        match self {
            Self::NoError => 0x0,
            Self::Protocol => 0x1,
            Self::FrameSize => 0x6,
            Self::EnhanceYourCalm => 0xb,
        }
    }
}

/// Why an h2 connection ends, in both words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct H2Refusal {
    pub code: ErrorCode,
    pub refusal: Refusal,
}

impl H2Refusal {
    fn protocol(detail: &'static str) -> Self {
        Self {
            code: ErrorCode::Protocol,
            refusal: Refusal::bad(detail),
        }
    }

    fn calm(detail: &'static str) -> Self {
        Self {
            code: ErrorCode::EnhanceYourCalm,
            refusal: Refusal::new(Reason::RateLimited, detail),
        }
    }
}

/// Follows both directions of one h2 connection.
#[derive(Debug)]
pub struct Follower {
    preface: usize,
    settings_seen: bool,
    client: Frames,
    server: Frames,
    block: Option<Block>,
    last_stream: u32,
    open: Vec<u32>,
    budgets: Budgets,
    head_bytes: u64,
    frame_bytes: u32,
}

/// A header block that is not yet complete.
#[derive(Debug)]
struct Block {
    stream: u32,
    bytes: u64,
    continuations: u32,
}

impl Follower {
    pub fn new(limits: &Limits, now: Instant) -> Self {
        Self {
            preface: 0,
            settings_seen: false,
            client: Frames::default(),
            server: Frames::default(),
            block: None,
            last_stream: 0,
            open: Vec::new(),
            budgets: Budgets::new(limits.h2_resets, now),
            head_bytes: limits.head_bytes as u64,
            frame_bytes: limits.h2_frame_bytes,
        }
    }

    /// Bytes from the client.
    pub fn client(&mut self, mut bytes: &[u8], now: Instant) -> Result<(), H2Refusal> {
        bytes = self.preface(bytes)?;
        while let Some(frame) = self.client.next(&mut bytes) {
            self.client_frame(frame, now)?;
        }
        Ok(())
    }

    /// Bytes that were written to the client.
    pub fn server(&mut self, mut bytes: &[u8], now: Instant) -> Result<(), H2Refusal> {
        while let Some(frame) = self.server.next(&mut bytes) {
            self.server_frame(frame, now)?;
        }
        Ok(())
    }

    /// The client's highest stream so far.
    pub fn last_stream(&self) -> u32 {
        self.last_stream
    }

    pub fn has_open_streams(&self) -> bool {
        !self.open.is_empty()
    }

    /// Preface and header blocks have to be complete within the bound of a head.
    pub fn in_head(&self) -> bool {
        self.preface < H2_PREFACE.len() || !self.settings_seen || self.block.is_some()
    }

    /// In the middle of a frame.
    pub fn in_frame(&self) -> bool {
        !self.client.between()
    }

    /// Whether a frame of our own may be written now.
    pub fn at_outgoing_boundary(&self) -> bool {
        self.server.between() && !self.server.in_block()
    }

    /// How much may be written before the outgoing frame at hand ends; while its length isn't known, what is left of its header.
    pub fn outgoing_left(&self) -> usize {
        self.server.left()
    }

    fn preface<'a>(&mut self, bytes: &'a [u8]) -> Result<&'a [u8], H2Refusal> {
        let expected = H2_PREFACE.get(self.preface..).unwrap_or_default();
        let length = expected.len().min(bytes.len());
        if bytes.get(..length) != expected.get(..length) {
            return Err(H2Refusal::protocol("not the client preface of HTTP/2"));
        }
        self.preface = self.preface.saturating_add(length);
        Ok(bytes.get(length..).unwrap_or_default())
    }

    fn client_frame(&mut self, frame: Frame, now: Instant) -> Result<(), H2Refusal> {
        if frame.length > self.frame_bytes {
            return Err(H2Refusal {
                code: ErrorCode::FrameSize,
                refusal: Refusal::bad("an h2 frame is larger than SETTINGS_MAX_FRAME_SIZE"),
            });
        }
        if !self.settings_seen {
            self.settings_seen = frame.kind == Kind::Settings && !frame.ack();
            if !self.settings_seen {
                return Err(H2Refusal::protocol("the preface is not followed by SETTINGS"));
            }
        }
        self.header_block(frame)?;
        match frame.kind {
            Kind::Headers => self.opens(frame.stream)?,
            Kind::Reset => self.open.retain(|open| *open != frame.stream),
            _ => {}
        }
        self.budgets.client_frame(frame, now)
    }

    /// A header block is HEADERS and its CONTINUATION frames with nothing in between (RFC 9113 4.3).
    fn header_block(&mut self, frame: Frame) -> Result<(), H2Refusal> {
        let mut block = match (frame.kind, self.block.take()) {
            (Kind::Continuation, Some(block)) if block.stream == frame.stream => Block {
                continuations: block.continuations.saturating_add(1),
                ..block
            },
            (Kind::Headers, None) => Block {
                stream: frame.stream,
                bytes: 0,
                continuations: 0,
            },
            (_, Some(_)) => return Err(H2Refusal::protocol("a header block is interrupted")),
            (Kind::Continuation, None) => {
                return Err(H2Refusal::protocol("CONTINUATION without a header block"));
            }
            _ => return Ok(()),
        };
        block.bytes = block.bytes.saturating_add(u64::from(frame.length));
        if block.continuations > CONTINUATIONS || block.bytes > self.head_bytes {
            return Err(H2Refusal::calm("a header block is larger than allowed"));
        }
        if !frame.end_headers() {
            self.block = Some(block);
        }
        Ok(())
    }

    fn opens(&mut self, stream: u32) -> Result<(), H2Refusal> {
        if stream > self.last_stream {
            self.last_stream = stream;
            self.open.push(stream);
        }
        if self.open.len() > OPEN_STREAMS {
            return Err(H2Refusal::calm("more streams than could be open"));
        }
        Ok(())
    }

    fn server_frame(&mut self, frame: Frame, now: Instant) -> Result<(), H2Refusal> {
        if frame.kind == Kind::Reset || frame.end_stream() {
            self.open.retain(|open| *open != frame.stream);
        }
        self.budgets.server_frame(frame, now)
    }
}
