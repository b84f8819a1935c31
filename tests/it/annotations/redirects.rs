//! Redirects, rewrites and the application's root.

use ingress_tests::{Ingress, Site};

use super::{led, serving};
use crate::Done;

#[test]
fn a_permanent_and_a_temporal_redirect_answer_with_their_status() -> Done {
    for (annotations, status, location) in [
        (
            &[("permanent-redirect", "https://new.test")][..],
            301,
            "https://new.test",
        ),
        (
            &[
                ("permanent-redirect", "https://new.test"),
                ("permanent-redirect-code", "308"),
            ],
            308,
            "https://new.test",
        ),
        (
            &[("temporal-redirect", "https://away.test")],
            302,
            "https://away.test",
        ),
        (
            &[
                ("temporal-redirect", "https://away.test"),
                ("permanent-redirect", "https://new.test"),
            ],
            302,
            "https://away.test",
        ),
        (
            &[("permanent-redirect", "https://new.test$request_uri")],
            301,
            "https://new.test/x?y=1",
        ),
    ] {
        let (site, agent) = serving(annotations)?;
        let answer = agent.get("http://web.test/x?y=1")?;
        assert_eq!(led(&answer), (status, "redirect", location), "{annotations:?}");
        assert_eq!(site.backend("web")?.requests(), 0);
    }
    Ok(())
}

#[test]
fn app_root_redirects_the_root_and_nothing_else() -> Done {
    let (_site, agent) = serving(&[("app-root", "/app")])?;
    assert_eq!(led(&agent.get("http://web.test/")?), (302, "redirect", "/app"));
    assert_eq!(agent.get("http://web.test/app")?.served_by(), "web");
    Ok(())
}

#[test]
fn rewrite_target_fills_in_capture_groups_and_keeps_the_query() -> Done {
    let site = Site::new(&[
        Ingress::new("groups")
            .annotation("use-regex", "true")
            .annotation("rewrite-target", "/$2")
            .host("web.test")
            .implementation_specific("/something(/|$)(.*)", "web"),
        Ingress::new("whole")
            .annotation("rewrite-target", "/fixed")
            .host("web.test")
            .prefix("/whole", "web"),
        Ingress::new("plain").host("web.test").prefix("/plain", "web"),
    ])?;
    let agent = site.start()?;
    for (asked, path, query) in [
        ("/something", "/", None),
        ("/something/", "/", None),
        ("/something/new/x", "/new/x", None),
        ("/something/new?a=1", "/new", Some("a=1")),
        ("/whole/a/b?c=2", "/fixed", Some("c=2")),
        ("/plain/a", "/plain/a", None),
    ] {
        let answer = agent.get(&format!("http://web.test{asked}"))?;
        let seen = answer.seen();
        assert_eq!(
            (seen["path"].as_str(), seen["query"].as_str()),
            (Some(path), query),
            "{asked}"
        );
    }
    Ok(())
}

#[test]
fn a_rewrite_cannot_be_led_out_of_its_folder() -> Done {
    let site = Site::new(&[Ingress::new("web")
        .annotation("rewrite-target", "/inner/$1")
        .host("web.test")
        .implementation_specific("/x/(.*)", "web")])?;
    let agent = site.start()?;
    for path in ["/x/%2e%2e/secret", "/x/../secret", "/x/..%2fsecret"] {
        let answer = agent.get(&format!("http://web.test{path}"))?;
        let path = answer.seen()["path"].as_str().unwrap_or("/inner/").to_owned();
        assert!(answer.status >= 400 || path.starts_with("/inner/"), "{path}");
    }
    assert_eq!(agent.get("http://web.test/x/a")?.seen()["path"], "/inner/a");
    Ok(())
}
