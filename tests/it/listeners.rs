//! Listeners that come and go while the agent runs, by its file of settings.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use ingress_tests::client::Request;
use ingress_tests::raw::DEADLINE;
use ingress_tests::{AgentProcess, Echo, Ingress, Manifests, RawClient};

const AGENT: &str = env!("CARGO_BIN_EXE_agent-under-test");
const HOST: &str = "web.example.test";

struct Site {
    _echo: Echo,
    _manifests: Manifests,
    folder: tempfile::TempDir,
    agent: AgentProcess,
}

impl Site {
    /// An agent with a file that says this of its listeners.
    fn new(listeners: &str) -> Self {
        Self::with(listeners, &[])
    }

    /// The same with flags, too.
    fn with(listeners: &str, flags: &[&str]) -> Self {
        let echo = Echo::start("web").unwrap();
        let manifests = Manifests::new().unwrap();
        manifests.our_class().unwrap();
        manifests.service("web", &[echo.address()]).unwrap();
        let ingress = Ingress::new("web")
            .class("ingress-agent")
            .host(HOST)
            .prefix("/", "web");
        manifests.ingress(&ingress).unwrap();
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("agent.yaml"), listeners).unwrap();
        let mut command = Command::new(AGENT);
        command
            .args([
                "run",
                "--admin",
                "127.0.0.1:0",
                "--log-format",
                "json",
                "--workers",
                "2",
            ])
            .args(flags)
            .args(["--kernel", "off", "--access-log", "off", "--config"])
            .arg(folder.path().join("agent.yaml"))
            .arg("--manifests")
            .arg(manifests.path());
        let agent = AgentProcess::watch(&mut command).unwrap();
        Self {
            _echo: echo,
            _manifests: manifests,
            folder,
            agent,
        }
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("agent.yaml")
    }

    /// At once, as a ConfigMap changes.
    fn write(&self, listeners: &str) {
        let new = self.folder.path().join("new.yaml");
        std::fs::write(&new, listeners).unwrap();
        std::fs::rename(new, self.file()).unwrap();
    }

    fn hang_up(&self) {
        let pid = self.agent.pid().to_string();
        assert!(
            Command::new("kill")
                .args(["-HUP", &pid])
                .status()
                .unwrap()
                .success()
        );
    }

    /// What the `nth` line says where it serves.
    fn serving(&self, nth: usize) -> Vec<SocketAddr> {
        let until = Instant::now() + DEADLINE;
        loop {
            let lines = self.agent.log_lines(|line| line["message"] == "serving");
            if let Some(line) = lines.get(nth) {
                let addresses = line["http"].as_str().unwrap().split(", ");
                return addresses.map(|address| address.parse().unwrap()).collect();
            }
            assert!(Instant::now() < until, "{lines:?}");
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }
}

/// Sockets of this address whose queues the agent shows.
fn queues(agent: &AgentProcess, address: SocketAddr) -> u64 {
    let request = Request::get(&format!("http://{}/kernel", agent.admin)).unwrap();
    let page: serde_json::Value = serde_json::from_slice(&request.ask(agent.admin).unwrap().body).unwrap();
    let listeners = page["queues"]["listeners"].as_array().unwrap();
    let mut of_it = listeners
        .iter()
        .filter(|queue| queue["address"] == address.to_string());
    of_it.next().map_or(0, |queue| queue["sockets"].as_u64().unwrap())
}

fn status(address: SocketAddr) -> u16 {
    let request = Request::get(&format!("http://{HOST}/")).unwrap();
    request.ask(address).unwrap().status
}

fn ask_on(client: &mut RawClient) {
    client
        .send(format!("HEAD / HTTP/1.1\r\nHost: {HOST}\r\n\r\n"))
        .unwrap();
    let head = client.read_until("\r\n\r\n").unwrap();
    assert!(head.starts_with(b"HTTP/1.1 200"));
}

#[test]
fn listeners_come_and_go_with_the_file_and_no_connection_is_touched() {
    let site = Site::new("http: 127.0.0.1:0\nhttps: 'off'\n");
    let first = site.agent.http;
    let mut kept = RawClient::connect(first).unwrap();
    ask_on(&mut kept);
    // Without a word to the agent: it looks at its file.
    site.write("http: [127.0.0.1:0, 127.0.0.2:0]\nhttps: 'off'\n");
    let both = site.serving(1);
    assert_eq!(both[0], first);
    assert_eq!((status(first), status(both[1])), (200, 200));
    assert_eq!(queues(&site.agent, both[1]), 2, "its queues are watched as well");
    let mut of_second = RawClient::connect(both[1]).unwrap();
    ask_on(&mut of_second);
    site.write("http: 127.0.0.1:0\nhttps: 'off'\n");
    site.hang_up();
    assert_eq!(site.serving(2), [first]);
    let until = Instant::now() + DEADLINE;
    while TcpStream::connect(both[1]).is_ok() {
        assert!(Instant::now() < until, "still open");
    }
    assert_eq!(queues(&site.agent, both[1]), 0, "they are gone");
    ask_on(&mut of_second);
    ask_on(&mut kept);
    assert_eq!(status(first), 200);
}

#[test]
fn an_address_that_is_taken_is_named_and_the_others_come() {
    let site = Site::new("http: 127.0.0.1:0\nhttps: 'off'\n");
    let taken = TcpListener::bind("127.0.0.3:0").unwrap();
    let address = taken.local_addr().unwrap();
    site.write(&format!(
        "http: [127.0.0.1:0, '{address}', 127.0.0.2:0]\nhttps: 'off'\n"
    ));
    site.hang_up();
    assert_eq!(site.serving(1).len(), 2);
    let named = format!("--http {address}: cannot listen here");
    site.agent
        .log_line("which address", |line| {
            line["message"].as_str().is_some_and(|text| text.contains(&named))
        })
        .unwrap();
}

#[test]
fn what_is_wrong_in_the_file_changes_nothing_and_what_needs_a_restart_is_named() {
    let site = Site::new("http: 127.0.0.1:0\nhttps: 'off'\nidle-timeout: 60s\n");
    site.write("http: nonsense\n");
    site.hang_up();
    site.agent
        .log_line("what is wrong", |line| {
            line["message"]
                .as_str()
                .is_some_and(|text| text.contains("the settings stay as they are"))
        })
        .unwrap();
    assert_eq!(status(site.agent.http), 200);
    site.write("http: [127.0.0.1:0, 127.0.0.2:0]\nhttps: 'off'\nidle-timeout: 10s\nmax-connections: 5\n");
    site.hang_up();
    assert_eq!(site.serving(1).len(), 2);
    site.agent
        .log_line("what needs a restart", |line| {
            line["message"].as_str().is_some_and(|text| {
                text.contains("a change of idle-timeout, max-connections needs a restart")
            })
        })
        .unwrap();
}

#[test]
fn a_change_in_the_file_that_a_flag_overrides_is_said_to_have_no_effect() {
    let site = Site::with("http: 127.0.0.1:0\nhttps: 'off'\n", &["--http", "127.0.0.1:0"]);
    site.write("http: 127.0.0.2:0\nhttps: 'off'\n");
    site.hang_up();
    site.agent
        .log_line("what is in vain", |line| {
            line["message"]
                .as_str()
                .is_some_and(|text| text.contains("a change of http has no effect"))
        })
        .unwrap();
    assert_eq!(status(site.agent.http), 200);
}

#[test]
fn more_addresses_than_may_be_bound_are_refused_with_the_reason() {
    let manifests = Manifests::new().unwrap();
    let output = Command::new(AGENT)
        .args([
            "run",
            "--http",
            "127.0.0.1:20000-20100",
            "--https",
            "off",
            "--admin",
            "off",
            "--kernel",
            "off",
        ])
        .arg("--manifests")
        .arg(manifests.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(said.contains("101 addresses would have to be bound"), "{said}");
    assert!(said.contains("switched off by --kernel"), "{said}");
}
