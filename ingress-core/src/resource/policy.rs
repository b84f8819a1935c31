//! How a route treats its requests: what annotations and filters come to.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue};
use ipnet::IpNet;
use serde::Serialize;

/// How a route treats its requests. Shared by the paths of one object.
#[derive(Clone, Debug, PartialEq)]
pub struct RoutePolicy {
    pub tls_redirect: TlsRedirect,
    pub redirect: Option<Redirect>,
    /// Where a request for exactly `/` is sent (302).
    pub app_root: Option<String>,
    /// Replaces the path; `$1`… are the regex's groups.
    pub rewrite: Option<Rewrite>,
    /// The Host that the backend sees, in place of the client's.
    pub upstream_host: Option<HeaderValue>,
    /// Largest request body in bytes; `None` is unlimited.
    pub body_limit: Option<u64>,
    pub timeouts: Timeouts,
    pub retry: RetryPolicy,
    pub cors: Option<Arc<CorsPolicy>>,
    pub sources: SourceRanges,
    pub response_headers: Vec<(HeaderName, HeaderValue)>,
    pub request_headers: Vec<(HeaderName, HeaderValue)>,
    pub affinity: Option<CookieAffinity>,
    pub x_forwarded_prefix: Option<HeaderValue>,
    /// Each request goes out on a connection of its own, which begins with a PROXY protocol header (version 2) that names the client.
    pub upstream_proxy_protocol: bool,
    pub access_log: bool,
}

impl Default for RoutePolicy {
    fn default() -> Self {
        Self {
            tls_redirect: TlsRedirect::WithCertificate,
            redirect: None,
            app_root: None,
            rewrite: None,
            upstream_host: None,
            body_limit: Some(DEFAULT_BODY_LIMIT),
            timeouts: Timeouts::default(),
            retry: RetryPolicy::default(),
            cors: None,
            sources: SourceRanges::default(),
            response_headers: Vec::new(),
            request_headers: Vec::new(),
            affinity: None,
            x_forwarded_prefix: None,
            upstream_proxy_protocol: false,
            access_log: true,
        }
    }
}

/// ingress-nginx's `proxy-body-size` default, 1 MiB.
pub const DEFAULT_BODY_LIMIT: u64 = 1 << 20;

/// When plain HTTP is sent to HTTPS (308).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TlsRedirect {
    Never,
    /// The host has a usable certificate of its own.
    WithCertificate,
    Always,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Redirect {
    /// The target as the annotation has it; `$request_uri`, `$host`, `$scheme` and `$1`… are filled in.
    pub location: String,
    pub status: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Rewrite {
    /// `/new/$2`; a path without `$` replaces the whole path.
    pub template: String,
}

/// Each counts between two operations, not in total (as nginx's do); `None` means no limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timeouts {
    pub connect: Duration,
    /// Between two writes of the request to the backend.
    pub send: Duration,
    /// Between two reads of the response from the backend.
    pub read: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            send: Duration::from_secs(60),
            read: Duration::from_secs(60),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RetryPolicy {
    /// Attempts in all, the first included.
    pub attempts: u32,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self { attempts: 3 }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CorsPolicy {
    pub origins: Vec<CorsOrigin>,
    pub methods: HeaderValue,
    pub headers: HeaderValue,
    pub expose_headers: Option<HeaderValue>,
    pub credentials: bool,
    /// Seconds that a browser may keep the answer to a preflight.
    pub max_age: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CorsOrigin {
    Any,
    /// `https://app.example:8443`, lower case.
    Exact(String),
    /// `https://*.example.com`: prefix and suffix around one or more labels, lower case.
    Wildcard {
        prefix: String,
        suffix: String,
    },
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SourceRanges {
    /// Empty: everyone, but for `deny`.
    pub allow: Vec<IpNet>,
    pub deny: Vec<IpNet>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CookieAffinity {
    pub name: String,
    pub path: Option<String>,
    pub domain: Option<String>,
    pub same_site: Option<&'static str>,
    pub secure: Option<bool>,
    /// Seconds; `None` is a session cookie.
    pub max_age: Option<i64>,
    /// On failure of the remembered endpoint: take another one and remember it.
    pub change_on_failure: bool,
}
