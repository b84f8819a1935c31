//! What Kubernetes allows as a name, label, key or port, with the texts of apimachinery's `util/validation`.
//!
//! Each check returns one text for each rule that is broken.

use std::net::IpAddr;

const LABEL: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?";
const SUBDOMAIN: &str = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*";
const QUALIFIED: &str = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]";

/// RFC 1123 label: namespaces, Services and their ports.
pub(super) fn dns_label(text: &str) -> Vec<String> {
    let mut errors = at_most(63, text);
    if !is_label(text) {
        errors.push(if is_subdomain(text) {
            "must not contain dots".to_owned()
        } else {
            rule(
                "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character",
                LABEL,
                &["my-name", "123-abc"],
            )
        });
    }
    errors
}

/// RFC 1123 subdomain: hosts and the names of most kinds.
pub(super) fn dns_subdomain(text: &str) -> Vec<String> {
    let mut errors = at_most(253, text);
    if !is_subdomain(text) {
        errors.push(rule(
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character",
            SUBDOMAIN,
            &["example.com"],
        ));
    }
    errors
}

/// `*.` and a subdomain (RFC 1034, 4.3.3).
pub(super) fn wildcard_subdomain(text: &str) -> Vec<String> {
    let mut errors = at_most(253, text);
    if !text.strip_prefix("*.").is_some_and(is_subdomain) {
        errors.push(rule(
            "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which must consist of lower case alphanumeric characters, '-' or '.' and end with an alphanumeric character",
            &format!(r"\*\.{SUBDOMAIN}"),
            &["*.example.com"],
        ));
    }
    errors
}

/// `[prefix/]name`: keys of labels and annotations, `appProtocol`.
pub(super) fn qualified_name(text: &str) -> Vec<String> {
    let mut errors = Vec::new();
    let name = match text.split_once('/') {
        None => text,
        Some((_, name)) if name.contains('/') => return vec![not_qualified()],
        Some(("", name)) => {
            errors.push("prefix part must be non-empty".to_owned());
            name
        }
        Some((prefix, name)) => {
            errors.extend(
                in_bytes(dns_subdomain(prefix))
                    .into_iter()
                    .map(|text| format!("prefix part {text}")),
            );
            name
        }
    };
    if name.is_empty() {
        errors.push("name part must be non-empty".to_owned());
    }
    errors.extend(
        in_bytes(at_most(63, name))
            .into_iter()
            .map(|text| format!("name part {text}")),
    );
    if !is_qualified_part(name) {
        errors.push(format!("name part {}", qualified_rule()));
    }
    errors
}

/// The value of a label.
pub(super) fn label_value(text: &str) -> Vec<String> {
    let mut errors = in_bytes(at_most(63, text));
    if !text.is_empty() && !is_qualified_part(text) {
        errors.push(rule(
            "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character",
            &format!("({QUALIFIED})?"),
            &["MyValue", "my_value", "12345"],
        ));
    }
    errors
}

/// A key of a ConfigMap or Secret.
pub(super) fn config_key(text: &str) -> Vec<String> {
    let mut errors = at_most(253, text);
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    if text.is_empty() || !text.bytes().all(allowed) {
        errors.push(rule(
            "a valid config key must consist of alphanumeric characters, '-', '_' or '.'",
            "[-._a-zA-Z0-9]+",
            &["key.name", "KEY_NAME", "key-name"],
        ));
    }
    match text {
        "." => errors.push("must not be '.'".to_owned()),
        ".." => errors.push("must not be '..'".to_owned()),
        _ if text.starts_with("..") => errors.push("must not start with '..'".to_owned()),
        _ => {}
    }
    errors
}

/// An IANA service name: the name of a container's or backend's port.
pub(super) fn port_name(text: &str) -> Vec<String> {
    let mut errors = at_most(15, text);
    let mut broken = |is: bool, text: &str| {
        if is {
            errors.push(text.to_owned());
        }
    };
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    broken(
        text.is_empty() || !text.bytes().all(allowed),
        "must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)",
    );
    broken(
        !text.bytes().any(|byte| byte.is_ascii_lowercase()),
        "must contain at least one letter (a-z)",
    );
    broken(text.contains("--"), "must not contain consecutive hyphens");
    broken(
        text.starts_with('-') || text.ends_with('-'),
        "must not begin or end with a hyphen",
    );
    errors
}

pub(super) fn port_number(number: i32) -> Vec<String> {
    match number {
        1..=65535 => Vec::new(),
        _ => vec!["must be between 1 and 65535, inclusive".to_owned()],
    }
}

/// What can stand between two slashes of an API path: kind and name of a reference.
pub(super) fn path_segment(text: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if text == "." || text == ".." {
        return vec![format!("may not be '{text}'")];
    }
    for illegal in ["/", "%"] {
        if text.contains(illegal) {
            errors.push(format!("may not contain '{illegal}'"));
        }
    }
    errors
}

/// A domain name of at least two labels, a last dot allowed: the part that is wrong, and why.
pub(super) fn fully_qualified(text: &str) -> Option<(&str, String)> {
    let name = text.strip_suffix('.').unwrap_or(text);
    let errors = dns_subdomain(name);
    if !errors.is_empty() {
        return Some((name, errors.join(",")));
    }
    if !name.contains('.') {
        let rule = "should be a domain with at least two segments separated by dots";
        return Some((name, rule.to_owned()));
    }
    let mut labels = name.split('.').map(|label| (label, dns_label(label)));
    let (label, errors) = labels.find(|(_, errors)| !errors.is_empty())?;
    Some((label, errors.join(",")))
}

/// Whether Go's lenient parser takes the text for an IP address.
pub(super) fn is_ip(text: &str) -> bool {
    lenient_ip(text).is_some()
}

/// As Go's older parser reads it: leading zeros are fine in IPv4, and IPv4 in IPv6 is IPv4.
pub(super) fn lenient_ip(text: &str) -> Option<IpAddr> {
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Some(ip.to_canonical());
    }
    let mut octets = [0; 4];
    let mut parts = text.split('.');
    for octet in &mut octets {
        let part = parts.next()?;
        let is_number = (1..=3).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_digit());
        *octet = part.parse().ok().filter(|_| is_number)?;
    }
    parts.next().is_none().then(|| IpAddr::from(octets))
}

fn is_label(text: &str) -> bool {
    let alphanumeric = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = text.as_bytes();
    bytes.first().is_some_and(alphanumeric)
        && bytes.last().is_some_and(alphanumeric)
        && bytes.iter().all(|byte| alphanumeric(byte) || *byte == b'-')
}

/// Length apart: a label of a subdomain may be longer than 63 bytes for Kubernetes.
fn is_subdomain(text: &str) -> bool {
    text.split('.').all(is_label)
}

fn is_qualified_part(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.first().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.last().is_some_and(u8::is_ascii_alphanumeric)
        && bytes
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(byte))
}

fn at_most(max: usize, text: &str) -> Vec<String> {
    if text.len() > max {
        vec![format!("must be no more than {max} characters")]
    } else {
        Vec::new()
    }
}

/// Keys and values of labels have words of their own.
fn in_bytes(errors: Vec<String>) -> Vec<String> {
    let word = |text: String| match text.strip_prefix("must be no more than ") {
        Some(_) => text.replace("characters", "bytes"),
        None => text,
    };
    errors.into_iter().map(word).collect()
}

fn qualified_rule() -> String {
    rule(
        "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character",
        QUALIFIED,
        &["MyName", "my.name", "123-abc"],
    )
}

fn not_qualified() -> String {
    format!(
        "a valid label key {} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')",
        qualified_rule()
    )
}

/// The rule with its examples and pattern; the double space is Kubernetes' own.
fn rule(text: &str, pattern: &str, examples: &[&str]) -> String {
    let examples: Vec<_> = examples.iter().map(|example| format!("'{example}', ")).collect();
    format!(
        "{text} (e.g. {}regex used for validation is '{pattern}')",
        examples.join(" or ")
    )
}
