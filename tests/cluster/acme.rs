//! cert-manager itself, and the ACME server Pebble: from an Ingress with an annotation to its certificate, and to the next one.
//!
//! All of it are Pods of the lab's node, the solver that cert-manager makes for each challenge too. The agent is installed from deploy/ and
//! has the node's ports 80 and 443, where Pebble and cert-manager ask for the challenge: every name leads to the node.
//! `cargo xtask test` builds the programs, and says where they can't be had.

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use anyhow::Context;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ingress_tests::cluster::Cluster;
use ingress_tests::{Certs, Namespace, Request};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use serde_json::{Value, json};

use crate::Done;
use crate::lab::wait_until;
use crate::node_agent::{NAME, installed};
use crate::pods::{deployment, rolled_out};

const PROGRAMS: [&str; 4] = [
    "cert-manager-controller",
    "acmesolver",
    "pebble",
    "pebble-challtestsrv",
];
const HOST: &str = "shop.example.test";
const SECRET: &str = "shop-tls";
const ACME: u16 = 14000;
const DNS: u16 = 8053;

#[test]
fn cert_manager_gets_its_certificate_by_http_01_in_spite_of_a_redirect_and_renews_it() -> Done {
    let Some(folder) = std::env::var_os("CERT_MANAGER").map(PathBuf::from) else {
        // Not by println, which libtest keeps to itself when a test passes.
        writeln!(
            std::io::stderr(),
            "skipped: CERT_MANAGER names no folder with cert-manager and Pebble"
        )?;
        return Ok(());
    };
    let paths = PROGRAMS.map(|name| (name, folder.join(name)));
    let images: Vec<_> = paths.iter().map(|(name, path)| (*name, path.as_path())).collect();
    let (cluster, node) = installed(&images)?;
    let definitions = folder.join("crds");
    let definitions = definitions.to_str().context("a path in UTF-8")?;
    cluster.kubectl(&["apply", "--server-side", "-f", definitions], "")?;
    cluster.kubectl(
        &[
            "wait",
            "--for=condition=Established",
            "--timeout=60s",
            "-f",
            definitions,
        ],
        "",
    )?;
    let namespace = cluster.namespace("acme")?;
    let authority = Certs::new()?;
    started(&namespace, node, &authority)?;
    namespace.apply(&issuer(node, &authority))?;
    namespace.apply(&deployment(1))?;
    rolled_out(&namespace, "deployment/web")?;

    let ask = |url: &str| {
        let port = if url.starts_with("https") { 443 } else { 80 };
        Request::get(url)?.ask(SocketAddr::from((node, port)))
    };
    let (plain, secure) = (format!("http://{HOST}/"), format!("https://{HOST}/"));
    namespace.apply_ingress(
        &namespace
            .ingress("shop")
            .class(NAME)
            .annotation("cert-manager.io/issuer", "pebble")
            .annotation("force-ssl-redirect", "true")
            .tls(&[HOST], SECRET)
            .host(HOST)
            .prefix("/", "web"),
    )?;
    let mut issued: Vec<Vec<u8>> = Vec::new();
    for round in 0..2 {
        if round > 0 {
            renew(&namespace)?;
        }
        // The solver's own Ingress: what the challenge is answered through.
        wait_until("a solver's Ingress", || Ok(solvers(&namespace)? > 0))
            .with_context(|| told(&namespace))?;
        assert_eq!(ask(&plain)?.status, 308, "the site goes on redirecting");
        wait_until("a certificate that is new", || {
            let found = certificate(&namespace)?;
            Ok(found.is_some_and(|found| issued.last() != Some(&found)))
        })
        .with_context(|| told(&namespace))?;
        let new = certificate(&namespace)?.context("the Secret")?;
        wait_until("the new certificate on the node's port 443", || {
            let answer = ask(&secure)?;
            Ok(answer.status == 200 && answer.tls.is_some_and(|seen| seen.certificate == new))
        })?;
        assert_eq!(ask(&secure)?.certificate_names, [HOST]);
        issued.push(new);
        wait_until("the end of the solver", || Ok(solvers(&namespace)? == 0))?;
        assert_eq!(ask(&plain)?.status, 308);
    }
    Ok(())
}

/// Pebble, its DNS server by which every name is the node, and cert-manager; all on the host's network, where each knows the others' addresses.
fn started(namespace: &Namespace<'_>, node: Ipv4Addr, authority: &Certs) -> Done {
    namespace.tls_secret("pebble", &authority.leaf(&[&node.to_string()])?)?;
    let config = json!({"pebble": {
        "listenAddress": format!("{node}:{ACME}"), "managementListenAddress": format!("{node}:15000"),
        "certificate": "/certificate/tls.crt", "privateKey": "/certificate/tls.key",
        "httpPort": 80, "tlsPort": 443, "ocspResponderURL": "", "externalAccountBindingRequired": false,
        "retryAfter": {"authz": 1, "order": 1},
        "profiles": {"default": {"description": "ninety days", "validityPeriod": 7_776_000}},
    }});
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "pebble"},
        "data": {"pebble.json": config.to_string()}});
    namespace.apply(&map.to_string())?;
    let account = format!("system:serviceaccount:{}:default", namespace.name());
    let words = [
        "create",
        "clusterrolebinding",
        namespace.name(),
        "--clusterrole=cluster-admin",
    ];
    namespace
        .cluster()
        .kubectl(&[&words[..], &["--user", &account]].concat(), "")?;
    namespace.apply(&format!(
        r#"
apiVersion: v1
kind: Pod
metadata: {{name: names}}
spec:
  hostNetwork: true
  containers:
    - name: names
      image: pebble-challtestsrv
      args: [-dnsserver, "{node}:{DNS}", -management, "{node}:8055", -defaultIPv4, "{node}", -defaultIPv6, "",
        -http01, "", -https01, "", -tlsalpn01, "", -doh, ""]
---
apiVersion: v1
kind: Pod
metadata: {{name: pebble}}
spec:
  hostNetwork: true
  containers:
    - name: pebble
      image: pebble
      args: [-config, /config/pebble.json, -dnsserver, "{node}:{DNS}"]
      # Each certificate is to be proved anew, and at once.
      env: [{{name: PEBBLE_VA_NOSLEEP, value: "1"}}, {{name: PEBBLE_AUTHZREUSE, value: "0"}}]
      readinessProbe: {{tcpSocket: {{port: {ACME}}}, periodSeconds: 1}}
      volumeMounts: [{{name: config, mountPath: /config}}, {{name: certificate, mountPath: /certificate}}]
  volumes:
    - {{name: config, configMap: {{name: pebble}}}}
    - {{name: certificate, secret: {{secretName: pebble}}}}
---
apiVersion: v1
kind: Pod
metadata: {{name: cert-manager}}
spec:
  hostNetwork: true
  containers:
    - name: controller
      image: cert-manager-controller
      args: [-acme-http01-solver-image, acmesolver, -acme-http01-solver-nameservers, "{node}:{DNS}"]
"#
    ))
}

/// An Issuer as a user writes it: challenges by Ingresses of our class.
fn issuer(node: Ipv4Addr, authority: &Certs) -> String {
    json!({"apiVersion": "cert-manager.io/v1", "kind": "Issuer", "metadata": {"name": "pebble"}, "spec": {"acme": {
        "server": format!("https://{node}:{ACME}/dir"), "caBundle": STANDARD.encode(authority.authority_pem()),
        "privateKeySecretRef": {"name": "pebble-account"},
        "solvers": [{"http01": {"ingress": {"ingressClassName": NAME}}}],
    }}})
    .to_string()
}

/// As `cmctl renew` asks for it.
fn renew(namespace: &Namespace<'_>) -> Done {
    let path = format!("certificates.cert-manager.io/{SECRET}");
    let found = json_of(namespace, &path)?;
    let mut conditions = found["status"]["conditions"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    conditions.push(json!({"type": "Issuing", "status": "True", "reason": "ManuallyTriggered", "message": "asked for by a test",
        "lastTransitionTime": "2026-01-01T00:00:00Z"}));
    let patch = json!({"status": {"conditions": conditions}}).to_string();
    let words = [
        "patch",
        "-n",
        namespace.name(),
        &path,
        "--subresource=status",
        "--type=merge",
        "-p",
        &patch,
    ];
    namespace.cluster().kubectl(&words, "").map(drop)
}

/// How many Ingresses of cert-manager's solver there are.
fn solvers(namespace: &Namespace<'_>) -> anyhow::Result<usize> {
    let list = json_of(namespace, "ingresses")?;
    let names = list["items"].as_array().context("no list")?.iter();
    let is_solver = |ingress: &&Value| {
        let name = ingress["metadata"]["name"].as_str().unwrap_or_default();
        name.starts_with("cm-acme-http-solver-") && ingress["spec"]["ingressClassName"] == NAME
    };
    Ok(names.filter(is_solver).count())
}

/// The leaf in the Secret, once it is there.
fn certificate(namespace: &Namespace<'_>) -> anyhow::Result<Option<Vec<u8>>> {
    let path = format!("/api/v1/namespaces/{}/secrets/{SECRET}", namespace.name());
    let answer = namespace.cluster().api().get(&path)?;
    let Some(text) = answer.body["data"]["tls.crt"].as_str() else {
        return Ok(None);
    };
    let pem = STANDARD.decode(text)?;
    Ok(Some(CertificateDer::from_pem_slice(&pem)?.as_ref().to_vec()))
}

fn json_of(namespace: &Namespace<'_>, what: &str) -> anyhow::Result<Value> {
    let words = ["get", "-n", namespace.name(), what, "-o", "json"];
    Ok(serde_json::from_str(&namespace.cluster().kubectl(&words, "")?)?)
}

/// For a failed case: what cert-manager says of its objects, and its log.
fn told(namespace: &Namespace<'_>) -> String {
    let kinds = "issuers,certificates,certificaterequests,orders,challenges,pods,ingresses,events";
    let words = ["get", "-n", namespace.name(), kinds, "-o", "wide"];
    let objects = namespace.cluster().kubectl(&words, "");
    format!(
        "{}\n{}",
        objects.unwrap_or_else(|error| format!("{error:#}")),
        logs(namespace.cluster())
    )
}

/// The last lines of what the Pods of cert-manager and Pebble wrote.
fn logs(cluster: &Cluster) -> String {
    let mut text = String::new();
    let pods = cluster.facts().folder.join("node/pods");
    for pod in std::fs::read_dir(pods).into_iter().flatten().flatten() {
        for name in ["controller", "pebble", "acmesolver"] {
            let log = std::fs::read_to_string(pod.path().join(format!("{name}.log"))).unwrap_or_default();
            let lines: Vec<_> = log.lines().collect();
            for line in &lines[lines.len().saturating_sub(40)..] {
                text.push_str(&format!("{name}: {line}\n"));
            }
        }
    }
    text
}
