//! Session affinity by cookie, and the balancers that can be told apart from outside.

use std::collections::BTreeSet;

use ingress_tests::{Echo, Request, Site, TestAgent};

use super::annotated;
use crate::Done;

struct Pods {
    site: Site,
    echoes: Vec<Echo>,
}

impl Pods {
    fn new(count: usize, annotations: &[(&str, &str)]) -> anyhow::Result<Self> {
        let site = Site::new(&[annotated(annotations)])?;
        let echoes = (0..count)
            .map(|n| Echo::start(&format!("pod-{n}")))
            .collect::<anyhow::Result<Vec<_>>>()?;
        let pods = Self { site, echoes };
        pods.without("")?;
        Ok(pods)
    }

    /// All endpoints but this pod's.
    fn without(&self, gone: &str) -> anyhow::Result<()> {
        let named = self
            .echoes
            .iter()
            .enumerate()
            .map(|(n, echo)| (format!("pod-{n}"), echo.address()));
        let left: Vec<_> = named
            .filter(|(name, _)| name != gone)
            .map(|(_, address)| address)
            .collect();
        self.site.manifests.endpoints("web", &left)?;
        Ok(())
    }
}

fn ask(agent: &TestAgent, cookie: &str) -> anyhow::Result<(String, String)> {
    let answer = agent.ask(Request::get("http://web.test/")?.header("cookie", cookie)?)?;
    let set = answer.header("set-cookie").to_owned();
    Ok((answer.served_by(), set))
}

#[test]
fn an_affinity_cookie_sticks_to_its_endpoint_and_moves_when_that_goes() -> Done {
    let pods = Pods::new(
        4,
        &[
            ("affinity", "cookie"),
            ("session-cookie-name", "route"),
            ("session-cookie-max-age", "60"),
        ],
    )?;
    let agent = pods.site.start()?;
    let (first, set) = ask(&agent, "")?;
    assert!(
        set.starts_with("route=") && set.contains("; Max-Age=60") && set.contains("; HttpOnly"),
        "{set}"
    );
    let cookie = set.split(';').next().unwrap_or_default().to_owned();
    for _ in 0..20 {
        let (again, set) = ask(&agent, &cookie)?;
        assert_eq!(
            (again, set.as_str()),
            (first.clone(), ""),
            "no new cookie where the old one holds"
        );
    }
    // Another endpoint more or less does not move it.
    let other = (0..4)
        .map(|n| format!("pod-{n}"))
        .find(|name| *name != first)
        .unwrap_or_default();
    pods.without(&other)?;
    agent.wait_until("the other endpoint is gone", |agent| {
        Ok(agent.admin("/config")?.text().matches("\"address\"").count() != 4)
    })?;
    assert_eq!(ask(&agent, &cookie)?.0, first);
    pods.without(&first)?;
    agent.wait_until("the session has moved", |agent| {
        Ok(ask(agent, &cookie)?.0 != first)
    })?;
    let (moved, set) = ask(&agent, &cookie)?;
    assert_ne!(moved, first);
    assert!(
        set.starts_with("route=") && !set.starts_with(&cookie),
        "it is remembered anew: {set}"
    );
    Ok(())
}

#[test]
fn a_session_whose_endpoint_fails_moves_for_good_only_where_that_is_asked_for() -> Done {
    for (change, moves) in [("true", true), ("false", false)] {
        let annotations = [
            ("affinity", "cookie"),
            ("session-cookie-change-on-failure", change),
        ];
        let mut pods = Pods::new(2, &annotations)?;
        let agent = pods.site.start()?;
        let (first, set) = ask(&agent, "")?;
        let cookie = set.split(';').next().unwrap_or_default().to_owned();
        // The process dies; its endpoint is still listed.
        let index = usize::from(first == "pod-1");
        drop(pods.echoes.remove(index));
        let (served, set) = ask(&agent, &cookie)?;
        assert_ne!(served, first);
        assert_eq!(set.is_empty(), !moves, "change-on-failure {change}: {set}");
    }
    Ok(())
}

#[test]
fn an_affinity_cookie_of_nobodys_making_is_replaced() -> Done {
    let pods = Pods::new(2, &[("affinity", "cookie")])?;
    let agent = pods.site.start()?;
    for forged in [
        "INGRESSCOOKIE=x",
        "INGRESSCOOKIE=",
        "INGRESSCOOKIE=../../etc; a=b",
    ] {
        let (served, set) = ask(&agent, forged)?;
        assert!(
            served.starts_with("pod-") && set.starts_with("INGRESSCOOKIE="),
            "{served} {set}"
        );
    }
    Ok(())
}

#[test]
fn round_robin_goes_in_turn_and_a_hash_stays() -> Done {
    let turns = Pods::new(4, &[("load-balance", "round_robin")])?;
    let agent = turns.site.start()?;
    for _ in 0..40 {
        agent.get("http://web.test/")?;
    }
    let counts: Vec<_> = turns.echoes.iter().map(Echo::requests).collect();
    assert!(counts.iter().all(|count| (9..=11).contains(count)), "{counts:?}");
    let hashed = Pods::new(4, &[("upstream-hash-by", "$request_uri")])?;
    let agent = hashed.site.start()?;
    let mut used = BTreeSet::new();
    for page in 0..20 {
        let url = format!("http://web.test/page-{page}");
        let first = agent.get(&url)?.served_by();
        assert_eq!(agent.get(&url)?.served_by(), first, "{url}");
        used.insert(first);
    }
    assert!(used.len() > 1, "pages spread over endpoints: {used:?}");
    Ok(())
}
