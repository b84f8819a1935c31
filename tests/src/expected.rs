//! `docs/examples/expected.toml`: what the examples promise, as data; asked and compared by `cargo xtask demo --check`.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;

use anyhow::Context;
use http::Method;
use serde::Deserialize;

use crate::client::{Answer, Request};

/// The file. Its certificates are the demo's business and are left out here.
#[derive(Clone, Debug, Deserialize)]
pub struct Expected {
    #[serde(rename = "expect")]
    pub cases: Vec<Case>,
}

/// One question and what the answer has to be. What is not said is not compared.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    /// The promise in words.
    pub says: String,
    /// As a client would type it, without the demo's port.
    pub url: String,
    #[serde(default)]
    pub method: Option<String>,
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    /// `h2` or `http/1.1` (the default).
    #[serde(default)]
    pub protocol: Option<String>,
    /// Opens a WebSocket and sends this text, which has to come back.
    #[serde(default)]
    pub websocket: Option<String>,
    #[serde(default)]
    pub status: Option<u16>,
    #[serde(default)]
    pub reason: Option<String>,
    /// `{https-port}` stands for the port of [`Place::https`].
    #[serde(default)]
    pub location: Option<String>,
    /// A DNS name that the shown certificate has to carry.
    #[serde(default)]
    pub certificate: Option<String>,
    /// The echo backend that has to answer.
    #[serde(default)]
    pub backend: Option<String>,
    /// The path that the backend has to see.
    #[serde(default)]
    pub backend_path: Option<String>,
    /// Asks that often and compares how many of a hundred `backend` answered, in place of comparing each.
    #[serde(default)]
    pub share: Option<Share>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Share {
    pub of: u32,
    pub at_least: u32,
    pub at_most: u32,
}

/// Where the demo's agent listens, and whom its clients trust.
#[derive(Clone, Debug)]
pub struct Place {
    pub http: SocketAddr,
    pub https: SocketAddr,
    pub authority: String,
}

impl Expected {
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
        toml::from_str(&text).with_context(|| path.display().to_string())
    }
}

impl Case {
    /// Asks, and gives what differs: nothing when all is as expected.
    pub fn differences(&self, place: &Place) -> anyhow::Result<Vec<String>> {
        if let Some(text) = &self.websocket {
            let echoed = self.request(place)?.ask_websocket(self.address(place)?, text)?;
            return Ok(differs("websocket echo", text, &echoed));
        }
        match (self.share, &self.backend) {
            (Some(share), Some(backend)) => self.share_differs(place, share, backend),
            _ => Ok(self.compare(&self.ask(place)?, place)),
        }
    }

    fn ask(&self, place: &Place) -> anyhow::Result<Answer> {
        self.request(place)?.ask(self.address(place)?)
    }

    fn address(&self, place: &Place) -> anyhow::Result<SocketAddr> {
        let is_tls = Request::get(&self.url)?.uri.scheme_str() == Some("https");
        Ok(if is_tls { place.https } else { place.http })
    }

    fn request(&self, place: &Place) -> anyhow::Result<Request> {
        let mut request = Request::get(&self.url)?.trusting(&place.authority);
        if let Some(method) = &self.method {
            request = request.method(Method::from_bytes(method.as_bytes())?);
        }
        if self.protocol.as_deref() == Some("h2") {
            request = request.h2();
        }
        for (name, value) in &self.headers {
            request = request.header(name, value)?;
        }
        Ok(request)
    }

    fn share_differs(&self, place: &Place, share: Share, backend: &str) -> anyhow::Result<Vec<String>> {
        let mut hits: u32 = 0;
        for _ in 0..share.of {
            hits += u32::from(self.ask(place)?.backend() == backend);
        }
        let percent = hits.saturating_mul(100) / share.of.max(1);
        if (share.at_least..=share.at_most).contains(&percent) {
            return Ok(Vec::new());
        }
        Ok(vec![format!(
            "{backend} answered {percent}% of {}, expected {}% to {}%",
            share.of, share.at_least, share.at_most
        )])
    }

    fn compare(&self, answer: &Answer, place: &Place) -> Vec<String> {
        let mut all = Vec::new();
        if let Some(status) = self.status {
            all.extend(differs("status", &status.to_string(), &answer.status.to_string()));
        }
        let seen = answer.seen();
        let port = place.https.port().to_string();
        let location = self.location.as_ref().map(|l| l.replace("{https-port}", &port));
        let texts = [
            ("reason", &self.reason, answer.reason()),
            ("location", &location, answer.header("location")),
            ("backend", &self.backend, answer.backend()),
            (
                "path at the backend",
                &self.backend_path,
                seen["path"].as_str().unwrap_or_default(),
            ),
        ];
        for (what, expected, got) in texts {
            all.extend(expected.iter().flat_map(|e| differs(what, e, got)));
        }
        if let Some(name) = &self.certificate
            && !answer.certificate_names.contains(name)
        {
            all.extend(differs("certificate", name, &answer.certificate_names.join(", ")));
        }
        all
    }
}

fn differs(what: &str, expected: &str, got: &str) -> Vec<String> {
    if expected == got {
        return Vec::new();
    }
    vec![format!("{what}: expected {expected:?}, got {got:?}")]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Echo;

    fn case(text: &str) -> Case {
        toml::from_str(text).unwrap()
    }

    fn place(echo: &Echo) -> Place {
        Place {
            http: echo.address(),
            https: echo.address(),
            authority: String::new(),
        }
    }

    #[test]
    fn an_answer_as_expected_has_no_differences() {
        let echo = Echo::start("web-1").unwrap();
        let case =
            case("says = 'x'\nurl = 'http://a.test/p'\nstatus = 200\nbackend = 'web-1'\nbackend_path = '/p'");
        assert_eq!(case.differences(&place(&echo)).unwrap(), Vec::<String>::new());
    }

    #[test]
    fn every_difference_is_told_with_both_values() {
        let echo = Echo::start("web-1").unwrap();
        let case = case("says = 'x'\nurl = 'http://a.test/'\nstatus = 404\nreason = 'host_unknown'");
        assert_eq!(
            case.differences(&place(&echo)).unwrap(),
            [
                r#"status: expected "404", got "200""#,
                r#"reason: expected "host_unknown", got """#
            ]
        );
    }

    #[test]
    fn a_share_out_of_its_bounds_is_a_difference() {
        let echo = Echo::start("web-1").unwrap();
        let all = "says = 'x'\nurl = 'http://a.test/'\nbackend = 'web-1'\nshare = { of = 4, at_least = 10, at_most = ";
        let within = case(&format!("{all}100 }}"));
        assert!(within.differences(&place(&echo)).unwrap().is_empty());
        let beyond = case(&format!("{all}90 }}"));
        assert_eq!(
            beyond.differences(&place(&echo)).unwrap(),
            ["web-1 answered 100% of 4, expected 10% to 90%"]
        );
    }
}
