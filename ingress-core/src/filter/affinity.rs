//! Session affinity by cookie (RFC 6265).

use std::fmt::Write;

use http::HeaderValue;

use crate::fields::{Fields, visible};
use crate::resource::CookieAffinity;

/// The endpoint that the request's cookie remembers, as [`crate::balance::LiveEndpoint::sticky_id`] wrote it.
pub fn sticky_cookie<'a>(affinity: &CookieAffinity, headers: &'a Fields) -> Option<&'a str> {
    cookie(headers, &affinity.name)
}

/// The `Set-Cookie` value that makes a client come back to `id`; `None` when an attribute cannot stand in a header.
pub fn set_cookie(affinity: &CookieAffinity, id: &str, https: bool) -> Option<HeaderValue> {
    let mut text = format!(
        "{}={id}; Path={}",
        affinity.name,
        affinity.path.as_deref().unwrap_or("/")
    );
    if let Some(domain) = &affinity.domain {
        let _ = write!(text, "; Domain={domain}");
    }
    if let Some(seconds) = affinity.max_age {
        let _ = write!(text, "; Max-Age={seconds}");
    }
    if affinity.secure.unwrap_or(https) {
        text.push_str("; Secure");
    }
    text.push_str("; HttpOnly");
    if let Some(same_site) = affinity.same_site {
        let _ = write!(text, "; SameSite={same_site}");
    }
    HeaderValue::try_from(text).ok()
}

/// The first cookie of this name. HTTP/2 may split cookies over several fields (RFC 9113, 8.2.3).
pub(super) fn cookie<'a>(headers: &'a Fields, name: &str) -> Option<&'a str> {
    let fields = headers.get_all("cookie").filter_map(visible);
    let mut pairs = fields
        .flat_map(|field| field.split(';'))
        .filter_map(|pair| pair.split_once('='));
    let (_, value) = pairs.find(|(found, _)| found.trim() == name)?;
    Some(value.trim().trim_matches('"'))
}
