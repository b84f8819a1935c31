//! How requests are spread over the endpoints of a Service.
//!
//! Margins are wide: a machine that is busy with something else makes any endpoint look slow for a moment.

use std::collections::BTreeMap;
use std::time::Duration;

use ingress_tests::{Echo, Ingress, KeptConnection, Request, Site, TestAgent};

use crate::Done;

fn site(annotations: &[(&str, &str)], endpoints: &[Echo]) -> anyhow::Result<Site> {
    let mut ingress = Ingress::new("web").host("web.test").prefix("/", "web");
    for (name, value) in annotations {
        ingress = ingress.annotation(name, value);
    }
    let site = Site::new(&[ingress])?;
    let addresses: Vec<_> = endpoints.iter().map(Echo::address).collect();
    site.manifests.endpoints("web", &addresses)?;
    Ok(site)
}

fn pods(count: usize) -> anyhow::Result<Vec<Echo>> {
    (0..count).map(|n| Echo::start(&format!("pod-{n}"))).collect()
}

/// Several clients at once, each asking on a connection of its own.
pub(crate) fn ask_from(clients: usize, each: usize, agent: &TestAgent, url: &str) -> Done {
    std::thread::scope(|scope| {
        let ask = || -> Done {
            let request = Request::get(url)?;
            let mut connection = KeptConnection::open(&request, agent.http)?;
            for _ in 0..each {
                assert_eq!(connection.ask(request.clone())?.status, 200);
            }
            Ok(())
        };
        let clients: Vec<_> = (0..clients).map(|_| scope.spawn(ask)).collect();
        clients.into_iter().try_for_each(|client| {
            client
                .join()
                .unwrap_or_else(|_| anyhow::bail!("a client panicked"))
        })
    })
}

#[test]
fn requests_are_spread_over_all_ready_endpoints() -> Done {
    let pods = pods(4)?;
    let site = site(&[], &pods)?;
    let agent = site.start()?;
    ask_from(8, 30, &agent, "http://web.test/?delay=20")?;
    let counts: Vec<_> = pods.iter().map(Echo::requests).collect();
    assert_eq!(counts.iter().sum::<usize>(), 240);
    assert!(counts.iter().all(|&count| count >= 5), "{counts:?}");
    assert!(counts.iter().all(|&count| count <= 160), "{counts:?}");
    Ok(())
}

#[test]
fn a_slow_endpoint_gets_clearly_less_than_its_share() -> Done {
    let mut all = pods(3)?;
    all.push(Echo::start_slow("slow", Duration::from_millis(200))?);
    let site = site(&[], &all)?;
    let agent = site.start()?;
    ask_from(4, 50, &agent, "http://web.test/")?;
    let slow = all[3].requests();
    // Its share would be 50 of 200.
    assert!((1..=25).contains(&slow), "{slow} of 200");
    Ok(())
}

/// The same endpoints by turns: here the slow one gets as much as the others, so the test above can fail.
#[test]
fn round_robin_does_not_look_at_latency() -> Done {
    let mut all = pods(3)?;
    all.push(Echo::start_slow("slow", Duration::from_millis(20))?);
    let site = site(&[("load-balance", "round_robin")], &all)?;
    let agent = site.start()?;
    ask_from(4, 10, &agent, "http://web.test/")?;
    let counts: Vec<_> = all.iter().map(Echo::requests).collect();
    assert!(counts.iter().all(|count| (9..=11).contains(count)), "{counts:?}");
    Ok(())
}

#[test]
fn when_an_endpoint_goes_a_hash_moves_only_the_keys_that_it_had() -> Done {
    let pods = pods(5)?;
    let site = site(&[("upstream-hash-by", "$request_uri")], &pods)?;
    let agent = site.start()?;
    let owners = || -> anyhow::Result<BTreeMap<usize, String>> {
        let page = |n| Ok((n, agent.get(&format!("http://web.test/page-{n}"))?.served_by()));
        (0..40).map(page).collect()
    };
    let before = owners()?;
    // One that certainly has a key; which keys a pod has follows from its port.
    let (lost, stay): (Vec<_>, Vec<_>) = pods
        .iter()
        .enumerate()
        .partition(|(n, _)| format!("pod-{n}") == before[&0]);
    let left: Vec<_> = stay.iter().map(|(_, pod)| pod.address()).collect();
    let gone = lost[0].1.address().to_string();
    assert!(agent.admin("/config")?.text().contains(&gone));
    site.manifests.endpoints("web", &left)?;
    agent.wait_until("the endpoint is gone", |agent| {
        Ok(!agent.admin("/config")?.text().contains(&gone))
    })?;
    let after = owners()?;
    let gone = |n: &usize| before[n] == before[&0];
    assert!(!after.values().any(|owner| *owner == before[&0]));
    for (page, owner) in &after {
        assert!(
            gone(page) || *owner == before[page],
            "page {page}: {before:?} {after:?}"
        );
    }
    Ok(())
}
