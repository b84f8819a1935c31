//! Early rejection through the agent as shipped: real packets between two network namespaces, programs attached, counters that move.
//!
//! A case runs itself again inside the client's namespace; the agent and what else listens run in the server's. Only where the machine
//! lets nobody make a namespace is a case skipped, and says so.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use ingress_tests::process::NO_BPFFS;
use ingress_tests::{Ingress, Manifests, RawClient, Request};
use serde_json::Value;

use super::Done;
use crate::agent::DEADLINE;
use crate::namespace::Net;

const SERVER: &str = "INGRESS_TEST_SERVER_NAMESPACE";
const US: &str = "10.79.0.2";
const US_V6: &str = "[2001:db8:79::2]";

/// The client's end and the server's, with addresses. None where this is not allowed.
fn namespaces() -> anyhow::Result<Option<Net>> {
    let Some(net) = crate::namespace::cable()? else {
        return Ok(None);
    };
    for (namespace, interface, host) in [(&net.client, "client0", 1), (&net.node, "node0", 2)] {
        namespace.ip(&[
            format!("addr add 10.79.0.{host}/24 dev {interface}"),
            format!("addr add 2001:db8:79::{host}/64 dev {interface} nodad"),
        ])?;
    }
    Ok(Some(net))
}

/// Runs the case `name` of this module, inside.
fn inside(name: &str, case: impl FnOnce(&str) -> Done) -> Done {
    if let Ok(server) = std::env::var(SERVER) {
        return case(&server);
    }
    let Some(net) = namespaces()? else { return Ok(()) };
    let output = net
        .client
        .command()
        // Not by its path, where a build may have put another file meanwhile.
        .arg(format!("/proc/{}/exe", std::process::id()))
        .args(["--exact", &format!("reject::{name}"), "--nocapture"])
        .env(SERVER, net.node.path())
        .stdin(Stdio::null())
        .output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    print!("{text}{}", String::from_utf8_lossy(&output.stderr));
    ensure!(
        output.status.success() && text.contains("1 passed"),
        "failed inside"
    );
    Ok(())
}

/// A process in the server's namespace; ended when dropped.
struct There(Child);

impl There {
    fn start(server: &str, program: &str, arguments: &[&str], log: Stdio) -> anyhow::Result<Self> {
        let child = Command::new("nsenter")
            .arg(format!("--net={server}"))
            .arg(program)
            .args(arguments)
            .env("INGRESS_AGENT_BPFFS", NO_BPFFS)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()?;
        Ok(Self(child))
    }
}

impl Drop for There {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// An agent that serves `shop.test`, and beside it somebody else's server on port 2222 (as SSH or the kubelet would be).
struct Scene {
    _agent: There,
    _backend: There,
    _neighbour: There,
    manifests: Manifests,
    log: tempfile::NamedTempFile,
}

impl Scene {
    fn start(server: &str, flags: &[&str]) -> anyhow::Result<Self> {
        let manifests = Manifests::new()?;
        manifests.our_class()?;
        manifests.service("web", &["127.0.0.1:9901".parse()?])?;
        manifests.ingress(&Ingress::new("web").host("shop.test").prefix("/", "web"))?;
        let echo = env!("CARGO_BIN_EXE_echo-backend");
        let backend = There::start(
            server,
            echo,
            &["--name", "web-1", "--port", "9901"],
            Stdio::null(),
        )?;
        let address = format!("{US}:2222");
        let neighbour = There::start(
            server,
            echo,
            &["--name", "neighbour", "--address", &address],
            Stdio::null(),
        )?;
        let log = tempfile::NamedTempFile::new()?;
        let path = manifests.path().display().to_string();
        let mut arguments = vec![
            "run",
            "--manifests",
            &path,
            "--http",
            "[::]:80",
            "--https",
            "[::]:443",
        ];
        arguments.extend([
            "--admin",
            "10.79.0.2:9090",
            "--workers",
            "1",
            "--access-log",
            "off",
        ]);
        arguments.extend(["--kernel-steering", "off", "--kernel-interfaces", "node0"]);
        arguments.extend(flags);
        let agent = env!("CARGO_BIN_EXE_agent-under-test");
        let agent = There::start(server, agent, &arguments, log.reopen()?.into())?;
        let scene = Self {
            _agent: agent,
            _backend: backend,
            _neighbour: neighbour,
            manifests,
            log,
        };
        scene.wait_for("serving")?;
        until("the neighbour listens", || TcpStream::connect((US, 2222)).is_ok())?;
        Ok(scene)
    }

    fn wait_for(&self, words: &str) -> Done {
        let read = || std::fs::read_to_string(self.log.path()).unwrap_or_default();
        until(words, || read().contains(words)).with_context(read)
    }

    /// How often a verdict was given.
    fn count(verdict: &str) -> anyhow::Result<u64> {
        let answer = Request::get("http://agent/kernel")?.ask(address(US, 9090)?)?;
        let page: Value = serde_json::from_str(&answer.text())?;
        let all = page["rejection"]["counts"].as_array().context("no counts")?;
        let of_this = all.iter().filter(|count| count["verdict"] == verdict);
        ensure!(all.iter().all(|count| count["interface"] == "node0"), "{page:#}");
        Ok(of_this.filter_map(|count| count["packets"].as_u64()).sum())
    }
}

fn until(what: &str, mut holds: impl FnMut() -> bool) -> Done {
    let deadline = Instant::now() + DEADLINE;
    while !holds() {
        if Instant::now() > deadline {
            bail!("never: {what}");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

fn address(ip: &str, port: u16) -> anyhow::Result<SocketAddr> {
    Ok(format!("{ip}:{port}").parse()?)
}

/// The status of `http://HOST/`, or the type of the first TLS record; None when the connection was refused or reset. Silence is an error.
fn ask(ip: &str, scheme: &str, host: &str) -> anyhow::Result<Option<u16>> {
    let answer = if scheme == "http" {
        let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        exchange::<12>(address(ip, 80)?, request.as_bytes()).map(|first| first[9..].to_vec())
    } else {
        // Which certificate is shown does not matter: whether a handshake is answered at all does.
        exchange::<1>(address(ip, 443)?, &hello(host)?).map(|[kind]| kind.to_string().into_bytes())
    };
    match answer {
        Ok(number) => Ok(Some(std::str::from_utf8(&number)?.parse()?)),
        Err(error)
            if matches!(
                error.kind(),
                ErrorKind::ConnectionRefused | ErrorKind::ConnectionReset
            ) =>
        {
            Ok(None)
        }
        Err(error) => Err(error).with_context(|| format!("{scheme}://{host}/ at {ip}")),
    }
}

/// Sends this on a connection of its own; the first bytes that come back.
fn exchange<const COUNT: usize>(address: SocketAddr, words: &[u8]) -> std::io::Result<[u8; COUNT]> {
    let mut stream = TcpStream::connect_timeout(&address, DEADLINE)?;
    stream.set_read_timeout(Some(DEADLINE))?;
    stream.write_all(words)?;
    let mut first = [0; COUNT];
    stream.read_exact(&mut first)?;
    Ok(first)
}

/// A ClientHello of rustls, without a post-quantum share, so that it fits in one segment.
fn hello(host: &str) -> anyhow::Result<Vec<u8>> {
    let mut provider = rustls::crypto::aws_lc_rs::default_provider();
    provider
        .kx_groups
        .retain(|group| group.name() == rustls::NamedGroup::X25519);
    let config = rustls::ClientConfig::builder_with_provider(provider.into())
        .with_safe_default_protocol_versions()?
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    let name = rustls_pki_types::ServerName::try_from(host.to_owned())?;
    let mut client = rustls::ClientConnection::new(config.into(), name)?;
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes)?;
    Ok(bytes)
}

#[test]
fn strangers_are_reset_at_once_by_both_families_and_whoever_is_served_is_not() -> Done {
    inside(
        "strangers_are_reset_at_once_by_both_families_and_whoever_is_served_is_not",
        |server| {
            let _scene = Scene::start(server, &["--kernel-names", "on"])?;
            for ip in [US, US_V6] {
                assert_eq!(ask(ip, "http", "shop.test")?, Some(200), "{ip}");
                assert_eq!(
                    ask(ip, "https", "shop.test")?,
                    Some(22),
                    "{ip}: a handshake record"
                );
                // Not by a time-out, which would be an error.
                assert_eq!(ask(ip, "http", "stranger.test")?, None, "{ip}");
                assert_eq!(ask(ip, "https", "stranger.test")?, None, "{ip}");
            }
            assert_eq!(Scene::count("http_host_unknown")?, 2);
            assert_eq!(Scene::count("tls_name_unknown")?, 2);
            assert_eq!(Scene::count("host_known")?, 2);
            assert_eq!(Scene::count("name_known")?, 2);
            Ok(())
        },
    )
}

#[test]
fn an_upload_in_which_every_segment_begins_with_a_strangers_first_words_is_never_rejected() -> Done {
    inside(
        "an_upload_in_which_every_segment_begins_with_a_strangers_first_words_is_never_rejected",
        |server| {
            let _scene = Scene::start(server, &["--kernel-names", "on"])?;
            let get = b"GET / HTTP/1.1\r\nHost: stranger.test\r\n\r\n".to_vec();
            let pieces = [get.clone(), hello("stranger.test")?];
            let rounds = 200;
            let length: usize = pieces.iter().map(Vec::len).sum::<usize>() * rounds;
            let mut client = RawClient::connect(address(US, 80)?)?;
            client.send(format!(
                "POST / HTTP/1.1\r\nHost: shop.test\r\nContent-Length: {length}\r\n\r\n"
            ))?;
            for _ in 0..rounds {
                for piece in &pieces {
                    client.send(piece)?;
                    // A segment of its own each: what is sent together would be one.
                    std::thread::sleep(Duration::from_micros(300));
                }
            }
            let answer = client.read_until("\r\n\r\n")?;
            assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", answer.escape_ascii());
            assert_eq!(Scene::count("http_host_unknown")?, 0);
            // Judging was on all the while: the same words are refused where they are a connection's first.
            let mut stranger = RawClient::connect(address(US, 80)?)?;
            stranger.send(&get)?;
            until("a stranger is refused", || {
                Scene::count("http_host_unknown").is_ok_and(|count| count == 1)
            })?;

            // The same words in pieces pass, and the agent itself says why not.
            let mut client = RawClient::connect(address(US, 80)?)?;
            client.send(&get[..20])?;
            until("the first piece was seen", || {
                Scene::count("split").is_ok_and(|count| count > 0)
            })?;
            client.send(&get[20..])?;
            let answer = client.read_until("\r\n\r\n")?;
            assert!(answer.starts_with(b"HTTP/1.1 404"), "{}", answer.escape_ascii());
            Ok(())
        },
    )
}

#[test]
fn what_the_agent_does_not_serve_is_untouched_whatever_is_configured() -> Done {
    inside(
        "what_the_agent_does_not_serve_is_untouched_whatever_is_configured",
        |server| {
            let flags = [
                "--kernel-names",
                "on",
                "--kernel-closed",
                US,
                "--kernel-answer",
                "true",
            ];
            let _scene = Scene::start(server, &[&flags[..], &["--kernel-deny", "192.0.2.0/24"]].concat())?;
            let neighbour = address(US, 2222)?;
            let answer = Request::get("http://stranger.test/")?.ask(neighbour)?;
            assert_eq!(answer.backend(), "neighbour");
            let closed = TcpStream::connect(address(US, 8088)?).unwrap_err();
            assert_eq!(
                closed.kind(),
                ErrorKind::ConnectionRefused,
                "a refusal, not a time-out"
            );
            assert_eq!(Scene::count("port_unserved")?, 1);
            let node_port = TcpStream::connect(address(US, 30_080)?).unwrap_err();
            assert_eq!(node_port.kind(), ErrorKind::ConnectionRefused, "by the kernel");
            assert_eq!(Scene::count("port_unserved")?, 1, "node ports are never judged");
            Ok(())
        },
    )
}

#[test]
fn a_denied_source_reaches_nothing_that_is_served_and_everything_else_by_tc_and_by_xdp() -> Done {
    inside(
        "a_denied_source_reaches_nothing_that_is_served_and_everything_else_by_tc_and_by_xdp",
        |server| {
            for xdp in ["off", "on", "auto"] {
                let _scene = Scene::start(server, &["--kernel-deny", "10.79.0.0/24", "--kernel-xdp", xdp])?;
                let soon = Duration::from_millis(1500);
                let refused = TcpStream::connect_timeout(&address(US, 80)?, soon);
                assert_eq!(
                    refused.unwrap_err().kind(),
                    ErrorKind::TimedOut,
                    "silence, xdp {xdp}"
                );
                assert_eq!(ask(US_V6, "http", "shop.test")?, Some(200), "another source");
                let neighbour = Request::get("http://stranger.test/")?.ask(address(US, 2222)?)?;
                assert_eq!(neighbour.backend(), "neighbour");
                assert!(Scene::count("source_denied")? > 0);
            }
            Ok(())
        },
    )
}

#[test]
fn the_tables_follow_a_change_and_never_reject_what_is_in_force() -> Done {
    inside(
        "the_tables_follow_a_change_and_never_reject_what_is_in_force",
        |server| {
            let scene = Scene::start(server, &["--kernel-names", "on"])?;
            for round in 0..5 {
                assert_eq!(ask(US, "http", "new.test")?, None, "round {round}");
                scene.manifests.ingress(
                    &Ingress::new("new")
                        .host("*.other.test")
                        .host("new.test")
                        .prefix("/", "web"),
                )?;
                until("the new host is served", || {
                    matches!(ask(US, "http", "new.test"), Ok(Some(200)))
                })?;
                for _ in 0..20 {
                    assert_eq!(ask(US, "http", "new.test")?, Some(200));
                    assert_eq!(ask(US, "http", "shop.test")?, Some(200));
                }
                scene.manifests.remove_ingress("new")?;
                until("the old host is refused", || {
                    matches!(ask(US, "http", "new.test"), Ok(None))
                })?;
            }
            // A rule without a host: nobody is a stranger any more.
            scene.manifests.ingress(&Ingress::new("all").prefix("/", "web"))?;
            until("everyone is served", || {
                matches!(ask(US, "http", "new.test"), Ok(Some(200)))
            })?;
            scene.wait_for("names are not judged: Ingress default/all takes requests for every host")
        },
    )
}

#[test]
fn strangers_are_answered_in_calm_times_and_reset_in_a_flood() -> Done {
    inside(
        "strangers_are_answered_in_calm_times_and_reset_in_a_flood",
        |server| {
            // So few that a slow machine, too, makes a flood of them.
            let scene = Scene::start(server, &["--kernel-names", "auto", "--kernel-names-above", "3"])?;
            assert_eq!(ask(US, "http", "stranger.test")?, Some(404));
            assert!(Scene::count("http_host_unknown")? > 0, "counted all the same");
            until("a flood is reset", || {
                (0..30).any(|_| matches!(ask(US, "http", "stranger.test"), Ok(None)))
            })?;
            assert_eq!(
                ask(US, "http", "shop.test")?,
                Some(200),
                "who is served does not notice"
            );
            scene.wait_for("names that nobody serves are rejected from now on")?;
            scene.wait_for("stranger.test")
        },
    )
}
