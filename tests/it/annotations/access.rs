//! Who may ask: CORS and source ranges.

use http::Method;
use ingress_tests::{Request, Site};

use super::{annotated, serving};
use crate::Done;

const APP: &str = "https://app.test";

#[test]
fn a_preflight_is_answered_by_the_agent() -> Done {
    let (site, agent) = serving(&[
        ("enable-cors", "true"),
        ("cors-allow-origin", APP),
        ("cors-max-age", "600"),
        ("cors-allow-methods", "GET, PUT"),
    ])?;
    let preflight = |origin: &str| -> anyhow::Result<Request> {
        Request::get("http://web.test/")?
            .method(Method::OPTIONS)
            .header("origin", origin)?
            .header("access-control-request-method", "PUT")
    };
    let answer = agent.ask(preflight(APP)?)?;
    assert_eq!((answer.status, answer.reason()), (204, "cors_preflight"));
    assert_eq!(answer.header("access-control-allow-origin"), APP);
    assert_eq!(answer.header("access-control-allow-methods"), "GET, PUT");
    assert_eq!(answer.header("access-control-max-age"), "600");
    assert_eq!(answer.header("access-control-allow-credentials"), "true");
    let answer = agent.ask(preflight("https://evil.test")?)?;
    assert_eq!(answer.header("access-control-allow-origin"), "");
    assert_eq!(site.backend("web")?.requests(), 0);
    Ok(())
}

#[test]
fn a_simple_request_gets_cors_headers_for_allowed_origins_only() -> Done {
    let (_site, agent) = serving(&[
        ("enable-cors", "true"),
        ("cors-allow-origin", "https://*.test"),
        ("cors-expose-headers", "X-Total"),
    ])?;
    for (origin, allowed) in [(APP, true), ("https://evil.example", false)] {
        let answer = agent.ask(Request::get("http://web.test/")?.header("origin", origin)?)?;
        assert_eq!(answer.served_by(), "web");
        let expected = if allowed { origin } else { "" };
        assert_eq!(answer.header("access-control-allow-origin"), expected);
        assert_eq!(answer.header("vary"), "Origin");
        assert_eq!(
            answer.header("access-control-expose-headers"),
            if allowed { "X-Total" } else { "" }
        );
    }
    Ok(())
}

#[test]
fn an_options_request_that_is_no_preflight_goes_to_the_backend() -> Done {
    let (_site, agent) = serving(&[("enable-cors", "true")])?;
    let answer = agent.ask(Request::get("http://web.test/")?.method(Method::OPTIONS))?;
    assert_eq!(answer.served_by(), "web");
    Ok(())
}

#[test]
fn source_ranges_let_in_and_keep_out() -> Done {
    for (annotations, status) in [
        (&[("allowlist-source-range", "10.0.0.0/8")][..], 403),
        (&[("allowlist-source-range", "10.0.0.0/8, 127.0.0.0/8")], 200),
        (&[("whitelist-source-range", "127.0.0.1")], 200),
        (&[("denylist-source-range", "127.0.0.1/32")], 403),
        (
            &[
                ("denylist-source-range", "127.0.0.1/32"),
                ("allowlist-source-range", "127.0.0.0/8"),
            ],
            403,
        ),
        (&[("allowlist-source-range", "nonsense")], 403),
    ] {
        let (site, agent) = serving(annotations)?;
        let answer = agent.get("http://web.test/")?;
        assert_eq!(answer.status, status, "{annotations:?}");
        if status == 403 {
            assert_eq!(answer.reason(), "denied");
            assert_eq!(site.backend("web")?.requests(), 0);
        }
    }
    Ok(())
}

#[test]
fn source_ranges_look_at_the_client_that_a_trusted_proxy_names() -> Done {
    let site = Site::new(&[annotated(&[("allowlist-source-range", "192.0.2.0/24")])])?;
    let ask = || Request::get("http://web.test/")?.header("x-forwarded-for", "192.0.2.7");
    let trusting = site.start_with(&["--trusted-proxies", "127.0.0.0/8"])?;
    assert_eq!(trusting.ask(ask()?)?.served_by(), "web");
    let wary = site.start()?;
    assert_eq!(wary.ask(ask()?)?.served_by(), "403 denied");
    Ok(())
}
