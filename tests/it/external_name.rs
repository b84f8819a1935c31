//! ExternalName Services, with a DNS server whose answers the test decides.

use ingress_tests::dns::DnsServer;
use ingress_tests::{Echo, Ingress, Manifests, TestAgent};

use crate::Done;

/// `http://SERVICE.test/` goes to the external name `SERVICE.example` at this port.
fn external(manifests: &Manifests, service: &str, port: u16) -> Done {
    let ingress = Ingress::new(service)
        .host(&format!("{service}.test"))
        .prefix("/", service);
    manifests.ingress(&ingress)?.write(
        &format!("service-{service}.yaml"),
        &format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: {service}}}\nspec: {{type: ExternalName, \
             externalName: {service}.example, ports: [{{name: http, port: 80, targetPort: {port}}}]}}\n"
        ),
    )?;
    Ok(())
}

fn start(manifests: &Manifests, dns: &DnsServer) -> anyhow::Result<TestAgent> {
    TestAgent::start_with(manifests, &["--dns-server", &dns.address().to_string()])
}

#[test]
fn a_name_is_asked_again_after_its_ttl_is_followed_and_keeps_its_last_address_when_it_is_gone() -> Done {
    let first = Echo::start("first")?;
    let port = first.address().port();
    let second = Echo::start_on("second", ([127, 0, 0, 2], port).into())?;
    let (manifests, dns) = (Manifests::new()?, DnsServer::start()?);
    manifests.our_class()?;
    external(&manifests, "moving", port)?;
    external(&manifests, "calm", port)?;
    dns.set("moving.example", [127, 0, 0, 1], 1);
    dns.set("calm.example", [127, 0, 0, 1], 300);
    let agent = start(&manifests, &dns)?;
    for url in ["http://moving.test/", "http://calm.test/"] {
        agent.get_until(url, |answer| answer.backend() == "first")?;
    }
    // A question may be asked twice, where the answer takes long.
    let calm = dns.asked("calm.example");
    dns.set("moving.example", [127, 0, 0, 2], 1);
    agent.get_until("http://moving.test/", |answer| answer.backend() == "second")?;
    assert!(second.requests() > 0 && dns.asked("moving.example") > 1);
    dns.remove("moving.example");
    let message = agent.diagnostic("Service default/moving", "ExternalNameUnresolved")?;
    assert!(
        message.contains("\"moving.example\"") && message.contains("last known addresses"),
        "{message}"
    );
    assert_eq!(agent.get("http://moving.test/")?.served_by(), "second");
    assert_eq!(dns.asked("calm.example"), calm, "its TTL is not over");
    Ok(())
}

#[test]
fn requests_do_not_ask_dns() -> Done {
    let (echo, manifests, dns) = (Echo::start("outside")?, Manifests::new()?, DnsServer::start()?);
    manifests.our_class()?;
    external(&manifests, "web", echo.address().port())?;
    dns.set("web.example", [127, 0, 0, 1], 300);
    let agent = start(&manifests, &dns)?;
    agent.get_until("http://web.test/", |answer| answer.backend() == "outside")?;
    let asked = dns.asked("web.example");
    for _ in 0..20 {
        assert_eq!(agent.get("http://web.test/")?.served_by(), "outside");
    }
    assert_eq!(dns.asked("web.example"), asked);
    Ok(())
}

#[test]
fn a_name_that_never_resolved_is_503_and_told_and_one_that_leads_back_to_us_is_refused() -> Done {
    let (manifests, dns) = (Manifests::new()?, DnsServer::start()?);
    manifests.our_class()?;
    external(&manifests, "nowhere", 80)?;
    let agent = start(&manifests, &dns)?;
    let message = agent.diagnostic("Service default/nowhere", "ExternalNameUnresolved")?;
    assert!(message.contains("requests get 503"), "{message}");
    let answer = agent.get("http://nowhere.test/")?;
    assert_eq!((answer.status, answer.reason()), (503, "no_endpoints"));
    dns.set("loop.example", [127, 0, 0, 1], 300);
    external(&manifests, "loop", agent.http.port())?;
    let message = agent.diagnostic("Service default/loop", "EndpointIsOurselves")?;
    assert!(message.contains(&agent.http.to_string()), "{message}");
    let answer = agent.get("http://loop.test/")?;
    assert_eq!((answer.status, answer.reason()), (503, "no_endpoints"));
    Ok(())
}
