//! Reading header blocks (RFC 7541): the dynamic table, and fields that are parsed once, when they enter it. Pure.
//!
//! Strings that no field may hold are fields too, so that one bad field costs its request and not the connection; what breaks the
//! format itself costs the connection, since nobody knows the table from there on.

use std::collections::VecDeque;

use http::header::{self, HeaderName};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderValue, Method};

use super::huffman;

/// `SETTINGS_HEADER_TABLE_SIZE` where none is said (RFC 9113, 6.5.2).
const TABLE_BYTES: usize = 4096;
/// What an entry counts beyond its name and value (RFC 7541, 4.1).
const ENTRY_OVERHEAD: usize = 32;
/// The static table's length: the dynamic one begins behind it.
const STATIC: usize = 61;
/// Integers above this mean nothing in a block of bounded size.
const LARGEST: usize = 1 << 24;

/// One field of a request's head.
#[derive(Clone, Debug)]
pub(super) enum Field {
    Method(Method),
    Scheme(Scheme),
    Authority(Authority),
    Path(PathAndQuery),
    Header(HeaderName, HeaderValue),
    /// The text says what is wrong with it.
    Malformed(&'static str),
}

/// The block doesn't follow the format: COMPRESSION_ERROR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Broken;

/// What a name in a table stands for.
#[derive(Clone, Debug)]
enum Name {
    Method,
    Scheme,
    Authority,
    Path,
    Header(HeaderName),
    Malformed(&'static str),
}

#[derive(Debug)]
struct Entry {
    name: Name,
    name_bytes: usize,
    field: Field,
    bytes: usize,
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
    /// Where strings are unpacked; kept only while a block is read.
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
            name: Vec::new(),
            value: Vec::new(),
        }
    }

    /// Gives each field of a whole block, in order, with the bytes of its name and value.
    pub(super) fn decode(
        &mut self,
        mut block: &[u8],
        mut each: impl FnMut(&Field, usize),
    ) -> Result<(), Broken> {
        let block = &mut block;
        let mut begun = false;
        while let Some(first) = block.first().copied() {
            match first {
                0x80.. => self.indexed(integer(block, 7)?, &mut each)?,
                0x40.. => self.literal(block, 6, true, &mut each)?,
                0x20.. if begun => return Err(Broken),
                0x20.. => {
                    self.resize(integer(block, 5)?)?;
                    continue;
                }
                _ => self.literal(block, 4, false, &mut each)?,
            }
            begun = true;
        }
        // Nobody's secrets stay behind in a connection that waits.
        self.name = Vec::new();
        self.value = Vec::new();
        Ok(())
    }

    fn indexed(&self, index: usize, each: &mut impl FnMut(&Field, usize)) -> Result<(), Broken> {
        if let Some(entry) = index.checked_sub(STATIC + 1) {
            let entry = self.entries.get(entry).ok_or(Broken)?;
            each(&entry.field, entry.bytes);
        } else {
            let (field, bytes) = static_field(index).ok_or(Broken)?;
            each(&field, bytes);
        }
        Ok(())
    }

    fn literal(
        &mut self,
        block: &mut &[u8],
        prefix: u32,
        keep: bool,
        each: &mut impl FnMut(&Field, usize),
    ) -> Result<(), Broken> {
        let never_indexed = !keep && block.first().is_some_and(|first| first & 0x10 != 0);
        let index = integer(block, prefix)?;
        let (name, name_bytes) = match index.checked_sub(STATIC + 1) {
            _ if index == 0 => {
                string(block, &mut self.name)?;
                (read_name(&self.name), self.name.len())
            }
            Some(entry) => {
                let entry = self.entries.get(entry).ok_or(Broken)?;
                (entry.name.clone(), entry.name_bytes)
            }
            None => static_name(index).ok_or(Broken)?,
        };
        string(block, &mut self.value)?;
        let bytes = name_bytes.saturating_add(self.value.len());
        let mut field = self.field(&name);
        if let Field::Header(_, value) = &mut field {
            value.set_sensitive(never_indexed);
        }
        each(&field, bytes);
        if keep {
            self.keep(Entry {
                name,
                name_bytes,
                field,
                bytes,
            });
        }
        Ok(())
    }

    fn field(&self, name: &Name) -> Field {
        let value = self.value.as_slice();
        let read = match name {
            Name::Method => Method::from_bytes(value).ok().map(Field::Method),
            Name::Scheme => Scheme::try_from(value).ok().map(Field::Scheme),
            Name::Authority => Authority::try_from(value).ok().map(Field::Authority),
            // The type would drop a fragment without a word; `:path` has none (RFC 9113, 8.3.1).
            Name::Path => PathAndQuery::try_from(value.get(..self.longest_path).unwrap_or(value))
                .ok()
                .filter(|_| !value.is_empty() && !value.contains(&b'#'))
                .map(Field::Path),
            Name::Header(name) => read_value(value).map(|value| Field::Header(name.clone(), value)),
            Name::Malformed(how) => Some(Field::Malformed(how)),
        };
        read.unwrap_or(Field::Malformed("a field has a value that it may not have"))
    }

    fn keep(&mut self, entry: Entry) {
        let size = entry.bytes.saturating_add(ENTRY_OVERHEAD);
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
            self.bytes = self
                .bytes
                .saturating_sub(entry.bytes.saturating_add(ENTRY_OVERHEAD));
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

/// A string (RFC 7541, 5.2) in place of what `out` held.
fn string(block: &mut &[u8], out: &mut Vec<u8>) -> Result<(), Broken> {
    let packed = block.first().is_some_and(|first| first & 0x80 != 0);
    let length = integer(block, 7)?;
    let (text, rest) = block.split_at_checked(length).ok_or(Broken)?;
    *block = rest;
    out.clear();
    if packed {
        huffman::decode(text, out).ok_or(Broken)
    } else {
        out.extend_from_slice(text);
        Ok(())
    }
}

fn read_name(name: &[u8]) -> Name {
    match name {
        b":method" => Name::Method,
        b":scheme" => Name::Scheme,
        b":authority" => Name::Authority,
        b":path" => Name::Path,
        [b':', ..] => Name::Malformed("an unknown pseudo-header field"),
        // RFC 9113, 8.2.2: these are for one connection of HTTP/1.
        b"connection" | b"keep-alive" | b"proxy-connection" | b"transfer-encoding" | b"upgrade" => {
            Name::Malformed("a field that HTTP/2 does not have")
        }
        _ => match HeaderName::from_lowercase(name) {
            Ok(name) => Name::Header(name),
            Err(_) => Name::Malformed("a field has a name that no field may have"),
        },
    }
}

/// RFC 9113, 8.2.1: no control characters, and no whitespace at its ends.
fn read_value(value: &[u8]) -> Option<HeaderValue> {
    let is_space = |byte: Option<&u8>| byte.is_some_and(|byte| matches!(byte, b' ' | b'\t'));
    if is_space(value.first()) || is_space(value.last()) {
        return None;
    }
    HeaderValue::from_bytes(value).ok()
}

/// An entry of the static table (RFC 7541, appendix A) as a whole field.
fn static_field(index: usize) -> Option<(Field, usize)> {
    let (name, bytes) = static_name(index)?;
    Some(match index {
        2 => (Field::Method(Method::GET), 10),
        3 => (Field::Method(Method::POST), 11),
        4 => (Field::Path(PathAndQuery::from_static("/")), 6),
        5 => (Field::Path(PathAndQuery::from_static("/index.html")), 16),
        6 => (Field::Scheme(Scheme::HTTP), 11),
        7 => (Field::Scheme(Scheme::HTTPS), 12),
        16 => (
            Field::Header(header::ACCEPT_ENCODING, HeaderValue::from_static("gzip, deflate")),
            bytes + 13,
        ),
        _ => match name {
            Name::Header(name) => (Field::Header(name, HeaderValue::from_static("")), bytes),
            Name::Malformed(how) => (Field::Malformed(how), bytes),
            _ => (Field::Malformed("an empty pseudo-header field"), bytes),
        },
    })
}

fn static_name(index: usize) -> Option<(Name, usize)> {
    Some(match index {
        0 => return None,
        1 => (Name::Authority, 10),
        2 | 3 => (Name::Method, 7),
        4 | 5 => (Name::Path, 5),
        6 | 7 => (Name::Scheme, 7),
        8..=14 => (Name::Malformed("a status in a request"), 7),
        57 => (Name::Malformed("a field that HTTP/2 does not have"), 17),
        _ => {
            let name = STATIC_NAMES.get(index.checked_sub(15)?)?;
            (Name::Header(name.clone()), name.as_str().len())
        }
    })
}

/// From index 15 on.
static STATIC_NAMES: [HeaderName; 47] = [
    header::ACCEPT_CHARSET,
    header::ACCEPT_ENCODING,
    header::ACCEPT_LANGUAGE,
    header::ACCEPT_RANGES,
    header::ACCEPT,
    header::ACCESS_CONTROL_ALLOW_ORIGIN,
    header::AGE,
    header::ALLOW,
    header::AUTHORIZATION,
    header::CACHE_CONTROL,
    header::CONTENT_DISPOSITION,
    header::CONTENT_ENCODING,
    header::CONTENT_LANGUAGE,
    header::CONTENT_LENGTH,
    header::CONTENT_LOCATION,
    header::CONTENT_RANGE,
    header::CONTENT_TYPE,
    header::COOKIE,
    header::DATE,
    header::ETAG,
    header::EXPECT,
    header::EXPIRES,
    header::FROM,
    header::HOST,
    header::IF_MATCH,
    header::IF_MODIFIED_SINCE,
    header::IF_NONE_MATCH,
    header::IF_RANGE,
    header::IF_UNMODIFIED_SINCE,
    header::LAST_MODIFIED,
    header::LINK,
    header::LOCATION,
    header::MAX_FORWARDS,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::RANGE,
    header::REFERER,
    header::REFRESH,
    header::RETRY_AFTER,
    header::SERVER,
    header::SET_COOKIE,
    header::STRICT_TRANSPORT_SECURITY,
    header::TRANSFER_ENCODING,
    header::USER_AGENT,
    header::VARY,
    header::VIA,
    header::WWW_AUTHENTICATE,
];

#[cfg(test)]
mod tests {
    use http::{HeaderMap, StatusCode};
    use proptest::prelude::*;

    use super::*;
    use crate::proxy::wire::h2::encode;

    fn shown(field: &Field) -> String {
        match field {
            Field::Method(method) => format!(":method {method}"),
            Field::Scheme(scheme) => format!(":scheme {scheme}"),
            Field::Authority(authority) => format!(":authority {authority}"),
            Field::Path(path) => format!(":path {path}"),
            Field::Header(name, value) => format!("{name} {}", value.to_str().unwrap()),
            Field::Malformed(how) => format!("malformed: {how}"),
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
                sensitive = matches!(field, Field::Header(name, value) if *name == header::AUTHORIZATION && value.is_sensitive());
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
            encode::fields(&mut block, &headers);
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
