//! The folder's stand-in for an API server, compared with the real one: the same objects are refused, for the same fields, in the same words.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::process::Command;

use anyhow::Context;
use ingress_tests::Manifests;
use serde_json::Value;

use crate::Done;

/// What a server holds against an object: field and message.
type Refusal = BTreeSet<(String, String)>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Ingress,
    IngressClass,
    Service,
    EndpointSlice,
    Secret,
    ConfigMap,
}

impl Kind {
    /// The head of its manifests, and where the API server takes them.
    fn words(self) -> (&'static str, &'static str, &'static str) {
        const NETWORKING: &str = "apis/networking.k8s.io/v1";
        match self {
            Self::Ingress => ("networking.k8s.io/v1", NETWORKING, "namespaces/default/ingresses"),
            Self::IngressClass => ("networking.k8s.io/v1", NETWORKING, "ingressclasses"),
            Self::Service => ("v1", "api/v1", "namespaces/default/services"),
            Self::EndpointSlice => (
                "discovery.k8s.io/v1",
                "apis/discovery.k8s.io/v1",
                "namespaces/default/endpointslices",
            ),
            Self::Secret => ("v1", "api/v1", "namespaces/default/secrets"),
            Self::ConfigMap => ("v1", "api/v1", "namespaces/default/configmaps"),
        }
    }

    /// Without a name where the case is about metadata.
    fn manifest(self, name: &str, rest: &str) -> String {
        let (api_version, _, _) = self.words();
        let metadata = if rest.contains("metadata:") {
            rest.replace("NAME", name)
        } else {
            format!("metadata: {{name: {name}}}, {rest}")
        };
        format!("{{apiVersion: {api_version}, kind: {self:?}, {metadata}}}")
    }
}

/// Tries each object at both, and tells every difference.
#[track_caller]
fn compare(kind: Kind, cases: &[String]) -> Done {
    let cluster = crate::cluster()?;
    let (_, group, resource) = kind.words();
    // As `kubectl` says it: strangers' fields are not what this is about.
    let path = format!("/{group}/{resource}?dryRun=All&fieldValidation=Ignore");
    let mut differences = String::new();
    for (index, rest) in cases.iter().enumerate() {
        let manifest = kind.manifest(&format!("case-{index}"), rest);
        let theirs = answer_of_the_api_server(&cluster.api().post(&path, &manifest)?.body);
        let ours = answer_of_check(&cluster.program("ingress-agent"), &manifest)?;
        if theirs != ours {
            let shown: String = manifest.chars().take(300).collect();
            let _ = writeln!(differences, "{shown}");
            tell(&mut differences, "API server", theirs.difference(&ours));
            tell(&mut differences, "folder", ours.difference(&theirs));
        }
    }
    assert!(differences.is_empty(), "{differences}");
    Ok(())
}

/// What only one of them says.
fn tell<'a>(differences: &mut String, who: &str, alone: impl Iterator<Item = &'a (String, String)>) {
    for (field, message) in alone {
        let _ = writeln!(differences, "  {who}: {field}: {message}");
    }
}

fn answer_of_the_api_server(body: &Value) -> Refusal {
    if body["kind"] != "Status" {
        return Refusal::new();
    }
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let causes = body["details"]["causes"].as_array();
    match causes {
        Some(causes) => causes
            .iter()
            // It writes the object as a whole so.
            .map(|cause| match text(&cause["field"]) {
                field if field == "[]" => (String::new(), text(&cause["message"])),
                field => (field, text(&cause["message"])),
            })
            .collect(),
        // Refused before it was looked at field by field.
        None => [(String::new(), text(&body["message"]))].into(),
    }
}

/// What a folder adds.
const NOT_IN_FORCE: &str = "; the object is not in force, as there is no earlier good version of it";

/// Only what an API server could say too: whether a Service exists is another matter.
fn answer_of_check(program: &std::path::Path, manifest: &str) -> anyhow::Result<Refusal> {
    let manifests = Manifests::new()?;
    manifests.write("case.yaml", manifest)?;
    let output = Command::new(program)
        .args(["check", "-o", "json"])
        .arg(manifests.path())
        .output()?;
    let found: Value = serde_json::from_slice(&output.stdout).context("check printed no JSON")?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let diagnostics = found["diagnostics"].as_array().context("no diagnostics")?;
    Ok(diagnostics
        .iter()
        .filter(|found| found["reason"] == "ObjectRefused")
        .map(|found| {
            let message = text(&found["message"]);
            let said = message.strip_suffix(NOT_IN_FORCE).unwrap_or(&message);
            (text(&found["field"]), said.to_owned())
        })
        .collect())
}

fn all(cases: &[&str]) -> Vec<String> {
    cases.iter().map(|&case| case.to_owned()).collect()
}

fn each(values: &[&str], case: impl Fn(&str) -> String) -> Vec<String> {
    values.iter().map(|value| case(value)).collect()
}

const BACKEND: &str = "backend: {service: {name: a, port: {number: 80}}}";

#[test]
fn hosts_and_names_in_an_ingress_are_judged_as_by_the_api_server() -> Done {
    let host = |host: &str| format!("spec: {{rules: [{{host: {host:?}}}]}}");
    let long = "a.".repeat(130);
    let long_label = format!("{}.test", "a".repeat(64));
    let hosts = [
        "a.test",
        "a",
        "",
        "Shop.example",
        "10.0.0.1",
        "010.0.0.1",
        "::1",
        "[::1]",
        "1.2.3",
        "a.test.",
        ".a.test",
        "-a.test",
        "a-.test",
        "a_b.test",
        "a..b",
        "*.a.test",
        "*",
        "*.",
        "*.*.a",
        "a.*.b",
        "*a.b",
        "*.-a",
        "a.test:80",
        "münchen.test",
        "xn--mnchen-3ya.test",
        &long,
        &long_label,
        "127.1",
        "::ffff:10.0.0.1",
    ];
    let mut cases = each(&hosts, host);
    cases.extend(each(&hosts, |host| {
        format!("spec: {{rules: [{{host: a.test}}], tls: [{{hosts: [ok.test, {host:?}]}}]}}")
    }));
    let names = ["a", "A", "a.b", "a_b", "1a", "a-", "", "-", "a/b"];
    cases.extend(each(&names, |name| {
        format!("spec: {{rules: [{{host: a.test}}], tls: [{{secretName: {name:?}}}]}}")
    }));
    cases.extend(each(&names, |name| {
        format!("spec: {{rules: [{{host: a.test}}], ingressClassName: {name:?}}}")
    }));
    for (class, annotation) in [("a", "a"), ("a", "b"), ("a", ""), ("A", "b")] {
        cases.push(format!(
            "metadata: {{name: NAME, annotations: {{kubernetes.io/ingress.class: {annotation:?}}}}}, \
             spec: {{ingressClassName: {class}, rules: [{{host: a.test}}]}}"
        ));
    }
    compare(Kind::Ingress, &cases)
}

#[test]
fn paths_in_an_ingress_are_judged_as_by_the_api_server() -> Done {
    let paths = [
        "",
        "/",
        "a",
        "/a",
        "/a/",
        "/a//b",
        "//",
        "/a/./b",
        "/a/../b",
        "/a%2fb",
        "/a%2Fb",
        "/a/..",
        "/a/.",
        "/..",
        "/.",
        "/a%00",
        "/a b",
        "/é",
        "/a?b",
        "/a#b",
        "/a\\b",
        "/*",
        "/a//b/../c%2f/..",
        "/.well-known/",
        "/a;b",
        "*",
    ];
    let mut cases = Vec::new();
    // An empty type is not tried: the folder tells it as a missing one.
    for kind in ["Exact", "Prefix", "ImplementationSpecific", "Regex"] {
        cases.extend(each(&paths, |path| {
            format!(
                "spec: {{rules: [{{http: {{paths: [{{path: {path:?}, pathType: {kind:?}, {BACKEND}}}]}}}}]}}"
            )
        }));
    }
    cases.extend(all(&[
        "spec: {rules: [{http: {paths: [{path: /, backend: {}}]}}]}",
        "spec: {rules: [{http: {paths: [{path: /, pathType: Other, backend: {}}]}}]}",
        "spec: {rules: [{http: {paths: [{pathType: Prefix, backend: {service: {name: a}}}]}}]}",
        "spec: {rules: [{http: {}}]}",
        "spec: {rules: [{http: {paths: []}}]}",
        "spec: {rules: [{host: a.test, http: null}]}",
        "spec: {rules: [{}]}",
        "spec: {rules: []}",
        "spec: {rules: null}",
        "spec: {}",
        "metadata: {name: NAME}",
        "spec: {tls: [{hosts: [a.test]}]}",
    ]));
    compare(Kind::Ingress, &cases)
}

#[test]
fn backends_of_an_ingress_are_judged_as_by_the_api_server() -> Done {
    let backends = [
        "",
        "service: {}",
        "service: {name: a}",
        "service: {name: a, port: {}}",
        "service: {name: a, port: {number: 0}}",
        "service: {name: a, port: {number: -1}}",
        "service: {name: a, port: {number: 65535}}",
        "service: {name: a, port: {number: 65536}}",
        "service: {name: a, port: {name: b, number: 1}}",
        "service: {name: a, port: {name: http}}",
        "service: {name: a, port: {name: a--b}}",
        "service: {name: a, port: {name: A}}",
        "service: {name: a, port: {name: -a-}}",
        "service: {name: a, port: {name: '80'}}",
        "service: {name: a, port: {name: a-name-that-is-too-long}}",
        "service: {name: a, port: {name: 'a_b'}}",
        "service: {name: '', port: {number: 1}}",
        "service: {name: 1a, port: {number: 1}}",
        "service: {name: A, port: {number: 1}}",
        "service: {name: a.b, port: {number: 1}}",
        "service: {name: a-, port: {number: 1}}",
        "service: {name: a, port: {number: 1}}, resource: {kind: A, name: b}",
        "resource: {kind: A, name: b}",
        "resource: {name: b}",
        "resource: {kind: A}",
        "resource: {}",
        "resource: {kind: 'a/b', name: 'c%d'}",
        "resource: {kind: .., name: .}",
        "resource: {apiGroup: 'A.b', kind: A, name: b}",
        "resource: {apiGroup: '', kind: A, name: b}",
    ];
    let mut cases = each(&backends, |backend| {
        format!("spec: {{defaultBackend: {{{backend}}}}}")
    });
    cases.push(format!(
        "spec: {{defaultBackend: {{service: {{name: {}, port: {{number: 1}}}}}}}}",
        "a".repeat(64)
    ));
    compare(Kind::Ingress, &cases)
}

#[test]
fn ingress_classes_are_judged_as_by_the_api_server() -> Done {
    let long = format!("controller: a.b/{}", "c".repeat(250));
    let specs = [
        "",
        "controller: ''",
        "controller: a",
        "controller: a/",
        "controller: /a",
        "controller: 'a/ b'",
        "controller: A.b/c",
        "controller: a.b/c/d",
        "controller: 'a.b/c?d'",
        "controller: a.b/%41",
        &long,
        "controller: a.b/c, parameters: {}",
        "controller: a.b/c, parameters: {kind: A, name: b}",
        "controller: a.b/c, parameters: {kind: A, name: b, scope: Cluster}",
        "controller: a.b/c, parameters: {kind: A, name: b, scope: Cluster, namespace: c}",
        "controller: a.b/c, parameters: {kind: A, name: b, scope: Namespace}",
        "controller: a.b/c, parameters: {kind: A, name: b, scope: Namespace, namespace: ''}",
        "controller: a.b/c, parameters: {kind: A, name: b, scope: Namespace, namespace: c.d}",
        "controller: a.b/c, parameters: {kind: A, name: b, scope: Node}",
        "controller: a.b/c, parameters: {kind: A, name: b, namespace: c}",
        "controller: a.b/c, parameters: {apiGroup: A, kind: a/b, name: '%'}",
    ];
    let mut cases = each(&specs, |spec| format!("spec: {{{spec}}}"));
    cases.push("metadata: {name: NAME, namespace: b}, spec: {controller: a.b/c}".to_owned());
    cases.push("metadata: {name: NAME}".to_owned());
    compare(Kind::IngressClass, &cases)
}

#[test]
fn services_are_judged_as_by_the_api_server() -> Done {
    let specs = [
        "",
        "ports: []",
        "ports: [{port: 80}]",
        "ports: [{}]",
        "ports: [{port: 0}]",
        "ports: [{port: -1}]",
        "ports: [{port: 65536}]",
        "ports: [{port: 80, targetPort: 0}]",
        "ports: [{port: 80, targetPort: 70000}]",
        "ports: [{port: 80, targetPort: ''}]",
        "ports: [{port: 80, targetPort: http}]",
        "ports: [{port: 80, targetPort: A}]",
        "ports: [{port: 80, targetPort: a--b}]",
        "ports: [{port: 80, targetPort: a-name-that-is-too-long}]",
        "ports: [{port: 80, targetPort: '80'}]",
        "ports: [{port: 1, name: a}, {port: 2}]",
        "ports: [{port: 1}, {port: 2}]",
        "ports: [{port: 1, name: a}, {port: 2, name: a}]",
        "ports: [{port: 1, name: a}, {port: 1, name: b}]",
        "ports: [{port: 1, name: a}, {port: 1, name: b, protocol: UDP}]",
        "ports: [{port: 1, name: A}]",
        "ports: [{port: 1, name: a.b}]",
        "ports: [{port: 1, protocol: tcp}]",
        "ports: [{port: 1, protocol: ''}]",
        "ports: [{port: 1, protocol: SCTP}]",
        "ports: [{port: 1, appProtocol: kubernetes.io/h2c}]",
        "ports: [{port: 1, appProtocol: a/b/c}]",
        "ports: [{port: 1, appProtocol: ''}]",
        "ports: [{port: 1, appProtocol: /a}]",
        "type: A, ports: [{port: 1}]",
        "type: '', ports: [{port: 1}]",
        "type: ClusterIP",
        "clusterIP: None",
        "clusterIP: None, ports: [{port: 80}]",
        "clusterIP: none, ports: [{port: 80}]",
        "clusterIP: a, ports: [{port: 80}]",
        "clusterIP: None, type: NodePort, ports: [{port: 80}]",
        "clusterIP: None, type: LoadBalancer, ports: [{port: 80}]",
        "type: LoadBalancer, ports: [{port: 10250}]",
        "type: NodePort, ports: [{port: 10250}]",
        "type: ExternalName",
        "type: ExternalName, externalName: ''",
        "type: ExternalName, externalName: a.test",
        "type: ExternalName, externalName: a.test.",
        "type: ExternalName, externalName: .",
        "type: ExternalName, externalName: A_b",
        "type: ExternalName, externalName: 10.0.0.1",
        "type: ExternalName, externalName: '*.a'",
        "type: ExternalName, externalName: a.test, clusterIP: 10.96.0.9",
        "type: ExternalName, externalName: a.test, clusterIP: None",
        "type: ExternalName, externalName: a.test, ports: [{port: 0}]",
        "type: ExternalName, externalName: a.test, ports: [{port: 80}]",
        "selector: {a: b}, ports: [{port: 80}]",
        "selector: {a/b/c: b}, ports: [{port: 80}]",
        "selector: {a: '-'}, ports: [{port: 80}]",
        "sessionAffinity: A, ports: [{port: 80}]",
        "sessionAffinity: ClientIP, ports: [{port: 80}]",
        "sessionAffinity: '', ports: [{port: 80}]",
        "trafficDistribution: A, ports: [{port: 80}]",
        "trafficDistribution: PreferClose, ports: [{port: 80}]",
        "trafficDistribution: PreferSameZone, ports: [{port: 80}]",
        "trafficDistribution: PreferSameNode, ports: [{port: 80}]",
        "trafficDistribution: '', ports: [{port: 80}]",
    ];
    let mut cases = each(&specs, |spec| format!("spec: {{{spec}}}"));
    cases.push("metadata: {name: NAME}".to_owned());
    for name in ["1NAME", "1-NAME", "NAME.a", "NAME_"] {
        cases.push(format!(
            "metadata: {{name: {name}}}, spec: {{ports: [{{port: 80}}]}}"
        ));
    }
    compare(Kind::Service, &cases)
}

#[test]
fn endpoint_slices_are_judged_as_by_the_api_server_but_may_be_loopback() -> Done {
    let mut cases = Vec::new();
    for kind in ["IPv4", "IPv6", "FQDN"] {
        let addresses = [
            "10.0.0.1",
            "010.0.0.1",
            "10.0.0",
            "169.254.1.1",
            "0.0.0.0",
            "224.0.0.1",
            "255.255.255.255",
            "2001:db8::1",
            "fe80::1",
            "::",
            "ff02::1",
            "::ffff:10.0.0.1",
            "2001:DB8::1",
            "a",
            "a.test",
            "a.test.",
            "A.test",
            "",
            "10.0.0.1:80",
            "fe80::1%eth0",
        ];
        cases.extend(each(&addresses, |address| {
            format!("addressType: {kind}, endpoints: [{{addresses: [{address:?}]}}]")
        }));
    }
    let many = "{addresses: [10.0.0.1]},".repeat(1001);
    let addresses = (1..=101).fold(String::new(), |all, n| all + &format!("10.0.0.{n}, "));
    let ports = (1..=101).fold(String::new(), |all, n| {
        all + &format!("{{name: p{n}, port: {n}}}, ")
    });
    let rests = [
        "endpoints: []",
        "addressType: '', endpoints: []",
        "addressType: IP, endpoints: []",
        "addressType: ipv4, endpoints: []",
        "addressType: IPv4, endpoints: null",
        "addressType: IPv4",
        "addressType: IPv4, endpoints: [{}]",
        "addressType: IPv4, endpoints: [{addresses: []}]",
        "addressType: IPv4, endpoints: [{addresses: [10.0.0.1], hostname: A}]",
        "addressType: IPv4, endpoints: [{addresses: [10.0.0.1], hostname: a.b}]",
        "addressType: IPv4, endpoints: [{addresses: [10.0.0.1], nodeName: A}]",
        "addressType: IPv4, endpoints: [{addresses: [10.0.0.1], hints: {forZones: [{name: a}, {name: a}]}}]",
        "addressType: IPv4, endpoints: [], ports: [{port: 80}]",
        "addressType: IPv4, endpoints: [], ports: [{}]",
        "addressType: IPv4, endpoints: [], ports: [{port: 1}, {port: 2}]",
        "addressType: IPv4, endpoints: [], ports: [{port: 1, name: a}, {port: 2, name: a}]",
        "addressType: IPv4, endpoints: [], ports: [{port: 1, name: A}]",
        "addressType: IPv4, endpoints: [], ports: [{port: 1, name: a.b}]",
        "addressType: IPv4, endpoints: [], ports: [{port: 1, protocol: tcp}]",
        "addressType: IPv4, endpoints: [], ports: [{port: 1, protocol: ''}]",
        "addressType: IPv4, endpoints: [], ports: [{port: 0}]",
        "addressType: IPv4, endpoints: [], ports: [{port: 70000}]",
        "addressType: IPv4, endpoints: [], ports: [{port: 1, appProtocol: a/b/c}]",
        &format!("addressType: IPv4, endpoints: [{many}]"),
        &format!("addressType: IPv4, endpoints: [{{addresses: [{addresses}]}}]"),
        &format!("addressType: IPv4, endpoints: [], ports: [{ports}]"),
    ];
    cases.extend(all(&rests));
    compare(Kind::EndpointSlice, &cases)
}

#[test]
fn secrets_and_config_maps_are_judged_as_by_the_api_server() -> Done {
    let large = "x".repeat(1024 * 1024 + 1);
    let secrets = [
        "type: Opaque",
        "type: ''",
        "type: kubernetes.io/tls",
        "type: kubernetes.io/tls, data: {tls.crt: eA==}",
        "type: kubernetes.io/tls, stringData: {tls.crt: a, tls.key: b}",
        "type: kubernetes.io/dockercfg",
        "type: kubernetes.io/dockerconfigjson",
        "type: kubernetes.io/basic-auth",
        "type: kubernetes.io/ssh-auth",
        "type: own.example/any",
        "stringData: {'a b': c}",
        "stringData: {'': c}",
        "stringData: {.: c}",
        "stringData: {..: c}",
        "stringData: {..a: c}",
        "data: {a/b: eA==}",
        &format!("stringData: {{a: {large}}}"),
    ];
    compare(Kind::Secret, &all(&secrets))?;
    let maps = [
        "data: {a: b}",
        "data: {'a b': c}",
        &format!("data: {{{}: c}}", "k".repeat(254)),
        "data: {..: c}",
        "binaryData: {'a b': eA==}",
        "data: {k: v}, binaryData: {k: eA==}",
        &format!("data: {{a: {large}}}"),
    ];
    compare(Kind::ConfigMap, &all(&maps))
}

#[test]
fn metadata_is_judged_as_by_the_api_server() -> Done {
    let large = "x".repeat(256 * 1024);
    let long = "a".repeat(254);
    let metadata = [
        "name: A-NAME",
        "name: NAME.",
        "name: NAME_a",
        "name: ''",
        "",
        "name: NAME, labels: {a/b/c: d}",
        "name: NAME, labels: {'': d}",
        "name: NAME, labels: {/a: d}",
        "name: NAME, labels: {a/: d}",
        "name: NAME, labels: {A.b/c: d}",
        "name: NAME, labels: {a: '-'}",
        "name: NAME, labels: {a: 'b c'}",
        "name: NAME, labels: {a: ''}",
        "name: NAME, annotations: {'': d}",
        "name: NAME, annotations: {a/b/c: d}",
        "name: NAME, annotations: {UP.example/Key: d}",
        "name: NAME, annotations: {'a b': d}",
        &format!("name: {long}"),
        &format!("name: NAME, labels: {{a: {}}}", &long[..64]),
        &format!("name: NAME, labels: {{{}: a}}", &long[..64]),
        &format!("name: NAME, labels: {{{long}/a: a}}"),
        &format!("name: NAME, annotations: {{{}: a}}", &long[..64]),
        &format!("name: NAME, annotations: {{k: {large}}}"),
    ];
    let cases = each(&metadata, |metadata| {
        format!("metadata: {{{metadata}}}, data: {{a: b}}")
    });
    compare(Kind::ConfigMap, &cases)
}
