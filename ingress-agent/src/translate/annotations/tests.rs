use std::sync::Arc;
use std::time::Duration;

use ingress_core::name::{Kind, ObjectRef};
use ingress_core::resource::{Balance, CorsOrigin, TlsRedirect};
use k8s_openapi::api::core::v1::ConfigMap;

use super::*;

const OURS: &str = "ingress-agent.io/";
const NGINX: &str = "nginx.ingress.kubernetes.io/";

/// What annotations `(full key, value)` make, and what is said of them.
fn full(annotations: &[(String, String)]) -> (Settings, Vec<ingress_core::diagnostic::Diagnostic>) {
    let mut ingress = Ingress::default();
    ingress.metadata.annotations = Some(annotations.iter().cloned().collect());
    let mut objects = Objects::default();
    let map = ConfigMap {
        data: Some(BTreeMap::from([
            ("X-Frame-Options".into(), "DENY".into()),
            ("Content-Length".into(), "7".into()),
        ])),
        ..ConfigMap::default()
    };
    objects
        .config_maps
        .insert(Key::new("shop", "headers"), Arc::new(map));
    let mut notes = Notes::new(ObjectRef::new(Kind::Ingress, "shop", "web").into(), Some(3));
    let settings = read(&ingress, &objects, &mut notes);
    let mut told = Vec::new();
    notes.finish(&mut told);
    (settings, told)
}

fn with(prefix: &str, annotations: &[(&str, &str)]) -> (Settings, Vec<ingress_core::diagnostic::Diagnostic>) {
    let annotations = annotations
        .iter()
        .map(|(name, value)| (format!("{prefix}{name}"), value.to_string()));
    full(&annotations.collect::<Vec<_>>())
}

fn settings(name: &str, value: &str) -> Settings {
    let (settings, told) = with(OURS, &[(name, value)]);
    assert_eq!(told, [], "{name}: {value}");
    settings
}

/// What the issue promises.
const PROMISED: &str = "ssl-redirect force-ssl-redirect permanent-redirect permanent-redirect-code temporal-redirect
temporal-redirect-code rewrite-target use-regex app-root proxy-body-size proxy-connect-timeout proxy-read-timeout
proxy-send-timeout backend-protocol canary canary-weight canary-weight-total canary-by-header canary-by-header-value
canary-by-header-pattern canary-by-cookie affinity affinity-mode session-cookie-name session-cookie-path
session-cookie-domain session-cookie-samesite session-cookie-secure session-cookie-max-age session-cookie-expires
session-cookie-change-on-failure enable-cors cors-allow-origin cors-allow-methods cors-allow-headers
cors-allow-credentials cors-expose-headers cors-max-age whitelist-source-range allowlist-source-range
denylist-source-range upstream-vhost custom-headers x-forwarded-prefix upstream-hash-by load-balance
proxy-next-upstream-tries enable-access-log server-alias from-to-www-redirect";

#[test]
fn the_table_has_every_annotation_that_is_promised_and_none_twice() {
    let missing: Vec<_> = PROMISED
        .split_whitespace()
        .filter(|name| table::find(name).is_none())
        .collect();
    assert!(missing.is_empty(), "{missing:?}");
    let mut names: Vec<_> = table::rows().map(|row| row.name).collect();
    let count = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), count);
    let both: Vec<_> = names
        .iter()
        .filter(|name| table::find_unsupported(name).is_some())
        .collect();
    assert!(both.is_empty(), "supported and not: {both:?}");
}

#[test]
fn every_annotation_of_the_table_has_an_effect_under_both_prefixes() {
    for row in table::rows().filter(|row| row.name != "affinity-mode") {
        let (without, told) = with(OURS, row.needs);
        // A canary alone is told that nothing leads to it.
        assert!(
            told.iter().all(|d| d.reason == "CanaryUnreachable"),
            "{}: {told:?}",
            row.name
        );
        let annotations: Vec<_> = row
            .needs
            .iter()
            .copied()
            .chain([(row.name, row.example)])
            .collect();
        for prefix in [OURS, NGINX] {
            let (with, told) = with(prefix, &annotations);
            assert_ne!(with, without, "{} has an effect", row.name);
            let bad = told
                .iter()
                .find(|d| d.reason == "InvalidAnnotation" || d.reason == "UnknownAnnotation");
            assert_eq!(bad, None, "{}", row.name);
        }
    }
}

#[test]
fn a_malformed_value_is_told_and_changes_nothing() {
    let open_lists = ["allowlist-source-range", "whitelist-source-range"];
    for row in table::rows().filter(|row| !open_lists.contains(&row.name)) {
        let (before, _) = with(OURS, row.needs);
        let annotations: Vec<_> = row
            .needs
            .iter()
            .copied()
            .chain([(row.name, "\u{7f} (bad")])
            .collect();
        let (after, told) = with(OURS, &annotations);
        assert_eq!(after.policy, before.policy, "{}", row.name);
        assert_eq!(after, before, "{}", row.name);
        let told: Vec<_> = told.iter().filter(|d| d.reason == "InvalidAnnotation").collect();
        assert_eq!(told.len(), 1, "{}", row.name);
        assert_eq!(told[0].field, format!("metadata.annotations[{OURS}{}]", row.name));
        assert!(told[0].message.contains("expected "), "{}", told[0]);
        assert_eq!(told[0].generation, Some(3));
    }
}

#[test]
fn a_typo_in_an_allow_list_never_opens_it() {
    let (settings, told) = with(NGINX, &[("whitelist-source-range", "10.0.0.0/8, banana")]);
    assert_eq!(settings.policy.sources.allow, ["10.0.0.0/8".parse().unwrap()]);
    assert_eq!(told[0].severity, Severity::Error);
    assert!(told[0].message.contains("\"banana\" is none"), "{}", told[0]);

    let (settings, _) = with(NGINX, &[("whitelist-source-range", "banana")]);
    let deny: Vec<_> = settings
        .policy
        .sources
        .deny
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(deny, ["0.0.0.0/0", "::/0"]);
}

#[test]
fn our_own_prefix_wins_where_both_are_given() {
    let both = [
        (format!("{OURS}proxy-body-size"), "8m".to_owned()),
        (format!("{NGINX}proxy-body-size"), "1k".to_owned()),
    ];
    assert_eq!(full(&both).0.policy.body_limit, Some(8 << 20));
}

#[test]
fn an_unknown_annotation_gets_a_suggestion_and_an_unsupported_one_says_what_is_not_done() {
    let (settings, told) = with(NGINX, &[("proxy-bodysize", "8m"), ("frobnicate", "x")]);
    assert_eq!(settings, Settings::default());
    assert!(
        told.iter()
            .any(|d| d.message == "is not known; did you mean \"proxy-body-size\"?"),
        "{told:?}"
    );
    assert!(
        told.iter().any(|d| d.message == "is not known and has no effect"),
        "{told:?}"
    );

    for (name, severity) in [
        ("auth-url", Severity::Error),
        ("configuration-snippet", Severity::Error),
        ("modsecurity-snippet", Severity::Error),
        ("ssl-passthrough", Severity::Error),
        ("limit-rps", Severity::Error),
        ("service-upstream", Severity::Warning),
        ("proxy-buffering", Severity::Warning),
    ] {
        let (settings, told) = with(NGINX, &[(name, "x")]);
        assert_eq!(settings, Settings::default());
        assert_eq!(
            (told[0].reason, told[0].severity),
            ("UnsupportedAnnotation", severity),
            "{name}"
        );
        assert!(told[0].message.contains(name));
    }
}

#[test]
fn a_key_with_control_characters_is_escaped() {
    let (_, told) = with(OURS, &[("a\r\nb", "x")]);
    assert_eq!(told[0].field, "metadata.annotations[ingress-agent.io/a\\r\\nb]");
}

#[test]
fn annotations_of_others_are_not_ours_to_judge() {
    let (settings, told) = full(&[("example.com/use-regex".into(), "true".into())]);
    assert_eq!((settings, told), (Settings::default(), vec![]));
}

#[test]
fn sizes_are_nginxs() {
    for (text, limit) in [
        ("8m", Some(8 << 20)),
        ("1k", Some(1024)),
        ("1G", Some(1 << 30)),
        ("12", Some(12)),
        ("0", None),
    ] {
        assert_eq!(
            settings("proxy-body-size", text).policy.body_limit,
            limit,
            "{text}"
        );
    }
    for text in ["-1", "+1", "8mb", "m", "", "99999999999999999999g", "1.5m"] {
        assert_eq!(with(OURS, &[("proxy-body-size", text)]).1.len(), 1, "{text}");
    }
}

#[test]
fn timeouts_are_seconds_with_or_without_their_unit() {
    for (text, expected) in [("5", 5_000), ("5s", 5_000), ("250ms", 250), ("2m", 120_000)] {
        let timeouts = settings("proxy-read-timeout", text).policy.timeouts.clone();
        assert_eq!(timeouts.read, Duration::from_millis(expected), "{text}");
        assert_eq!(timeouts.send, Duration::from_secs(60));
    }
    for text in ["0", "s", "-5", "5 s", "5d", "99999999999999"] {
        assert_eq!(with(OURS, &[("proxy-read-timeout", text)]).1.len(), 1, "{text}");
    }
}

#[test]
fn the_way_to_https_can_be_switched_off_and_forced() {
    assert_eq!(
        settings("ssl-redirect", "false").policy.tls_redirect,
        TlsRedirect::Never
    );
    assert_eq!(
        settings("force-ssl-redirect", "true").policy.tls_redirect,
        TlsRedirect::Always
    );
    let (both, _) = with(OURS, &[("force-ssl-redirect", "true"), ("ssl-redirect", "false")]);
    assert_eq!(both.policy.tls_redirect, TlsRedirect::Always);
    assert_eq!(
        settings("ssl-redirect", "true").policy.tls_redirect,
        TlsRedirect::WithCertificate
    );
}

#[test]
fn redirects_have_their_own_status_and_the_temporal_one_wins() {
    let redirect = |annotations: &[(&str, &str)]| {
        let redirect = with(OURS, annotations).0.policy.redirect.clone().unwrap();
        (redirect.location, redirect.status)
    };
    assert_eq!(
        redirect(&[("permanent-redirect", "https://a")]),
        ("https://a".into(), 301)
    );
    assert_eq!(
        redirect(&[("temporal-redirect", "https://b")]),
        ("https://b".into(), 302)
    );
    let both = [
        ("permanent-redirect", "https://a"),
        ("temporal-redirect", "https://b"),
        ("temporal-redirect-code", "307"),
    ];
    assert_eq!(redirect(&both), ("https://b".into(), 307));
    for bad in ["javascript:alert(1)", "https://a b", "https://a\r\nX: y", ""] {
        assert_eq!(
            with(OURS, &[("permanent-redirect", bad)]).0.policy.redirect,
            None,
            "{bad:?}"
        );
    }
}

#[test]
fn cors_has_ingress_nginxs_defaults() {
    let cors = settings("enable-cors", "true").policy.cors.clone().unwrap();
    assert_eq!(cors.origins, [CorsOrigin::Any]);
    assert!(cors.credentials);
    assert_eq!(cors.max_age, 1_728_000);
    let (policy, told) = with(
        NGINX,
        &[
            ("enable-cors", "true"),
            (
                "cors-allow-origin",
                "https://App.example:8443, http://*.example.com",
            ),
        ],
    );
    assert_eq!(told, []);
    let wildcard = CorsOrigin::Wildcard {
        prefix: "http://".into(),
        suffix: ".example.com".into(),
    };
    let origins = &policy.policy.cors.as_ref().unwrap().origins;
    assert_eq!(
        *origins,
        [CorsOrigin::Exact("https://app.example:8443".into()), wildcard]
    );
}

#[test]
fn custom_headers_come_from_a_config_map_of_the_same_namespace() {
    let (settings, told) = with(NGINX, &[("custom-headers", "shop/headers")]);
    let headers: Vec<_> = settings
        .policy
        .response_headers
        .iter()
        .map(|(n, v)| (n.as_str(), v.as_bytes()))
        .collect();
    assert_eq!(headers, [("x-frame-options", &b"DENY"[..])]);
    assert!(
        told[0]
            .message
            .contains("\"Content-Length\" belongs to the connection"),
        "{told:?}"
    );

    for (value, reason) in [
        ("other/headers", "InvalidAnnotation"),
        ("shop/none", "ConfigMapNotFound"),
    ] {
        let (settings, told) = with(NGINX, &[("custom-headers", value)]);
        assert!(settings.policy.response_headers.is_empty());
        assert_eq!(told[0].reason, reason);
    }
}

#[test]
fn a_canary_that_nothing_leads_to_and_details_without_a_canary_are_told() {
    assert_eq!(with(OURS, &[("canary", "true")]).1[0].reason, "CanaryUnreachable");
    let (settings, told) = with(OURS, &[("canary-weight", "10")]);
    assert_eq!((settings.canary, told[0].reason), (None, "CanaryOff"));
}

#[test]
fn balancing_by_hash_wins_over_the_other_kinds() {
    let (settings, _) = with(
        OURS,
        &[
            ("load-balance", "round_robin"),
            ("upstream-hash-by", "$remote_addr"),
        ],
    );
    assert_eq!(settings.speech.balance, Balance::HashSource);
}

#[test]
fn the_page_lists_every_annotation() {
    let page = table::markdown();
    for row in table::rows() {
        assert!(page.contains(&format!("| `{}` |", row.name)), "{}", row.name);
    }
    let columns = |line: &str| line.matches('|').count();
    assert!(
        page.lines()
            .filter(|line| line.starts_with('|'))
            .all(|line| matches!(columns(line), 3 | 6))
    );
}

#[test]
fn a_distance_is_the_number_of_slips() {
    for (a, b, expected) in [
        ("", "abc", 3),
        ("abc", "abc", 0),
        ("kitten", "sitting", 3),
        ("ab", "ba", 2),
    ] {
        assert_eq!(distance(a.as_bytes(), b.as_bytes()), expected);
    }
}

#[test]
fn the_page_of_the_annotations_is_what_the_table_makes_it() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/annotations.md");
    let page = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        page == crate::translate::annotations_markdown(),
        "run: cargo run -p ingress-agent -- docs annotations > docs/annotations.md"
    );
}
