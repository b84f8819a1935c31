//! With the capabilities that are documented, with none, and with none left once the agent serves.

use std::collections::BTreeSet;

use anyhow::{Context, ensure};
use ingress_tests::{AgentProcess, Ingress};

use crate::Done;
use crate::agent::{Site, wait};

/// uid 0 without a capability, as in a pod that drops all: a bounding set is what exec leaves root with.
const NONE: [&str; 2] = ["setpriv", "--bounding-set=-all"];
/// CAP_NET_ADMIN, CAP_PERFMON and CAP_BPF.
const DOCUMENTED: [&str; 2] = ["setpriv", "--bounding-set=-all,+cap_12,+cap_38,+cap_39"];
/// CAP_NET_ADMIN and CAP_BPF: all that steering needs.
const FOR_STEERING: [&str; 2] = ["setpriv", "--bounding-set=-all,+cap_12,+cap_39"];
/// What a pod of the chart has, CAP_NET_BIND_SERVICE among it.
const OF_THE_CHART: &str = "-all,+cap_10,+cap_12,+cap_38,+cap_39";

/// Every set of every thread: inherited, permitted, effective and ambient capabilities, and whether a program could get more.
fn rights(pid: u32) -> anyhow::Result<BTreeSet<String>> {
    let mut all = BTreeSet::new();
    for thread in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        let status = std::fs::read_to_string(thread?.path().join("status"))?;
        let lines = status.lines().filter(|line| {
            ["CapInh:", "CapPrm:", "CapEff:", "CapAmb:", "NoNewPrivs:"]
                .iter()
                .any(|set| line.starts_with(set))
        });
        all.extend(lines.map(|line| line.replace(char::is_whitespace, "")));
    }
    Ok(all)
}

fn has_none(pid: u32) -> Done {
    let none = ["CapInh", "CapPrm", "CapEff", "CapAmb"].map(|set| format!("{set}:0000000000000000"));
    let expected: BTreeSet<_> = none.into_iter().chain(["NoNewPrivs:1".to_owned()]).collect();
    let rights = rights(pid)?;
    ensure!(rights == expected, "{rights:?}");
    Ok(())
}

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
    has_none(old.pid())?;
    assert!(site.get("10.77.0.1")?.starts_with("HTTP/1.1 200"));
    let new = start()?;
    site.wait_for_phase(old.pid(), "draining")?;
    assert!(site.get("10.77.0.1")?.starts_with("HTTP/1.1 200"));
    assert_eq!(site.status(new.pid())?["phase"], "serving");
    has_none(new.pid())
}

#[test]
fn each_hook_alone_needs_its_own_capabilities_and_no_others() -> Done {
    let Some(site) = Site::new()? else { return Ok(()) };
    let steering = ["--http", ":80", "--kernel", "on", "--kernel-rejection", "off"];
    let agent = AgentProcess::watch(&mut site.command(&FOR_STEERING, &steering))?;
    has_none(agent.pid())?;
    assert!(site.get("10.77.0.1")?.starts_with("HTTP/1.1 200"));
    drop(agent);
    // Without CAP_PERFMON the rest is on, and this says why it isn't.
    let agent = AgentProcess::watch(&mut site.command(&FOR_STEERING, &["--http", ":80"]))?;
    let kernel = site.status(agent.pid())?["kernel"].clone();
    assert_eq!(kernel["steering"]["on"], true, "{kernel:#}");
    let why = kernel["rejection"]["reason"].as_str().unwrap_or_default();
    assert!(why.contains("missing: CAP_PERFMON"), "{why}");
    drop(agent);
    let rejection = ["--http", ":8080", "--kernel", "on", "--kernel-steering", "off"];
    let agent = AgentProcess::watch(&mut site.command(&DOCUMENTED, &rejection))?;
    has_none(agent.pid())?;
    let kernel = site.status(agent.pid())?["kernel"].clone();
    assert_eq!(kernel["rejection"]["on"], true, "{kernel:#}");
    assert_eq!(kernel["steering"]["on"], false, "{kernel:#}");
    Ok(())
}

#[test]
fn once_it_serves_no_thread_has_a_right_and_everything_still_follows() -> Done {
    let Some(site) = Site::new()? else { return Ok(()) };
    let agent = site.start(&["--http", ":80", "--kernel", "on", "--kernel-names", "on"])?;
    has_none(agent.pid())?;
    let said = site.kernel(&["status"])?;
    assert!(said.contains("capabilities: none"), "{said}");
    // The tables of both hooks.
    site.kernel(&["takeover", "5%"])?;
    assert_eq!(site.status(agent.pid())?["kernel"]["addresses"][0]["share"], 500);
    site.kernel(&["takeover", "100%"])?;
    let known = |site: &Site| -> anyhow::Result<u64> {
        let status = site.status(agent.pid())?;
        status["kernel"]["rejection"]["known_names"]
            .as_u64()
            .context("no number")
    };
    let before = known(&site)?;
    site.manifests.ingress(
        &Ingress::new("new")
            .class("ingress-agent")
            .host("new.test")
            .prefix("/", "web"),
    )?;
    wait("the tables follow", || Ok(known(&site)? > before))?;
    // An interface that comes later, and its address.
    site.net.node.ip(&[
        "link add late0 type veth peer name late1".to_owned(),
        "addr add 10.78.0.2/16 dev late0".to_owned(),
        "link set late0 up".to_owned(),
        "link set late1 up".to_owned(),
    ])?;
    wait("the new interface is judged", || {
        Ok(site
            .interfaces(agent.pid())?
            .iter()
            .any(|(name, by)| name == "late0" && by.contains("tc")))
    })?;
    // And a newer agent takes over.
    let newer = site.start(&["--http", ":80", "--kernel", "on", "--hand-over-overlap", "100ms"])?;
    site.wait_for_phase(agent.pid(), "draining")?;
    assert!(site.get("10.77.0.1")?.starts_with("HTTP/1.1 200"));
    has_none(agent.pid())?;
    has_none(newer.pid())
}

#[test]
fn capabilities_are_kept_only_when_asked_for_and_then_it_is_said() -> Done {
    let Some(site) = Site::new()? else { return Ok(()) };
    let flags = ["--http", ":80", "--keep-capabilities", "true"];
    let agent = AgentProcess::watch(&mut site.command(&DOCUMENTED, &flags))?;
    has_none(agent.pid()).unwrap_err();
    let said = site.kernel(&["status"])?;
    let expected = "capabilities: CAP_NET_ADMIN, CAP_PERFMON, CAP_BPF (--keep-capabilities is set)";
    assert!(said.contains(expected), "{said}");
    Ok(())
}

#[test]
fn in_a_sandbox_like_a_containers_all_hooks_are_on() -> Done {
    let Some(site) = Site::new()? else { return Ok(()) };
    // Its own mounts and processes, all read-only but the directory that agents share; no CAP_SYS_ADMIN, and bpffs is nowhere.
    let shared = site.run_dir.path().display().to_string();
    let script = format!(
        "set -e; mount --make-rprivate /; mount --bind {shared} {shared}; mount -o remount,bind,ro /; \
         exec setpriv --bounding-set={OF_THE_CHART} --no-new-privs -- \"$@\""
    );
    let sandbox = [
        "unshare",
        "--mount",
        "--pid",
        "--fork",
        "--kill-child",
        "--mount-proc",
        "sh",
        "-c",
        &script,
        "sandbox",
    ];
    let agent = AgentProcess::watch(&mut site.command(&sandbox, &["--http", ":80", "--kernel", "on"]))?;
    assert!(site.get("10.77.0.1")?.starts_with("HTTP/1.1 200"));
    let agents: serde_json::Value = serde_json::from_str(&site.kernel(&["status", "-o", "json"])?)?;
    let kernel = &agents[0]["status"]["kernel"];
    assert_eq!(kernel["steering"]["on"], true, "{kernel:#}");
    assert_eq!(kernel["rejection"]["on"], true, "{kernel:#}");
    assert_eq!(kernel["rights"]["held"], serde_json::json!([]), "{kernel:#}");
    assert!(
        kernel["rights"]["had"].to_string().contains("CAP_BPF"),
        "{kernel:#}"
    );
    drop(agent);
    Ok(())
}
