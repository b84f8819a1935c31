use std::fs;

use proptest::prelude::*;

use super::super::{LastGood, load};

/// Few names in few files, so that they move, meet and part again.
#[derive(Clone, Debug)]
enum Step {
    Write(u8, Vec<(u8, u8)>),
    Remove(u8),
    Rename(u8, u8),
}

/// Some live in a namespace, some in none.
fn object(name: u8, value: u8) -> String {
    let kind = ["ConfigMap", "Namespace", "Node"][usize::from(name % 3)];
    format!("---\napiVersion: v1\nkind: {kind}\nmetadata: {{name: m{name}, labels: {{k: v{value}}}}}\n")
}

fn step() -> impl Strategy<Value = Step> {
    let objects = proptest::collection::vec((0..6_u8, 0..3_u8), 1..4);
    prop_oneof![
        4 => (0..5_u8, objects).prop_map(|(file, objects)| Step::Write(file, objects)),
        1 => (0..5_u8).prop_map(Step::Remove),
        1 => (0..5_u8, 0..5_u8).prop_map(|(from, to)| Step::Rename(from, to)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn following_changes_gives_what_reading_everything_anew_gives(
        steps in proptest::collection::vec(proptest::collection::vec(step(), 1..3), 1..8)
    ) {
        let dir = tempfile::tempdir().unwrap();
        let mut last = LastGood::default();
        for steps in steps {
            for step in steps {
                match step {
                    Step::Write(file, objects) => {
                        let text: String = objects.iter().map(|(name, value)| object(*name, *value)).collect();
                        fs::write(dir.path().join(format!("{file}.yaml")), text).unwrap();
                    }
                    Step::Remove(file) => drop(fs::remove_file(dir.path().join(format!("{file}.yaml")))),
                    Step::Rename(from, to) => {
                        let at = |file| dir.path().join(format!("{file}.yaml"));
                        drop(fs::rename(at(from), at(to)));
                    }
                }
            }
            let (followed, now) = load(dir.path(), &last);
            last = now;
            let (anew, _) = load(dir.path(), &LastGood::default());
            prop_assert_eq!(&*followed.objects.config_maps, &*anew.objects.config_maps);
            prop_assert_eq!(&*followed.objects.namespaces, &*anew.objects.namespaces);
            prop_assert_eq!(&*followed.objects.nodes, &*anew.objects.nodes);
            prop_assert_eq!(followed.diagnostics, anew.diagnostics);
        }
    }
}
