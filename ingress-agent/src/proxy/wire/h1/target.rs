//! Request targets (RFC 9112 3.2) and hosts, as far as their form goes. What they mean is for the router.

use super::bytes::host_run;
use crate::proxy::wire::Refusal;

/// The bytes were checked before; here only the form.
pub(super) fn check_target(method: &[u8], target: &[u8]) -> Result<(), Refusal> {
    match target {
        [b'/', ..] => Ok(()),
        b"*" if method == b"OPTIONS" => Ok(()),
        b"*" => Err(Refusal::bad("the target * belongs to OPTIONS alone")),
        _ => absolute(target),
    }
}

fn absolute(target: &[u8]) -> Result<(), Refusal> {
    let after = strip_scheme(target, b"http://")
        .or_else(|| strip_scheme(target, b"https://"))
        .ok_or(Refusal::bad(
            "the target is neither a path nor an http or https URI",
        ))?;
    let end = after
        .iter()
        .position(|b| matches!(b, b'/' | b'?'))
        .unwrap_or(after.len());
    check_host(after.get(..end).unwrap_or_default())
}

fn strip_scheme<'a>(target: &'a [u8], scheme: &[u8]) -> Option<&'a [u8]> {
    let (start, rest) = target.split_at_checked(scheme.len())?;
    start.eq_ignore_ascii_case(scheme).then_some(rest)
}

/// `uri-host [":" port]` (RFC 9110 7.2). Without user information, lists, or an empty name (RFC 9110 4.2.1 and 4.2.4).
pub(super) fn check_host(host: &[u8]) -> Result<(), Refusal> {
    let valid = match host {
        [b'[', rest @ ..] => bracketed(rest),
        _ => {
            let (name, port) = host.split_at_checked(host_run(host)).unwrap_or((host, &[]));
            !name.is_empty() && is_port(port)
        }
    };
    if valid {
        Ok(())
    } else {
        Err(Refusal::bad(
            "the host is not one name or address with an optional port",
        ))
    }
}

/// An IPv6 address in brackets; its own grammar is the router's to check.
fn bracketed(rest: &[u8]) -> bool {
    let Some(end) = rest.iter().position(|b| *b == b']') else {
        return false;
    };
    let (address, after) = rest.split_at_checked(end).unwrap_or((rest, &[]));
    !address.is_empty()
        && address
            .iter()
            .all(|b| b.is_ascii_hexdigit() || matches!(b, b':' | b'.'))
        && after.split_first().is_some_and(|(_, port)| is_port(port))
}

/// Nothing, or a colon and up to five digits (none at all is allowed: RFC 3986 3.2.3).
fn is_port(port: &[u8]) -> bool {
    match port {
        [] => true,
        [b':', digits @ ..] => digits.len() <= 5 && digits.iter().all(u8::is_ascii_digit),
        _ => false,
    }
}
