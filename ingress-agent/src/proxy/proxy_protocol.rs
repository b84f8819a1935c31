//! PROXY protocol v1 and v2 in: who the client was before a load balancer (haproxy's proxy-protocol.txt).
//!
//! Pure: bytes in, a verdict out. Who may send it is the listener's decision.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The longest v1 header with its CRLF (section 2.1).
const V1_MAX: usize = 107;
const V2_SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// More than any TLVs in use; a longer one is refused rather than buffered.
const V2_MAX: usize = 16 + 4096;

/// What a connection's first bytes say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Not decided yet; at least one more byte is needed.
    Incomplete,
    /// A whole header of this length.
    Header { length: usize, source: Source },
    /// Not a PROXY header, or one that breaks the format.
    Malformed(&'static str),
}

/// Whom the header names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    Client(SocketAddr),
    /// LOCAL or UNKNOWN: the sender speaks for itself (health checks); the peer's own address holds.
    Peer,
}

/// Reads the header at the start of `bytes`.
pub fn parse(bytes: &[u8]) -> Verdict {
    if starts_alike(bytes, V2_SIGNATURE) {
        parse_v2(bytes)
    } else if starts_alike(bytes, b"PROXY ") {
        parse_v1(bytes)
    } else {
        Verdict::Malformed("the connection does not start with a PROXY protocol header")
    }
}

/// Whether `bytes` begins with `prefix` as far as both go.
fn starts_alike(bytes: &[u8], prefix: &[u8]) -> bool {
    bytes.iter().zip(prefix).all(|(a, b)| a == b)
}

fn parse_v1(bytes: &[u8]) -> Verdict {
    let window = bytes.get(..V1_MAX).unwrap_or(bytes);
    let Some(end) = window.windows(2).position(|pair| pair == b"\r\n") else {
        return if bytes.len() >= V1_MAX {
            Verdict::Malformed("PROXY v1 header longer than 107 bytes")
        } else {
            Verdict::Incomplete
        };
    };
    let line = window.get(..end).and_then(|line| std::str::from_utf8(line).ok());
    match line.and_then(v1_source) {
        Some(source) => Verdict::Header {
            length: end + 2,
            source,
        },
        None => Verdict::Malformed("PROXY v1 header with bad addresses or ports"),
    }
}

fn v1_source(line: &str) -> Option<Source> {
    let mut words = line.strip_prefix("PROXY ")?.split(' ');
    let family = words.next()?;
    if family == "UNKNOWN" {
        return Some(Source::Peer); // whatever follows must be ignored (section 2.1)
    }
    let source: IpAddr = words.next()?.parse().ok()?;
    let destination: IpAddr = words.next()?.parse().ok()?;
    let port = v1_port(words.next()?)?;
    v1_port(words.next()?)?;
    let family_fits = match family {
        "TCP4" => source.is_ipv4() && destination.is_ipv4(),
        "TCP6" => source.is_ipv6() && destination.is_ipv6(),
        _ => false,
    };
    (family_fits && words.next().is_none()).then_some(Source::Client(SocketAddr::new(source, port)))
}

fn v1_port(text: &str) -> Option<u16> {
    let plain = text.bytes().all(|b| b.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    plain.then(|| text.parse().ok()).flatten()
}

fn parse_v2(bytes: &[u8]) -> Verdict {
    let Some((head, rest)) = bytes.split_first_chunk::<16>() else {
        return Verdict::Incomplete;
    };
    let [.., version_command, family, high, low] = *head;
    let length = usize::from(u16::from_be_bytes([high, low]));
    if version_command >> 4 != 2 {
        return Verdict::Malformed("PROXY header with a version other than 2");
    }
    if 16 + length > V2_MAX {
        return Verdict::Malformed("PROXY v2 header longer than 4 KiB");
    }
    let Some(addresses) = rest.get(..length) else {
        return Verdict::Incomplete;
    };
    let source = match (version_command & 0x0f, family) {
        (0, _) => Some(Source::Peer),
        (1, 0x11) => v2_ipv4(addresses),
        (1, 0x21) => v2_ipv6(addresses),
        // UNSPEC, UDP and UNIX: the receiver uses the connection's own addresses (section 2.2).
        (1, 0x00 | 0x12 | 0x22 | 0x31 | 0x32) => Some(Source::Peer),
        _ => None,
    };
    match source {
        Some(source) => Verdict::Header {
            length: 16 + length,
            source,
        },
        None => Verdict::Malformed("PROXY v2 header with an unknown command or too short addresses"),
    }
}

fn v2_ipv4(block: &[u8]) -> Option<Source> {
    let (address, rest) = block.split_first_chunk::<4>()?;
    let port = rest.get(4..6)?;
    rest.get(..8)?;
    Some(client(Ipv4Addr::from(*address).into(), port))
}

fn v2_ipv6(block: &[u8]) -> Option<Source> {
    let (address, rest) = block.split_first_chunk::<16>()?;
    let port = rest.get(16..18)?;
    rest.get(..20)?;
    Some(client(Ipv6Addr::from(*address).into(), port))
}

fn client(address: IpAddr, port: &[u8]) -> Source {
    let port = port
        .iter()
        .fold(0u16, |value, byte| value << 8 | u16::from(*byte));
    Source::Client(SocketAddr::new(address, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v2(command: u8, family: u8, block: &[u8]) -> Vec<u8> {
        let mut bytes = V2_SIGNATURE.to_vec();
        bytes.extend([0x20 | command, family]);
        bytes.extend(u16::try_from(block.len()).unwrap().to_be_bytes());
        bytes.extend(block);
        bytes
    }

    fn source_of(bytes: &[u8]) -> Source {
        match parse(bytes) {
            Verdict::Header { source, length } => {
                assert!(length <= bytes.len());
                source
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn version_1_names_the_client() {
        let bytes = b"PROXY TCP4 203.0.113.7 10.0.0.1 4711 443\r\nGET / HTTP/1.1\r\n";
        assert_eq!(
            source_of(bytes),
            Source::Client("203.0.113.7:4711".parse().unwrap())
        );
        let bytes = b"PROXY TCP6 2001:db8::7 ::1 4711 443\r\n";
        assert_eq!(
            source_of(bytes),
            Source::Client("[2001:db8::7]:4711".parse().unwrap())
        );
        assert_eq!(source_of(b"PROXY UNKNOWN\r\n"), Source::Peer);
    }

    #[test]
    fn version_2_names_the_client_whatever_tlvs_follow() {
        let mut block = vec![203, 0, 113, 7, 10, 0, 0, 1, 0x12, 0x67, 1, 187];
        block.extend([3, 0, 4, 1, 2, 3, 4]);
        assert_eq!(
            source_of(&v2(1, 0x11, &block)),
            Source::Client("203.0.113.7:4711".parse().unwrap())
        );
        assert_eq!(source_of(&v2(0, 0x00, &[])), Source::Peer);
    }

    #[test]
    fn a_header_that_is_cut_anywhere_is_incomplete_and_never_misread() {
        let whole = v2(1, 0x11, &[203, 0, 113, 7, 10, 0, 0, 1, 0x12, 0x67, 1, 187]);
        for cut in 0..whole.len() {
            assert_eq!(parse(&whole[..cut]), Verdict::Incomplete, "cut at {cut}");
        }
        let whole = b"PROXY TCP4 203.0.113.7 10.0.0.1 4711 443\r\n";
        for cut in 0..whole.len() {
            assert_eq!(parse(&whole[..cut]), Verdict::Incomplete, "cut at {cut}");
        }
    }

    #[test]
    fn what_breaks_the_format_is_refused() {
        let long = [b"PROXY TCP4 ".as_slice(), &[b'1'; 200]].concat();
        let cases: [&[u8]; 8] = [
            b"GET / HTTP/1.1\r\n",
            b"PROXY TCP4 ::1 ::1 1 1\r\n",
            b"PROXY TCP4 1.2.3.4 1.2.3.4 99999 1\r\n",
            b"PROXY TCP4 1.2.3.4 1.2.3.4 01 1\r\n",
            b"PROXY TCP4 1.2.3.4 1.2.3.4 1 1 1\r\n",
            b"PROXY UDP4 1.2.3.4 1.2.3.4 1 1\r\n",
            &long,
            &v2(1, 0x11, &[1, 2, 3]),
        ];
        for case in cases {
            assert!(matches!(parse(case), Verdict::Malformed(_)), "{case:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..300), v2 in proptest::bool::ANY) {
            let mut input = if v2 { V2_SIGNATURE.to_vec() } else { b"PROXY ".to_vec() };
            input.extend(bytes);
            if let Verdict::Header { length, .. } = parse(&input) {
                assert!(length <= input.len());
            }
        }
    }
}
