//! The access log on the agent's standard output: its modes and forms, and that it never holds up traffic.

use ingress_tests::{AgentProcess, Ingress, KeptConnection, Request, Site};
use serde_json::Value;

use crate::Done;

const PROGRAM: &str = env!("CARGO_BIN_EXE_agent-under-test");

fn site() -> anyhow::Result<Site> {
    Site::new(&[Ingress::new("web").host("web.test").prefix("/", "web")])
}

/// All lines for this many requests that are served and as many that nobody knows, under these flags.
fn logged(flags: &[&str], requests: usize) -> anyhow::Result<Vec<Value>> {
    let site = site()?;
    let agent = AgentProcess::start(PROGRAM, site.manifests.path(), flags)?;
    let good = Request::get("http://web.test/good")?;
    let mut connection = KeptConnection::open(&good, agent.http)?;
    for _ in 0..requests {
        assert_eq!(connection.ask(good.clone())?.status, 200);
        assert_eq!(
            connection.ask(Request::get("http://nobody.test/bad")?)?.status,
            404
        );
    }
    agent.end()
}

fn count(lines: &[Value], status: u16) -> usize {
    lines.iter().filter(|line| line["status"] == status).count()
}

#[test]
fn every_request_only_errors_or_nothing_is_logged_as_the_mode_says() -> Done {
    for (mode, good, bad) in [("all", 3, 3), ("errors", 0, 3), ("off", 0, 0)] {
        let lines = logged(&["--access-log", mode], 3)?;
        assert_eq!(
            (count(&lines, 200), count(&lines, 404)),
            (good, bad),
            "{mode}: {lines:#?}"
        );
        assert_eq!(lines.len(), good + bad, "{mode}: {lines:#?}");
    }
    Ok(())
}

#[test]
fn an_answer_of_the_agents_own_has_taken_its_time_too() -> Done {
    let lines = logged(&[], 3)?;
    for line in &lines {
        let took = line["duration_ms"].as_f64().unwrap_or_default();
        assert!(took > 0.0, "{line:#}");
    }
    assert_eq!(lines.len(), 6, "{lines:#?}");
    Ok(())
}

#[test]
fn a_sample_keeps_a_share_of_what_went_well_and_every_error() -> Done {
    let lines = logged(&["--access-log-sample", "0.5"], 200)?;
    assert_eq!(count(&lines, 404), 200);
    // Seven standard deviations to each side.
    let good = count(&lines, 200);
    assert!((50..=150).contains(&good), "{good} of 200");
    Ok(())
}

#[test]
fn text_lines_say_the_same_for_people() -> Done {
    let lines = logged(&["--access-log-format", "text"], 1)?;
    let [good, bad] = [0, 1].map(|n| lines[n].as_str().unwrap_or_default());
    for word in ["GET", "web.test", "/good", "200", "default/web"] {
        assert!(good.contains(word), "{word} in {good}");
    }
    for word in ["nobody.test", "/bad", "404", "host_unknown"] {
        assert!(bad.contains(word), "{word} in {bad}");
    }
    Ok(())
}

#[test]
fn an_output_that_nobody_reads_blocks_no_request_and_what_is_dropped_is_counted_and_told() -> Done {
    let site = site()?;
    let mut agent = AgentProcess::start_unread(PROGRAM, site.manifests.path(), &[])?;
    let request = Request::get(&format!("http://web.test/{}", "x".repeat(7000)))?;
    let mut connection = KeptConnection::open(&request, agent.http)?;
    let dropped = || -> anyhow::Result<u64> {
        let page = Request::get(&format!("http://{}/metrics", agent.admin))?
            .ask(agent.admin)?
            .text();
        let line = page
            .lines()
            .find_map(|line| line.strip_prefix("ingress_agent_access_log_dropped_total "));
        Ok(line.unwrap_or_default().parse()?)
    };
    // A pipe and the agent's buffers hold about 2 MiB; a line here has 7 kB and more.
    for _ in 0..600 {
        assert_eq!(connection.ask(request.clone())?.served_by(), "web");
    }
    let count = dropped()?;
    assert!((1..600).contains(&count), "{count}");
    agent.read_output();
    let told = agent.access_log_line("what was dropped", |line| line["dropped"].is_u64())?;
    assert!(told["dropped"].as_u64() >= Some(count), "{told}, counted {count}");
    Ok(())
}
