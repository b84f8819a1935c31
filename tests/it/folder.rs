//! The folder source, end to end: from a file's arrival to an answer.

use std::fs;

use ingress_tests::{Echo, Ingress, Manifests, Site, TestAgent};

use crate::Done;

fn ingress(host: &str) -> Ingress {
    Ingress::new(host.trim_end_matches(".test"))
        .host(host)
        .prefix("/", "web")
}

fn site() -> anyhow::Result<(Site, TestAgent)> {
    let site = Site::new(&[ingress("web.test")])?;
    let agent = site.start()?;
    Ok((site, agent))
}

#[test]
fn a_file_that_arrives_is_served_one_that_is_replaced_follows_and_one_that_goes_is_gone() -> Done {
    let (site, agent) = site()?;
    site.manifests.ingress(&ingress("new.test"))?;
    agent.get_until("http://new.test/", |answer| answer.backend() == "web")?;
    site.manifests
        .ingress(&Ingress::new("new").host("newer.test").prefix("/", "web"))?;
    agent.get_until("http://newer.test/", |answer| answer.backend() == "web")?;
    assert_eq!(agent.get("http://new.test/")?.served_by(), "404 host_unknown");
    site.manifests.remove_ingress("new")?;
    agent.get_until("http://newer.test/", |answer| answer.reason() == "host_unknown")?;
    assert_eq!(agent.get("http://web.test/")?.served_by(), "web");
    Ok(())
}

#[test]
fn yaml_json_lists_several_documents_and_subfolders_are_read() -> Done {
    let site = Site::new(&[])?;
    let mut site = site;
    site.service("web")?;
    let dir = site.manifests.path();
    fs::create_dir_all(dir.join("team/deep"))?;
    let document = |host: &str| ingress(host).yaml();
    fs::write(
        dir.join("two.yml"),
        format!("{}---\n{}", document("one.test"), document("two.test")),
    )?;
    fs::write(dir.join("team/deep/three.yaml"), document("three.test"))?;
    let rule = |host: &str| {
        serde_json::json!({"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": {"name": host.replace('.', "-")},
            "spec": {"rules": [{"host": host, "http": {"paths": [{"path": "/", "pathType": "Prefix",
                "backend": {"service": {"name": "web", "port": {"number": 80}}}}]}}]}})
    };
    fs::write(dir.join("four.json"), rule("four.test").to_string())?;
    let list = serde_json::json!({"apiVersion": "v1", "kind": "List", "items": [rule("five.test"), rule("six.test")]});
    fs::write(dir.join("list.json"), list.to_string())?;
    fs::write(dir.join("README.md"), "not a manifest: {{{")?;
    let agent = site.start()?;
    for host in ["one", "two", "three", "four", "five", "six"] {
        assert_eq!(
            agent.get(&format!("http://{host}.test/"))?.served_by(),
            "web",
            "{host}"
        );
    }
    assert_eq!(agent.diagnostics()?, []);
    Ok(())
}

#[test]
fn a_file_that_stops_parsing_keeps_its_last_good_objects_and_is_told_with_its_line() -> Done {
    let (site, agent) = site()?;
    let file = "ingress-web.yaml";
    let broken = ingress("web.test").yaml().replace("rules:", "rules: [");
    site.manifests.write(file, &broken)?;
    let told = |agent: &TestAgent| -> anyhow::Result<Option<String>> {
        let all = agent.diagnostics()?;
        Ok(all
            .into_iter()
            .find(|(object, _, _)| object.ends_with(file))
            .map(|(_, _, message)| message))
    };
    agent.wait_until("the file is told", |agent| Ok(told(agent)?.is_some()))?;
    let message = told(&agent)?.unwrap_or_default();
    assert!(message.contains("line"), "{message}");
    assert_eq!(agent.get("http://web.test/")?.served_by(), "web");
    // Another file changes meanwhile, and that has effect.
    site.manifests.ingress(&ingress("more.test"))?;
    agent.get_until("http://more.test/", |answer| answer.backend() == "web")?;
    assert_eq!(agent.get("http://web.test/")?.served_by(), "web");
    site.manifests
        .ingress(&ingress("web.test").prefix("/more", "web"))?;
    agent.wait_until("all is well", |agent| Ok(agent.diagnostics()?.is_empty()))?;
    assert_eq!(agent.get("http://web.test/")?.served_by(), "web");
    Ok(())
}

#[test]
fn a_folder_that_vanishes_keeps_what_is_served_and_is_followed_again_when_it_returns() -> Done {
    let parent = tempfile::tempdir()?;
    let echo = Echo::start("web")?;
    let source = Manifests::new()?;
    source
        .our_class()?
        .service("web", &[echo.address()])?
        .ingress(&ingress("web.test"))?;
    let (there, away) = (parent.path().join("site"), parent.path().join("away"));
    copy(source.path(), &there)?;
    let agent = TestAgent::start_on(&there, &[])?;
    assert_eq!(agent.get("http://web.test/")?.served_by(), "web");
    fs::rename(&there, &away)?;
    agent.wait_until("the missing folder is told", |agent| {
        Ok(!agent.diagnostics()?.is_empty())
    })?;
    assert_eq!(agent.get("http://web.test/")?.served_by(), "web");
    source.ingress(&ingress("back.test"))?;
    copy(source.path(), &there)?;
    agent.get_until("http://back.test/", |answer| answer.backend() == "web")?;
    agent.wait_until("all is well", |agent| Ok(agent.diagnostics()?.is_empty()))?;
    Ok(())
}

/// As the kubelet updates a mounted ConfigMap: new folder, new link, one rename of `..data`.
#[test]
fn the_kubelets_data_link_is_followed() -> Done {
    let mount = tempfile::tempdir()?;
    let (echo, source) = (Echo::start("web")?, Manifests::new()?);
    source
        .our_class()?
        .service("web", &[echo.address()])?
        .ingress(&ingress("web.test"))?;
    let publish = |version: &str| -> anyhow::Result<()> {
        copy(source.path(), &mount.path().join(version))?;
        std::os::unix::fs::symlink(version, mount.path().join("..data_tmp"))?;
        fs::rename(mount.path().join("..data_tmp"), mount.path().join("..data"))?;
        for file in fs::read_dir(source.path())? {
            let name = file?.file_name();
            let link = mount.path().join(&name);
            if !link.is_symlink() {
                std::os::unix::fs::symlink(std::path::Path::new("..data").join(&name), link)?;
            }
        }
        Ok(())
    };
    publish("..v1")?;
    let agent = TestAgent::start_on(mount.path(), &[])?;
    assert_eq!(agent.get("http://web.test/")?.served_by(), "web");
    source.ingress(&Ingress::new("web").host("renamed.test").prefix("/", "web"))?;
    publish("..v2")?;
    agent.get_until("http://renamed.test/", |answer| answer.backend() == "web")?;
    assert_eq!(agent.get("http://web.test/")?.served_by(), "404 host_unknown");
    Ok(())
}

#[test]
fn editors_temporary_files_are_no_manifests() -> Done {
    let (site, agent) = site()?;
    for name in [
        ".ingress-web.yaml.swp",
        "ingress-web.yaml~",
        "#ingress-web.yaml#",
        ".#ingress-web.yaml",
        "4913",
    ] {
        fs::write(site.manifests.path().join(name), ingress("ghost.test").yaml())?;
    }
    site.manifests.ingress(&ingress("later.test"))?;
    agent.get_until("http://later.test/", |answer| answer.backend() == "web")?;
    assert_eq!(agent.get("http://ghost.test/")?.served_by(), "404 host_unknown");
    Ok(())
}

#[test]
fn what_an_api_server_would_refuse_is_refused_and_costs_only_itself() -> Done {
    let (site, agent) = site()?;
    site.manifests
        .ingress(&Ingress::new("bad").host("bad.test").prefix("no-slash", "web"))?;
    site.manifests.ingress(&ingress("good.test"))?;
    agent.get_until("http://good.test/", |answer| answer.backend() == "web")?;
    assert_eq!(agent.get("http://bad.test/")?.status, 404);
    let all = agent.diagnostics()?;
    assert!(
        all.iter()
            .any(|(_, _, message)| message.contains("must be an absolute path")),
        "{all:#?}"
    );
    Ok(())
}

#[test]
fn a_yaml_bomb_and_a_huge_annotation_cost_only_themselves() -> Done {
    let (site, agent) = site()?;
    let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for level in 1..30 {
        let last = format!("*a{}, ", level - 1).repeat(10);
        bomb.push_str(&format!("a{level}: &a{level} [{last}]\n"));
    }
    site.manifests.write("bomb.yaml", &bomb)?;
    let huge = ingress("huge.test").annotation("upstream-vhost", &"x".repeat(1 << 20));
    site.manifests.ingress(&huge)?;
    site.manifests.ingress(&ingress("good.test"))?;
    agent.get_until("http://good.test/", |answer| answer.backend() == "web")?;
    agent.wait_until("both are told", |agent| {
        let all = agent.diagnostics()?;
        let about = |word: &str| {
            all.iter()
                .any(|(object, _, message)| object.contains(word) || message.contains(word))
        };
        Ok(about("bomb.yaml") && about("huge"))
    })?;
    let longest = agent
        .diagnostics()?
        .iter()
        .map(|(_, _, message)| message.len())
        .max();
    assert!(longest < Some(2000), "what is told of it is bounded: {longest:?}");
    assert_eq!(agent.get("http://web.test/")?.served_by(), "web");
    Ok(())
}

fn copy(from: &std::path::Path, to: &std::path::Path) -> anyhow::Result<()> {
    // Built beside and renamed, so that the agent never sees half of it.
    let mut partial = to.as_os_str().to_owned();
    partial.push(".partial");
    let partial = std::path::PathBuf::from(partial);
    fs::create_dir_all(&partial)?;
    for file in fs::read_dir(from)? {
        let file = file?;
        fs::copy(file.path(), partial.join(file.file_name()))?;
    }
    fs::rename(partial, to)?;
    Ok(())
}
