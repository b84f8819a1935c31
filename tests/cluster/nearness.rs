//! Namespaces and the agent's own Node: whose endpoints come first, and whose Ingresses give way.

use ingress_tests::{Namespace, Pod, TestAgent};

use crate::Done;
use crate::access::Account;
use crate::lab::wait_until;

fn url(namespace: &Namespace<'_>) -> String {
    format!("http://web.{}.test/", namespace.name())
}

/// A Node that nothing runs on, in a zone; gone when dropped.
struct FakeNode<'n>(&'n Namespace<'n>);

impl FakeNode<'_> {
    fn name(&self) -> String {
        format!("{}-node", self.0.name())
    }

    fn move_to(&self, zone: &str) -> Done {
        self.0.cluster().apply(&format!(
            "apiVersion: v1\nkind: Node\nmetadata: {{name: {}, labels: {{topology.kubernetes.io/zone: {zone}}}}}\n",
            self.name()
        ))
    }
}

impl Drop for FakeNode<'_> {
    fn drop(&mut self) {
        let arguments = ["delete", "node", &self.name(), "--wait=false"];
        // The cluster ends soon anyway.
        let _ = self.0.cluster().kubectl(&arguments, "");
    }
}

/// A Service `web` with this in its `spec`, and a slice with these endpoints, each with more fields of its own.
fn web(namespace: &Namespace<'_>, spec: &str, endpoints: &[(&Pod, &str)]) -> Done {
    let endpoints: Vec<_> = endpoints
        .iter()
        .map(|(pod, fields)| {
            let ip = pod.address().ip();
            format!("{{addresses: [{ip}], conditions: {{ready: true}}, {fields}}}")
        })
        .collect();
    namespace.apply(&format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: web}}\nspec: {{{spec}ports: [{{name: http, port: 80, targetPort: http}}]}}\n---\n\
         apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: web-1\n  \
         labels: {{kubernetes.io/service-name: web, endpointslice.kubernetes.io/managed-by: ingress-agent-tests}}\n\
         addressType: IPv4\nports: [{{name: http, port: {}, protocol: TCP}}]\nendpoints: [{}]\n",
        Pod::PORT,
        endpoints.join(", ")
    ))
}

/// Every answer comes from this pod, from some moment on.
fn all_by(agent: &TestAgent, namespace: &Namespace<'_>, pod: &str) -> Done {
    wait_until(&format!("all answers by {pod}"), || {
        for _ in 0..8 {
            if agent.get(&url(namespace))?.backend() != pod {
                return Ok(false);
            }
        }
        Ok(true)
    })
}

#[test]
fn endpoints_of_the_own_zone_come_first_while_there_are_any_and_the_zone_is_that_of_the_own_node() -> Done {
    let cluster = crate::cluster()?;
    let namespace = cluster.namespace("zones")?;
    let node = FakeNode(&namespace);
    node.move_to("a")?;
    let (near, far) = (namespace.pod("near")?, namespace.pod("far")?);
    let close = "trafficDistribution: PreferClose, ";
    web(&namespace, close, &[(&near, "zone: a"), (&far, "zone: b")])?;
    let host = format!("web.{}.test", namespace.name());
    namespace.apply_ingress(&namespace.ingress("web").host(&host).prefix("/", "web"))?;
    let name = node.name();
    let flags = ["--watch-namespaces", namespace.name(), "--node-name", &name];
    let agent = TestAgent::start_in_cluster(cluster.kubeconfig(), &flags)?;
    all_by(&agent, &namespace, "near")?;
    let config = agent.admin("/config")?.text();
    assert!(config.contains("\"nearness\": \"same_zone\""), "{config}");
    // Endpoints alone: their fast lane.
    web(&namespace, close, &[(&far, "zone: b")])?;
    all_by(&agent, &namespace, "far")?;
    web(&namespace, close, &[(&near, "zone: a"), (&far, "zone: b")])?;
    all_by(&agent, &namespace, "near")?;
    node.move_to("b")?;
    all_by(&agent, &namespace, "far")?;
    // Hints go before zones: this one lends the zone an endpoint of another.
    let hint = "zone: a, hints: {forZones: [{name: b}]}";
    web(
        &namespace,
        close,
        &[(&near, hint), (&far, "zone: b, hints: {forZones: [{name: a}]}")],
    )?;
    all_by(&agent, &namespace, "near")
}

#[test]
fn without_rights_on_nodes_and_namespaces_an_agent_says_what_is_off_and_serves() -> Done {
    let cluster = crate::cluster()?;
    let namespace = cluster.namespace("placeless")?;
    let account = Account::create(&namespace)?;
    account.forget_namespaces()?;
    let folder = tempfile::tempdir()?;
    let kubeconfig = account.write_kubeconfig(folder.path())?;
    let pod = namespace.pod("web")?;
    web(
        &namespace,
        "trafficDistribution: PreferClose, ",
        &[(&pod, "zone: a")],
    )?;
    let host = format!("web.{}.test", namespace.name());
    namespace.apply_ingress(&namespace.ingress("web").host(&host).prefix("/", "web"))?;
    let flags = ["--watch-namespaces", namespace.name(), "--node-name", "n1"];
    let agent = TestAgent::start_in_cluster(&kubeconfig, &flags)?;
    all_by(&agent, &namespace, "web")?;
    let service = format!("Service {}/web", namespace.name());
    agent.diagnostic(&service, "PlaceUnknown")?;
    assert_eq!(agent.metric("ingress_agent_source_connected", &[])?, 1.0);
    Ok(())
}

#[test]
fn an_ingress_whose_namespace_is_being_deleted_gives_way_and_serves_where_nobody_else_does() -> Done {
    let cluster = crate::cluster()?;
    let (old, new) = (cluster.namespace("going")?, cluster.namespace("staying")?);
    let (first, second) = (old.pod("old")?, new.pod("new")?);
    old.service("web", &[&first])?;
    new.service("web", &[&second])?;
    let host = format!("web.{}.test", old.name());
    let alone = format!("alone.{}.test", old.name());
    let class = old.name();
    let finalizers = |name: &str, value: &str| {
        let patch = format!(r#"{{"metadata":{{"finalizers":{value}}}}}"#);
        let arguments = [
            "patch",
            "ingress",
            name,
            "-n",
            old.name(),
            "--type=merge",
            "-p",
            &patch,
        ];
        cluster.kubectl(&arguments, "").map(drop)
    };
    // What the namespace's end would take at once is held for a while.
    let held = |name: &str, host: &str| {
        let ingress = old.ingress(name).host(host).prefix("/", "web");
        old.apply_ingress(&ingress)?;
        finalizers(name, r#"["tests.ingress-agent.io/held"]"#)
    };
    held("web", &host)?;
    held("alone", &alone)?;
    let flags = ["--watch-namespaces", old.name(), "--watch-namespaces", new.name()];
    let agent = TestAgent::start_in_cluster(cluster.kubeconfig(), &flags)?;
    agent.get_until(&url(&old), |answer| answer.backend() == "old")?;
    new.apply_ingress(&new.ingress("web").class(class).host(&host).prefix("/", "web"))?;
    agent.diagnostic(&format!("Ingress {}/web", new.name()), "RouteConflict")?;
    assert_eq!(agent.get(&url(&old))?.backend(), "old", "it is older");
    cluster.kubectl(&["delete", "namespace", old.name(), "--wait=false"], "")?;
    agent.get_until(&url(&old), |answer| answer.backend() == "new")?;
    agent.diagnostic(&format!("Ingress {}/web", old.name()), "NamespaceTerminating")?;
    // Its Service goes with the namespace, or has gone: the route is still its own.
    let answer = agent.get(&format!("http://{alone}/"))?;
    assert_ne!(answer.served_by(), "404 host_unknown");
    for name in ["web", "alone"] {
        finalizers(name, "null")?;
    }
    Ok(())
}
