//! Raw bytes against the strict reader, the same bytes cut anywhere, and a naive reader beside it.

use ingress_core::reason::Reason;
use proptest::prelude::*;

use super::{Body, Chunked, Framing, HeadInfo, HeadReader, Version, check_head};
use crate::proxy::wire::{Limits, Refusal};

fn judge(head: &[u8]) -> Result<HeadInfo, Refusal> {
    check_head(head, &Limits::default())
}

fn reason(head: &[u8]) -> Option<Reason> {
    judge(head).err().map(|refusal| refusal.reason)
}

/// A request with these lines beside a valid Host.
fn with(lines: &str) -> Vec<u8> {
    format!("POST /a HTTP/1.1\r\nHost: a\r\n{lines}\r\n\r\n").into_bytes()
}

fn line(request_line: &str) -> Vec<u8> {
    format!("{request_line}\r\nHost: a\r\n\r\n").into_bytes()
}

#[track_caller]
fn all_refused(heads: &[&[u8]], expected: Reason) {
    for head in heads {
        assert_eq!(reason(head), Some(expected), "{}", head.escape_ascii());
    }
}

#[track_caller]
fn all_bad_with(lines: &[&str]) {
    for lines in lines {
        assert_eq!(reason(&with(lines)), Some(Reason::BadRequest), "{lines:?}");
    }
}

#[test]
fn an_ordinary_request_passes_with_its_facts() {
    let head = b"GET /a?b=c HTTP/1.1\r\nHost: example.com:8080\r\nAccept: */*\r\n\r\nrest";
    let info = judge(head).unwrap();
    assert_eq!(&head[info.end..], b"rest");
    assert_eq!((info.version, info.framing), (Version::Http11, Framing::None));
    assert!(!info.close && !info.expect_continue && !info.upgrade_websocket);
    let info = judge(&with(
        "Content-Length:  12 \r\nExpect: 100-continue\r\nConnection: x, Close",
    ))
    .unwrap();
    assert_eq!(
        (info.framing, info.expect_continue, info.close),
        (Framing::Length(12), true, true)
    );
    assert_eq!(
        judge(&with("TRANSFER-encoding: Chunked")).unwrap().framing,
        Framing::Chunked
    );
    assert!(judge(b"GET / HTTP/1.0\r\n\r\n").unwrap().close);
}

#[test]
fn conflicting_repeated_or_malformed_lengths_are_refused() {
    all_bad_with(&[
        "Content-Length: 1\r\nContent-Length: 2",
        "Content-Length: 1\r\nContent-Length: 1",
        "Content-Length: 1, 1",
        "Content-Length: +1",
        "Content-Length: -1",
        "Content-Length: 0x1",
        "Content-Length: 1 1",
        "Content-Length:",
        "Content-Length: 18446744073709551616",
        "Content-Length: 9223372036854775808",
        "Content-Length: 1\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 1",
        "Transfer-Encoding: gzip\r\nContent-Length: 1",
    ]);
}

#[test]
fn a_transfer_encoding_other_than_exactly_chunked_is_refused() {
    all_bad_with(&[
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding: chunked, chunked",
        "Transfer-Encoding: chunked,",
        "Transfer-Encoding: \"chunked\"",
        "Transfer-Encoding: chunked;a=b",
        "Transfer-Encoding:",
        "Transfer-Encoding: \u{b}chunked",
    ]);
    all_refused(
        &[b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n"],
        Reason::BadRequest,
    );
    all_refused(
        &[
            &with("Transfer-Encoding: gzip"),
            &with("Transfer-Encoding: identity"),
        ],
        Reason::NotImplemented,
    );
}

#[test]
fn bare_line_ends_folding_and_control_characters_are_refused() {
    all_refused(
        &[
            b"GET / HTTP/1.1\nHost: a\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: a\n\r\n",
            b"GET / HTTP/1.1\r\nHost: a\r\n\n",
            b"GET / HTTP/1.1\r\nHost: a\r\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: a\rb: c\r\n\r\n",
            b"GET / HTTP/1.1\rHost: a\r\n\r\n",
            b"GET / HTTP/1.1\r\n Host: a\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: a\r\n b\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: a\r\n\tb: c\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost : a\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost\t: a\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: a\r\n: b\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: a\r\nno colon\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: a\r\nnocolon\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: a\r\na\0: b\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: a\r\na\xc3\xa9: b\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: a\r\na: b\0\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: a\r\na: long enough for a block \x01 of sixteen\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: a\r\na: long enough for a block \x7f of sixteen\r\n\r\n",
        ],
        Reason::BadRequest,
    );
    assert!(judge(&with("a: with\ttab and \u{e9} beyond ASCII, and long")).is_ok());
}

#[test]
fn exactly_one_valid_host_is_needed() {
    all_refused(
        &[
            b"GET / HTTP/1.1\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
            b"GET / HTTP/1.0\r\nHost: a\r\nhost: b\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: a, b\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost:\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: user@a\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: a:b\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: a:1:2\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: [::1\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: [::1]x\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: \xc3\xa9\r\n\r\n",
        ],
        Reason::BadRequest,
    );
    for host in ["a", "A.b-c_d:80", "[::1]:8080", "[::1]", "127.0.0.1", "a:"] {
        assert!(
            judge(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes()).is_ok(),
            "{host}"
        );
    }
}

#[test]
fn targets_have_one_of_the_forms_of_rfc_9112() {
    for target in [
        "/",
        "/a%20b?x=y&z",
        "/{a}|b",
        "http://b/c?d",
        "HTTPS://b",
        "http://[::1]:80/",
        "//a",
    ] {
        assert!(
            judge(&line(&format!("GET {target} HTTP/1.1"))).is_ok(),
            "{target}"
        );
    }
    assert!(judge(&line("OPTIONS * HTTP/1.1")).is_ok());
    for target in [
        "/a#b",
        "/a b",
        "/\t",
        "/é",
        "/<",
        "*",
        "a",
        "a:80",
        "ftp://a/",
        "http://",
        "http:///a",
    ] {
        assert_eq!(
            reason(&line(&format!("GET {target} HTTP/1.1"))),
            Some(Reason::BadRequest),
            "{target}"
        );
    }
    for target in ["http://u@a/", "http://a:b/", "http:a", "?a", ""] {
        assert_eq!(
            reason(&line(&format!("GET {target} HTTP/1.1"))),
            Some(Reason::BadRequest),
            "{target}"
        );
    }
}

#[test]
fn what_hyper_would_refuse_in_its_own_words_is_refused_before() {
    for byte in 0u8..=255 {
        let mut head = b"GET /".to_vec();
        head.push(byte);
        head.extend_from_slice(b"x?a");
        head.push(byte);
        let target = head[4..].to_vec();
        head.extend_from_slice(b" HTTP/1.1\r\nHost: a\r\n\r\n");
        if judge(&head).is_ok() {
            assert!(
                http::Uri::try_from(&target[..]).is_ok(),
                "{}",
                target.escape_ascii()
            );
        }
    }
}

#[test]
fn connect_trace_and_over_long_methods_are_not_implemented() {
    all_refused(
        &[
            &line("CONNECT a:80 HTTP/1.1"),
            &line("TRACE / HTTP/1.1"),
            &line(&format!("{} / HTTP/1.1", "A".repeat(33))),
        ],
        Reason::NotImplemented,
    );
    assert!(judge(&line("M-SEARCH / HTTP/1.1")).is_ok());
}

#[test]
fn lower_case_methods_and_unknown_versions_are_refused() {
    for request_line in [
        "get / HTTP/1.1",
        "Get / HTTP/1.1",
        "G\u{0}T / HTTP/1.1",
        " GET / HTTP/1.1",
        "GET  / HTTP/1.1",
        "GET /  HTTP/1.1",
        "GET / HTTP/1.1 ",
        "GET / HTTP/1.2",
        "GET / HTTP/2.0",
        "GET / http/1.1",
        "GET / HTTP/1.10",
        "GET / HTTP/01.1",
        "GET /",
        "GET",
        "PRI * HTTP/2.0",
    ] {
        assert_eq!(
            reason(&line(request_line)),
            Some(Reason::BadRequest),
            "{request_line}"
        );
    }
}

#[test]
fn one_empty_line_may_stand_before_a_request_and_no_more() {
    assert!(judge(b"\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n").is_ok());
    all_refused(
        &[
            b"\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
            b"\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        ],
        Reason::BadRequest,
    );
}

#[test]
fn oversize_heads_are_refused_with_the_right_status() {
    let long = "a".repeat(17 * 1024);
    assert_eq!(
        reason(&line(&format!("GET /{long} HTTP/1.1"))),
        Some(Reason::UriTooLong)
    );
    assert_eq!(
        reason(&with(&format!("a: {long}{long}"))),
        Some(Reason::HeadersTooLarge)
    );
    let lines = vec![format!("a: {long}"); 4].join("\r\n");
    assert_eq!(reason(&with(&lines)), Some(Reason::HeadersTooLarge));
    assert!(judge(&with(&["a: b"; 99].join("\r\n"))).is_ok());
    assert_eq!(
        reason(&with(&["a: b"; 100].join("\r\n"))),
        Some(Reason::HeadersTooLarge)
    );
}

#[test]
fn connection_may_not_list_what_frames_or_routes() {
    all_bad_with(&[
        "Connection: close, Host",
        "Connection: content-length",
        "Connection: Transfer-Encoding",
        "Connection: a b",
    ]);
    assert!(judge(&with("Connection: keep-alive,, X-Mine")).is_ok());
}

#[test]
fn only_a_complete_websocket_handshake_is_an_upgrade() {
    let get = |lines: &str| judge(format!("GET / HTTP/1.1\r\nHost: a\r\n{lines}\r\n\r\n").as_bytes());
    assert!(
        get("Upgrade: WebSocket\r\nConnection: keep-alive, Upgrade")
            .unwrap()
            .upgrade_websocket
    );
    assert!(get("Upgrade: websocket").is_err());
    assert!(get("Upgrade: websocket\r\nConnection: upgrade\r\nContent-Length: 1").is_err());
    assert!(get("Upgrade: websocket\r\nConnection: upgrade\r\nTransfer-Encoding: chunked").is_err());
    all_bad_with(&["Upgrade: websocket\r\nConnection: upgrade"]);
    assert!(
        !get("Upgrade: h2c\r\nConnection: upgrade, http2-settings")
            .unwrap()
            .upgrade_websocket
    );
    let old = judge(b"GET / HTTP/1.0\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n").unwrap();
    assert!(!old.upgrade_websocket);
}

fn chunked(bytes: &[u8]) -> Result<Option<usize>, Refusal> {
    let mut body = Chunked::default();
    let used = body.follow(bytes)?;
    Ok(body.done().then_some(used))
}

#[test]
fn chunked_bodies_end_where_they_say() {
    assert_eq!(chunked(b"0\r\n\r\nGET"), Ok(Some(5)));
    assert_eq!(chunked(b"3\r\nabc\r\n0\r\n\r\n"), Ok(Some(13)));
    assert_eq!(
        chunked(b"00A;x=\"y\"\r\n0123456789\r\n0 ;q\r\nA: b\r\nlong-name-of-a-trailer-field: c\r\n\r\n!"),
        Ok(Some(70))
    );
    assert_eq!(chunked(b"3\r\nab"), Ok(None));
}

#[test]
fn malformed_chunks_are_refused() {
    for body in [
        &b"\r\n\r\n"[..],
        b"g\r\n",
        b"-1\r\n",
        b"+1\r\n",
        b"0x1\r\n",
        b" 1\r\n",
        b"1 \r\na",
        b"1 1\r\n",
        b"1\na",
        b"1\r\r\n",
        b"1\rX",
        b";a\r\n",
        b"1\r\na\n",
        b"1\r\nab\r\n",
        b"1\r\na\rb",
        b"1;a\nb\r\n",
        b"1;a\0\r\n",
        b"10000000000000000\r\n",
        b"ffffffffffffffff\r\n",
        b"00000000000000001\r\n",
        b"0\r\n\n",
        b"0\r\n\rX",
    ] {
        assert_eq!(
            chunked(body).map_err(|r| r.reason),
            Err(Reason::BadRequest),
            "{}",
            body.escape_ascii()
        );
    }
}

#[test]
fn trailers_that_frame_route_or_authenticate_are_refused() {
    for trailer in [
        "Transfer-Encoding: chunked",
        "content-length: 1",
        "HOST: a",
        "Authorization: x",
        "Cookie: a",
        "X-Forwarded-Scheme: https",
        // The same to a backend that reads `_` as `-`.
        "Content_Length: 1",
        "X_Forwarded-For: a",
    ] {
        assert!(
            chunked(format!("0\r\n{trailer}\r\n\r\n").as_bytes()).is_err(),
            "{trailer}"
        );
    }
    for trailer in [" a: b", "a : b", ": b", "a", "a: b\n", "a: \0", "a: b\r\n c"] {
        assert!(
            chunked(format!("0\r\n{trailer}\r\n\r\n").as_bytes()).is_err(),
            "{trailer}"
        );
    }
    assert!(chunked(format!("0\r\n{}\r\n", "a: b\r\n".repeat(65)).as_bytes()).is_err());
    assert!(chunked(format!("0\r\na: {}\r\n\r\n", "b".repeat(9000)).as_bytes()).is_err());
}

#[test]
fn chunk_extensions_are_bounded_for_each_chunk_and_for_the_body() {
    assert!(chunked(format!("1;{}\r\n", "a".repeat(257)).as_bytes()).is_err());
    let one = format!("1;{}\r\nx\r\n", "a".repeat(250));
    assert!(chunked(one.repeat(60).as_bytes()).is_ok());
    assert!(chunked(one.repeat(70).as_bytes()).is_err());
}

/// Feeds a stream of messages in the given pieces; what each message was, and how the stream ended.
fn read_stream(bytes: &[u8], cuts: &[usize], limits: &Limits) -> (Vec<(HeadInfo, usize)>, Option<Reason>) {
    let (mut messages, mut buffer) = (Vec::new(), Vec::new());
    let (mut reader, mut body): (HeadReader, Option<(HeadInfo, usize, Body)>) = Default::default();
    let mut ends: Vec<usize> = cuts.iter().map(|cut| cut % (bytes.len() + 1)).collect();
    ends.push(bytes.len());
    ends.sort_unstable();
    let mut at = 0;
    for end in ends {
        buffer.extend_from_slice(&bytes[at..end]);
        at = end;
        loop {
            if let Some((info, size, follower)) = &mut body {
                let Ok(used) = follower.follow(&buffer) else {
                    return (messages, Some(Reason::BadRequest));
                };
                buffer.drain(..used);
                *size += used;
                if !follower.done() {
                    break;
                }
                messages.push((*info, *size));
                body = None;
                reader = HeadReader::default();
            }
            match reader.advance(&buffer, limits) {
                Ok(Some(info)) => {
                    buffer.drain(..info.end);
                    body = Some((info, 0, Body::new(info.framing)));
                }
                Ok(None) => break,
                Err(refusal) => return (messages, Some(refusal.reason)),
            }
        }
    }
    (messages, None)
}

/// Pieces of requests, good and bad, that add up to streams worth reading.
fn streams() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop::sample::select(vec![
        &b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"[..],
        b"POST /b HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc",
        b"POST /c HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2;e\r\nab\r\n0\r\nT: v\r\n\r\n",
        b"GET /d HTTP/1.1\r\n",
        b"Host: a\r\n",
        b"Content-Length: 2\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: x\r\n",
        b"X: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n",
        b"X: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
        b"\r\n",
        b"\r",
        b"\n",
        b" ",
        b"0\r\n",
        b"1\r\na\r\n",
        b":",
        b"\0",
    ]);
    prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

fn small_limits() -> Limits {
    Limits {
        head_bytes: 150,
        head_fields: 4,
        request_line: 60,
        field_line: 70,
        ..Limits::default()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn any_segmentation_gives_the_same_outcome(bytes in streams(), cuts in prop::collection::vec(any::<usize>(), 0..20)) {
        let limits = small_limits();
        prop_assert_eq!(read_stream(&bytes, &cuts, &limits), read_stream(&bytes, &[], &limits));
        let each: Vec<usize> = (0..bytes.len()).collect();
        prop_assert_eq!(read_stream(&bytes, &each, &limits), read_stream(&bytes, &[], &limits));
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = judge(&bytes);
        let _ = chunked(&bytes);
    }

    #[test]
    fn what_passes_reads_the_same_to_a_naive_strict_reader(bytes in streams()) {
        let limits = Limits::default();
        if let Ok(Some(info)) = HeadReader::default().advance(&bytes, &limits) {
            prop_assert_eq!(naive_framing(&bytes[..info.end]), Some(info.framing));
        }
        let mut body = Chunked::default();
        if let Ok(used) = body.follow(&bytes) && body.done() {
            prop_assert_eq!(naive_chunked_end(&bytes), Some(used));
        }
    }

    #[test]
    fn a_changed_byte_is_refused_or_does_not_move_the_boundary(at in 0usize..72, byte in any::<u8>()) {
        let mut head = *b"POST /c HTTP/1.1\r\nHost: a\r\nX-Y: abc, def\r\nTransfer-Encoding: chunked\r\n\r\n";
        head[at] = byte;
        if let Ok(info) = judge(&head) {
            prop_assert_eq!(naive_framing(&head[..info.end]), Some(info.framing));
        }
    }
}

/// By splitting, as a reader would that trusts its input. None when it finds anything odd.
fn naive_framing(head: &[u8]) -> Option<Framing> {
    let text: String = head.iter().map(|b| char::from(*b)).collect();
    let text = text
        .strip_prefix("\r\n")
        .unwrap_or(&text)
        .strip_suffix("\r\n\r\n")?;
    let mut framing = Framing::None;
    let mut hosts = 0;
    let mut lines = text.split("\r\n");
    let words: Vec<&str> = lines.next()?.split(' ').collect();
    if words.len() != 3 {
        return None;
    }
    for line in lines {
        let (name, value) = line.split_once(':')?;
        if name.is_empty()
            || name.contains([' ', '\t', '\r', '\n', '\0'])
            || value.contains(['\r', '\n', '\0'])
        {
            return None;
        }
        let value = value.trim_matches([' ', '\t']);
        match (name.to_ascii_lowercase().as_str(), framing) {
            ("content-length", Framing::None) => framing = Framing::Length(value.parse().ok()?),
            ("transfer-encoding", Framing::None) if value.eq_ignore_ascii_case("chunked") => {
                framing = Framing::Chunked;
            }
            ("content-length" | "transfer-encoding", _) => return None,
            ("host", _) => hosts += 1,
            _ => {}
        }
    }
    (hosts == 1 || words[2] == "HTTP/1.0").then_some(framing)
}

fn naive_chunked_end(bytes: &[u8]) -> Option<usize> {
    let text: String = bytes.iter().map(|b| char::from(*b)).collect();
    let mut at = 0;
    loop {
        let end = at + text[at..].find("\r\n")?;
        let size = usize::from_str_radix(text[at..end].split([';', ' ', '\t']).next()?, 16).ok()?;
        at = end + 2;
        if size == 0 {
            break;
        }
        at += size;
        at += text.get(at..)?.starts_with("\r\n").then_some(2)?;
    }
    if text[at..].starts_with("\r\n") {
        return Some(at + 2);
    }
    Some(at + text[at..].find("\r\n\r\n")? + 4)
}

proptest! {
    #[test]
    fn a_value_ends_at_its_first_byte_that_no_value_may_have(
        bytes in prop::collection::vec(prop_oneof![8 => b' '..=b'~', 1 => Just(b'\t'), 2 => any::<u8>()], 0..60),
    ) {
        let end = bytes.iter().position(|byte| !super::bytes::is_value_byte(*byte));
        prop_assert_eq!(super::bytes::value_run(&bytes), end.unwrap_or(bytes.len()));
    }
}
