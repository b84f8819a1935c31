//! From the untyped tree to a Kubernetes type, remembering where things went wrong and which fields nobody knows.
//!
//! Messages name line, column and field path, and say what was expected and what was found.

use std::cell::RefCell;
use std::fmt;

use serde::de::{self, DeserializeOwned, DeserializeSeed, Deserializer, IntoDeserializer, Visitor};
use serde::forward_to_deserialize_any;

use super::node::{Node, Position, Value};

/// A field that the type does not have: the API server drops it, with a warning.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct UnknownField {
    pub(super) path: String,
    pub(super) at: Position,
}

/// Why a document is not of its kind's type: `line 12, column 5: spec.rules: expected a list of rules, found a mapping`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TypeError {
    pub(super) at: Position,
    pub(super) path: String,
    pub(super) message: String,
}

impl fmt::Display for TypeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.at)?;
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)
    }
}

/// Whether messages may repeat what a document holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Values {
    #[default]
    Shown,
    /// For Secrets: messages go to logs.
    Hidden,
}

/// Reads `node` as a `T`.
pub(super) fn from_node<T: DeserializeOwned>(
    node: &Node,
    values: Values,
) -> Result<(T, Vec<UnknownField>), TypeError> {
    let track = RefCell::new(Track {
        values,
        ..Track::default()
    });
    let result = T::deserialize(Reader { node, track: &track });
    let Track { failed, unknown, .. } = track.into_inner();
    match result {
        Ok(value) => Ok((value, unknown)),
        Err(Failure(message)) => {
            let (path, at) = failed.unwrap_or_default();
            Err(TypeError { at, path, message })
        }
    }
}

#[derive(Default)]
struct Track<'a> {
    path: Vec<Step<'a>>,
    unknown: Vec<UnknownField>,
    /// The innermost value whose reading failed.
    failed: Option<(String, Position)>,
    values: Values,
}

enum Step<'a> {
    Key(&'a str),
    Index(usize),
}

impl Track<'_> {
    fn path(&self) -> String {
        let mut text = String::new();
        for step in &self.path {
            match step {
                Step::Key(key) if text.is_empty() => text.push_str(key),
                Step::Key(key) => text.extend([".", key]),
                Step::Index(index) => text.push_str(&format!("[{index}]")),
            }
        }
        text
    }
}

#[derive(Debug)]
struct Failure(String);

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Failure {}

impl de::Error for Failure {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self(message.to_string())
    }
}

#[derive(Clone, Copy)]
struct Reader<'a, 't> {
    node: &'a Node,
    track: &'t RefCell<Track<'a>>,
}

impl<'a, 't> Reader<'a, 't> {
    fn expected<T>(self, what: &str) -> Result<T, Failure> {
        let found = match self.track.borrow().values {
            Values::Shown => self.node.describe(),
            Values::Hidden => self.node.describe_type().to_owned(),
        };
        self.located(Err(Failure(format!("expected {what}, found {found}"))))
    }

    /// Notes where the first error came from: the innermost reader sees it first.
    fn located<T>(self, result: Result<T, Failure>) -> Result<T, Failure> {
        if result.is_err() {
            let mut track = self.track.borrow_mut();
            if track.failed.is_none() {
                track.failed = Some((track.path(), self.node.at));
            }
        }
        result
    }

    /// `a list of rules`: the field's own name says what its items are.
    fn list_name(self) -> String {
        match self.track.borrow().path.last() {
            Some(Step::Key(key)) => format!("a list of {key}"),
            _ => "a list".into(),
        }
    }

    fn integer<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Failure> {
        match self.node.value {
            Value::Signed(value) => self.located(visitor.visit_i64(value)),
            Value::Unsigned(value) => self.located(visitor.visit_u64(value)),
            _ => self.expected("a whole number"),
        }
    }

    fn string<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Failure> {
        match &self.node.value {
            Value::String(value) => self.located(visitor.visit_borrowed_str(value)),
            // Go leaves a field alone when JSON says null.
            Value::Null => self.located(visitor.visit_str("")),
            _ => self.expected("a string"),
        }
    }

    fn list<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Failure> {
        match &self.node.value {
            Value::List(items) => visitor.visit_seq(Items {
                items: items.iter().enumerate(),
                track: self.track,
            }),
            Value::Null => visitor.visit_seq(Items {
                items: [].iter().enumerate(),
                track: self.track,
            }),
            _ => self.expected(&self.list_name()),
        }
    }

    fn map<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Failure> {
        let entries: &[(String, Node)] = match &self.node.value {
            Value::Map(entries) => entries,
            Value::Null => &[],
            _ => return self.expected("a mapping"),
        };
        let result = visitor.visit_map(Entries {
            entries: entries.iter(),
            value: None,
            track: self.track,
        });
        self.located(result)
    }
}

impl<'a> Deserializer<'a> for Reader<'a, '_> {
    type Error = Failure;

    fn deserialize_any<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Failure> {
        match &self.node.value {
            Value::Null => self.located(visitor.visit_unit()),
            Value::Bool(value) => self.located(visitor.visit_bool(*value)),
            Value::Signed(_) | Value::Unsigned(_) => self.integer(visitor),
            Value::Float(value) => self.located(visitor.visit_f64(*value)),
            Value::String(_) => self.string(visitor),
            Value::List(_) => self.list(visitor),
            Value::Map(_) => self.map(visitor),
        }
    }

    fn deserialize_option<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Failure> {
        match self.node.value {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_bool<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Failure> {
        match self.node.value {
            Value::Bool(value) => visitor.visit_bool(value),
            _ => self.expected("true or false"),
        }
    }

    fn deserialize_i32<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Failure> {
        self.integer(visitor)
    }

    fn deserialize_i64<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Failure> {
        self.integer(visitor)
    }

    /// Of our kinds, only base64 data and times ask for this.
    fn deserialize_str<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Failure> {
        let hidden = self.track.borrow().values == Values::Hidden;
        let result = match &self.node.value {
            // Go skips line breaks within base64: a block scalar has them.
            Value::String(text) if text.contains(['\n', '\r']) => {
                visitor.visit_str(&text.replace(['\n', '\r'], ""))
            }
            _ => self.string(visitor),
        };
        self.located(result.map_err(|error| match hidden {
            true if self.node.text().is_some() => {
                Failure("expected base64 data, found a string that is not".into())
            }
            _ => error,
        }))
    }

    fn deserialize_string<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Failure> {
        self.string(visitor)
    }

    fn deserialize_seq<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Failure> {
        self.list(visitor)
    }

    fn deserialize_map<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Failure> {
        self.map(visitor)
    }

    fn deserialize_struct<V: Visitor<'a>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Failure> {
        self.map(visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'a>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Failure> {
        visitor.visit_newtype_struct(self)
    }

    /// Types ask to ignore exactly the fields that they do not have.
    fn deserialize_ignored_any<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Failure> {
        let mut track = self.track.borrow_mut();
        let path = track.path();
        track.unknown.push(UnknownField {
            path,
            at: self.node.at,
        });
        visitor.visit_unit()
    }

    forward_to_deserialize_any! {
        <V: Visitor<'a>>
        i8 i16 i128 u8 u16 u32 u64 u128 f32 f64 char bytes byte_buf unit unit_struct tuple tuple_struct enum identifier
    }
}

struct Items<'a, 't> {
    items: std::iter::Enumerate<std::slice::Iter<'a, Node>>,
    track: &'t RefCell<Track<'a>>,
}

impl<'a> de::SeqAccess<'a> for Items<'a, '_> {
    type Error = Failure;

    fn next_element_seed<S: DeserializeSeed<'a>>(&mut self, seed: S) -> Result<Option<S::Value>, Failure> {
        let Some((index, node)) = self.items.next() else {
            return Ok(None);
        };
        descend(self.track, Step::Index(index), node, seed).map(Some)
    }

    /// So that lists, which are kept, have room for no more than is in them.
    fn size_hint(&self) -> Option<usize> {
        Some(self.items.len())
    }
}

struct Entries<'a, 't> {
    entries: std::slice::Iter<'a, (String, Node)>,
    value: Option<(&'a str, &'a Node)>,
    track: &'t RefCell<Track<'a>>,
}

impl<'a> de::MapAccess<'a> for Entries<'a, '_> {
    type Error = Failure;

    fn next_key_seed<S: DeserializeSeed<'a>>(&mut self, seed: S) -> Result<Option<S::Value>, Failure> {
        let Some((key, node)) = self.entries.next() else {
            return Ok(None);
        };
        self.value = Some((key, node));
        seed.deserialize(key.as_str().into_deserializer()).map(Some)
    }

    fn next_value_seed<S: DeserializeSeed<'a>>(&mut self, seed: S) -> Result<S::Value, Failure> {
        let Some((key, node)) = self.value.take() else {
            return Err(Failure("a value was asked for before its key".into()));
        };
        descend(self.track, Step::Key(key), node, seed)
    }
}

fn descend<'a, S: DeserializeSeed<'a>>(
    track: &RefCell<Track<'a>>,
    step: Step<'a>,
    node: &'a Node,
    seed: S,
) -> Result<S::Value, Failure> {
    track.borrow_mut().path.push(step);
    let reader = Reader { node, track };
    let result = reader.located(seed.deserialize(reader));
    track.borrow_mut().path.pop();
    result
}
