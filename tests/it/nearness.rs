//! Endpoints of the agent's own zone come first, in a folder as in a cluster, until they are overloaded.

use ingress_tests::{Echo, Ingress, Manifests, TestAgent};

use crate::Done;
use crate::balance::ask_from;

/// A Node in zone a, and a Service that prefers its zone, with one backend in it and one in another.
fn folder(near: &Echo, far: &Echo) -> anyhow::Result<Manifests> {
    let manifests = Manifests::new()?;
    manifests.our_class()?;
    manifests.ingress(&Ingress::new("web").host("web.test").prefix("/", "web"))?;
    let slice = |zone: &str, backend: &Echo| {
        let address = backend.address();
        format!(
            "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: web-{zone}\n  labels: {{kubernetes.io/service-name: web}}\n\
             addressType: IPv4\nports: [{{name: http, port: {}}}]\nendpoints: [{{addresses: [\"{}\"], zone: {zone}}}]\n",
            address.port(),
            address.ip()
        )
    };
    let text = format!(
        "apiVersion: v1\nkind: Node\nmetadata: {{name: n1, labels: {{topology.kubernetes.io/zone: a}}}}\n---\n\
         apiVersion: v1\nkind: Service\nmetadata: {{name: web}}\nspec:\n  trafficDistribution: PreferSameZone\n  ports: [{{name: http, port: 80}}]\n{}{}",
        slice("a", near),
        slice("b", far)
    );
    manifests.write("zones.yaml", &text)?;
    Ok(manifests)
}

/// Requests that are all in flight together, over and over.
fn ask_at_once(clients: usize, agent: &TestAgent) -> Done {
    ask_from(clients, 5, agent, "http://web.test/?delay=100")
}

#[test]
fn in_a_folder_too_endpoints_of_the_zone_come_first_and_spill_over_under_load() -> Done {
    let (near, far) = (Echo::start("near")?, Echo::start("far")?);
    let manifests = folder(&near, &far)?;
    let agent = TestAgent::start_with(&manifests, &["--node-name", "n1"])?;
    for _ in 0..30 {
        assert_eq!(agent.get("http://web.test/")?.backend(), "near");
    }
    assert_eq!(far.requests(), 0);
    ask_at_once(48, &agent)?;
    let (near, far) = (near.requests(), far.requests());
    assert!(far > 0 && near > far, "{near} near, {far} far");
    let other = TestAgent::start_with(&manifests, &["--node-name", "n1", "--zone", "b"])?;
    assert_eq!(other.get("http://web.test/")?.backend(), "far");
    Ok(())
}
