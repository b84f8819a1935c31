//! Who serves an Ingress: by field, by annotation, by default, and what is nobody's.

use ingress_tests::{AgentProcess, Ingress, Manifests, Site};

use crate::Done;

const OURS: &str = "ingress-agent.io/controller";
const LEGACY: &str = "kubernetes.io/ingress.class";

/// A site whose only classes are these: name, controller, default.
fn with_classes(classes: &[(&str, &str, bool)], ingresses: &[Ingress]) -> anyhow::Result<Site> {
    let site = Site::new(ingresses)?;
    site.manifests.remove("class-ingress-agent.yaml")?;
    for (name, controller, is_default) in classes {
        site.manifests.class(name, controller, *is_default)?;
    }
    Ok(site)
}

fn web(host: &str) -> Ingress {
    Ingress::new(host.trim_end_matches(".test"))
        .host(host)
        .prefix("/", "web")
}

#[test]
fn the_field_decides_by_the_controller_of_the_class_it_names() -> Done {
    let site = with_classes(
        &[("edge", OURS, false), ("nginx", "k8s.io/ingress-nginx", false)],
        &[web("ours.test").class("edge"), web("theirs.test").class("nginx")],
    )?;
    let agent = site.start()?;
    assert_eq!(agent.get("http://ours.test/")?.served_by(), "web");
    assert_eq!(agent.get("http://theirs.test/")?.reason(), "host_unknown");
    let of_theirs = |(object, _, _): &(String, String, String)| object == "Ingress default/theirs";
    assert!(
        !agent.diagnostics()?.iter().any(of_theirs),
        "another controller's is not ours to complain about"
    );
    Ok(())
}

#[test]
fn the_legacy_annotation_counts_without_a_class_object_and_may_not_contradict_the_field() -> Done {
    let site = with_classes(
        &[("nginx", "k8s.io/ingress-nginx", false), ("edge", OURS, false)],
        &[
            web("annotated.test").annotation(LEGACY, "ingress-agent"),
            web("class-by-annotation.test").annotation(LEGACY, "edge"),
            web("theirs.test").annotation(LEGACY, "nginx"),
            web("both.test").annotation(LEGACY, "ingress-agent").class("edge"),
        ],
    )?;
    let agent = site.start()?;
    assert_eq!(agent.get("http://annotated.test/")?.served_by(), "web");
    assert_eq!(agent.get("http://class-by-annotation.test/")?.served_by(), "web");
    assert_eq!(agent.get("http://theirs.test/")?.reason(), "host_unknown");
    // As the API server refuses it on creation.
    assert_eq!(agent.get("http://both.test/")?.reason(), "host_unknown");
    let told = |(_, _, message): &(String, String, String)| message.contains("must match `ingressClassName`");
    assert!(
        agent.diagnostics()?.iter().any(told),
        "{:#?}",
        agent.diagnostics()?
    );
    Ok(())
}

#[test]
fn an_ingress_that_names_no_class_is_ours_where_our_class_is_the_default() -> Done {
    let site = with_classes(&[("edge", OURS, true)], &[web("classless.test")])?;
    let agent = site.start()?;
    assert_eq!(agent.get("http://classless.test/")?.served_by(), "web");
    Ok(())
}

#[test]
fn without_a_default_class_a_classless_ingress_is_nobodys_unless_a_flag_says_otherwise() -> Done {
    let site = with_classes(&[("edge", OURS, false)], &[web("classless.test")])?;
    let agent = site.start()?;
    let answer = agent.get("http://classless.test/")?;
    assert_eq!((answer.status, answer.reason()), (404, "host_unowned"));
    agent.diagnostic("Ingress default/classless", "NoIngressClass")?;
    let lenient = site.start_with(&["--watch-ingress-without-class"])?;
    assert_eq!(lenient.get("http://classless.test/")?.served_by(), "web");
    Ok(())
}

#[test]
fn two_default_classes_are_said() -> Done {
    let site = with_classes(
        &[("edge", OURS, true), ("nginx", "k8s.io/ingress-nginx", true)],
        &[web("classless.test"), web("named.test").class("edge")],
    )?;
    let agent = site.start()?;
    assert_eq!(agent.get("http://classless.test/")?.reason(), "host_unowned");
    assert_eq!(agent.get("http://named.test/")?.served_by(), "web");
    agent.diagnostic("IngressClass edge", "TwoDefaultClasses")?;
    let message = agent.diagnostic("Ingress default/classless", "TwoDefaultClasses")?;
    assert!(message.contains("\"edge\", \"nginx\""), "{message}");
    Ok(())
}

#[test]
fn another_controllers_classes_can_be_adopted_unchanged() -> Done {
    let site = with_classes(
        &[("nginx", "k8s.io/ingress-nginx", false), ("edge", OURS, false)],
        &[web("nginx.test").class("nginx"), web("edge.test").class("edge")],
    )?;
    let agent = site.start_with(&["--controllers", OURS, "--controllers", "k8s.io/ingress-nginx"])?;
    assert_eq!(agent.get("http://nginx.test/")?.served_by(), "web");
    assert_eq!(agent.get("http://edge.test/")?.served_by(), "web");
    Ok(())
}

/// Half of the manifests were moved from the annotation to the field; nobody made the IngressClass.
fn half_moved() -> anyhow::Result<Site> {
    with_classes(
        &[],
        &[
            web("still-annotated.test").annotation(LEGACY, "ingress-agent"),
            web("moved.test").class("ingress-agent"),
        ],
    )
}

#[test]
fn half_moved_manifests_answer_host_unowned_and_name_the_ingress_and_the_mismatch() -> Done {
    let site = half_moved()?;
    let agent = site.start()?;
    assert_eq!(agent.get("http://still-annotated.test/")?.served_by(), "web");
    let answer = agent.get("http://moved.test/")?;
    assert_eq!((answer.status, answer.reason()), (404, "host_unowned"));
    assert!(
        !answer.text().contains("moved"),
        "clients get the code alone: {}",
        answer.text()
    );
    let message = agent.diagnostic("Ingress default/moved", "IngressClassNotFound")?;
    assert!(
        message.contains("\"ingress-agent\" names no IngressClass"),
        "{message}"
    );
    assert!(message.contains("create the IngressClass"), "{message}");
    assert_eq!(agent.metric("ingress_agent_unowned_ingresses", &[])?, 1.0);
    // Then somebody makes the class, and all is well without a restart.
    site.manifests.class("ingress-agent", OURS, false)?;
    agent.get_until("http://moved.test/", |answer| answer.backend() == "web")?;
    assert_eq!(agent.metric("ingress_agent_unowned_ingresses", &[])?, 0.0);
    Ok(())
}

#[test]
fn half_moved_manifests_cost_one_line_in_the_log_and_the_access_log_explains_each_404() -> Done {
    let site = half_moved()?;
    let agent = AgentProcess::start(env!("CARGO_BIN_EXE_agent-under-test"), site.manifests.path(), &[])?;
    for _ in 0..3 {
        ingress_tests::Request::get("http://moved.test/")?.ask(agent.http)?;
    }
    let line = agent.access_log_line("the 404", |line| line["reason"] == "host_unowned")?;
    assert_eq!(
        (&line["status"], &line["host"]),
        (&404.into(), &"moved.test".into())
    );
    assert_eq!(line["unowned_object"], "Ingress default/moved");
    let because = line["unowned_because"].as_str().unwrap_or_default();
    assert!(
        because.contains("\"ingress-agent\" names no IngressClass"),
        "{because}"
    );
    let about = |line: &serde_json::Value| line["object"] == "Ingress default/moved";
    let lines = agent.log_lines(about);
    assert_eq!(lines.len(), 1, "{lines:#?}");
    assert_eq!(lines[0]["reason"], "IngressClassNotFound");
    Ok(())
}

#[test]
fn an_unowned_ingress_takes_nothing_away_from_one_that_is_served() -> Done {
    let site = with_classes(
        &[("edge", OURS, false)],
        &[
            Ingress::new("served")
                .class("edge")
                .host("web.test")
                .prefix("/app", "web"),
            Ingress::new("lost")
                .class("gone")
                .host("web.test")
                .prefix("/lost", "web"),
        ],
    )?;
    let agent = site.start()?;
    assert_eq!(agent.get("http://web.test/app")?.served_by(), "web");
    assert_eq!(agent.get("http://web.test/lost")?.status, 404);
    agent.diagnostic("Ingress default/lost", "IngressClassNotFound")?;
    Ok(())
}

#[test]
fn an_agent_without_any_manifest_is_ready_and_knows_no_host() -> Done {
    let agent = ingress_tests::TestAgent::start(&Manifests::new()?)?;
    let answer = agent.get("http://web.test/")?;
    assert_eq!((answer.status, answer.reason()), (404, "host_unknown"));
    Ok(())
}
