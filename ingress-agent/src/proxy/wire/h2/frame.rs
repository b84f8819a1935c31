//! Frame headers (RFC 9113, 4.1). Pure.

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Data,
    Headers,
    Priority,
    /// RFC 9218, 7.1; not acted on.
    PriorityUpdate,
    Reset,
    Settings,
    Ping,
    WindowUpdate,
    Continuation,
    PushPromise,
    GoAway,
    /// Extensions, and GREASE.
    Other,
}

/// One frame's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    pub(crate) kind: Kind,
    pub(crate) length: u32,
    pub(crate) stream: u32,
    pub(crate) flags: u8,
}

pub(crate) const HEADER_BYTES: usize = 9;
pub(crate) const END_STREAM: u8 = 0x1;
pub(crate) const ACK: u8 = 0x1;
pub(crate) const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;

impl Frame {
    pub(crate) fn parse(header: [u8; 9]) -> Self {
        let [l2, l1, l0, kind, flags, s3, s2, s1, s0] = header;
        let kind = match kind {
            0x0 => Kind::Data,
            0x1 => Kind::Headers,
            0x2 => Kind::Priority,
            0x10 => Kind::PriorityUpdate,
            0x3 => Kind::Reset,
            0x4 => Kind::Settings,
            0x5 => Kind::PushPromise,
            0x6 => Kind::Ping,
            0x7 => Kind::GoAway,
            0x8 => Kind::WindowUpdate,
            0x9 => Kind::Continuation,
            _ => Kind::Other,
        };
        let stream = u32::from_be_bytes([s3 & 0x7f, s2, s1, s0]);
        Self {
            kind,
            length: u32::from_be_bytes([0, l2, l1, l0]),
            stream,
            flags,
        }
    }

    pub(crate) fn end_stream(self) -> bool {
        matches!(self.kind, Kind::Data | Kind::Headers) && self.flags & 0x1 != 0
    }

    pub(crate) fn end_headers(self) -> bool {
        matches!(self.kind, Kind::Headers | Kind::Continuation) && self.flags & 0x4 != 0
    }

    pub(crate) fn ack(self) -> bool {
        matches!(self.kind, Kind::Settings | Kind::Ping) && self.flags & 0x1 != 0
    }

    /// The part of a DATA or HEADERS frame's payload that is data or header block; None when padding or priority don't fit.
    pub(crate) fn content(self, payload: &[u8]) -> Option<std::ops::Range<usize>> {
        let padded = self.flags & PADDED != 0;
        let padding = if padded { usize::from(*payload.first()?) } else { 0 };
        let priority = self.kind == Kind::Headers && self.flags & PRIORITY != 0;
        let begin = usize::from(padded) + if priority { 5 } else { 0 };
        let end = payload.len().checked_sub(padding)?;
        (begin <= end).then_some(begin..end)
    }
}

/// A frame's header as it is sent; `kind` is its number on the wire.
pub(crate) fn header(kind: u8, flags: u8, stream: u32, length: usize) -> [u8; HEADER_BYTES] {
    let [_, l2, l1, l0] = u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes();
    let [s3, s2, s1, s0] = stream.to_be_bytes();
    [l2, l1, l0, kind, flags, s3, s2, s1, s0]
}
