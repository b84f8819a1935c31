//! `Retry-After` where only a header has it: the API server's filter for fairness answers 429 with a line of text, and kube's client
//! hands on nothing but a body.

use bytes::Bytes;
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{Response, StatusCode};
use http_body_util::{Either, Full};
use hyper::body::Incoming;

/// What comes from the API server, or what was written in its place.
pub(super) type Answer = Response<Either<Incoming, Full<Bytes>>>;

/// A refusal that names a pause becomes a Status that does.
pub(super) fn in_the_body(answer: Response<Incoming>) -> Answer {
    match status(&answer) {
        Some(body) => {
            let mut said = Response::new(Either::Right(Full::new(Bytes::from(body))));
            *said.status_mut() = answer.status();
            said
        }
        None => answer.map(Either::Left),
    }
}

/// Only where there is no Status, which says the pause itself.
fn status<B>(answer: &Response<B>) -> Option<String> {
    let is_refusal = matches!(
        answer.status(),
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE
    );
    let header = |name| answer.headers().get(name)?.to_str().ok();
    let is_status = header(CONTENT_TYPE).is_some_and(|kind| kind.starts_with("application/json"));
    if !is_refusal || is_status {
        return None;
    }
    let seconds: u32 = header(RETRY_AFTER)?.parse().ok()?;
    let status = serde_json::json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": "the API server asks to come again later", "code": answer.status().as_u16(),
        "details": {"retryAfterSeconds": seconds},
    });
    Some(status.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(code: u16, kind: &str, pause: &str) -> Response<()> {
        let head = Response::builder().status(code);
        let head = head.header(CONTENT_TYPE, kind).header(RETRY_AFTER, pause);
        head.body(()).unwrap()
    }

    #[test]
    fn a_pause_that_only_the_header_names_is_said_in_a_status() {
        let text = status(&answer(429, "text/plain; charset=utf-8", "7")).unwrap();
        let status: kube::core::Status = serde_json::from_str(&text).unwrap();
        assert_eq!(
            (status.code, status.details.unwrap().retry_after_seconds),
            (429, 7)
        );
    }

    #[test]
    fn a_status_of_the_server_and_a_date_are_left_as_they_are() {
        assert_eq!(status(&answer(429, "application/json", "7")), None);
        assert_eq!(
            status(&answer(503, "text/plain", "Sat, 21 Nov 2026 10:00:00 GMT")),
            None
        );
        assert_eq!(status(&answer(404, "text/plain", "7")), None);
    }
}
