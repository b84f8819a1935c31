//! The admin address: health, readiness, metrics, configuration.

use ingress_tests::{Ingress, Request, Site, TestAgent};

use crate::Done;

fn site() -> anyhow::Result<(Site, TestAgent)> {
    let site = Site::new(&[Ingress::new("shop/web").host("web.test").prefix("/", "web")])?;
    let agent = site.start()?;
    Ok((site, agent))
}

#[test]
fn health_and_readiness_say_ok_while_the_agent_serves() -> Done {
    let (_site, agent) = site()?;
    for page in ["/healthz", "/readyz"] {
        // A worker that the machine lets wait for a second is said to be stalled, and is well again the next time.
        agent.wait_until(page, |agent| {
            let answer = agent.admin(page)?;
            Ok(answer.status == 200 && answer.text().trim() == "ok")
        })?;
    }
    assert_eq!(agent.admin("/nothing")?.status, 404);
    Ok(())
}

#[test]
fn requests_are_counted_by_route_and_code_class() -> Done {
    let (_site, agent) = site()?;
    let count = |labels: &[&str]| agent.metric("ingress_agent_requests_total", labels);
    let of_web = "namespace=\"shop\"";
    for (query, times) in [("", 3), ("?status=404", 2), ("?status=503", 1)] {
        for _ in 0..times {
            agent.get(&format!("http://web.test/{query}"))?;
        }
    }
    agent.get("http://unknown.test/")?;
    for (class, expected) in [("2xx", 3.0), ("4xx", 2.0), ("5xx", 1.0)] {
        assert_eq!(
            count(&[of_web, &format!("code=\"{class}\"")])?,
            expected,
            "{class}"
        );
    }
    assert_eq!(count(&["_none", "code=\"4xx\""])?, 1.0);
    assert_eq!(
        agent.metric("ingress_agent_request_duration_seconds_count", &[of_web])?,
        6.0
    );
    assert_eq!(
        agent.metric("ingress_agent_answers_total", &["host_unknown"])?,
        1.0
    );
    let upstream = |what: &str| agent.metric(&format!("ingress_agent_upstream_connections_{what}"), &[]);
    let (created, reused) = (upstream("created_total")?, upstream("reused_total")?);
    assert!(
        created >= 1.0 && created + reused == 6.0,
        "{created} created, {reused} reused"
    );
    assert!(upstream("idle")? >= 1.0, "they wait for the next request");
    Ok(())
}

#[test]
fn what_clients_send_makes_no_new_series() -> Done {
    let (_site, agent) = site()?;
    let series = || {
        anyhow::Ok(
            agent
                .metrics()?
                .lines()
                .filter(|line| !line.starts_with('#'))
                .count(),
        )
    };
    agent.get("http://unknown.test/")?;
    agent.get("http://web.test/?status=404")?;
    let before = series()?;
    for n in 0..50 {
        agent.get(&format!("http://random-{n}.test/"))?;
        agent.ask(
            Request::get(&format!("http://web.test/path-{n}"))?
                .header("user-agent", &format!("agent-{n}"))?,
        )?;
        agent.ask(
            Request::get("http://web.test/")?.method(http::Method::from_bytes(format!("M{n}").as_bytes())?),
        )?;
    }
    // A code class or an endpoint may come for the first time.
    assert!(series()? <= before + 5, "{before} before, {} after", series()?);
    Ok(())
}

#[test]
fn the_configuration_page_shows_routes_and_settings_as_json() -> Done {
    let (site, agent) = site()?;
    let page: serde_json::Value = serde_json::from_slice(&agent.admin("/config")?.body)?;
    assert_eq!(page["settings"]["workers"], 2);
    let text = page.to_string();
    assert!(
        text.contains("web.test") && text.contains("Ingress shop/web"),
        "{text}"
    );
    let generation = agent.generation()?;
    site.manifests
        .ingress(&Ingress::new("more").host("more.test").prefix("/", "web"))?;
    agent.wait_until("a new generation", |agent| Ok(agent.generation()? > generation))?;
    assert_eq!(
        agent.metric("ingress_agent_config_generation", &[])?,
        agent.generation()? as f64
    );
    Ok(())
}

#[test]
fn metrics_come_in_prometheus_text_and_as_open_metrics() -> Done {
    let (_site, agent) = site()?;
    let ask = |accept: &str| {
        Request::get(&format!("http://{}/metrics", agent.admin))?
            .header("accept", accept)?
            .ask(agent.admin)
    };
    let plain = ask("text/plain")?;
    assert!(
        plain.header("content-type").starts_with("text/plain"),
        "{:?}",
        plain.headers
    );
    let open = ask("application/openmetrics-text; version=1.0.0")?;
    assert!(
        open.header("content-type")
            .starts_with("application/openmetrics-text"),
        "{:?}",
        open.headers
    );
    assert!(open.text().ends_with("# EOF\n"));
    Ok(())
}
