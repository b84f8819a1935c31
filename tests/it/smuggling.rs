//! Request smuggling: bytes that two readers could cut differently either stop at the agent or become one plain request.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use crate::site::{HOST, Site, statuses};
use crate::strict::StrictBackend;

/// What comes after each message under test: the request that an attacker would like to have read.
fn prize(id: usize) -> String {
    format!("GET /prize-{id} HTTP/1.1\r\nHost: {HOST}\r\n\r\n")
}

fn post(id: usize, fields: &str, body: &str) -> String {
    format!("POST /case-{id} HTTP/1.1\r\nHost: {HOST}\r\n{fields}\r\n\r\n{body}")
}

/// Every message is refused as a whole: one answer, 400 or 501, nothing at the backend, neither it nor what follows.
#[track_caller]
fn assert_all_stopped(messages: impl IntoIterator<Item = Vec<u8>>) {
    let backend = StrictBackend::start();
    let site = Site::new(&[backend.address()]);
    let mut count = 0;
    for message in messages {
        let shown = String::from_utf8_lossy(&message).into_owned();
        let answer = site.exchange(&message);
        let statuses = statuses(&answer);
        assert!(
            matches!(statuses.as_slice(), [400 | 501]),
            "{shown:?} was answered {answer:?}"
        );
        assert!(
            answer.contains("x-ingress-agent-reason: "),
            "{shown:?}: {answer:?}"
        );
        assert!(answer.contains("connection: close\r\n"), "{shown:?}: {answer:?}");
        assert_eq!(backend.requests(), [], "{shown:?}");
        count += 1;
    }
    assert!(count > 0);
    assert_eq!(backend.broken(), [""; 0]);
    assert_eq!(
        backend.cut(),
        0,
        "a piece of a refused message reached the backend"
    );
    site.assert_well();
}

/// The message is one request with this body, and what follows is the next: both readers agree.
#[track_caller]
fn assert_all_plain(messages: impl IntoIterator<Item = (String, &'static str)>) {
    let backend = StrictBackend::start();
    let site = Site::new(&[backend.address()]);
    for (id, (message, body)) in messages.into_iter().enumerate() {
        let answer = site.exchange(message.clone() + &prize(id));
        assert_eq!(statuses(&answer), [200, 200], "{message:?}: {answer:?}");
        let requests = backend.requests();
        let [.., case, prize] = requests.as_slice() else {
            panic!("{message:?}: {requests:?}");
        };
        assert_eq!(requests.len(), (id + 1) * 2, "{message:?}");
        assert_eq!(case.body, body.as_bytes(), "{message:?}");
        assert_eq!(prize.path(), format!("/prize-{id}"), "{message:?}");
        let framing = case.fields("content-length").len() + case.fields("transfer-encoding").len();
        assert_eq!(framing, 1, "{:?}", case.head);
    }
    assert_eq!(backend.broken(), [""; 0]);
    site.assert_well();
}

const TRANSFER_ENCODINGS: &[&str] = &[
    "chunked, identity",
    "identity, chunked",
    "chunked, chunked",
    "chunked,",
    ", chunked",
    "gzip, chunked",
    "gzip",
    "identity",
    "xchunked",
    "chunkedx",
    "chunke",
    "chunked;q=1",
    "\"chunked\"",
    "'chunked'",
    "chun ked",
    "\u{b}chunked",
    "chunked\u{b}",
    "chunked\u{c}",
    "chun\0ked",
    "chunked\0",
    "chunked\u{7f}",
    "chunked\u{a0}",
    "\u{feff}chunked",
    "",
    " ",
    "trailers",
    "chunked\r\n , identity",
    "\r\n chunked",
    "\r\n\tchunked",
    "chunked\r",
    "\rchunked",
    "\nchunked",
];

const CONTENT_LENGTHS: &[&str] = &[
    "+5",
    "-5",
    "-0",
    "0x5",
    "5h",
    "5,5",
    "5, 5",
    "5, 6",
    "5 5",
    "5;",
    "5.0",
    "5e0",
    "",
    " ",
    "five",
    "\u{b}5",
    "5\u{b}",
    "5\0",
    "\u{ff15}",
    "٥",
    "18446744073709551616",
    "18446744073709551621",
    "99999999999999999999999999",
    "9223372036854775808",
    "\r\n 5",
    "5\r\n 0",
    "5\n",
];

/// What may stand where a field's name should be, so that one reader sees Transfer-Encoding and another doesn't.
const TE_LINES: &[&str] = &[
    "Transfer-Encoding : chunked",
    "Transfer-Encoding\t: chunked",
    " Transfer-Encoding: chunked",
    "\tTransfer-Encoding: chunked",
    "Transfer-Encoding\u{b}: chunked",
    "\u{b}Transfer-Encoding: chunked",
    "Transfer-Encoding\0: chunked",
    "Transfer\0-Encoding: chunked",
    "Transfer Encoding: chunked",
    "Transfer-Encoding chunked",
    "Transfer-Encoding",
    ": chunked",
    "X: y\nTransfer-Encoding: chunked",
    "X: y\rTransfer-Encoding: chunked",
    "X: y\n\rTransfer-Encoding: chunked",
    "X: y\r\r\nTransfer-Encoding: chunked",
    "X: y\r\n Transfer-Encoding: chunked",
    "X:\r\n\tTransfer-Encoding: chunked",
    "X: y\0\r\nTransfer-Encoding: chunked",
    "\"Transfer-Encoding\": chunked",
    "Transfer-Encoding\u{a0}: chunked",
    "Transfer\u{2010}Encoding: chunked",
    "(comment)Transfer-Encoding: chunked",
    "Transfer-Encoding:chunked\nX: y",
];

const BODY: &str = "0\r\n\r\n";

#[test]
fn a_transfer_encoding_that_is_not_exactly_chunked_is_refused() {
    assert_all_stopped(TRANSFER_ENCODINGS.iter().enumerate().flat_map(|(id, value)| {
        let alone = format!("Transfer-Encoding: {value}");
        let beside = format!("Content-Length: 5\r\nTransfer-Encoding: {value}");
        [alone, beside].map(|fields| (post(id, &fields, BODY) + &prize(id)).into_bytes())
    }));
}

#[test]
fn a_content_length_that_is_not_one_plain_number_is_refused() {
    assert_all_stopped(CONTENT_LENGTHS.iter().enumerate().flat_map(|(id, value)| {
        let alone = format!("Content-Length: {value}");
        let twice = format!("Content-Length: 5\r\nContent-Length: {value}");
        let twice_backwards = format!("Content-Length: {value}\r\nContent-Length: 5");
        [alone, twice, twice_backwards].map(|fields| (post(id, &fields, BODY) + &prize(id)).into_bytes())
    }));
}

#[test]
fn two_framings_of_one_message_are_refused_in_every_order_and_case() {
    let te = [
        "Transfer-Encoding: chunked",
        "tRANSFER-eNCODING: CHUNKED",
        "transfer-encoding:\tchunked",
    ];
    let cl = [
        "Content-Length: 5",
        "content-length: 5",
        "Content-Length:0",
        "CONTENT-LENGTH: 100",
    ];
    let mut all = Vec::new();
    for te in te {
        for cl in cl {
            all.push(format!("{te}\r\n{cl}"));
            all.push(format!("{cl}\r\n{te}"));
            all.push(format!("{cl}\r\nX: y\r\n{te}\r\nY: z"));
            all.push(format!("{te}\r\n{cl}\r\n{te}"));
            all.push(format!("Connection: content-length\r\n{cl}\r\n{te}"));
            all.push(format!("Connection: transfer-encoding\r\n{te}"));
            all.push(format!("Connection: Content-Length\r\n{cl}"));
        }
        all.push(format!("{te}\r\n{te}"));
        all.push(format!("{te}\r\nTransfer-Encoding: identity"));
        all.push(format!("Transfer-Encoding: identity\r\n{te}"));
    }
    for (first, second) in [("5", "5"), ("5", "6"), ("0", "5"), ("5", "0"), ("5", "05")] {
        all.push(format!("Content-Length: {first}\r\nContent-Length: {second}"));
        all.push(format!(
            "Content-Length: {first}\r\nX: y\r\ncontent-length: {second}"
        ));
    }
    assert_all_stopped(
        all.iter()
            .enumerate()
            .map(|(id, fields)| (post(id, fields, BODY) + &prize(id)).into_bytes()),
    );
}

#[test]
fn a_framing_field_that_only_some_readers_would_see_is_refused() {
    assert_all_stopped(TE_LINES.iter().enumerate().flat_map(|(id, line)| {
        let after = format!("Content-Length: 5\r\n{line}");
        let before = format!("{line}\r\nContent-Length: 5");
        let length = after
            .replace("Transfer-Encoding", "Content-Length")
            .replace("chunked", "0");
        [after, before, length].map(|fields| (post(id, &fields, BODY) + &prize(id)).into_bytes())
    }));
}

#[test]
fn transfer_encoding_in_http_1_0_is_refused() {
    let message = |fields: &str| {
        format!(
            "POST /case HTTP/1.0\r\nHost: {HOST}\r\n{fields}\r\n\r\n{BODY}{}",
            prize(0)
        )
        .into_bytes()
    };
    assert_all_stopped([
        message("Transfer-Encoding: chunked"),
        message("Transfer-Encoding: chunked\r\nConnection: keep-alive"),
        message("Transfer-Encoding: chunked\r\nContent-Length: 5"),
    ]);
}

/// Chunked bodies that one reader would end elsewhere than another.
const CHUNKS: &[&str] = &[
    "5\nhello\r\n0\r\n\r\n",
    "5\rhello\r\n0\r\n\r\n",
    "5\r\rhello\r\n0\r\n\r\n",
    "0x5\r\nhello\r\n0\r\n\r\n",
    " 5\r\nhello\r\n0\r\n\r\n",
    "5 \r\nhello\r\n0\r\n\r\n",
    "5\t\r\nhello\r\n0\r\n\r\n",
    "+5\r\nhello\r\n0\r\n\r\n",
    "-5\r\nhello\r\n0\r\n\r\n",
    "g\r\nhello\r\n0\r\n\r\n",
    "\r\n5\r\nhello\r\n0\r\n\r\n",
    ";a\r\nhello\r\n0\r\n\r\n",
    "5\u{b}\r\nhello\r\n0\r\n\r\n",
    "5\0\r\nhello\r\n0\r\n\r\n",
    "5;a\0b\r\nhello\r\n0\r\n\r\n",
    "5;a\nb\r\nhello\r\n0\r\n\r\n",
    "5;a\rb\r\nhello\r\n0\r\n\r\n",
    "5;\n0\r\n\r\n",
    "5\r\nhello0\r\n\r\n",
    "5\r\nhelloX\r\n0\r\n\r\n",
    "5\r\nhello\n0\r\n\r\n",
    "5\r\nhello\r0\r\n\r\n",
    "5\r\nhello\r\n0\n\r\n",
    "5\r\nhello\r\n0\r\n\n",
    "5\r\nhello\r\n0\n\n",
    "5\r\nhello\r\n0\r\r\n",
    "5\r\nhello\r\n00000000000000000000\r\n\r\n",
    "4\r\nhello\r\n0\r\n\r\n",
    "10000000000000005\r\nhello\r\n0\r\n\r\n",
    "ffffffffffffffff\r\nhello\r\n0\r\n\r\n",
    "fffffffffffffffff\r\nhello\r\n0\r\n\r\n",
    "5\r\nhello\r\n0\r\nContent-Length: 5\r\n\r\n",
    "5\r\nhello\r\n0\r\nTransfer-Encoding: chunked\r\n\r\n",
    "5\r\nhello\r\n0\r\nhost: evil.test\r\n\r\n",
    "5\r\nhello\r\n0\r\nAuthorization: Basic eA==\r\n\r\n",
    "5\r\nhello\r\n0\r\nCookie: a=b\r\n\r\n",
    "5\r\nhello\r\n0\r\nX-Forwarded-For: 1.2.3.4\r\n\r\n",
    "5\r\nhello\r\n0\r\nConnection: close\r\n\r\n",
    "5\r\nhello\r\n0\r\nTE: trailers\r\n\r\n",
    "5\r\nhello\r\n0\r\n folded: x\r\n\r\n",
    "5\r\nhello\r\n0\r\nX: y\r\n z\r\n\r\n",
    "5\r\nhello\r\n0\r\nX : y\r\n\r\n",
    "5\r\nhello\r\n0\r\nX: y\n\r\n",
    "5\r\nhello\r\n0\r\nX: a\0b\r\n\r\n",
    "5\r\nhello\r\n0\r\nGET /x HTTP/1.1\r\n\r\n",
    "5\r\nhello\r\n0\r\n: x\r\n\r\n",
];

#[test]
fn a_chunked_body_that_is_not_by_the_letter_is_refused_before_the_backend_hears_of_it() {
    assert_all_stopped(
        CHUNKS
            .iter()
            .enumerate()
            .map(|(id, body)| (post(id, "Transfer-Encoding: chunked", body) + &prize(id)).into_bytes()),
    );
}

#[test]
fn a_chunked_body_that_breaks_after_its_head_has_passed_never_becomes_a_whole_request() {
    let backend = StrictBackend::start();
    let site = Site::new(&[backend.address()]);
    for (id, body) in CHUNKS.iter().enumerate() {
        let mut client = site.client();
        let head = post(id, "Transfer-Encoding: chunked", "");
        client.send(head).unwrap();
        client.send_byte_by_byte(body).unwrap();
        // The agent may have closed already: then nobody reads this, which is as good.
        let _ = client.send(prize(id));
        let _ = client.half_close();
        let answer = client.read_to_end().unwrap_or_default();
        let answer = String::from_utf8_lossy(&answer).into_owned();
        assert!(
            matches!(statuses(&answer).as_slice(), [400]),
            "{body:?}: {answer:?}"
        );
        assert_eq!(backend.requests(), [], "{body:?}");
    }
    assert_eq!(backend.broken(), [""; 0]);
    site.assert_well();
}

#[test]
fn every_plain_way_to_frame_a_message_is_read_the_same_by_agent_and_backend() {
    let te = |value: &str, body: &str| post(0, &format!("Transfer-Encoding:{value}"), body);
    let cl = |value: &str| post(0, &format!("Content-Length:{value}"), "hello");
    const CHUNKED: &str = "5\r\nhello\r\n0\r\n\r\n";
    assert_all_plain([
        (cl("5"), "hello"),
        (cl(" 5"), "hello"),
        (cl("\t5 \t"), "hello"),
        (cl(" 00005"), "hello"),
        (te("chunked", CHUNKED), "hello"),
        (te(" Chunked", CHUNKED), "hello"),
        (te("\tCHUNKED \t", CHUNKED), "hello"),
        (te("chunked", "5;a\r\nhello\r\n0\r\n\r\n"), "hello"),
        (te("chunked", "5;a=b;c=\"d e\"\r\nhello\r\n0;z\r\n\r\n"), "hello"),
        (te("chunked", "5 ;a\r\nhello\r\n0\r\n\r\n"), "hello"),
        (te("chunked", "0005\r\nhello\r\n000\r\n\r\n"), "hello"),
        (te("chunked", "2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n"), "hello"),
        (te("chunked", "5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n"), "hello"),
        (
            te("chunked", "a\r\n0\r\n\r\nGET /\r\n0\r\n\r\n"),
            "0\r\n\r\nGET /",
        ),
        (te(" chunked\r\nTE: trailers", CHUNKED), "hello"),
        (te(" chunked\r\nX-Content-Length: 9", CHUNKED), "hello"),
        (post(0, "Content-Length: 0", ""), ""),
        (te("chunked", "0\r\n\r\n"), ""),
    ]);
}

#[test]
fn request_lines_and_line_ends_that_some_readers_mend_are_refused() {
    let fields = format!("Host: {HOST}\r\n\r\n");
    let lines = [
        "GET /case HTTP/1.1\n",
        "GET /case HTTP/1.1\r",
        "GET /case HTTP/1.1\r\r\n",
        "GET /case HTTP/1.1 \r\n",
        "GET /case  HTTP/1.1\r\n",
        "GET  /case HTTP/1.1\r\n",
        "GET\t/case HTTP/1.1\r\n",
        "GET /case\tHTTP/1.1\r\n",
        " GET /case HTTP/1.1\r\n",
        "\tGET /case HTTP/1.1\r\n",
        "\nGET /case HTTP/1.1\r\n",
        "\r\n\r\nGET /case HTTP/1.1\r\n",
        "\rGET /case HTTP/1.1\r\n",
        "GET /case HTTP/1.1\r\n\r",
        "GET /case http/1.1\r\n",
        "GET /case HTTP/1.2\r\n",
        "GET /case HTTP/1.10\r\n",
        "GET /case HTTP/01.1\r\n",
        "GET /case HTTP/2.0\r\n",
        "GET /case HTTP/1\r\n",
        "GET /case\r\n",
        "GET /case HTTP/1.1, HTTP/1.1\r\n",
        "GET /ca se HTTP/1.1\r\n",
        "GET /case#fragment HTTP/1.1\r\n",
        "GET /case?q#fragment HTTP/1.1\r\n",
        "GET /ca\0se HTTP/1.1\r\n",
        "GET /ca\u{b}se HTTP/1.1\r\n",
        "GET /ca\u{7f}se HTTP/1.1\r\n",
        "GET /caf\u{e9} HTTP/1.1\r\n",
        "GET /ca<se HTTP/1.1\r\n",
        "GET /ca%zzse HTTP/1.1\r\n",
        "GET /ca%00se HTTP/1.1\r\n",
        "GET /ca\\se HTTP/1.1\r\n",
        "GET /ca%5cse HTTP/1.1\r\n",
        "GET /a/%2e%2e%2fcase HTTP/1.1\r\n",
        "GET case HTTP/1.1\r\n",
        "GET * HTTP/1.1\r\n",
        "GET ftp://site.test/ HTTP/1.1\r\n",
        "GET http:/site.test/ HTTP/1.1\r\n",
        "GET http:///case HTTP/1.1\r\n",
        "GET http://user@site.test/case HTTP/1.1\r\n",
        "GET http://site.test:99999999/case HTTP/1.1\r\n",
        "GET http://site.test,evil.test/case HTTP/1.1\r\n",
        "GET site.test:80 HTTP/1.1\r\n",
        "get /case HTTP/1.1\r\n",
        "G\u{c9}T /case HTTP/1.1\r\n",
        "GET\0 /case HTTP/1.1\r\n",
        "\"GET\" /case HTTP/1.1\r\n",
        "CONNECT site.test:443 HTTP/1.1\r\n",
        "CONNECT / HTTP/1.1\r\n",
        "TRACE /case HTTP/1.1\r\n",
        "PRI * HTTP/2.0\r\n",
    ];
    assert_all_stopped(
        lines
            .iter()
            .map(|line| format!("{line}{fields}{}", prize(0)).into_bytes())
            .chain(
                // ISO 8859-1, which no UTF-8 literal can say.
                [b"GET /caf\xe9 HTTP/1.1\r\nHost: site.test\r\n\r\n".to_vec()],
            ),
    );
}

#[test]
fn hosts_that_two_readers_could_take_for_different_ones_are_refused() {
    let fields = [
        "X: y",
        "Host: site.test\r\nHost: site.test",
        "Host: site.test\r\nHost: evil.test",
        "Host: site.test\r\nhost: evil.test",
        "Host: site.test, evil.test",
        "Host: site.test evil.test",
        "Host: site.test@evil.test",
        "Host: site.test/evil",
        "Host: site.test?evil",
        "Host: site.test#evil",
        "Host: site.test\\evil",
        "Host: site.test:80:80",
        "Host: site.test:abc",
        "Host: site.test:-1",
        "Host: site.test:99999",
        "Host: site.test:080000",
        "Host: site.test\0.evil",
        "Host: site.test\u{b}",
        "Host: [::1",
        "Host: [::1]evil",
        "Host: [site.test]",
        "Host: [::1%eth0]",
        "Host: caf\u{e9}.test",
        "Host : site.test",
        "Host: site.test\nX: y",
        "Host:\r\n site.test",
        "Connection: host\r\nHost: site.test",
        "Host:",
    ];
    assert_all_stopped(
        fields
            .iter()
            .map(|f| format!("GET /case HTTP/1.1\r\n{f}\r\n\r\n{}", prize(0)).into_bytes()),
    );
}
