//! SETTINGS (RFC 9113, 6.5): ours, and what the client's change.

use super::peer::Table;
use super::streams::RECEIVE_WINDOW;
use super::wire::{Wire, kind};
use crate::proxy::wire::h2::frame::{ACK, Frame};
use crate::proxy::wire::h2::{ErrorCode, H2Refusal};

const HEADER_TABLE_SIZE: u16 = 0x1;
const MAX_CONCURRENT_STREAMS: u16 = 0x3;
const ENABLE_PUSH: u16 = 0x2;
const INITIAL_WINDOW_SIZE: u16 = 0x4;
const MAX_FRAME_SIZE: u16 = 0x5;
const MAX_HEADER_LIST_SIZE: u16 = 0x6;

pub(super) const LARGEST_WINDOW: i64 = 0x7fff_ffff;
/// What a decoder's table holds where nobody has said anything (RFC 9113, 6.5.2).
const TABLE_BYTES: u32 = 4096;
/// As much in one frame of ours, whatever more the client would take: others wait behind it.
const LARGEST_FRAME: u32 = 16 * 1024;

impl Wire {
    pub(super) fn send_settings(&mut self, streams: u32) {
        let window = u32::try_from(RECEIVE_WINDOW).unwrap_or_default();
        let list = u32::try_from(self.t.limits.head_bytes).unwrap_or(u32::MAX);
        let settings = [
            (MAX_CONCURRENT_STREAMS, streams),
            (INITIAL_WINDOW_SIZE, window),
            (MAX_FRAME_SIZE, self.t.limits.h2_frame_bytes),
            (MAX_HEADER_LIST_SIZE, list),
        ];
        let mut payload = Vec::with_capacity(24);
        for (identifier, value) in settings {
            payload.extend(identifier.to_be_bytes());
            payload.extend(value.to_be_bytes());
        }
        self.send(kind::SETTINGS, 0, 0, &payload);
    }

    pub(super) fn receive_settings(&mut self, frame: Frame, payload: &[u8]) -> Result<(), H2Refusal> {
        if frame.stream != 0 {
            return Err(H2Refusal::protocol("SETTINGS on a stream"));
        }
        let (settings, rest) = payload.as_chunks::<6>();
        if !rest.is_empty() || frame.ack() && !payload.is_empty() {
            return Err(H2Refusal::with(ErrorCode::FrameSize, "SETTINGS of a wrong size"));
        }
        if frame.ack() {
            return Ok(());
        }
        for [i1, i0, value @ ..] in settings {
            self.receive_setting(u16::from_be_bytes([*i1, *i0]), u32::from_be_bytes(*value))?;
        }
        self.send(kind::SETTINGS, ACK, 0, &[]);
        Ok(())
    }

    fn receive_setting(&mut self, identifier: u16, value: u32) -> Result<(), H2Refusal> {
        match identifier {
            ENABLE_PUSH if value > 1 => Err(H2Refusal::protocol("ENABLE_PUSH is neither 0 nor 1")),
            INITIAL_WINDOW_SIZE => self.resize_windows(i64::from(value)),
            MAX_FRAME_SIZE if !(16_384..=16_777_215).contains(&value) => {
                Err(H2Refusal::protocol("MAX_FRAME_SIZE is out of its range"))
            }
            MAX_FRAME_SIZE => {
                self.peer.frame_bytes = usize::try_from(value.min(LARGEST_FRAME)).unwrap_or(16 * 1024);
                Ok(())
            }
            HEADER_TABLE_SIZE if value < TABLE_BYTES && self.peer.table == Table::Untold => {
                self.peer.table = Table::ToBeEmptied;
                Ok(())
            }
            // Ours to send would be pushes, which we don't use.
            _ => Ok(()),
        }
    }

    /// RFC 9113, 6.9.2: the windows of all open streams change by the difference.
    fn resize_windows(&mut self, window: i64) -> Result<(), H2Refusal> {
        const HOW: H2Refusal = H2Refusal {
            code: ErrorCode::FlowControl,
            refusal: crate::proxy::wire::Refusal::bad("a window larger than there can be"),
        };
        if window > LARGEST_WINDOW {
            return Err(HOW);
        }
        let more = window - self.peer.initial_window;
        self.peer.initial_window = window;
        for stream in self.streams.values_mut() {
            stream.send_window += more;
            if stream.send_window > LARGEST_WINDOW {
                return Err(HOW);
            }
            stream.wake();
        }
        Ok(())
    }
}
