//! The types of annotation values. Each reader says in a few words what it expected.

use std::net::IpAddr;
use std::time::Duration;

use http::{HeaderName, HeaderValue};
use ingress_core::host::{HostPattern, RequestHost};
use ingress_core::resource::{CanaryHeaderValue, CorsOrigin};
use ipnet::IpNet;

/// What is wrong with a value: completes the sentence "… is not valid: expected …".
pub(super) type Parsed<T> = Result<T, String>;

fn expected<T>(what: &str) -> Parsed<T> {
    Err(what.to_owned())
}

/// The words of Go's `strconv.ParseBool`, which ingress-nginx uses.
pub(super) fn boolean(text: &str) -> Parsed<bool> {
    match text {
        "true" | "True" | "TRUE" | "t" | "T" | "1" => Ok(true),
        "false" | "False" | "FALSE" | "f" | "F" | "0" => Ok(false),
        _ => expected("true or false"),
    }
}

/// nginx's sizes: `0` is unlimited, `8m`, `1k`, `1g`.
pub(super) fn size(text: &str) -> Parsed<Option<u64>> {
    let (digits, unit) = match text.as_bytes().last() {
        Some(b'k' | b'K') => (&text[..text.len() - 1], 1 << 10),
        Some(b'm' | b'M') => (&text[..text.len() - 1], 1 << 20),
        Some(b'g' | b'G') => (&text[..text.len() - 1], 1 << 30),
        _ => (text, 1),
    };
    match unsigned(digits).and_then(|number| number.checked_mul(unit)) {
        Some(0) => Ok(None),
        Some(bytes) => Ok(Some(bytes)),
        None => expected("a size such as 8m, 512k or a number of bytes"),
    }
}

/// Seconds, `5` or `5s`; `500ms`, `2m` and `1h` too.
pub(super) fn duration(text: &str) -> Parsed<Duration> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let millis = match unit {
        "" | "s" => 1_000,
        "ms" => 1,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => 0,
    };
    const LONGEST: u64 = 30 * 24 * 3_600_000;
    match unsigned(number).and_then(|number| number.checked_mul(millis)) {
        Some(millis @ 1..=LONGEST) => Ok(Duration::from_millis(millis)),
        _ => expected("seconds such as 5 or 5s, more than none and at most 30 days"),
    }
}

pub(super) fn integer(text: &str, range: std::ops::RangeInclusive<u64>) -> Parsed<u64> {
    match unsigned(text).filter(|number| range.contains(number)) {
        Some(number) => Ok(number),
        None => Err(format!(
            "a whole number from {} to {}",
            range.start(),
            range.end()
        )),
    }
}

pub(super) fn small(text: &str, range: std::ops::RangeInclusive<u32>) -> Parsed<u32> {
    let wide = u64::from(*range.start())..=u64::from(*range.end());
    integer(text, wide).map(|number| u32::try_from(number).unwrap_or(*range.end()))
}

/// A status that redirects.
pub(super) fn redirect_status(text: &str) -> Parsed<u16> {
    match text {
        "301" => Ok(301),
        "302" => Ok(302),
        "303" => Ok(303),
        "307" => Ok(307),
        "308" => Ok(308),
        _ => expected("301, 302, 303, 307 or 308"),
    }
}

/// Where a redirect may lead: an absolute URL or path, in bytes that a Location field may have.
pub(super) fn location(text: &str) -> Parsed<String> {
    let starts = ["http://", "https://", "$scheme://", "/"];
    let lower = text.get(..8).unwrap_or(text).to_ascii_lowercase();
    let visible = text.bytes().all(|b| b.is_ascii_graphic());
    if visible
        && starts
            .iter()
            .any(|start| lower.starts_with(start) || text.starts_with(start))
    {
        return Ok(text.to_owned());
    }
    expected("a URL that starts with http://, https://, $scheme:// or /, without blanks")
}

/// An absolute path, possibly with `$1`.
pub(super) fn path(text: &str) -> Parsed<String> {
    if text.starts_with('/') && text.bytes().all(|b| b.is_ascii_graphic() && b != b'#') {
        return Ok(text.to_owned());
    }
    expected("an absolute path without blanks and '#'")
}

/// A rewrite need not start with `/` in ingress-nginx (`$1` often holds it), but it must be a path.
pub(super) fn rewrite(text: &str) -> Parsed<String> {
    let starts = text.starts_with('/') || text.starts_with('$');
    if starts && text.bytes().all(|b| b.is_ascii_graphic() && b != b'#') {
        return Ok(text.to_owned());
    }
    expected("a path such as /new/$2, without blanks and '#'")
}

pub(super) fn host_and_port(text: &str) -> Parsed<HeaderValue> {
    if RequestHost::parse(text).is_err() {
        return expected("a host name, with a port if need be");
    }
    header_value(text)
}

pub(super) fn header_name(text: &str) -> Parsed<HeaderName> {
    HeaderName::from_bytes(text.as_bytes()).or_else(|_| expected("the name of a header"))
}

pub(super) fn header_value(text: &str) -> Parsed<HeaderValue> {
    if text.is_empty() {
        return expected("a value");
    }
    HeaderValue::from_str(text).or_else(|_| expected("a header's value: no control characters"))
}

/// RFC 6265, 4.1.1.
pub(super) fn cookie_name(text: &str) -> Parsed<String> {
    header_name(text)
        .map(|_| text.to_owned())
        .or_else(|_| expected("the name of a cookie"))
}

/// RFC 6265, 4.1.1: no control characters and no `;`.
pub(super) fn cookie_attribute(text: &str) -> Parsed<String> {
    if !text.is_empty() && text.bytes().all(|b| (b' '..=b'~').contains(&b) && b != b';') {
        return Ok(text.to_owned());
    }
    expected("printable characters without ';'")
}

/// Items between commas, trimmed; empty ones don't count.
pub(super) fn items(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|item| !item.is_empty())
}

/// A list of header or method names, as a header's value.
pub(super) fn token_list(text: &str) -> Parsed<HeaderValue> {
    let all = items(text).all(|item| item == "*" || HeaderName::from_bytes(item.as_bytes()).is_ok());
    if !all || items(text).next().is_none() {
        return expected("names between commas");
    }
    header_value(&items(text).collect::<Vec<_>>().join(", "))
}

/// The ranges of a list, and the first item that is none.
pub(super) fn ranges(text: &str) -> (Vec<IpNet>, Option<&str>) {
    let mut good = Vec::new();
    let mut bad = None;
    for item in items(text) {
        match range(item) {
            Some(net) => good.push(net),
            None => bad = bad.or(Some(item)),
        }
    }
    good.sort_unstable();
    good.dedup();
    (good, bad)
}

fn range(item: &str) -> Option<IpNet> {
    let address = || item.parse::<IpAddr>().ok().map(IpNet::from);
    item.parse::<IpNet>().ok().or_else(address).map(|net| net.trunc())
}

pub(super) fn origins(text: &str) -> Parsed<Vec<CorsOrigin>> {
    let origins: Option<Vec<_>> = items(text).map(origin).collect();
    match origins {
        Some(origins) if !origins.is_empty() => Ok(origins),
        _ => expected("* or origins such as https://app.example:8443, http://*.example.com, between commas"),
    }
}

fn origin(item: &str) -> Option<CorsOrigin> {
    if item == "*" {
        return Some(CorsOrigin::Any);
    }
    let lower = item.to_ascii_lowercase();
    let (scheme, authority) = lower.split_once("://")?;
    let scheme_fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.');
    if scheme.is_empty() || !scheme.bytes().all(scheme_fits) {
        return None;
    }
    match authority.strip_prefix("*.") {
        Some(rest) => {
            RequestHost::parse(rest).ok()?;
            Some(CorsOrigin::Wildcard {
                prefix: format!("{scheme}://"),
                suffix: format!(".{rest}"),
            })
        }
        None => {
            RequestHost::parse(authority).ok()?;
            Some(CorsOrigin::Exact(lower))
        }
    }
}

pub(super) fn hosts(text: &str) -> Parsed<Vec<HostPattern>> {
    let hosts: Result<Vec<_>, _> = items(text).map(HostPattern::parse).collect();
    match hosts {
        Ok(hosts) if !hosts.is_empty() => Ok(hosts),
        Ok(_) => expected("host names between commas"),
        Err(why) => Err(format!(
            "host names between commas (regular expressions are not supported); one {why}"
        )),
    }
}

/// An expression on a header's value, bounded in memory.
pub(super) fn pattern(text: &str) -> Parsed<CanaryHeaderValue> {
    let built = CanaryHeaderValue::pattern(text);
    built.or_else(|_| expected("a regular expression (without look-around and back references)"))
}

/// `namespace/name`, or a name in the namespace of the Ingress.
pub(super) fn object_name(text: &str) -> Parsed<(Option<String>, String)> {
    let (namespace, name) = match text.split_once('/') {
        Some((namespace, name)) => (Some(namespace), name),
        None => (None, text),
    };
    let fits = |part: &str| {
        (1..=253).contains(&part.len())
            && part
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'.'))
    };
    if fits(name) && namespace.is_none_or(fits) {
        return Ok((namespace.map(str::to_owned), name.to_owned()));
    }
    expected("the name of a ConfigMap, namespace/name")
}

/// Digits only: Rust's own parser would take a `+`.
fn unsigned(text: &str) -> Option<u64> {
    text.bytes()
        .all(|b| b.is_ascii_digit())
        .then(|| text.parse().ok())
        .flatten()
}
