//! Edits of header maps, and the fields that end at this hop.

use http::header::{
    CONNECTION, CONTENT_LENGTH, HOST, HeaderMap, HeaderName, HeaderValue, TE, TRANSFER_ENCODING, UPGRADE,
};

use crate::snapshot::Route;

/// One change of a header map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Edit {
    /// In place of all fields of this name.
    Set(HeaderName, HeaderValue),
    /// Besides those that are there.
    Append(HeaderName, HeaderValue),
    Remove(HeaderName),
}

pub fn apply(headers: &mut HeaderMap, edits: impl IntoIterator<Item = Edit>) {
    for edit in edits {
        match edit {
            Edit::Set(name, value) => drop(headers.insert(name, value)),
            Edit::Append(name, value) => {
                headers.append(name, value);
            }
            Edit::Remove(name) => drop(headers.remove(name)),
        }
    }
}

impl Edit {
    /// The field that this adds.
    pub fn field(&self) -> Option<(&HeaderName, &HeaderValue)> {
        match self {
            Self::Set(name, value) | Self::Append(name, value) => Some((name, value)),
            Self::Remove(_) => None,
        }
    }
}

/// The part of [`apply`] that takes away; what the edits add ([`Edit::field`]) is to be sent after the map's fields: growing a map
/// costs more than the fields themselves. All edits must be of fields whose names begin with `x-` or `f`.
pub fn make_way(headers: &mut HeaderMap, edits: &[Edit]) {
    let may_have = headers
        .keys()
        .any(|name| matches!(name.as_str().as_bytes(), [b'x', b'-', ..] | [b'f', ..]));
    if !may_have {
        return;
    }
    for edit in edits {
        if let Edit::Set(name, _) | Edit::Remove(name) = edit {
            headers.remove(name);
        }
    }
}

/// What a route adds to requests: its own headers and `X-Forwarded-Prefix`. The Host is the caller's (`upstream_host`).
pub fn request_edits(route: &Route) -> impl Iterator<Item = Edit> {
    const X_FORWARDED_PREFIX: HeaderName = HeaderName::from_static("x-forwarded-prefix");
    let policy = &route.policy;
    let prefix = policy.x_forwarded_prefix.iter();
    prefix
        .map(|value| Edit::Set(X_FORWARDED_PREFIX, value.clone()))
        .chain(policy.request_headers.iter().map(set))
}

/// What a route adds to responses, CORS apart.
pub fn response_edits(route: &Route) -> impl Iterator<Item = Edit> {
    route.policy.response_headers.iter().map(set)
}

fn set((name, value): &(HeaderName, HeaderValue)) -> Edit {
    Edit::Set(name.clone(), value.clone())
}

/// Removes the fields that concern this connection alone, those that `Connection` names included (RFC 9110, 7.6.1).
///
/// `TE` keeps `trailers`, which gRPC needs. A client cannot make us drop what delimits or routes the message.
pub fn remove_hop_by_hop(headers: &mut HeaderMap) {
    const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
    const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
    if headers.contains_key(CONNECTION) {
        for name in named_by_connection(headers) {
            headers.remove(name);
        }
        headers.remove(CONNECTION);
    }
    // One look at what is there costs less than a look-up of each that mostly isn't.
    let ends_here = |name: &HeaderName| {
        *name == TE
            || *name == TRANSFER_ENCODING
            || *name == UPGRADE
            || *name == KEEP_ALIVE
            || *name == PROXY_CONNECTION
    };
    if !headers.keys().any(ends_here) {
        return;
    }
    for name in [KEEP_ALIVE, PROXY_CONNECTION, TRANSFER_ENCODING, UPGRADE] {
        headers.remove(name);
    }
    reduce_te(headers);
}

fn named_by_connection(headers: &HeaderMap) -> Vec<HeaderName> {
    let is_ours = |name: &HeaderName| *name == HOST || *name == CONTENT_LENGTH || *name == TE;
    let fields = headers.get_all(CONNECTION).iter();
    let options = fields.flat_map(|field| field.as_bytes().split(|b| *b == b','));
    let names = options.filter_map(|option| HeaderName::from_bytes(option.trim_ascii()).ok());
    names.filter(|name| !is_ours(name)).collect()
}

/// RFC 9110, 10.1.4: only `trailers` may go on, and only as we say it.
fn reduce_te(headers: &mut HeaderMap) {
    if !headers.contains_key(TE) {
        return;
    }
    let fields = headers.get_all(TE).iter();
    let mut codings = fields.flat_map(|field| field.as_bytes().split(|b| *b == b','));
    match codings.any(|coding| coding.trim_ascii().eq_ignore_ascii_case(b"trailers")) {
        true => drop(headers.insert(TE, HeaderValue::from_static("trailers"))),
        false => drop(headers.remove(TE)),
    }
}
