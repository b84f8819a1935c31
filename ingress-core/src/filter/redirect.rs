//! Redirects: to HTTPS, to the application's root, and those that an annotation asks for.

use http::header::LOCATION;
use http::{HeaderValue, StatusCode};

use super::rewrite::Groups;
use super::{OwnAnswer, RequestFacts};
use crate::reason::Reason;
use crate::resource::{Redirect, TlsRedirect};
use crate::snapshot::Route;

pub(super) fn answer(route: &Route, request: &RequestFacts<'_>) -> Option<OwnAnswer> {
    to_https(route, request)
        .or_else(|| to_app_root(route, request))
        .or_else(|| to_target(route, route.policy.redirect.as_ref()?, request))
}

fn to_https(route: &Route, request: &RequestFacts<'_>) -> Option<OwnAnswer> {
    let wanted = match route.policy.tls_redirect {
        TlsRedirect::Never => false,
        TlsRedirect::WithCertificate => route.has_certificate,
        TlsRedirect::Always => true,
    };
    if !wanted || request.https {
        return None;
    }
    if request.host.is_empty() {
        // HTTP/1.0 may come without; there is nowhere to send it, and plain HTTP is not wanted.
        return Some(OwnAnswer::new(Reason::BadRequest));
    }
    let port = match request.https_port {
        443 => String::new(),
        port => format!(":{port}"),
    };
    let location = format!("https://{}{port}{}", request.host, request_uri(request));
    answer_to(Reason::RedirectHttps, StatusCode::PERMANENT_REDIRECT, &location)
}

fn to_app_root(route: &Route, request: &RequestFacts<'_>) -> Option<OwnAnswer> {
    let root = route.policy.app_root.as_deref()?;
    let would_loop = root == "/" || request.path != "/";
    (!would_loop).then(|| answer_to(Reason::Redirect, StatusCode::FOUND, root))?
}

fn to_target(route: &Route, redirect: &Redirect, request: &RequestFacts<'_>) -> Option<OwnAnswer> {
    let status = StatusCode::from_u16(redirect.status).unwrap_or(StatusCode::FOUND);
    let location = fill_in(route, &redirect.location, request);
    answer_to(Reason::Redirect, status, &location)
}

/// What cannot stand in a header field, CR and LF first of all, is percent-encoded: a location holds what clients sent.
fn answer_to(reason: Reason, status: StatusCode, location: &str) -> Option<OwnAnswer> {
    let value = HeaderValue::from_str(&printable(location)).ok()?;
    Some(OwnAnswer {
        reason,
        status,
        headers: vec![(LOCATION, value)],
    })
}

fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte.is_ascii_graphic() {
            true => out.push(char::from(byte)),
            false => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

fn request_uri(request: &RequestFacts<'_>) -> String {
    match request.query {
        Some(query) => format!("{}?{query}", request.path),
        None => request.path.to_owned(),
    }
}

/// Replaces nginx's variables; an unknown one stays as it is.
fn fill_in(route: &Route, template: &str, request: &RequestFacts<'_>) -> String {
    let groups = Groups::of(route, request.path);
    let mut out = String::with_capacity(template.len() + request.path.len());
    let mut rest = template;
    while let Some(at) = rest.find('$') {
        let (before, variable) = rest.split_at(at);
        out.push_str(before);
        let (name, after) = split_variable(variable);
        match value_of(name, &groups, request) {
            Some(value) => out.push_str(&value),
            None => out.push_str(variable.strip_suffix(after).unwrap_or("$")),
        }
        rest = after;
    }
    out + rest
}

/// Splits `$name…` or `${name}…` into the name and what follows.
fn split_variable(text: &str) -> (&str, &str) {
    let bare = text.strip_prefix('$').unwrap_or(text);
    if let Some((name, after)) = bare.strip_prefix('{').and_then(|inner| inner.split_once('}')) {
        return (name, after);
    }
    let digits = bare.starts_with(|c: char| c.is_ascii_digit());
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let end = match digits {
        true => 1, // nginx has $1 to $9
        false => bare.find(|c| !is_name(c)).unwrap_or(bare.len()),
    };
    bare.split_at_checked(end).unwrap_or((bare, ""))
}

fn value_of(name: &str, groups: &Groups<'_>, request: &RequestFacts<'_>) -> Option<String> {
    if let Ok(number) = name.parse::<usize>() {
        return Some(groups.get(number).to_owned());
    }
    let query = request.query.unwrap_or_default();
    Some(match (name, request.port) {
        ("host", _) | ("http_host", None) => request.host.to_owned(),
        ("http_host", Some(port)) => format!("{}:{port}", request.host),
        ("request_uri", _) => request_uri(request),
        ("uri", _) => request.path.to_owned(),
        ("args" | "query_string", _) => query.to_owned(),
        ("is_args", _) => if query.is_empty() { "" } else { "?" }.to_owned(),
        ("scheme", _) => if request.https { "https" } else { "http" }.to_owned(),
        _ => return None,
    })
}
