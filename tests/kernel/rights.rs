//! With the capabilities that are documented, and with none.

use ingress_tests::AgentProcess;

use crate::Done;
use crate::agent::Site;

/// uid 0 without a capability, as in a pod that drops all: a bounding set is what exec leaves root with.
const NONE: [&str; 2] = ["setpriv", "--bounding-set=-all"];
/// CAP_NET_ADMIN and CAP_BPF.
const DOCUMENTED: [&str; 2] = ["setpriv", "--bounding-set=-all,+cap_12,+cap_39"];

#[test]
fn without_capabilities_it_serves_and_says_what_is_missing() -> Done {
    let Some(site) = Site::new()? else { return Ok(()) };
    let agent = AgentProcess::watch(&mut site.command(&NONE, &["--http", "127.0.0.1:8080"]))?;
    let serving = agent.log_line("that it serves", |line| line["message"] == "serving")?;
    let why = serving["steering"].as_str().unwrap_or_default();
    assert!(why.contains("missing: CAP_NET_ADMIN, CAP_BPF"), "{why}");
    assert!(why.contains("binds its addresses itself"), "{why}");
    let answer = site
        .net
        .node
        .run(|| ingress_tests::Request::get("http://web.example.test/")?.ask(agent.http))?;
    assert_eq!(answer.status, 200);
    let url = format!("http://{}/kernel", agent.admin);
    let page = site
        .net
        .node
        .run(|| ingress_tests::Request::get(&url)?.ask(agent.admin))?;
    assert!(page.text().contains("CAP_BPF"), "{}", page.text());
    let said = site.refused(&NONE, &["--http", "127.0.0.1:8081", "--kernel", "on"])?;
    assert!(
        said.contains("--kernel-steering is on") && said.contains("CAP_BPF"),
        "{said}"
    );
    Ok(())
}

#[test]
fn with_the_documented_capabilities_alone_port_80_is_steered_and_handed_over() -> Done {
    let Some(site) = Site::new()? else { return Ok(()) };
    let start = || AgentProcess::watch(&mut site.command(&DOCUMENTED, &["--http", ":80", "--kernel", "on"]));
    let old = start()?;
    assert!(site.get("10.77.0.1")?.starts_with("HTTP/1.1 200"));
    let new = start()?;
    site.wait_for_phase(old.pid(), "draining")?;
    assert!(site.get("10.77.0.1")?.starts_with("HTTP/1.1 200"));
    assert_eq!(site.status(new.pid())?["phase"], "serving");
    Ok(())
}
