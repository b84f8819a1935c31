//! Where a stream of WebSocket frames stands (RFC 6455, 5.2): enough to put a frame of our own between two of them. Knows no payload.

/// Follows one direction. What comes is not judged: a stream of nonsense is between two frames by chance or never.
#[derive(Debug, Default)]
pub(super) struct Frames {
    head: [u8; LONGEST_HEAD],
    /// Bytes of the head that have come.
    have: usize,
    /// Bytes of the payload that have not.
    left: u64,
    closed: bool,
}

/// Two bytes, eight of length, four of mask.
const LONGEST_HEAD: usize = 14;
const OPCODE_CLOSE: u8 = 0x8;

/// A Close frame that says 1001, going away (RFC 6455, 7.4.1), unmasked as a server's frames are.
pub(super) const GOING_AWAY: [u8; 4] = [0x80 | OPCODE_CLOSE, 2, 0x03, 0xe9];

impl Frames {
    /// Takes all that has come.
    pub(super) fn pass(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        while !rest.is_empty() {
            let taken = self.pass_frame(rest);
            rest = rest.get(taken..).unwrap_or_default();
        }
    }

    /// Takes what has come until the end of the frame that is under way; how much that is.
    pub(super) fn pass_frame(&mut self, bytes: &[u8]) -> usize {
        let mut at = 0;
        while at < bytes.len() {
            at += if self.left > 0 {
                self.payload(bytes.len() - at)
            } else {
                self.head_byte(bytes[at]);
                1
            };
            if self.is_between() {
                break;
            }
        }
        at
    }

    /// Whether a frame may be put in here.
    pub(super) fn is_between(&self) -> bool {
        self.have == 0 && self.left == 0
    }

    /// Whether a Close frame has begun: nothing may come after it (5.5.1).
    pub(super) fn is_closed(&self) -> bool {
        self.closed
    }

    fn payload(&mut self, available: usize) -> usize {
        let taken = usize::try_from(self.left).unwrap_or(usize::MAX).min(available);
        self.left = self.left.saturating_sub(taken as u64);
        taken
    }

    fn head_byte(&mut self, byte: u8) {
        self.head[self.have] = byte;
        self.have += 1;
        let Some((length, head)) = self.length() else {
            return;
        };
        if self.have < head {
            return;
        }
        self.closed |= self.head[0] & 0x0f == OPCODE_CLOSE;
        self.left = length;
        self.have = 0;
    }

    /// The payload's length and the head's, once the former is known.
    fn length(&self) -> Option<(u64, usize)> {
        let head = self.head.get(..self.have)?;
        let (_, rest) = head.split_first()?;
        let (&second, extended) = rest.split_first()?;
        let mask = if second & 0x80 == 0 { 0 } else { 4 };
        match second & 0x7f {
            126 => Some((u16::from_be_bytes(*extended.first_chunk()?).into(), 4 + mask)),
            127 => Some((u64::from_be_bytes(*extended.first_chunk()?), 10 + mask)),
            short => Some((short.into(), 2 + mask)),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(opcode: u8, payload: usize, masked: bool) -> Vec<u8> {
        let mask_bit = if masked { 0x80 } else { 0 };
        let mut frame = vec![0x80 | opcode];
        if let Ok(short @ 0..=125) = u8::try_from(payload) {
            frame.push(mask_bit | short);
        } else if let Ok(medium) = u16::try_from(payload) {
            frame.push(mask_bit | 126);
            frame.extend(medium.to_be_bytes());
        } else {
            frame.push(mask_bit | 127);
            frame.extend((payload as u64).to_be_bytes());
        }
        frame.resize(frame.len() + if masked { 4 } else { 0 } + payload, 0x88);
        frame
    }

    proptest! {
        #[test]
        fn the_ends_of_frames_are_found_however_the_stream_is_cut(
            sizes in prop::collection::vec((0_usize..70_000, any::<bool>()), 1..6),
            piece in 1_usize..9_000,
        ) {
            let frames: Vec<_> = sizes.iter().map(|(size, masked)| frame(2, *size, *masked)).collect();
            let mut ends = Vec::new();
            let mut stream = Vec::new();
            for frame in &frames {
                stream.extend(frame);
                ends.push(stream.len());
            }
            let (mut watch, mut at) = (Frames::default(), 0);
            for piece in stream.chunks(piece) {
                let next = ends.iter().find(|end| **end > at).map_or(0, |end| end - at);
                let taken = watch.pass_frame(piece);
                prop_assert_eq!(taken, next.min(piece.len()));
                watch.pass(&piece[taken..]);
                at += piece.len();
                prop_assert_eq!(watch.is_between(), ends.contains(&at));
            }
            prop_assert!(!watch.is_closed());
            watch.pass(&GOING_AWAY);
            prop_assert!(watch.is_closed());
        }

        #[test]
        fn nonsense_is_followed_without_end_or_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let mut watch = Frames::default();
            prop_assert!(watch.pass_frame(&bytes) <= bytes.len());
            watch.pass(&bytes);
        }
    }
}
