//! The wire gate's HTTP/1.1 reader: what it lets pass reads the same to a strict reader, to httparse and to hyper, and the
//! verdict does not depend on how the bytes were cut into reads.

use std::cell::RefCell;
use std::convert::Infallible;
use std::sync::LazyLock;

use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use ingress_agent::proxy::wire::h1::{Body, HeadInfo, HeadReader, check_head};
use ingress_agent::proxy::wire::{Limits, Refusal};
use tokio::runtime::{Builder, Runtime};

use super::strict::{self, Message};
use super::{Target, cuts, outcome};

pub static HTTP1: Target = Target {
    name: "http1",
    executions: 20_000,
    longest: 3000,
    words: &[
        b"\r\n",
        b"\r\n\r\n",
        b"\n",
        b"\r",
        b"\r\r\n",
        b" ",
        b"\t",
        b":",
        b": ",
        b"\0",
        b"\x0b",
        b"\x80",
        b"GET ",
        b"POST ",
        b"HEAD ",
        b"OPTIONS * ",
        b"CONNECT ",
        b"get ",
        b" HTTP/1.1\r\n",
        b" HTTP/1.0\r\n",
        b" HTTP/2.0\r\n",
        b"http://a",
        b"https://u@b:1/",
        b"*",
        b"#",
        b"?",
        b"//",
        b"Host: a\r\n",
        b"Host:\r\n",
        b"host : a\r\n",
        b"Content-Length: 3\r\n",
        b"Content-Length: 03\r\n",
        b"Content-Length: +3\r\n",
        b"Content-Length: 3, 3\r\n",
        b"content-length: 18446744073709551616\r\n",
        b"Content-Length: 0\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: Chunked \r\n",
        b"Transfer-Encoding: chunked, chunked\r\n",
        b"Transfer-Encoding: gzip, chunked\r\n",
        b"Transfer-Encoding: identity\r\n",
        b"Transfer-Encoding:\x0bchunked\r\n",
        b"Connection: close\r\n",
        b"Connection: keep-alive\r\n",
        b"Connection: upgrade\r\n",
        b"Connection: content-length\r\n",
        b"Upgrade: websocket\r\n",
        b"Upgrade: h2c\r\n",
        b"Expect: 100-continue\r\n",
        b" folded\r\n",
        b"0\r\n\r\n",
        b"0\r\n",
        b"1\r\na\r\n",
        b"00\r\n",
        b"0x1\r\n",
        b"-1\r\n",
        b"a;b=\"c\"\r\n",
        b"3 ;e\r\n",
        b"3 \r\n",
        b";\r\n",
        b"FFFFFFFFFFFFFFFF\r\n",
        b"10000000000000000\r\n",
        b"T: v\r\n",
        b"Trailer: T\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
    check,
};

/// One message that passed: its head's verdict, where it begins, and its body's bytes as sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Passed {
    info: HeadInfo,
    start: usize,
    body: usize,
}

type Reading = (Vec<Passed>, Option<Refusal>);

fn check(input: &[u8]) -> u64 {
    let limits = Limits::default();
    let small = Limits {
        head_bytes: 150,
        head_fields: 4,
        request_line: 60,
        field_line: 70,
        ..Limits::default()
    };
    let each: Vec<usize> = (1..=input.len()).collect();
    for limits in [&limits, &small] {
        let whole = gate(input, &[input.len()], limits);
        assert_read_alike(input, &cuts(input), limits, &whole);
        assert_read_alike(input, &each, limits, &whole);
    }
    let (passed, refusal) = gate(input, &[input.len()], &limits);
    let strict = strict::read(input);
    assert!(
        passed.len() <= strict.len(),
        "the strict reader refuses message {} of {passed:?}",
        strict.len()
    );
    for (passed, message) in passed.iter().zip(&strict) {
        assert_eq!(
            (passed.info.end, passed.body),
            (message.head, message.raw_body),
            "{passed:?}"
        );
        let head = input
            .get(passed.start..passed.start + passed.info.end)
            .unwrap_or_default();
        assert_eq!(check_head(head, &limits), Ok(passed.info));
        assert_httparse_agrees(head, message);
    }
    assert_hyper_agrees(input, &passed, &strict, &limits);
    let shapes: Vec<_> = passed
        .iter()
        .take(3)
        .map(|p| {
            (
                p.info.framing == ingress_agent::proxy::wire::h1::Framing::Chunked,
                p.info.close,
                p.info.expect_continue,
                p.info.upgrade_websocket,
                p.body > 0,
            )
        })
        .collect();
    outcome((shapes, refusal.map(|refusal| refusal.detail)))
}

/// A long line without an end may be judged later when it comes in pieces, but not otherwise: its end shows that.
fn assert_read_alike(input: &[u8], ends: &[usize], limits: &Limits, whole: &Reading) {
    let cut = gate(input, ends, limits);
    if cut.1.is_none() && cut.0 == whole.0 {
        let ended = [input, b"\n"].concat();
        let ends = [ends, &[ended.len()]].concat();
        let expected = gate(&ended, &[ended.len()], limits);
        assert_eq!(gate(&ended, &ends, limits), expected, "cut at {ends:?}");
    } else {
        assert_eq!(&cut, whole, "cut at {ends:?}");
    }
}

/// Follows a stream of messages that is there up to each of these ends in turn.
fn gate(bytes: &[u8], ends: &[usize], limits: &Limits) -> Reading {
    let (mut passed, mut start) = (Vec::new(), 0);
    let (mut reader, mut body): (HeadReader, Option<(HeadInfo, usize, Body)>) = Default::default();
    for &end in ends {
        loop {
            if let Some((info, at, follower)) = &mut body {
                match follower.follow(bytes.get(*at..end).unwrap_or_default()) {
                    Ok(used) => *at += used,
                    Err(refusal) => return (passed, Some(refusal)),
                }
                if !follower.done() {
                    break;
                }
                passed.push(Passed {
                    info: *info,
                    start,
                    body: *at - start - info.end,
                });
                (start, reader, body) = (*at, HeadReader::default(), None);
            }
            match reader.advance(bytes.get(start..end).unwrap_or_default(), limits) {
                Ok(Some(info)) => body = Some((info, start + info.end, Body::new(info.framing))),
                Ok(None) => break,
                Err(refusal) => return (passed, Some(refusal)),
            }
        }
    }
    (passed, None)
}

fn assert_httparse_agrees(head: &[u8], message: &Message<'_>) {
    let mut fields = [httparse::EMPTY_HEADER; 128];
    let mut request = httparse::Request::new(&mut fields);
    assert_eq!(
        request.parse(head),
        Ok(httparse::Status::Complete(head.len())),
        "{}",
        head.escape_ascii()
    );
    assert_eq!(request.method.map(str::as_bytes), Some(message.method));
    assert_eq!(request.path.map(str::as_bytes), Some(message.target));
    let read: Vec<_> = request
        .headers
        .iter()
        .map(|f| (f.name.as_bytes(), f.value))
        .collect();
    assert_eq!(read, message.fields, "{}", head.escape_ascii());
}

/// What hyper's service saw: method, fields, bytes of content.
type Served = (Vec<u8>, usize, usize);

static RUNTIME: LazyLock<Option<Runtime>> = LazyLock::new(|| Builder::new_current_thread().build().ok());

/// hyper closes after a message that asks for it.
fn assert_hyper_agrees(input: &[u8], passed: &[Passed], strict: &[Message<'_>], limits: &Limits) {
    let count = passed
        .iter()
        .position(|p| p.info.close)
        .map_or(passed.len(), |last| last + 1);
    let end = passed
        .get(..count)
        .and_then(<[Passed]>::last)
        .map_or(0, |last| last.start + last.info.end + last.body);
    let stream = input.get(..end).unwrap_or_default();
    let expected: Vec<Served> = strict
        .iter()
        .take(count)
        .map(|m| (m.method.to_vec(), m.fields.len(), m.content))
        .collect();
    assert_eq!(
        hyper(stream, limits),
        expected,
        "what hyper served of {}",
        stream.escape_ascii()
    );
}

fn hyper(stream: &[u8], limits: &Limits) -> Vec<Served> {
    let served = RefCell::new(Vec::new());
    let service = service_fn(async |request: Request<Incoming>| {
        let (method, fields) = (
            request.method().as_str().as_bytes().to_vec(),
            request.headers().len(),
        );
        let content = request
            .into_body()
            .collect()
            .await
            .map(|body| body.to_bytes().len());
        served
            .borrow_mut()
            .push((method, fields, content.unwrap_or(usize::MAX)));
        Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
    });
    let serving = http1::Builder::new()
        .half_close(true)
        .header_read_timeout(None)
        .max_headers(limits.head_fields + 1)
        .max_buf_size((limits.head_bytes + 8 * 1024).max(400 * 1024))
        .serve_connection(TokioIo::new(tokio::io::join(stream, tokio::io::sink())), service);
    if let Some(runtime) = &*RUNTIME {
        let _ = runtime.block_on(serving);
    }
    served.take()
}
