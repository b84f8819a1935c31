//! Hosts of requests and of rules.

use ingress_core::host::{HostPattern, RequestHost, wildcard_suffix};

use super::{Target, outcome};

pub static HOST: Target = Target {
    name: "host",
    executions: 200_000,
    longest: 400,
    words: &[
        b".",
        b"..",
        b"*.",
        b"*",
        b":",
        b":80",
        b":65535",
        b":65536",
        b":+80",
        b":080",
        b"[",
        b"]",
        b"[::1]",
        b"::",
        b"1.2.3.4",
        b"xn--",
        b"-",
        b"_",
        b"@",
        b"%41",
        b",",
        b"\t",
        b"\0",
        b"\r\n",
        b"A",
        b"\xc4\xb0",
        b"\xe2\x84\xaa",
        b"example",
        b".example.com",
    ],
    check,
};

fn check(input: &[u8]) -> u64 {
    let text = String::from_utf8_lossy(input);
    outcome((request(&text), rule(&text)))
}

fn request(text: &str) -> Result<(bool, bool), &'static str> {
    let host = RequestHost::parse(text).map_err(|bad| bad.0)?;
    let name = &*host.name;
    let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-._[]:".contains(&b);
    assert!(!name.is_empty() && name.bytes().all(fits), "{name:?}");
    assert!(name.len() <= 255 && !name.ends_with('.'), "{name:?}");
    assert!(
        text.to_ascii_lowercase().starts_with(name),
        "{name:?} is how {text:?} begins"
    );
    assert_eq!(name.starts_with('['), name.contains([']', ':']), "{name:?}");
    let again = RequestHost {
        name: name.into(),
        port: None,
    };
    assert_eq!(RequestHost::parse(name).as_ref(), Ok(&again));
    if let Some(port) = host.port {
        assert_eq!(RequestHost::parse(&format!("{name}:{port}")).as_ref(), Ok(&host));
    }
    Ok((host.port.is_some(), name.starts_with('[')))
}

fn rule(text: &str) -> Result<u8, &'static str> {
    let pattern = HostPattern::parse(text).map_err(|bad| bad.0)?;
    match &pattern {
        HostPattern::Any => assert_eq!(text, ""),
        HostPattern::Exact(name) => assert_rule(&pattern, name, name),
        HostPattern::Wildcard(suffix) => {
            assert_rule(&pattern, suffix, &format!("a.{suffix}"));
            assert!(!pattern.covers(suffix) && !pattern.covers(&format!("b.a.{suffix}")));
            assert!(!pattern.covers(&format!(".{suffix}")));
        }
    }
    Ok(match pattern {
        HostPattern::Exact(_) => 0,
        HostPattern::Wildcard(_) => 1,
        HostPattern::Any => 2,
    })
}

/// A rule can be told again, and a request can ask for what it covers.
fn assert_rule(pattern: &HostPattern, name: &str, covered: &str) {
    let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.';
    assert!(name.bytes().all(fits) && name.len() <= 253, "{name:?}");
    assert_eq!(HostPattern::parse(&pattern.to_string()).as_ref(), Ok(pattern));
    assert!(pattern.covers(covered));
    assert_eq!(
        RequestHost::parse(covered).map(|host| host.name),
        Ok(covered.into())
    );
    assert!(wildcard_suffix(covered).is_none_or(|suffix| covered.ends_with(suffix)));
}
