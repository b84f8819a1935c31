//! The one table of reason codes: every answer that the agent itself makes carries exactly one of them.

use http::StatusCode;
use serde::Serialize;

macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident => $code:literal, $status:ident;)+) => {
        /// Why the agent answered by itself: in `x-ingress-agent-reason`, the access log and metrics.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
        #[serde(rename_all = "snake_case")]
        pub enum Reason { $($(#[$doc])* $variant,)+ }

        impl Reason {
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// The stable word that clients, logs and metrics see.
            pub fn code(self) -> &'static str {
                match self { $(Self::$variant => $code,)+ }
            }

            /// The status of the answer. Redirects may carry another one from their annotation.
            pub fn status(self) -> StatusCode {
                match self { $(Self::$variant => StatusCode::$status,)+ }
            }
        }
    };
}

reasons! {
    /// The request breaks RFC 9112 or 9113, or is ambiguous under them.
    BadRequest => "bad_request", BAD_REQUEST;
    /// The source address may not use this route.
    Denied => "denied", FORBIDDEN;
    /// No route has this host.
    HostUnknown => "host_unknown", NOT_FOUND;
    /// Only Ingresses that no controller owns have this host.
    HostUnowned => "host_unowned", NOT_FOUND;
    /// The host is known, the path is not.
    PathUnmatched => "path_unmatched", NOT_FOUND;
    /// The request head or body did not arrive in time.
    RequestTimeout => "request_timeout", REQUEST_TIMEOUT;
    BodyTooLarge => "body_too_large", PAYLOAD_TOO_LARGE;
    UriTooLong => "uri_too_long", URI_TOO_LONG;
    /// The connection was opened for another name's certificate (RFC 9110, 15.5.20).
    Misdirected => "misdirected", MISDIRECTED_REQUEST;
    RateLimited => "rate_limited", TOO_MANY_REQUESTS;
    HeadersTooLarge => "headers_too_large", REQUEST_HEADER_FIELDS_TOO_LARGE;
    UpstreamRefused => "upstream_refused", BAD_GATEWAY;
    UpstreamReset => "upstream_reset", BAD_GATEWAY;
    UpstreamProtocol => "upstream_protocol", BAD_GATEWAY;
    UpstreamTls => "upstream_tls", BAD_GATEWAY;
    /// The route itself is unusable: its Diagnostic says why.
    RouteInvalid => "route_invalid", INTERNAL_SERVER_ERROR;
    /// A method or upgrade that this proxy does not serve.
    NotImplemented => "not_implemented", NOT_IMPLEMENTED;
    ServiceMissing => "service_missing", SERVICE_UNAVAILABLE;
    PortMissing => "port_missing", SERVICE_UNAVAILABLE;
    NoEndpoints => "no_endpoints", SERVICE_UNAVAILABLE;
    EndpointsNotReady => "endpoints_not_ready", SERVICE_UNAVAILABLE;
    Overloaded => "overloaded", SERVICE_UNAVAILABLE;
    Draining => "draining", SERVICE_UNAVAILABLE;
    ConnectTimeout => "connect_timeout", GATEWAY_TIMEOUT;
    ResponseTimeout => "response_timeout", GATEWAY_TIMEOUT;
    RedirectHttps => "redirect_https", PERMANENT_REDIRECT;
    Redirect => "redirect", FOUND;
    CorsPreflight => "cors_preflight", NO_CONTENT;
    /// In the log alone: nobody was left to answer.
    ClientClosed => "client_closed", BAD_REQUEST;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_a_code_of_its_own() {
        let mut codes: Vec<_> = Reason::ALL.iter().map(|r| r.code()).collect();
        codes.sort_unstable();
        codes.dedup();
        assert_eq!(codes.len(), Reason::ALL.len());
    }
}
