use proptest::prelude::*;

use super::*;
use crate::fixture::*;
use crate::host::HostPattern;
use crate::matching::tests::some_routes;
use crate::resource::*;
use crate::snapshot::{Route, Target};

fn compile_new(resources: &Resources) -> (Snapshot, Vec<Diagnostic>) {
    compile(resources, &Snapshot::empty())
}

fn binding(host: &str, secret: &str, created: i64) -> CertificateBinding {
    let secret = crate::name::ObjectRef::new(crate::name::Kind::Secret, "shop", secret);
    CertificateBinding {
        seniority: Seniority::new(Some(created), ingress("web"), (0, 0)),
        field: "spec.tls[0]".to_owned(),
        host: HostPattern::parse(host).unwrap(),
        certificate: CertificateKey(Arc::new(secret)),
    }
}

fn canary(name: &str, host: &str, path_text: &str) -> CanarySpec {
    CanarySpec {
        seniority: Seniority::new(None, ingress(name), (0, 0)),
        field: "spec.rules[0].http.paths[0]".to_owned(),
        host: HostPattern::parse(host).unwrap(),
        path: path(path_text),
        cluster: cluster(name),
        when: CanaryWhen::default(),
    }
}

/// Everything that a reader of the snapshot could see.
fn seen(snapshot: &Snapshot) -> String {
    let routes: Vec<_> = snapshot.routes().map(|route| format!("{route:?}")).collect();
    let certificates: Vec<_> = snapshot.certificate_bindings().collect();
    let unowned: Vec<_> = snapshot.unowned_hosts().collect();
    format!("{routes:#?}{certificates:#?}{unowned:#?}")
}

#[test]
fn the_oldest_object_wins_a_duplicate_host_and_path_and_the_other_is_told() {
    let aged = |name: &str, created| RouteSpec {
        seniority: Seniority::new(created, ingress(name), (0, 0)),
        ..route(name, "shop.example", "Prefix /cart")
    };
    let routes = vec![
        aged("a-ageless", None),
        aged("b-young", Some(20)),
        aged("c-old", Some(10)),
    ];
    let (snapshot, diagnostics) = compile_new(&resources(routes));
    assert_eq!(served_by(&snapshot, "shop.example", "/cart"), "c-old");
    let told: Vec<_> = diagnostics.iter().map(|d| (&*d.object.name, d.reason)).collect();
    assert_eq!(
        told,
        [("a-ageless", "RouteConflict"), ("b-young", "RouteConflict")]
    );
    assert!(
        diagnostics[0]
            .message
            .contains("Ingress shop/c-old spec.rules[0].http.paths[0]"),
        "{}",
        diagnostics[0]
    );
}

#[test]
fn exact_and_prefix_of_one_text_are_no_duplicates() {
    let routes = vec![route("a", "", "Exact /x"), route("b", "", "Prefix /x")];
    assert_eq!(compile_new(&resources(routes)).1, []);
}

#[test]
fn canaries_are_attached_to_the_route_of_their_host_and_path_most_senior_first() {
    let resources = Resources {
        routes: vec![
            route("main", "shop.example", "Prefix /"),
            route("other", "shop.example", "Exact /"),
        ],
        canaries: vec![
            canary("two", "shop.example", "Prefix /"),
            canary("one", "shop.example", "Prefix /"),
        ],
        ..Resources::default()
    };
    let (snapshot, diagnostics) = compile_new(&resources);
    assert_eq!(diagnostics, []);
    for route in snapshot.routes() {
        let Target::Forward { canaries, .. } = &route.target else {
            panic!("{route:?}")
        };
        let names: Vec<_> = canaries.iter().map(|canary| &*canary.object.name).collect();
        let expected: &[&str] = if *route.object.name == *"main" {
            &["one", "two"]
        } else {
            &[]
        };
        assert_eq!(names, expected);
    }
}

#[test]
fn a_canary_without_a_main_route_has_no_effect_and_says_so() {
    let resources = Resources {
        routes: vec![route("main", "shop.example", "Prefix /")],
        canaries: vec![canary("stray", "shop.example", "Prefix /cart")],
        ..Resources::default()
    };
    let (snapshot, diagnostics) = compile_new(&resources);
    assert_eq!(served_by(&snapshot, "shop.example", "/cart"), "main");
    assert_eq!(diagnostics.len(), 1);
    assert_eq!(diagnostics[0].reason, "CanaryWithoutRoute");
}

#[test]
fn a_route_knows_whether_its_host_has_a_certificate_exact_or_wildcard() {
    let hosts = [
        "shop.example",
        "a.wild.example",
        "*.wild.example",
        "a.b.wild.example",
        "",
    ];
    let resources = Resources {
        routes: hosts.iter().map(|host| route("web", host, "Prefix /")).collect(),
        certificates: vec![
            binding("shop.example", "one", 1),
            binding("*.wild.example", "two", 2),
        ],
        ..Resources::default()
    };
    let (snapshot, _) = compile_new(&resources);
    let of = |route: &Arc<Route>| (route.host.to_string(), route.has_certificate);
    let mut known: Vec<_> = snapshot.routes().map(of).collect();
    known.sort();
    let expected = [
        ("*", false),
        ("*.wild.example", true),
        ("a.b.wild.example", false),
        ("a.wild.example", true),
        ("shop.example", true),
    ];
    assert_eq!(known, expected.map(|(host, has)| (host.to_owned(), has)));
}

#[test]
fn certificates_of_one_name_are_merged_and_the_most_senior_comes_first() {
    let resources = Resources {
        certificates: vec![
            binding("shop.example", "young", 2),
            binding("shop.example", "old", 1),
            binding("shop.example", "young", 3),
            binding("*.example", "wild", 0),
        ],
        ..Resources::default()
    };
    let (snapshot, _) = compile_new(&resources);
    let names = |name: &str| -> Vec<String> {
        let keys = snapshot.certificates_for(name).iter();
        keys.map(|key| key.0.name.to_string()).collect()
    };
    assert_eq!(names("shop.example"), ["old", "young"]);
    assert_eq!(names("blog.example"), ["wild"]);
    assert!(names("a.b.example").is_empty());
}

#[test]
fn what_did_not_change_stays_the_same_object() {
    let shop = route("shop", "shop.example", "Prefix /");
    let blog = route("blog", "blog.example", "Prefix /");
    let blog_feed = route("feed", "blog.example", "Exact /feed");
    let (before, _) = compile_new(&resources(vec![shop.clone(), blog.clone()]));
    let (after, _) = compile(&resources(vec![blog_feed, blog, shop]), &before);
    let table = |snapshot: &Snapshot, host: &str| Arc::clone(snapshot.hosts.tables.get(host).unwrap().1);
    let same_table = |host| Arc::ptr_eq(&table(&before, host), &table(&after, host));
    assert!(same_table("shop.example"));
    assert!(!same_table("blog.example"));
    let blog_route =
        |snapshot: &Snapshot| Arc::clone(snapshot.routes().find(|r| *r.object.name == *"blog").unwrap());
    assert!(Arc::ptr_eq(&blog_route(&before), &blog_route(&after)));
}

#[test]
fn a_cluster_stays_the_same_object_as_long_as_its_key_exists() {
    let (before, _) = compile_new(&resources(vec![route("shop", "shop.example", "Prefix /")]));
    let mut moved = route("shop", "new.example", "Exact /x");
    moved.field = "spec.rules[1].http.paths[0]".to_owned();
    let (after, _) = compile(&resources(vec![moved]), &before);
    let key = cluster("shop");
    assert!(Arc::ptr_eq(
        before.cluster(&key).unwrap(),
        after.cluster(&key).unwrap()
    ));
    let (gone, _) = compile(&resources(vec![]), &after);
    assert!(gone.cluster(&key).is_none());
}

proptest! {
    #[test]
    fn the_result_does_not_depend_on_the_order_of_objects(routes in some_routes().prop_flat_map(|routes| {
        (Just(routes.clone()), Just(routes).prop_shuffle())
    })) {
        let (a, b) = (compile_new(&resources(routes.0)), compile_new(&resources(routes.1)));
        prop_assert_eq!(seen(&a.0), seen(&b.0));
        prop_assert_eq!(a.1, b.1);
    }

    #[test]
    fn compiling_over_what_was_there_equals_compiling_from_nothing(old in some_routes(), new in some_routes()) {
        let (before, _) = compile_new(&resources(old));
        let new = resources(new);
        let (over, anew) = (compile(&new, &before), compile_new(&new));
        prop_assert_eq!(seen(&over.0), seen(&anew.0));
        prop_assert_eq!(over.1, anew.1);
    }
}
