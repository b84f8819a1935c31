//! Hosts of Ingress v1, asked through a running agent.

use ingress_tests::{Ingress, Request, Site};

use crate::Done;

#[test]
fn an_exact_host_matches_only_itself() -> Done {
    let site = Site::new(&[Ingress::new("web").host("web.test").prefix("/", "web")])?;
    let agent = site.start()?;
    assert_eq!(agent.get("http://web.test/")?.served_by(), "web");
    for other in ["web.test.evil", "a.web.test", "eb.test", "xweb.test", "test"] {
        let answer = agent.get(&format!("http://{other}/"))?;
        assert_eq!((answer.status, answer.reason()), (404, "host_unknown"), "{other}");
    }
    Ok(())
}

/// The table in the Kubernetes documentation, "Hostname wildcards", and its neighbours.
#[test]
fn a_wildcard_host_stands_for_exactly_one_label() -> Done {
    let site = Site::new(&[Ingress::new("web").host("*.foo.test").prefix("/", "web")])?;
    let agent = site.start()?;
    assert_eq!(agent.get("http://bar.foo.test/")?.served_by(), "web");
    for other in ["baz.bar.foo.test", "foo.test", "barfoo.test"] {
        assert_eq!(
            agent.get(&format!("http://{other}/"))?.reason(),
            "host_unknown",
            "{other}"
        );
    }
    Ok(())
}

#[test]
fn an_exact_host_goes_before_a_wildcard_and_a_wildcard_before_none() -> Done {
    let site = Site::new(&[
        Ingress::new("none").prefix("/", "none"),
        Ingress::new("wildcard")
            .host("*.foo.test")
            .prefix("/", "wildcard"),
        Ingress::new("exact").host("bar.foo.test").prefix("/", "exact"),
    ])?;
    let agent = site.start()?;
    assert_eq!(agent.get("http://bar.foo.test/")?.served_by(), "exact");
    assert_eq!(agent.get("http://baz.foo.test/")?.served_by(), "wildcard");
    assert_eq!(agent.get("http://else.test/")?.served_by(), "none");
    assert_eq!(agent.get("http://127.0.0.1/")?.served_by(), "none");
    Ok(())
}

#[test]
fn case_and_port_and_a_trailing_dot_in_host_are_ignored() -> Done {
    let site = Site::new(&[Ingress::new("web").host("web.test").prefix("/", "web")])?;
    let agent = site.start()?;
    for host in [
        "WEB.test",
        "web.test:80",
        "Web.Test:8080",
        "web.test.",
        "web.test.:443",
    ] {
        let answer = agent.get(&format!("http://{host}/"))?;
        assert_eq!(answer.served_by(), "web", "{host}");
        assert_eq!(
            answer.seen()["host"],
            host,
            "the backend sees Host as the client wrote it"
        );
        let h2 = agent.ask(Request::get(&format!("http://{host}/"))?.h2())?;
        assert_eq!(h2.served_by(), "web", ":authority {host}");
    }
    Ok(())
}

#[test]
fn a_request_whose_exact_host_is_known_does_not_fall_to_the_wildcard_host() -> Done {
    let site = Site::new(&[
        Ingress::new("exact")
            .host("bar.foo.test")
            .prefix("/known", "exact"),
        Ingress::new("wildcard")
            .host("*.foo.test")
            .prefix("/", "wildcard"),
        Ingress::new("none").prefix("/", "none"),
    ])?;
    let agent = site.start()?;
    assert_eq!(agent.get("http://bar.foo.test/known")?.served_by(), "exact");
    let answer = agent.get("http://bar.foo.test/other")?;
    assert_eq!((answer.status, answer.reason()), (404, "path_unmatched"));
    Ok(())
}

#[test]
fn a_404_says_in_its_header_and_metric_whether_host_or_path_is_unknown() -> Done {
    let site = Site::new(&[Ingress::new("web").host("web.test").prefix("/app", "web")])?;
    let agent = site.start()?;
    for (url, reason) in [
        ("http://web.test/", "path_unmatched"),
        ("http://other.test/app", "host_unknown"),
    ] {
        let answer = agent.get(url)?;
        assert_eq!(
            (answer.status, answer.reason(), answer.text().trim()),
            (404, reason, reason)
        );
        let label = format!("reason=\"{reason}\"");
        assert_eq!(agent.metric("ingress_agent_answers_total", &[&label])?, 1.0);
    }
    Ok(())
}
