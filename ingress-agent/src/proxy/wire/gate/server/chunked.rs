//! Taking a client's chunked body apart. Pure, and trusting: every byte that it sees has been judged before ([`h1::Chunked`](crate::proxy::wire::h1::Chunked)).

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue};

#[derive(Clone, Copy, Debug)]
pub(super) enum Decoder {
    Size,
    Data(u64),
    /// The CRLF after the data.
    DataEnd,
    Trailers,
    End,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Piece {
    Data(Bytes),
    Trailers(HeaderMap),
    End,
    /// More bytes are needed.
    More,
}

impl Decoder {
    /// Takes the next piece off the front of `buffer`, of which the first `judged` bytes belong to the body.
    pub(super) fn next(&mut self, buffer: &mut BytesMut, mut judged: usize) -> Piece {
        loop {
            let here = buffer.get(..judged).unwrap_or(buffer);
            match *self {
                Self::Size => {
                    let Some(end) = here.iter().position(|byte| *byte == b'\n') else {
                        return Piece::More;
                    };
                    *self = match size(here) {
                        0 => Self::Trailers,
                        size => Self::Data(size),
                    };
                    judged -= pass(buffer, end + 1);
                }
                Self::Data(_) if here.is_empty() => return Piece::More,
                Self::Data(left) => {
                    let length = usize::try_from(left).map_or(here.len(), |left| left.min(here.len()));
                    *self = match left.saturating_sub(length as u64) {
                        0 => Self::DataEnd,
                        left => Self::Data(left),
                    };
                    return Piece::Data(buffer.split_to(length).freeze());
                }
                Self::DataEnd if here.len() < 2 => return Piece::More,
                Self::DataEnd => {
                    *self = Self::Size;
                    judged -= pass(buffer, 2);
                }
                Self::Trailers => {
                    let Some(length) = trailers_length(here) else {
                        return Piece::More;
                    };
                    *self = Self::End;
                    let block = buffer.split_to(length);
                    if length > 2 {
                        return Piece::Trailers(trailers(&block));
                    }
                }
                Self::End => return Piece::End,
            }
        }
    }
}

fn pass(buffer: &mut BytesMut, length: usize) -> usize {
    buffer.advance(length);
    length
}

/// The number before an extension or the line's end.
fn size(line: &[u8]) -> u64 {
    let digits = line.iter().map_while(|byte| char::from(*byte).to_digit(16));
    digits.fold(0, |size, digit| (size << 4) | u64::from(digit))
}

/// The length of the fields and the empty line after them.
fn trailers_length(here: &[u8]) -> Option<usize> {
    const END: &[u8] = b"\r\n\r\n";
    if here.starts_with(b"\r\n") {
        return Some(2);
    }
    let end = here.windows(END.len()).position(|window| window == END)?;
    Some(end + END.len())
}

fn trailers(block: &[u8]) -> HeaderMap {
    let lines = block.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
    let fields = lines.filter_map(|line| {
        let colon = line.iter().position(|byte| *byte == b':')?;
        let (name, value) = line.split_at_checked(colon)?;
        let value = value.get(1..)?.trim_ascii();
        Some((
            HeaderName::from_bytes(name).ok()?,
            HeaderValue::from_bytes(value).ok()?,
        ))
    });
    let mut map = HeaderMap::new();
    for (name, value) in fields {
        map.append(name, value);
    }
    map
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_judged_body_comes_apart_the_same_however_it_is_cut() {
        let text = b"5 ;a=b\r\nhello\r\n0010\r\n0123456789abcdef\r\n0;x\r\nT: 1\r\nU:2\t\r\n\r\nGET";
        let length = text.len() - 3;
        for step in 1..=length {
            let (mut buffer, mut decoder) = (BytesMut::new(), Decoder::Size);
            let (mut data, mut fields) = (Vec::new(), None);
            let mut given = 0;
            loop {
                let judged = buffer.len().min(length - (given - buffer.len()));
                match decoder.next(&mut buffer, judged) {
                    Piece::Data(piece) => data.extend_from_slice(&piece),
                    Piece::Trailers(trailers) => fields = Some(trailers),
                    Piece::End => break,
                    Piece::More => {
                        let next = text.len().min(given + step);
                        assert!(given < next, "it asks for more than there is");
                        buffer.extend_from_slice(&text[given..next]);
                        given = next;
                    }
                }
            }
            assert_eq!(data, b"hello0123456789abcdef");
            let fields = fields.unwrap();
            assert_eq!(
                (&fields["t"], &fields["u"]),
                (&"1".parse().unwrap(), &"2".parse().unwrap())
            );
            assert!(b"GET".starts_with(&buffer[..]));
        }
    }

    proptest::proptest! {
        /// Else it would wait for bytes that are not the body's.
        #[test]
        fn a_body_that_was_judged_to_its_end_is_taken_apart_to_its_end(
            pieces in proptest::collection::vec("[0-9a-f]{1,2}|\r\n|;[a-z=]{0,3}|0\r\n|1\r\na\r\n|2 ;x\r\n\r\n\r\n|T: v\r\n|0\r\n\r\n|[ab]{1,9}|[ \t]", 1..12),
        ) {
            let text = pieces.concat();
            let mut follower = crate::proxy::wire::h1::Chunked::default();
            if let Ok(length) = follower.follow(text.as_bytes())
                && follower.done()
            {
                let (mut buffer, mut decoder) = (BytesMut::from(text.as_bytes()), Decoder::Size);
                let mut judged = length;
                loop {
                    let before = buffer.len();
                    let piece = decoder.next(&mut buffer, judged);
                    judged -= before - buffer.len();
                    proptest::prop_assert_ne!(&piece, &Piece::More);
                    if piece == Piece::End {
                        break;
                    }
                }
                proptest::prop_assert_eq!(judged, 0);
            }
        }
    }
}
