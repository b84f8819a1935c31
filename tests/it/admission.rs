//! The folder stands in for an API server: what that would default is defaulted, what it would refuse is refused, object by object.

use ingress_tests::{Certs, Echo, Ingress, Manifests, Site, TestAgent};

use crate::Done;

/// An object that is refused, as one line of YAML, and what is said of it.
struct Refused {
    name: &'static str,
    yaml: String,
    says: &'static str,
}

fn refused(name: &'static str, rest: &str, says: &'static str) -> Refused {
    let yaml = rest.replace("META", &format!("metadata: {{name: {name}}}"));
    Refused { name, yaml, says }
}

fn ingresses() -> Vec<Refused> {
    const TO_WEB: &str = "backend: {service: {name: web, port: {number: 80}}}";
    let ingress = |name, spec: &str, says| {
        let object = format!("{{apiVersion: networking.k8s.io/v1, kind: Ingress, META, spec: {{{spec}}}}}");
        refused(name, &object, says)
    };
    let path = |name: &'static str, path: &str, says| {
        let spec = format!("rules: [{{host: {name}.test, http: {{paths: [{{{path}}}]}}}}]");
        ingress(name, &spec, says)
    };
    vec![
        path(
            "no-type",
            &format!("path: /, {TO_WEB}"),
            "pathType must be specified",
        ),
        path(
            "wrong-type",
            &format!("path: /, pathType: Regex, {TO_WEB}"),
            "Unsupported value: \"Regex\"",
        ),
        path(
            "no-slash",
            &format!("path: a, pathType: Prefix, {TO_WEB}"),
            "must be an absolute path",
        ),
        path(
            "two-slashes",
            &format!("path: /a//b, pathType: Exact, {TO_WEB}"),
            "must not contain '//'",
        ),
        path(
            "no-port",
            "path: /, pathType: Prefix, backend: {service: {name: web}}",
            "port name or number is required",
        ),
        path(
            "two-ports",
            "path: /, pathType: Prefix, backend: {service: {name: web, port: {name: http, number: 80}}}",
            "cannot set both port name & port number",
        ),
        ingress(
            "no-rules",
            "ingressClassName: ingress-agent",
            "either `defaultBackend` or `rules` must be specified",
        ),
        ingress(
            "upper-case",
            "rules: [{host: Shop.test}]",
            "a lowercase RFC 1123 subdomain",
        ),
        ingress(
            "address",
            "rules: [{host: 192.0.2.1}]",
            "must be a DNS name, not an IP address",
        ),
        ingress("wild", "rules: [{host: \"a.*.test\"}]", "wildcard"),
    ]
}

fn others() -> Vec<Refused> {
    let service = |name, spec: &str, says| {
        let object = format!("{{apiVersion: v1, kind: Service, META, spec: {{{spec}}}}}");
        refused(name, &object, says)
    };
    let slice = |name, rest: &str, says| {
        let object = format!("{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, META, {rest}}}");
        refused(name, &object, says)
    };
    vec![
        service("no-ports", "type: ClusterIP", "spec.ports"),
        service("port-zero", "ports: [{port: 0}]", "must be between 1 and 65535"),
        service(
            "same-port",
            "ports: [{name: a, port: 80}, {name: b, port: 80}]",
            "Duplicate value",
        ),
        service(
            "nameless",
            "ports: [{port: 80}, {port: 81}]",
            "spec.ports[0].name",
        ),
        service("no-external", "type: ExternalName", "spec.externalName"),
        slice(
            "other-family",
            "addressType: IPv6, endpoints: [{addresses: [\"192.0.2.1\"]}]",
            "must be an IPv6 address",
        ),
        slice(
            "no-address",
            "addressType: IPv4, endpoints: [{addresses: []}]",
            "at least 1 address",
        ),
        refused(
            "no-key",
            "{apiVersion: v1, kind: Secret, META, type: kubernetes.io/tls, stringData: {tls.crt: x}}",
            "tls.key",
        ),
        refused(
            "no-domain",
            "{apiVersion: networking.k8s.io/v1, kind: IngressClass, META, spec: {controller: plain}}",
            "spec.controller",
        ),
    ]
}

#[test]
fn each_object_that_an_api_server_would_refuse_is_refused_and_told_and_costs_only_itself() -> Done {
    let site = Site::new(&[Ingress::new("web").host("web.test").prefix("/", "web")])?;
    let all: Vec<_> = ingresses().into_iter().chain(others()).collect();
    let documents: Vec<_> = all.iter().map(|object| object.yaml.as_str()).collect();
    site.manifests.write("refused.yaml", &documents.join("\n---\n"))?;
    let agent = site.start()?;
    let told = agent.diagnostics()?;
    for object in &all {
        let about = |(who, _, _): &&(String, String, String)| {
            who.ends_with(&format!("/{}", object.name)) || who.ends_with(&format!(" {}", object.name))
        };
        let messages: Vec<_> = told.iter().filter(about).map(|(_, _, message)| message).collect();
        assert!(
            messages.iter().any(|message| message.contains(object.says)),
            "{}: {messages:?} of {told:#?}",
            object.name
        );
        let answer = agent.get(&format!("http://{}.test/", object.name))?;
        assert_eq!(answer.reason(), "host_unknown", "{}", object.name);
    }
    assert_eq!(agent.get("http://web.test/")?.served_by(), "web");
    Ok(())
}

/// Each Service with its slice; the route asks for port 80 or for what is said.
fn served(objects: &str, port: &str) -> anyhow::Result<String> {
    let manifests = Manifests::new()?;
    let ingress = Ingress::new("web")
        .host("web.test")
        .prefix("/", &format!("web:{port}"));
    manifests
        .our_class()?
        .ingress(&ingress)?
        .write("objects.yaml", objects)?;
    let agent = TestAgent::start(&manifests)?;
    assert_eq!(agent.diagnostics()?, [], "{objects}");
    Ok(agent.get("http://web.test/")?.served_by())
}

#[test]
fn what_an_api_server_would_fill_in_is_filled_in() -> Done {
    let pod = Echo::start("pod")?;
    let port = pod.address().port();
    let service = |spec: &str| {
        format!("{{apiVersion: v1, kind: Service, metadata: {{name: web}}, spec: {{{spec}}}}}\n---\n")
    };
    let slice = |ports: &str, endpoint: &str| {
        format!(
            "{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {{name: web-1, labels: {{kubernetes.io/service-name: web}}}}, \
             addressType: IPv4, ports: [{{{ports}}}], endpoints: [{{addresses: [127.0.0.1]{endpoint}}}]}}\n"
        )
    };
    let (any, unnamed) = ("ports: [{port: 80}]", format!("port: {port}"));
    for (what, spec, ports, endpoint) in [
        ("names of ports and the protocol", any, unnamed.clone(), ""),
        (
            "an empty type",
            "type: \"\", ports: [{port: 80, protocol: \"\"}]",
            unnamed.clone(),
            "",
        ),
        (
            "targetPort 0",
            "ports: [{port: 80, targetPort: 0}]",
            unnamed.clone(),
            "",
        ),
        ("an empty name", any, format!("name: \"\", port: {port}"), ""),
        ("no conditions", any, unnamed.clone(), ", conditions: {}"),
        ("null conditions", any, unnamed, ", conditions: {ready: null}"),
    ] {
        let objects = service(spec) + &slice(&ports, endpoint);
        assert_eq!(served(&objects, "80")?, "pod", "{what}");
    }
    // Only an ExternalName goes to targetPort itself, and without one to the port's own number.
    let external = format!("type: ExternalName, externalName: localhost, ports: [{{port: {port}}}]");
    let manifests = Manifests::new()?;
    let ingress = Ingress::new("web")
        .host("web.test")
        .prefix("/", &format!("web:{port}"));
    manifests
        .our_class()?
        .ingress(&ingress)?
        .write("objects.yaml", &service(&external))?;
    let agent = TestAgent::start(&manifests)?;
    agent.get_until("http://web.test/", |answer| answer.backend() == "pod")?;
    Ok(())
}

#[test]
fn string_data_of_a_secret_serves_as_its_data_and_an_object_without_namespace_is_in_default() -> Done {
    let leaf = Certs::new()?.leaf(&["web.test"])?;
    let ingress = Ingress::new("web").tls(&["web.test"], "tls").host("web.test");
    let site = Site::new(&[ingress.prefix("/", "web")])?;
    let secret = serde_json::json!({"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls", "metadata": {"name": "tls"},
        "stringData": {"tls.crt": leaf.certificate, "tls.key": leaf.key}});
    site.manifests.write("secret.json", &secret.to_string())?;
    let answer = site.start()?.get("https://web.test/")?;
    assert_eq!(
        (answer.backend(), &answer.certificate_names[0][..]),
        ("web", "web.test")
    );
    Ok(())
}
