//! Who the client is, and what the backend is told of it.
//!
//! What an untrusted peer says about where a request came from is replaced; what a trusted one says is kept and continued.

use std::net::{IpAddr, SocketAddr};

use http::header::{FORWARDED, HeaderMap, HeaderName, HeaderValue};
use ipnet::IpNet;

use super::headers::Edit;
use super::source::contains;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_SCHEME: HeaderName = HeaderName::from_static("x-forwarded-scheme");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
const X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");
const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Whom to believe, and what to say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Forwarding {
    /// Peers whose `X-Forwarded-*` and `Forwarded` are believed.
    pub trusted: Vec<IpNet>,
    /// Send `Forwarded` (RFC 7239) too.
    pub forwarded: bool,
}

/// Where a request came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Client {
    pub ip: IpAddr,
    /// The client came by HTTPS: to us, or to the trusted proxy before us.
    pub https: bool,
    /// The peer is a trusted proxy.
    pub by_proxy: bool,
}

/// This hop: the connection that a request arrived on.
#[derive(Clone, Debug)]
pub struct Hop<'a> {
    /// The peer, as the socket or the PROXY protocol has it.
    pub peer: IpAddr,
    /// The same as text; made once for a connection.
    pub peer_text: &'a HeaderValue,
    pub https: bool,
    /// The Host as the client sent it, port included.
    pub host: &'a HeaderValue,
    /// The port that the client connected to.
    pub port: HeaderValue,
    /// For a request that brings no identifier: a random number.
    pub request_id: u128,
}

impl Forwarding {
    /// Who sent the request: the right-most address in `X-Forwarded-For` that is not a trusted proxy's.
    pub fn client(&self, hop: &Hop<'_>, headers: &HeaderMap) -> Client {
        let peer = hop.peer.to_canonical();
        if self.trusted.is_empty() || !contains(&self.trusted, peer) {
            return Client {
                ip: peer,
                https: hop.https,
                by_proxy: false,
            };
        }
        let https = match headers.get(X_FORWARDED_PROTO).map(HeaderValue::as_bytes) {
            Some(proto) if proto.eq_ignore_ascii_case(b"https") => true,
            Some(proto) if proto.eq_ignore_ascii_case(b"http") => false,
            _ => hop.https,
        };
        Client {
            ip: self.walk(peer, headers),
            https,
            by_proxy: true,
        }
    }

    /// The header edits that tell the backend.
    pub fn edits(&self, hop: &Hop<'_>, client: &Client, headers: &HeaderMap) -> Vec<Edit> {
        let mut edits = Vec::with_capacity(8);
        let peer = hop.peer_text.clone();
        let real = match client.ip == hop.peer.to_canonical() {
            true => peer.clone(),
            false => text_value(&client.ip.to_string()),
        };
        let scheme = HeaderValue::from_static(if client.https { "https" } else { "http" });
        edits.push(Edit::Set(X_FORWARDED_SCHEME, scheme.clone()));
        edits.push(Edit::Set(X_FORWARDED_PROTO, scheme));
        edits.push(Edit::Set(X_REAL_IP, real));
        let kept = |name: &HeaderName| client.by_proxy && headers.contains_key(name);
        match kept(&X_FORWARDED_FOR) {
            true => edits.push(Edit::Set(
                X_FORWARDED_FOR,
                continued(headers, &X_FORWARDED_FOR, &peer),
            )),
            false => edits.push(Edit::Set(X_FORWARDED_FOR, peer)),
        }
        if !kept(&X_FORWARDED_HOST) {
            edits.push(Edit::Set(X_FORWARDED_HOST, hop.host.clone()));
        }
        if !kept(&X_FORWARDED_PORT) {
            edits.push(Edit::Set(X_FORWARDED_PORT, hop.port.clone()));
        }
        if !(kept(&X_REQUEST_ID) && has_sane_id(headers)) {
            edits.push(Edit::Set(X_REQUEST_ID, hex(hop.request_id)));
        }
        edits.extend(self.forwarded(hop, client, headers));
        edits
    }

    /// RFC 7239. A backend that reads it must not see what an untrusted client wrote, whether we send it or not.
    fn forwarded(&self, hop: &Hop<'_>, client: &Client, headers: &HeaderMap) -> Option<Edit> {
        let sent = headers.contains_key(FORWARDED);
        if !self.forwarded {
            return (sent && !client.by_proxy).then_some(Edit::Remove(FORWARDED));
        }
        let node = match hop.peer.to_canonical() {
            IpAddr::V4(ip) => ip.to_string(),
            IpAddr::V6(ip) => format!("\"[{ip}]\""),
        };
        let scheme = if hop.https { "https" } else { "http" };
        let host = hop.host.to_str().unwrap_or_default().replace(['"', '\\'], "");
        let element = text_value(&format!("for={node};host=\"{host}\";proto={scheme}"));
        Some(Edit::Set(
            FORWARDED,
            match sent && client.by_proxy {
                true => continued(headers, &FORWARDED, &element),
                false => element,
            },
        ))
    }

    /// From right to left over trusted proxies. What is no address ends the walk: whoever wrote it is not to be believed.
    fn walk(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        let mut last = peer;
        for field in headers.get_all(X_FORWARDED_FOR).iter().rev() {
            for element in field.to_str().unwrap_or("?").rsplit(',') {
                let Some(address) = parse_address(element.trim()) else {
                    return last;
                };
                last = address;
                if !contains(&self.trusted, address) {
                    return last;
                }
            }
        }
        last
    }
}

/// An address as proxies write it: bare, in brackets, or with a port.
fn parse_address(text: &str) -> Option<IpAddr> {
    let bare = text
        .strip_prefix('[')
        .and_then(|t| t.strip_suffix(']'))
        .unwrap_or(text);
    let address = bare
        .parse()
        .ok()
        .or_else(|| Some(text.parse::<SocketAddr>().ok()?.ip()));
    address.map(|address: IpAddr| address.to_canonical())
}

/// All fields of a name as one list, with one element more.
fn continued(headers: &HeaderMap, name: &HeaderName, last: &HeaderValue) -> HeaderValue {
    let mut list = Vec::new();
    for field in headers.get_all(name).iter().chain([last]) {
        if !list.is_empty() {
            list.extend_from_slice(b", ");
        }
        list.extend_from_slice(field.as_bytes());
    }
    HeaderValue::try_from(list).unwrap_or_else(|_| last.clone())
}

fn has_sane_id(headers: &HeaderMap) -> bool {
    const LONGEST: usize = 128;
    let id = headers.get(X_REQUEST_ID).map_or(&b""[..], HeaderValue::as_bytes);
    (1..=LONGEST).contains(&id.len()) && id.iter().all(u8::is_ascii_graphic)
}

/// 32 hexadecimal digits.
fn hex(number: u128) -> HeaderValue {
    let digit = |byte: u8| if byte < 10 { b'0' + byte } else { b'a' + byte - 10 };
    let mut text = [0; 32];
    for (pair, byte) in text.chunks_exact_mut(2).zip(number.to_be_bytes()) {
        pair.copy_from_slice(&[digit(byte >> 4), digit(byte & 0xf)]);
    }
    HeaderValue::from_bytes(&text).unwrap_or_else(|_| HeaderValue::from_static("0"))
}

/// For texts of our own making, which are always visible ASCII.
fn text_value(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or_else(|_| HeaderValue::from_static(""))
}
