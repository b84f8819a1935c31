use http::header::{HeaderMap, HeaderName, HeaderValue};
use proptest::prelude::*;

use super::*;

/// A head's field lines as they were sent, and the fields that they make.
fn read(sent: &[(String, String)]) -> Fields {
    let mut block = Vec::new();
    let mut lines = Vec::new();
    for (name, value) in sent {
        let start = block.len();
        block.extend_from_slice(format!("{name}:{value}\r\n").as_bytes());
        let value_start = start + name.len() + 1 + (value.len() - value.trim_start().len());
        let value_end = value_start + value.trim().len();
        lines.push(FieldLine::new(start..start + name.len(), value_start..value_end));
    }
    Fields::of_lines(block.into(), lines)
}

fn fields(sent: &[(&str, &str)]) -> Fields {
    let owned: Vec<_> = sent
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    read(&owned)
}

fn written(fields: &Fields, omit: impl Fn(&[u8]) -> bool) -> String {
    let mut out = Vec::new();
    fields.write(&mut out, omit);
    String::from_utf8(out).unwrap()
}

#[test]
fn lines_are_written_as_they_came_but_for_what_was_taken_out_and_blanks() {
    let mut fields = fields(&[
        ("Host", " a"),
        ("X-One", " 1"),
        ("X-Two", "2"),
        ("x-three", " \t3 "),
        ("X-Four", " 4"),
        ("Te", " x"),
        ("X-Five", " 5"),
        ("X-Empty", ""),
        ("X-Blank", " "),
    ]);
    fields.remove("te");
    fields.append(HeaderName::from_static("x-six"), HeaderValue::from_static("6"));
    assert_eq!(
        written(&fields, |name| name.eq_ignore_ascii_case(b"host")),
        "X-One: 1\r\nX-Two: 2\r\nx-three: 3\r\nX-Four: 4\r\nX-Five: 5\r\nX-Empty: \r\nX-Blank: \r\nx-six: 6\r\n"
    );
}

#[test]
fn a_value_is_text_only_when_all_of_it_is_visible() {
    let mut fields = fields(&[("a", " b\tc")]);
    fields.append(
        HeaderName::from_static("x"),
        HeaderValue::from_bytes(b"\xe4").unwrap(),
    );
    assert_eq!(fields.text("a"), Some("b\tc"));
    assert_eq!(fields.text("x"), None);
}

const NAMES: [&str; 6] = ["a", "b", "x-a", "Host", "x-request-id", "X-Forwarded-For"];

#[derive(Clone, Debug)]
enum Step {
    Insert(usize, String),
    Append(usize, String),
    Remove(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let name = 0..NAMES.len();
    prop_oneof![
        (name.clone(), "[a-z]{0,3}").prop_map(|(name, value)| Step::Insert(name, value)),
        (name.clone(), "[a-z]{0,3}").prop_map(|(name, value)| Step::Append(name, value)),
        name.prop_map(Step::Remove),
    ]
}

/// Names in any case, values with any blanks around them.
fn line() -> impl Strategy<Value = (String, String)> {
    (0..NAMES.len(), any::<bool>(), "[ \t]{0,2}[a-z]{0,3}[ \t]{0,2}").prop_map(|(name, upper, value)| {
        let name = NAMES[name];
        let name = if upper {
            name.to_ascii_uppercase()
        } else {
            name.to_owned()
        };
        (name, value)
    })
}

proptest! {
    /// The model is the map that everybody knows.
    #[test]
    fn whatever_is_done_to_them_fields_say_the_same_as_a_header_map(
        sent in prop::collection::vec(line(), 0..8), steps in prop::collection::vec(step(), 0..8),
    ) {
        let mut fields = read(&sent);
        let mut map = HeaderMap::new();
        for (name, value) in &sent {
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            map.append(name, HeaderValue::from_str(value.trim()).unwrap());
        }
        let name = |index: usize| HeaderName::from_bytes(NAMES[index].as_bytes()).unwrap();
        for step in steps {
            match step {
                Step::Insert(at, value) => {
                    let value = HeaderValue::from_str(&value).unwrap();
                    fields.insert(name(at), value.clone());
                    map.insert(name(at), value);
                }
                Step::Append(at, value) => {
                    let value = HeaderValue::from_str(&value).unwrap();
                    fields.append(name(at), value.clone());
                    map.append(name(at), value);
                }
                Step::Remove(at) => {
                    fields.remove(NAMES[at]);
                    map.remove(name(at));
                }
            }
        }
        for name in NAMES {
            prop_assert_eq!(fields.get(name), map.get(name).map(HeaderValue::as_bytes));
            prop_assert_eq!(fields.contains(name), map.contains_key(name));
            let theirs: Vec<_> = map.get_all(name).iter().map(HeaderValue::as_bytes).collect();
            prop_assert_eq!(fields.get_all(name).collect::<Vec<_>>(), theirs.clone());
            prop_assert_eq!(
                fields.get_all(name).rev().collect::<Vec<_>>(),
                theirs.into_iter().rev().collect::<Vec<_>>()
            );
        }
        prop_assert_eq!(fields.len(), map.len());
        prop_assert_eq!(&HeaderMap::from(&fields), &map);
        prop_assert_eq!(&HeaderMap::from(&Fields::from(map.clone())), &map);
        // And what is written reads the same.
        let text = written(&fields, |_| false);
        let lines = text.split_terminator("\r\n").map(|line| line.split_once(':').unwrap());
        let again: Vec<_> = lines.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        prop_assert_eq!(&HeaderMap::from(&read(&again)), &map);
    }
}

#[test]
fn a_number_is_written_in_decimal() {
    for number in [0, 7, 10, 99, 100, 65_536, u64::MAX] {
        let mut out = b"n=".to_vec();
        write_number(&mut out, number);
        assert_eq!(String::from_utf8(out).unwrap(), format!("n={number}"));
    }
}

#[test]
fn what_no_table_may_keep_stays_so_on_its_way() {
    let block: Block = b"authorization: secret\r\n"[..].into();
    let line = FieldLine::new(0..13, 15..21).never_indexed(true);
    let fields = Fields::of_lines(block, vec![line]);
    assert!(fields.entries().all(|(_, _, never_indexed)| never_indexed));
    assert!(HeaderMap::from(&fields)["authorization"].is_sensitive());
    assert_eq!(
        Fields::from(HeaderMap::from(&fields)).entries().next(),
        fields.entries().next()
    );
}
