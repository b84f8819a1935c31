//! The one table of annotations: name, type, default, effect, and the function that has the effect.
//!
//! The page in the documentation is made of it; so are the suggestions for names that are unknown.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::LazyLock;

use ingress_core::resource::{Balance, Protocol};

use super::draft::Draft;
use super::value::{self, Parsed};

/// One annotation, under `ingress-agent.io/` and `nginx.ingress.kubernetes.io/` alike.
pub(in super::super) struct Annotation {
    pub(in super::super) name: &'static str,
    pub(super) value: &'static str,
    pub(super) default: &'static str,
    pub(super) effect: &'static str,
    /// A value that differs from the default.
    pub(super) example: &'static str,
    /// Annotations without which this one has no effect.
    pub(super) needs: &'static [(&'static str, &'static str)],
    pub(super) apply: fn(&str, &mut Draft) -> Parsed<()>,
}

/// A group of annotations under one heading.
pub(in super::super) struct Topic {
    title: &'static str,
    pub(in super::super) rows: &'static [Annotation],
}

macro_rules! row {
    ($name:literal, $value:literal, $default:literal, $example:literal $(, needs $($need:literal = $with:literal),+)?;
     $effect:literal; $apply:expr) => {
        Annotation {
            name: $name,
            value: $value,
            default: $default,
            effect: $effect,
            example: $example,
            needs: &[$($(($need, $with)),+)?],
            apply: $apply,
        }
    };
}

/// `set!(field, reader)`: reads the value into the draft's field.
macro_rules! set {
    ($field:ident, $read:expr) => {
        |text, draft| {
            draft.$field = Some($read(text)?);
            Ok(())
        }
    };
}

pub(in super::super) static TOPICS: &[Topic] = &[
    Topic {
        title: "Redirects and paths",
        rows: &[
            row!("ssl-redirect", "boolean", "true", "false";
                "Plain HTTP is sent to HTTPS with 308 where the host has a usable certificate; `false` serves both. ACME challenge paths are never redirected.";
                set!(ssl_redirect, value::boolean)),
            row!("force-ssl-redirect", "boolean", "false", "true";
                "Plain HTTP is sent to HTTPS even without a certificate here, for TLS that ends in front of the agent. Wins over `ssl-redirect`.";
                set!(force_ssl_redirect, value::boolean)),
            row!("permanent-redirect", "URL", "", "https://new.example";
                "Every request of this Ingress is answered with a redirect to this URL. `$request_uri`, `$host` and `$scheme` are filled in.";
                set!(permanent_redirect, value::location)),
            row!("permanent-redirect-code", "301, 302, 303, 307 or 308", "301", "308", needs "permanent-redirect" = "https://new.example";
                "The status of `permanent-redirect`."; set!(permanent_redirect_code, value::redirect_status)),
            row!("temporal-redirect", "URL", "", "https://away.example";
                "As `permanent-redirect`, with 302; wins over it."; set!(temporal_redirect, value::location)),
            row!("temporal-redirect-code", "301, 302, 303, 307 or 308", "302", "307", needs "temporal-redirect" = "https://away.example";
                "The status of `temporal-redirect`."; set!(temporal_redirect_code, value::redirect_status)),
            row!("app-root", "path", "", "/app";
                "A request for exactly `/` is redirected there with 302."; set!(app_root, value::path)),
            row!("rewrite-target", "path", "", "/new";
                "The path that the backend sees. `$1`… are the capture groups of the rule's path, which makes paths with groups regular expressions; without `$` it replaces the whole path.";
                set!(rewrite_target, value::rewrite)),
            row!("use-regex", "boolean", "false", "true";
                "ImplementationSpecific paths, and Prefix paths with characters such as `(` or `*`, are regular expressions: anchored at the start, case-insensitive. Exact paths stay exact.";
                set!(use_regex, value::boolean)),
            row!("from-to-www-redirect", "boolean", "false", "true";
                "`www.` before the rule's host (or the host without it) is redirected to the rule's host with 308.";
                set!(www_redirect, value::boolean)),
            row!("server-alias", "hosts between commas", "", "other.example";
                "More hosts for every rule that has a host. A host that a rule has by itself wins over an alias.";
                set!(server_alias, value::hosts)),
        ],
    },
    Topic {
        title: "Limits and timeouts",
        rows: &[
            row!("proxy-body-size", "size", "1m", "8m";
                "The largest request body, in nginx's words: `8m`, `1k`, bytes; `0` is unlimited. A larger one is answered with 413.";
                set!(body_size, value::size)),
            row!("proxy-connect-timeout", "seconds", "5s", "7";
                "How long a connection to a backend may take; then the next endpoint is asked, or 504 answered.";
                set!(connect_timeout, value::duration)),
            row!("proxy-read-timeout", "seconds", "60s", "120";
                "How long the backend may pause between two reads of its response; not the whole response.";
                set!(read_timeout, value::duration)),
            row!("proxy-send-timeout", "seconds", "60s", "120s";
                "How long the backend may pause between two writes of the request; not the whole request.";
                set!(send_timeout, value::duration)),
            row!("proxy-next-upstream-tries", "0 to 10", "3", "2";
            "Attempts in all, each on another endpoint, only where a retry is safe. `0` stands for 10.";
            |text, draft| {
                let tries = value::small(text, 0..=10)?;
                draft.tries = Some(if tries == 0 { 10 } else { tries });
                Ok(())
            }),
            row!("proxy-next-upstream", "off, or error and timeout", "error timeout", "off";
                "`off`: a request is tried once. What else ingress-nginx knows (statuses, `non_idempotent`) is not supported.";
                set!(never_retry, next_upstream)),
        ],
    },
    Topic {
        title: "Backends",
        rows: &[
            row!("backend-protocol", "HTTP, HTTPS, GRPC, GRPCS, H2C or H2", "by `appProtocol`, else HTTP", "GRPC";
                "What is spoken to the backend. GRPC and H2C are HTTP/2 in clear text, GRPCS and H2 over TLS. Wins over the Service port's `appProtocol`.";
                set!(protocol, backend_protocol)),
            row!("upstream-vhost", "host", "", "internal.example";
                "The Host that the backend sees, in place of the client's."; set!(upstream_vhost, value::host_and_port)),
            row!("x-forwarded-prefix", "text", "", "/shop";
                "The value of `X-Forwarded-Prefix` to the backend."; set!(forwarded_prefix, value::header_value)),
            row!("upstream-proxy-protocol", "off or v2", "off", "v2";
                "`v2`: each request goes to the backend on a connection of its own, which begins with a PROXY protocol header of version 2: the client's address, and the one that it asked. The backend must expect it.";
                set!(upstream_proxy_protocol, proxy_protocol)),
            row!("custom-headers", "ConfigMap, namespace/name", "", "headers";
                "Its entries are set as headers of every response. The ConfigMap must be in the namespace of the Ingress.";
                set!(custom_headers, value::object_name)),
            row!("load-balance", "ewma or round_robin", "ewma", "round_robin";
                "How an endpoint is chosen. `ewma` takes the better of two by latency and requests in flight.";
                set!(load_balance, load_balance)),
            row!("upstream-hash-by", "$remote_addr or $request_uri", "", "$request_uri";
                "The endpoint is chosen by a consistent hash of the client's address or of path and query. Wins over `load-balance`.";
                set!(hash_by, hash_by)),
        ],
    },
    Topic {
        title: "Session affinity",
        rows: &[
            row!("affinity", "cookie", "", "cookie";
                "A cookie remembers the endpoint that served a client first."; set!(affinity, affinity)),
            row!("affinity-mode", "balanced or persistent", "persistent", "persistent";
                "Accepted, without effect: a session always stays with its endpoint as long as that exists, as `persistent` says.";
                affinity_mode),
            row!("session-cookie-name", "text", "INGRESSCOOKIE", "route", needs "affinity" = "cookie";
                "The cookie's name."; set!(cookie_name, value::cookie_name)),
            row!("session-cookie-path", "path", "/", "/app", needs "affinity" = "cookie";
                "The cookie's `Path`."; set!(cookie_path, value::cookie_attribute)),
            row!("session-cookie-domain", "host", "", "shop.example", needs "affinity" = "cookie";
                "The cookie's `Domain`."; set!(cookie_domain, value::cookie_attribute)),
            row!("session-cookie-samesite", "None, Lax or Strict", "", "Lax", needs "affinity" = "cookie";
                "The cookie's `SameSite`."; set!(cookie_same_site, same_site)),
            row!("session-cookie-secure", "boolean", "true on HTTPS", "true", needs "affinity" = "cookie";
                "Whether the cookie has `Secure`."; set!(cookie_secure, value::boolean)),
            row!("session-cookie-max-age", "seconds", "until the browser ends", "3600", needs "affinity" = "cookie";
                "The cookie's `Max-Age`."; set!(cookie_max_age, seconds)),
            row!("session-cookie-expires", "seconds", "", "3600", needs "affinity" = "cookie";
                "The same, where `session-cookie-max-age` is not given."; set!(cookie_expires, seconds)),
            row!("session-cookie-change-on-failure", "boolean", "false", "true", needs "affinity" = "cookie";
                "A session whose endpoint fails moves to another for good."; set!(cookie_change_on_failure, value::boolean)),
        ],
    },
    Topic {
        title: "Canary",
        rows: &[
            row!("canary", "boolean", "false", "true";
                "This Ingress is an alternative for the same hosts and paths of another one, from which it inherits everything but balancing and `backend-protocol` of its own. Asked in this order: header, cookie, weight.";
                set!(canary, value::boolean)),
            row!("canary-weight", "0 to `canary-weight-total`", "0", "20", needs "canary" = "true";
                "How many of `canary-weight-total` requests take the canary."; set!(canary_weight, weight)),
            row!("canary-weight-total", "number", "100", "1000", needs "canary" = "true";
                "What `canary-weight` is a part of."; set!(canary_weight_total, weight_total)),
            row!("canary-by-header", "header name", "", "X-Canary", needs "canary" = "true";
                "`always` in this header takes the canary, `never` does not, anything else goes on to cookie and weight.";
                set!(canary_header, value::header_name)),
            row!("canary-by-header-value", "text", "", "beta", needs "canary" = "true", "canary-by-header" = "X-Canary";
            "Requests with this very value take the canary, in place of `always` and `never`.";
            |text, draft| {
                value::header_value(text)?;
                draft.canary_header_value = Some(text.to_owned());
                Ok(())
            }),
            row!("canary-by-header-pattern", "regular expression", "", "^beta-", needs "canary" = "true", "canary-by-header" = "X-Canary";
                "As `canary-by-header-value`, which wins over it, by expression.";
                set!(canary_header_pattern, value::pattern)),
            row!("canary-by-cookie", "cookie name", "", "canary", needs "canary" = "true";
                "`always` in this cookie takes the canary, `never` does not, anything else goes on to the weight.";
                set!(canary_cookie, value::cookie_name)),
        ],
    },
    Topic {
        title: "CORS",
        rows: &[
            row!("enable-cors", "boolean", "false", "true";
                "Answers preflights and adds CORS headers to responses."; set!(cors, value::boolean)),
            row!("cors-allow-origin", "origins between commas", "*", "https://app.example", needs "enable-cors" = "true";
                "Who may ask: `*`, `https://app.example:8443`, `https://*.example.com`."; set!(cors_origins, value::origins)),
            row!("cors-allow-methods", "methods between commas", "GET, PUT, POST, DELETE, PATCH, OPTIONS", "GET", needs "enable-cors" = "true";
                "The answer's `Access-Control-Allow-Methods`."; set!(cors_methods, value::token_list)),
            row!("cors-allow-headers", "headers between commas", "the usual ones (as ingress-nginx)", "X-Token", needs "enable-cors" = "true";
                "The answer's `Access-Control-Allow-Headers`."; set!(cors_headers, value::token_list)),
            row!("cors-expose-headers", "headers between commas", "", "X-Total", needs "enable-cors" = "true";
                "The answer's `Access-Control-Expose-Headers`."; set!(cors_expose, value::token_list)),
            row!("cors-allow-credentials", "boolean", "true", "false", needs "enable-cors" = "true";
                "Whether requests may carry cookies."; set!(cors_credentials, value::boolean)),
            row!("cors-max-age", "seconds", "1728000", "600", needs "enable-cors" = "true";
                "How long a browser may keep the answer to a preflight."; set!(cors_max_age, seconds)),
        ],
    },
    Topic {
        title: "Who may ask, and the log",
        rows: &[
            row!("allowlist-source-range", "CIDRs between commas", "everyone", "10.0.0.0/8";
                "Only these sources are served, the others get 403. Of a list with a mistake the good part counts; where nothing is good, nobody is served.";
                |text, draft| read_ranges(text, &mut draft.allow)),
            row!("whitelist-source-range", "CIDRs between commas", "everyone", "10.0.0.0/8";
                "The older name of `allowlist-source-range`, which wins over it.";
                |text, draft| read_ranges(text, &mut draft.whitelist)),
            row!("denylist-source-range", "CIDRs between commas", "nobody", "192.0.2.0/24";
                "These sources get 403, also when they are allowed.";
                |text, draft| read_ranges(text, &mut draft.deny)),
            row!("enable-access-log", "boolean", "true", "false";
                "Whether requests of this Ingress are logged."; set!(access_log, value::boolean)),
        ],
    },
];

/// Annotations of ingress-nginx that have no effect here, by name or (with `*`) by how their name starts.
pub(super) struct Unsupported {
    pub(super) name: &'static str,
    /// What is not done, so that nobody relies on it.
    pub(super) consequence: &'static str,
    /// Something is open, or different for clients, that the author meant otherwise.
    pub(super) grave: bool,
}

macro_rules! unsupported {
    ($($grave:literal $consequence:literal: $($name:literal)+;)+) => {
        &[$($(Unsupported { name: $name, consequence: $consequence, grave: $grave },)+)+]
    };
}

pub(super) static UNSUPPORTED: &[Unsupported] = unsupported! {
    true "requests are NOT authenticated by it": "auth-*" "enable-global-auth" "satisfy";
    true "requests are NOT inspected": "enable-modsecurity" "enable-owasp-core-rules" "modsecurity-*" "enable-owasp-modsecurity-crs";
    true "requests are NOT limited by it": "limit-*" "global-rate-limit*";
    true "snippets of nginx configuration can't be run": "configuration-snippet" "server-snippet" "stream-snippet";
    true "TLS ends at the agent": "ssl-passthrough";
    true "the backend's certificate is NOT verified": "proxy-ssl-*" "secure-verify-ca-secret";
    false "endpoints are used directly, not the Service's address": "service-upstream";
    false "bodies are streamed, never buffered": "proxy-buffering" "proxy-request-buffering" "proxy-buffer-size"
        "proxy-buffers-number" "proxy-busy-buffers-size" "proxy-max-temp-file-size" "client-body-buffer-size";
    false "the backend's answers are passed on as they are": "custom-http-errors" "default-backend"
        "disable-proxy-intercept-errors" "proxy-redirect-from" "proxy-redirect-to" "proxy-cookie-domain"
        "proxy-cookie-path";
    false "requests are not mirrored": "mirror-*";
    false "ciphers are the agent's own": "ssl-ciphers" "ssl-prefer-server-ciphers";
    false "tracing is configured for the whole agent": "enable-opentelemetry" "opentelemetry-*" "enable-opentracing"
        "opentracing-*";
    false "it is not needed, or not done": "affinity-canary-behavior" "connection-proxy-header" "enable-influxdb" "influxdb-*" "enable-rewrite-log"
        "http2-push-preload" "preserve-trailing-slash" "proxy-http-version" "proxy-next-upstream-timeout"
        "relative-redirects" "session-cookie-conditional-samesite-none" "upstream-hash-by-*" "use-port-in-redirects";
};

pub(super) fn find(name: &str) -> Option<&'static Annotation> {
    static BY_NAME: LazyLock<HashMap<&str, &Annotation>> =
        LazyLock::new(|| rows().map(|row| (row.name, row)).collect());
    BY_NAME.get(name).copied()
}

pub(super) fn find_unsupported(name: &str) -> Option<&'static Unsupported> {
    UNSUPPORTED
        .iter()
        .find(|entry| match entry.name.strip_suffix('*') {
            Some(start) => name.starts_with(start),
            None => name == entry.name,
        })
}

pub(super) fn rows() -> impl Iterator<Item = &'static Annotation> {
    TOPICS.iter().flat_map(|topic| topic.rows)
}

/// The page of the documentation.
pub(in super::super) fn markdown() -> String {
    let mut page = String::from(INTRODUCTION);
    for topic in TOPICS {
        let _ = write!(page, "\n## {}\n\n{HEAD}", topic.title);
        for row in topic.rows {
            let default = if row.default.is_empty() {
                "–"
            } else {
                row.default
            };
            let needs: Vec<_> = row.needs.iter().map(|(name, _)| format!("`{name}`")).collect();
            let needs = match needs.as_slice() {
                [] => String::new(),
                names => format!(" Needs {}.", names.join(" and ")),
            };
            let _ = writeln!(
                page,
                "| `{}` | {} | {default} | `{}` | {}{needs} |",
                row.name, row.value, row.example, row.effect
            );
        }
    }
    page.push_str("\n## Known from ingress-nginx and not supported\n\n| Name | Instead |\n|---|---|\n");
    for entry in UNSUPPORTED {
        let _ = writeln!(page, "| `{}` | {} |", entry.name, entry.consequence);
    }
    page
}

const HEAD: &str = "| Name | Value | Default | Example | Effect |\n|---|---|---|---|---|\n";

const INTRODUCTION: &str = "\
# Annotations

<!-- Generated from the table in `ingress-agent/src/translate/annotations/table.rs`; do not edit. -->

Each of these is understood on an Ingress under two prefixes, `ingress-agent.io/` and `nginx.ingress.kubernetes.io/`;
the first wins where both are given. A value that can't be read is reported on its Ingress and has no effect, and neither
has a name that is not listed here; nothing else changes because of it. The one exception is an allow list: it stays closed.
";

fn backend_protocol(text: &str) -> Parsed<Protocol> {
    match text.to_ascii_uppercase().as_str() {
        "HTTP" => Ok(Protocol::Http),
        "HTTPS" => Ok(Protocol::Https),
        "GRPC" | "H2C" => Ok(Protocol::H2c),
        "GRPCS" | "H2" => Ok(Protocol::H2),
        "AUTO_HTTP" | "FCGI" | "AJP" => {
            Err("HTTP, HTTPS, GRPC, GRPCS, H2C or H2; AUTO_HTTP, FCGI and AJP are not supported".into())
        }
        _ => Err("HTTP, HTTPS, GRPC, GRPCS, H2C or H2".into()),
    }
}

fn load_balance(text: &str) -> Parsed<Balance> {
    match text {
        "ewma" => Ok(Balance::P2cPeakEwma),
        "round_robin" => Ok(Balance::RoundRobin),
        _ => Err("ewma or round_robin".into()),
    }
}

fn hash_by(text: &str) -> Parsed<Balance> {
    match text.trim_matches('"') {
        "$remote_addr" | "$binary_remote_addr" => Ok(Balance::HashSource),
        "$request_uri" => Ok(Balance::HashUri),
        _ => Err("$remote_addr or $request_uri; other variables are not supported".into()),
    }
}

fn proxy_protocol(text: &str) -> Parsed<bool> {
    match text {
        "off" => Ok(false),
        "v2" => Ok(true),
        _ => Err("off or v2".into()),
    }
}

fn next_upstream(text: &str) -> Parsed<bool> {
    let mut words = text.split_ascii_whitespace();
    match text {
        "off" => Ok(true),
        "" => Err("off, or of error and timeout".into()),
        _ if words.all(|word| matches!(word, "error" | "timeout")) => Ok(false),
        _ => Err("off, or of error and timeout; other conditions are not supported".into()),
    }
}

fn affinity(text: &str) -> Parsed<bool> {
    match text {
        "cookie" => Ok(true),
        _ => Err("cookie".into()),
    }
}

fn affinity_mode(text: &str, _: &mut Draft) -> Parsed<()> {
    match text {
        "balanced" | "persistent" => Ok(()),
        _ => Err("balanced or persistent".into()),
    }
}

fn same_site(text: &str) -> Parsed<&'static str> {
    match text {
        "None" | "none" => Ok("None"),
        "Lax" | "lax" => Ok("Lax"),
        "Strict" | "strict" => Ok("Strict"),
        _ => Err("None, Lax or Strict".into()),
    }
}

fn seconds(text: &str) -> Parsed<u64> {
    value::integer(text, 0..=u64::from(u32::MAX))
}

fn weight(text: &str) -> Parsed<u32> {
    value::small(text, 0..=1_000_000)
}

fn weight_total(text: &str) -> Parsed<u32> {
    value::small(text, 1..=1_000_000)
}

/// Keeps what can be read; says what can't.
fn read_ranges(text: &str, into: &mut Option<Vec<ipnet::IpNet>>) -> Parsed<()> {
    let (good, bad) = value::ranges(text);
    let nothing = good.is_empty() && bad.is_none();
    if !nothing {
        *into = Some(good);
    }
    match bad {
        Some(item) => Err(format!(
            "CIDRs between commas, and {} is none",
            crate::translate::notes::excerpt(item)
        )),
        None if nothing => Err("CIDRs between commas".into()),
        None => Ok(()),
    }
}
