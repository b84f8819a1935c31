use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ingress_core::diagnostic::Severity;
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384};

use super::super::{Memory, Options, Translation, translate};
use super::{BASE, NOW, assert_clean, assert_told, ingress, one_rule, options, told, world};
use crate::objects::Objects;

const DAY: i64 = 86_400;

// Made by OpenSSL for these tests alone, as rcgen writes PKCS #8 only; the EC one has no alternative name.
const RSA_CERTIFICATE: &str = include_str!("fixtures/rsa.crt");
const RSA_PKCS1: &str = include_str!("fixtures/rsa-pkcs1.key");
const EC_CERTIFICATE: &str = include_str!("fixtures/ec.crt");
const EC_SEC1: &str = include_str!("fixtures/ec-sec1.key");

struct Pair {
    certificate: String,
    key: KeyPair,
}

fn pair(names: &[&str]) -> Pair {
    pair_valid(names, -DAY, 90 * DAY)
}

/// Valid between these seconds from now.
fn pair_valid(names: &[&str], from: i64, until: i64) -> Pair {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let names: Vec<_> = names.iter().map(ToString::to_string).collect();
    let mut params = CertificateParams::new(names).unwrap();
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let at = |seconds: i64| epoch + std::time::Duration::from_secs(u64::try_from(NOW + seconds).unwrap());
    params.not_before = at(from);
    params.not_after = at(until);
    let certificate = params.self_signed(&key).unwrap().pem();
    Pair { certificate, key }
}

fn secret(name: &str, certificate: &str, key: &str) -> String {
    format!(
        "kind: Secret\nmetadata: {{name: {name}}}\ntype: kubernetes.io/tls\ndata: {{tls.crt: {}, tls.key: {}}}\n---\n",
        STANDARD.encode(certificate),
        STANDARD.encode(key)
    )
}

fn tls(hosts: &str, secret: &str) -> String {
    format!(
        "{}\n  tls: [{{{hosts}secretName: {secret}}}]",
        one_rule("Prefix", "/")
    )
}

fn objects(secrets: &str, spec: &str) -> Objects {
    world(&format!("{BASE}{}{secrets}", ingress("{}", spec)))
}

fn run(secrets: &str, spec: &str) -> Translation {
    translate(&objects(secrets, spec), &options(), &mut Memory::default())
}

fn bound(translation: &Translation) -> Vec<String> {
    translation
        .resources
        .certificates
        .iter()
        .map(|binding| binding.host.to_string())
        .collect()
}

#[test]
fn a_secret_binds_its_certificate_to_the_hosts_listed() {
    let pair = pair(&["shop.example", "*.shop.example"]);
    let secrets = secret("cert", &pair.certificate, &pair.key.serialize_pem());
    let translation = run(
        &secrets,
        &tls(
            "hosts: [Shop.example, '*.shop.example', a.shop.example], ",
            "cert",
        ),
    );
    assert_clean(&translation);
    assert_eq!(
        bound(&translation),
        ["shop.example", "*.shop.example", "a.shop.example"]
    );
    let certificate = translation.certificates.values().next().unwrap();
    assert_eq!(certificate.names, ["shop.example", "*.shop.example"]);
    assert_eq!(certificate.not_after, NOW + 90 * DAY);
    assert_eq!(
        translation.resources.certificates[0].certificate.0.to_string(),
        "Secret shop/cert"
    );
    assert_eq!(translation.resources.certificates[0].field, "spec.tls[0]");
}

#[test]
fn without_hosts_the_certificate_serves_the_hosts_of_the_rules_that_it_covers() {
    let good = pair(&["shop.example"]);
    let translation = run(
        &secret("cert", &good.certificate, &good.key.serialize_pem()),
        &tls("", "cert"),
    );
    assert_eq!(bound(&translation), ["shop.example"]);
    assert_clean(&translation);

    let other = pair(&["other.example"]);
    let translation = run(
        &secret("cert", &other.certificate, &other.key.serialize_pem()),
        &tls("", "cert"),
    );
    assert!(bound(&translation).is_empty());
    assert_told(
        &translation,
        Severity::Warning,
        "CertificateHostMismatch",
        &["other.example"],
    );

    let backend = "  defaultBackend: {service: {name: web, port: {number: 80}}}\n  tls: [{secretName: cert}]";
    let translation = run(
        &secret("cert", &other.certificate, &other.key.serialize_pem()),
        backend,
    );
    assert_eq!(bound(&translation), ["other.example"]);
}

#[test]
fn a_host_that_the_certificate_does_not_name_is_told_and_bound_all_the_same() {
    let pair = pair(&["other.example"]);
    let secrets = secret("cert", &pair.certificate, &pair.key.serialize_pem());
    let translation = run(&secrets, &tls("hosts: [shop.example, bad_host, ''], ", "cert"));
    assert_eq!(bound(&translation), ["shop.example"]);
    assert_told(
        &translation,
        Severity::Warning,
        "CertificateHostMismatch",
        &["spec.tls[0].hosts[0]", "(other.example)"],
    );
    assert_eq!(
        translation
            .diagnostics
            .iter()
            .filter(|d| d.reason == "InvalidHost")
            .count(),
        2
    );
}

#[test]
fn a_missing_secret_is_told_and_the_routes_stay() {
    let translation = run("", &tls("hosts: [shop.example], ", "gone"));
    assert_eq!(translation.resources.routes.len(), 1);
    assert!(bound(&translation).is_empty());
    assert_told(
        &translation,
        Severity::Error,
        "SecretNotFound",
        &["spec.tls[0].secretName", "\"shop/gone\" does not exist"],
    );
}

#[test]
fn keys_may_be_pkcs8_pkcs1_and_sec1() {
    for (name, certificate, key) in [
        ("PKCS #1", RSA_CERTIFICATE, RSA_PKCS1),
        ("SEC 1", EC_CERTIFICATE, EC_SEC1),
    ] {
        let translation = run(
            &secret("cert", certificate, key),
            &tls("hosts: [shop.example], ", "cert"),
        );
        assert_eq!(
            translation.certificates.len(),
            1,
            "{name}: {:?}",
            translation.diagnostics
        );
    }
    let pkcs8 = pair(&["shop.example"]);
    assert!(pkcs8.key.serialize_pem().contains("BEGIN PRIVATE KEY"));
}

#[test]
fn a_certificate_with_a_common_name_alone_is_used_and_told() {
    let translation = run(&secret("cert", EC_CERTIFICATE, EC_SEC1), &tls("", "cert"));
    assert_eq!(bound(&translation), ["shop.example"]);
    assert_told(
        &translation,
        Severity::Warning,
        "CertificateWithoutNames",
        &["Secret shop/cert", "common name"],
    );
}

#[test]
fn what_is_wrong_with_a_secret_is_told_on_it_and_on_who_names_it() {
    let good = pair(&["shop.example"]);
    let key = good.key.serialize_pem();
    let stranger = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384)
        .unwrap()
        .serialize_pem();
    let issuer = pair(&["issuer.example"]).certificate;
    let encrypted = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
    let rubbish = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    for (certificate, key, words) in [
        (
            good.certificate.as_str(),
            stranger.as_str(),
            "tls.key does not fit the certificate in tls.crt",
        ),
        (
            &format!("{issuer}{}", good.certificate),
            &key,
            "tls.key fits certificate 2 in tls.crt, not the first",
        ),
        ("rubbish", &key, "tls.crt holds no PEM certificate"),
        (
            "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n",
            &key,
            "tls.crt is not PEM",
        ),
        (
            "-----BEGIN CERTIFICATE-----\nAAAA\n",
            &key,
            "tls.crt is not PEM: a section has no end line",
        ),
        (rubbish, &key, "the first certificate in tls.crt is not usable"),
        ("", &key, "tls.crt is missing or empty"),
        (&good.certificate, "rubbish", "tls.key holds no PEM private key"),
        (&good.certificate, encrypted, "tls.key is encrypted"),
        (&good.certificate.repeat(17), &key, "more than 16 certificates"),
    ] {
        let translation = run(
            &secret("cert", certificate, key),
            &tls("hosts: [shop.example], ", "cert"),
        );
        assert!(
            translation.certificates.is_empty() && bound(&translation).is_empty(),
            "{words}"
        );
        let told: Vec<_> = translation
            .diagnostics
            .iter()
            .filter(|d| d.reason == "SecretUnusable")
            .collect();
        let objects: Vec<_> = told.iter().map(|d| d.object.to_string()).collect();
        assert_eq!(objects, ["Ingress shop/web", "Secret shop/cert"], "{words}");
        assert!(
            told.iter().all(|d| d.message.contains(words)),
            "{words}: {told:?}"
        );
    }
}

#[test]
fn expired_and_early_certificates_are_served_and_told() {
    for (from, until, reason, words) in [
        (-20 * DAY, -10 * DAY, "CertificateExpired", "expired 10 days ago"),
        (
            10 * DAY,
            90 * DAY,
            "CertificateNotYetValid",
            "valid only in 10 days",
        ),
        (-10 * DAY, 3 * DAY, "CertificateExpiresSoon", "expires in 3 days"),
    ] {
        let pair = pair_valid(&["shop.example"], from, until);
        let secrets = secret("cert", &pair.certificate, &pair.key.serialize_pem());
        let translation = run(&secrets, &tls("hosts: [shop.example], ", "cert"));
        assert_eq!(bound(&translation), ["shop.example"]);
        assert_eq!(translation.diagnostics.len(), 1);
        let diagnostic = told(&translation, reason).unwrap();
        assert!(
            diagnostic.to_string().contains("Secret shop/cert data[tls.crt]"),
            "{diagnostic}"
        );
        assert!(diagnostic.message.contains(words), "{diagnostic}");
    }
}

#[test]
fn a_secret_that_stops_parsing_keeps_its_last_good_certificate_and_says_so() {
    let pair = pair(&["shop.example"]);
    let good = secret("cert", &pair.certificate, &pair.key.serialize_pem());
    let spec = tls("hosts: [shop.example], ", "cert");
    let mut memory = Memory::default();
    let before = translate(&objects(&good, &spec), &options(), &mut memory);
    let broken = objects(&secret("cert", "rubbish", "rubbish"), &spec);
    for _ in 0..2 {
        let after = translate(&broken, &options(), &mut memory);
        assert_eq!(bound(&after), ["shop.example"]);
        let (old, new) = (
            before.certificates.values().next(),
            after.certificates.values().next(),
        );
        assert!(std::sync::Arc::ptr_eq(old.unwrap(), new.unwrap()));
        assert_told(
            &after,
            Severity::Error,
            "SecretUnusable",
            &["Secret shop/cert", "stays in use"],
        );
        assert_eq!(after.diagnostics.len(), 1);
    }
    // Without the memory, as after a restart, there is nothing to keep.
    assert!(
        translate(&broken, &options(), &mut Memory::default())
            .certificates
            .is_empty()
    );
    // A Secret that is deleted is gone.
    let deleted = translate(&objects("", &spec), &options(), &mut memory);
    assert!(deleted.certificates.is_empty());
}

#[test]
fn a_certificate_that_did_not_change_is_not_parsed_again() {
    let pair = pair(&["shop.example"]);
    let good = secret("cert", &pair.certificate, &pair.key.serialize_pem());
    let spec = tls("hosts: [shop.example], ", "cert");
    let mut memory = Memory::default();
    let first = translate(&objects(&good, &spec), &options(), &mut memory);
    let second = translate(&objects(&good, &spec), &options(), &mut memory);
    let (old, new) = (
        first.certificates.values().next(),
        second.certificates.values().next(),
    );
    assert!(std::sync::Arc::ptr_eq(old.unwrap(), new.unwrap()));
    assert!(
        !format!("{memory:?}").contains("tls.key"),
        "keys stay out of logs"
    );
}

#[test]
fn secrets_that_nobody_names_are_left_alone() {
    let translation = run(&secret("cert", "rubbish", "rubbish"), &one_rule("Prefix", "/"));
    assert_clean(&translation);
}

#[test]
fn the_default_certificate_serves_tls_entries_without_a_secret() {
    let pair = pair(&["shop.example"]);
    let secrets = secret("cert", &pair.certificate, &pair.key.serialize_pem());
    let spec = format!("{}\n  tls: [{{hosts: [shop.example]}}]", one_rule("Prefix", "/"));
    assert_told(
        &run(&secrets, &spec),
        Severity::Warning,
        "NoCertificate",
        &["spec.tls[0].secretName"],
    );

    let with_default = Options {
        default_certificate: Some(("shop".into(), "cert".into())),
        ..options()
    };
    let translation = translate(&objects(&secrets, &spec), &with_default, &mut Memory::default());
    assert_clean(&translation);
    assert_eq!(bound(&translation), ["shop.example"]);
    assert_eq!(
        translation.default_certificate.as_ref().unwrap().0.to_string(),
        "Secret shop/cert"
    );

    let translation = translate(&objects("", &spec), &with_default, &mut Memory::default());
    assert_eq!(translation.default_certificate, None);
    let told: Vec<_> = translation
        .diagnostics
        .iter()
        .filter(|d| d.reason == "SecretNotFound")
        .collect();
    assert_eq!(told.len(), 2, "on the Ingress and on the Secret: {told:?}");
}
