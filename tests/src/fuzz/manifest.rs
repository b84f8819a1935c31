//! Files, annotations and certificates on their way to a snapshot: no panic, few diagnostics, and nothing else suffers.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::LazyLock;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ingress_agent::objects::SourceState;
use ingress_agent::source::dir::load_text;
use ingress_agent::translate::{Memory, Options, Translation, annotations_markdown, translate};
use ingress_core::compile::compile;
use ingress_core::diagnostic::Diagnostic;
use ingress_core::snapshot::Snapshot;
use serde_json::json;

use super::{Target, outcome};

pub static MANIFESTS: Target = Target {
    name: "manifests",
    executions: 5_000,
    longest: 3000,
    words: &[
        b"\n---\n",
        b"\n...\n",
        b"\n- ",
        b"\n  ",
        b"\n    ",
        b": ",
        b"{",
        b"}",
        b"[",
        b"]",
        b"*a ",
        b"&a ",
        b"!!binary ",
        b"!!str ",
        b"<<: *a",
        b"|\n",
        b">-\n",
        b"? ",
        b"\"",
        b"'",
        b"#",
        b"\t",
        b"\0",
        b"\xff",
        b"\xef\xbb\xbf",
        b"null",
        b"~",
        b"true",
        b"1e999",
        b"-1",
        b"0x10",
        b"65536",
        b"99999999999999999999",
        b"2026-01-01T00:00:00Z",
        b"kind: ",
        b"kind: List\nitems:\n",
        b"apiVersion: v1\n",
        b"Ingress",
        b"IngressClass",
        b"Service",
        b"EndpointSlice",
        b"Secret",
        b"ConfigMap",
        b"metadata:\n",
        b"  name: ",
        b"  namespace: ",
        b"spec:\n",
        b"rules:",
        b"host: ",
        b"path: ",
        b"pathType: Exact",
        b"pathType: Prefix",
        b"ImplementationSpecific",
        b"backend:",
        b"service:",
        b"port: ",
        b"number: ",
        b"defaultBackend:",
        b"resource:",
        b"tls:",
        b"secretName: ",
        b"*.example.com",
        b"ExternalName",
        b"clusterIP: None",
        b"targetPort: ",
        b"addresses: ",
        b"127.0.0.1",
        b"::1",
        b"conditions: ",
        b"stringData:",
        b"data:",
        b"use-regex: 'true'",
        b"(",
        b"(a{1000}){1000}",
    ],
    check: check_manifest,
};

pub static ANNOTATIONS: Target = Target {
    name: "annotations",
    executions: 2_000,
    longest: 1500,
    words: &[
        b"\n",
        b"\n0",
        b"\n1",
        b"=",
        b"true",
        b"false",
        b"0",
        b"-1",
        b"1m",
        b"8g",
        b"99999999999999999999",
        b"30s",
        b"http://a.example",
        b"https://$host$request_uri",
        b"/$1",
        b"/$2/$99",
        b"$",
        b"(",
        b")",
        b"(.*)",
        b"[",
        b"*",
        b",",
        b", ",
        b"10.0.0.0/8",
        b"::/0",
        b"0.0.0.0/33",
        b"\r\n",
        b"\0",
        b"\xc3\xa4",
        b"cookie",
        b"GRPC",
        b"HTTPS",
        b"always",
        b"301",
        b"X-A: b",
        b"https://*.a.example",
        b"shop/headers",
        b"@rewrite-target=",
        b"@canary=true",
        b"@use-regex=true",
        b"@cors-allow-origin=",
        b"@affinity=cookie",
        b"@whitelist-source-range=",
        b"@configuration-snippet=",
        b"@server-alias=",
    ],
    check: check_annotations,
};

pub static CERTIFICATES: Target = Target {
    name: "certificates",
    executions: 2_500,
    longest: 5000,
    words: &[
        b"-----BEGIN CERTIFICATE-----\n",
        b"-----END CERTIFICATE-----\n",
        b"-----BEGIN PRIVATE KEY-----\n",
        b"-----END PRIVATE KEY-----\n",
        b"-----BEGIN EC PRIVATE KEY-----\n",
        b"-----BEGIN RSA PRIVATE KEY-----\n",
        b"-----",
        b"\n",
        b"\r\n",
        b"=",
        b"==",
        b"A",
        b"AAAA",
        b"////",
        b"\0",
        b"\x80",
        SPLIT,
        b"MII",
        b"MIGH",
        b"Proc-Type: 4,ENCRYPTED\n",
    ],
    check: check_certificate,
};

/// Between the certificate and the key of an input.
const SPLIT: &[u8] = b"\n=====\n";

fn check_manifest(input: &[u8]) -> u64 {
    let json = input.first().is_some_and(|byte| matches!(byte, b'{' | b'['));
    let file = Path::new(if json { "x.json" } else { "x.yaml" });
    let state = load_text(file, input);
    let again = load_text(file, input);
    assert_eq!(
        state.diagnostics, again.diagnostics,
        "the same text is judged alike"
    );
    let world = World::new(&state);
    outcome((
        told(&state.diagnostics),
        world.outcome(),
        state.objects.ingresses.len().min(2),
    ))
}

fn check_annotations(input: &[u8]) -> u64 {
    let annotations: serde_json::Map<_, _> = input
        .split(|byte| *byte == b'\n')
        .filter_map(annotation)
        .map(|(name, value)| (name, value.into()))
        .collect();
    let odd = ingress("odd", "odd.example", json!(annotations));
    let state = load(&[
        odd,
        ingress("good", "good.example", json!({})),
        service(),
        class(),
    ]);
    let world = World::new(&state);
    assert_good_is_served(&world);
    outcome(world.outcome())
}

/// `@name=value`, or a value whose first byte picks the name from the table.
fn annotation(line: &[u8]) -> Option<(String, String)> {
    let text = String::from_utf8_lossy(line).into_owned();
    if let Some((name, value)) = text.strip_prefix('@').and_then(|text| text.split_once('=')) {
        return Some((format!("ingress-agent.io/{name}"), value.to_owned()));
    }
    let (pick, value) = (*line.first()?, text.chars().skip(1).collect());
    let prefix = if pick >= 128 {
        "nginx.ingress.kubernetes.io"
    } else {
        "ingress-agent.io"
    };
    let name = NAMES.get(usize::from(pick % 128) % NAMES.len())?;
    Some((format!("{prefix}/{name}"), value))
}

/// The annotations that the documentation lists.
static NAMES: LazyLock<Vec<String>> = LazyLock::new(|| {
    let page = annotations_markdown();
    let rows = page
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once('`'));
    rows.map(|(name, _)| name.to_owned()).collect()
});

fn check_certificate(input: &[u8]) -> u64 {
    let at = input.windows(SPLIT.len()).position(|window| window == SPLIT);
    let (certificate, key) = input
        .split_at_checked(at.unwrap_or(input.len()))
        .unwrap_or_default();
    let key = key.strip_prefix(SPLIT).unwrap_or(key);
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls", "metadata": {"name": "odd", "namespace": "shop"},
        "data": {"tls.crt": STANDARD.encode(certificate), "tls.key": STANDARD.encode(key)},
    });
    let good = ingress("good", "good.example", json!({}));
    let state = load(&[secret, good, service(), class()]);
    let world = World::new(&state);
    assert_good_is_served(&world);
    for certificate in world.translation.certificates.values() {
        assert!(!certificate.key.cert.is_empty());
        assert!(
            certificate
                .names
                .iter()
                .all(|name| !name.chars().any(|c| c.is_control() || c.is_ascii_uppercase()))
        );
    }
    outcome((world.outcome(), world.translation.certificates.len()))
}

fn ingress(name: &str, host: &str, annotations: serde_json::Value) -> serde_json::Value {
    let backend = json!({"service": {"name": "web", "port": {"number": 80}}});
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "Ingress",
        "metadata": {"name": name, "namespace": "shop", "annotations": annotations},
        "spec": {
            "ingressClassName": "ingress-agent",
            "tls": [{"hosts": [host], "secretName": "odd"}],
            "rules": [{"host": host, "http": {"paths": [
                {"path": "/", "pathType": "Prefix", "backend": backend},
                {"path": "/a(/|$)(.*)", "pathType": "ImplementationSpecific", "backend": backend},
            ]}}],
        },
    })
}

fn service() -> serde_json::Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "shop"}, "spec": {"ports": [{"port": 80}]},
    })
}

fn class() -> serde_json::Value {
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "IngressClass", "metadata": {"name": "ingress-agent"},
        "spec": {"controller": "ingress-agent.io/controller"},
    })
}

fn load(objects: &[serde_json::Value]) -> SourceState {
    let list = json!({"apiVersion": "v1", "kind": "List", "items": objects});
    load_text(Path::new("x.json"), list.to_string().as_bytes())
}

/// Objects all the way to a snapshot.
struct World {
    translation: Translation,
    diagnostics: Vec<Diagnostic>,
    snapshot: Snapshot,
}

/// Of one object or file; the sources and translate bound theirs (200, 50).
const MOST_DIAGNOSTICS: usize = 201;
/// Bytes of one diagnostic in words, whatever it quotes.
const LONGEST_MESSAGE: usize = 4200;

impl World {
    fn new(state: &SourceState) -> Self {
        let translation = translate(&state.objects, &options(), &mut Memory::default());
        let (snapshot, conflicts) = compile(&translation.resources, &Snapshot::empty());
        let told = [&state.diagnostics, &translation.diagnostics, &conflicts];
        let diagnostics: Vec<_> = told.into_iter().flatten().cloned().collect();
        let objects: BTreeSet<_> = diagnostics.iter().map(|d| &d.object).collect();
        assert!(
            diagnostics.len() <= MOST_DIAGNOSTICS * objects.len(),
            "{} diagnostics",
            diagnostics.len()
        );
        for diagnostic in &diagnostics {
            let text = diagnostic.to_string();
            assert!(text.len() <= LONGEST_MESSAGE, "{} bytes: {text}", text.len());
            assert!(
                !text.chars().any(char::is_control),
                "a log line could be forged: {text:?}"
            );
        }
        Self {
            translation,
            diagnostics,
            snapshot,
        }
    }

    fn outcome(&self) -> u64 {
        outcome((told(&self.diagnostics), self.snapshot.routes().count().min(4)))
    }
}

/// What was told, without what was quoted.
fn told(diagnostics: &[Diagnostic]) -> BTreeSet<(&'static str, String)> {
    let words = |text: &str| -> String {
        let unquoted = text.split('"').step_by(2).flat_map(str::chars);
        unquoted.filter(|c| c.is_ascii_alphabetic()).take(60).collect()
    };
    diagnostics
        .iter()
        .map(|d| (d.reason, words(&d.message)))
        .collect()
}

fn assert_good_is_served(world: &World) {
    let good: Vec<_> = world
        .snapshot
        .routes()
        .filter(|r| r.host.to_string() == "good.example")
        .collect();
    assert_eq!(
        good.len(),
        2,
        "another object's trouble took routes away: {:?}",
        world.diagnostics
    );
    assert!(
        good.iter()
            .all(|route| &*route.object.name == "good" && *route.policy == Default::default())
    );
}

fn options() -> Options {
    Options {
        controllers: vec!["ingress-agent.io/controller".into()],
        class: "ingress-agent".into(),
        classless: true,
        default_backend: None,
        default_certificate: Some(("shop".into(), "odd".into())),
        place: Default::default(),
        now_unix: 1_800_000_000,
    }
}
