//! What a change of the source does to the live state, and what it leaves alone.

use std::sync::Mutex;

use ingress_core::name::{Kind, ObjectRef};

use super::*;
use crate::objects::Key;
use crate::translate::tests::{add, options, world};

const WORLD: &str = r#"
kind: IngressClass
metadata: {name: ingress-agent}
spec: {controller: ingress-agent.io/controller}
---
kind: Ingress
metadata: {name: web}
spec:
  ingressClassName: ingress-agent
  defaultBackend: {service: {name: a, port: {number: 80}}}
  rules:
  - http: {paths: [{path: /b, pathType: Prefix, backend: {service: {name: b, port: {number: 80}}}}]}
---
kind: Service
metadata: {name: a}
spec: {ports: [{port: 80}]}
---
kind: Service
metadata: {name: b}
spec: {ports: [{port: 80}]}
"#;

fn slice(service: &str, address: &str, port_name: &str) -> String {
    format!(
        "kind: EndpointSlice\nmetadata: {{name: {service}-1, labels: {{kubernetes.io/service-name: {service}}}}}\naddressType: IPv4\nports: [{{name: \"{port_name}\", port: 8080}}]\nendpoints: [{{addresses: [\"{address}\"]}}]\n"
    )
}

fn publisher() -> (Publisher, Arc<Mutex<Vec<Report>>>) {
    let reports = Arc::new(Mutex::new(Vec::new()));
    let told = Arc::clone(&reports);
    let publisher = Publisher::new(Setup {
        options: options(),
        default_certificate: crate::proxy::tls::self_signed().unwrap(),
        started: Instant::now(),
        series: SharedSeries::default(),
        prepare: Box::new(|_| ()),
        announce: Box::new(move |report| told.lock().unwrap().push(report)),
        want_names: Box::new(|_| {}),
        listeners: vec!["127.0.0.1:8080".parse().unwrap()],
        trust: Trust::Folder,
    });
    (publisher, reports)
}

fn state(objects: &Objects) -> Option<SourceState> {
    Some(SourceState {
        objects: objects.clone(),
        diagnostics: Vec::new(),
    })
}

/// The endpoint set of a Service's only cluster, to be compared by identity.
fn endpoints(publisher: &Publisher, service: &str) -> *const () {
    let live = publisher.live.load();
    let mut clusters = live.snapshot.clusters();
    let cluster = clusters.find(|c| &*c.key.service.name == service).unwrap();
    Arc::as_ptr(&cluster.endpoints()).cast()
}

fn reasons(publisher: &Publisher) -> Vec<&'static str> {
    publisher.diagnostics.iter().map(|d| d.reason).collect()
}

#[test]
fn an_endpoint_change_touches_only_the_clusters_of_its_service_and_no_route() {
    let (mut publisher, reports) = publisher();
    let mut objects = world(WORLD);
    add(&mut objects, &slice("a", "192.0.2.1", ""));
    add(&mut objects, &slice("b", "192.0.2.2", ""));
    publisher.apply(state(&objects), None);
    let (a, b) = (endpoints(&publisher, "a"), endpoints(&publisher, "b"));
    add(&mut objects, &slice("b", "192.0.2.3", ""));
    publisher.apply(state(&objects), None);
    assert_eq!(endpoints(&publisher, "a"), a);
    assert_ne!(endpoints(&publisher, "b"), b);
    objects.endpoint_slices.remove(&Key::new("shop", "a-1"));
    publisher.apply(state(&objects), None);
    assert_ne!(endpoints(&publisher, "a"), a);
    let generations: Vec<_> = reports.lock().unwrap().iter().map(|r| r.generation).collect();
    assert_eq!(generations, [1, 1, 1]);
}

#[test]
fn problems_of_endpoints_come_and_go_with_them_and_with_nothing_else() {
    let (mut publisher, _) = publisher();
    let mut objects = world(WORLD);
    add(&mut objects, &slice("a", "127.0.0.1", ""));
    add(&mut objects, &slice("b", "192.0.2.2", "other"));
    publisher.apply(state(&objects), None);
    let mut both = reasons(&publisher);
    both.sort_unstable();
    assert_eq!(both, ["EndpointIsOurselves", "EndpointPortNotFound"]);
    add(&mut objects, &slice("b", "192.0.2.2", ""));
    publisher.apply(state(&objects), None);
    assert_eq!(reasons(&publisher), ["EndpointIsOurselves"]);
    add(&mut objects, &slice("b", "not-an-address", ""));
    add(&mut objects, &slice("a", "192.0.2.1", ""));
    publisher.apply(state(&objects), None);
    assert_eq!(reasons(&publisher), ["InvalidAddress"]);
}

#[test]
fn certificates_are_judged_again_when_an_hour_has_passed_without_any_change() {
    let (mut publisher, reports) = publisher();
    let objects = world(WORLD);
    publisher.apply(state(&objects), None);
    publisher.apply(None, None);
    let key = CertificateKey(Arc::new(ObjectRef::new(Kind::Secret, "shop", "web-tls")));
    publisher.certificates = BTreeMap::from([(key.clone(), 0)]);
    publisher.apply(None, None);
    // No machine can go back an hour before its start: the clock of the last look is moved only where it can be.
    let Some(an_hour_ago) = Instant::now().checked_sub(RECHECK) else {
        return;
    };
    publisher.translated = an_hour_ago;
    publisher.apply(state(&objects), None);
    let generations: Vec<_> = reports.lock().unwrap().iter().map(|r| r.generation).collect();
    assert_eq!(generations, [1, 1, 1, 2]);
    publisher.translated = an_hour_ago;
    publisher.certificates = BTreeMap::from([(key, 0)]);
    publisher.apply(None, None);
    assert_eq!(publisher.live.load().generation, 3);
}

/// Measures, and judges no time: `--nocapture` shows what an EndpointSlice event costs beside 10,000 Ingresses and as many problems.
#[test]
fn an_endpoint_change_beside_ten_thousand_ingresses_compiles_no_route() {
    const SERVICES: usize = 1000;
    let (mut publisher, reports) = publisher();
    let mut objects = world(WORLD);
    for index in 0..10_000 {
        let ingress = serde_json::json!({
            "metadata": {"namespace": "shop", "name": format!("web-{index}")},
            "spec": {
                "ingressClassName": "ingress-agent",
                "tls": [{"hosts": [format!("h{index}.example")], "secretName": "missing"}],
                "rules": [{"host": format!("h{index}.example"), "http": {"paths": [{
                    "path": "/", "pathType": "Prefix",
                    "backend": {"service": {"name": format!("s{}", index % SERVICES), "port": {"number": 80}}},
                }]}}],
            },
        });
        let key = Key::new("shop", format!("web-{index}"));
        let ingress = Arc::new(serde_json::from_value(ingress).unwrap());
        objects.ingresses.insert(key, ingress);
    }
    let slice = |service: usize, last: usize| {
        let endpoint = |host| serde_json::json!({"addresses": [format!("10.0.{host}.{last}")]});
        let slice = serde_json::json!({
            "metadata": {"labels": {"kubernetes.io/service-name": format!("s{service}")}},
            "addressType": "IPv4",
            "ports": [{"name": "", "port": 8080}],
            "endpoints": (0..100).map(endpoint).collect::<Vec<_>>(),
        });
        Arc::new(serde_json::from_value(slice).unwrap())
    };
    for index in 0..SERVICES {
        let service = serde_json::json!({"metadata": {}, "spec": {"ports": [{"port": 80}]}});
        let service = Arc::new(serde_json::from_value(service).unwrap());
        let key = Key::new("shop", format!("s{index}"));
        objects.services.insert(key.clone(), service);
        objects.endpoint_slices.insert(key, slice(index, 1));
    }
    publisher.apply(state(&objects), None);
    let mut times = Vec::new();
    for last in 2..52 {
        let new = slice(7, last);
        let begun = Instant::now();
        objects.endpoint_slices.insert(Key::new("shop", "s7"), new);
        publisher.apply(state(&objects), None);
        times.push(begun.elapsed());
    }
    times.sort();
    println!(
        "an endpoint change: median {:?}, slowest {:?}",
        times[25], times[49]
    );
    let reports = reports.lock().unwrap();
    assert!(reports.iter().all(|report| report.generation == 1));
    assert!(reports[0].diagnostics.len() >= 10_000);
}
