//! `spec.defaultBackend` in both forms, and the global default backend.

use ingress_tests::{Ingress, Site};

use crate::Done;

#[test]
fn the_default_backend_of_an_ingress_with_rules_serves_what_is_unmatched_on_its_hosts() -> Done {
    let site = Site::new(&[
        Ingress::new("web")
            .default_backend("rest")
            .host("web.test")
            .prefix("/app", "app"),
        Ingress::new("other").host("other.test").prefix("/app", "app"),
    ])?;
    let agent = site.start()?;
    assert_eq!(agent.get("http://web.test/app")?.served_by(), "app");
    assert_eq!(agent.get("http://web.test/else")?.served_by(), "rest");
    assert_eq!(agent.get("http://other.test/else")?.reason(), "path_unmatched");
    assert_eq!(agent.get("http://nowhere.test/")?.reason(), "host_unknown");
    Ok(())
}

#[test]
fn the_default_backend_of_a_rule_that_has_a_host_and_no_paths_serves_that_host() -> Done {
    let site = Site::new(&[Ingress::new("web").default_backend("rest").host("web.test")])?;
    let agent = site.start()?;
    assert_eq!(agent.get("http://web.test/any")?.served_by(), "rest");
    assert_eq!(agent.get("http://nowhere.test/")?.reason(), "host_unknown");
    Ok(())
}

#[test]
fn the_default_backend_of_an_ingress_without_rules_serves_all_that_is_unmatched() -> Done {
    let site = Site::new(&[
        Ingress::new("rest").default_backend("rest"),
        Ingress::new("web").host("web.test").prefix("/app", "app"),
    ])?;
    let agent = site.start()?;
    assert_eq!(agent.get("http://web.test/app")?.served_by(), "app");
    assert_eq!(agent.get("http://web.test/else")?.served_by(), "rest");
    assert_eq!(agent.get("http://nowhere.test/any")?.served_by(), "rest");
    Ok(())
}

#[test]
fn the_global_default_backend_serves_what_is_left_and_loses_against_every_ingress() -> Done {
    let mut site = Site::new(&[Ingress::new("web").host("web.test").prefix("/app", "app")])?;
    site.service("ops/fallback")?;
    let agent = site.start_with(&["--default-backend", "ops/fallback:80"])?;
    assert_eq!(agent.get("http://web.test/app")?.served_by(), "app");
    assert_eq!(agent.get("http://web.test/else")?.served_by(), "fallback");
    assert_eq!(agent.get("http://nowhere.test/any")?.served_by(), "fallback");
    site.service("rest")?;
    site.manifests
        .ingress(&Ingress::new("rest").default_backend("rest"))?;
    agent.get_until("http://nowhere.test/", |answer| answer.backend() == "rest")?;
    Ok(())
}

#[test]
fn a_global_default_backend_that_does_not_exist_is_said() -> Done {
    let site = Site::new(&[])?;
    let agent = site.start_with(&["--default-backend", "ops/fallback:http"])?;
    let answer = agent.get("http://nowhere.test/")?;
    assert_eq!((answer.status, answer.reason()), (503, "service_missing"));
    agent.diagnostic("Service ops/fallback", "ServiceNotFound")?;
    Ok(())
}
