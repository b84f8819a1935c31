//! What else a request must have besides host and path.

use serde::Serialize;

use super::RequestView;
use crate::fields::Fields;
use crate::resource::Conditions;

/// The first condition that a request does not meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Unmet {
    Path,
    Method,
    Header,
    Query,
}

impl Conditions {
    pub(super) fn check(&self, request: &RequestView<'_>) -> Result<(), Unmet> {
        if self
            .method
            .as_ref()
            .is_some_and(|method| method != request.method)
        {
            return Err(Unmet::Method);
        }
        if !self
            .headers
            .iter()
            .all(|(name, value)| has_header(request.headers, name, value))
        {
            return Err(Unmet::Header);
        }
        let query = request.query.unwrap_or_default();
        if !self
            .query
            .iter()
            .all(|(name, value)| has_parameter(query, name, value))
        {
            return Err(Unmet::Query);
        }
        Ok(())
    }
}

fn has_header(headers: &Fields, name: &http::HeaderName, value: &http::HeaderValue) -> bool {
    headers.get_all(name.as_str()).any(|found| value == found)
}

/// Gateway API, `HTTPQueryParamMatch`: the first of several parameters with the name counts.
fn has_parameter(query: &str, name: &str, value: &str) -> bool {
    let pairs = query
        .split('&')
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    let mut of_name = pairs.filter(|(found, _)| decodes_to(found, name));
    of_name.next().is_some_and(|(_, found)| decodes_to(found, value))
}

/// Compares a raw query piece (`+` is a blank, `%xx` a byte) with plain text, without a copy.
fn decodes_to(raw: &str, plain: &str) -> bool {
    let mut rest = raw.as_bytes();
    let decoded = std::iter::from_fn(|| {
        let (&first, after) = rest.split_first()?;
        let (byte, after) = match (first, after) {
            (b'+', _) => (b' ', after),
            (b'%', [high, low, tail @ ..]) => match (hex(*high), hex(*low)) {
                (Some(high), Some(low)) => (high << 4 | low, tail),
                _ => (first, after),
            },
            _ => (first, after),
        };
        rest = after;
        Some(byte)
    });
    decoded.eq(plain.bytes())
}

fn hex(digit: u8) -> Option<u8> {
    u8::try_from(char::from(digit).to_digit(16)?).ok()
}
