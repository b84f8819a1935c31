//! Cross-origin requests (Fetch standard, "CORS protocol").

use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, VARY,
};
use http::{HeaderValue, Method};

use super::headers::Edit;
use super::{OwnAnswer, RequestFacts};
use crate::fields::{Fields, visible};
use crate::reason::Reason;
use crate::resource::{CorsOrigin, CorsPolicy};

/// The answer to a preflight. An `OPTIONS` request that is none goes to the backend.
pub(super) fn preflight(cors: &CorsPolicy, request: &RequestFacts<'_>) -> Option<OwnAnswer> {
    let origin = request.headers.get("origin")?;
    let asks = request.method == Method::OPTIONS && request.headers.contains("access-control-request-method");
    if !asks {
        return None;
    }
    let mut answer = OwnAnswer::new(Reason::CorsPreflight);
    let headers = &mut answer.headers;
    if let Some(allowed) = Allowed::of(cors, origin) {
        headers.push((ACCESS_CONTROL_ALLOW_ORIGIN, allowed.origin));
        headers.push((ACCESS_CONTROL_ALLOW_METHODS, cors.methods.clone()));
        headers.push((ACCESS_CONTROL_ALLOW_HEADERS, cors.headers.clone()));
        headers.push((ACCESS_CONTROL_MAX_AGE, HeaderValue::from(cors.max_age)));
        if allowed.credentials {
            headers.push((ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true")));
        }
    }
    if depends_on_origin(cors) {
        headers.push((VARY, HeaderValue::from_static("Origin")));
    }
    Some(answer)
}

/// What a backend's response gets. The route's policy stands in place of what the backend says about origins.
pub fn response_edits(cors: &CorsPolicy, request: &Fields) -> Vec<Edit> {
    let mut edits = Vec::with_capacity(4);
    if depends_on_origin(cors) {
        edits.push(Edit::Append(VARY, HeaderValue::from_static("Origin")));
    }
    let Some(origin) = request.get("origin") else {
        return edits;
    };
    let Some(allowed) = Allowed::of(cors, origin) else {
        edits.push(Edit::Remove(ACCESS_CONTROL_ALLOW_ORIGIN));
        edits.push(Edit::Remove(ACCESS_CONTROL_ALLOW_CREDENTIALS));
        return edits;
    };
    edits.push(Edit::Set(ACCESS_CONTROL_ALLOW_ORIGIN, allowed.origin));
    edits.push(match allowed.credentials {
        true => Edit::Set(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true")),
        false => Edit::Remove(ACCESS_CONTROL_ALLOW_CREDENTIALS),
    });
    if let Some(names) = &cors.expose_headers {
        edits.push(Edit::Set(ACCESS_CONTROL_EXPOSE_HEADERS, names.clone()));
    }
    edits
}

/// What an origin may have.
struct Allowed {
    origin: HeaderValue,
    credentials: bool,
}

impl Allowed {
    /// `*` goes without credentials: browsers refuse the pair, and echoing any origin would open the site to all.
    fn of(cors: &CorsPolicy, origin: &[u8]) -> Option<Self> {
        let text = visible(origin)?.to_ascii_lowercase();
        if cors.origins.iter().any(|allowed| names(allowed, &text)) {
            return Some(Self {
                origin: HeaderValue::from_bytes(origin).ok()?,
                credentials: cors.credentials,
            });
        }
        cors.origins.contains(&CorsOrigin::Any).then(|| Self {
            origin: HeaderValue::from_static("*"),
            credentials: false,
        })
    }
}

/// Whether a rule other than `*` covers an origin (in lower case).
fn names(rule: &CorsOrigin, origin: &str) -> bool {
    match rule {
        CorsOrigin::Any => false,
        CorsOrigin::Exact(exact) => exact == origin,
        CorsOrigin::Wildcard { prefix, suffix } => {
            let labels = origin
                .strip_prefix(&**prefix)
                .and_then(|rest| rest.strip_suffix(&**suffix));
            let is_label = |label: &str| {
                !label.is_empty()
                    && label
                        .bytes()
                        .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
            };
            labels.is_some_and(|labels| labels.split('.').all(is_label))
        }
    }
}

/// Then caches must keep the answers apart (Fetch standard, "CORS protocol and HTTP caches").
fn depends_on_origin(cors: &CorsPolicy) -> bool {
    cors.origins.iter().any(|origin| *origin != CorsOrigin::Any)
}
