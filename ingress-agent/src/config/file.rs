//! The YAML file: the same settings by the same names as the flags. Turns each key into the arguments it stands for.
//!
//! Every error names the file, the line, the key and what was expected.

use std::fmt;
use std::path::{Path, PathBuf};

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, ArgAction, Command};
use serde_saphyr::{Location, Spanned};

/// No sensible file is larger; a larger one is a mistake (a log, a device).
const MAX_FILE_BYTES: u64 = 1 << 20;

/// One key of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Setting {
    /// The flag's id.
    pub(super) id: String,
    /// `--http=127.0.0.1:80`, once for each value.
    pub(super) arguments: Vec<String>,
}

/// What is wrong with the file.
#[derive(Debug, PartialEq, Eq)]
pub struct FileError {
    pub file: PathBuf,
    pub line: Option<u64>,
    pub key: Option<String>,
    pub problem: String,
}

/// `agent.yaml:3: http: "8080" is not valid: expected ADDRESS:PORT …`
impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.file.display())?;
        if let Some(line) = self.line {
            write!(f, "{line}:")?;
        }
        if let Some(key) = &self.key {
            write!(f, " {key}:")?;
        }
        write!(f, " {}", self.problem)
    }
}

/// Reads and checks the file against the flags of `command`.
pub(super) fn read(path: &Path, command: &Command) -> Result<Vec<Setting>, FileError> {
    let text = read_bounded(path).map_err(|problem| FileError {
        file: path.into(),
        line: None,
        key: None,
        problem,
    })?;
    parse(path, &text, command)
}

fn read_bounded(path: &Path) -> Result<String, String> {
    use std::io::Read;
    let mut text = String::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(MAX_FILE_BYTES + 1).read_to_string(&mut text))
        .map_err(|error| format!("cannot be read: {error}"))?;
    if text.len() as u64 > MAX_FILE_BYTES {
        return Err("is larger than 1 MiB: expected a short YAML mapping of settings".into());
    }
    Ok(text)
}

/// Keys with the lines that they stand on, in the file's order.
#[derive(Debug, Default)]
struct Document(Vec<(Spanned<String>, Value)>);

/// A setting's value as YAML has it; scalars keep their own spelling.
#[derive(Debug)]
enum Value {
    Nothing,
    One(String),
    Many(Vec<String>),
    Mapping,
}

pub(super) fn parse(path: &Path, text: &str, command: &Command) -> Result<Vec<Setting>, FileError> {
    let document: Option<Document> =
        serde_saphyr::from_str_with_options(text, serde_saphyr::options! { strict_booleans: true })
            .map_err(|error| syntax_error(path, &error))?;
    document
        .unwrap_or_default()
        .0
        .into_iter()
        .map(|(key, value)| {
            let line = key.referenced.line();
            setting(&key.value, value, command).map_err(|problem| FileError {
                file: path.into(),
                line: (line > 0).then_some(line),
                key: Some(key.value),
                problem,
            })
        })
        .collect()
}

fn syntax_error(path: &Path, error: &serde_saphyr::Error) -> FileError {
    let line = error
        .location()
        .filter(|at| *at != Location::UNKNOWN)
        .map(|at| at.line());
    // The first line says what; the rest is a drawing of the place.
    let text = error.to_string();
    let first = text.lines().next().unwrap_or("not YAML");
    let first = first.trim_start_matches("error: ");
    let place_and_what = first.split_once(": ");
    let problem = match place_and_what {
        Some((place, what)) if place.starts_with("line ") => what,
        _ => first,
    };
    FileError {
        file: path.into(),
        line,
        key: None,
        problem: format!("{problem}: expected a YAML mapping of settings"),
    }
}

fn setting(key: &str, value: Value, command: &Command) -> Result<Setting, String> {
    let arg = find(key, command)?;
    let values = match value {
        Value::One(one) => vec![one],
        Value::Many(many) if matches!(arg.get_action(), ArgAction::Append) => many,
        Value::Many(_) => return Err("is a list: expected one value".into()),
        Value::Nothing => return Err("has no value: expected one, or the key left out".into()),
        Value::Mapping => {
            return Err("is a mapping: expected one value or a list; settings are not nested".into());
        }
    };
    if values.is_empty() {
        return Err("is an empty list: expected at least one value, or the key left out".into());
    }
    for value in &values {
        judge(arg, key, value)?;
    }
    let arguments = values.iter().map(|value| format!("--{key}={value}")).collect();
    Ok(Setting {
        id: arg.get_id().to_string(),
        arguments,
    })
}

fn find<'a>(key: &str, command: &'a Command) -> Result<&'a Arg, String> {
    let settable = |arg: &&Arg| {
        arg.get_long()
            .is_some_and(|long| long != "config" && long != "help")
    };
    let mut args = command.get_arguments().filter(settable);
    if let Some(arg) = args.find(|arg| arg.get_long() == Some(key)) {
        return Ok(arg);
    }
    if key == "config" {
        return Err("is not a setting of the file: it names the file itself".into());
    }
    let names = command.get_arguments().filter(settable).filter_map(Arg::get_long);
    Err(match nearest(key, names) {
        Some(name) => format!("is not a setting: did you mean {name}?"),
        None => "is not a setting: `ingress-agent docs config` lists them".into(),
    })
}

/// Lets the flag's own parser judge the value.
fn judge(arg: &Arg, key: &str, value: &str) -> Result<(), String> {
    let alone = Command::new("file")
        .no_binary_name(true)
        .disable_help_flag(true)
        .arg(arg.clone().env(None::<&str>));
    match alone.try_get_matches_from([format!("--{key}={value}")]) {
        Ok(_) => Ok(()),
        Err(error) => Err(format!("{value:?} is not valid: {}", expectation(&error))),
    }
}

fn expectation(error: &clap::Error) -> String {
    if error.kind() == ErrorKind::InvalidValue
        && let Some(ContextValue::Strings(valid)) = error.get(ContextKind::ValidValue)
    {
        return format!("expected {}", valid.join(" or "));
    }
    std::error::Error::source(error).map_or_else(|| "expected a value".into(), ToString::to_string)
}

/// The known name that a typing error most likely meant.
fn nearest<'a>(key: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let key = key.replace('_', "-").to_ascii_lowercase();
    names
        .map(|name| (distance(&key, name), name))
        .filter(|(distance, name)| *distance <= 2.max(name.len() / 3))
        .min()
        .map(|(_, name)| name)
}

/// Levenshtein's, over bytes, for short words.
fn distance(a: &str, b: &str) -> usize {
    if a.len() > 64 {
        return usize::MAX;
    }
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.bytes().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (cell, to) in row.iter_mut().skip(1).zip(b.bytes()) {
            let best = (diagonal + usize::from(from != to)).min(left + 1).min(*cell + 1);
            diagonal = *cell;
            *cell = best;
            left = best;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or(usize::MAX)
}

impl<'de> serde::Deserialize<'de> for Document {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(DocumentVisitor)
    }
}

struct DocumentVisitor;

impl<'de> serde::de::Visitor<'de> for DocumentVisitor {
    type Value = Document;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a mapping of settings")
    }

    fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Document, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(Document(entries))
    }
}

impl<'de> serde::Deserialize<'de> for Value {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

struct ValueVisitor;

impl<'de> serde::de::Visitor<'de> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("one value or a list of values")
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(Value::One(text.to_owned()))
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::One(value.to_string()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::One(value.to_string()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::One(value.to_string()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Value::One(value.to_string()))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Nothing)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Nothing)
    }

    fn visit_some<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(Self)
    }

    fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut many = Vec::new();
        while let Some(element) = seq.next_element::<Value>()? {
            match element {
                Value::One(one) => many.push(one),
                _ => return Err(serde::de::Error::custom("a list may hold plain values only")),
            }
        }
        Ok(Value::Many(many))
    }

    fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        while map
            .next_entry::<serde::de::IgnoredAny, serde::de::IgnoredAny>()?
            .is_some()
        {}
        Ok(Value::Mapping)
    }
}
