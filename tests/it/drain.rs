//! Ending without loss, and a start that says what is served.

use std::time::{Duration, Instant};

use ingress_tests::raw::DEADLINE;
use ingress_tests::{
    AgentProcess, Echo, Gate, Ingress, KeptConnection, KeptWebSocket, RawClient, Request, Site,
};

use crate::Done;

const PROGRAM: &str = env!("CARGO_BIN_EXE_agent-under-test");

fn site() -> anyhow::Result<Site> {
    Site::new(&[Ingress::new("web").host("web.test").prefix("/", "web")])
}

/// The same, with a backend that answers nothing before the gate opens.
fn held_site() -> anyhow::Result<(Site, Echo, Gate)> {
    let (site, gate) = (site()?, Gate::new());
    let echo = Echo::start_behind("held", &gate)?;
    site.manifests.endpoints("web", &[echo.address()])?;
    Ok((site, echo, gate))
}

/// Waits until the backend has the request that is under way.
fn wait_for_request(echo: &Echo) {
    crate::site::wait("the backend has the request", || echo.requests() > 0);
}

/// A connection that has had its answer: draining closes it, so its end tells that the worker has the order to drain.
fn idle(http: std::net::SocketAddr) -> anyhow::Result<RawClient> {
    let mut idle = RawClient::connect(http)?;
    idle.send("GET / HTTP/1.1\r\nHost: nobody.test\r\n\r\n")?;
    idle.read_until("host_unknown")?;
    Ok(idle)
}

#[test]
fn sigterm_lets_an_open_request_finish_and_then_the_process_ends_well() -> Done {
    let (site, echo, gate) = held_site()?;
    let flags = ["--workers", "1", "--drain-timeout", "50s"];
    let mut agent = AgentProcess::start(PROGRAM, site.manifests.path(), &flags)?;
    let http = agent.http;
    let mut idle = idle(http)?;
    let open = std::thread::spawn(move || Request::get("http://web.test/")?.ask(http));
    wait_for_request(&echo);
    agent.terminate()?;
    assert!(idle.is_closed_within(DEADLINE));
    gate.open();
    let answer = open.join().expect("the asking thread")?;
    assert_eq!(
        (answer.served_by().as_str(), answer.header("connection")),
        ("held", "close")
    );
    assert_eq!(agent.wait()?, Some(0));
    assert!(
        Request::get("http://web.test/")?.ask(http).is_err(),
        "nobody listens any more"
    );
    Ok(())
}

#[test]
fn shutdown_closes_idle_connections_and_lets_h2_streams_finish() -> Done {
    let (site, echo, gate) = held_site()?;
    let agent = site.start_with(&["--drain-timeout", "50s"])?;
    let mut idle = idle(agent.http)?;
    let held = Request::get("http://web.test/")?.h2();
    let mut kept = KeptConnection::open(&held, agent.http)?;
    let open = std::thread::spawn(move || kept.ask(held));
    wait_for_request(&echo);
    let ending = std::thread::spawn(move || agent.shutdown());
    assert!(
        idle.is_closed_within(DEADLINE),
        "it does not wait for the idle connection"
    );
    assert!(!ending.is_finished(), "but it does for the stream");
    gate.open();
    assert_eq!(open.join().expect("the asking thread")?.served_by(), "held");
    ending.join().expect("the ending thread");
    Ok(())
}

#[test]
fn no_request_holds_the_process_beyond_the_drain_timeout() -> Done {
    let (site, echo, _never_opened) = held_site()?;
    let agent = site.start_with(&["--drain-timeout", "1s"])?;
    let http = agent.http;
    let open = std::thread::spawn(move || Request::get("http://web.test/")?.ask(http));
    wait_for_request(&echo);
    let begun = Instant::now();
    agent.shutdown();
    assert!(
        begun.elapsed() >= Duration::from_millis(800),
        "the request had its time"
    );
    // Nothing, where the machine is too slow for an answer in the last tenths.
    let answer = open.join().expect("the asking thread");
    assert!(answer.is_err() || answer.is_ok_and(|answer| answer.reason() == "draining"));
    Ok(())
}

#[test]
fn a_websocket_is_told_by_a_close_frame_that_the_agent_goes_away() -> Done {
    let site = site()?;
    let echo = Echo::start("web")?;
    site.manifests.endpoints("web", &[echo.address()])?;
    // The last quarter of it is the WebSockets'.
    let agent = site.start_with(&["--drain-timeout", "4s"])?;
    let mut socket = KeptWebSocket::open(Request::get("http://web.test/ws")?, agent.http)?;
    assert_eq!(socket.echo("hello")?, "hello");
    let ending = std::thread::spawn(move || agent.shutdown());
    assert_eq!(socket.wait_for_close()?, 1001, "going away (RFC 6455, 7.4.1)");
    ending.join().expect("the ending thread");
    Ok(())
}

#[test]
fn the_start_says_in_a_few_lines_what_is_served() -> Done {
    let site = site()?;
    let agent = AgentProcess::start(PROGRAM, site.manifests.path(), &[])?;
    let first = agent.log_line("what is served", |line| {
        line["message"].to_string().contains("web.test")
    })?;
    assert_eq!((&first["hosts"], &first["routes"]), (&1.into(), &1.into()));
    let serving = agent.log_line("where it serves", |line| line["message"] == "serving")?;
    for listener in ["http", "https", "admin"] {
        let address = serving[listener].as_str().unwrap_or_default();
        assert!(address.starts_with("127.0.0.1:"), "{listener} in {serving}");
    }
    assert!(agent.log_lines(|_| true).len() <= 5);
    Ok(())
}

#[test]
fn the_access_log_has_a_line_for_each_request_with_route_and_backend() -> Done {
    let site = site()?;
    let agent = AgentProcess::start(PROGRAM, site.manifests.path(), &[])?;
    let ask = Request::get("http://web.test/a?b=1")?.header("user-agent", "a \"quoted\"\tone")?;
    ask.ask(agent.http)?;
    let line = agent.access_log_line("the request", |line| line["target"] == "/a?b=1")?;
    for (field, value) in [
        ("method", "GET"),
        ("host", "web.test"),
        ("namespace", "default"),
        ("ingress", "web"),
        ("service", "web"),
        ("protocol", "HTTP/1.1"),
        ("user_agent", "a \"quoted\"\tone"),
    ] {
        assert_eq!(line[field], value, "{field} in {line}");
    }
    assert_eq!(line["status"], 200);
    assert_eq!(line["endpoint"], site.backend("web")?.address().to_string());
    Ok(())
}
