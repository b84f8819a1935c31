//! From a Service to its endpoints: ports, slices, families, conditions, and what is missing.

use std::net::SocketAddr;

use ingress_tests::{Echo, Ingress, Manifests, Refusing, Site, TestAgent};

use crate::Done;

fn ingress(service: &str) -> Ingress {
    Ingress::new("web").host("web.test").prefix("/", service)
}

/// Our class, one Ingress for `web.test`, and this text as another file.
fn serving(service: &str, objects: &str) -> anyhow::Result<(Manifests, TestAgent)> {
    let manifests = Manifests::new()?;
    manifests
        .our_class()?
        .ingress(&ingress(service))?
        .write("objects.yaml", objects)?;
    let agent = TestAgent::start(&manifests)?;
    Ok((manifests, agent))
}

fn service(spec: &str) -> String {
    format!("---\napiVersion: v1\nkind: Service\nmetadata: {{name: web}}\nspec: {{{spec}}}\n")
}

/// A slice made by hand; `label` is left out where it is empty.
fn slice(name: &str, ports: &str, address: SocketAddr) -> String {
    let family = if address.is_ipv4() { "IPv4" } else { "IPv6" };
    format!(
        "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: {name}, labels: {{kubernetes.io/service-name: web}}}}\n\
         addressType: {family}\nports: [{ports}]\nendpoints: [{{addresses: [\"{}\"]}}]\n",
        address.ip()
    )
}

fn refusal(objects: &str, service: &str) -> anyhow::Result<(u16, String)> {
    let (_manifests, agent) = serving(service, objects)?;
    let answer = agent.get("http://web.test/")?;
    Ok((answer.status, answer.reason().to_owned()))
}

#[test]
fn a_service_port_is_found_by_number_and_by_name() -> Done {
    let (http, admin) = (Echo::start("http")?, Echo::start("admin")?);
    let ports = |a: &Echo, b: &Echo| {
        format!(
            "{{name: http, port: {}}}, {{name: admin, port: {}}}",
            a.address().port(),
            b.address().port()
        )
    };
    let objects = service(
        "ports: [{name: http, port: 80, targetPort: web}, {name: admin, port: 8080, targetPort: adm}]",
    ) + &slice("web-1", &ports(&http, &admin), http.address());
    for (backend, expected) in [
        ("web:80", "http"),
        ("web:http", "http"),
        ("web:8080", "admin"),
        ("web:admin", "admin"),
    ] {
        let (_manifests, agent) = serving(backend, &objects)?;
        assert_eq!(agent.get("http://web.test/")?.served_by(), expected, "{backend}");
    }
    Ok(())
}

#[test]
fn several_slices_serve_one_port_each_with_its_own_number_and_family() -> Done {
    let echoes = [
        Echo::start("one")?,
        Echo::start("two")?,
        Echo::start_on("six", "[::1]:0".parse()?)?,
    ];
    let slices: String = echoes
        .iter()
        .zip(["a", "b", "c"])
        .map(|(echo, name)| {
            slice(
                name,
                &format!("{{name: http, port: {}}}", echo.address().port()),
                echo.address(),
            )
        })
        .collect();
    let (_manifests, agent) = serving("web", &(service("ports: [{name: http, port: 80}]") + &slices))?;
    for _ in 0..60 {
        assert_eq!(agent.get("http://web.test/")?.status, 200);
    }
    for echo in &echoes {
        assert!(echo.requests() > 0, "{} was never asked", echo.address());
    }
    Ok(())
}

#[test]
fn an_endpoint_that_is_not_ready_gets_nothing_and_one_that_terminates_is_the_last_resort() -> Done {
    let site = Site::new(&[ingress("web")])?;
    let (ready, draining, cold) = (
        Echo::start("ready")?,
        Echo::start("draining")?,
        Echo::start("cold")?,
    );
    let terminating = (
        draining.address(),
        "ready: false, serving: true, terminating: true",
    );
    let not_ready = (cold.address(), "ready: false, serving: false, terminating: false");
    site.manifests
        .endpoints_with("web", &[(ready.address(), "ready: true"), terminating, not_ready])?;
    let agent = site.start()?;
    for _ in 0..20 {
        assert_eq!(agent.get("http://web.test/")?.served_by(), "ready");
    }
    site.manifests.endpoints_with("web", &[terminating, not_ready])?;
    agent.get_until("http://web.test/", |answer| answer.backend() == "draining")?;
    site.manifests.endpoints_with("web", &[not_ready])?;
    let answer = agent.get_until("http://web.test/", |answer| answer.status == 503)?;
    assert_eq!(answer.reason(), "endpoints_not_ready");
    site.manifests.endpoints_with("web", &[(cold.address(), "")])?;
    agent.get_until("http://web.test/", |answer| answer.backend() == "cold")?;
    assert_eq!(cold.requests(), 1, "it got nothing before");
    Ok(())
}

#[test]
fn headless_services_and_hand_made_slices_serve() -> Done {
    let echo = Echo::start("pod")?;
    let port = echo.address().port();
    let headless = service(&format!("clusterIP: None, ports: [{{name: http, port: {port}}}]"));
    let objects = headless
        + &slice(
            "by-hand",
            &format!("{{name: http, port: {port}}}"),
            echo.address(),
        );
    let (_manifests, agent) = serving("web:http", &objects)?;
    assert_eq!(agent.get("http://web.test/")?.served_by(), "pod");
    let unnamed =
        service("ports: [{port: 80}]") + &slice("by-hand", &format!("{{port: {port}}}"), echo.address());
    let (_manifests, agent) = serving("web", &unnamed)?;
    assert_eq!(agent.get("http://web.test/")?.served_by(), "pod");
    Ok(())
}

#[test]
fn a_slice_whose_port_has_another_name_than_the_services_is_explained() -> Done {
    let echo = Echo::start("pod")?;
    let port = format!("{{name: web, port: {}}}", echo.address().port());
    let (_manifests, agent) = serving(
        "web",
        &(service("ports: [{name: http, port: 80}]") + &slice("by-hand", &port, echo.address())),
    )?;
    assert_eq!(agent.get("http://web.test/")?.reason(), "no_endpoints");
    let message = agent.diagnostic("Service default/web", "EndpointPortNotFound")?;
    assert!(
        message.contains("\"http\"") && message.contains("\"web\""),
        "{message}"
    );
    Ok(())
}

#[test]
fn what_is_missing_between_route_and_endpoint_is_said_with_503() -> Done {
    let ports = service("ports: [{name: http, port: 80}]");
    for (objects, backend, reason) in [
        ("", "web", "service_missing"),
        (&ports[..], "web:81", "port_missing"),
        (&ports, "web:https", "port_missing"),
        (&ports, "web", "no_endpoints"),
    ] {
        assert_eq!(refusal(objects, backend)?, (503, reason.to_owned()));
    }
    Ok(())
}

#[test]
fn a_missing_service_is_told_on_the_ingress_and_served_when_it_comes() -> Done {
    let (manifests, agent) = serving("web", "")?;
    assert_eq!(agent.get("http://web.test/")?.reason(), "service_missing");
    agent.diagnostic("Ingress default/web", "ServiceNotFound")?;
    let echo = Echo::start("web")?;
    manifests.service("web", &[echo.address()])?;
    agent.get_until("http://web.test/", |answer| answer.backend() == "web")?;
    agent.wait_until("nothing is wrong", |agent| Ok(agent.diagnostics()?.is_empty()))?;
    Ok(())
}

#[test]
fn a_resource_backend_is_unsupported_and_said_so() -> Done {
    let site = Site::new(&[])?;
    site.manifests.write(
        "resource.yaml",
        "apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {name: bucket}\nspec:\n  rules:\n  - host: web.test\n    http:\n      \
         paths: [{path: /, pathType: Prefix, backend: {resource: {apiGroup: k8s.example.com, kind: Bucket, name: assets}}}]\n",
    )?;
    let agent = site.start()?;
    let answer = agent.get("http://web.test/")?;
    assert_eq!((answer.status, answer.reason()), (500, "route_invalid"));
    let message = agent.diagnostic("Ingress default/bucket", "Unsupported")?;
    assert!(
        message.contains("Bucket") && message.contains("only Services"),
        "{message}"
    );
    Ok(())
}

#[test]
fn an_external_name_that_resolves_serves() -> Done {
    let echo = Echo::start("outside")?;
    let spec = format!(
        "type: ExternalName, externalName: localhost, ports: [{{name: http, port: 80, targetPort: {}}}]",
        echo.address().port()
    );
    let (_manifests, agent) = serving("web", &service(&spec))?;
    agent.get_until("http://web.test/", |answer| answer.backend() == "outside")?;
    Ok(())
}

#[test]
fn a_backend_that_refuses_is_502_and_another_endpoint_is_asked_where_there_is_one() -> Done {
    let refusing = Refusing::new()?;
    let gone = refusing.address();
    let site = Site::new(&[ingress("web")])?;
    site.manifests.endpoints("web", &[gone])?;
    let agent = site.start()?;
    let answer = agent.get("http://web.test/")?;
    assert_eq!((answer.status, answer.reason()), (502, "upstream_refused"));
    site.manifests
        .endpoints("web", &[gone, site.backend("web")?.address()])?;
    agent.get_until("http://web.test/", |answer| answer.status == 200)?;
    for _ in 0..20 {
        assert_eq!(agent.get("http://web.test/")?.served_by(), "web");
    }
    Ok(())
}

#[test]
fn an_endpoint_that_is_our_own_listener_is_refused_and_told() -> Done {
    let site = Site::new(&[ingress("web")])?;
    let agent = site.start()?;
    let real = site.backend("web")?.address();
    for ourselves in [agent.http, agent.https, agent.admin] {
        site.manifests.endpoints("web", &[ourselves])?;
        let answer = agent.get_until("http://web.test/", |answer| answer.status != 200)?;
        assert_eq!(
            (answer.status, answer.reason()),
            (503, "no_endpoints"),
            "{ourselves}"
        );
        let told = |(_, _, message): &(String, String, String)| message.contains(&ourselves.to_string());
        agent.wait_until("the loop is told", |agent| {
            Ok(agent.diagnostics()?.iter().any(told))
        })?;
        site.manifests.endpoints("web", &[real])?;
        agent.get_until("http://web.test/", |answer| answer.status == 200)?;
    }
    Ok(())
}
