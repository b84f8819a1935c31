use std::sync::mpsc::{Receiver, channel};

use notify::event::{CreateKind, Flag};
use tempfile::TempDir;

use super::*;

const PATIENCE: Duration = Duration::from_secs(90);

fn start() -> (TempDir, Receiver<SourceState>, WatchHandle) {
    let dir = tempfile::tempdir().unwrap();
    let (sender, receiver) = channel();
    let handle = watch(dir.path().to_path_buf(), move |state| sender.send(state).is_ok()).unwrap();
    let first = receiver.recv_timeout(PATIENCE).unwrap();
    assert!(first.diagnostics.is_empty(), "{:?}", first.diagnostics);
    (dir, receiver, handle)
}

fn write(dir: &TempDir, name: &str) {
    let text = format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}}}\n");
    fs::write(dir.path().join(format!("{name}.yaml")), text).unwrap();
}

#[track_caller]
fn wait_for(states: &Receiver<SourceState>, count: usize) -> SourceState {
    loop {
        let state = states.recv_timeout(PATIENCE).unwrap();
        if state.objects.config_maps.len() == count {
            return state;
        }
    }
}

#[test]
fn a_watch_that_inotify_fails_polls_and_says_so() {
    let (dir, states, handle) = start();
    handle
        .signal
        .note(Err(notify::Error::new(notify::ErrorKind::MaxFilesWatch)));
    let state = states.recv_timeout(PATIENCE).unwrap();
    let [diagnostic] = &state.diagnostics[..] else {
        panic!("{state:?}")
    };
    assert_eq!(diagnostic.reason, "WatchDegraded");
    write(&dir, "a");
    let state = wait_for(&states, 1);
    assert_eq!(state.diagnostics.len(), 1);
}

#[test]
fn a_change_is_seen_by_its_event_long_before_the_safety_net() {
    let (dir, states, _handle) = start();
    let mut seen_after = |(count, name): (usize, &str)| {
        let written = Instant::now();
        write(&dir, name);
        wait_for(&states, count + 1);
        written.elapsed()
    };
    let all: Vec<_> = ["a", "b", "c", "d", "e"]
        .into_iter()
        .enumerate()
        .map(&mut seen_after)
        .collect();
    // The net alone would see each but the first a whole period after it was written. A machine that stalls now and then does not stall every time.
    let quickest = all.iter().min().unwrap();
    assert!(*quickest < SAFETY_NET / 2, "{all:?}");
}

#[test]
fn an_overflow_of_inotify_leads_to_a_look_at_everything() {
    let mut pending = Pending::default();
    pending.note(Ok(notify::Event::new(EventKind::Other).set_flag(Flag::Rescan)));
    assert!(pending.everything);
}

#[test]
fn what_is_pending_is_bounded_however_much_changes() {
    let mut pending = Pending::default();
    for index in 0..=MAX_PATHS {
        let created = notify::Event::new(EventKind::Create(CreateKind::File));
        pending.note(Ok(created.add_path(PathBuf::from(format!("/{index}")))));
    }
    assert!(pending.everything && pending.paths.is_empty());
}

#[test]
fn reading_a_file_is_no_change() {
    let mut pending = Pending::default();
    let opened = notify::Event::new(EventKind::Access(AccessKind::Open(AccessMode::Any)));
    pending.note(Ok(opened.add_path(PathBuf::from("/a.yaml"))));
    assert!(pending.is_idle());
}

#[test]
fn news_are_put_off_until_it_is_quiet_and_no_longer_than_a_burst_lasts() {
    let signal = Arc::new(Signal::default());
    let theirs = Arc::clone(&signal);
    let (done, ended) = channel::<()>();
    let noise = thread::spawn(move || {
        // Never quiet for as long as anyone listens.
        while ended.recv_timeout(Duration::from_millis(1)) == Err(std::sync::mpsc::RecvTimeoutError::Timeout)
        {
            let event = notify::Event::new(EventKind::Create(CreateKind::File));
            theirs.note(Ok(event.add_path(PathBuf::from("/a.yaml"))));
        }
    });
    let pending = signal.wait(PATIENCE);
    assert!(pending.paths.contains(Path::new("/a.yaml")));
    drop(done);
    noise.join().unwrap();
}
