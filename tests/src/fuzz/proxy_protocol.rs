//! PROXY protocol headers: what is decided stays decided, and what a header names can be told again.

use ingress_agent::proxy::proxy_protocol::{Source, Verdict, parse};

use super::{Target, outcome};

pub static PROXY_PROTOCOL: Target = Target {
    name: "proxy_protocol",
    executions: 60_000,
    longest: 600,
    words: &[
        b"PROXY ",
        b"TCP4 ",
        b"TCP6 ",
        b"UNKNOWN",
        b"\r\n",
        b"\r",
        b"\n",
        b" ",
        b"  ",
        b"0",
        b"65535",
        b"65536",
        b"1.2.3.4",
        b"::ffff:1.2.3.4",
        b"::1",
        b"\r\n\r\n\0\r\nQUIT\n",
        b"\x20",
        b"\x21\x11\0\x0c",
        b"\x21\x21\0\x24",
        b"\x21\x31\0\xd8",
        b"\x10\x00",
        b"\x0f\xf0",
        b"\xff\xff",
        b"GET / HTTP/1.1\r\n",
    ],
    check,
};

/// More than the longest header that is taken (v2, 4 KiB of addresses and TLVs) must not be waited for.
const MOST_UNDECIDED: usize = 16 + 4096;

fn check(input: &[u8]) -> u64 {
    let verdict = parse(input);
    let mut decided = None;
    for length in 0..=input.len() {
        let now = parse(input.get(..length).unwrap_or_default());
        if let Some(before) = decided {
            assert_eq!(now, before, "more bytes changed what {length} had decided");
        } else if now != Verdict::Incomplete {
            decided = Some(now);
        }
    }
    match verdict {
        Verdict::Incomplete => assert!(input.len() < MOST_UNDECIDED),
        Verdict::Malformed(_) => {}
        Verdict::Header { length, source } => assert_header(input, length, source),
    }
    assert_padded_is_decided(input);
    match verdict {
        Verdict::Incomplete => outcome(0),
        Verdict::Malformed(why) => outcome((1, why)),
        Verdict::Header {
            source: Source::Peer,
            length,
        } => outcome((2, length.min(40))),
        Verdict::Header {
            source: Source::Client(a),
            length,
        } => outcome((3, a.is_ipv4(), length.min(60))),
    }
}

fn assert_header(input: &[u8], length: usize, source: Source) {
    assert!(length <= input.len());
    assert!(
        length > 0 && parse(input.get(..length - 1).unwrap_or_default()) == Verdict::Incomplete,
        "no byte too many"
    );
    let Source::Client(client) = source else { return };
    let family = if client.is_ipv4() { "TCP4" } else { "TCP6" };
    let (ip, port) = (client.ip(), client.port());
    let again = format!("PROXY {family} {ip} {ip} {port} 443\r\n");
    let expected = Verdict::Header {
        length: again.len(),
        source: Source::Client((ip, port).into()),
    };
    // A scope or flow of an IPv6 address has no place in the header.
    assert_eq!(parse(again.as_bytes()), expected);
}

/// Nobody is waited for without end.
fn assert_padded_is_decided(input: &[u8]) {
    let mut padded = input.to_vec();
    padded.resize(MOST_UNDECIDED, b'x');
    assert_ne!(parse(&padded), Verdict::Incomplete);
}
