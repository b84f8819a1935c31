//! Limits on the whole process: connections on the TLS port, and memory.

use ingress_tests::{Certs, Ingress, KeptConnection, Request, Site};

use crate::{Done, tls_client};

const URL: &str = "http://a.test/";

fn site() -> anyhow::Result<Site> {
    Site::new(&[Ingress::new("web").host("a.test").prefix("/", "web")])
}

#[test]
fn one_connection_too_many_on_the_tls_port_is_told_so_within_tls() -> Done {
    let certs = Certs::new()?;
    let site = site()?;
    site.manifests.ingress(
        &Ingress::new("secure")
            .tls(&["b.test"], "tls")
            .host("b.test")
            .prefix("/", "web"),
    )?;
    site.manifests.tls_secret("tls", &certs.leaf(&["b.test"])?)?;
    let agent = site.start_with(&["--max-connections", "1", "--workers", "1"])?;
    let mut held = KeptConnection::open(&Request::get(URL)?, agent.http)?;
    assert_eq!(held.ask(Request::get(URL)?)?.status, 200);
    let request = b"GET / HTTP/1.1\r\nHost: b.test\r\n\r\n";
    let answer = tls_client::exchange(agent.https, b"", &certs.authority_pem(), "b.test", request);
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert!(answer.contains("x-ingress-agent-reason: overloaded"), "{answer}");
    assert_eq!(
        agent.metric("ingress_agent_connections_refused_total", &["limit=\"total\""])?,
        1.0
    );
    drop(held);
    agent.wait_until("there is room again", |_| {
        let answer = tls_client::exchange(agent.https, b"", &certs.authority_pem(), "b.test", request);
        Ok(answer.starts_with("HTTP/1.1 200 "))
    })
}

#[test]
fn where_memory_is_short_new_connections_are_told_that_we_are_overloaded() -> Done {
    let site = site()?;
    // Less than any test needs.
    let agent = site.start_with(&["--memory-limit", "16m"])?;
    let answer = agent.get_until(URL, |answer| answer.status == 503)?;
    assert_eq!(answer.reason(), "overloaded");
    assert!(agent.metric("ingress_agent_connections_refused_total", &["limit=\"memory\""])? >= 1.0);
    Ok(())
}

/// The agent lives in this process, so what the test takes counts as the agent's.
#[test]
fn where_memory_runs_short_open_connections_are_told_so_until_it_is_there_again() -> Done {
    const MIB: usize = 1 << 20;
    let resident = || -> anyhow::Result<usize> {
        let status = std::fs::read_to_string("/proc/self/status")?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.split_whitespace().next());
        Ok(kib.unwrap_or_default().parse::<usize>()? / 1024)
    };
    let site = site()?;
    // Other tests of this process take some, too.
    let limit = (resident()? + 600).to_string() + "m";
    let agent = site.start_with(&["--memory-limit", &limit])?;
    let mut open = KeptConnection::open(&Request::get(URL)?, agent.http)?;
    let mut ask = || -> anyhow::Result<(u16, String)> {
        let answer = open.ask(Request::get(URL)?)?;
        Ok((answer.status, answer.reason().to_owned()))
    };
    agent.wait_until("it serves", |_| Ok(ask()?.0 == 200))?;
    let taken = vec![1_u8; 700 * MIB];
    agent.wait_until(
        "memory is short",
        |_| Ok(ask()? == (503, "overloaded".to_owned())),
    )?;
    drop(std::hint::black_box(taken));
    agent.wait_until("it serves again", |_| Ok(ask()?.0 == 200))
}
