//! Objects that the API server accepts and that are wrong all the same: each is told by a Diagnostic and an Event, and hurts nobody else.

use std::collections::BTreeMap;

use ingress_tests::dns::DnsServer;
use ingress_tests::{Load, Namespace, Request, TestAgent};
use serde_json::Value;

use crate::Done;
use crate::lab::wait_until;

fn host(namespace: &Namespace<'_>, name: &str) -> String {
    format!("{name}.{}.test", namespace.name())
}

fn url(namespace: &Namespace<'_>, name: &str) -> String {
    format!("http://{}/", host(namespace, name))
}

/// An Ingress that sends a host of its name to this Service.
fn apply(namespace: &Namespace<'_>, name: &str, service: &str) -> Done {
    let ingress = namespace.ingress(name).host(&host(namespace, name));
    namespace.apply_ingress(&ingress.prefix("/", service))
}

/// How often the namespace has an Event, by `Kind name reason`.
fn events(namespace: &Namespace<'_>) -> anyhow::Result<BTreeMap<String, usize>> {
    let path = format!("/apis/events.k8s.io/v1/namespaces/{}/events", namespace.name());
    let answer = namespace.cluster().api().get(&path)?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut counts = BTreeMap::new();
    for event in answer.body["items"].as_array().into_iter().flatten() {
        let object = &event["regarding"];
        anyhow::ensure!(
            !text(&object["uid"]).is_empty(),
            "kubectl describe would not find {event}"
        );
        let what = format!(
            "{} {} {}",
            text(&object["kind"]),
            text(&object["name"]),
            text(&event["reason"])
        );
        *counts.entry(what).or_default() += 1;
    }
    Ok(counts)
}

/// An agent that looks after this namespace alone and writes its Events.
fn agent(namespace: &Namespace<'_>, dns: &DnsServer) -> anyhow::Result<TestAgent> {
    let (name, dns) = (namespace.name(), dns.address().to_string());
    let flags = [
        ["--watch-namespaces", name],
        ["--pod-namespace", name],
        ["--pod-name", "agent-a"],
        ["--dns-server", &dns],
    ];
    TestAgent::start_in_cluster(namespace.cluster().kubeconfig(), flags.as_flattened())
}

fn external(namespace: &Namespace<'_>, name: &str, external_name: &str, port: u16) -> Done {
    namespace.apply(&format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{type: ExternalName, externalName: {external_name}, \
         ports: [{{name: http, port: 80, targetPort: {port}}}]}}\n"
    ))?;
    apply(namespace, name, name)
}

#[test]
fn what_the_api_server_accepts_and_is_wrong_is_told_on_its_object_once_and_hurts_nobody_else() -> Done {
    let cluster = crate::cluster()?;
    let namespace = cluster.namespace("mistakes")?;
    let dns = DnsServer::start()?;
    let agent = agent(&namespace, &dns)?;
    let pod = namespace.pod("web")?;
    namespace.service("web", &[&pod])?;
    apply(&namespace, "web", "web")?;
    agent.get_until(&url(&namespace, "web"), |answer| answer.backend() == "web")?;
    let load = Load::start(&url(&namespace, "web"), agent.http, 100)?;

    // A port name that no slice has.
    namespace.service("unnamed", &[&pod])?;
    namespace.apply(
        "apiVersion: v1\nkind: Service\nmetadata: {name: unnamed}\nspec: {ports: [{name: web, port: 80, targetPort: web}]}\n",
    )?;
    apply(&namespace, "unnamed", "unnamed")?;
    // A port that the Service has not.
    apply(&namespace, "portless", "web:8443")?;
    // No Service.
    apply(&namespace, "nowhere", "nowhere")?;
    // A Secret that holds something else.
    namespace.apply("apiVersion: v1\nkind: Secret\ntype: Opaque\nmetadata: {name: password}\nstringData: {password: secret}\n")?;
    let secure = host(&namespace, "secure");
    let with_secret = |host: &str| {
        namespace
            .ingress("secure")
            .tls(&[&secure], "password")
            .host(host)
            .prefix("/", "web")
    };
    namespace.apply_ingress(&with_secret(&secure))?;
    // Names that lead to the node, to ourselves, to nothing, and round in a circle.
    dns.set("loopback.example", [127, 0, 0, 1], 300);
    dns.set("metadata.example", [169, 254, 169, 254], 300);
    external(&namespace, "loopback", "loopback.example.", 22)?;
    external(&namespace, "metadata", "metadata.example", 80)?;
    external(&namespace, "nothing", "nothing.example", 80)?;
    let circle = |to: &str| format!("{to}.{}.svc.cluster.local", namespace.name());
    external(&namespace, "here", &circle("there"), 80)?;
    external(&namespace, "there", &circle("here"), 80)?;
    // A thousand rules in one object.
    let many = (0..1000).fold(namespace.ingress("many"), |ingress, index| {
        ingress
            .host(&format!("many-{index}.{}.test", namespace.name()))
            .prefix("/", "web")
    });
    namespace.apply_ingress(&many)?;

    let wrong = [
        ("Service", "unnamed", "EndpointPortNotFound"),
        ("Ingress", "portless", "ServicePortNotFound"),
        ("Ingress", "nowhere", "ServiceNotFound"),
        ("Ingress", "secure", "SecretUnusable"),
        ("Service", "loopback", "EndpointAddressRefused"),
        ("Service", "metadata", "EndpointAddressRefused"),
        ("Service", "nothing", "ExternalNameUnresolved"),
        ("Service", "here", "ExternalNameUnresolved"),
        ("Service", "there", "ExternalNameUnresolved"),
    ];
    for (kind, name, reason) in wrong {
        agent.diagnostic(&format!("{kind} {}/{name}", namespace.name()), reason)?;
    }
    for (name, served_by) in [
        ("unnamed", "503 no_endpoints"),
        ("portless", "503 port_missing"),
        ("nowhere", "503 service_missing"),
        ("loopback", "503 no_endpoints"),
        ("metadata", "503 no_endpoints"),
        ("here", "503 no_endpoints"),
        ("many-0", "web"),
        ("many-999", "web"),
    ] {
        agent.get_until(&url(&namespace, name), |answer| answer.served_by() == served_by)?;
    }
    // The host with a trailing dot is the host (RFC 9110, 4.2.3 by RFC 3986, 3.2.2); as a rule's host the API server refuses it.
    let absolute = Request::get(&format!("http://{}./", host(&namespace, "web")))?.ask(agent.http)?;
    assert_eq!(absolute.backend(), "web");
    let dotted = namespace
        .ingress("dotted")
        .host("dotted.test.")
        .prefix("/", "web");
    assert!(namespace.apply_ingress(&dotted).is_err());

    let told = |kind: &str, name: &str, reason: &str| format!("{kind} {name} {reason}");
    wait_until("an Event on each", || {
        let events = events(&namespace)?;
        let missing: Vec<_> = wrong
            .iter()
            .filter(|(kind, name, reason)| !events.contains_key(&told(kind, name, reason)))
            .collect();
        anyhow::ensure!(missing.is_empty(), "missing: {missing:?}; there is: {events:?}");
        Ok(true)
    })?;
    // An edit that leaves the mistake in place, and a new one, whose Event shows that the edit was seen.
    let other = host(&namespace, "other");
    namespace.apply_ingress(&with_secret(&other))?;
    agent.get_until(&url(&namespace, "other"), |answer| answer.backend() == "web")?;
    apply(&namespace, "late", "late")?;
    wait_until("an Event on the new one", || {
        Ok(events(&namespace)?.contains_key("Ingress late ServiceNotFound"))
    })?;
    for (kind, name, reason) in wrong {
        assert_eq!(
            events(&namespace)?.get(&told(kind, name, reason)),
            Some(&1),
            "{kind} {name}"
        );
    }
    load.finish().map(drop)
}
