//! What each annotation does to traffic.

mod access;
mod canary;
mod limits;
mod protocols;
mod redirects;
mod sticky;

use ingress_tests::{Answer, Ingress, Request, Site, TestAgent};

use crate::Done;

/// An Ingress `web` for all of `web.test` with these annotations.
fn annotated(annotations: &[(&str, &str)]) -> Ingress {
    let ingress = annotations
        .iter()
        .fold(Ingress::new("web"), |ingress, (name, value)| {
            ingress.annotation(name, value)
        });
    ingress.host("web.test").prefix("/", "web")
}

/// The same, served.
fn serving(annotations: &[(&str, &str)]) -> anyhow::Result<(Site, TestAgent)> {
    let site = Site::new(&[annotated(annotations)])?;
    let agent = site.start()?;
    Ok((site, agent))
}

/// Status, reason and where it leads.
fn led(answer: &Answer) -> (u16, &str, &str) {
    (answer.status, answer.reason(), answer.header("location"))
}

#[test]
fn both_prefixes_are_understood_and_ours_wins() -> Done {
    let (_site, agent) = serving(&[
        ("ingress-agent.io/upstream-vhost", "ours.test"),
        ("upstream-vhost", "theirs.test"),
    ])?;
    assert_eq!(agent.get("http://web.test/")?.seen()["host"], "ours.test");
    Ok(())
}

#[test]
fn an_unknown_or_malformed_annotation_is_told_and_changes_nothing_else() -> Done {
    let (_site, agent) = serving(&[
        ("proxy-body-size", "lots"),
        ("enable-corss", "true"),
        ("auth-url", "http://auth.test"),
        ("upstream-vhost", "inner.test"),
    ])?;
    let answer = agent.ask(Request::post("http://web.test/", "a".repeat(1000))?)?;
    assert_eq!(
        (answer.served_by().as_str(), answer.seen()["host"].as_str()),
        ("web", Some("inner.test"))
    );
    let all = agent.diagnostics()?;
    let about = |word: &str| {
        all.iter()
            .find(|(o, _, m)| o == "Ingress default/web" && m.contains(word))
    };
    let (_, _, size) = about("proxy-body-size").expect("the malformed one");
    assert!(size.contains("lots"), "{size}");
    let (_, _, unknown) = about("enable-corss").expect("the unknown one");
    assert!(
        unknown.contains("enable-cors"),
        "it suggests what may be meant: {unknown}"
    );
    let (_, _, unsupported) = about("auth-url").expect("the one that is not supported");
    assert!(unsupported.contains("NOT authenticated"), "{unsupported}");
    assert_eq!(all.len(), 3, "{all:#?}");
    Ok(())
}

#[test]
fn upstream_vhost_and_x_forwarded_prefix_reach_the_backend() -> Done {
    let (_site, agent) = serving(&[("upstream-vhost", "inner.test"), ("x-forwarded-prefix", "/shop")])?;
    let seen = agent.get("http://web.test/")?.seen();
    assert_eq!(seen["host"], "inner.test");
    assert_eq!(seen["headers"]["x-forwarded-prefix"][0], "/shop");
    assert_eq!(seen["headers"]["x-forwarded-host"][0], "web.test");
    Ok(())
}

#[test]
fn custom_headers_of_a_config_map_are_on_every_response() -> Done {
    let site = Site::new(&[annotated(&[("custom-headers", "default/headers")])])?;
    site.manifests.write(
        "headers.yaml",
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: headers}\ndata: {X-Frame-Options: DENY, X-Team: shop}\n",
    )?;
    let agent = site.start()?;
    let answer = agent.get("http://web.test/")?;
    assert_eq!(
        (answer.header("x-frame-options"), answer.header("x-team")),
        ("DENY", "shop")
    );
    site.manifests.remove("headers.yaml")?;
    agent.get_until("http://web.test/", |answer| answer.header("x-team").is_empty())?;
    assert!(!agent.diagnostics()?.is_empty(), "the missing ConfigMap is told");
    Ok(())
}
