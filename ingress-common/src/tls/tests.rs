use std::vec::Vec;

use proptest::prelude::*;

use super::*;
use crate::names::NameKey;
use crate::window::Payload;

fn read(segment: &[u8]) -> (Hello, Option<NameKey>) {
    let mut payload: Payload = [0xee; _];
    let len = segment.len().min(PAYLOAD_BYTES);
    payload[..len].copy_from_slice(&segment[..len]);
    let window = Window::new(&payload, u32::try_from(len).unwrap());
    let (mut place, mut walk) = (Place::default(), Walk::default());
    let hello = server_name(&window, &mut place, &mut walk);
    (hello, (hello == Hello::Name).then(|| walk.exact()))
}

fn extension(kind: u16, body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::from(kind.to_be_bytes());
    bytes.extend(u16::try_from(body.len()).unwrap().to_be_bytes());
    bytes.extend(body);
    bytes
}

fn named(name: &[u8]) -> Vec<u8> {
    let len = u16::try_from(name.len()).unwrap();
    let mut body = Vec::from((len + 3).to_be_bytes());
    body.push(0);
    body.extend(len.to_be_bytes());
    body.extend(name);
    extension(0, &body)
}

fn hello(extensions: &[Vec<u8>]) -> Vec<u8> {
    let extensions = extensions.concat();
    let mut body = Vec::from([3, 3]);
    body.extend([7; 32]);
    body.extend([0, 0, 4, 0x13, 1, 0x13, 2, 1, 0]);
    body.extend(u16::try_from(extensions.len()).unwrap().to_be_bytes());
    body.extend(extensions);
    record(&body)
}

fn record(body: &[u8]) -> Vec<u8> {
    let len = u16::try_from(body.len()).unwrap();
    let mut bytes = Vec::from([22, 3, 1]);
    bytes.extend((len + 4).to_be_bytes());
    bytes.extend([1, 0]);
    bytes.extend(len.to_be_bytes());
    bytes.extend(body);
    bytes
}

const GREASE: u16 = 0x3a3a;

#[test]
fn the_name_is_found_wherever_it_stands_among_the_extensions() {
    let others = [
        extension(GREASE, &[]),
        extension(43, &[2, 3, 4]),
        extension(51, &[9; 300]),
    ];
    for place in 0..=others.len() {
        let mut all = Vec::from(others.clone());
        all.insert(place, named(b"Shop.Example"));
        assert_eq!(
            read(&hello(&all)),
            (Hello::Name, Some(NameKey::exact(b"shop.example")))
        );
    }
}

#[test]
fn a_hello_cut_anywhere_passes() {
    let whole = hello(&[
        extension(43, &[2, 3, 4]),
        named(b"shop.example"),
        extension(21, &[0; 200]),
    ]);
    for cut in 0..whole.len() {
        let (hello, _) = read(&whole[..cut]);
        assert!(
            matches!(hello, Hello::Split | Hello::Foreign),
            "{hello:?} at {cut}"
        );
    }
    let mut with_more = whole.clone();
    with_more.extend(b"early data");
    assert_eq!(read(&with_more).0, Hello::Name);
    let mut two_records = whole.clone();
    two_records.splice(4..5, [whole[4] - 10]);
    assert_eq!(
        read(&two_records).0,
        Hello::Split,
        "a message that goes on in the next record"
    );
}

#[test]
fn a_hello_beyond_what_is_copied_passes() {
    let long = hello(&[named(b"shop.example"), extension(21, &[0; 2000])]);
    assert!(long.len() > PAYLOAD_BYTES);
    assert_eq!(read(&long).0, Hello::Split);
}

#[test]
fn encrypted_nameless_and_unusual_hellos_pass() {
    let name = named(b"shop.example");
    let ech = extension(0xfe0d, &[0; 40]);
    assert_eq!(read(&hello(&[name.clone(), ech.clone()])).0, Hello::Encrypted);
    assert_eq!(read(&hello(&[ech, name.clone()])).0, Hello::Encrypted);
    assert_eq!(read(&hello(&[extension(43, &[2, 3, 4])])).0, Hello::NoName);
    assert_eq!(read(&hello(&[])).0, Hello::NoName);
    assert_eq!(read(&hello(&[name.clone(), name.clone()])).0, Hello::Unusual);
    for odd in [
        &b"10.0.0.1"[..],
        b"::1",
        b"a.",
        b"",
        b"a..b",
        b"caf\xc3\xa9",
        &[b'a'; 254],
    ] {
        let (hello, _) = read(&hello(&[named(odd)]));
        assert_eq!(hello, Hello::Unusual, "{}", odd.escape_ascii());
    }
    let mut other_kind = name.clone();
    other_kind[6] = 1;
    assert_eq!(read(&hello(&[other_kind])).0, Hello::Unusual);
    let two_names = extension(0, b"\0\x08\0\0\x01a\0\0\x01b");
    assert_eq!(read(&hello(&[two_names])).0, Hello::Unusual);
}

#[test]
fn as_many_extensions_as_are_followed_are_judged_and_one_more_is_not() {
    let mut all = std::vec![named(b"shop.example")];
    all.resize(48, extension(GREASE, &[]));
    assert_eq!(read(&hello(&all)).0, Hello::Name);
    all.push(extension(GREASE, &[]));
    assert_eq!(read(&hello(&all)).0, Hello::Unusual);
}

#[test]
fn lengths_that_contradict_each_other_are_malformed() {
    let whole = hello(&[extension(43, &[2, 3, 4]), named(b"shop.example")]);
    let extensions = 9 + 2 + 32 + 9;
    for (at, value) in [
        (43, 255),
        (44, 255),
        (extensions, 200),
        (extensions + 1, 1),
        (extensions + 4, 9),
    ] {
        let mut bad = whole.clone();
        bad[at] = value;
        assert_eq!(read(&bad).0, Hello::Malformed, "{value} at {at}");
    }
}

proptest! {
    #[test]
    fn whatever_comes_is_read_without_going_beyond_it(bytes in prop::collection::vec(any::<u8>(), 0..2300)) {
        let _ = read(&bytes);
        let body = bytes.get(..2000).unwrap_or(&bytes);
        let _ = read(&record(body));
    }
}
