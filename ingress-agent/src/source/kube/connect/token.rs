//! The bearer token of a file that is replaced now and then: read again once a minute, and at once when the API server refuses it.
//!
//! By a clock that never jumps: kube's own reader goes by the time of day, and keeps a token for a day when that is set back by one.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use http::header::AUTHORIZATION;
use http::{HeaderValue, Request, Response, StatusCode};
use kube::Config;

const FRESH: Duration = Duration::from_secs(60);

/// A token that may be read again at any time.
#[derive(Debug)]
pub(super) struct TokenFile {
    path: PathBuf,
    last: Mutex<Last>,
}

#[derive(Debug, Default)]
struct Last {
    /// Marked sensitive: it is never printed.
    header: Option<HeaderValue>,
    read: Option<Instant>,
}

impl TokenFile {
    /// The file that the configuration names, which then no longer names it; none where something else says who we are.
    pub(super) fn take(config: &mut Config) -> Option<Self> {
        let auth = &mut config.auth_info;
        let is_alone = auth.token.is_none()
            && auth.username.is_none()
            && auth.exec.is_none()
            && auth.auth_provider.is_none();
        let path = if is_alone { auth.token_file.take() } else { None };
        path.map(|path| Self {
            path: path.into(),
            last: Mutex::default(),
        })
    }

    pub(super) fn sign<B>(&self, request: &mut Request<B>, now: Instant) {
        if let Some(header) = self.header(now) {
            request.headers_mut().insert(AUTHORIZATION, header);
        }
    }

    /// A refused token may have been replaced since it was read.
    pub(super) fn learn<B>(&self, answer: &Response<B>) {
        if answer.status() == StatusCode::UNAUTHORIZED {
            self.last.lock().unwrap_or_else(PoisonError::into_inner).read = None;
        }
    }

    fn header(&self, now: Instant) -> Option<HeaderValue> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let is_fresh = |read: Instant| now.saturating_duration_since(read) < FRESH;
        if !last.read.is_some_and(is_fresh) {
            last.read = Some(now);
            // A file that can't be read, or is half written, leaves the token before it in use.
            if let Some(header) = self.read() {
                last.header = Some(header);
            }
        }
        last.header.clone()
    }

    fn read(&self) -> Option<HeaderValue> {
        let text = std::fs::read_to_string(&self.path).ok()?;
        let token = Some(text.trim()).filter(|token| !token.is_empty())?;
        let mut header = HeaderValue::try_from(format!("Bearer {token}")).ok()?;
        header.set_sensitive(true);
        Some(header)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_read_again_after_a_minute_and_at_once_when_it_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        let write = |text: &str| std::fs::write(&path, text).unwrap();
        let file = TokenFile {
            path: path.clone(),
            last: Mutex::default(),
        };
        let start = Instant::now();
        let signed = |seconds| {
            let mut request = Request::new(());
            file.sign(&mut request, start + Duration::from_secs(seconds));
            let header = request.headers().get(AUTHORIZATION);
            header.map(|value| value.to_str().unwrap().to_owned())
        };
        assert_eq!(signed(0), None, "there is none yet, and the request says so");
        write("one\n");
        assert_eq!(signed(60).as_deref(), Some("Bearer one"));
        write("two\n");
        assert_eq!(signed(61).as_deref(), Some("Bearer one"));
        assert_eq!(signed(120).as_deref(), Some("Bearer two"));
        write("three\n");
        let mut refused = Response::new(());
        *refused.status_mut() = StatusCode::UNAUTHORIZED;
        file.learn(&refused);
        assert_eq!(signed(121).as_deref(), Some("Bearer three"));
        write("");
        assert_eq!(
            signed(200).as_deref(),
            Some("Bearer three"),
            "half written: the one before stays"
        );
    }
}
