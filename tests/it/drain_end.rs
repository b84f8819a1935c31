//! The end of a drain: what is still open then is ended so that its client knows, and nobody holds it up.

use std::net::SocketAddr;
use std::thread::{JoinHandle, spawn};
use std::time::{Duration, Instant};

use ingress_tests::raw::{DEADLINE, Step};
use ingress_tests::{AgentProcess, Echo, Ingress, KeptWebSocket, Manifests, RawBackend, RawClient, Request};

use crate::Done;
use crate::frames::{GOAWAY, H2Client, HEADERS, Outcome, PING, PRIORITY, RST_STREAM, get};
use crate::site::{HOST, wait};

const PROGRAM: &str = env!("CARGO_BIN_EXE_agent-under-test");
/// Its last parts are the end: long enough for a slow machine.
const LIMIT: Duration = Duration::from_secs(20);
const FLAGS: [&str; 4] = ["--drain-timeout", "20s", "--head-timeout", "60s"];
const CANCEL: u32 = 8;

/// A backend that says nothing, one that begins and does not end, and one whose answers end with the connection.
struct Ground {
    manifests: Manifests,
    silent: RawBackend,
    begun: RawBackend,
    _echo: Echo,
}

impl Ground {
    fn new() -> anyhow::Result<Self> {
        let manifests = Manifests::new()?;
        let echo = Echo::start("echo")?;
        let head = Step::Expect(b"\r\n\r\n".to_vec());
        let begins = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nbegun\r\n".to_vec();
        let silent = RawBackend::scripted(vec![head.clone()])?;
        let begun = RawBackend::scripted(vec![head, Step::Send(begins)])?;
        manifests
            .our_class()?
            .service("silent", &[silent.address()])?
            .service("begun", &[begun.address()])?
            .service("echo", &[echo.address()])?;
        let ingress = Ingress::new("site").host(HOST);
        let ingress = ingress.prefix("/silent", "silent").prefix("/begun", "begun");
        manifests.ingress(&ingress.prefix("/", "echo"))?;
        Ok(Self {
            manifests,
            silent,
            begun,
            _echo: echo,
        })
    }

    fn start(&self) -> anyhow::Result<AgentProcess> {
        AgentProcess::start(PROGRAM, self.manifests.path(), &FLAGS)
    }

    /// Waits until the backends have as many requests.
    fn wait_for(&self, silent: usize, begun: usize) {
        wait("the backends to have the requests", || {
            self.silent.connections() >= silent && self.begun.connections() >= begun
        });
    }
}

fn asking(http: SocketAddr, request: &str) -> anyhow::Result<RawClient> {
    let mut client = RawClient::connect(http)?;
    client.send(request)?;
    Ok(client)
}

fn rest(mut client: RawClient) -> JoinHandle<String> {
    spawn(move || String::from_utf8_lossy(&client.read_to_end().unwrap_or_default()).into_owned())
}

fn told_to_drain(answer: &str) {
    assert!(
        answer.starts_with("HTTP/1.1 503 ") && answer.contains("x-ingress-agent-reason: draining\r\n"),
        "{answer}"
    );
    assert!(
        answer.to_lowercase().contains("connection: close\r\n"),
        "{answer}"
    );
}

#[test]
fn what_has_no_answer_at_the_end_of_the_drain_gets_503_and_what_has_begun_is_broken_off_visibly() -> Done {
    let ground = Ground::new()?;
    let mut agent = ground.start()?;
    let http = agent.http;
    let to = |path: &str, version: &str| format!("GET {path} HTTP/{version}\r\nHost: {HOST}\r\n\r\n");
    let waiting = asking(http, &to("/silent", "1.1"))?;
    let half_head = asking(http, &format!("GET /silent HTTP/1.1\r\nHost: {HOST}\r\n"))?;
    let mut begun = asking(http, &to("/begun", "1.1"))?;
    begun.read_until("begun\r\n")?;
    let mut until_close = asking(http, &to("/begun", "1.0"))?;
    until_close.read_until("begun")?;
    let mut streams = H2Client::open(http);
    streams.ask(1, get("/silent", &[]))?;
    streams.ask(3, get("/begun", &[]))?;
    anyhow::ensure!(streams.next_of(HEADERS).is_some_and(|head| head.stream == 3));
    let socket = KeptWebSocket::open(Request::get(&format!("http://{HOST}/ws"))?, http)?;
    ground.wait_for(2, 3);

    let order = Instant::now();
    agent.terminate()?;
    let closing = spawn(move || socket.wait_for_close());
    let (waiting, half_head, begun) = (rest(waiting), rest(half_head), rest(begun));
    let until_close = spawn(move || until_close.read_to_end());
    assert_eq!(streams.outcome(1), Some(Outcome::Status(503)));
    assert!(order.elapsed() >= LIMIT / 16 * 13, "it had its time");
    let reset = streams.next_of(RST_STREAM).expect("the end of the other stream");
    assert_eq!((reset.stream, reset.error_code()), (3, CANCEL));
    drop(streams);
    let text = |thread: JoinHandle<String>| thread.join().expect("a client");
    told_to_drain(&text(waiting));
    told_to_drain(&text(half_head));
    assert_eq!(text(begun), "", "no last chunk");
    until_close
        .join()
        .expect("a client")
        .expect_err("an end that is no clean one");
    assert_eq!(closing.join().expect("a client")?, 1001);
    assert_eq!(agent.wait()?, Some(0));
    assert!(order.elapsed() < LIMIT + DEADLINE, "{:?}", order.elapsed());
    let says = agent.log_line("what was ended", |line| {
        line["message"]
            .as_str()
            .is_some_and(|text| text.contains("503 draining 3,"))
    })?;
    let says = says["message"].to_string();
    assert!(
        says.contains("broken off 3, WebSockets closed 1, connections cut 0"),
        "{says}"
    );
    let logged = agent.access_log_line("the answer that was broken off", |line| {
        line["target"] == "/begun" && line["protocol"] == "HTTP/1.1"
    })?;
    assert_eq!(
        (&logged["status"], &logged["reason"]),
        (&200.into(), &"draining".into())
    );
    Ok(())
}

#[test]
fn an_h2_client_that_never_acknowledges_our_ping_does_not_hold_a_drain() -> Done {
    let ground = Ground::new()?;
    let agent = ground.start()?;
    let http = agent.http;
    let _waiting = asking(http, &format!("GET /silent HTTP/1.1\r\nHost: {HOST}\r\n\r\n"))?;
    let mut idle = H2Client::open(http);
    idle.ask(1, get("/", &[]))?;
    assert_eq!(idle.outcome(1), Some(Outcome::Status(200)));
    ground.wait_for(1, 0);
    let order = Instant::now();
    agent.terminate()?;
    // Two farewells: one that refuses nothing, and the last.
    assert_eq!(idle.next_of(GOAWAY).map(|frame| frame.error_code()), Some(0));
    assert_eq!(idle.end(), Some(0));
    assert!(
        order.elapsed() < LIMIT / 16 * 13,
        "long before the end of the drain: {:?}",
        order.elapsed()
    );
    Ok(())
}

#[test]
fn frames_that_ask_for_nothing_keep_no_idle_h2_connection_open() -> Done {
    let ground = Ground::new()?;
    let agent = AgentProcess::start(PROGRAM, ground.manifests.path(), &["--idle-timeout", "3s"])?;
    const UNKNOWN: u8 = 0xbe;
    for (kind, payload) in [
        (PING, vec![0; 8]),
        (PRIORITY, vec![0, 0, 0, 0, 1]),
        (UNKNOWN, vec![]),
    ] {
        let mut client = H2Client::open(agent.http);
        client.ask(1, get("/", &[]))?;
        assert_eq!(client.outcome(1), Some(Outcome::Status(200)));
        let stream = if kind == PRIORITY { 3 } else { 0 };
        let begun = Instant::now();
        // Slower than any flood; until the agent has closed.
        while client.send(kind, 0, stream, payload.clone()).is_ok() {
            assert!(begun.elapsed() < DEADLINE, "kind {kind} keeps it open");
            std::thread::sleep(Duration::from_millis(200));
        }
        assert!(
            begun.elapsed() >= Duration::from_secs(2),
            "kind {kind} is no fault"
        );
    }
    Ok(())
}
