//! Edits of header fields, and the fields that end at this hop.

use http::header::{HeaderName, HeaderValue, TE};

use crate::fields::Fields;
use crate::snapshot::Route;

/// One change of header fields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Edit {
    /// In place of all fields of this name, also where `_` is read as `-`.
    Set(HeaderName, HeaderValue),
    /// Besides those that are there.
    Append(HeaderName, HeaderValue),
    Remove(HeaderName),
}

pub fn apply(headers: &mut Fields, edits: impl IntoIterator<Item = Edit>) {
    for edit in edits {
        match edit {
            Edit::Set(name, value) => {
                headers.remove_spellings(name.as_str());
                headers.append(name, value);
            }
            Edit::Append(name, value) => headers.append(name, value),
            Edit::Remove(name) => headers.remove(name.as_str()),
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
pub fn remove_hop_by_hop(headers: &mut Fields) {
    if headers.contains("connection") {
        for name in named_by_connection(headers) {
            headers.remove(&name);
        }
    }
    for name in [
        "connection",
        "keep-alive",
        "proxy-connection",
        "transfer-encoding",
        "upgrade",
    ] {
        headers.remove(name);
    }
    // Nor may a backend that reads `_` as `-` learn of another framing than ours.
    for name in ["content-length", "transfer-encoding"] {
        headers.remove_look_alikes(name);
    }
    reduce_te(headers);
}

fn named_by_connection(headers: &Fields) -> Vec<String> {
    // The last three are what it usually says, and go anyway.
    let is_ours = |name: &&str| {
        ["host", "content-length", "te", "keep-alive", "close", "upgrade"]
            .iter()
            .any(|own| name.eq_ignore_ascii_case(own))
    };
    let options = headers.members("connection");
    let names = options.filter_map(|option| std::str::from_utf8(option).ok());
    names.filter(|name| !is_ours(name)).map(str::to_owned).collect()
}

/// RFC 9110, 10.1.4: only `trailers` may go on, and only as we say it.
fn reduce_te(headers: &mut Fields) {
    if !headers.contains("te") {
        return;
    }
    let keeps = headers
        .members("te")
        .any(|coding| coding.eq_ignore_ascii_case(b"trailers"));
    headers.remove("te");
    if keeps {
        headers.append(TE, HeaderValue::from_static("trailers"));
    }
}
