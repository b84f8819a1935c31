//! Certificates that change, expire, or were never any good.

use ingress_tests::certs::Leaf;
use ingress_tests::{Certs, Ingress, KeptConnection, Request, Site, TestAgent};

use crate::Done;

const SECRET: &str = "Secret default/tls";

fn site(leaf: &Leaf) -> anyhow::Result<Site> {
    let site = Site::new(&[Ingress::new("web")
        .tls(&["a.test"], "tls")
        .host("a.test")
        .prefix("/", "web")])?;
    site.manifests.tls_secret("tls", leaf)?;
    Ok(site)
}

fn shown(agent: &TestAgent) -> anyhow::Result<Vec<u8>> {
    let answer = agent.get("https://a.test/")?;
    assert_eq!(answer.served_by(), "web");
    Ok(answer.tls.map(|tls| tls.certificate).unwrap_or_default())
}

#[test]
fn a_rotated_certificate_is_shown_to_new_connections_and_closes_none() -> Done {
    let certs = Certs::new()?;
    let site = site(&certs.leaf(&["a.test"])?)?;
    let agent = site.start()?;
    let ask = || Request::get("https://a.test/").map(|r| r.trusting(&certs.authority_pem()));
    let mut http1 = KeptConnection::open(&ask()?, agent.https)?;
    let mut http2 = KeptConnection::open(&ask()?.h2(), agent.https)?;
    let before = shown(&agent)?;
    assert_eq!(http1.ask(ask()?)?.served_by(), "web");
    site.manifests.tls_secret("tls", &certs.leaf(&["a.test"])?)?;
    agent.wait_until("the new certificate is shown", |agent| {
        assert_eq!(http1_and_h2(&mut http1, &mut http2, &ask)?, ["web", "web"]);
        Ok(shown(agent)? != before)
    })?;
    assert_eq!(http1_and_h2(&mut http1, &mut http2, &ask)?, ["web", "web"]);
    Ok(())
}

fn http1_and_h2(
    http1: &mut KeptConnection,
    http2: &mut KeptConnection,
    ask: &impl Fn() -> anyhow::Result<Request>,
) -> anyhow::Result<[String; 2]> {
    let (one, two) = (http1.ask(ask()?)?, http2.ask(ask()?.h2())?);
    Ok([one.backend().to_owned(), two.backend().to_owned()])
}

/// Each of these takes the place of a good Secret: the good one stays in use, and the Secret is told why.
#[test]
fn a_certificate_that_stops_working_leaves_the_last_good_one_in_use() -> Done {
    let certs = Certs::new()?;
    let good = certs.leaf(&["a.test"])?;
    let site = site(&good)?;
    let agent = site.start()?;
    let before = shown(&agent)?;
    let rubbish = "-----BEGIN CERTIFICATE-----\n!!!\n-----END CERTIFICATE-----\n";
    let other_key = certs.leaf(&["a.test"])?.key;
    let bad = [
        ("does not fit", good.certificate.clone(), other_key),
        ("PEM", rubbish.to_owned(), good.key.clone()),
        ("PEM", good.certificate.clone(), "no key at all".to_owned()),
    ];
    for (why, certificate, key) in bad {
        site.manifests.tls_secret("tls", &Leaf { certificate, key })?;
        agent.wait_until(why, |agent| {
            let message = agent.diagnostic(SECRET, "SecretUnusable")?;
            Ok(message.contains(why) && message.contains("last certificate that worked stays in use"))
        })?;
        assert_eq!(shown(&agent)?, before, "{why}");
        assert_eq!(agent.get("http://a.test/")?.status, 308, "{why}");
        site.manifests.tls_secret("tls", &good)?;
        agent.wait_until("the good one is back", |agent| {
            Ok(agent.diagnostics()?.is_empty())
        })?;
    }
    Ok(())
}

#[test]
fn a_certificate_that_never_fitted_its_key_serves_nothing_and_is_told() -> Done {
    let certs = Certs::new()?;
    let (one, other) = (certs.leaf(&["a.test"])?, certs.leaf(&["a.test"])?);
    let site = site(&Leaf {
        key: other.key,
        ..one
    })?;
    let agent = site.start()?;
    agent.diagnostic(SECRET, "SecretUnusable")?;
    agent.diagnostic("Ingress default/web", "SecretUnusable")?;
    assert_eq!(
        agent.get("https://a.test/")?.certificate_names,
        ["ingress-agent.invalid"]
    );
    assert_eq!(agent.get("http://a.test/")?.served_by(), "web");
    Ok(())
}

#[test]
fn an_expired_certificate_is_told_and_measured() -> Done {
    let site = site(&Certs::new()?.expired_leaf(&["a.test"])?)?;
    let agent = site.start()?;
    let message = agent.diagnostic(SECRET, "CertificateExpired")?;
    assert!(
        message.contains("expired") && message.contains("days ago"),
        "{message}"
    );
    let ends = agent.metric(
        "ingress_agent_certificate_not_after_timestamp_seconds",
        &["secret=\"tls\""],
    )?;
    // The beginning of 2001.
    assert_eq!(ends, 978_307_200.0);
    assert_eq!(agent.get("https://a.test/")?.certificate_names, ["a.test"]);
    Ok(())
}

#[test]
fn a_certificate_for_other_names_is_told() -> Done {
    let site = site(&Certs::new()?.leaf(&["b.test"])?)?;
    let agent = site.start()?;
    let message = agent.diagnostic("Ingress default/web", "CertificateHostMismatch")?;
    assert!(
        message.contains("a.test") && message.contains("b.test"),
        "{message}"
    );
    Ok(())
}

#[test]
fn a_secret_that_comes_later_starts_https_and_one_that_goes_ends_the_redirect() -> Done {
    let certs = Certs::new()?;
    let site = site(&certs.leaf(&["a.test"])?)?;
    site.manifests.remove_tls_secret("tls")?;
    let agent = site.start()?;
    assert_eq!(agent.get("http://a.test/")?.served_by(), "web");
    agent.diagnostic("Ingress default/web", "SecretNotFound")?;
    site.manifests.tls_secret("tls", &certs.leaf(&["a.test"])?)?;
    agent.get_until("http://a.test/", |answer| answer.status == 308)?;
    assert_eq!(agent.get("https://a.test/")?.certificate_names, ["a.test"]);
    site.manifests.remove_tls_secret("tls")?;
    agent.get_until("http://a.test/", |answer| answer.backend() == "web")?;
    Ok(())
}

#[test]
fn no_page_of_the_admin_address_shows_a_private_key() -> Done {
    let leaf = Certs::new()?.leaf(&["a.test"])?;
    let site = site(&leaf)?;
    let agent = site.start()?;
    let key: String = leaf.key.lines().filter(|line| !line.starts_with('-')).collect();
    for page in ["/config", "/diagnostics", "/metrics", "/"] {
        let text = agent.admin(page)?.text();
        assert!(
            !text.contains("PRIVATE KEY") && !text.contains(&key[..40]),
            "{page}"
        );
    }
    assert!(
        agent.admin("/config")?.text().contains("\"Secret\""),
        "but the Secret is named"
    );
    Ok(())
}
