//! HTTP/2 over bytes: frames, header blocks, and what a client may spend. Pure, no I/O; time is an argument.
//!
//! Owns: the order of frames, the budgets, HPACK both ways, and what a request's head must be. The conversation itself (streams, windows,
//! what is written when) is the server's, in [`gate`](super::gate).

mod budget;
pub(crate) mod encode;
pub(crate) mod frame;
mod head;
mod hpack;
mod huffman;
#[cfg(test)]
mod tests;

use std::time::Instant;

use bytes::{Buf, BytesMut};
use ingress_core::reason::Reason;

use super::detect::H2_PREFACE;
use super::{Limits, Refusal};
use budget::Budgets;
pub use frame::Frame;
use frame::{HEADER_BYTES, Kind};
use head::Head;
pub use head::{Asked, Malformed};

/// CONTINUATION frames of one header block: with the default frame size, sixteen hold more than any block that is accepted.
const CONTINUATIONS: u32 = 16;

/// Error codes of GOAWAY and RST_STREAM (RFC 9113, 7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorCode {
    NoError,
    Protocol,
    Internal,
    FlowControl,
    StreamClosed,
    FrameSize,
    RefusedStream,
    Cancel,
    Compression,
    EnhanceYourCalm,
}

impl ErrorCode {
    pub fn value(self) -> u32 {
        match self {
            Self::NoError => 0x0,
            Self::Protocol => 0x1,
            Self::Internal => 0x2,
            Self::FlowControl => 0x3,
            Self::StreamClosed => 0x5,
            Self::FrameSize => 0x6,
            Self::RefusedStream => 0x7,
            Self::Cancel => 0x8,
            Self::Compression => 0x9,
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
    pub(crate) fn protocol(detail: &'static str) -> Self {
        Self::with(ErrorCode::Protocol, detail)
    }

    pub(crate) fn with(code: ErrorCode, detail: &'static str) -> Self {
        Self {
            code,
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

/// Judges the frames of one connection in the order of their arrival, and keeps the table of its header blocks.
#[derive(Debug)]
pub struct Follower {
    /// How much of the client's preface is there.
    preface: usize,
    /// The frame at hand has been judged, and is not whole yet.
    judged: bool,
    /// So has one that is HEADERS or CONTINUATION.
    in_fields: bool,
    settings_seen: bool,
    block: Option<Block>,
    last_stream: u32,
    budgets: Budgets,
    decoder: hpack::Decoder,
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
            judged: false,
            in_fields: false,
            settings_seen: false,
            block: None,
            last_stream: 0,
            budgets: Budgets::new(limits.h2_resets, now),
            decoder: hpack::Decoder::new(limits.request_line.saturating_add(1)),
            head_bytes: limits.head_bytes as u64,
            frame_bytes: limits.h2_frame_bytes,
        }
    }

    /// Takes the next whole frame of the client's off `input`. It is judged as soon as its header is there.
    ///
    /// # Errors
    /// When the connection has to end.
    pub fn next(
        &mut self,
        input: &mut BytesMut,
        now: Instant,
    ) -> Result<Option<(Frame, BytesMut)>, H2Refusal> {
        self.take_preface(input)?;
        let Some(header) = input.first_chunk::<HEADER_BYTES>() else {
            return Ok(None);
        };
        let frame = Frame::parse(*header);
        if !self.judged {
            self.client_frame(frame, now)?;
            self.judged = true;
            self.in_fields = matches!(frame.kind, Kind::Headers | Kind::Continuation);
        }
        let length = usize::try_from(frame.length).unwrap_or(usize::MAX);
        if input.len() < HEADER_BYTES.saturating_add(length) {
            return Ok(None);
        }
        self.judged = false;
        self.in_fields = false;
        input.advance(HEADER_BYTES);
        Ok(Some((frame, input.split_to(length))))
    }

    fn take_preface(&mut self, input: &mut BytesMut) -> Result<(), H2Refusal> {
        let expected = H2_PREFACE.get(self.preface..).unwrap_or_default();
        let length = expected.len().min(input.len());
        if input.get(..length) != expected.get(..length) {
            return Err(H2Refusal::protocol("not the client preface of HTTP/2"));
        }
        self.preface = self.preface.saturating_add(length);
        input.advance(length);
        Ok(())
    }

    fn client_frame(&mut self, frame: Frame, now: Instant) -> Result<(), H2Refusal> {
        if frame.length > self.frame_bytes {
            let how = "an h2 frame is larger than SETTINGS_MAX_FRAME_SIZE";
            return Err(H2Refusal::with(ErrorCode::FrameSize, how));
        }
        if !self.settings_seen {
            self.settings_seen = frame.kind == Kind::Settings && !frame.ack();
            if !self.settings_seen {
                return Err(H2Refusal::protocol("the preface is not followed by SETTINGS"));
            }
        }
        self.header_block(frame)?;
        self.budgets.client_frame(frame, now)
    }

    /// A frame that the client is sent.
    pub(crate) fn server_frame(&mut self, frame: Frame, now: Instant) -> Result<(), H2Refusal> {
        self.budgets.server_frame(frame, now)
    }

    /// A DATA frame that holds padding and no data.
    pub(crate) fn padding_alone(&mut self, now: Instant) -> Result<(), H2Refusal> {
        self.budgets.padding_alone(now)
    }

    /// Whether this stream is new. Its number has to be odd, and above all before (RFC 9113, 5.1.1).
    pub(crate) fn opens(&mut self, stream: u32) -> Result<bool, H2Refusal> {
        if stream.is_multiple_of(2) {
            return Err(H2Refusal::protocol("a stream that a client can't open"));
        }
        let new = stream > self.last_stream;
        self.last_stream = self.last_stream.max(stream);
        Ok(new)
    }

    /// The head that a whole header block holds.
    ///
    /// # Errors
    /// When the connection has to end, and within that, when only the request is malformed.
    pub fn request(&mut self, block: &[u8], limits: &Limits) -> Result<Result<Asked, Malformed>, H2Refusal> {
        Ok(self.fields(block, limits)?.request())
    }

    /// The trailers that a whole header block holds.
    pub(crate) fn trailers(
        &mut self,
        block: &[u8],
        limits: &Limits,
    ) -> Result<Result<http::HeaderMap, Malformed>, H2Refusal> {
        Ok(self.fields(block, limits)?.trailers())
    }

    /// The client's highest stream so far.
    pub fn last_stream(&self) -> u32 {
        self.last_stream
    }

    /// Preface, SETTINGS and header blocks have to be complete within the bound of a head.
    pub fn in_head(&self) -> bool {
        self.preface < H2_PREFACE.len() || !self.settings_seen || self.block.is_some() || self.in_fields
    }

    fn fields<'a>(&mut self, block: &[u8], limits: &'a Limits) -> Result<Head<'a>, H2Refusal> {
        let mut head = Head::new(limits);
        self.decoder
            .decode(block, |field, bytes| head.take(field, bytes))
            .map_err(|hpack::Broken| {
                H2Refusal::with(ErrorCode::Compression, "a header block that can't be read")
            })?;
        Ok(head)
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
}
