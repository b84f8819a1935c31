//! Who the client is, and what the backend is told of it.
//!
//! What an untrusted peer says about where a request came from is replaced; what a trusted one says is kept and continued.

use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use super::source::contains;
use crate::fields::{Fields, visible};

const X_FORWARDED_FOR: &str = "x-forwarded-for";
const X_FORWARDED_PROTO: &str = "x-forwarded-proto";
const X_FORWARDED_SCHEME: &str = "x-forwarded-scheme";
const X_FORWARDED_HOST: &str = "x-forwarded-host";
const X_FORWARDED_PORT: &str = "x-forwarded-port";
const X_REAL_IP: &str = "x-real-ip";
const X_REQUEST_ID: &str = "x-request-id";
const FORWARDED: &str = "forwarded";

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
    pub peer_text: &'a [u8],
    pub https: bool,
    /// The Host as the client sent it, port included.
    pub host: &'a [u8],
    /// The port that the client connected to.
    pub port: Cow<'a, [u8]>,
    /// For a request that brings no identifier: a random number.
    pub request_id: u128,
}

/// What the backend is told of where a request came from.
#[derive(Clone, Debug)]
pub struct Forwarded<'a> {
    scheme: &'static str,
    real_ip: Cow<'a, [u8]>,
    chain: Cow<'a, [u8]>,
    // What stays `None` goes on as a trusted proxy said it.
    host: Option<&'a [u8]>,
    port: Option<Cow<'a, [u8]>>,
    request_id: Option<[u8; 32]>,
    forwarded: Option<Vec<u8>>,
    /// A backend that reads it must not see what an untrusted client wrote, whether we send it or not.
    drops_forwarded: bool,
}

impl Forwarding {
    /// Who sent the request: the right-most address in `X-Forwarded-For` that is not a trusted proxy's.
    pub fn client(&self, hop: &Hop<'_>, headers: &Fields) -> Client {
        let peer = hop.peer.to_canonical();
        if self.trusted.is_empty() || !contains(&self.trusted, peer) {
            return Client {
                ip: peer,
                https: hop.https,
                by_proxy: false,
            };
        }
        let https = match headers.get(X_FORWARDED_PROTO) {
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

    /// The fields that tell the backend.
    pub fn fields<'a>(&self, hop: &Hop<'a>, client: &Client, headers: &Fields) -> Forwarded<'a> {
        let kept = |name| client.by_proxy && headers.contains(name);
        let has_id = kept(X_REQUEST_ID) && has_sane_id(headers);
        Forwarded {
            scheme: if client.https { "https" } else { "http" },
            real_ip: match client.ip == hop.peer.to_canonical() {
                true => Cow::Borrowed(hop.peer_text),
                false => Cow::Owned(client.ip.to_string().into_bytes()),
            },
            chain: match kept(X_FORWARDED_FOR) {
                true => Cow::Owned(continued(headers, X_FORWARDED_FOR, hop.peer_text)),
                false => Cow::Borrowed(hop.peer_text),
            },
            host: (!kept(X_FORWARDED_HOST)).then_some(hop.host),
            port: (!kept(X_FORWARDED_PORT)).then(|| hop.port.clone()),
            request_id: (!has_id).then(|| hex(hop.request_id)),
            forwarded: self.forwarded(hop, client, headers),
            drops_forwarded: !client.by_proxy,
        }
    }

    /// RFC 7239.
    fn forwarded(&self, hop: &Hop<'_>, client: &Client, headers: &Fields) -> Option<Vec<u8>> {
        if !self.forwarded {
            return None;
        }
        let node = match hop.peer.to_canonical() {
            IpAddr::V4(ip) => ip.to_string(),
            IpAddr::V6(ip) => format!("\"[{ip}]\""),
        };
        let scheme = if hop.https { "https" } else { "http" };
        let host = visible(hop.host).unwrap_or_default().replace(['"', '\\'], "");
        let element = format!("for={node};host=\"{host}\";proto={scheme}").into_bytes();
        Some(match client.by_proxy && headers.contains(FORWARDED) {
            true => continued(headers, FORWARDED, &element),
            false => element,
        })
    }

    /// From right to left over trusted proxies. What is no address ends the walk: whoever wrote it is not to be believed.
    fn walk(&self, peer: IpAddr, headers: &Fields) -> IpAddr {
        let mut last = peer;
        for field in headers.get_all(X_FORWARDED_FOR).rev() {
            for element in visible(field).unwrap_or("?").rsplit(',') {
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

impl Forwarded<'_> {
    /// To be sent beside the request's own fields, of which [`Self::make_way`] has taken out what these replace.
    pub fn fields(&self) -> impl Iterator<Item = (&'static str, &[u8])> {
        let fields = self.all();
        fields
            .into_iter()
            .filter_map(|(name, value)| Some((name, value?)))
    }

    fn all(&self) -> [(&'static str, Option<&[u8]>); 8] {
        [
            (X_FORWARDED_SCHEME, Some(self.scheme.as_bytes())),
            (X_FORWARDED_PROTO, Some(self.scheme.as_bytes())),
            (X_REAL_IP, Some(&*self.real_ip)),
            (X_FORWARDED_FOR, Some(&*self.chain)),
            (X_FORWARDED_HOST, self.host),
            (X_FORWARDED_PORT, self.port.as_deref()),
            (X_REQUEST_ID, self.request_id.as_ref().map(<[u8; 32]>::as_slice)),
            (FORWARDED, self.forwarded.as_deref()),
        ]
    }

    /// Takes out what a request says of the same things, and what a backend that reads `_` as `-` would take for it: no proxy that may be trusted
    /// sends that, but one that passes it on from its client is conceivable.
    pub fn make_way(&self, headers: &mut Fields) {
        for (name, ours) in self.all() {
            match ours {
                Some(_) => headers.remove_spellings(name),
                None => headers.remove_look_alikes(name),
            }
        }
        if self.drops_forwarded {
            headers.remove(FORWARDED);
        }
    }

    /// The identifier that this hop gives to the request; `None` where it brings one that is believed.
    pub fn request_id(&self) -> Option<[u8; 32]> {
        self.request_id
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
fn continued(headers: &Fields, name: &str, last: &[u8]) -> Vec<u8> {
    let mut list = Vec::new();
    for field in headers.get_all(name).chain([last]) {
        if !list.is_empty() {
            list.extend_from_slice(b", ");
        }
        list.extend_from_slice(field);
    }
    list
}

fn has_sane_id(headers: &Fields) -> bool {
    const LONGEST: usize = 128;
    let mut ids = headers.get_all(X_REQUEST_ID);
    let id = ids.next().unwrap_or_default();
    // Of two, the backend might take the other one than the log.
    let is_one = ids.next().is_none();
    is_one && (1..=LONGEST).contains(&id.len()) && id.iter().all(u8::is_ascii_graphic)
}

/// 32 hexadecimal digits.
fn hex(number: u128) -> [u8; 32] {
    let digit = |byte: u8| if byte < 10 { b'0' + byte } else { b'a' + byte - 10 };
    let mut text = [0; 32];
    for (pair, byte) in text.chunks_exact_mut(2).zip(number.to_be_bytes()) {
        pair.copy_from_slice(&[digit(byte >> 4), digit(byte & 0xf)]);
    }
    text
}
