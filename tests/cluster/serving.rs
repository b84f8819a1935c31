//! From `kubectl apply` to an answer: what is in the cluster is what the agent serves.

use anyhow::Context;
use ingress_tests::cluster::control_plane::Program;
use ingress_tests::{AgentProcess, Certs, Cluster, Ingress, Load, Namespace, Request, TestAgent};

use crate::Done;

/// A host that no other case uses.
fn host(namespace: &Namespace<'_>) -> String {
    format!("web.{}.test", namespace.name())
}

fn url(namespace: &Namespace<'_>) -> String {
    format!("http://{}/", host(namespace))
}

/// Everything to the Service `web`.
fn ingress(namespace: &Namespace<'_>) -> Ingress {
    namespace.ingress("web").host(&host(namespace)).prefix("/", "web")
}

fn agent(cluster: &Cluster) -> anyhow::Result<TestAgent> {
    TestAgent::start_in_cluster(cluster.kubeconfig(), &[])
}

fn is_unknown(agent: &TestAgent, url: &str) -> Done {
    agent.get_until(url, |answer| answer.served_by() == "404 host_unknown")?;
    Ok(())
}

#[test]
fn an_ingress_goes_from_nothing_to_200_follows_its_changes_and_is_gone_when_deleted() -> Done {
    let cluster = crate::cluster()?;
    let namespace = cluster.namespace("apply")?;
    let agent = agent(cluster)?;
    let url = url(&namespace);
    is_unknown(&agent, &url)?;

    let (web, other) = (namespace.pod("web")?, namespace.pod("other")?);
    namespace.apply_ingress(&ingress(&namespace))?;
    agent.get_until(&url, |answer| answer.served_by() == "503 service_missing")?;
    namespace.service("web", &[&web])?;
    namespace.service("other", &[&other])?;
    agent.get_until(&url, |answer| answer.backend() == "web")?;

    let elsewhere = namespace
        .ingress("web")
        .host(&host(&namespace))
        .prefix("/", "other");
    namespace.apply_ingress(&elsewhere)?;
    agent.get_until(&url, |answer| answer.backend() == "other")?;

    namespace.delete("ingress", "web")?;
    is_unknown(&agent, &url)
}

#[test]
fn an_ingress_is_served_while_its_class_is_ours() -> Done {
    let cluster = crate::cluster()?;
    let namespace = cluster.namespace("class")?;
    let agent = agent(cluster)?;
    let (url, theirs) = (url(&namespace), format!("{}-theirs", namespace.name()));
    let web = namespace.pod("web")?;
    namespace.service("web", &[&web])?;
    let class = |controller: &str| {
        format!(
            "apiVersion: networking.k8s.io/v1\nkind: IngressClass\nmetadata: {{name: {theirs}}}\nspec: {{controller: {controller}}}\n"
        )
    };
    cluster.apply(&class("other.example/controller"))?;

    namespace.apply_ingress(&ingress(&namespace).class(&theirs))?;
    is_unknown(&agent, &url)?;
    namespace.apply_ingress(&ingress(&namespace))?;
    agent.get_until(&url, |answer| answer.backend() == "web")?;
    namespace.apply_ingress(&ingress(&namespace).class(&theirs))?;
    is_unknown(&agent, &url)?;

    // A class cannot change its controller; it can go and come back with another.
    cluster.kubectl(&["delete", "ingressclass", &theirs], "")?;
    agent.get_until(&url, |answer| answer.reason() == "host_unowned")?;
    cluster.apply(&class("ingress-agent.io/controller"))?;
    agent.get_until(&url, |answer| answer.backend() == "web")?;
    cluster.kubectl(&["delete", "ingressclass", &theirs], "")?;
    Ok(())
}

#[test]
fn a_certificate_is_served_as_soon_as_its_secret_exists_and_followed_when_it_is_replaced() -> Done {
    let cluster = crate::cluster()?;
    let namespace = cluster.namespace("secret")?;
    let (agent, certs) = (agent(cluster)?, Certs::new()?);
    let (host, web) = (host(&namespace), namespace.pod("web")?);
    namespace.service("web", &[&web])?;
    namespace.apply_ingress(&ingress(&namespace).tls(&[&host], "tls"))?;
    let url = format!("https://{host}/");
    let has_name = |name: &'static str| {
        move |answer: &ingress_tests::Answer| answer.certificate_names.iter().any(|found| found == name)
    };
    for generation in ["one.test", "two.test"] {
        namespace.tls_secret("tls", &certs.leaf(&[&host, generation])?)?;
        let answer = agent.get_until(&url, has_name(generation))?;
        assert_eq!(answer.backend(), "web");
    }
    Ok(())
}

#[test]
fn endpoints_are_followed_without_a_failed_request() -> Done {
    let cluster = crate::cluster()?;
    let namespace = cluster.namespace("slices")?;
    let agent = agent(cluster)?;
    let url = url(&namespace);
    let (one, two) = (namespace.pod("one")?, namespace.pod("two")?);
    namespace.service("web", &[&one])?;
    namespace.apply_ingress(&ingress(&namespace))?;
    agent.get_until(&url, |answer| answer.backend() == "one")?;

    let load = Load::start(&url, agent.http, 200)?;
    for _ in 0..3 {
        namespace.endpoints("web", &[&one, &two])?;
        agent.get_until(&url, |answer| answer.backend() == "two")?;
        namespace.endpoints("web", &[&two])?;
        load.wait_for(50)?;
        namespace.endpoints("web", &[&one])?;
        agent.get_until(&url, |answer| answer.backend() == "one")?;
    }
    load.finish()?;
    namespace.endpoints("web", &[])?;
    agent.get_until(&url, |answer| answer.served_by() == "503 no_endpoints")?;
    Ok(())
}

#[test]
fn an_agent_that_starts_while_the_api_server_is_gone_serves_from_the_state_on_the_node() -> Done {
    let cluster = &Cluster::start(env!("CARGO_BIN_EXE_kube-cluster"))?;
    let namespace = cluster.namespace("state")?;
    let (state, certs) = (tempfile::tempdir()?, Certs::new()?);
    // Secrets are kept in memory only.
    let secrets = tempfile::tempdir_in("/dev/shm")?;
    let paths = [state.path(), secrets.path()].map(|path| path.to_str().unwrap_or_default().to_owned());
    let flags = ["--state-dir", &paths[0], "--state-secrets-dir", &paths[1]];
    let (host, web) = (host(&namespace), namespace.pod("web")?);
    namespace.service("web", &[&web])?;
    namespace.tls_secret("tls", &certs.leaf(&[&host, "kept.test"])?)?;
    namespace.apply_ingress(&ingress(&namespace).tls(&[&host], "tls"))?;
    let url = format!("https://{host}/");
    let is_ours = |answer: &ingress_tests::Answer| {
        answer.backend() == "web" && answer.certificate_names.iter().any(|name| name == "kept.test")
    };
    let agent = TestAgent::start_in_cluster(cluster.kubeconfig(), &flags)?;
    agent.get_until(&url, is_ours)?;
    agent.wait_until("the state is saved", |_| {
        let is_there = |dir: &std::path::Path| Ok::<_, std::io::Error>(dir.read_dir()?.next().is_some());
        Ok(is_there(state.path())? && is_there(secrets.path())?)
    })?;
    agent.shutdown();

    cluster.stop_program(Program::ApiServer)?;
    let program = cluster.program("ingress-agent");
    let program = program.to_str().context("a path in UTF-8")?;
    let agent = AgentProcess::start_in_cluster(program, cluster.kubeconfig(), &flags)?;
    let answer = Request::get(&url)?.ask(agent.https)?;
    assert!(is_ours(&answer), "from the first request on: {answer:?}");
    Ok(())
}

#[test]
fn an_api_server_that_is_gone_for_a_while_costs_no_request_and_what_changed_since_is_then_served() -> Done {
    // One of its own, as the other cases need theirs.
    let cluster = &Cluster::start(env!("CARGO_BIN_EXE_kube-cluster"))?;
    let namespace = cluster.namespace("gone")?;
    let agent = agent(cluster)?;
    let url = url(&namespace);
    let web = namespace.pod("web")?;
    namespace.service("web", &[&web])?;
    namespace.apply_ingress(&ingress(&namespace))?;
    agent.get_until(&url, |answer| answer.backend() == "web")?;

    let load = Load::start(&url, agent.http, 200)?;
    let is_connected = |agent: &TestAgent| agent.metric("ingress_agent_source_connected", &[]);
    for round in 0..2 {
        cluster.stop_program(Program::ApiServer)?;
        agent.wait_until("the metric says that the API server is gone", |agent| {
            Ok(is_connected(agent)? == 0.0)
        })?;
        assert_eq!(
            agent.admin("/readyz")?.status,
            200,
            "what is known goes on being served"
        );
        load.wait_for(200)?;
        cluster.start_program(Program::ApiServer)?;
        agent.wait_until("it is there again", |agent| Ok(is_connected(agent)? == 1.0))?;
        let host = format!("after-{round}.test");
        namespace.apply_ingress(
            &namespace
                .ingress(&format!("after-{round}"))
                .host(&host)
                .prefix("/", "web"),
        )?;
        agent.get_until(&format!("http://{host}/"), |answer| answer.backend() == "web")?;
    }
    load.finish()?;
    Ok(())
}
