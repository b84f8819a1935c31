//! What went wrong with a request to the API server, in words that say what to do. Never quotes an object.

use std::error::Error as _;
use std::time::Duration;

use kube::core::Status;

use super::resource::Scope;

/// Why a list or watch failed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) cause: Cause,
    /// Retry-After.
    pub(super) wait: Option<Duration>,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// 403; the server's own words.
    Forbidden(String),
    /// 401.
    Unauthorized,
    /// 410, or 504 for a resource version that the server does not have (yet): only a new list helps.
    TooOld,
    TooNew,
    /// It has no streaming lists.
    NoStreaming,
    /// 429.
    Throttled,
    NotFound,
    /// Any other answer.
    Refused(u16, String),
    /// No answer: connection, TLS, name.
    Unreachable(String),
    Silent(Duration),
    /// The list broke off.
    CutShort,
    /// What came is not what was asked for.
    Malformed(&'static str),
}

impl From<Cause> for Failure {
    fn from(cause: Cause) -> Self {
        Self { cause, wait: None }
    }
}

impl From<kube::Error> for Failure {
    fn from(error: kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => Self::from(*status),
            // Their text could quote what was read, such as a key.
            kube::Error::SerdeError(_) | kube::Error::FromUtf8(_) => {
                Cause::Malformed("it is not the JSON of such an object").into()
            }
            // What lies below says only how it broke: a server that ends says no farewell.
            kube::Error::ReadEvents(_) => Cause::Unreachable("the connection broke off".to_owned()).into(),
            other => Cause::Unreachable(chain(&other)).into(),
        }
    }
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        let wait = status
            .details
            .as_ref()
            .map(|details| u64::from(details.retry_after_seconds))
            .filter(|seconds| *seconds > 0)
            .map(Duration::from_secs);
        let message = || excerpt(&status.message);
        let cause = match status.code {
            401 => Cause::Unauthorized,
            403 => Cause::Forbidden(message()),
            404 => Cause::NotFound,
            410 => Cause::TooOld,
            429 => Cause::Throttled,
            400 | 422 if status.message.contains("sendInitialEvents") => Cause::NoStreaming,
            _ if status.message.contains("Too large resource version") => Cause::TooNew,
            code => Cause::Refused(code, message()),
        };
        Self { cause, wait }
    }
}

impl Failure {
    /// One sentence; what is the same for all watches (the server is away) says nothing of this one.
    pub(super) fn describe(&self, scope: &Scope) -> String {
        let (resource, group) = scope.resource.rule();
        match &self.cause {
            Cause::Forbidden(words) => format!(
                "may not read {scope}: the agent's role needs the verbs get, list and watch on {resource} (apiGroups [{group:?}]); the API server says: {words}"
            ),
            Cause::Unauthorized => {
                "the API server does not accept the agent's credentials (401): its token or certificate has expired, or belongs to another cluster".to_owned()
            }
            Cause::TooOld => format!("{scope} have to be listed again: the last version that was seen is compacted (410)"),
            Cause::TooNew => format!("{scope} have to be listed again: the API server does not have the last version that was seen"),
            Cause::NoStreaming => "the API server has no streaming lists".to_owned(),
            Cause::Throttled => "the API server asks to slow down (429)".to_owned(),
            Cause::NotFound => format!("the API server does not know {scope} (404)"),
            Cause::Refused(code, words) => format!("the API server refuses to give {scope}: {code}: {words}"),
            Cause::Unreachable(words) => format!("the API server can't be reached: {words}"),
            Cause::Silent(wait) => format!("the API server has said nothing of {scope} for {} s", wait.as_secs()),
            Cause::CutShort => format!("the list of {scope} broke off"),
            Cause::Malformed(what) => format!("can't read the API server's answer about {scope}: {what}"),
        }
    }
}

/// The error with its causes: the outer ones of a connection say next to nothing.
fn chain(error: &kube::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let words = inner.to_string();
        if !text.contains(&words) {
            text = format!("{text}: {words}");
        }
        cause = inner.source();
    }
    excerpt(text.trim_start_matches("ServiceError: "))
}

/// Bounded and on one line.
fn excerpt(text: &str) -> String {
    const LONGEST: usize = 400;
    let mut excerpt: String = text
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(LONGEST)
        .collect();
    if excerpt.len() < text.len() {
        excerpt.push('…');
    }
    excerpt
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::kube::resource::Resource;

    fn failure(code: u16, message: &str) -> Failure {
        Failure::from(Status::failure(message, "").with_code(code))
    }

    fn scope(namespace: Option<&str>) -> Scope {
        Scope {
            resource: Resource::TlsSecrets,
            namespace: namespace.map(str::to_owned),
            name: None,
        }
    }

    #[test]
    fn a_missing_right_is_named_with_its_resource_group_verbs_and_namespace() {
        let text = failure(403, "secrets is forbidden").describe(&scope(Some("shop")));
        for part in [
            "secrets in namespace shop",
            "get, list and watch",
            "apiGroups [\"\"]",
        ] {
            assert!(text.contains(part), "{text}");
        }
    }

    #[test]
    fn answers_that_call_for_a_new_list_or_another_kind_of_list_are_told_apart() {
        assert_eq!(failure(410, "").cause, Cause::TooOld);
        assert_eq!(
            failure(504, "Timeout: Too large resource version: 9, current: 3").cause,
            Cause::TooNew
        );
        let words = "sendInitialEvents: Forbidden: sendInitialEvents is forbidden for watch unless the WatchList feature gate is enabled";
        assert_eq!(failure(422, words).cause, Cause::NoStreaming);
        assert_eq!(failure(500, "boom").cause, Cause::Refused(500, "boom".into()));
    }

    #[test]
    fn an_answer_that_can_not_be_parsed_is_not_quoted() {
        let error = serde_json::from_str::<u8>("\"PRIVATE KEY\"").unwrap_err();
        let text = Failure::from(kube::Error::SerdeError(error)).describe(&scope(None));
        assert!(!text.contains("PRIVATE"), "{text}");
    }
}
