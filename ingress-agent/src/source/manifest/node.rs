//! The untyped tree of one document, with the line and column of every value.
//!
//! Kubernetes reads YAML by turning it into JSON first, and types come after: so `true` is never a string here either.
//! Knows YAML and JSON; knows nothing of kinds.

mod quick;

use std::fmt;

use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;

/// Deepest nesting of lists and mappings in a document; an Ingress needs 8, a large CustomResourceDefinition some 35. Reading one level
/// takes 32 KiB of stack in a build without optimisation, so that 64 levels would overflow a thread's 2 MiB, which aborts the process.
const MAX_DEPTH: usize = 48;
/// Values in one file, aliases written out: ten thousand Ingresses have a third of that.
const MAX_NODES: usize = 1_000_000;
/// Text in one file, aliases written out.
const MAX_TEXT_BYTES: usize = 32 * 1024 * 1024;
const MAX_DOCUMENTS: usize = 100_000;
/// Lines of comments between a key and its value. The library's own bound is 32, which a values file that explains itself passes.
const MAX_COMMENTS: usize = 100_000;

/// Where a value begins, counted from 1; 0 where the parser did not say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Position {
    pub(super) line: u64,
    pub(super) column: u64,
}

/// `line 12, column 5: `, or nothing where the position is unknown.
impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => Ok(()),
            line => write!(f, "line {line}, column {}: ", self.column),
        }
    }
}

#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) value: Value,
    pub(super) at: Position,
}

#[derive(Clone, Debug)]
pub(super) enum Value {
    Null,
    Bool(bool),
    Signed(i64),
    Unsigned(u64),
    Float(f64),
    String(String),
    List(Vec<Node>),
    Map(Vec<(String, Node)>),
}

impl Node {
    pub(super) fn get(&self, key: &str) -> Option<&Node> {
        match &self.value {
            Value::Map(entries) => entries.iter().find(|(name, _)| name == key).map(|(_, node)| node),
            _ => None,
        }
    }

    pub(super) fn text(&self) -> Option<&str> {
        match &self.value {
            Value::String(text) => Some(text),
            _ => None,
        }
    }

    pub(super) fn is_null(&self) -> bool {
        matches!(self.value, Value::Null)
    }

    /// What the value is, as messages name it.
    pub(super) fn describe(&self) -> String {
        let kind = self.describe_type();
        let kind = kind.strip_prefix("a ").unwrap_or(kind);
        match &self.value {
            Value::Bool(value) => format!("the {kind} {value}"),
            Value::Signed(value) => format!("the {kind} {value}"),
            Value::Unsigned(value) => format!("the {kind} {value}"),
            Value::Float(value) => format!("the {kind} {value}"),
            Value::String(value) => format!("the {kind} {:?}", shorten(value)),
            Value::Null | Value::List(_) | Value::Map(_) => self.describe_type().to_owned(),
        }
    }

    /// The same without the value.
    pub(super) fn describe_type(&self) -> &'static str {
        match self.value {
            Value::Null => "nothing",
            Value::Bool(_) => "a boolean",
            Value::Signed(_) | Value::Unsigned(_) | Value::Float(_) => "a number",
            Value::String(_) => "a string",
            Value::List(_) => "a list",
            Value::Map(_) => "a mapping",
        }
    }
}

/// Keeps a message readable when a value is a whole file.
pub(super) fn shorten(text: &str) -> &str {
    text.char_indices()
        .nth(60)
        .map_or(text, |(end, _)| text.get(..end).unwrap_or(text))
}

/// Every document of a YAML file, or the message with line and column.
pub(super) fn parse_yaml(text: &str) -> Result<Vec<Node>, String> {
    quick::read(text).map_or_else(|| parse_the_long_way(text), Ok)
}

fn parse_the_long_way(text: &str) -> Result<Vec<Node>, String> {
    serde_saphyr::from_multiple_with_options::<Node>(text, yaml_options())
        .map_err(|error| yaml_message(&error))
}

/// Every document of a JSON file. Its grammar is JSON's; positions come from reading the same text as YAML, where that is possible.
pub(super) fn parse_json(text: &str) -> Result<Vec<Node>, String> {
    let values = serde_json::Deserializer::from_str(text)
        .into_iter::<serde_json::Value>()
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| json_message(&error))?;
    match parse_yaml(text) {
        Ok(nodes) if nodes.len() == values.len() => Ok(nodes),
        _ => Ok(values.into_iter().map(Node::from).collect()),
    }
}

fn yaml_options() -> serde_saphyr::Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_events: MAX_NODES.saturating_mul(2),
            max_nodes: MAX_NODES,
            max_depth: MAX_DEPTH,
            flow_nesting_limit: MAX_DEPTH,
            max_documents: MAX_DOCUMENTS,
            max_buffered_comment_events: MAX_COMMENTS,
            max_total_scalar_bytes: MAX_TEXT_BYTES,
            max_aliases: 10_000,
            max_anchors: 10_000,
        },
        alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: 200_000 },
        with_snippet: false,
    }
}

fn yaml_message(error: &serde_saphyr::Error) -> String {
    let at = error
        .location()
        .map_or_else(Position::default, |location| Position {
            line: location.line(),
            column: location.column(),
        });
    format!("{at}{}", yaml_problem(error))
}

/// The library's words, except where they speak to its caller instead of the author of the file.
fn yaml_problem(error: &serde_saphyr::Error) -> String {
    use serde_saphyr::Error;
    use serde_saphyr::budget::BudgetBreach;
    match error {
        Error::AliasError { error, .. } => yaml_problem(error),
        Error::DuplicateMappingKey { key, .. } => {
            format!(
                "expected each key once, found {} again",
                shorten(key.as_deref().unwrap_or("one"))
            )
        }
        Error::Budget {
            breach: BudgetBreach::ScalarBytes { .. },
            ..
        } => format!(
            "expected at most {} MiB of text with every alias written out, found more",
            MAX_TEXT_BYTES / 1024 / 1024
        ),
        Error::Budget {
            breach: BudgetBreach::Nodes { .. } | BudgetBreach::Events { .. },
            ..
        }
        | Error::AliasReplayLimitExceeded { .. } => {
            format!("expected at most {MAX_NODES} values with every alias written out, found more")
        }
        Error::Budget { breach, .. } => format!("the file goes beyond what is reasonable: {breach:?}"),
        Error::NonFiniteFloat { .. } => {
            "expected a number that JSON has, found one that is not finite".to_owned()
        }
        other => {
            let text = other.render_with_formatter(&serde_saphyr::DefaultMessageFormatter);
            // The library repeats the place at the end; once is enough.
            text.split(" at line ").next().unwrap_or(&text).to_owned()
        }
    }
}

fn json_message(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let text = text.split(" at line ").next().unwrap_or(&text);
    format!("line {}, column {}: {text}", error.line(), error.column())
}

impl From<serde_json::Value> for Node {
    fn from(value: serde_json::Value) -> Self {
        let value = match value {
            serde_json::Value::Null => Value::Null,
            serde_json::Value::Bool(value) => Value::Bool(value),
            serde_json::Value::Number(number) => from_number(&number),
            serde_json::Value::String(text) => Value::String(text),
            serde_json::Value::Array(items) => Value::List(items.into_iter().map(Node::from).collect()),
            serde_json::Value::Object(entries) => Value::Map(
                entries
                    .into_iter()
                    .map(|(key, value)| (key, Node::from(value)))
                    .collect(),
            ),
        };
        Self {
            value,
            at: Position::default(),
        }
    }
}

fn from_number(number: &serde_json::Number) -> Value {
    if let Some(value) = number.as_u64() {
        Value::Unsigned(value)
    } else if let Some(value) = number.as_i64() {
        Value::Signed(value)
    } else {
        Value::Float(number.as_f64().unwrap_or(f64::NAN))
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<Value>::deserialize(deserializer)?;
        Ok(Self {
            value: spanned.value,
            at: Position {
                line: spanned.referenced.line(),
                column: spanned.referenced.column(),
            },
        })
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E: de::Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        Value::deserialize(deserializer)
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Signed(value))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Unsigned(value))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Value, E> {
        Ok(Value::Float(value))
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E: de::Error>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Value::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Vec::new();
        while let Some(entry) = entries.next_entry()? {
            map.push(entry);
        }
        Ok(Value::Map(map))
    }
}
