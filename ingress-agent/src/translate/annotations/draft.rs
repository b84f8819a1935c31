//! What annotations said, one by one, before it is put together: so that their order does not matter.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue};
use ingress_core::host::HostPattern;
use ingress_core::resource::{
    Balance, CanaryHeader, CanaryHeaderValue, CanaryWhen, CookieAffinity, CorsOrigin, CorsPolicy, Protocol,
    Redirect, RetryPolicy, Rewrite, RoutePolicy, TlsRedirect,
};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::{Settings, highest_group};
use crate::translate::rule_path::Expressions;
use crate::translate::service::Speech;

/// ingress-nginx's defaults for `cors-allow-methods` and `cors-allow-headers`.
pub(super) const CORS_METHODS: &str = "GET, PUT, POST, DELETE, PATCH, OPTIONS";
pub(super) const CORS_HEADERS: &str = "DNT, Keep-Alive, User-Agent, X-Requested-With, If-Modified-Since, Cache-Control, Content-Type, Range, Authorization";
pub(super) const CORS_MAX_AGE: u64 = 1_728_000;
pub(super) const COOKIE_NAME: &str = "INGRESSCOOKIE";

/// One field for each annotation; `None` where it is absent or malformed.
#[derive(Clone, Debug, Default)]
pub(super) struct Draft {
    pub(super) ssl_redirect: Option<bool>,
    pub(super) force_ssl_redirect: Option<bool>,
    pub(super) permanent_redirect: Option<String>,
    pub(super) permanent_redirect_code: Option<u16>,
    pub(super) temporal_redirect: Option<String>,
    pub(super) temporal_redirect_code: Option<u16>,
    pub(super) app_root: Option<String>,
    pub(super) rewrite_target: Option<String>,
    pub(super) use_regex: Option<bool>,
    pub(super) www_redirect: Option<bool>,
    pub(super) server_alias: Option<Vec<HostPattern>>,
    pub(super) body_size: Option<Option<u64>>,
    pub(super) connect_timeout: Option<Duration>,
    pub(super) read_timeout: Option<Duration>,
    pub(super) send_timeout: Option<Duration>,
    pub(super) protocol: Option<Protocol>,
    pub(super) upstream_vhost: Option<HeaderValue>,
    pub(super) forwarded_prefix: Option<HeaderValue>,
    pub(super) upstream_proxy_protocol: Option<bool>,
    pub(super) custom_headers: Option<(Option<String>, String)>,
    pub(super) hash_by: Option<Balance>,
    pub(super) load_balance: Option<Balance>,
    pub(super) tries: Option<u32>,
    pub(super) never_retry: Option<bool>,
    pub(super) canary: Option<bool>,
    pub(super) canary_weight: Option<u32>,
    pub(super) canary_weight_total: Option<u32>,
    pub(super) canary_header: Option<HeaderName>,
    pub(super) canary_header_value: Option<String>,
    pub(super) canary_header_pattern: Option<CanaryHeaderValue>,
    pub(super) canary_cookie: Option<String>,
    pub(super) affinity: Option<bool>,
    pub(super) cookie_name: Option<String>,
    pub(super) cookie_path: Option<String>,
    pub(super) cookie_domain: Option<String>,
    pub(super) cookie_same_site: Option<&'static str>,
    pub(super) cookie_secure: Option<bool>,
    pub(super) cookie_max_age: Option<u64>,
    pub(super) cookie_expires: Option<u64>,
    pub(super) cookie_change_on_failure: Option<bool>,
    pub(super) cors: Option<bool>,
    pub(super) cors_origins: Option<Vec<CorsOrigin>>,
    pub(super) cors_methods: Option<HeaderValue>,
    pub(super) cors_headers: Option<HeaderValue>,
    pub(super) cors_credentials: Option<bool>,
    pub(super) cors_expose: Option<HeaderValue>,
    pub(super) cors_max_age: Option<u64>,
    pub(super) allow: Option<Vec<IpNet>>,
    /// The older name of the same.
    pub(super) whitelist: Option<Vec<IpNet>>,
    pub(super) deny: Option<Vec<IpNet>>,
    pub(super) access_log: Option<bool>,
}

impl Draft {
    pub(super) fn finish(self, response_headers: Vec<(HeaderName, HeaderValue)>) -> Settings {
        Settings {
            speech: Speech {
                protocol: self.protocol,
                balance: self.hash_by.or(self.load_balance).unwrap_or_default(),
            },
            expressions: self.expressions(),
            canary: (self.canary == Some(true)).then(|| self.canary_when()),
            aliases: self.server_alias.clone().unwrap_or_default(),
            www_redirect: self.www_redirect.unwrap_or_default(),
            policy: Arc::new(self.policy(response_headers)),
        }
    }

    fn policy(self, response_headers: Vec<(HeaderName, HeaderValue)>) -> RoutePolicy {
        let mut policy = RoutePolicy {
            tls_redirect: self.tls_redirect(),
            redirect: self.redirect(),
            cors: self.cors_policy(),
            affinity: self.affinity(),
            response_headers,
            app_root: self.app_root,
            rewrite: self.rewrite_target.map(|template| Rewrite { template }),
            upstream_host: self.upstream_vhost,
            x_forwarded_prefix: self.forwarded_prefix,
            upstream_proxy_protocol: self.upstream_proxy_protocol.unwrap_or(false),
            access_log: self.access_log.unwrap_or(true),
            ..RoutePolicy::default()
        };
        if let Some(limit) = self.body_size {
            policy.body_limit = limit;
        }
        let timeouts = &mut policy.timeouts;
        timeouts.connect = self.connect_timeout.unwrap_or(timeouts.connect);
        timeouts.read = self.read_timeout.unwrap_or(timeouts.read);
        timeouts.send = self.send_timeout.unwrap_or(timeouts.send);
        if self.never_retry == Some(true) {
            policy.retry = RetryPolicy { attempts: 1 };
        } else if let Some(attempts) = self.tries {
            policy.retry = RetryPolicy { attempts };
        }
        policy.sources.deny = self.deny.unwrap_or_default();
        if let Some(allow) = self.allow.or(self.whitelist) {
            if allow.is_empty() {
                policy.sources.deny = everyone();
            }
            policy.sources.allow = allow;
        }
        policy
    }

    fn tls_redirect(&self) -> TlsRedirect {
        match (self.force_ssl_redirect, self.ssl_redirect) {
            (Some(true), _) => TlsRedirect::Always,
            (_, Some(false)) => TlsRedirect::Never,
            _ => TlsRedirect::WithCertificate,
        }
    }

    /// The temporal one wins, as in ingress-nginx.
    fn redirect(&self) -> Option<Redirect> {
        let temporal = self.temporal_redirect.as_ref();
        let temporal = temporal.map(|to| (to, self.temporal_redirect_code.unwrap_or(302)));
        let permanent = self.permanent_redirect.as_ref();
        let permanent = permanent.map(|to| (to, self.permanent_redirect_code.unwrap_or(301)));
        temporal.or(permanent).map(|(location, status)| Redirect {
            location: location.clone(),
            status,
        })
    }

    fn expressions(&self) -> Expressions {
        let by_groups = self.rewrite_target.as_deref().and_then(highest_group).is_some();
        if self.use_regex.unwrap_or(by_groups) {
            Expressions::WhereWritten
        } else {
            Expressions::None
        }
    }

    fn canary_when(&self) -> CanaryWhen {
        let value = match (&self.canary_header_value, &self.canary_header_pattern) {
            (Some(value), _) => CanaryHeaderValue::Exact(value.clone()),
            (None, Some(pattern)) => pattern.clone(),
            (None, None) => CanaryHeaderValue::AlwaysNever,
        };
        let total = self.canary_weight_total.unwrap_or(100);
        CanaryWhen {
            header: self
                .canary_header
                .clone()
                .map(|name| CanaryHeader { name, value }),
            cookie: self.canary_cookie.clone(),
            weight: self.canary_weight.unwrap_or(0).min(total),
            weight_total: total,
        }
    }

    fn affinity(&self) -> Option<CookieAffinity> {
        let max_age = self.cookie_max_age.or(self.cookie_expires);
        (self.affinity == Some(true)).then(|| CookieAffinity {
            name: self.cookie_name.clone().unwrap_or_else(|| COOKIE_NAME.to_owned()),
            path: self.cookie_path.clone(),
            domain: self.cookie_domain.clone(),
            same_site: self.cookie_same_site,
            secure: self.cookie_secure,
            max_age: max_age.and_then(|seconds| i64::try_from(seconds).ok()),
            change_on_failure: self.cookie_change_on_failure.unwrap_or(false),
        })
    }

    fn cors_policy(&self) -> Option<Arc<CorsPolicy>> {
        let given = |value: &Option<HeaderValue>, default: &'static str| {
            value.clone().unwrap_or_else(|| HeaderValue::from_static(default))
        };
        (self.cors == Some(true)).then(|| {
            Arc::new(CorsPolicy {
                origins: self
                    .cors_origins
                    .clone()
                    .unwrap_or_else(|| Vec::from([CorsOrigin::Any])),
                methods: given(&self.cors_methods, CORS_METHODS),
                headers: given(&self.cors_headers, CORS_HEADERS),
                expose_headers: self.cors_expose.clone(),
                credentials: self.cors_credentials.unwrap_or(true),
                max_age: self.cors_max_age.unwrap_or(CORS_MAX_AGE),
            })
        })
    }
}

/// An allow list in which nothing could be read allows nobody: a typo must not open what was meant to be closed.
fn everyone() -> Vec<IpNet> {
    Vec::from([IpNet::from(Ipv4Net::default()), IpNet::from(Ipv6Net::default())])
}
