//! Pure edits of requests and responses: redirects, rewrites, CORS, source ranges.
//!
//! Everything is a function of a route and of facts about one request. What has to happen to header fields comes back as a
//! short list of [`Edit`]s, so that they are moved along and not rebuilt.

mod affinity;
mod canary;
mod cors;
mod forwarded;
mod headers;
mod redirect;
mod rewrite;
mod source;

use std::net::IpAddr;

use http::{HeaderName, HeaderValue, Method, StatusCode};

use crate::fields::Fields;
use crate::reason::Reason;
use crate::snapshot::Route;

pub use affinity::{set_cookie, sticky_cookie};
pub use canary::{choose_backend, choose_canary, choose_cluster};
pub use cors::response_edits as cors_response_edits;
pub use forwarded::{Client, Forwarded, Forwarding, Hop};
pub use headers::{Edit, apply, remove_hop_by_hop, request_edits, response_edits};
pub use rewrite::{rewrite_path, rewrite_target};
pub use source::is_allowed;

/// What the filters look at. The path is normalised, the host without port and in lower case.
#[derive(Clone, Copy, Debug)]
pub struct RequestFacts<'a> {
    /// The client came by HTTPS: on this connection, or as a trusted proxy says.
    pub https: bool,
    pub host: &'a str,
    /// The port of the Host field, if it had one.
    pub port: Option<u16>,
    pub path: &'a str,
    pub query: Option<&'a str>,
    pub method: &'a Method,
    pub headers: &'a Fields,
    /// From [`Forwarding::client`].
    pub client_ip: IpAddr,
    /// Where clients reach us by HTTPS; 443 stays out of URLs.
    pub https_port: u16,
}

/// What becomes of a request before any backend is asked.
#[derive(Clone, Debug, PartialEq)]
pub enum Decision {
    Forward,
    Answer(OwnAnswer),
}

/// An answer without a body of the backend's.
#[derive(Clone, Debug, PartialEq)]
pub struct OwnAnswer {
    pub reason: Reason,
    pub status: StatusCode,
    pub headers: Vec<(HeaderName, HeaderValue)>,
}

/// Whether a route forwards a request or answers it here, and how.
///
/// Source ranges come first, so that nobody who is shut out learns of redirects. A certificate authority's challenge is
/// never redirected (RFC 8555, 8.3).
pub fn decide(route: &Route, request: &RequestFacts<'_>) -> Decision {
    if !is_allowed(&route.policy.sources, request.client_ip) {
        return Decision::Answer(OwnAnswer::new(Reason::Denied));
    }
    let challenge = request.path.starts_with(ACME_CHALLENGES);
    let redirected = (!challenge).then(|| redirect::answer(route, request)).flatten();
    let answer = redirected.or_else(|| {
        let cors = route.policy.cors.as_deref()?;
        cors::preflight(cors, request)
    });
    answer.map_or(Decision::Forward, Decision::Answer)
}

const ACME_CHALLENGES: &str = "/.well-known/acme-challenge/";

impl OwnAnswer {
    fn new(reason: Reason) -> Self {
        Self {
            reason,
            status: reason.status(),
            headers: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests;
