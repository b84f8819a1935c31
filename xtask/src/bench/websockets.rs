//! Whether memory stays flat with 1,000 WebSockets opened across 1,000 changes: each is opened under another state of the routes, and none may hold
//! on to the one that it began with.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use super::ask::{self, Kept};
use super::peers::{self, Peer, Running};
use super::site::{self, Site};
use super::{Bench, Case};
use crate::demo::backends::Backends;
use crate::workspace::{self, Profile};

const SOCKETS: u32 = 1000;
const HOST: &str = "socket.bench.test";
/// Hosts that come and go with each change begin here, above those of the site.
const FIRST_HOST: usize = 2_000_000;
const SETTLES_WITHIN: Duration = Duration::from_secs(5);
const PATIENCE: Duration = Duration::from_secs(10);

pub(super) fn run(bench: &Bench<'_>) -> anyhow::Result<()> {
    peers::pin_this_process();
    // The backend is the same for both, so its build does not matter.
    let program = workspace::build("ingress-tests", Profile::Dev)?.join("echo-backend");
    let backends = Backends::start(&program, std::iter::once("socket"))?;
    let backend = backends.address("socket").context("the echo backend")?;
    println!(
        "\n{:<40} {:>10} {:>10} {:>14} {:>11}",
        "case", "before MiB", "open MiB", "KiB/WebSocket", "closed MiB"
    );
    for changing in [false, true] {
        let site = Site::write(bench.options.hosts)?;
        let _backend = Running::backend(&site)?;
        let folder = Folder { site: &site, backend };
        folder.write(0)?;
        let agent = Running::start(Peer::Agent, &site, &bench.programs, &bench.options.agent_flag)?;
        measure(bench, &folder, &agent, changing)?;
    }
    Ok(())
}

fn measure(bench: &Bench<'_>, folder: &Folder<'_>, agent: &Running, changing: bool) -> anyhow::Result<()> {
    let mut asked = Kept::open(agent.ports.http)?;
    folder.changed(0, &mut asked)?;
    drop(open(agent.ports.http)?);
    bench.pause(SETTLES_WITHIN)?;
    let before = agent.rss_kib()?;
    let mut sockets = Vec::new();
    for number in 1..=SOCKETS {
        bench.go_on()?;
        if changing {
            folder.write(number as usize)?;
            folder.changed(number as usize, &mut asked)?;
        }
        sockets.push(open(agent.ports.http)?);
    }
    bench.pause(SETTLES_WITHIN)?;
    let open = agent.rss_kib()?;
    drop(sockets);
    bench.pause(2 * SETTLES_WITHIN)?;
    let closed = agent.rss_kib()?;
    let mib = |kib: u32| f64::from(kib) / 1024.0;
    println!(
        "{:<40} {:>10.1} {:>10.1} {:>14.1} {:>11.1}",
        format!(
            "{} {}",
            Case::Websockets.title(),
            if changing {
                "across as many changes"
            } else {
                "without a change"
            }
        ),
        mib(before),
        mib(open),
        (f64::from(open) - f64::from(before)) / f64::from(SOCKETS),
        mib(closed)
    );
    Ok(())
}

/// The manifests that a change rewrites.
struct Folder<'a> {
    site: &'a Site,
    backend: SocketAddr,
}

impl Folder<'_> {
    /// The WebSockets' own route gets another header with each change, and a host comes that tells when the change is in force.
    fn write(&self, change: usize) -> anyhow::Result<()> {
        let (ip, port) = (self.backend.ip(), self.backend.port());
        let text = format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{namespace: bench, name: socket}}\nspec: {{ports: [{{name: http, port: 80}}]}}\n---\n\
             apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
             metadata: {{namespace: bench, name: socket-1, labels: {{kubernetes.io/service-name: socket}}}}\naddressType: IPv4\n\
             ports: [{{name: http, port: {port}}}]\nendpoints: [{{addresses: [\"{ip}\"], conditions: {{ready: true}}}}]\n---\n\
             apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata:\n  namespace: bench\n  name: socket\n  annotations:\n    \
             nginx.ingress.kubernetes.io/upstream-vhost: \"change-{change}.test\"\nspec:\n  ingressClassName: ingress-agent\n  rules:\n  - host: {HOST}\n    \
             http:\n      paths:\n      - {{path: /, pathType: Prefix, backend: {{service: {{name: socket, port: {{number: 80}}}}}}}}\n---\n{}",
            site::ingress(FIRST_HOST + change, "bench-tls")
        );
        Ok(site::put_whole(&self.site.path("manifests/socket.yaml"), &text)?)
    }

    fn changed(&self, change: usize, asked: &mut Kept) -> anyhow::Result<()> {
        let host = site::host(FIRST_HOST + change);
        ask::until_all(std::slice::from_mut(asked), &host, 200, Instant::now())?;
        Ok(())
    }
}

/// A WebSocket that says nothing. (The handshake's key is RFC 6455's own example.)
fn open(port: u16) -> anyhow::Result<TcpStream> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(
        stream,
        "GET /ws HTTP/1.1\r\nHost: {HOST}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        if stream.read(&mut byte)? == 0 {
            bail!("closed before the answer: {}", String::from_utf8_lossy(&head));
        }
        head.push(byte[0]);
    }
    if !head.starts_with(b"HTTP/1.1 101 ") {
        bail!("no WebSocket: {}", String::from_utf8_lossy(&head));
    }
    Ok(stream)
}
