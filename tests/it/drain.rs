//! Ending without loss, and a start that says what is served.

use std::time::{Duration, Instant};

use ingress_tests::{AgentProcess, Echo, Ingress, KeptConnection, RawClient, Request, Site};

use crate::Done;

const PROGRAM: &str = env!("CARGO_BIN_EXE_agent-under-test");

fn site() -> anyhow::Result<Site> {
    Site::new(&[Ingress::new("web").host("web.test").prefix("/", "web")])
}

/// Waits until the backend has the request that is under way.
fn wait_for_request(echo: &Echo) {
    let until = Instant::now() + Duration::from_secs(10);
    while echo.requests() == 0 && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn sigterm_lets_an_open_request_finish_and_then_the_process_ends_well() -> Done {
    let site = site()?;
    let mut agent = AgentProcess::start(PROGRAM, site.manifests.path(), &[])?;
    let http = agent.http;
    let open = std::thread::spawn(move || Request::get("http://web.test/?delay=700")?.ask(http));
    wait_for_request(site.backend("web")?);
    agent.terminate()?;
    let answer = open.join().expect("the asking thread")?;
    assert_eq!(
        (answer.served_by().as_str(), answer.header("connection")),
        ("web", "close")
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
    let site = site()?;
    let agent = site.start_with(&["--drain-timeout", "10s"])?;
    let mut idle = RawClient::connect(agent.http)?;
    idle.send("GET / HTTP/1.1\r\nHost: web.test\r\n\r\n")?;
    idle.read_until("\r\n\r\n")?;
    let served = site.backend("web")?.requests();
    let slow = Request::get("http://web.test/?delay=500")?.h2();
    let mut kept = KeptConnection::open(&slow, agent.http)?;
    let open = std::thread::spawn(move || kept.ask(slow));
    agent.wait_until("the stream is open", |_| {
        Ok(site.backend("web")?.requests() > served)
    })?;
    let begun = Instant::now();
    agent.shutdown();
    assert!(
        begun.elapsed() < Duration::from_secs(8),
        "it did not wait for the idle connection"
    );
    assert_eq!(open.join().expect("the asking thread")?.served_by(), "web");
    assert!(idle.is_closed_within(Duration::from_secs(1)));
    Ok(())
}

#[test]
fn what_does_not_end_is_cut_after_the_drain_timeout() -> Done {
    let site = site()?;
    let agent = site.start_with(&["--drain-timeout", "1s"])?;
    let http = agent.http;
    let open = std::thread::spawn(move || Request::get("http://web.test/?delay=15000")?.ask(http));
    wait_for_request(site.backend("web")?);
    let begun = Instant::now();
    agent.shutdown();
    let took = begun.elapsed();
    assert!(
        (Duration::from_millis(900)..Duration::from_secs(6)).contains(&took),
        "{took:?}"
    );
    assert!(open.join().expect("the asking thread").is_err());
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
