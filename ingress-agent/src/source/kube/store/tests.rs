//! What news make of what is known.

use super::*;
use crate::source::kube::failure::Cause;

fn store(resources: &[(Resource, Option<&str>)]) -> Store {
    let mut store = Store::default();
    for (id, (resource, namespace)) in resources.iter().enumerate() {
        let scope = Scope {
            resource: *resource,
            namespace: namespace.map(str::to_owned),
            name: None,
        };
        store.add(id, scope);
    }
    store
}

fn service(namespace: &str, name: &str, ip: &str) -> Object {
    let json =
        serde_json::json!({"metadata": {"namespace": namespace, "name": name}, "spec": {"clusterIP": ip}});
    Object::Service(Arc::new(serde_json::from_value(json).unwrap()))
}

fn secret(name: &str, value: &str) -> Object {
    let json = serde_json::json!({"metadata": {"namespace": "shop", "name": name}, "stringData": {"tls.crt": value}});
    Object::Secret(Arc::new(serde_json::from_value(json).unwrap()))
}

fn names(store: &Store) -> Vec<String> {
    let keys = store.objects().services;
    keys.keys()
        .map(|key| format!("{}/{}", key.namespace, key.name))
        .collect()
}

#[test]
fn a_new_list_takes_away_what_is_gone_in_its_own_namespace_and_keeps_what_is_the_same_by_identity() {
    let mut store = store(&[(Resource::Services, Some("a")), (Resource::Services, Some("b"))]);
    store.apply(
        0,
        News::All(vec![service("a", "one", ""), service("a", "two", "")]),
    );
    store.apply(1, News::All(vec![service("b", "one", "")]));
    let before = store.objects();
    let touched = store.apply(
        0,
        News::All(vec![service("a", "two", ""), service("a", "three", "")]),
    );
    assert_eq!(touched, Touched::Rules);
    assert_eq!(names(&store), ["a/three", "a/two", "b/one"]);
    let key = Key::new("a", "two");
    assert!(Arc::ptr_eq(
        &before.services[&key],
        &store.objects().services[&key]
    ));
}

#[test]
fn a_list_or_an_event_that_says_what_is_known_changes_nothing() {
    let mut store = store(&[(Resource::Services, None)]);
    assert_eq!(
        store.apply(0, News::All(Vec::new())),
        Touched::Rules,
        "an empty first list completes"
    );
    store.apply(0, News::Set(service("a", "one", "10.0.0.1")));
    let before = store.objects();
    assert_eq!(
        store.apply(0, News::All(vec![service("a", "one", "10.0.0.1")])),
        Touched::Nothing
    );
    assert_eq!(
        store.apply(0, News::Set(service("a", "one", "10.0.0.1"))),
        Touched::Nothing
    );
    assert_eq!(
        store.apply(0, News::Gone(Key::new("a", "other"))),
        Touched::Nothing
    );
    assert!(store.objects().services.is_same(&before.services));
    assert_eq!(
        store.apply(0, News::Set(service("a", "one", "10.0.0.2"))),
        Touched::Rules
    );
}

#[test]
fn everything_is_complete_when_each_watch_has_given_its_list() {
    let mut store = store(&[(Resource::Services, None), (Resource::EndpointSlices, None)]);
    store.apply(0, News::All(Vec::new()));
    store.apply(1, News::Well);
    let waiting: Vec<_> = store.incomplete().map(ToString::to_string).collect();
    assert_eq!(waiting, ["endpointslices"]);
    store.apply(1, News::All(Vec::new()));
    assert_eq!(store.incomplete().count(), 0);
}

#[test]
fn namespaces_that_may_not_be_read_are_not_waited_for_and_an_api_server_that_does_not_answer_is() {
    let mut store = store(&[(Resource::Namespaces, None)]);
    let failed = |cause: Cause| News::Failed(cause.into());
    store.apply(0, failed(Cause::Unreachable("refused".into())));
    assert_eq!(store.incomplete().count(), 1);
    assert_eq!(
        store.apply(0, failed(Cause::Forbidden("no".into()))),
        Touched::Rules
    );
    assert_eq!(store.incomplete().count(), 0);
}

#[test]
fn a_secret_that_two_watches_have_goes_with_the_last_of_them() {
    let mut store = store(&[(Resource::TlsSecrets, None)]);
    let key = Key::new("shop", "web");
    store.add(
        7,
        Scope {
            resource: Resource::Secret,
            namespace: Some("shop".into()),
            name: Some("web".into()),
        },
    );
    store.apply(7, News::All(vec![secret("web", "opaque")]));
    store.apply(0, News::All(vec![secret("web", "tls")]));
    let data = |store: &Store| {
        let secrets = store.objects().secrets;
        secrets
            .get(&key)
            .map(|secret| secret.string_data.clone().unwrap()["tls.crt"].clone())
    };
    assert_eq!(data(&store).as_deref(), Some("tls"));
    store.apply(0, News::Gone(key.clone()));
    assert_eq!(data(&store).as_deref(), Some("opaque"));
    assert_eq!(store.remove(7), Touched::Rules);
    assert_eq!(data(&store), None);
    assert_eq!(
        store.apply(7, News::All(vec![secret("web", "late")])),
        Touched::Nothing
    );
}
