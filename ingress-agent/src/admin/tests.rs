use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, SystemTime};

use ingress_core::diagnostic::{Diagnostic, Severity};
use ingress_core::name::{Kind, ObjectRef};

use super::server::Running;
use super::*;
use crate::series::LiveSeries;
use crate::telemetry::metrics::{Shard, mailbox};
use crate::telemetry::samples;

/// An admin server on loopback with one worker that answers.
struct Fixture {
    address: SocketAddr,
    state: Arc<AdminState>,
    _running: Running,
}

fn state(workers: Vec<Mailbox>, series: SharedSeries) -> Arc<AdminState> {
    let config = Config::from_args(["--manifests=site"]).unwrap();
    let kernel = Arc::new(crate::kernel::Kernel::off(crate::kernel::Off::Setting));
    AdminState::new(config, workers, Arc::default(), series, kernel, Instant::now())
}

fn start_with(workers: Vec<Mailbox>, series: SharedSeries) -> Fixture {
    let state = state(workers, series);
    let mut admin = Admin::default();
    let address = admin.listen("127.0.0.1:0".parse().unwrap()).unwrap();
    Fixture {
        address,
        _running: admin.start(Arc::clone(&state)).unwrap(),
        state,
    }
}

fn start() -> Fixture {
    let series = SharedSeries::default();
    let (mailbox, inbox) = mailbox();
    let live = Arc::clone(&series);
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(inbox.serve(Shard::new(live), Default::default));
    });
    start_with(vec![mailbox], series)
}

fn published() -> Published {
    let object = ObjectRef::new(Kind::Ingress, "shop", "web");
    Published {
        generation: 1,
        changed: SystemTime::now(),
        snapshot: Arc::new(samples::snapshot(&["web"])),
        diagnostics: Arc::new([Diagnostic::new(
            Severity::Warning,
            &object,
            "spec.tls[0]",
            "SecretNotFound",
            "gone",
        )]),
        ..Published::nothing()
    }
}

/// Status and everything after the status line.
fn ask(fixture: &Fixture, head: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(fixture.address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(90))).unwrap();
    write!(stream, "{head}Connection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
    (status.unwrap_or_else(|| panic!("{answer}")), answer)
}

fn get(fixture: &Fixture, path: &str) -> (u16, String) {
    ask(
        fixture,
        &format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1:9090\r\n"),
    )
}

fn json(fixture: &Fixture, path: &str) -> serde_json::Value {
    let (status, answer) = get(fixture, path);
    assert_eq!(status, 200);
    serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap()
}

#[test]
fn readyz_names_each_missing_condition() {
    let fixture = start();
    let (status, text) = get(&fixture, "/readyz");
    assert_eq!(status, 503);
    assert!(
        text.contains("configuration: ") && text.contains("listeners: "),
        "{text}"
    );
    fixture.state.publish(published());
    fixture.state.set_listening();
    assert_eq!(get(&fixture, "/readyz").0, 200);
    fixture.state.set_draining();
    let (status, text) = get(&fixture, "/readyz");
    assert!(status == 503 && text.contains("draining: "), "{text}");
    assert_eq!(get(&fixture, "/healthz").0, 200, "draining is healthy");
}

#[test]
fn healthz_names_the_worker_that_does_not_answer() {
    let (mailbox, _never_read) = mailbox();
    let fixture = start_with(vec![mailbox], SharedSeries::default());
    assert_eq!(
        get(&fixture, "/healthz").0,
        200,
        "workers start with the first state"
    );
    fixture.state.set_listening();
    let (status, text) = get(&fixture, "/healthz");
    assert!(status == 503 && text.contains("worker 0: "), "{text}");
}

#[test]
fn metrics_come_in_the_format_that_was_asked_for() {
    let fixture = start();
    let (status, text) = get(&fixture, "/metrics");
    assert!(
        status == 200 && text.contains("text/plain; version=0.0.4"),
        "{text}"
    );
    assert!(text.contains("\ningress_agent_worker_stalled{worker=\"0\"} 0\n"));
    let accept = "GET /metrics HTTP/1.1\r\nHost: localhost\r\nAccept: application/openmetrics-text\r\n";
    assert!(ask(&fixture, accept).1.ends_with("# EOF\n"));
}

#[test]
fn config_shows_settings_and_routes_and_diagnostics_shows_problems() {
    let fixture = start();
    fixture.state.publish(published());
    let config = json(&fixture, "/config");
    assert_eq!(config["generation"], 1);
    assert_eq!(config["settings"]["drain_timeout"], "30s");
    assert_eq!(config["routes"][0]["object"], "Ingress shop/web");
    assert_eq!(config["routes"][0]["host"], "web.example");
    assert_eq!(
        config["routes"][0]["backends"][0]["cluster"],
        "Service shop/web:80"
    );
    assert_eq!(json(&fixture, "/diagnostics")[0]["reason"], "SecretNotFound");
}

#[test]
fn the_index_lists_every_page_and_there_are_no_others() {
    let fixture = start();
    let (_, index) = get(&fixture, "/");
    for path in ["/healthz", "/readyz", "/metrics", "/config", "/diagnostics"] {
        assert!(index.contains(&format!("href=\"{path}\"")), "{path}");
        assert_ne!(get(&fixture, path).0, 404, "{path}");
    }
    assert_eq!(get(&fixture, "/secrets").0, 404);
}

#[test]
fn only_get_and_head_are_served() {
    let fixture = start();
    let (status, text) = ask(
        &fixture,
        "POST /config HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n",
    );
    assert!(
        status == 405 && text.to_lowercase().contains("allow: get, head"),
        "{text}"
    );
    let (status, text) = ask(&fixture, "HEAD /metrics HTTP/1.1\r\nHost: localhost\r\n");
    assert!(status == 200 && text.ends_with("\r\n\r\n"), "{text}");
}

#[test]
fn a_foreign_name_that_points_here_reads_nothing() {
    let fixture = start();
    for (host, wanted) in [
        ("evil.example", 421),
        ("evil.example:9090", 421),
        ("", 421),
        ("[::1]:9090", 200),
        ("localhost:9090", 200),
        ("ingress-agent", 200),
        ("agent.ingress.svc:9090", 200),
    ] {
        assert_eq!(
            ask(&fixture, &format!("GET / HTTP/1.1\r\nHost: {host}\r\n")).0,
            wanted,
            "{host}"
        );
    }
}

#[test]
fn the_admin_thread_ends_when_told_even_with_a_connection_open() {
    let fixture = start();
    let _idle = TcpStream::connect(fixture.address).unwrap();
    fixture._running.stop();
    let left = Arc::strong_count(&fixture.state);
    assert_eq!(left, 1, "no task holds the state any more");
}

#[test]
fn series_that_were_folded_are_told() {
    let fixture = start();
    let snapshot = samples::snapshot(&["a", "b"]);
    fixture.state.series.store(Arc::new(LiveSeries::of(&snapshot, 1)));
    assert!(
        get(&fixture, "/metrics")
            .1
            .contains("\ningress_agent_folded_series 2\n")
    );
}

#[test]
fn a_thread_that_died_makes_the_agent_unhealthy() {
    let fixture = start();
    let healthy = |fixture: &Fixture| ask(fixture, "GET /healthz HTTP/1.1\r\nHost: localhost\r\n");
    assert_eq!(healthy(&fixture).0, 200);
    fixture.state.thread_died("publish");
    let (status, answer) = healthy(&fixture);
    assert_eq!(status, 503);
    assert!(answer.contains("thread publish"), "{answer}");
}

/// The answer to a request for `/` at a Unix socket.
fn ask_socket(path: &std::path::Path) -> String {
    let mut stream = std::os::unix::net::UnixStream::connect(path).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(90))).unwrap();
    write!(
        stream,
        "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn the_socket_has_the_same_pages_for_its_own_user_alone_and_replaces_only_a_dead_one() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("admin.sock");
    // As a killed agent leaves it.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let mut admin = Admin::default();
    admin.listen_on_socket(&path).unwrap();
    let running = admin.start(state(Vec::new(), SharedSeries::default())).unwrap();
    assert!(ask_socket(&path).starts_with("HTTP/1.1 200 "));
    assert_eq!(
        std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o600
    );
    let mut other = Admin::default();
    let refused = other.listen_on_socket(&path).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::AddrInUse);
    running.stop();
    assert!(!path.exists(), "the file goes with the agent");

    std::fs::write(&path, "somebody's notes").unwrap();
    assert!(other.listen_on_socket(&path).is_err());
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "somebody's notes");
}

#[test]
fn an_address_that_the_agent_before_still_has_is_taken_when_it_becomes_free() {
    let before = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = before.local_addr().unwrap();
    let mut admin = Admin::default();
    assert!(admin.listen(address).is_err());
    assert_eq!(admin.listen_when_free(address).unwrap(), address);
    let _running = admin.start(state(Vec::new(), SharedSeries::default())).unwrap();
    drop(before);
    let until = Instant::now() + Duration::from_secs(90);
    while TcpStream::connect(address).is_err() {
        assert!(Instant::now() < until, "nobody listens");
        std::thread::sleep(Duration::from_millis(20));
    }
}
