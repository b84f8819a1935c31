//! What an agent of a part of the cluster reads, and whose Ingresses without a class are.

use ingress_tests::{Cluster, Namespace, TestAgent};

use crate::Done;
use crate::access::Account;

fn host(namespace: &Namespace<'_>) -> String {
    format!("web.{}.test", namespace.name())
}

fn url(namespace: &Namespace<'_>) -> String {
    format!("http://{}/", host(namespace))
}

/// Everything to the Service `web`, which is there.
fn site(namespace: &Namespace<'_>, class: &str) -> anyhow::Result<ingress_tests::Pod> {
    let pod = namespace.pod("web")?;
    namespace.service("web", &[&pod])?;
    let ingress = namespace.ingress("web").host(&host(namespace)).prefix("/", "web");
    namespace.apply_ingress(&ingress.class(class))?;
    Ok(pod)
}

#[test]
fn with_roles_in_its_namespaces_alone_an_agent_serves_those_and_is_refused_nothing() -> Done {
    let cluster = crate::cluster()?;
    let (ours, theirs) = (cluster.namespace("listed")?, cluster.namespace("unlisted")?);
    let account = Account::create(&ours)?;
    let folder = tempfile::tempdir()?;
    let kubeconfig = account.write_kubeconfig(folder.path())?;
    let _pods = (site(&theirs, ours.name())?, site(&ours, ours.name())?);
    let agent = TestAgent::start_in_cluster(&kubeconfig, &["--watch-namespaces", ours.name()])?;
    agent.get_until(&url(&ours), |answer| answer.backend() == "web")?;
    assert_eq!(
        agent.get(&url(&theirs))?.served_by(),
        "404 host_unknown",
        "not even read"
    );
    assert_eq!(agent.metric("ingress_agent_source_failures_total", &[])?, 0.0);
    assert_eq!(agent.metric("ingress_agent_source_connected", &[])?, 1.0);
    Ok(())
}

#[test]
fn with_a_selector_only_ingresses_with_these_labels_are_read() -> Done {
    let cluster = crate::cluster()?;
    let namespace = cluster.namespace("selector")?;
    let _pod = site(&namespace, namespace.name())?;
    let flags = [
        "--watch-namespaces",
        namespace.name(),
        "--ingress-selector",
        "team=web",
    ];
    let agent = TestAgent::start_in_cluster(cluster.kubeconfig(), &flags)?;
    assert_eq!(agent.get(&url(&namespace))?.served_by(), "404 host_unknown");
    let label = |what: &str| cluster.kubectl(&["label", "ingress", "web", what, "-n", namespace.name()], "");
    label("team=web")?;
    agent.get_until(&url(&namespace), |answer| answer.backend() == "web")?;
    label("team-")?;
    agent.get_until(&url(&namespace), |answer| {
        answer.served_by() == "404 host_unknown"
    })?;
    Ok(())
}

#[test]
fn an_ingress_without_a_class_is_served_while_our_class_is_the_one_default() -> Done {
    // A default class is everybody's.
    let cluster = &Cluster::start(env!("CARGO_BIN_EXE_kube-cluster"))?;
    let namespace = cluster.namespace("default")?;
    let (pod, name) = (namespace.pod("web")?, namespace.name());
    namespace.service("web", &[&pod])?;
    // Not by `Namespace::ingress`, which names a class; before there is a default, so that admission gives it none.
    let ingress = ingress_tests::Ingress::new(&format!("{name}/web"));
    namespace.apply_ingress(&ingress.host(&host(&namespace)).prefix("/", "web"))?;
    let agent = TestAgent::start_in_cluster(cluster.kubeconfig(), &[])?;
    agent.get_until(&url(&namespace), |answer| {
        answer.served_by() == "404 host_unowned"
    })?;
    let object = format!("Ingress {name}/web");
    agent.diagnostic(&object, "NoIngressClass")?;

    let default = |class: &str, is: &str| {
        let annotation = format!("ingressclass.kubernetes.io/is-default-class={is}");
        cluster.kubectl(
            &["annotate", "--overwrite", "ingressclass", class, &annotation],
            "",
        )
    };
    default(name, "true")?;
    agent.get_until(&url(&namespace), |answer| answer.backend() == "web")?;
    // Made now, one gets its class from the API server.
    let late = ingress_tests::Ingress::new(&format!("{name}/late")).host("late.test");
    namespace.apply_ingress(&late.prefix("/", "web"))?;
    agent.get_until("http://late.test/", |answer| answer.backend() == "web")?;
    let class = [
        "get",
        "ingress",
        "late",
        "-n",
        name,
        "-o",
        "jsonpath={.spec.ingressClassName}",
    ];
    assert_eq!(cluster.kubectl(&class, "")?, name);

    let second = cluster.namespace("second")?;
    default(second.name(), "true")?;
    agent.diagnostic(&object, "TwoDefaultClasses")?;
    default(second.name(), "false")?;
    agent.get_until(&url(&namespace), |answer| answer.backend() == "web")?;
    default(name, "false")?;
    agent.get_until(&url(&namespace), |answer| {
        answer.served_by() == "404 host_unowned"
    })?;
    assert_eq!(
        agent.get("http://late.test/")?.backend(),
        "web",
        "it has its class"
    );
    Ok(())
}
