//! PROXY protocol in: believed from trusted peers alone, and only where it is expected.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use ingress_tests::RawBackend;
use ingress_tests::raw::Step;

use crate::site::{HOST, Site, statuses};
use crate::strict::StrictBackend;

const ON: [&str; 4] = ["--proxy-protocol", "on", "--trusted-proxies", "127.0.0.1/32"];

fn get() -> Vec<u8> {
    format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n").into_bytes()
}

fn v2(command: u8, family: u8, block: &[u8]) -> Vec<u8> {
    let mut bytes = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
    bytes.extend([0x20 | command, family]);
    bytes.extend(u16::try_from(block.len()).unwrap().to_be_bytes());
    bytes.extend(block);
    bytes
}

fn v2_client() -> Vec<u8> {
    v2(1, 0x11, &[203, 0, 113, 7, 10, 0, 0, 1, 0x12, 0x67, 0x1, 0xbb])
}

#[test]
fn both_versions_name_the_client_to_the_backend() {
    let backend = StrictBackend::start();
    let site = Site::with(&[backend.address()], &[], &ON);
    let mut with_tlv = vec![203, 0, 113, 9, 10, 0, 0, 1, 0x12, 0x67, 0x1, 0xbb];
    with_tlv.extend([3, 0, 4, 1, 2, 3, 4]);
    let ipv6 = [
        &[0x20, 1, 0xd, 0xb8][..],
        &[0; 11],
        &[7],
        &[0; 16],
        &[0x12, 0x67, 1, 0xbb],
    ]
    .concat();
    let cases: [(Vec<u8>, &str); 7] = [
        (
            b"PROXY TCP4 203.0.113.7 10.0.0.1 4711 443\r\n".to_vec(),
            "203.0.113.7",
        ),
        (b"PROXY TCP6 2001:db8::7 ::1 4711 443\r\n".to_vec(), "2001:db8::7"),
        (b"PROXY UNKNOWN\r\n".to_vec(), "127.0.0.1"),
        (v2_client(), "203.0.113.7"),
        (v2(1, 0x11, &with_tlv), "203.0.113.9"),
        (v2(1, 0x21, &ipv6), "2001:db8::7"),
        (v2(0, 0, &[]), "127.0.0.1"),
    ];
    for (header, client) in cases {
        let answer = site.exchange([header.clone(), get()].concat());
        assert_eq!(statuses(&answer), [200], "{header:?}: {answer:?}");
        let requests = backend.requests();
        let request = requests.last().unwrap();
        assert_eq!(request.fields("x-real-ip"), [client], "{header:?}");
        assert_eq!(request.fields("x-forwarded-for"), [client], "{header:?}");
    }
}

#[test]
fn a_header_that_comes_byte_by_byte_is_read_like_a_whole_one() {
    let backend = StrictBackend::start();
    let site = Site::with(&[backend.address()], &[], &ON);
    for header in [
        v2_client(),
        b"PROXY TCP4 203.0.113.7 10.0.0.1 4711 443\r\n".to_vec(),
    ] {
        let mut client = site.client();
        client.send_byte_by_byte([header, get()].concat()).unwrap();
        client.read_until("\r\n\r\nok").unwrap();
        let requests = backend.requests();
        assert_eq!(requests.last().unwrap().fields("x-real-ip"), ["203.0.113.7"]);
    }
}

#[test]
fn a_trusted_peer_without_a_whole_and_right_header_is_closed() {
    let backend = StrictBackend::start();
    let flags = [&ON[..], &["--head-timeout", "300ms"]].concat();
    let site = Site::with(&[backend.address()], &[], &flags);
    let long = [b"PROXY TCP4 ".to_vec(), vec![b'1'; 200]].concat();
    let cases: [Vec<u8>; 9] = [
        b"".to_vec(),
        b"PROXY TCP4 203.0.113.7 10.0.0.1 4711 99999\r\n".to_vec(),
        b"PROXY TCP4 ::1 ::1 1 1\r\n".to_vec(),
        b"PROXY TCP4 203.0.113.7 10.0.0.1 4711 443\n".to_vec(),
        b"PROXY  TCP4 203.0.113.7 10.0.0.1 4711 443\r\n".to_vec(),
        b"proxy TCP4 203.0.113.7 10.0.0.1 4711 443\r\n".to_vec(),
        long,
        v2(1, 0x11, &[1, 2, 3]),
        v2(5, 0x11, &[203, 0, 113, 7, 10, 0, 0, 1, 0x12, 0x67, 0x1, 0xbb]),
    ];
    for header in cases {
        let mut client = site.client();
        client.send([header.clone(), get()].concat()).unwrap();
        let answer = client.read_to_end().unwrap_or_default();
        assert_eq!(answer, b"", "{header:?}");
    }
    let mut silent = site.client();
    silent.send("PROXY TCP4 203").unwrap();
    assert_eq!(silent.read_to_end().unwrap_or_default(), b"");
    assert_eq!(backend.requests(), []);
}

#[test]
fn a_header_from_a_peer_that_is_not_trusted_is_no_http_and_nobodys_word() {
    let backend = StrictBackend::start();
    let untrusted = ["--proxy-protocol", "on", "--trusted-proxies", "10.0.0.0/8"];
    for flags in [&untrusted[..], &[]] {
        let site = Site::with(&[backend.address()], &[], flags);
        for header in [
            v2_client(),
            b"PROXY TCP4 203.0.113.7 10.0.0.1 4711 443\r\n".to_vec(),
        ] {
            let answer = site.exchange([header, get()].concat());
            assert!(matches!(statuses(&answer).as_slice(), [400] | []), "{answer:?}");
        }
        assert_eq!(backend.requests(), []);
        site.assert_well();
    }
    let site = Site::with(&[backend.address()], &[], &untrusted);
    assert_eq!(
        statuses(&site.exchange(get())),
        [200],
        "without a header all is as ever"
    );
    assert_eq!(backend.requests()[0].fields("x-real-ip"), ["127.0.0.1"]);
}

/// Answers the request itself: the header in front of it begins with the bytes that end one.
fn answering_http() -> RawBackend {
    RawBackend::scripted(vec![
        Step::Expect(b"\r\nhost: ".to_vec()),
        Step::Send(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok".to_vec()),
    ])
    .unwrap()
}

/// What the backend gets first on its nth connection: 28 bytes, as it is IPv4 on both sides.
fn header_out(backend: &RawBackend, nth: usize) -> Vec<u8> {
    let all = backend
        .wait_for(|all| all.get(nth).is_some_and(|got| got.ends_with(b"\r\n\r\n")))
        .unwrap();
    assert!(all[nth][28..].starts_with(b"GET / HTTP/1.1\r\n"));
    all[nth][..28].to_vec()
}

#[test]
fn a_backend_that_wants_it_is_told_the_client_by_version_2() {
    let backend = answering_http();
    let wanted = [("ingress-agent.io/upstream-proxy-protocol", "v2")];
    let site = Site::with(
        &[backend.address()],
        &wanted,
        &[&ON[..], &["--workers", "1"]].concat(),
    );
    let asked = site.agent.http.port();
    // Its own connection for each request, whoever asks: a kept one would name the wrong client.
    for (nth, port) in [4711, 4712].into_iter().enumerate() {
        let client = [
            &[203, 0, 113, 7, 10, 0, 0, 1][..],
            &u16::to_be_bytes(port),
            &[1, 0xbb],
        ]
        .concat();
        let answer = site.exchange([v2(1, 0x11, &client), get()].concat());
        assert_eq!(statuses(&answer), [200], "{answer:?}");
        let told = [
            &[203, 0, 113, 7, 127, 0, 0, 1][..],
            &port.to_be_bytes(),
            &asked.to_be_bytes(),
        ]
        .concat();
        assert_eq!(header_out(&backend, nth), v2(1, 0x11, &told));
    }
    assert_eq!(backend.connections(), 2);
}

#[test]
fn a_client_that_a_trusted_proxys_field_names_is_told_without_its_port() {
    let backend = answering_http();
    let wanted = [("ingress-agent.io/upstream-proxy-protocol", "v2")];
    let site = Site::with(
        &[backend.address()],
        &wanted,
        &["--trusted-proxies", "127.0.0.1/32"],
    );
    let named = format!("GET / HTTP/1.1\r\nHost: {HOST}\r\nX-Forwarded-For: 198.51.100.9\r\n\r\n");
    assert_eq!(statuses(&site.exchange(named)), [200]);
    let port = site.agent.http.port().to_be_bytes();
    let told = [&[198, 51, 100, 9, 127, 0, 0, 1, 0, 0][..], &port].concat();
    assert_eq!(header_out(&backend, 0), v2(1, 0x11, &told));
}

#[test]
fn a_second_header_is_not_believed() {
    let backend = StrictBackend::start();
    let site = Site::with(&[backend.address()], &[], &ON);
    let twice = [
        v2_client(),
        b"PROXY TCP4 198.51.100.1 10.0.0.1 1 1\r\n".to_vec(),
        get(),
    ]
    .concat();
    let answer = site.exchange(twice);
    assert!(
        matches!(statuses(&answer).as_slice(), [400] | [501]),
        "{answer:?}"
    );
    assert_eq!(backend.requests(), []);
}

#[test]
fn the_header_stands_before_tls() {
    let backend = StrictBackend::start();
    let site = Site::with(&[backend.address()], &[], &ON);
    let answer = crate::tls_client::exchange(site.agent.https, &v2_client(), &site.authority, HOST, &get());
    assert_eq!(statuses(&answer), [200], "{answer:?}");
    let requests = backend.requests();
    assert_eq!(requests[0].fields("x-real-ip"), ["203.0.113.7"]);
    assert_eq!(requests[0].fields("x-forwarded-proto"), ["https"]);
}
