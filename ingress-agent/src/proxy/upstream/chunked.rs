//! Chunked bodies from backends, strictly (RFC 9112, 7.1). Pure: bytes in, pieces or reason out.

use bytes::{Buf, Bytes, BytesMut};
use http::HeaderMap;

use super::response_head::{EndOfFields, parse_trailers};

/// Size and extensions; the extensions are dropped.
const MAX_SIZE_LINE: usize = 1024;
const MAX_TRAILERS: usize = 16 * 1024;

#[derive(Debug)]
pub(super) enum Chunked {
    Size,
    Data(u64),
    /// The CRLF after the data.
    DataEnd,
    Trailers(EndOfFields),
    End,
}

#[derive(Debug, PartialEq)]
pub(super) enum Piece {
    Data(Bytes),
    Trailers(HeaderMap),
    End,
    /// More bytes are needed.
    More,
}

impl Chunked {
    pub(super) fn new() -> Self {
        Self::Size
    }

    /// Takes the next piece off the front of `buffer`, without copying.
    pub(super) fn next(&mut self, buffer: &mut BytesMut) -> Result<Piece, &'static str> {
        loop {
            match self {
                Self::Size => match take_size(buffer)? {
                    None => return Ok(Piece::More),
                    Some(0) => *self = Self::Trailers(EndOfFields::default()),
                    Some(size) => *self = Self::Data(size),
                },
                Self::Data(_) if buffer.is_empty() => return Ok(Piece::More),
                Self::Data(left) => {
                    let data = take_at_most(buffer, *left);
                    *left -= data.len() as u64;
                    if *left == 0 {
                        *self = Self::DataEnd;
                    }
                    return Ok(Piece::Data(data));
                }
                Self::DataEnd => match take_line_end(buffer)? {
                    false => return Ok(Piece::More),
                    true => *self = Self::Size,
                },
                Self::Trailers(end) => {
                    let Some(length) = end.find(buffer, MAX_TRAILERS)? else {
                        return Ok(Piece::More);
                    };
                    *self = Self::End;
                    let block = buffer.split_to(length).freeze();
                    if block.len() > 2 {
                        return parse_trailers(&block).map(Piece::Trailers);
                    }
                }
                Self::End => return Ok(Piece::End),
            }
        }
    }
}

/// Takes up to `limit` bytes off the front, sharing them.
pub(super) fn take_at_most(buffer: &mut BytesMut, limit: u64) -> Bytes {
    let length = usize::try_from(limit).map_or(buffer.len(), |limit| limit.min(buffer.len()));
    buffer.split_to(length).freeze()
}

fn take_line_end(buffer: &mut BytesMut) -> Result<bool, &'static str> {
    match (buffer.first(), buffer.get(1)) {
        (None, _) | (Some(b'\r'), None) => Ok(false),
        (Some(b'\r'), Some(b'\n')) => {
            buffer.advance(2);
            Ok(true)
        }
        _ => Err("a chunk longer than its size"),
    }
}

fn take_size(buffer: &mut BytesMut) -> Result<Option<u64>, &'static str> {
    let Some(end) = buffer.iter().take(MAX_SIZE_LINE).position(|byte| *byte == b'\n') else {
        return if buffer.len() >= MAX_SIZE_LINE {
            Err("a chunk size line that is too long")
        } else {
            Ok(None)
        };
    };
    let line = buffer.split_to(end + 1);
    let line = line
        .strip_suffix(b"\r\n")
        .ok_or("a bare line feed after a chunk size")?;
    parse_size(line).map(Some)
}

fn parse_size(line: &[u8]) -> Result<u64, &'static str> {
    let mut parts = line.splitn(2, |byte| *byte == b';');
    let digits = parts.next().unwrap_or_default();
    let extension = parts.next().unwrap_or_default();
    if extension
        .iter()
        .any(|byte| byte.is_ascii_control() && *byte != b'\t')
    {
        return Err("a bad chunk extension");
    }
    // Sixteen digits are all that a u64 holds.
    if digits.is_empty() || digits.len() > 16 || !digits.iter().all(u8::is_ascii_hexdigit) {
        return Err("a bad chunk size");
    }
    std::str::from_utf8(digits)
        .ok()
        .and_then(|digits| u64::from_str_radix(digits, 16).ok())
        .ok_or("a bad chunk size")
}
