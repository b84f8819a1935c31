//! A connection's first segment through the kernel's reading of names (which runs here as it does there), beside rustls and httparse.
//!
//! A false reject is a defect: a name that the kernel's side is sure of has to be the one that user space would read, and what it calls
//! malformed has to be refused by user space, too.

use ingress_common::http::{self, Line, Request};
use ingress_common::names::{NameKey, Walk};
use ingress_common::tls::{self, Hello, Place};
use ingress_common::window::{PAYLOAD_BYTES, Payload, Window};
use ingress_core::host::RequestHost;
use rustls::server::Acceptor;

use super::{Target, cuts, outcome};

pub static FIRST_WORDS: Target = Target {
    name: "first_words",
    executions: 20_000,
    longest: 2200,
    words: &[
        b"\x16\x03\x01",
        b"\x01\0\0",
        b"\x03\x03",
        b"\0\0\0\x0e\0\x0c\0\0\x09shop.test",
        b"\0\0\0\x05\0\x03\0\0\0",
        b"\xfe\x0d\0\x01\0",
        b"\x3a\x3a\0\0",
        b"\0\x2b\0\x03\x02\x03\x04",
        b"SHOP.test.",
        b"10.0.0.1",
        b"xn--bcher-kva.test",
        b"\xff\xff",
        b"\0\0",
        b"GET / HTTP/1.1\r\n",
        b"Host: shop.test\r\n",
        b"host:",
        b"Host : a",
        b"\r\n",
        b"\r\n\r\n",
        b" ",
        b"\t",
        b":443",
        b"http://shop.test/",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
    check,
};

/// What the kernel's side is sure of.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Sure {
    TlsName(u64),
    Host(u64),
    Malformed,
    /// Why it is not.
    Not(String),
}

fn check(input: &[u8]) -> u64 {
    let whole = read(input);
    match &whole {
        Sure::TlsName(key) => assert_eq!(hello(input).unwrap_or(Some(*key)), Some(*key), "not rustls' name"),
        Sure::Malformed => assert!(hello(input).is_err(), "rustls takes what is called malformed"),
        Sure::Host(key) => assert_eq!(host(input).unwrap_or(*key), *key, "not httparse's host"),
        Sure::Not(_) => {}
    }
    for cut in cuts(input) {
        let part = read(&input[..cut]);
        // A part never says something else than the whole: it is not sure yet, or as sure.
        assert!(
            matches!(part, Sure::Not(_)) || part == whole,
            "{part:?} after {cut} bytes, then {whole:?}"
        );
    }
    outcome(kind(&whole))
}

fn kind(sure: &Sure) -> String {
    match sure {
        Sure::TlsName(_) => "name".to_owned(),
        Sure::Host(_) => "host".to_owned(),
        other => format!("{other:?}"),
    }
}

fn read(segment: &[u8]) -> Sure {
    let mut payload: Payload = [0; _];
    let len = segment.len().min(PAYLOAD_BYTES);
    payload[..len].copy_from_slice(&segment[..len]);
    let window = Window::new(&payload, u32::try_from(len).unwrap_or_default());
    let mut walk = Walk::default();
    match tls::server_name(&window, &mut Place::default(), &mut walk) {
        Hello::Name => return Sure::TlsName(walk.exact().0),
        Hello::Malformed => return Sure::Malformed,
        Hello::Foreign => {}
        why => return Sure::Not(format!("{why:?}")),
    }
    match http::host(&window, &mut Line::default(), &mut walk) {
        Request::Host => Sure::Host(walk.exact().0),
        why => Sure::Not(format!("{why:?}")),
    }
}

/// The name that rustls reads, or that it refuses the hello.
fn hello(input: &[u8]) -> Result<Option<u64>, ()> {
    let mut acceptor = Acceptor::default();
    let mut rest = input;
    while !rest.is_empty() {
        if acceptor.read_tls(&mut rest).map_err(drop)? == 0 {
            break;
        }
        if let Some(accepted) = acceptor.accept().map_err(drop)? {
            let hello = accepted.client_hello();
            let name = hello.server_name().map(str::to_ascii_lowercase);
            return Ok(name.map(|name| NameKey::exact(name.as_bytes()).0));
        }
    }
    Err(())
}

/// The host that the agent would look up, or that it would refuse the request.
fn host(input: &[u8]) -> Option<u64> {
    let mut fields = [httparse::EMPTY_HEADER; 200];
    let mut request = httparse::Request::new(&mut fields);
    if !request.parse(input).ok()?.is_complete() {
        return None;
    }
    let mut hosts = request
        .headers
        .iter()
        .filter(|field| field.name.eq_ignore_ascii_case("host"));
    let text = std::str::from_utf8(hosts.next()?.value).ok()?;
    assert!(hosts.next().is_none(), "one of several hosts");
    let parsed = RequestHost::parse(text).ok()?;
    Some(NameKey::exact(parsed.name.as_bytes()).0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As real clients send them; captured on loopback.
    #[test]
    fn first_words_of_rustls_openssl_curl_go_and_chromium_are_read_and_what_is_unsure_is_not() {
        let shop = NameKey::exact(b"shop.test").0;
        let not = |why: &str| Sure::Not(why.to_owned());
        for (name, expected) in [
            ("openssl-tls13", Sure::TlsName(shop)),
            ("openssl-tls12", Sure::TlsName(shop)),
            ("curl-tls", Sure::TlsName(shop)),
            ("go-classic", Sure::TlsName(shop)),
            ("go-pq", Sure::TlsName(shop)),
            // Its hello is 1981 bytes, with an Encrypted ClientHello in it always.
            ("chromium", not("Encrypted")),
            ("chromium-http", Sure::Host(shop)),
            ("tls12", Sure::TlsName(NameKey::exact(b"other.test").0)),
            ("tls13-pq", Sure::TlsName(shop)),
            ("tls13-two-records", not("Split")),
            ("tls13-ip", not("NoName")),
            ("openssl-noname", not("NoName")),
            ("curl-http", Sure::Host(shop)),
            ("curl-h2c", not("Foreign")),
        ] {
            let file = format!("{}/fuzz/corpus/first_words/{name}", env!("CARGO_MANIFEST_DIR"));
            let bytes = std::fs::read(file).unwrap();
            assert_eq!(read(&bytes), expected, "{name}");
            for cut in 0..bytes.len() {
                let part = read(&bytes[..cut]);
                assert!(matches!(part, Sure::Not(_)), "{name}: {part:?} after {cut} bytes");
            }
        }
    }
}
