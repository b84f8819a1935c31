//! Frame headers in a stream of bytes (RFC 9113 4.1).

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Data,
    Headers,
    Priority,
    Reset,
    Settings,
    Ping,
    WindowUpdate,
    Continuation,
    /// GOAWAY, PUSH_PROMISE (an error, hyper's to see), extensions, and GREASE.
    Other,
}

/// One frame's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) kind: Kind,
    pub(super) length: u32,
    pub(super) stream: u32,
    flags: u8,
}

impl Frame {
    fn parse(header: [u8; 9]) -> Self {
        let [l2, l1, l0, kind, flags, s3, s2, s1, s0] = header;
        let kind = match kind {
            0x0 => Kind::Data,
            0x1 => Kind::Headers,
            0x2 | 0x10 => Kind::Priority,
            0x3 => Kind::Reset,
            0x4 => Kind::Settings,
            0x6 => Kind::Ping,
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

    pub(super) fn end_stream(self) -> bool {
        matches!(self.kind, Kind::Data | Kind::Headers) && self.flags & 0x1 != 0
    }

    pub(super) fn end_headers(self) -> bool {
        matches!(self.kind, Kind::Headers | Kind::Continuation) && self.flags & 0x4 != 0
    }

    pub(super) fn ack(self) -> bool {
        matches!(self.kind, Kind::Settings | Kind::Ping) && self.flags & 0x1 != 0
    }
}

/// One direction.
#[derive(Debug, Default)]
pub(super) struct Frames {
    header: [u8; 9],
    have: usize,
    payload: usize,
    open_block: bool,
}

impl Frames {
    /// The next frame whose header ends in `bytes`, which moves behind it; None when they are used up.
    pub(super) fn next(&mut self, bytes: &mut &[u8]) -> Option<Frame> {
        let skipped = self.payload.min(bytes.len());
        self.payload -= skipped;
        *bytes = bytes.get(skipped..).unwrap_or_default();
        if bytes.is_empty() {
            return None;
        }
        while self.have < self.header.len() {
            let (byte, rest) = bytes.split_first()?;
            *bytes = rest;
            if let Some(place) = self.header.get_mut(self.have) {
                *place = *byte;
            }
            self.have += 1;
        }
        self.have = 0;
        let frame = Frame::parse(self.header);
        self.payload = usize::try_from(frame.length).unwrap_or(usize::MAX);
        if matches!(frame.kind, Kind::Headers | Kind::Continuation) {
            self.open_block = !frame.end_headers();
        }
        Some(frame)
    }

    /// Between two frames.
    pub(super) fn between(&self) -> bool {
        self.have == 0 && self.payload == 0
    }

    pub(super) fn in_block(&self) -> bool {
        self.open_block
    }

    pub(super) fn left(&self) -> usize {
        if self.payload > 0 {
            self.payload
        } else {
            self.header.len().saturating_sub(self.have)
        }
    }
}
