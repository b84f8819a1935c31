//! The server name of a ClientHello that lies whole in one segment (RFC 8446, 4.1.2; RFC 6066, 3).
//!
//! Sure of a name, or sure of a contradiction in the lengths; everything else is not judged: what is split, encrypted, without
//! a name or with an unusual one.

use core::hint::black_box;

use crate::names::{self, Walk};
use crate::window::{PAYLOAD_BYTES, SLACK, Window};

/// The copied payload.
pub type Bytes<'a> = Window<'a, { PAYLOAD_BYTES + SLACK }>;

/// What a connection's first segment says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hello {
    /// A name, read into the walk.
    Name,
    /// Not a TLS handshake.
    Foreign,
    /// The record does not end within what was copied, or the message not within the record.
    Split,
    /// Encrypted ClientHello (RFC 9849): the name that is seen is not the one that is meant.
    Encrypted,
    NoName,
    /// More extensions than are followed, several names, a name that is no plain host name.
    Unusual,
    /// Lengths that contradict each other: no TLS stack takes it.
    Malformed,
}

const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const SERVER_NAME: u16 = 0;
const ENCRYPTED_CLIENT_HELLO: u16 = 0xfe0d;
/// Real hellos have about twenty.
const MOST_EXTENSIONS: u32 = 48;

/// Where the reading stands. In map memory, as [`Walk`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    at: u32,
    end: u32,
    pub name_at: u32,
    name_len: u32,
    /// Of the constants below.
    seen: u32,
    padding: u32,
}

const _: () = assert!(size_of::<Place>() == 24);

const SEEN_NAME: u32 = 1;
const SEEN_UNUSUAL: u32 = 2;
const SEEN_ENCRYPTED: u32 = 4;

/// Whether it is worth proving that this is a connection's first segment.
#[inline(always)]
pub fn looks_like(bytes: &Bytes<'_>) -> bool {
    bytes.u8(0) == Some(HANDSHAKE) && bytes.u8(1) == Some(3) && bytes.u8(5) == Some(CLIENT_HELLO)
}

/// Reads a first segment.
#[inline(always)]
pub fn server_name(bytes: &Bytes<'_>, place: &mut Place, walk: &mut Walk) -> Hello {
    if !looks_like(bytes) {
        return Hello::Foreign;
    }
    match extensions_of(bytes, place) {
        Ok(()) => {}
        Err(why) => return why,
    }
    let why = follow(bytes, place);
    if why != Hello::Name {
        return why;
    }
    if names::read(bytes, place.name_at, place.name_len, walk) {
        Hello::Name
    } else {
        Hello::Unusual
    }
}

/// Goes to the extensions: sets `at` to the first and `end` behind the last.
#[inline(always)]
fn extensions_of(bytes: &Bytes<'_>, place: &mut Place) -> Result<(), Hello> {
    let record = u32::from(bytes.u16(3).ok_or(Hello::Split)?);
    let [high, middle, low]: [u8; 3] = bytes.array(6).ok_or(Hello::Split)?;
    let end = 9 + u32::from_be_bytes([0, high, middle, low]);
    if 5 + record > bytes.len() || end > 5 + record {
        return Err(Hello::Split);
    }
    // From here on everything that is missing contradicts `end`.
    let mut at = 9 + 2 + 32;
    at += 1 + u32::from(inside_u8(bytes, at, end)?);
    at += 2 + u32::from(inside_u16(bytes, at, end)?);
    at += 1 + u32::from(inside_u8(bytes, at, end)?);
    if at == end {
        // TLS 1.2 and older may have none at all.
        return Err(Hello::NoName);
    }
    let length = u32::from(inside_u16(bytes, at, end)?);
    at += 2;
    if at + length != end {
        return Err(Hello::Malformed);
    }
    *place = Place {
        at,
        end,
        ..Place::default()
    };
    Ok(())
}

#[inline(always)]
fn inside_u8(bytes: &Bytes<'_>, at: u32, end: u32) -> Result<u8, Hello> {
    if at + 1 > end {
        return Err(Hello::Malformed);
    }
    bytes.u8(at).ok_or(Hello::Split)
}

#[inline(always)]
fn inside_u16(bytes: &Bytes<'_>, at: u32, end: u32) -> Result<u16, Hello> {
    if at + 2 > end {
        return Err(Hello::Malformed);
    }
    bytes.u16(at).ok_or(Hello::Split)
}

/// Walks over all extensions: the last may be the one that forbids a judgement.
#[inline(always)]
fn follow(bytes: &Bytes<'_>, place: &mut Place) -> Hello {
    let mut place = place;
    let mut followed = 0;
    while followed < MOST_EXTENSIONS {
        place = black_box(place);
        if place.at >= place.end {
            return conclude(place);
        }
        match extension(bytes, place) {
            Ok(()) => {}
            Err(why) => return why,
        }
        followed += 1;
    }
    place = black_box(place);
    if place.at >= place.end {
        conclude(place)
    } else {
        Hello::Unusual
    }
}

#[inline(always)]
fn extension(bytes: &Bytes<'_>, place: &mut Place) -> Result<(), Hello> {
    let (at, end) = (place.at, place.end);
    if at + 4 > end {
        return Err(Hello::Malformed);
    }
    let kind = bytes.u16(at).ok_or(Hello::Split)?;
    let length = u32::from(bytes.u16(at + 2).ok_or(Hello::Split)?);
    if at + 4 + length > end {
        return Err(Hello::Malformed);
    }
    if kind == SERVER_NAME {
        name_list(bytes, place, at + 4, length)?;
    }
    if kind == ENCRYPTED_CLIENT_HELLO {
        place.seen |= SEEN_ENCRYPTED;
    }
    place.at = at + 4 + length;
    Ok(())
}

/// Exactly one name of type host_name; anything else is unusual.
#[inline(always)]
fn name_list(bytes: &Bytes<'_>, place: &mut Place, at: u32, length: u32) -> Result<(), Hello> {
    if place.seen & SEEN_NAME != 0 || length < 5 {
        place.seen |= SEEN_UNUSUAL;
        return Ok(());
    }
    let [list_high, list_low, kind, high, low]: [u8; 5] = bytes.array(at).ok_or(Hello::Split)?;
    let list = u32::from(u16::from_be_bytes([list_high, list_low]));
    let name = u32::from(u16::from_be_bytes([high, low]));
    if list + 2 != length || kind != 0 || name + 3 != list || name == 0 {
        place.seen |= SEEN_UNUSUAL;
    }
    place.seen |= SEEN_NAME;
    place.name_at = at + 5;
    place.name_len = name;
    Ok(())
}

#[inline(always)]
fn conclude(place: &Place) -> Hello {
    if place.seen & SEEN_ENCRYPTED != 0 {
        Hello::Encrypted
    } else if place.seen & SEEN_UNUSUAL != 0 {
        Hello::Unusual
    } else if place.seen & SEEN_NAME == 0 {
        Hello::NoName
    } else {
        Hello::Name
    }
}

#[cfg(test)]
mod tests;
