//! TLS towards clients: which certificate, which redirect, which version, which connection.

use http::Method;
use ingress_tests::certs::Leaf;
use ingress_tests::{Certs, Ingress, Request, Site, TlsClient};

use crate::Done;

/// One Ingress `web` for these hosts with a Secret `tls` that holds this certificate.
fn site(hosts: &[&str], leaf: &Leaf) -> anyhow::Result<Site> {
    let ingress = Ingress::new("web").tls(hosts, "tls");
    let ingress = hosts
        .iter()
        .fold(ingress, |i, host| i.host(host).prefix("/", "web"));
    let site = Site::new(&[ingress])?;
    site.manifests.tls_secret("tls", leaf)?;
    Ok(site)
}

#[test]
fn several_secrets_serve_one_listener_by_exact_and_wildcard_name() -> Done {
    let certs = Certs::new()?;
    let site = Site::new(&[
        Ingress::new("a")
            .tls(&["a.test"], "a")
            .host("a.test")
            .prefix("/", "web"),
        Ingress::new("wild")
            .tls(&["*.wild.test"], "wild")
            .host("*.wild.test")
            .prefix("/", "web"),
        Ingress::new("exact")
            .tls(&["one.wild.test"], "exact")
            .host("one.wild.test")
            .prefix("/", "web"),
    ])?;
    site.manifests.tls_secret("a", &certs.leaf(&["a.test"])?)?;
    site.manifests
        .tls_secret("wild", &certs.leaf(&["*.wild.test"])?)?;
    site.manifests
        .tls_secret("exact", &certs.leaf(&["one.wild.test"])?)?;
    let agent = site.start()?;
    for (host, name) in [
        ("a.test", "a.test"),
        ("two.wild.test", "*.wild.test"),
        ("one.wild.test", "one.wild.test"),
        ("A.Test", "a.test"),
    ] {
        let request = Request::get(&format!("https://{host}/"))?.trusting(&certs.authority_pem());
        let answer = agent.ask(request)?;
        assert_eq!(
            (answer.backend(), &answer.certificate_names[0][..]),
            ("web", name),
            "{host}"
        );
    }
    Ok(())
}

#[test]
fn a_name_without_a_certificate_gets_the_self_signed_one_and_an_answer_that_explains() -> Done {
    let site = site(&["a.test"], &Certs::new()?.leaf(&["a.test"])?)?;
    let agent = site.start()?;
    let answer = agent.get("https://unknown.test/")?;
    assert_eq!(answer.reason(), "host_unknown");
    assert_eq!(answer.certificate_names, ["ingress-agent.invalid"]);
    Ok(())
}

#[test]
fn the_configured_default_certificate_serves_names_that_no_secret_has() -> Done {
    let certs = Certs::new()?;
    let site = site(&["a.test"], &certs.leaf(&["a.test"])?)?;
    site.manifests
        .ingress(&Ingress::new("plain").host("plain.test").prefix("/", "web"))?;
    site.manifests
        .tls_secret("ops/fallback", &certs.leaf(&["fallback.test"])?)?;
    let agent = site.start_with(&["--default-certificate", "ops/fallback"])?;
    let answer = agent.get("https://plain.test/")?;
    assert_eq!(
        (answer.backend(), &answer.certificate_names[0][..]),
        ("web", "fallback.test")
    );
    assert_eq!(agent.get("https://a.test/")?.certificate_names, ["a.test"]);
    Ok(())
}

#[test]
fn hosts_with_a_usable_certificate_redirect_to_https_with_308_whatever_the_method() -> Done {
    let site = site(&["a.test"], &Certs::new()?.leaf(&["a.test"])?)?;
    site.manifests
        .ingress(&Ingress::new("plain").host("plain.test").prefix("/", "web"))?;
    let agent = site.start_with(&["--https-port-in-redirects", "443"])?;
    for method in [
        Method::GET,
        Method::POST,
        Method::PUT,
        Method::DELETE,
        Method::HEAD,
    ] {
        let asked = Request::get("http://a.test:8080/x%20y?q=1&r=2")?.method(method.clone());
        let answer = agent.ask(asked)?;
        assert_eq!(
            (answer.status, answer.reason()),
            (308, "redirect_https"),
            "{method}"
        );
        assert_eq!(
            answer.header("location"),
            "https://a.test/x%20y?q=1&r=2",
            "{method}"
        );
    }
    assert_eq!(
        agent.get("http://plain.test/")?.backend(),
        "web",
        "no certificate, no redirect"
    );
    Ok(())
}

#[test]
fn redirects_name_the_port_where_https_is_served_when_that_is_not_443() -> Done {
    let site = site(&["a.test"], &Certs::new()?.leaf(&["a.test"])?)?;
    let agent = site.start()?;
    let location = format!("https://a.test:{}/x", agent.https.port());
    assert_eq!(agent.get("http://a.test/x")?.header("location"), location);
    Ok(())
}

#[test]
fn acme_challenge_paths_are_never_redirected() -> Done {
    let site = site(&["a.test"], &Certs::new()?.leaf(&["a.test"])?)?;
    let solver = Ingress::new("solver")
        .host("a.test")
        .exact("/.well-known/acme-challenge/token", "solver");
    let mut site = site;
    site.service("solver")?;
    site.manifests.ingress(&solver)?;
    let agent = site.start()?;
    assert_eq!(
        agent
            .get("http://a.test/.well-known/acme-challenge/token")?
            .backend(),
        "solver"
    );
    assert_eq!(
        agent
            .get("http://a.test/.well-known/acme-challenge/other")?
            .backend(),
        "web"
    );
    assert_eq!(agent.get("http://a.test/.well-known/acme-challenge")?.status, 308);
    assert_eq!(
        agent
            .get("http://a.test/.well-known/acme-challenge/../../admin")?
            .status,
        308
    );
    Ok(())
}

#[test]
fn ssl_redirect_false_serves_both_and_force_ssl_redirect_needs_no_certificate() -> Done {
    let certs = Certs::new()?;
    let rule = |ingress: Ingress, host: &str| ingress.tls(&[host], "tls").host(host).prefix("/", "web");
    let site = Site::new(&[
        rule(
            Ingress::new("both").annotation("ssl-redirect", "false"),
            "off.test",
        ),
        Ingress::new("force")
            .annotation("force-ssl-redirect", "true")
            .host("force.test")
            .prefix("/", "web"),
    ])?;
    site.manifests.tls_secret("tls", &certs.leaf(&["off.test"])?)?;
    let agent = site.start()?;
    assert_eq!(agent.get("http://off.test/")?.served_by(), "web");
    assert_eq!(agent.get("https://off.test/")?.served_by(), "web");
    assert_eq!(agent.get("http://force.test/")?.status, 308);
    Ok(())
}

#[test]
fn tls_1_2_and_1_3_and_both_protocols_of_alpn_are_spoken() -> Done {
    let certs = Certs::new()?;
    let site = site(&["a.test"], &certs.leaf(&["a.test"])?)?;
    let agent = site.start()?;
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let client = TlsClient::of_version(&certs.authority_pem(), version)?;
        let answer = agent.ask(Request::get("https://a.test/")?.tls(&client))?;
        assert_eq!(answer.served_by(), "web");
        assert_eq!(answer.tls.map(|tls| tls.version), Some(version.version));
    }
    let request = Request::get("https://a.test/")?.trusting(&certs.authority_pem());
    let answer = agent.ask(request.h2())?;
    assert_eq!((answer.version, answer.backend()), (http::Version::HTTP_2, "web"));
    Ok(())
}

#[test]
fn one_name_may_have_an_ecdsa_and_an_rsa_certificate_and_clients_get_what_they_can_check() -> Done {
    let certs = Certs::new()?;
    let rule = |name: &str| Ingress::new(name).tls(&["a.test"], name).host("a.test");
    let site = Site::new(&[
        rule("ecdsa").prefix("/", "web"),
        rule("rsa").prefix("/rsa", "web"),
    ])?;
    site.manifests.tls_secret("ecdsa", &certs.leaf(&["a.test"])?)?;
    site.manifests.tls_secret("rsa", &certs.rsa_leaf(&["a.test"])?)?;
    let agent = site.start()?;
    // The authority's own signature is ECDSA, so the old client looks at the key alone.
    let old = TlsClient::of_rsa_alone("")?;
    for (client, key) in [(TlsClient::trusting("")?, "ECDSA"), (old, "RSA")] {
        let answer = agent.ask(Request::get("https://a.test/")?.tls(&client))?;
        assert_eq!(answer.tls.map(|tls| tls.key).as_deref(), Some(key));
    }
    Ok(())
}

#[test]
fn sessions_are_resumed_on_every_worker() -> Done {
    let certs = Certs::new()?;
    let site = site(&["a.test"], &certs.leaf(&["a.test"])?)?;
    let agent = site.start()?;
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let client = TlsClient::of_version(&certs.authority_pem(), version)?;
        let resumed = || -> anyhow::Result<bool> {
            let answer = agent.ask(Request::get("https://a.test/")?.tls(&client))?;
            Ok(answer.tls.is_some_and(|tls| tls.resumed))
        };
        assert!(!resumed()?, "the first session is a new one");
        // The kernel spreads connections over the two workers by source port.
        for connection in 0..16 {
            assert!(resumed()?, "{version:?}, connection {connection}");
        }
    }
    Ok(())
}

#[test]
fn keys_are_agreed_with_x25519mlkem768_and_without_it_with_x25519() -> Done {
    use rustls::NamedGroup;
    let certs = Certs::new()?;
    let site = site(&["a.test"], &certs.leaf(&["a.test"])?)?;
    let agent = site.start()?;
    for offered in [NamedGroup::X25519MLKEM768, NamedGroup::X25519] {
        let client = TlsClient::of_group(&certs.authority_pem(), offered)?;
        let answer = agent.ask(Request::get("https://a.test/")?.tls(&client))?;
        assert_eq!(answer.served_by(), "web");
        assert_eq!(answer.tls.and_then(|tls| tls.group), Some(offered));
    }
    // A client that can do both.
    let client = TlsClient::trusting(&certs.authority_pem())?;
    let answer = agent.ask(Request::get("https://a.test/")?.tls(&client))?;
    let group = answer.tls.and_then(|tls| tls.group);
    assert_eq!(group, Some(NamedGroup::X25519MLKEM768));
    Ok(())
}

#[test]
fn a_connection_opened_for_one_name_does_not_serve_a_host_outside_its_certificate() -> Done {
    let certs = Certs::new()?;
    let site = Site::new(&[
        Ingress::new("a")
            .tls(&["a.test", "b.test"], "ab")
            .host("a.test")
            .prefix("/", "web")
            .host("b.test")
            .prefix("/", "web"),
        Ingress::new("c")
            .tls(&["c.test"], "c")
            .host("c.test")
            .prefix("/", "web"),
    ])?;
    site.manifests
        .tls_secret("ab", &certs.leaf(&["a.test", "b.test"])?)?;
    site.manifests.tls_secret("c", &certs.leaf(&["c.test"])?)?;
    let agent = site.start()?;
    let by_name = |url: &str| agent.ask(Request::get(url)?.server_name("a.test").h2());
    assert_eq!(by_name("https://a.test/")?.served_by(), "web");
    assert_eq!(
        by_name("https://b.test/")?.backend(),
        "web",
        "the same certificate covers it"
    );
    let answer = by_name("https://c.test/")?;
    assert_eq!((answer.status, answer.reason()), (421, "misdirected"));
    Ok(())
}

#[test]
fn a_secret_of_another_namespace_is_not_used() -> Done {
    let certs = Certs::new()?;
    let site = Site::new(&[Ingress::new("shop/web")
        .tls(&["a.test"], "tls")
        .host("a.test")
        .prefix("/", "web")])?;
    site.manifests
        .tls_secret("other/tls", &certs.leaf(&["a.test"])?)?;
    let agent = site.start()?;
    agent.diagnostic("Ingress shop/web", "SecretNotFound")?;
    assert_eq!(
        agent.get("https://a.test/")?.certificate_names,
        ["ingress-agent.invalid"]
    );
    assert_eq!(
        agent.get("http://a.test/")?.backend(),
        "web",
        "no usable certificate, no redirect"
    );
    Ok(())
}

#[test]
fn a_client_that_names_no_server_is_served_by_the_default_certificate() -> Done {
    let site = site(&["a.test"], &Certs::new()?.leaf(&["a.test"])?)?;
    let agent = site.start()?;
    // An address is no server name (RFC 6066, 3), so the client sends none.
    let answer = agent.ask(Request::get("https://a.test/")?.server_name("127.0.0.1"))?;
    assert_eq!(answer.certificate_names, ["ingress-agent.invalid"]);
    assert_eq!(answer.served_by(), "web");
    Ok(())
}
