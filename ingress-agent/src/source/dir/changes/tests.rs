use std::fs;

use proptest::prelude::*;

use super::super::{LastGood, load};

/// Few names in few files, so that they move, meet and part again.
#[derive(Clone, Debug)]
enum Step {
    Write(u8, Vec<(u8, u8)>),
    Remove(u8),
}

fn step() -> impl Strategy<Value = Step> {
    let objects = proptest::collection::vec((0..6_u8, 0..3_u8), 1..4);
    prop_oneof![
        4 => (0..5_u8, objects).prop_map(|(file, objects)| Step::Write(file, objects)),
        1 => (0..5_u8).prop_map(Step::Remove),
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
                        let text: String = objects.iter().map(|(name, value)| format!(
                            "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: m{name}}}\ndata: {{k: v{value}}}\n"
                        )).collect();
                        fs::write(dir.path().join(format!("{file}.yaml")), text).unwrap();
                    }
                    Step::Remove(file) => drop(fs::remove_file(dir.path().join(format!("{file}.yaml")))),
                }
            }
            let (followed, now) = load(dir.path(), &last);
            last = now;
            let (anew, _) = load(dir.path(), &LastGood::default());
            prop_assert_eq!(&*followed.objects.config_maps, &*anew.objects.config_maps);
            prop_assert_eq!(followed.diagnostics, anew.diagnostics);
        }
    }
}
