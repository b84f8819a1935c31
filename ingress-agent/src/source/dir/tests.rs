use std::fs;
use std::os::unix::fs::symlink;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use ingress_core::name::Kind;
use tempfile::TempDir;

use super::*;
use crate::objects::Key;

const PATIENCE: Duration = Duration::from_secs(90);

fn map(name: &str, value: &str) -> String {
    format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}}}\ndata: {{k: {value:?}}}\n")
}

/// A folder with a memory, as a session of the agent has it.
struct Folder {
    dir: TempDir,
    last: LastGood,
}

impl Folder {
    fn new(files: &[(&str, &str)]) -> Self {
        let folder = Self {
            dir: tempfile::tempdir().unwrap(),
            last: LastGood::default(),
        };
        for (path, text) in files {
            folder.write(path, text);
        }
        folder
    }

    fn path(&self, path: &str) -> PathBuf {
        self.dir.path().join(path)
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn load(&mut self) -> SourceState {
        let (state, last) = load(self.dir.path(), &self.last);
        self.last = last;
        state
    }

    fn watch(&self) -> (Receiver<SourceState>, WatchHandle) {
        let (sender, receiver) = channel();
        let handle = watch(self.dir.path().to_path_buf(), move |state| {
            sender.send(state).is_ok()
        })
        .unwrap();
        (receiver, handle)
    }
}

fn value<'s>(state: &'s SourceState, name: &str) -> Option<&'s str> {
    let map = state.objects.config_maps.get(&Key::new("default", name))?;
    Some(map.data.as_ref()?.get("k")?)
}

fn names(state: &SourceState) -> Vec<&str> {
    state
        .objects
        .config_maps
        .keys()
        .map(|key| key.name.as_str())
        .collect()
}

fn messages(state: &SourceState) -> Vec<String> {
    state.diagnostics.iter().map(ToString::to_string).collect()
}

/// The first state that satisfies the condition.
#[track_caller]
fn wait(receiver: &Receiver<SourceState>, is: impl Fn(&SourceState) -> bool) -> SourceState {
    let mut seen = Vec::new();
    while let Ok(state) = receiver.recv_timeout(PATIENCE) {
        if is(&state) {
            return state;
        }
        seen.push(format!("{:?} {:?}", names(&state), messages(&state)));
    }
    panic!("no such state among {seen:#?}")
}

#[test]
fn every_manifest_below_the_folder_is_read_and_nothing_else() {
    let mut folder = Folder::new(&[
        ("a.yaml", &map("a", "")),
        ("sub/deep/b.yml", &map("b", "")),
        (
            "c.json",
            r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"c"}}"#,
        ),
        ("README.md", "# hello"),
        (".a.yaml.swp", "no"),
        (".#a.yaml", "no"),
        ("#a.yaml#", "no"),
        ("a.yaml~", "no"),
        ("4913", "no"),
        (".git/d.yaml", &map("d", "")),
    ]);
    let state = folder.load();
    assert_eq!(names(&state), ["a", "b", "c"]);
    assert_eq!(messages(&state), [""; 0]);
}

#[test]
fn links_are_followed_and_loops_of_links_end() {
    let elsewhere = Folder::new(&[("b.yaml", &map("b", ""))]);
    let mut folder = Folder::new(&[("sub/a.yaml", &map("a", ""))]);
    symlink(folder.dir.path(), folder.path("sub/loop")).unwrap();
    symlink(elsewhere.dir.path(), folder.path("linked")).unwrap();
    let state = folder.load();
    assert_eq!(names(&state), ["a", "b"]);
    assert_eq!(messages(&state), [""; 0]);
}

#[test]
fn a_mounted_config_map_is_read_once_through_its_visible_links() {
    let mut folder = Folder::new(&[("..2024_01_01/a.yaml", &map("a", "1"))]);
    symlink("..2024_01_01", folder.path("..data")).unwrap();
    symlink("..data/a.yaml", folder.path("a.yaml")).unwrap();
    let state = folder.load();
    assert_eq!((names(&state), messages(&state)), (vec!["a"], vec![]));
}

#[test]
fn a_file_that_does_not_parse_keeps_its_last_good_objects_and_says_where_it_is_wrong() {
    let mut folder = Folder::new(&[("a.yaml", &map("a", "1")), ("b.yaml", &map("b", "1"))]);
    folder.load();
    folder.write("a.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: [a\n");
    folder.write("b.yaml", &map("b", "2"));
    let state = folder.load();
    assert_eq!((value(&state, "a"), value(&state, "b")), (Some("1"), Some("2")));
    let [message] = &messages(&state)[..] else {
        panic!("{:?}", messages(&state))
    };
    assert!(message.starts_with("error: File a.yaml: line "), "{message}");
    assert!(
        message.contains("column") && message.contains("stays in force"),
        "{message}"
    );
    folder.write("a.yaml", &map("a", "3"));
    let state = folder.load();
    assert_eq!((value(&state, "a"), messages(&state)), (Some("3"), vec![]));
}

#[test]
fn a_document_of_the_wrong_type_keeps_its_object_and_does_not_hold_up_the_others() {
    let mut folder = Folder::new(&[("a.yaml", &format!("{}---\n{}", map("a", "1"), map("b", "1")))]);
    folder.load();
    folder.write(
        "a.yaml",
        &format!(
            "{}---\n{}",
            map("a", "2"),
            map("b", "2").replace("{k: \"2\"}", "[k]")
        ),
    );
    let state = folder.load();
    assert_eq!((value(&state, "a"), value(&state, "b")), (Some("2"), Some("1")));
    assert_eq!(
        messages(&state),
        [
            "error: File a.yaml: line 9, column 7: data: expected a mapping, found a list; ConfigMap default/b: its last good version stays \
             in force (ManifestInvalid)"
        ]
    );
}

#[test]
fn a_refused_object_keeps_its_last_good_version_and_the_diagnostic_says_so() {
    let service = |port: u32| {
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: web}}\nspec: {{ports: [{{port: {port}, targetPort: 1}}]}}\n"
        )
    };
    let mut folder = Folder::new(&[("a.yaml", &service(80))]);
    let good = folder.load();
    folder.write("a.yaml", &service(70_000));
    let state = folder.load();
    let key = Key::new("default", "web");
    assert!(Arc::ptr_eq(
        &good.objects.services[&key],
        &state.objects.services[&key]
    ));
    let expected = "error: Service default/web spec.ports[0].port: Invalid value: 70000: must be between 1 and 65535, inclusive; ";
    assert_eq!(
        messages(&state),
        [format!(
            "{expected}its last good version stays in force (ObjectRefused)"
        )]
    );

    let fresh = load(folder.dir.path(), &LastGood::default()).0;
    assert!(fresh.objects.services.is_empty());
    assert!(
        messages(&fresh)[0].contains("there is no earlier good version"),
        "{:?}",
        messages(&fresh)
    );
}

#[test]
fn a_removed_file_takes_its_objects_along() {
    let mut folder = Folder::new(&[("a.yaml", &map("a", "")), ("b.yaml", &map("b", ""))]);
    folder.load();
    fs::remove_file(folder.path("a.yaml")).unwrap();
    assert_eq!(names(&folder.load()), ["b"]);
}

#[test]
fn a_file_that_is_empty_for_a_moment_keeps_its_objects() {
    let mut folder = Folder::new(&[("a.yaml", &map("a", ""))]);
    folder.load();
    folder.write("a.yaml", "");
    let state = folder.load();
    assert_eq!(names(&state), ["a"]);
    assert!(
        messages(&state)[0].starts_with("warning: File a.yaml: the file is empty"),
        "{:?}",
        messages(&state)
    );
    folder.write("a.yaml", "# nothing any more\n");
    assert_eq!(names(&folder.load()), [""; 0]);
}

#[test]
fn of_two_files_with_the_same_object_the_first_by_path_wins_and_the_other_is_told() {
    let mut folder = Folder::new(&[("b.yaml", &map("x", "b")), ("a.yaml", &map("x", "a"))]);
    let state = folder.load();
    assert_eq!(value(&state, "x"), Some("a"));
    assert_eq!(
        messages(&state),
        [
            "warning: ConfigMap default/x: a.yaml and b.yaml both have it: the one in a.yaml is in force, as it is the first by path \
             (ObjectDuplicated)"
        ]
    );
    fs::remove_file(folder.path("a.yaml")).unwrap();
    assert_eq!(value(&folder.load(), "x"), Some("b"));
}

#[test]
fn objects_that_did_not_change_keep_their_place_in_memory() {
    let mut folder = Folder::new(&[
        ("a.yaml", &map("a", "1")),
        ("b.yaml", &format!("{}---\n{}", map("b", "1"), map("c", "1"))),
    ]);
    let before = folder.load();
    folder.write("a.yaml", &map("a", "2"));
    folder.write(
        "b.yaml",
        &format!("# moved\n{}---\n{}", map("c", "1"), map("b", "1")),
    );
    let after = folder.load();
    let same = |name: &str| {
        let key = Key::new("default", name);
        Arc::ptr_eq(
            &before.objects.config_maps[&key],
            &after.objects.config_maps[&key],
        )
    };
    assert_eq!((same("a"), same("b"), same("c")), (false, true, true));
}

#[test]
fn only_files_that_changed_are_read_again() {
    let mut folder = Folder::new(&[("a.yaml", &map("a", "1")), ("b.yaml", &map("b", "1"))]);
    let old = std::time::SystemTime::now() - Duration::from_secs(3600);
    for name in ["a.yaml", "b.yaml"] {
        fs::File::options()
            .write(true)
            .open(folder.path(name))
            .unwrap()
            .set_modified(old)
            .unwrap();
    }
    folder.load();
    let before = folder.last.clone();
    folder.write("a.yaml", &map("a", "2"));
    folder.load();
    let same = |name: &str| {
        Arc::ptr_eq(
            &before.inner.files[Path::new(name)],
            &folder.last.inner.files[Path::new(name)],
        )
    };
    assert_eq!((same("a.yaml"), same("b.yaml")), (false, true));
}

#[test]
fn a_manifest_may_be_given_as_text() {
    let state = load_text(Path::new("stdin.yaml"), map("a", "1").as_bytes());
    assert_eq!((value(&state, "a"), messages(&state)), (Some("1"), vec![]));
    let state = load_text(Path::new("stdin.json"), b"{");
    assert!(
        messages(&state)[0].starts_with("error: File stdin.json: line 1, column 1: "),
        "{:?}",
        messages(&state)
    );
}

#[test]
fn a_file_that_is_wrong_all_over_is_told_so_in_bounds() {
    let unknown: String = (0..1000).map(|index| format!("u{index}: 1\n")).collect();
    let state = load_text(Path::new("a.yaml"), (map("a", "1") + &unknown).as_bytes());
    assert_eq!((value(&state, "a"), state.diagnostics.len()), (Some("1"), 201));
    assert!(
        messages(&state)
            .iter()
            .any(|message| message.contains("800 more problems of this file"))
    );
}

#[test]
fn an_objects_age_is_its_own_and_never_the_files() {
    let mut folder = Folder::new(&[("a.yaml", &map("a", ""))]);
    let state = folder.load();
    assert_eq!(
        state.objects.config_maps[&Key::new("default", "a")]
            .metadata
            .creation_timestamp,
        None
    );
}

#[test]
fn a_folder_that_is_away_keeps_everything_and_says_so() {
    let mut folder = Folder::new(&[("in/a.yaml", &map("a", ""))]);
    let inner = folder.path("in");
    let (_, last) = load(&inner, &LastGood::default());
    fs::rename(&inner, folder.path("out")).unwrap();
    let (state, last) = load(&inner, &last);
    assert_eq!(names(&state), ["a"]);
    assert_eq!(state.diagnostics[0].object.kind, Kind::File);
    assert!(
        messages(&state)[0].contains("last good objects stay in force"),
        "{:?}",
        messages(&state)
    );
    fs::create_dir(&inner).unwrap();
    let (state, _) = load(&inner, &last);
    assert_eq!((names(&state), messages(&state)), (vec![], vec![]));
    folder.load();
}

#[test]
fn a_file_that_is_too_large_is_told_and_keeps_its_objects() {
    let mut folder = Folder::new(&[("a.yaml", &map("a", ""))]);
    folder.load();
    let large = fs::File::options()
        .write(true)
        .open(folder.path("a.yaml"))
        .unwrap();
    large.set_len(file::MAX_BYTES + 1).unwrap();
    let state = folder.load();
    assert_eq!(names(&state), ["a"]);
    assert!(
        messages(&state)[0].contains("expected at most 16 MiB, found more"),
        "{:?}",
        messages(&state)
    );
}

#[test]
fn a_link_that_leads_nowhere_is_told_and_keeps_its_objects() {
    let mut folder = Folder::new(&[("elsewhere/a", &map("a", ""))]);
    symlink("elsewhere/a", folder.path("a.yaml")).unwrap();
    assert_eq!(names(&folder.load()), ["a"]);
    fs::remove_file(folder.path("elsewhere/a")).unwrap();
    let state = folder.load();
    assert_eq!(names(&state), ["a"]);
    assert!(
        messages(&state)[0].starts_with("error: File a.yaml: "),
        "{:?}",
        messages(&state)
    );
}

#[test]
fn a_watch_sends_the_first_state_at_once_and_ends_when_it_is_told_to() {
    let folder = Folder::new(&[("a.yaml", &map("a", ""))]);
    let (states, handle) = folder.watch();
    wait(&states, |state| names(state) == ["a"]);
    handle.stop();
    assert!(
        states
            .recv_timeout(PATIENCE)
            .is_err_and(|error| error == RecvTimeoutError::Disconnected)
    );
}

#[test]
fn a_watch_sees_files_written_replaced_and_removed() {
    let folder = Folder::new(&[]);
    let (states, _handle) = folder.watch();
    wait(&states, |state| names(state).is_empty());
    folder.write("a.yaml", &map("a", "1"));
    wait(&states, |state| value(state, "a") == Some("1"));
    folder.write("a.yaml", &map("a", "2"));
    wait(&states, |state| value(state, "a") == Some("2"));
    folder.write(".a.yaml.new", &map("a", "3"));
    fs::rename(folder.path(".a.yaml.new"), folder.path("a.yaml")).unwrap();
    wait(&states, |state| value(state, "a") == Some("3"));
    fs::remove_file(folder.path("a.yaml")).unwrap();
    wait(&states, |state| names(state).is_empty());
}

#[test]
fn a_watch_sees_folders_that_come_move_and_go() {
    let folder = Folder::new(&[]);
    let (states, _handle) = folder.watch();
    folder.write("new/deep/a.yaml", &map("a", "1"));
    wait(&states, |state| value(state, "a") == Some("1"));
    folder.write("new/deep/a.yaml", &map("a", "2"));
    wait(&states, |state| value(state, "a") == Some("2"));
    fs::rename(folder.path("new"), folder.path("moved")).unwrap();
    folder.write("moved/deep/b.yaml", &map("b", ""));
    wait(&states, |state| names(state) == ["a", "b"]);
    fs::remove_dir_all(folder.path("moved")).unwrap();
    wait(&states, |state| names(state).is_empty());
}

#[test]
fn a_watch_sees_the_swap_of_a_mounted_config_map() {
    let folder = Folder::new(&[("..1/a.yaml", &map("a", "1")), ("..1/b.yaml", &map("b", "1"))]);
    symlink("..1", folder.path("..data")).unwrap();
    symlink("..data/a.yaml", folder.path("a.yaml")).unwrap();
    symlink("..data/b.yaml", folder.path("b.yaml")).unwrap();
    let (states, _handle) = folder.watch();
    wait(&states, |state| value(state, "a") == Some("1"));
    folder.write("..2/a.yaml", &map("a", "2"));
    folder.write("..2/b.yaml", &map("b", "2"));
    symlink("..2", folder.path("..data_tmp")).unwrap();
    fs::rename(folder.path("..data_tmp"), folder.path("..data")).unwrap();
    fs::remove_dir_all(folder.path("..1")).unwrap();
    let both = |state: &SourceState| value(state, "a") == Some("2") && value(state, "b") == Some("2");
    let state = wait(&states, both);
    assert_eq!(messages(&state), [""; 0]);
}

#[test]
fn a_watched_folder_may_vanish_and_return() {
    let folder = Folder::new(&[("in/a.yaml", &map("a", "1"))]);
    let (sender, states) = channel();
    let inner = folder.path("in");
    let _handle = watch(inner.clone(), move |state| sender.send(state).is_ok()).unwrap();
    wait(&states, |state| names(state) == ["a"]);
    fs::rename(&inner, folder.path("out")).unwrap();
    let state = wait(&states, |state| !state.diagnostics.is_empty());
    assert_eq!(names(&state), ["a"]);
    folder.write("in/b.yaml", &map("b", "1"));
    wait(&states, |state| {
        names(state) == ["b"] && state.diagnostics.is_empty()
    });
    folder.write("in/b.yaml", &map("b", "2"));
    wait(&states, |state| value(state, "b") == Some("2"));
}

#[test]
fn a_folder_that_is_not_there_yet_is_waited_for() {
    let folder = Folder::new(&[]);
    let (sender, states) = channel();
    let _handle = watch(folder.path("in"), move |state| sender.send(state).is_ok()).unwrap();
    let state = wait(&states, |_| true);
    assert!(
        messages(&state)[0].contains("the folder can't be read"),
        "{:?}",
        messages(&state)
    );
    folder.write("in/a.yaml", &map("a", ""));
    wait(&states, |state| {
        names(state) == ["a"] && state.diagnostics.is_empty()
    });
}

#[test]
fn a_file_caught_half_written_is_put_right_by_the_next_event() {
    let folder = Folder::new(&[("a.yaml", &map("a", "1"))]);
    let (states, _handle) = folder.watch();
    wait(&states, |state| value(state, "a") == Some("1"));
    let whole = map("a", "2");
    folder.write("a.yaml", &whole[..whole.len() - 5]);
    let state = wait(&states, |state| !state.diagnostics.is_empty());
    assert_eq!(value(&state, "a"), Some("1"));
    folder.write("a.yaml", &whole);
    wait(&states, |state| {
        value(state, "a") == Some("2") && state.diagnostics.is_empty()
    });
}

#[test]
fn a_receiver_that_is_gone_ends_the_watch() {
    let folder = Folder::new(&[]);
    let (alive, ended) = channel::<()>();
    let _handle = watch(folder.dir.path().to_path_buf(), move |_| {
        let _held_while_the_thread_lives = &alive;
        false
    })
    .unwrap();
    assert_eq!(ended.recv_timeout(PATIENCE), Err(RecvTimeoutError::Disconnected));
}
