//! The chunked coding, exactly as RFC 9112 7.1 writes it.

use super::bytes::{is_token_byte, is_value_byte};
use crate::proxy::wire::Refusal;

/// 2^60 bytes are more than any chunk; the seventeenth digit would overflow.
const LARGEST_CHUNK: u64 = 1 << 60;
const SIZE_DIGITS: u8 = 16;
const EXTENSION_BYTES: u32 = 256;
/// Of a whole body: hyper has the same bound, so that ours must be met first.
const ALL_EXTENSION_BYTES: u32 = 16 * 1024 - 1;
const TRAILER_BYTES: u32 = 8 * 1024;
const TRAILER_FIELDS: u32 = 64;

/// RFC 9110 6.5.1: what frames, routes, authenticates or describes the message must be known before the body. Compared with `_` read as `-`:
/// a backend that puts trailers among the fields may well read names so too (RFC 3875, 4.1.18).
const FORBIDDEN_TRAILERS: &[&[u8]] = &[
    b"authorization",
    b"connection",
    b"content-encoding",
    b"content-length",
    b"content-range",
    b"content-type",
    b"cookie",
    b"expect",
    b"forwarded",
    b"host",
    b"keep-alive",
    b"max-forwards",
    b"proxy-authorization",
    b"proxy-connection",
    b"range",
    b"te",
    b"trailer",
    b"transfer-encoding",
    b"upgrade",
    b"x-forwarded-for",
    b"x-forwarded-host",
    b"x-forwarded-port",
    b"x-forwarded-prefix",
    b"x-forwarded-proto",
    b"x-forwarded-scheme",
    b"x-real-ip",
];
const LONGEST_FORBIDDEN: usize = 24;

/// Whether a field of this name (lower case) may not come after the body.
pub fn is_forbidden_trailer(name: &str) -> bool {
    let is = |known: &&[u8]| name.len() == known.len() && name.bytes().map(folded).eq(known.iter().copied());
    FORBIDDEN_TRAILERS.iter().any(is)
}

/// One spelling of a name's byte for all that a reader may take it for.
fn folded(byte: u8) -> u8 {
    match byte {
        b'_' => b'-',
        byte => byte.to_ascii_lowercase(),
    }
}

/// Follows one chunked body.
#[derive(Clone, Debug, Default)]
pub struct Chunked {
    state: State,
    size: u64,
    digits: u8,
    extension: u32,
    all_extensions: u32,
    trailer_bytes: u32,
    trailer_fields: u32,
    name: [u8; LONGEST_FORBIDDEN],
    name_length: usize,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Size,
    /// Whitespace after the size: only an extension may follow.
    BeforeExtension,
    Extension,
    SizeLf,
    Data,
    DataCr,
    DataLf,
    TrailerStart,
    TrailerName,
    TrailerValue,
    TrailerLf,
    EndLf,
    Done,
}

impl Chunked {
    pub fn done(&self) -> bool {
        self.state == State::Done
    }

    /// How many of the bytes belong to this body.
    pub fn follow(&mut self, bytes: &[u8]) -> Result<usize, Refusal> {
        let mut at = 0;
        while let Some(byte) = bytes.get(at) {
            match self.state {
                State::Done => break,
                State::Data => at = at.saturating_add(self.data(bytes.len().saturating_sub(at))),
                _ => {
                    self.state = self.byte(*byte)?;
                    at = at.saturating_add(1);
                }
            }
        }
        Ok(at)
    }

    /// Passes over chunk data; `there` bytes are at hand.
    fn data(&mut self, there: usize) -> usize {
        let used = usize::try_from(self.size).map_or(there, |size| size.min(there));
        self.size = self.size.saturating_sub(used as u64);
        if self.size == 0 {
            self.state = State::DataCr;
        }
        used
    }

    fn byte(&mut self, byte: u8) -> Result<State, Refusal> {
        match self.state {
            State::Size | State::BeforeExtension => self.size_line(byte),
            State::Extension => self.extension_byte(byte),
            State::SizeLf => self.size_end(byte),
            State::DataCr => expect(byte, b'\r', State::DataLf),
            State::DataLf => expect(byte, b'\n', State::Size).inspect(|_| self.next_chunk()),
            State::EndLf => expect(byte, b'\n', State::Done),
            State::TrailerStart | State::TrailerName | State::TrailerValue | State::TrailerLf => {
                self.trailer_byte(byte)
            }
            State::Data | State::Done => Ok(self.state),
        }
    }

    fn next_chunk(&mut self) {
        (self.size, self.digits, self.extension) = (0, 0, 0);
    }

    fn size_line(&mut self, byte: u8) -> Result<State, Refusal> {
        match byte {
            b';' if self.digits > 0 => Ok(State::Extension),
            b' ' | b'\t' if self.digits > 0 => self.extension_byte(byte).map(|_| State::BeforeExtension),
            b'\r' if self.digits > 0 && self.state == State::Size => Ok(State::SizeLf),
            _ if self.state == State::Size => self.digit(byte),
            _ => Err(Refusal::bad(
                "something other than an extension after a chunk size",
            )),
        }
    }

    fn digit(&mut self, byte: u8) -> Result<State, Refusal> {
        let Some(digit) = char::from(byte).to_digit(16) else {
            return Err(Refusal::bad("a chunk size is not a hexadecimal number"));
        };
        self.digits = self.digits.saturating_add(1);
        self.size = self.size.saturating_mul(16).saturating_add(u64::from(digit));
        if self.digits > SIZE_DIGITS || self.size > LARGEST_CHUNK {
            return Err(Refusal::bad("a chunk size is too large"));
        }
        Ok(State::Size)
    }

    fn extension_byte(&mut self, byte: u8) -> Result<State, Refusal> {
        if byte == b'\r' {
            return Ok(State::SizeLf);
        }
        if !is_value_byte(byte) {
            return Err(Refusal::bad("a control character in a chunk extension"));
        }
        self.extension = self.extension.saturating_add(1);
        self.all_extensions = self.all_extensions.saturating_add(1);
        if self.extension > EXTENSION_BYTES || self.all_extensions > ALL_EXTENSION_BYTES {
            return Err(Refusal::bad("chunk extensions are larger than allowed"));
        }
        Ok(State::Extension)
    }

    fn size_end(&self, byte: u8) -> Result<State, Refusal> {
        expect(
            byte,
            b'\n',
            if self.size == 0 {
                State::TrailerStart
            } else {
                State::Data
            },
        )
    }

    fn trailer_byte(&mut self, byte: u8) -> Result<State, Refusal> {
        self.trailer_bytes = self.trailer_bytes.saturating_add(1);
        if self.trailer_bytes > TRAILER_BYTES {
            return Err(Refusal::bad("trailers are larger than allowed"));
        }
        match self.state {
            State::TrailerStart if byte == b'\r' => Ok(State::EndLf),
            State::TrailerStart => self.trailer_begins(byte),
            State::TrailerName if byte == b':' => self.trailer_named(),
            State::TrailerName => self.name_byte(byte),
            State::TrailerValue if byte == b'\r' => Ok(State::TrailerLf),
            State::TrailerValue if is_value_byte(byte) => Ok(State::TrailerValue),
            State::TrailerValue => Err(Refusal::bad("a control character in a trailer")),
            _ => expect(byte, b'\n', State::TrailerStart),
        }
    }

    fn trailer_begins(&mut self, byte: u8) -> Result<State, Refusal> {
        self.trailer_fields = self.trailer_fields.saturating_add(1);
        if self.trailer_fields > TRAILER_FIELDS {
            return Err(Refusal::bad("more trailers than allowed"));
        }
        self.name_length = 0;
        self.name_byte(byte)
    }

    fn name_byte(&mut self, byte: u8) -> Result<State, Refusal> {
        if !is_token_byte(byte) {
            return Err(Refusal::bad("a byte that is not allowed in a trailer's name"));
        }
        if let Some(place) = self.name.get_mut(self.name_length) {
            *place = folded(byte);
        }
        self.name_length = self.name_length.saturating_add(1);
        Ok(State::TrailerName)
    }

    fn trailer_named(&self) -> Result<State, Refusal> {
        let name = self.name.get(..self.name_length).unwrap_or_default();
        if FORBIDDEN_TRAILERS.contains(&name) {
            return Err(Refusal::bad("a field that may not be a trailer"));
        }
        Ok(State::TrailerValue)
    }
}

fn expect(byte: u8, expected: u8, next: State) -> Result<State, Refusal> {
    if byte == expected {
        Ok(next)
    } else {
        Err(Refusal::bad("a chunk does not end in CRLF"))
    }
}
