//! Reading header blocks (RFC 7541): the dynamic table, and fields that are judged once, when they enter it. Pure.
//!
//! Strings that no field may hold are fields too, so that one bad field costs its request and not the connection; what breaks the
//! format itself costs the connection, since nobody knows the table from there on.

use std::collections::VecDeque;

use http::Method;
use http::uri::{Authority, PathAndQuery, Scheme};

use super::huffman;
use crate::proxy::wire::h1::{is_field_value, is_target, is_token};

/// `SETTINGS_HEADER_TABLE_SIZE` where none is said (RFC 9113, 6.5.2).
const TABLE_BYTES: usize = 4096;
/// What an entry counts beyond its name and value (RFC 7541, 4.1).
const ENTRY_OVERHEAD: usize = 32;
/// The static table's length: the dynamic one begins behind it.
const STATIC: usize = 61;
/// Integers above this mean nothing in a block of bounded size.
const LARGEST: usize = 1 << 24;

/// One field of a request's head. Its value is one that a field of its name may have.
#[derive(Clone, Copy, Debug)]
pub(super) struct Field<'a> {
    pub(super) kind: Kind,
    pub(super) name: &'a [u8],
    pub(super) value: &'a [u8],
    /// No table on its way may keep it (RFC 7541, 6.2.3).
    pub(super) never_indexed: bool,
}

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Method,
    Scheme,
    Authority,
    Path,
    Header,
    /// The text says what is wrong with the field.
    Malformed(&'static str),
}

/// The block doesn't follow the format: COMPRESSION_ERROR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Broken;

#[derive(Debug)]
struct Entry {
    /// Of the name alone.
    name_kind: Kind,
    kind: Kind,
    /// Name and value; the latter only as far as it is used.
    text: Box<[u8]>,
    name_bytes: usize,
    /// Of name and value as they were sent.
    bytes: usize,
}

impl Entry {
    fn name(&self) -> &[u8] {
        self.text.get(..self.name_bytes).unwrap_or_default()
    }

    fn field(&self) -> Field<'_> {
        Field {
            kind: self.kind,
            name: self.name(),
            value: self.text.get(self.name_bytes..).unwrap_or_default(),
            never_indexed: false,
        }
    }

    fn size(&self) -> usize {
        self.bytes.saturating_add(ENTRY_OVERHEAD)
    }
}

/// One connection's table.
#[derive(Debug)]
pub(super) struct Decoder {
    /// The newest first.
    entries: VecDeque<Entry>,
    bytes: usize,
    bound: usize,
    /// A path is cut here: one byte more than any that is served.
    longest_path: usize,
}

/// Where the strings of a block are unpacked.
#[derive(Default)]
struct Room {
    name: Vec<u8>,
    value: Vec<u8>,
}

impl Decoder {
    pub(super) fn new(longest_path: usize) -> Self {
        Self {
            entries: VecDeque::new(),
            bytes: 0,
            bound: TABLE_BYTES,
            longest_path,
        }
    }

    /// Gives each field of a whole block, in order, with the bytes of its name and value.
    pub(super) fn decode(
        &mut self,
        mut block: &[u8],
        mut each: impl FnMut(Field<'_>, usize),
    ) -> Result<(), Broken> {
        let block = &mut block;
        // Of this block alone: nobody's secrets stay behind in a connection that waits.
        let mut room = Room::default();
        let mut begun = false;
        while let Some(first) = block.first().copied() {
            match first {
                0x80.. => self.indexed(integer(block, 7)?, &mut each)?,
                0x40.. => self.literal((block, 6), true, &mut room, &mut each)?,
                0x20.. if begun => return Err(Broken),
                0x20.. => {
                    self.resize(integer(block, 5)?)?;
                    continue;
                }
                _ => self.literal((block, 4), false, &mut room, &mut each)?,
            }
            begun = true;
        }
        Ok(())
    }

    fn indexed(&self, index: usize, each: &mut impl FnMut(Field<'_>, usize)) -> Result<(), Broken> {
        if let Some(entry) = index.checked_sub(STATIC + 1) {
            let entry = self.entries.get(entry).ok_or(Broken)?;
            each(entry.field(), entry.bytes);
        } else {
            let field = static_field(index).ok_or(Broken)?;
            each(field, field.name.len().saturating_add(field.value.len()));
        }
        Ok(())
    }

    fn literal(
        &mut self,
        (block, prefix): (&mut &[u8], u32),
        keep: bool,
        room: &mut Room,
        each: &mut impl FnMut(Field<'_>, usize),
    ) -> Result<(), Broken> {
        let never_indexed = !keep && block.first().is_some_and(|first| first & 0x10 != 0);
        let index = integer(block, prefix)?;
        let (name_kind, name) = match index.checked_sub(STATIC + 1) {
            _ if index == 0 => {
                let name = string(block, &mut room.name)?;
                (read_name(name), name)
            }
            Some(entry) => {
                let entry = self.entries.get(entry).ok_or(Broken)?;
                (entry.name_kind, entry.name())
            }
            None => static_name(index).ok_or(Broken)?,
        };
        let value = string(block, &mut room.value)?;
        let bytes = name.len().saturating_add(value.len());
        let (kind, value) = self.judge(name_kind, value);
        let field = Field {
            kind,
            name,
            value,
            never_indexed,
        };
        each(field, bytes);
        if keep {
            let entry = Entry {
                name_kind,
                kind,
                text: [name, value].concat().into(),
                name_bytes: name.len(),
                bytes,
            };
            self.keep(entry);
        }
        Ok(())
    }

    /// What a field of this kind and value is, and as much of the value as is used.
    fn judge<'a>(&self, kind: Kind, value: &'a [u8]) -> (Kind, &'a [u8]) {
        let used = match kind {
            Kind::Path => value.get(..self.longest_path).unwrap_or(value),
            _ => value,
        };
        let valid = match kind {
            Kind::Method => Method::from_bytes(used).is_ok(),
            Kind::Scheme => Scheme::try_from(used).is_ok(),
            Kind::Authority => is_authority(used),
            // What `:path` may hold beyond that is refused with an answer; it has no fragment (RFC 9113, 8.3.1).
            Kind::Path => is_target(used) || is_odd_path(used),
            Kind::Header => is_value(used),
            Kind::Malformed(_) => true,
        };
        match kind {
            Kind::Malformed(_) => (kind, &[]),
            _ if valid => (kind, used),
            _ => (Kind::Malformed("a field has a value that it may not have"), &[]),
        }
    }

    fn keep(&mut self, entry: Entry) {
        let size = entry.size();
        self.shrink(self.bound.saturating_sub(size));
        if size <= self.bound {
            self.bytes = self.bytes.saturating_add(size);
            self.entries.push_front(entry);
        }
    }

    fn resize(&mut self, bound: usize) -> Result<(), Broken> {
        if bound > TABLE_BYTES {
            return Err(Broken);
        }
        self.bound = bound;
        self.shrink(bound);
        Ok(())
    }

    fn shrink(&mut self, bound: usize) {
        while self.bytes > bound
            && let Some(entry) = self.entries.pop_back()
        {
            self.bytes = self.bytes.saturating_sub(entry.size());
        }
    }
}

/// An integer with a prefix of so many bits (RFC 7541, 5.1).
fn integer(block: &mut &[u8], prefix: u32) -> Result<usize, Broken> {
    let (first, mut rest) = block.split_first().ok_or(Broken)?;
    let mask = 0xffu8 >> (8 - prefix);
    let mut value = usize::from(first & mask);
    if value == usize::from(mask) {
        for shift in [0, 7, 14, 21] {
            let (byte, after) = rest.split_first().ok_or(Broken)?;
            rest = after;
            value = value.saturating_add(usize::from(byte & 0x7f) << shift);
            if byte & 0x80 == 0 {
                *block = rest;
                return if value <= LARGEST { Ok(value) } else { Err(Broken) };
            }
        }
        return Err(Broken);
    }
    *block = rest;
    Ok(value)
}

/// A string (RFC 7541, 5.2), where it stands or unpacked into `room`.
fn string<'b: 'r, 'r>(block: &mut &'b [u8], room: &'r mut Vec<u8>) -> Result<&'r [u8], Broken> {
    let packed = block.first().is_some_and(|first| first & 0x80 != 0);
    let length = integer(block, 7)?;
    let (text, rest) = block.split_at_checked(length).ok_or(Broken)?;
    *block = rest;
    if !packed {
        return Ok(text);
    }
    room.clear();
    huffman::decode(text, room).ok_or(Broken)?;
    Ok(room)
}

fn read_name(name: &[u8]) -> Kind {
    match name {
        b":method" => Kind::Method,
        b":scheme" => Kind::Scheme,
        b":authority" => Kind::Authority,
        b":path" => Kind::Path,
        [b':', ..] => Kind::Malformed("an unknown pseudo-header field"),
        // RFC 9113, 8.2.2: these are for one connection of HTTP/1.
        b"connection" | b"keep-alive" | b"proxy-connection" | b"transfer-encoding" | b"upgrade" => {
            Kind::Malformed("a field that HTTP/2 does not have")
        }
        // RFC 9113, 8.2.1.
        _ if is_token(name) && !name.iter().any(u8::is_ascii_uppercase) => Kind::Header,
        _ => Kind::Malformed("a field has a name that no field may have"),
    }
}

/// RFC 9113, 8.2.1: no control characters, and no whitespace at its ends.
fn is_value(value: &[u8]) -> bool {
    let is_space = |byte: Option<&u8>| byte.is_some_and(|byte| matches!(byte, b' ' | b'\t'));
    !is_space(value.first()) && !is_space(value.last()) && is_field_value(value)
}

/// As RFC 3986 has it; nearly all are a plain name.
fn is_authority(value: &[u8]) -> bool {
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.');
    let plain = !value.is_empty() && value.iter().all(is_plain);
    plain || Authority::try_from(value).is_ok()
}

fn is_odd_path(value: &[u8]) -> bool {
    !value.is_empty() && !value.contains(&b'#') && PathAndQuery::try_from(value).is_ok()
}

/// An entry of the static table (RFC 7541, appendix A) as a whole field.
fn static_field(index: usize) -> Option<Field<'static>> {
    let (kind, name) = static_name(index)?;
    let value: &[u8] = match index {
        2 => b"GET",
        3 => b"POST",
        4 => b"/",
        5 => b"/index.html",
        6 => b"http",
        7 => b"https",
        16 => b"gzip, deflate",
        _ => b"",
    };
    let kind = match kind {
        Kind::Header | Kind::Malformed(_) => kind,
        _ if value.is_empty() => Kind::Malformed("an empty pseudo-header field"),
        _ => kind,
    };
    Some(Field {
        kind,
        name,
        value,
        never_indexed: false,
    })
}

fn static_name(index: usize) -> Option<(Kind, &'static [u8])> {
    Some(match index {
        0 => return None,
        1 => (Kind::Authority, b":authority"),
        2 | 3 => (Kind::Method, b":method"),
        4 | 5 => (Kind::Path, b":path"),
        6 | 7 => (Kind::Scheme, b":scheme"),
        8..=14 => (Kind::Malformed("a status in a request"), b":status"),
        57 => (
            Kind::Malformed("a field that HTTP/2 does not have"),
            b"transfer-encoding",
        ),
        _ => (Kind::Header, STATIC_NAMES.get(index.checked_sub(15)?)?.as_bytes()),
    })
}

/// From index 15 on.
static STATIC_NAMES: [&str; 47] = [
    "accept-charset",
    "accept-encoding",
    "accept-language",
    "accept-ranges",
    "accept",
    "access-control-allow-origin",
    "age",
    "allow",
    "authorization",
    "cache-control",
    "content-disposition",
    "content-encoding",
    "content-language",
    "content-length",
    "content-location",
    "content-range",
    "content-type",
    "cookie",
    "date",
    "etag",
    "expect",
    "expires",
    "from",
    "host",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "last-modified",
    "link",
    "location",
    "max-forwards",
    "proxy-authenticate",
    "proxy-authorization",
    "range",
    "referer",
    "refresh",
    "retry-after",
    "server",
    "set-cookie",
    "strict-transport-security",
    "transfer-encoding",
    "user-agent",
    "vary",
    "via",
    "www-authenticate",
];

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
    use proptest::prelude::*;

    use super::*;
    use crate::proxy::wire::h2::encode;

    fn shown(field: Field<'_>) -> String {
        let text = |bytes| std::str::from_utf8(bytes).unwrap();
        match field.kind {
            Kind::Malformed(how) => format!("malformed: {how}"),
            _ => format!("{} {}", text(field.name), text(field.value)),
        }
    }

    fn read(decoder: &mut Decoder, block: &[u8]) -> Result<Vec<String>, Broken> {
        let mut fields = Vec::new();
        decoder.decode(block, |field, _| fields.push(shown(field)))?;
        Ok(fields)
    }

    /// RFC 7541, C.3 and C.4: the same three requests, plain and packed.
    #[test]
    fn the_examples_of_rfc_7541_read_the_same_plain_and_packed() {
        let plain: [&[u8]; 3] = [
            b"\x82\x86\x84\x41\x0fwww.example.com",
            b"\x82\x86\x84\xbe\x58\x08no-cache",
            b"\x82\x87\x85\xbf\x40\x0acustom-key\x0ccustom-value",
        ];
        let packed: [&[u8]; 3] = [
            b"\x82\x86\x84\x41\x8c\xf1\xe3\xc2\xe5\xf2\x3a\x6b\xa0\xab\x90\xf4\xff",
            b"\x82\x86\x84\xbe\x58\x86\xa8\xeb\x10\x64\x9c\xbf",
            b"\x82\x87\x85\xbf\x40\x88\x25\xa8\x49\xe9\x5b\xa9\x7d\x7f\x89\x25\xa8\x49\xe9\x5b\xb8\xe8\xb4\xbf",
        ];
        let expected: [&[&str]; 3] = [
            &[
                ":method GET",
                ":scheme http",
                ":path /",
                ":authority www.example.com",
            ],
            &[
                ":method GET",
                ":scheme http",
                ":path /",
                ":authority www.example.com",
                "cache-control no-cache",
            ],
            &[
                ":method GET",
                ":scheme https",
                ":path /index.html",
                ":authority www.example.com",
                "custom-key custom-value",
            ],
        ];
        for blocks in [plain, packed] {
            let mut decoder = Decoder::new(100);
            for (block, fields) in blocks.into_iter().zip(expected) {
                assert_eq!(read(&mut decoder, block).unwrap(), fields);
            }
            assert_eq!(decoder.bytes, 164, "the table's size that the RFC gives");
        }
    }

    #[test]
    fn the_table_forgets_the_oldest_and_obeys_its_bound() {
        let mut decoder = Decoder::new(100);
        for letter in b'a'..=b'z' {
            let name = [&[0x40, 1, letter, 0x7f, 0xa9, 0x07][..], &[b'v'; 1064]].concat();
            read(&mut decoder, &name).unwrap();
        }
        assert_eq!(decoder.entries.len(), 3);
        assert!(read(&mut decoder, &[0xbe]).unwrap()[0].starts_with("z "));
        assert!(read(&mut decoder, &[0xc0]).unwrap()[0].starts_with("x "));
        assert_eq!(read(&mut decoder, &[0xc1]), Err(Broken));
        read(&mut decoder, &[0x20]).unwrap();
        assert_eq!((decoder.entries.len(), decoder.bytes), (0, 0));
        assert_eq!(read(&mut decoder, &[0x3f, 0xe2, 0x1f]), Err(Broken), "above 4096");
        assert_eq!(read(&mut decoder, &[0x82, 0x20]), Err(Broken), "behind a field");
    }

    #[test]
    fn what_breaks_the_format_is_broken_and_what_breaks_a_field_is_malformed() {
        let mut decoder = Decoder::new(100);
        for broken in [
            &[0x80][..],
            &[0xbe],
            &[0xff, 0x7f],
            &[0x40],
            &[0x40, 1],
            &[0x00, 1, b'a', 5, b'b'],
        ] {
            assert_eq!(read(&mut decoder, broken), Err(Broken), "{broken:x?}");
        }
        assert_eq!(
            read(&mut decoder, &[0xff, 0x80, 0x80, 0x80, 0x80, 0x01]),
            Err(Broken)
        );
        for malformed in [
            &b"\x00\x01A\x01b"[..],
            b"\x00\x00\x01b",
            b"\x00\x01a\x03b\rc",
            b"\x00\x01a\x02 b",
            b"\x00\x02:x\x01b",
            b"\x00\x0aconnection\x05close",
            b"\x44\x00",
            b"\x88",
            b"\xb9",
        ] {
            let fields = read(&mut decoder, malformed).unwrap();
            assert!(fields[0].starts_with("malformed: "), "{fields:?}");
        }
    }

    #[test]
    fn a_secret_stays_one() {
        let mut decoder = Decoder::new(100);
        let mut sensitive = false;
        decoder
            .decode(b"\x1f\x08\x06secret", |field, _| {
                sensitive = field.name == b"authorization" && field.never_indexed;
            })
            .unwrap();
        assert!(sensitive);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(fields in prop::collection::vec(("[a-z-]{1,20}", "[!-~]{0,300}"), 0..20), twice in any::<bool>()) {
            let mut headers = HeaderMap::new();
            for (name, value) in &fields {
                let name = HeaderName::try_from(format!("x{name}")).unwrap();
                headers.append(name, HeaderValue::try_from(value).unwrap());
            }
            headers.insert(header::ETAG, HeaderValue::from_static("\"x\""));
            headers.insert(header::VARY, HeaderValue::from_static("*"));
            let mut block = Vec::new();
            encode::map(&mut block, &headers);
            let mut decoder = Decoder::new(100);
            for _ in 0..=u8::from(twice) {
                let expected: Vec<_> = headers.iter().map(|(n, v)| format!("{n} {}", v.to_str().unwrap())).collect();
                prop_assert_eq!(read(&mut decoder, &block).unwrap(), expected);
            }
        }
    }

    #[test]
    fn a_status_is_one_byte_where_the_table_has_it() {
        for (code, length) in [(200, 1), (404, 1), (103, 5), (502, 5)] {
            let mut block = Vec::new();
            encode::status(&mut block, StatusCode::from_u16(code).unwrap());
            assert_eq!(block.len(), length, "{code}");
        }
    }
}
