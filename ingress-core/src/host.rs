//! Host names: what a rule may name, and what a request may say.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use serde::Serialize;

/// The host of a rule or certificate, lower-cased and checked.
///
/// Ordered from the most to the least specific.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HostPattern {
    Exact(Arc<str>),
    /// `*.example.com`, kept as `example.com`. Covers exactly one label (Ingress v1).
    Wildcard(Arc<str>),
    Any,
}

impl HostPattern {
    /// Parses what `spec.rules[].host` or a certificate's DNS name holds; the empty string is [`Self::Any`].
    pub fn parse(text: &str) -> Result<Self, BadHost> {
        if text.is_empty() {
            return Ok(Self::Any);
        }
        let lower = text.to_ascii_lowercase();
        match lower.strip_prefix("*.") {
            Some(suffix) => {
                check_dns_name(suffix)?;
                Ok(Self::Wildcard(suffix.into()))
            }
            None => {
                check_dns_name(&lower)?;
                Ok(Self::Exact(lower.as_str().into()))
            }
        }
    }

    /// Whether a request's host (lower case, without port) falls under this pattern.
    pub fn covers(&self, host: &str) -> bool {
        match self {
            Self::Exact(name) => **name == *host,
            Self::Wildcard(suffix) => wildcard_suffix(host) == Some(suffix),
            Self::Any => true,
        }
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(name) => f.write_str(name),
            Self::Wildcard(suffix) => write!(f, "*.{suffix}"),
            Self::Any => f.write_str("*"),
        }
    }
}

impl Serialize for HostPattern {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

/// The part of `host` that a wildcard would have to name: everything after the first label.
pub fn wildcard_suffix(host: &str) -> Option<&str> {
    // On bytes: names are short, and every look-up that finds no exact one comes by here.
    let dot = host.bytes().position(|byte| byte == b'.')?;
    let rest = host.get(dot + 1..)?;
    (dot > 0 && !rest.is_empty()).then_some(rest)
}

/// What is wrong with a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadHost(pub &'static str);

impl fmt::Display for BadHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

/// RFC 1123 subdomain, as the API server demands of `spec.rules[].host`.
fn check_dns_name(name: &str) -> Result<(), BadHost> {
    if name.is_empty() {
        return Err(BadHost("is empty"));
    }
    if name.len() > 253 {
        return Err(BadHost("is longer than 253 characters"));
    }
    if name.parse::<IpAddr>().is_ok() {
        return Err(BadHost("must be a DNS name, not an IP address"));
    }
    for label in name.split('.') {
        if label.is_empty() {
            return Err(BadHost("has an empty label"));
        }
        if label.len() > 63 {
            return Err(BadHost("has a label longer than 63 characters"));
        }
        let ends = [label.as_bytes()[0], label.as_bytes()[label.len() - 1]];
        if ends.contains(&b'-') {
            return Err(BadHost("has a label that starts or ends with '-'"));
        }
        let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        if !label.bytes().all(fits) {
            return Err(BadHost("must consist of lower case letters, digits, '-' and '.'"));
        }
    }
    Ok(())
}

/// A request's host, ready for the lookup: no port, lower case, no trailing dot.
///
/// Borrows from the request when nothing had to change, which is the usual case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestHost<'a> {
    pub name: std::borrow::Cow<'a, str>,
    pub port: Option<u16>,
}

impl<'a> RequestHost<'a> {
    /// Parses a Host field or `:authority` (RFC 9110, 7.2: `uri-host [ ":" port ]`).
    ///
    /// User information, blanks, anything outside the reg-name and IP-literal characters is refused.
    pub fn parse(text: &'a str) -> Result<Self, BadHost> {
        if is_plain(text.as_bytes()) {
            return Ok(Self {
                name: text.into(),
                port: None,
            });
        }
        let (name, port) = split_port(text)?;
        if name.is_empty() {
            return Err(BadHost("is empty"));
        }
        if name.len() > 255 {
            return Err(BadHost("is longer than 255 characters"));
        }
        if name.starts_with('[') {
            check_ip_literal(name)?;
        } else if !name.bytes().all(is_reg_name_byte) {
            return Err(BadHost("has a character that a host name cannot have"));
        }
        let bare = name.strip_suffix('.').unwrap_or(name);
        if bare.is_empty() || bare.ends_with('.') {
            return Err(BadHost("has an empty label"));
        }
        let name = if bare.bytes().any(|b| b.is_ascii_uppercase()) {
            bare.to_ascii_lowercase().into()
        } else {
            bare.into()
        };
        Ok(Self { name, port })
    }
}

/// The fast way out: a name as nearly all hosts are, in which no rule of [`RequestHost::parse`] finds anything.
fn is_plain(host: &[u8]) -> bool {
    let harmless = |b: &u8| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_');
    (1..=255).contains(&host.len()) && host.last() != Some(&b'.') && host.iter().all(harmless)
}

fn split_port(text: &str) -> Result<(&str, Option<u16>), BadHost> {
    let (name, port) = match text.rfind(':') {
        Some(colon) if !text[colon..].contains(']') => (&text[..colon], &text[colon + 1..]),
        _ => return Ok((text, None)),
    };
    if port.is_empty() {
        return Ok((name, None)); // RFC 3986, 3.2.3 allows an empty port
    }
    if !port.bytes().all(|b| b.is_ascii_digit()) {
        return Err(BadHost("has a port that is not a number"));
    }
    match port.parse() {
        Ok(port) => Ok((name, Some(port))),
        Err(_) => Err(BadHost("has a port above 65535")),
    }
}

fn check_ip_literal(name: &str) -> Result<(), BadHost> {
    let inner = name.strip_prefix('[').and_then(|n| n.strip_suffix(']'));
    match inner.map(str::parse::<std::net::Ipv6Addr>) {
        Some(Ok(_)) => Ok(()),
        _ => Err(BadHost("has brackets around something that is not IPv6")),
    }
}

/// RFC 3986 reg-name without percent-encoding and sub-delims, which no host in use has; `_` is seen in the wild.
fn is_reg_name_byte(b: u8) -> bool {
    b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn case_port_and_trailing_dot_of_a_request_host_are_ignored() {
        for text in [
            "shop.example",
            "SHOP.example:8080",
            "shop.example.",
            "shop.example.:443",
            "shop.example:",
        ] {
            assert_eq!(RequestHost::parse(text).unwrap().name, "shop.example", "{text}");
        }
        assert_eq!(RequestHost::parse("[::1]:80").unwrap().name, "[::1]");
    }

    #[test]
    fn a_host_that_could_be_read_in_two_ways_is_refused() {
        for text in [
            "",
            ":80",
            "a b",
            "user@shop.example",
            "a/b",
            "a,b",
            "a..",
            "[::1",
            "[x]",
            "a:b:80",
            "a:99999",
            "a:+80",
            "a\u{e4}",
        ] {
            assert!(RequestHost::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_wildcard_covers_exactly_one_label() {
        let wildcard = HostPattern::parse("*.Example.com").unwrap();
        assert!(wildcard.covers("a.example.com"));
        assert!(!wildcard.covers("example.com"));
        assert!(!wildcard.covers("b.a.example.com"));
        assert!(!wildcard.covers(".example.com"));
    }

    #[test]
    fn hosts_that_the_api_server_would_refuse_are_refused() {
        for text in [
            "*",
            "*.",
            "a..b",
            "-a.b",
            "a_b.c",
            "foo.*.bar",
            "*a.b",
            "10.0.0.1",
            "a.b.",
        ] {
            assert!(HostPattern::parse(text).is_err(), "{text}");
        }
    }
}
