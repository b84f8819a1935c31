//! Canaries: an Ingress that takes a part of another one's requests.

use ingress_tests::{Ingress, Request, Site};

use crate::Done;

fn site(annotations: &[(&str, &str)]) -> anyhow::Result<Site> {
    let canary = Ingress::new("canary").annotation("canary", "true");
    let canary = annotations
        .iter()
        .fold(canary, |i, (name, value)| i.annotation(name, value));
    Site::new(&[
        Ingress::new("main")
            .annotation("rewrite-target", "/seen")
            .host("web.test")
            .prefix("/", "stable"),
        canary.host("web.test").prefix("/", "canary"),
    ])
}

#[test]
fn a_canary_by_weight_takes_its_share() -> Done {
    let site = site(&[("canary-weight", "25")])?;
    let agent = site.start()?;
    let rounds = 400;
    for _ in 0..rounds {
        assert_eq!(agent.get("http://web.test/")?.status, 200);
    }
    let taken = site.backend("canary")?.requests();
    // Five standard deviations around the mean of 100.
    assert!((57..=143).contains(&taken), "{taken} of {rounds}");
    assert_eq!(site.backend("stable")?.requests(), rounds - taken);
    Ok(())
}

#[test]
fn a_canary_by_header_is_asked_for_and_turned_down() -> Done {
    let site = site(&[("canary-by-header", "X-Canary"), ("canary-weight", "0")])?;
    let agent = site.start()?;
    for (value, backend) in [("always", "canary"), ("never", "stable"), ("maybe", "stable")] {
        let answer = agent.ask(Request::get("http://web.test/")?.header("x-canary", value)?)?;
        assert_eq!(answer.served_by(), backend, "{value}");
        assert_eq!(
            answer.seen()["path"],
            "/seen",
            "the canary inherits the main one's rewrite"
        );
    }
    assert_eq!(agent.get("http://web.test/")?.served_by(), "stable");
    Ok(())
}

#[test]
fn a_canary_by_header_value_and_pattern() -> Done {
    for (name, value, taken, left) in [
        ("canary-by-header-value", "beta", "beta", "always"),
        ("canary-by-header-pattern", "^v[0-9]+$", "v12", "v"),
    ] {
        let site = site(&[("canary-by-header", "X-Canary"), (name, value)])?;
        let agent = site.start()?;
        for (sent, backend) in [(taken, "canary"), (left, "stable")] {
            let answer = agent.ask(Request::get("http://web.test/")?.header("x-canary", sent)?)?;
            assert_eq!(answer.served_by(), backend, "{name} {sent}");
        }
    }
    Ok(())
}

#[test]
fn header_goes_before_cookie_and_cookie_before_weight() -> Done {
    let site = site(&[
        ("canary-by-header", "X-Canary"),
        ("canary-by-cookie", "canary"),
        ("canary-weight", "100"),
    ])?;
    let agent = site.start()?;
    for (header, cookie, backend) in [
        ("never", "canary=always", "stable"),
        ("always", "canary=never", "canary"),
        ("", "canary=never", "stable"),
        ("", "other=1; canary=always", "canary"),
        ("", "", "canary"),
    ] {
        let request = Request::get("http://web.test/")?
            .header("x-canary", header)?
            .header("cookie", cookie)?;
        assert_eq!(agent.ask(request)?.served_by(), backend, "{header:?} {cookie:?}");
    }
    Ok(())
}

#[test]
fn a_canary_without_a_main_ingress_is_told_and_serves_nothing() -> Done {
    let site = site(&[("canary-weight", "100")])?;
    site.manifests.remove_ingress("main")?;
    let agent = site.start()?;
    assert_eq!(agent.get("http://web.test/")?.status, 404);
    agent.diagnostic("Ingress default/canary", "CanaryWithoutRoute")?;
    Ok(())
}
