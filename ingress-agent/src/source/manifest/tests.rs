use super::*;

fn file() -> ObjectRef {
    ObjectRef::new(Kind::File, "", "a.yaml")
}

fn yaml(text: &str) -> Result<Manifest, String> {
    parse(text.as_bytes(), Format::Yaml, &file())
}

fn names(manifest: &Manifest) -> Vec<String> {
    manifest
        .entries
        .iter()
        .map(|entry| match entry {
            Entry::Object { object, .. } => object.reference().to_string(),
            Entry::Broken { reference, .. } => format!("broken {reference}"),
        })
        .collect()
}

fn broken(text: &str) -> String {
    match yaml(text).unwrap().entries.pop() {
        Some(Entry::Broken { message, .. }) => message,
        other => panic!("{other:?}"),
    }
}

const INGRESS: &str = "apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata:\n  name: web\n";

#[test]
fn a_file_may_hold_several_documents_empty_ones_and_comments() {
    let text = format!(
        "# only a comment\n---\n---\n{INGRESS}---\n# nothing\n---\napiVersion: v1\nkind: Service\nmetadata: {{name: a, namespace: shop}}\n...\n"
    );
    assert_eq!(
        names(&yaml(&text).unwrap()),
        ["Ingress default/web", "Service shop/a"]
    );
    for nothing in ["", "# a\n", "---\n", "---\n---\n", "\u{feff}"] {
        assert!(yaml(nothing).unwrap().entries.is_empty(), "{nothing:?}");
    }
}

#[test]
fn lists_are_opened_whether_of_one_kind_or_of_many() {
    let text = "apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: ConfigMap\n  metadata: {name: a}\n- apiVersion: networking.k8s.io/v1\n  kind: IngressList\n  items:\n  - metadata: {name: b, namespace: x}\n";
    assert_eq!(
        names(&yaml(text).unwrap()),
        ["ConfigMap default/a", "Ingress x/b"]
    );
}

#[test]
fn json_files_are_read_with_json_escapes() {
    let text =
        br#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a"},"data":{"k":"\ud83d\ude00\/"}}"#;
    let manifest = parse(text, Format::Json, &file()).unwrap();
    let Some(Entry::Object {
        object: Object::ConfigMap(map),
        ..
    }) = manifest.entries.first()
    else {
        panic!("{manifest:?}")
    };
    assert_eq!(map.data.as_ref().unwrap()["k"], "\u{1f600}/");
    let error = parse(b"{\n  \"apiVersion\": \"v1\",\n}", Format::Json, &file()).unwrap_err();
    assert!(error.starts_with("line 3, column 1: "), "{error}");
}

#[test]
fn a_type_error_names_line_column_field_and_what_was_expected() {
    let text = format!("{INGRESS}spec:\n  rules:\n    host: a\n");
    assert_eq!(
        broken(&text),
        "line 7, column 5: spec.rules: expected a list of rules, found a mapping"
    );
    let text = format!("{INGRESS}spec:\n  rules:\n  - host: [a]\n");
    assert_eq!(
        broken(&text),
        "line 7, column 11: spec.rules[0].host: expected a string, found a list"
    );
    let text = format!("{INGRESS}  annotations: {{a: true}}\n");
    assert_eq!(
        broken(&text),
        "line 5, column 20: metadata.annotations.a: expected a string, found the boolean true"
    );
}

#[test]
fn a_type_error_in_json_names_the_line_too() {
    let text = b"{\"apiVersion\":\"v1\",\"kind\":\"Service\",\"metadata\":{\"name\":\"a\"},\n\"spec\":{\"ports\":7}}";
    let manifest = parse(text, Format::Json, &file()).unwrap();
    let Some(Entry::Broken { message, .. }) = manifest.entries.first() else {
        panic!("{manifest:?}")
    };
    assert_eq!(
        message,
        "line 2, column 17: spec.ports: expected a list of ports, found the number 7"
    );
}

#[test]
fn a_syntax_error_names_line_and_column() {
    let error = yaml("apiVersion: v1\nkind: [\n").unwrap_err();
    assert!(error.starts_with("line "), "{error}");
    let error = yaml("- a\n").unwrap_err();
    assert_eq!(
        error,
        "line 1, column 1: expected an object with apiVersion and kind, found a list"
    );
    let error = yaml("kind: Service\n").unwrap_err();
    assert!(error.contains("found no apiVersion"), "{error}");
    let error = parse(b"kind: a\nb: \xff\n", Format::Yaml, &file()).unwrap_err();
    assert_eq!(
        error,
        "line 2, column 4: expected UTF-8 text, found a byte that is none"
    );
    let error = yaml("kind: a\nkind: b\n").unwrap_err();
    assert_eq!(
        error,
        "line 2, column 1: expected each key once, found kind again"
    );
}

#[test]
fn unknown_fields_are_told_in_the_api_servers_words() {
    let text = format!("{INGRESS}spec:\n  foo: 1\n  rules:\n  - hosts: a\n");
    let manifest = yaml(&text).unwrap();
    let Some(Entry::Object { warnings, .. }) = manifest.entries.first() else {
        panic!()
    };
    let messages: Vec<_> = warnings.iter().map(|warning| warning.message.as_str()).collect();
    assert_eq!(
        messages,
        [
            "line 6, column 8: unknown field \"spec.foo\"",
            "line 8, column 12: unknown field \"spec.rules[0].hosts\""
        ]
    );
}

#[test]
fn namespaces_and_nodes_are_read_and_live_in_no_namespace() {
    let text = "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n---\napiVersion: v1\nkind: NodeList\nitems: [{metadata: {name: n1}}]\n";
    assert_eq!(names(&yaml(text).unwrap()), ["Namespace shop", "Node n1"]);
}

#[test]
fn kinds_that_are_not_ours_are_told_once_a_file_with_their_number() {
    let text = "apiVersion: apps/v1\nkind: Deployment\n---\napiVersion: apps/v1\nkind: Deployment\n---\napiVersion: v1\nkind: Pod\n";
    let manifest = yaml(text).unwrap();
    let [diagnostic] = &manifest.diagnostics[..] else {
        panic!("{manifest:?}")
    };
    assert_eq!(diagnostic.severity, Severity::Info);
    assert!(
        diagnostic
            .message
            .ends_with(": 2 Deployment (apps/v1), 1 Pod (v1)"),
        "{}",
        diagnostic.message
    );
}

#[test]
fn an_ingress_of_a_version_that_is_gone_gets_a_warning_with_the_fix() {
    let manifest = yaml("apiVersion: extensions/v1beta1\nkind: Ingress\nmetadata: {name: old}\n").unwrap();
    let [diagnostic] = &manifest.diagnostics[..] else {
        panic!("{manifest:?}")
    };
    assert_eq!(diagnostic.severity, Severity::Warning);
    assert!(diagnostic.message.contains("\"old\"") && diagnostic.message.contains("networking.k8s.io/v1"));
}

#[test]
fn a_yaml_bomb_is_an_error_and_costs_little() {
    let mut text = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n");
    for level in 1..12 {
        let previous = format!("*a{},", level - 1).repeat(10);
        text.push_str(&format!("a{level}: &a{level} [{previous}]\n"));
    }
    let error = yaml(&text).unwrap_err();
    assert!(error.starts_with("line "), "{error}");
    let repeated = format!(
        "a: &a {:?}\nb: [{}]\n",
        "x".repeat(1024 * 1024),
        "*a,".repeat(9_000)
    );
    let error = yaml(&repeated).unwrap_err();
    assert!(
        error.ends_with("expected at most 32 MiB of text with every alias written out, found more"),
        "{error}"
    );
    let deep = "[".repeat(100_000);
    assert!(yaml(&deep).is_err());
    assert!(parse(deep.as_bytes(), Format::Json, &file()).is_err());
}

#[test]
fn anchors_and_merge_keys_work() {
    let text = "apiVersion: v1\nkind: ConfigMap\nmetadata: &m {name: a, labels: {x: v}}\ndata: {<<: {k: v}, 8080: z}\n";
    let manifest = yaml(text).unwrap();
    let Some(Entry::Object {
        object: Object::ConfigMap(map),
        ..
    }) = manifest.entries.first()
    else {
        panic!("{manifest:?}")
    };
    assert_eq!(map.data.as_ref().unwrap()["k"], "v");
    assert_eq!(map.data.as_ref().unwrap()["8080"], "z");
}

#[test]
fn the_content_of_a_secret_is_never_part_of_a_message() {
    let secret = "apiVersion: v1\nkind: Secret\nmetadata: {name: a}\n";
    assert_eq!(
        broken(&format!("{secret}stringData: hunter2\n")),
        "line 4, column 13: stringData: expected a mapping, found a string"
    );
    for data in [
        "data: {k: hunter2}",
        "data: {k: 8675309}",
        "stringData: {k: 8675309}",
        "data: {k: aHVudGVyMg}",
    ] {
        let message = broken(&format!("{secret}{data}\n"));
        assert!(message.starts_with("line 4, column "), "{message}");
        if data.contains("aHV") {
            assert!(
                message.ends_with("data.k: expected base64 data, found a string that is not"),
                "{message}"
            );
        }
        for leak in ["hunter2", "8675309", "aHV"] {
            assert!(!message.contains(leak), "{message}");
        }
    }
}

#[test]
fn an_object_exported_from_a_cluster_is_read_whole() {
    let text = format!(
        "{INGRESS}  creationTimestamp: \"2024-05-06T07:08:09Z\"\r\n  uid: 12-34\n  resourceVersion: \"7\"\n  managedFields:\n  - manager: kubectl\n    \
         fieldsType: FieldsV1\n    fieldsV1: {{\"f:metadata\": {{\".\": {{}}}}}}\n    time: \"2024-05-06T07:08:09Z\"\nstatus:\n  loadBalancer: {{}}\n"
    );
    let manifest = yaml(&text).unwrap();
    let Some(Entry::Object { object, warnings }) = manifest.entries.first() else {
        panic!("{manifest:?}")
    };
    assert!(object.metadata().creation_timestamp.is_some());
    assert!(warnings.is_empty(), "{warnings:?}");
    let null = yaml(&format!("{INGRESS}  creationTimestamp: null\n")).unwrap();
    let Some(Entry::Object { object, .. }) = null.entries.first() else {
        panic!("{null:?}")
    };
    assert_eq!(object.metadata().creation_timestamp, None);
}

#[test]
fn windows_line_ends_are_fine() {
    assert_eq!(
        names(&yaml(&INGRESS.replace('\n', "\r\n")).unwrap()),
        ["Ingress default/web"]
    );
}

#[test]
fn base64_data_may_be_wrapped_into_lines() {
    let text = "apiVersion: v1\nkind: Secret\nmetadata: {name: a}\ndata:\n  k: |\n    aHVu\n    dGVy\n";
    let manifest = yaml(text).unwrap();
    let Some(Entry::Object {
        object: Object::Secret(secret),
        ..
    }) = manifest.entries.first()
    else {
        panic!("{manifest:?}")
    };
    assert_eq!(secret.data.as_ref().unwrap()["k"].0, b"hunter");
}

proptest::proptest! {
    #[test]
    fn no_bytes_make_the_reader_panic(
        at in 0usize..200,
        noise in proptest::collection::vec(proptest::sample::select(b"[]{}:&*!|>'\"-#%@`, \n\t\xff\x00a1~?<".to_vec()), 0..40),
        json: bool,
    ) {
        let mut text = format!("{INGRESS}spec: {{rules: [{{host: a, http: {{paths: [{{path: /, pathType: Exact}}]}}}}]}}\n").into_bytes();
        let at = at.min(text.len());
        text.splice(at..at, noise);
        let format = if json { Format::Json } else { Format::Yaml };
        if let Ok(manifest) = parse(&text, format, &file()) {
            for entry in manifest.entries {
                if let Entry::Object { object, .. } = entry {
                    drop(crate::source::admission::admit(object));
                }
            }
        }
    }
}
