use proptest::prelude::*;

use super::*;
use crate::names::NameKey;
use crate::window::{PAYLOAD_BYTES, Payload, Window};

fn read(segment: &[u8]) -> (Request, Option<NameKey>) {
    let mut payload: Payload = [0xee; _];
    let len = segment.len().min(PAYLOAD_BYTES);
    payload[..len].copy_from_slice(&segment[..len]);
    let window = Window::new(&payload, u32::try_from(len).unwrap());
    let (mut line, mut walk) = (Line::default(), Walk::default());
    let request = host(&window, &mut line, &mut walk);
    (request, (request == Request::Host).then(|| walk.exact()))
}

fn request(text: &str) -> Request {
    read(text.as_bytes()).0
}

#[test]
fn the_host_is_found_in_any_case_with_port_and_blanks() {
    for fields in [
        "Host: shop.example",
        "HOST:shop.example",
        "host: \t SHOP.example:8080 \t",
        "host: shop.example:",
        "Accept: */*\r\nHostile: x\r\nhos: y\r\nHost: shop.example\r\nx-host: other.example\r\nCookie: a=\x7a",
    ] {
        let text = std::format!("GET /a?b=c HTTP/1.1\r\n{fields}\r\n\r\nbody");
        let expected = (Request::Host, Some(NameKey::exact(b"shop.example")));
        assert_eq!(read(text.as_bytes()), expected, "{fields:?}");
    }
    assert_eq!(request("DELETE / HTTP/1.0\r\nHost: a.b\r\n\r\n"), Request::Host);
}

#[test]
fn a_head_cut_anywhere_passes() {
    let whole = b"POST /upload HTTP/1.1\r\nHost: shop.example\r\nContent-Length: 3\r\n\r\n";
    for cut in 2..whole.len() {
        assert_eq!(read(&whole[..cut]).0, Request::Split, "at {cut}");
    }
    let long = std::format!(
        "GET / HTTP/1.1\r\nHost: a.b\r\nCookie: {}\r\n\r\n",
        "x".repeat(1000)
    );
    assert_eq!(request(&long), Request::Split);
}

#[test]
fn what_is_no_request_in_origin_form_passes() {
    for text in [
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "OPTIONS * HTTP/1.1\r\nHost: a.b\r\n\r\n",
        "GET http://a.b/ HTTP/1.1\r\nHost: a.b\r\n\r\n",
        "CONNECT a.b:443 HTTP/1.1\r\nHost: a.b\r\n\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\nGET / HTTP/1.1\r\nHost: a.b\r\n\r\n",
        "get / HTTP/1.1\r\nHost: a.b\r\n\r\n",
        "G\0T / HTTP/1.1\r\n",
        "SSH-2.0-x\r\n",
        "",
        "\r\nGET / HTTP/1.1\r\nHost: a.b\r\n\r\n",
    ] {
        assert_eq!(request(text), Request::Foreign, "{text:?}");
    }
}

#[test]
fn what_two_readers_could_take_differently_passes() {
    for head in [
        "/ HTTP/1.1\r\nHost: a.b\r\nHost: a.b",
        "/ HTTP/1.1\r\nHost : a.b",
        "/ HTTP/1.1\r\n Host: a.b",
        "/ HTTP/1.1\r\nHost: a.b\r\n folded",
        "/ HTTP/1.1\r\nHost: a.b\n",
        "/ HTTP/1.1\nHost: a.b",
        "/ HTTP/1.1\r\nHost: a.b\rx",
        "/ HTTP/1.1\r\nHost: a b",
        "/ HTTP/1.1\r\nHost: a.b,c.d",
        "/ HTTP/1.1\r\nHost: u@a.b",
        "/ HTTP/1.1\r\nHost: a.b:80x",
        "/ HTTP/1.1\r\nHost:",
        "/ HTTP/1.1\r\nHost: [::1]",
        "/ HTTP/1.1\r\nHost: 10.0.0.1:80",
        "/ HTTP/1.1\r\nHost: a.b.",
        "/ HTTP/1.1\r\nX: \0\r\nHost: a.b",
        "/ HTTP/2.0\r\nHost: a.b",
        "/ HTTP/1.11\r\nHost: a.b",
        "/ HTTP/1.1 \r\nHost: a.b",
        "/ \r\nHost: a.b",
        "/\r\nHost: a.b",
        "/ HTTP/1.1\r\n: x\r\nHost: a.b",
        "/ HTTP/1.1\r\nno colon\r\nHost: a.b",
    ] {
        assert_eq!(
            request(&std::format!("GET {head}\r\n\r\n")),
            Request::Unusual,
            "{head:?}"
        );
    }
    assert_eq!(request("GET / HTTP/1.1\r\nX: y\r\n\r\n"), Request::NoHost);
    assert_eq!(
        request("GET / HTTP/1.1\r\n\r\nHost: a.b\r\n\r\n"),
        Request::NoHost
    );
}

proptest! {
    #[test]
    fn whatever_comes_is_read_without_going_beyond_it(bytes in prop::collection::vec(any::<u8>(), 0..2300)) {
        let _ = read(&bytes);
        let _ = read(&[&b"GET / HTTP/1.1\r\n"[..], &bytes].concat());
    }
}
