//! Whoever reads an address in an Ingress's status can ask at once, and gets what the Ingress specification says: each question once, the moment
//! that the address is there. The same is asked by the Kubernetes project's suite (`conformance`), whose source cannot be had everywhere.

use std::net::{Ipv4Addr, SocketAddr};

use ingress_tests::cluster::Cluster;
use ingress_tests::{Answer, Certs, Namespace, Request};

use crate::Done;
use crate::lab::wait_until;
use crate::node_agent::{NAME, installed};
use crate::pods::rolled_out;

/// So many Ingresses one after the other: one that is not served yet may be lucky once.
const ROUNDS: usize = 12;

/// Path, and who answers; nobody is a 404. The rules are those of [`rules`].
const PATHS: [(&str, Option<&str>); 16] = [
    ("/foo", Some("one")),
    ("/foo?query", Some("one")),
    ("/foo/", Some("two")),
    ("/foo/bar", Some("two")),
    ("/FOO", None),
    ("/foobar", None),
    ("/aaa", Some("two")),
    ("/aaa/ccc", Some("two")),
    ("/aaaccc", None),
    ("/aaa/bbb", Some("three")),
    ("/aaa/bbb/ccc", Some("three")),
    ("/aaa/bbbccc", Some("two")),
    ("/slash/", Some("one")),
    ("/slash", None),
    ("/trail", Some("three")),
    ("/trail/", Some("three")),
];

fn rules(namespace: &Namespace<'_>, round: usize) -> ingress_tests::Ingress {
    let ingress = namespace.ingress(&format!("rules-{round}")).class(NAME);
    let paths = ingress
        .host(&format!("paths-{round}.test"))
        .exact("/foo", "one")
        .prefix("/foo", "two")
        .prefix("/aaa", "two")
        .prefix("/aaa/bbb", "three")
        .exact("/slash/", "one")
        .prefix("/trail/", "three");
    let hosts = paths
        .host(&format!("*.wild-{round}.test"))
        .prefix("/", "one")
        .host(&format!("tls-{round}.test"))
        .prefix("/", "two");
    hosts.tls(&[&format!("tls-{round}.test")], &format!("tls-{round}"))
}

/// A Deployment and a Service of this name, whose Pod says the Service's name.
fn server(name: &str) -> String {
    format!(
        r#"
apiVersion: apps/v1
kind: Deployment
metadata: {{name: {name}}}
spec:
  selector: {{matchLabels: {{app: {name}}}}}
  template:
    metadata: {{labels: {{app: {name}}}}}
    spec:
      containers:
        - {{name: server, image: echo-backend, args: [--name, {name}, --address, "0.0.0.0:8080", --input, none]}}
---
apiVersion: v1
kind: Service
metadata: {{name: {name}}}
spec: {{selector: {{app: {name}}}, ports: [{{name: http, port: 80, targetPort: 8080}}]}}
---
"#
    )
}

#[test]
fn the_first_request_after_the_address_is_there_is_answered_by_the_rules() -> Done {
    let (cluster, node) = installed(&[])?;
    let (namespace, certs) = (cluster.namespace("addressed")?, Certs::new()?);
    for name in ["one", "two", "three"] {
        namespace.apply(&server(name))?;
    }
    for name in ["one", "two", "three"] {
        rolled_out(&namespace, &format!("deployment/{name}"))?;
    }
    let ask = |url: &str| {
        let port = if url.starts_with("https") { 443 } else { 80 };
        Request::get(url)?.ask(SocketAddr::from((node, port)))
    };
    for round in 0..ROUNDS {
        let secure = format!("tls-{round}.test");
        namespace.tls_secret(&format!("tls-{round}"), &certs.leaf(&[&secure])?)?;
        namespace.apply_ingress(&rules(&namespace, round))?;
        has_address(&cluster, &namespace, &format!("rules-{round}"), node)?;
        let answer = ask(&format!("https://{secure}/"))?;
        assert!(answer.certificate_names.contains(&secure), "{answer:?}");
        is_from(&answer, Some("two"), &secure);
        for (path, server) in PATHS {
            let url = format!("http://paths-{round}.test{path}");
            is_from(&ask(&url)?, server, &url);
        }
        // A wildcard stands for one label (Ingress v1, spec.rules[].host).
        for (host, server) in [("x.", Some("one")), ("x.y.", None), ("", None)] {
            let url = format!("http://{host}wild-{round}.test/");
            is_from(&ask(&url)?, server, &url);
        }
    }
    let rest = namespace.ingress("rest").class(NAME).default_backend("three");
    namespace.apply_ingress(&rest)?;
    has_address(&cluster, &namespace, "rest", node)?;
    for url in ["http://anybody.test/", "http://anybody.test/any/path"] {
        is_from(&ask(url)?, Some("three"), url);
    }
    Ok(())
}

fn has_address(cluster: &Cluster, namespace: &Namespace<'_>, name: &str, node: Ipv4Addr) -> Done {
    let group = "/apis/networking.k8s.io/v1";
    let path = format!("{group}/namespaces/{}/ingresses/{name}", namespace.name());
    wait_until("the node's address", || {
        let answer = cluster.api().get(&path)?;
        Ok(answer.body["status"]["loadBalancer"]["ingress"][0]["ip"] == node.to_string())
    })
}

#[track_caller]
fn is_from(answer: &Answer, server: Option<&str>, of: &str) {
    match server {
        Some(server) => assert_eq!(
            (answer.status, answer.backend()),
            (200, server),
            "{of}: {answer:?}"
        ),
        None => assert_eq!(answer.status, 404, "{of}: {answer:?}"),
    }
}
