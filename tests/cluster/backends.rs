//! Backends of every kind through the real API server: how a port is named, where a Service's endpoints are, what is spoken to them; and whose they
//! are where two want the same.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::process::{Command, Stdio};

use anyhow::Context;
use ingress_tests::dns::DnsServer;
use ingress_tests::{Echo, Namespace, TestAgent};

use crate::Done;
use crate::lab::wait_until;

/// The name of the record, which is the Service's `externalName`.
const OUTSIDE: &str = "outside.example";
/// What a header of PROXY protocol version 2 begins with.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// A slice of this Service, with what its endpoints are.
fn slice(service: &str, number: u32, address: SocketAddr, port_name: &str) -> String {
    let family = if address.is_ipv6() { "IPv6" } else { "IPv4" };
    format!(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: {service}-{number}\n  \
         labels: {{kubernetes.io/service-name: {service}, endpointslice.kubernetes.io/managed-by: ingress-agent-tests}}\n\
         addressType: {family}\nports: [{{name: {port_name}, port: {}}}]\nendpoints: [{{addresses: [\"{}\"]}}]\n---\n",
        address.port(),
        address.ip()
    )
}

fn service(name: &str, spec: &str) -> String {
    format!("apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{{spec}}}\n---\n")
}

#[test]
fn services_of_every_kind_lead_to_their_pods_through_the_api_server() -> Done {
    let cluster = crate::cluster()?;
    let namespace = cluster.namespace("backends")?;
    let (_, number) = cluster.facts().pods.context("a network of pods: root")?;
    let outside = Ipv4Addr::new(198, 18, number, 1);
    let (one, two) = (namespace.pod("one")?, namespace.pod("two")?);
    let (elsewhere, six) = (Echo::start_on("elsewhere", (outside, 0).into())?, sixth(number)?);
    let proxied = expects_proxy_protocol(outside)?;
    let (dns, external) = (DnsServer::start()?, elsewhere.address().port());
    dns.set(OUTSIDE, outside.octets(), 300);
    let two_ports = "ports: [{name: web, port: 80}, {name: admin, port: 8081}]";
    let mut manifests = [
        service("ports", two_ports),
        slice("ports", 1, one.address(), "web"),
        // Another slice of the same Service, with another of its ports.
        slice("ports", 2, two.address(), "admin"),
        service("headless", &format!("clusterIP: None, {two_ports}")),
        slice("headless", 1, one.address(), "web"),
        service(
            "far",
            &format!(
                "type: ExternalName, externalName: {OUTSIDE}, ports: [{{port: 80, targetPort: {external}}}]"
            ),
        ),
        service("six", "ipFamilies: [IPv4], ports: [{name: web, port: 80}]"),
        service("proxied", "ports: [{name: web, port: 80}]"),
        slice("proxied", 1, proxied, "web"),
    ]
    .concat();
    if let Some(six) = &six {
        manifests.push_str(&slice("six", 1, six.address(), "web"));
    }
    namespace.apply(&manifests)?;
    let rules = [
        ("by-number", "ports:80", "one"),
        ("by-name", "ports:web", "one"),
        ("other-number", "ports:8081", "two"),
        ("other-name", "ports:admin", "two"),
        ("headless", "headless:web", "one"),
        ("far", "far", "elsewhere"),
        ("six", "six", "six"),
        ("proxied", "proxied", "proxied"),
    ];
    let host = |name: &str| format!("{name}.{}.test", namespace.name());
    for (name, backend, _) in rules {
        let mut ingress = namespace.ingress(name).host(&host(name)).prefix("/", backend);
        if name == "proxied" {
            ingress = ingress.annotation("ingress-agent.io/upstream-proxy-protocol", "v2");
        }
        namespace.apply_ingress(&ingress)?;
    }
    let dns = dns.address().to_string();
    let flags = ["--watch-namespaces", namespace.name(), "--dns-server", &dns];
    let agent = TestAgent::start_in_cluster(cluster.kubeconfig(), &flags)?;
    for (name, _, server) in rules {
        if name == "six" && six.is_none() {
            continue;
        }
        // A name outside is asked for after the start.
        agent.get_until(&format!("http://{}/", host(name)), |answer| {
            answer.backend() == server
        })?;
    }
    missing_port_is_told(&namespace, &agent)
}

fn missing_port_is_told(namespace: &Namespace<'_>, agent: &TestAgent) -> Done {
    let host = format!("missing.{}.test", namespace.name());
    namespace.apply_ingress(
        &namespace
            .ingress("missing")
            .host(&host)
            .prefix("/", "ports:metrics"),
    )?;
    agent.get_until(&format!("http://{host}/"), |answer| {
        answer.served_by() == "503 port_missing"
    })?;
    Ok(())
}

/// A backend `six` at an address of IPv6 on this machine's end of the pods' network, which goes with it; none where the machine has no IPv6.
fn sixth(number: u8) -> anyhow::Result<Option<Echo>> {
    if !std::path::Path::new("/proc/net/if_inet6").exists() {
        eprintln!("this machine has no IPv6: not asked over it");
        return Ok(None);
    }
    // Of the range for documentation (RFC 3849).
    let (address, link) = (format!("2001:db8:18:{number:x}::1"), format!("lab{number}"));
    let words = [
        "-6",
        "address",
        "replace",
        &format!("{address}/64"),
        "dev",
        &link,
        "nodad",
    ];
    let added = Command::new("ip").args(words).stdin(Stdio::null()).status()?;
    anyhow::ensure!(added.success(), "ip {}", words.join(" "));
    let address: IpAddr = address.parse()?;
    Ok(Some(Echo::start_on("six", (address, 0).into())?))
}

/// A server named `proxied` that answers only who begins with a header of PROXY protocol version 2; it ends with the process.
fn expects_proxy_protocol(address: Ipv4Addr) -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind((address, 0))?;
    let place = listener.local_addr()?;
    std::thread::Builder::new().spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut seen = Vec::new();
            let mut part = [0; 1024];
            while let Ok(count @ 1..) = stream.read(&mut part) {
                seen.extend_from_slice(&part[..count]);
                if seen.ends_with(b"\r\n\r\n") && seen.len() > SIGNATURE.len() {
                    break;
                }
            }
            if seen.starts_with(SIGNATURE) {
                let answer = b"HTTP/1.1 200 OK\r\nx-backend: proxied\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
                // A client that has gone needs none.
                let _ = stream.write_all(answer);
            }
        }
    })?;
    Ok(place)
}

/// When the API server says that it made this Ingress.
fn created(namespace: &Namespace<'_>, name: &str) -> anyhow::Result<String> {
    let path = format!(
        "/apis/networking.k8s.io/v1/namespaces/{}/ingresses/{name}",
        namespace.name()
    );
    let answer = namespace.cluster().api().get(&path)?;
    let time = answer.body["metadata"]["creationTimestamp"].as_str();
    Ok(time.context("no creationTimestamp")?.to_owned())
}

#[test]
fn the_ingress_that_the_api_server_made_first_has_a_host_and_path_that_two_want() -> Done {
    let namespace = crate::cluster()?.namespace("oldest")?;
    let (one, two) = (namespace.pod("one")?, namespace.pod("two")?);
    namespace.service("one", &[&one])?;
    namespace.service("two", &[&two])?;
    let host = format!("web.{}.test", namespace.name());
    // By its name it would come last.
    let older = namespace.ingress("z-older").host(&host).prefix("/", "one");
    let newer = namespace.ingress("a-newer").host(&host).prefix("/", "two");
    namespace.apply_ingress(&older)?;
    // Times have whole seconds.
    wait_until("one that is newer", || {
        namespace.apply_ingress(&newer)?;
        let is_newer = created(&namespace, "a-newer")? > created(&namespace, "z-older")?;
        if !is_newer {
            namespace.delete("ingress", "a-newer")?;
        }
        Ok(is_newer)
    })?;
    let flags = ["--watch-namespaces", namespace.name()];
    let agent = TestAgent::start_in_cluster(namespace.cluster().kubeconfig(), &flags)?;
    let url = format!("http://{host}/");
    assert_eq!(agent.get(&url)?.backend(), "one");
    agent.diagnostic(&format!("Ingress {}/a-newer", namespace.name()), "RouteConflict")?;
    namespace.delete("ingress", "z-older")?;
    agent.get_until(&url, |answer| answer.backend() == "two")?;
    Ok(())
}
