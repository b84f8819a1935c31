//! The short way through ordinary YAML, which nearly all manifests are: straight from the parser's events to the tree.
//!
//! It answers only where it is sure: whatever is rare (anchors, tags, merge keys, odd numbers, repeated keys, any error) goes the long way,
//! which has the words for it. What it reads is what the long way reads.

use granit_parser::{Event, Marker, Options, Parser, ScalarStyle, Span};

use super::{MAX_DOCUMENTS, Node, Position, Value};

/// Below the long way's own bounds, so that it is the one to refuse.
const MAX_DEPTH: usize = 40;
const MAX_NODES: usize = 500_000;
/// Keys are compared one by one.
const MAX_KEYS: usize = 64;

/// Every document, if all of them are ordinary.
pub(super) fn read(text: &str) -> Option<Vec<Node>> {
    let mut options = Options::default();
    options.set_emit_comments(false);
    let mut reader = Reader::default();
    for event in Parser::new_from_str_with_options(text, options) {
        let (event, span) = event.ok()?;
        reader.event(event, &span)?;
    }
    reader.open.is_empty().then_some(reader.documents)
}

#[derive(Default)]
struct Reader {
    documents: Vec<Node>,
    open: Vec<Open>,
    nodes: usize,
}

/// A collection that has begun.
struct Open {
    at: Position,
    inside: Inside,
}

enum Inside {
    List(Vec<Node>),
    Map {
        entries: Vec<(String, Node)>,
        key: Option<String>,
    },
}

impl Reader {
    /// None: the long way has to do it.
    fn event(&mut self, event: Event<'_>, span: &Span) -> Option<()> {
        match event {
            Event::StreamStart | Event::StreamEnd | Event::DocumentStart(_, None) | Event::DocumentEnd => {
                Some(())
            }
            Event::Scalar(text, style, 0, None) => self.scalar(text.into_owned(), style, span),
            Event::SequenceStart(_, 0, None) => self.begin(Inside::List(Vec::new()), span),
            Event::MappingStart(_, 0, None) => {
                let (entries, key) = (Vec::new(), None);
                self.begin(Inside::Map { entries, key }, span)
            }
            Event::SequenceEnd | Event::MappingEnd => self.end(),
            _ => None,
        }
    }

    fn scalar(&mut self, text: String, style: ScalarStyle, span: &Span) -> Option<()> {
        let value = match style {
            ScalarStyle::Plain => plain(text)?,
            _ => Value::String(text),
        };
        if let Some(Inside::Map {
            entries,
            key: key @ None,
        }) = self.inside()
        {
            let Value::String(text) = value else {
                return None;
            };
            if entries.len() >= MAX_KEYS || entries.iter().any(|(known, _)| *known == text) {
                return None;
            }
            *key = Some(text);
            return Some(());
        }
        let at = position(&span.start)?;
        self.add(Node { value, at })
    }

    fn inside(&mut self) -> Option<&mut Inside> {
        self.open.last_mut().map(|open| &mut open.inside)
    }

    fn begin(&mut self, inside: Inside, span: &Span) -> Option<()> {
        let is_key = matches!(self.inside(), Some(Inside::Map { key: None, .. }));
        if is_key || self.open.len() >= MAX_DEPTH {
            return None;
        }
        let at = position(&span.start)?;
        self.open.push(Open { at, inside });
        Some(())
    }

    fn end(&mut self) -> Option<()> {
        let Open { at, inside } = self.open.pop()?;
        let value = match inside {
            Inside::List(items) => Value::List(items),
            Inside::Map { entries, key: None } => Value::Map(entries),
            Inside::Map { .. } => return None,
        };
        self.add(Node { value, at })
    }

    fn add(&mut self, node: Node) -> Option<()> {
        self.nodes += 1;
        if self.nodes > MAX_NODES || self.documents.len() >= MAX_DOCUMENTS {
            return None;
        }
        match self.inside() {
            // A document that is no mapping is none of ours, and an empty one is left out: the long way knows.
            None if !matches!(node.value, Value::Map(_)) => return None,
            None => self.documents.push(node),
            Some(Inside::List(items)) => items.push(node),
            Some(Inside::Map { entries, key }) => entries.push((key.take()?, node)),
        }
        Some(())
    }
}

fn position(start: &Marker) -> Option<Position> {
    Some(Position {
        line: u64::try_from(start.line()).ok()?,
        column: u64::try_from(start.col()).ok()?.checked_add(1)?,
    })
}

/// What a scalar without quotes is, where that is beyond doubt in every version of YAML.
fn plain(text: String) -> Option<Value> {
    let bytes = text.as_bytes();
    match bytes.first() {
        None => Some(Value::Null),
        // The parser's word for no value at all, too.
        Some(b'~') if bytes.len() == 1 => Some(Value::Null),
        Some(b'a'..=b'z' | b'A'..=b'Z' | b'/') => word(text),
        Some(b'0') if bytes.len() > 1 => None,
        Some(b'0'..=b'9') if bytes.len() <= 18 && bytes.iter().all(u8::is_ascii_digit) => {
            text.parse().ok().map(Value::Unsigned)
        }
        _ => None,
    }
}

fn word(text: String) -> Option<Value> {
    /// Mean something else, or did in some version.
    const SPECIAL: [&str; 12] = [
        "null", "true", "false", "yes", "no", "on", "off", "y", "n", "inf", "infinity", "nan",
    ];
    match text.as_str() {
        "true" => Some(Value::Bool(true)),
        "false" => Some(Value::Bool(false)),
        word if SPECIAL.iter().any(|special| word.eq_ignore_ascii_case(special)) => None,
        _ => Some(Value::String(text)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::sample::select;

    use super::*;

    const KEYS: &[&str] = &[
        "a: ",
        "b: ",
        "c: ",
        "- ",
        "- a: ",
        "- - ",
        "\"a\": ",
        "'b' : ",
        "\"<<\": ",
        "<<: ",
        "? ",
        ": ",
        "? a\n: ",
        "null: ",
        "~: ",
        "true: ",
        "\"true\": ",
        "1: ",
        "\u{e4}\u{1f600}: ",
        "a b: ",
        "a:\n  ",
        "a: &x ",
        "b: *x ",
        "? |\n  k\n: ",
        "\"\": ",
        "=: ",
        "a.b/c: ",
        "\ta: ",
        "",
        "/: ",
        "a: {b: ",
        "a: [",
        "x: !t ",
        "a:\t",
        "- # c\n  ",
    ];
    const VALUES: &[&str] = &[
        "",
        "~",
        "null",
        "Null",
        "true",
        "True",
        "FALSE",
        "yes",
        "no",
        "On",
        "off",
        "y",
        "N",
        "0",
        "00",
        "007",
        "0o7",
        "0x1F",
        "0b1",
        "1_000",
        "+1",
        "-0",
        "-1",
        "1.",
        ".5",
        "1.5",
        "1e3",
        "1E400",
        "e1",
        "123456789012345678",
        "1234567890123456789",
        "18446744073709551616",
        ".inf",
        "-.INF",
        ".nan",
        "NaN",
        "inf",
        "Infinity",
        "infinity",
        "2001-12-14",
        "2001-12-14t21:59:43.10-05:00",
        "1:30",
        "12:30:45",
        "=",
        "<<",
        "\"<<\"",
        "word",
        "two words",
        "two # c",
        "two#c",
        "a: b",
        "a:b",
        "/path",
        "/",
        "//x",
        "@a",
        "`a`",
        "%a",
        "*x",
        "&x",
        "&x v",
        "!t v",
        "! v",
        "!!str 1",
        "!!int '1'",
        "!!binary aGk=",
        "!!null x",
        "'it''s'",
        "'~'",
        "\"\\u00e4\\n\\x41\"",
        "\"\\/\"",
        "\"a\\\n    b\"",
        "\"a\n\n    b\"",
        "'x\n      y'",
        "word\n      more",
        "[]",
        "{}",
        "[a, b]",
        "[a, ]",
        "[, a]",
        "[a: b]",
        "{a, b}",
        "{a: }",
        "{a: b, a: c}",
        "{\"a\":1}",
        "{a: [~, {}, \"\"]}",
        "{? a : b}",
        "[\n  1,\n  # c\n  2]",
        "}",
        "]",
        "|\n        t\n        u",
        "|-\n        t\n\n",
        "|+\n        t\n\n",
        "|2\n         t",
        "|9\n x",
        ">\n        t\n        u\n\n          v",
        ">-2\n          x",
        "|\n\ttab",
        "| # c\n        x",
        "|",
        "\u{e4}\u{f6}",
        "\u{1f600} z",
        "a\u{85}b",
        "a\u{2028}b",
        "a\u{a0}",
        "\u{feff}a",
        "a\tb",
        "a\t# c",
        "\0",
        "\u{7f}",
        "aGVsbG8=",
        "None",
        "nil",
        "nULL",
        "tRUE",
        "t",
        "f",
        "--- a",
        "---",
        "...",
        "\n---\nk: v",
        "\n...\n---\nk: v",
        "\n--- |\n x",
        "\n---\n---\nk: v",
        "\n...\n...\n",
        "a\n---x",
        "d0",
        "f1.5",
        "a1e5",
        "0.1.2",
        "192.0.2.1",
        "10.0.0.0/8",
        "::1",
        "a,b",
        "a}",
        "a]",
        "a?b",
        "?a",
        "-a",
        "-",
        "- b",
        ":a",
        "a'b\"c",
        "a &x",
        "a *x",
        "a !x",
        "null ",
        "true\t",
        "12 ",
        "1 2",
        "0 ",
        "0 # c",
    ];
    const ENDS: &[&str] = &[
        "\n", "\n", "\n", "\r\n", " \n", "\t\n", " # c\n", "\n\n", "\r", "}\n", "]\n", "",
    ];

    const ORDINARY: &str = "# a comment\napiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata:\n  namespace: bench # another\n  name: \"web\"\n  \
        annotations:\n    a/b: 'false'\n    empty:\nspec:\n  tls: [{hosts: [a.test, b.test], secretName: tls}]\n  rules:\n  - host: a.test\n    \
        http:\n      paths:\n      - {path: /, pathType: Prefix, backend: {service: {name: app, port: {number: 80}}}}\n  enabled: true\n---\n\
        kind: x\ntext: |\n  a\n   b\nfolded: >-\n  c\n  d\n";

    fn is_same(text: &str) {
        if let Some(quick) = read(text) {
            let long = super::super::parse_the_long_way(text);
            assert_eq!(
                format!("{:?}", Ok::<_, String>(quick)),
                format!("{long:?}"),
                "{text}"
            );
        }
    }

    #[test]
    fn ordinary_manifests_are_read_the_short_way_and_alike_down_to_every_position() {
        assert!(read(ORDINARY).is_some());
        is_same(ORDINARY);
    }

    #[test]
    fn what_is_not_ordinary_goes_the_long_way() {
        for rare in [
            "a: &x 1\nb: *x\n",
            "a: !!str 1\n",
            "<<: {a: b}\n",
            "a: 1\na: 2\n",
            "a: 010\n",
            "a: 0x1f\n",
            "a: -1\n",
            "a: 1.5\n",
            "a: yes\n",
            "a: NULL\n",
            "a: .inf\n",
            "{[a]: b}\n",
            "on: 1\n",
            "- a\n",
            "a: [\n",
            "%YAML 1.1\n---\na: b\n",
        ] {
            assert!(read(rare).is_none(), "{rare}");
        }
    }

    #[test]
    fn what_is_large_is_read_alike_and_has_the_same_bounds() {
        let deep = |levels: usize| format!("a: {}{}\n", "[".repeat(levels), "]".repeat(levels));
        let nested = |levels: usize| -> String {
            let line = |level| format!("{}a:\n", " ".repeat(level));
            (0..levels).map(line).collect()
        };
        for text in [
            format!("a: {}\n", "x y ".repeat(100_000)),
            format!("a: \"{}\"\n", "\\n".repeat(500_000)),
            format!("{}: b\n", "k".repeat(1_020)),
            format!("{}: b\n", "k".repeat(1_030)),
            format!("a: |\n{}", "  line\n".repeat(20_000)),
            format!("a:\n{}  b: c\n", "  # comment\n".repeat(200)),
            format!("{}a: b\n", "# comment\n".repeat(200)),
            format!("a:\n{}", "- b\n".repeat(20_000)),
            (0..70).map(|key| format!("k{key}: v\n")).collect(),
            deep(38),
            deep(39),
            deep(47),
            deep(48),
            deep(300),
            nested(39),
            nested(49),
        ] {
            is_same(&text);
        }
        let documents = "a: b\n---\n".repeat(MAX_DOCUMENTS + 1);
        assert!(read(&documents).is_none() && super::super::parse_yaml(&documents).is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1000))]

        #[test]
        fn whatever_the_short_way_reads_the_long_way_reads_alike(
            edits in proptest::collection::vec((any::<proptest::sample::Index>(), "[ -~\\n]{0,3}", 0..4_usize), 0..6)
        ) {
            let mut text = ORDINARY.to_owned();
            for (index, insert, remove) in edits {
                let at = index.index(text.len());
                text.replace_range(at..text.len().min(at + remove), &insert);
            }
            is_same(&text);
        }

        #[test]
        fn whatever_is_put_together_of_yamls_peculiarities_is_read_alike(
            lines in proptest::collection::vec((0..4_usize, select(KEYS), select(VALUES), select(ENDS)), 1..8),
            start in select(&["", "", "\u{feff}", "---\n", "--- # c\n", "\n\n", "# c\r\n", "%YAML 1.2\n---\n"][..]),
        ) {
            let mut text = start.to_owned();
            for (depth, key, value, end) in lines {
                text.push_str(&"  ".repeat(depth));
                text.push_str(key);
                text.push_str(value);
                text.push_str(end);
            }
            is_same(&text);
        }
    }
}
