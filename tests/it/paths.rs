//! Paths of Ingress v1 and their precedence, asked through a running agent.

use ingress_tests::{Ingress, Site};

use crate::Done;

/// Path rules (kind and path; the first goes to Service `a`, the next to `b`, …), what is asked, and who answers.
type Row = (
    &'static [(char, &'static str)],
    &'static str,
    Option<&'static str>,
);

/// Every row of the table "Examples" under "Path types" in the Kubernetes documentation of Ingress. P is Prefix, E is Exact.
const KUBERNETES_TABLE: &[Row] = &[
    (&[('P', "/")], "/", Some("a")),
    (&[('P', "/")], "/any/path", Some("a")),
    (&[('E', "/foo")], "/foo", Some("a")),
    (&[('E', "/foo")], "/bar", None),
    (&[('E', "/foo")], "/foo/", None),
    (&[('E', "/foo/")], "/foo", None),
    (&[('P', "/foo")], "/foo", Some("a")),
    (&[('P', "/foo")], "/foo/", Some("a")),
    (&[('P', "/foo/")], "/foo", Some("a")),
    (&[('P', "/foo/")], "/foo/", Some("a")),
    (&[('P', "/aaa/bb")], "/aaa/bbb", None),
    (&[('P', "/aaa/bbb")], "/aaa/bbb", Some("a")),
    (&[('P', "/aaa/bbb/")], "/aaa/bbb", Some("a")),
    (&[('P', "/aaa/bbb")], "/aaa/bbb/", Some("a")),
    (&[('P', "/aaa/bbb")], "/aaa/bbb/ccc", Some("a")),
    (&[('P', "/aaa/bbb")], "/aaa/bbbxyz", None),
    (&[('P', "/"), ('P', "/aaa")], "/aaa/ccc", Some("b")),
    (
        &[('P', "/"), ('P', "/aaa"), ('P', "/aaa/bbb")],
        "/aaa/bbb",
        Some("c"),
    ),
    (&[('P', "/"), ('P', "/aaa"), ('P', "/aaa/bbb")], "/ccc", Some("a")),
    (&[('P', "/aaa")], "/ccc", None),
    (&[('P', "/foo"), ('E', "/foo")], "/foo", Some("b")),
];

/// What the table leaves open: ImplementationSpecific (I) is Prefix, case counts, `/foo` is not `/foobar`.
const MORE: &[Row] = &[
    (&[('P', "/foo")], "/foobar", None),
    (&[('P', "/foo")], "/foo/bar", Some("a")),
    (&[('P', "/foo")], "/FOO", None),
    (&[('I', "/foo")], "/foo/bar", Some("a")),
    (&[('I', "/foo/")], "/foo", Some("a")),
    (&[('I', "/foo")], "/foobar", None),
    (&[('E', "/foo/")], "/foo/", Some("a")),
    (&[('E', "/foo"), ('P', "/foo/bar")], "/foo/bar", Some("b")),
    (&[('E', "/foo/bar"), ('P', "/foo")], "/foo/bar", Some("a")),
    (&[('P', "/a/b"), ('P', "/a")], "/a/b/c", Some("a")),
    (&[('P', "/a"), ('P', "/a/b")], "/a/b/c", Some("b")),
    (&[('P', "/long-single-element"), ('P', "/a/b")], "/a/b", Some("b")),
];

#[test]
fn the_path_table_of_the_kubernetes_documentation_holds_row_by_row() -> Done {
    check(KUBERNETES_TABLE)
}

#[test]
fn implementation_specific_is_prefix_and_the_longest_match_by_elements_wins() -> Done {
    check(MORE)
}

#[test]
fn expressions_come_after_exact_and_prefix_with_the_longest_source_first() -> Done {
    let site = Site::new(&[
        Ingress::new("plain")
            .host("web.test")
            .exact("/x/exact", "exact")
            .prefix("/x/prefix", "prefix"),
        Ingress::new("regex")
            .annotation("use-regex", "true")
            .host("web.test")
            .implementation_specific("/x/.*", "short")
            .implementation_specific("/x/[a-z0-9]+/deep", "long"),
    ])?;
    let agent = site.start()?;
    for (path, backend) in [
        ("/x/exact", "exact"),
        ("/x/prefix/deep", "prefix"),
        ("/x/a1/deep", "long"),
        ("/x/a1", "short"),
        ("/X/A1/DEEP", "long"),
    ] {
        assert_eq!(
            agent.get(&format!("http://web.test{path}"))?.backend(),
            backend,
            "{path}"
        );
    }
    assert_eq!(
        agent.get("http://web.test/y/x/a")?.reason(),
        "path_unmatched",
        "anchored at the start"
    );
    Ok(())
}

#[test]
fn the_oldest_object_wins_a_duplicate_host_and_path_and_the_other_is_told() -> Done {
    let duplicate = |name: &str| Ingress::new(name).host("web.test");
    let site = Site::new(&[
        duplicate("a-newer")
            .created("2026-02-01T00:00:00Z")
            .prefix("/", "newer"),
        duplicate("z-oldest")
            .created("2026-01-01T00:00:00Z")
            .prefix("/", "oldest"),
        duplicate("0-undated").prefix("/", "undated"),
    ])?;
    let agent = site.start()?;
    assert_eq!(agent.get("http://web.test/")?.served_by(), "oldest");
    for loser in ["a-newer", "0-undated"] {
        let told = agent.diagnostic(&format!("Ingress default/{loser}"), "RouteConflict")?;
        assert!(told.contains("Ingress default/z-oldest"), "{told}");
        assert!(told.starts_with("spec.rules[0].http.paths[0]"), "{told}");
    }
    site.manifests.remove_ingress("z-oldest")?;
    agent.get_until("http://web.test/", |answer| answer.backend() == "newer")?;
    Ok(())
}

#[test]
fn among_undated_objects_namespace_and_name_decide_never_a_files_time() -> Done {
    let site = Site::new(&[
        Ingress::new("b/web").host("web.test").prefix("/", "second"),
        Ingress::new("a/web").host("web.test").prefix("/", "first"),
    ])?;
    let agent = site.start()?;
    assert_eq!(agent.get("http://web.test/")?.served_by(), "first");
    // Written again, so its file is now the youngest; something else changes along, so that this is seen to be read.
    site.manifests.ingress(
        &Ingress::new("a/web")
            .host("web.test")
            .prefix("/", "first")
            .prefix("/new", "first"),
    )?;
    agent.get_until("http://web.test/new", |answer| answer.backend() == "first")?;
    assert_eq!(agent.get("http://web.test/")?.served_by(), "first");
    Ok(())
}

#[test]
fn the_path_is_normalised_before_matching_and_the_backend_gets_what_was_matched() -> Done {
    let site = Site::new(&[Ingress::new("web")
        .host("web.test")
        .prefix("/admin", "admin")
        .prefix("/", "web")])?;
    let agent = site.start()?;
    for (asked, backend, seen) in [
        ("/x/../admin/a", "admin", "/admin/a"),
        ("/%61dmin/a", "admin", "/admin/a"),
        ("/./admin/./a", "admin", "/admin/a"),
        ("/x/%2e%2e/admin", "admin", "/admin"),
        ("/a%20b", "web", "/a%20b"),
    ] {
        let answer = agent.get(&format!("http://web.test{asked}"))?;
        assert_eq!(
            (answer.backend(), answer.seen()["path"].as_str()),
            (backend, Some(seen)),
            "{asked}"
        );
    }
    for refused in ["/a%00b", "/a%5cb", "/a/%2e%2e%2fadmin", "/..%2fadmin"] {
        let answer = agent.get(&format!("http://web.test{refused}"))?;
        assert_eq!(
            (answer.status, answer.reason()),
            (400, "bad_request"),
            "{refused}"
        );
    }
    Ok(())
}

fn check(rows: &[Row]) -> Done {
    let ingresses: Vec<_> = rows
        .iter()
        .enumerate()
        .map(|(at, row)| ingress(at, row))
        .collect();
    let site = Site::new(&ingresses)?;
    let agent = site.start()?;
    for (at, (rules, path, backend)) in rows.iter().enumerate() {
        let answer = agent.get(&format!("http://row-{at}.test{path}"))?;
        let expected = (backend.map_or(404, |_| 200), backend.unwrap_or_default());
        assert_eq!(
            (answer.status, answer.backend()),
            expected,
            "{rules:?} asked for {path}"
        );
    }
    Ok(())
}

fn ingress(at: usize, (rules, _, _): &Row) -> Ingress {
    let named = Ingress::new(&format!("row-{at}")).host(&format!("row-{at}.test"));
    rules
        .iter()
        .zip(["a", "b", "c"])
        .fold(named, |ingress, ((kind, path), service)| match kind {
            'E' => ingress.exact(path, service),
            'P' => ingress.prefix(path, service),
            _ => ingress.implementation_specific(path, service),
        })
}
