//! Field paths and the list of what is wrong with them, worded as the API server words it (`field.Error` of apimachinery).

use std::fmt;

/// Longest part of a refused value that a message repeats: an annotation may be a megabyte.
const SHOWN: usize = 300;

/// One reason to refuse an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::source) struct FieldError {
    /// `spec.rules[0].host`
    pub(in crate::source) field: String,
    /// `Invalid value: "A": a lowercase RFC 1123 subdomain must …`
    pub(in crate::source) message: String,
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.message)
    }
}

#[derive(Clone, Debug)]
pub(super) struct Path(String);

impl Path {
    pub(super) fn new(root: &str) -> Self {
        Self(root.to_owned())
    }

    pub(super) fn child(&self, name: &str) -> Self {
        Self(format!("{}.{name}", self.0))
    }

    pub(super) fn index(&self, index: usize) -> Self {
        Self(format!("{}[{index}]", self.0))
    }

    pub(super) fn key(&self, key: &str) -> Self {
        Self(format!("{}[{key}]", self.0))
    }
}

/// The list that a validation fills.
#[derive(Debug, Default)]
pub(super) struct Errors(Vec<FieldError>);

impl Errors {
    pub(super) fn into_result(self) -> Result<(), Vec<FieldError>> {
        if self.0.is_empty() { Ok(()) } else { Err(self.0) }
    }

    pub(super) fn required(&mut self, path: &Path, detail: &str) {
        let message = match detail {
            "" => "Required value".to_owned(),
            _ => format!("Required value: {detail}"),
        };
        self.push(path, message);
    }

    pub(super) fn invalid(&mut self, path: &Path, value: impl Into<Shown>, detail: impl fmt::Display) {
        self.push(path, format!("Invalid value: {}: {detail}", value.into().0));
    }

    /// One error for each text that a name check returned.
    pub(super) fn invalid_each(&mut self, path: &Path, value: impl Into<Shown>, details: Vec<String>) {
        let Shown(value) = value.into();
        for detail in details {
            self.push(path, format!("Invalid value: {value}: {detail}"));
        }
    }

    pub(super) fn unsupported(&mut self, path: &Path, value: &str, supported: &[&str]) {
        let supported: Vec<_> = supported.iter().map(|value| format!("{value:?}")).collect();
        let value = Shown::from(value).0;
        self.push(
            path,
            format!(
                "Unsupported value: {value}: supported values: {}",
                supported.join(", ")
            ),
        );
    }

    pub(super) fn duplicate(&mut self, path: &Path, value: impl Into<Shown>) {
        self.push(path, format!("Duplicate value: {}", value.into().0));
    }

    pub(super) fn forbidden(&mut self, path: &Path, detail: &str) {
        self.push(path, format!("Forbidden: {detail}"));
    }

    pub(super) fn too_long(&mut self, path: &Path, max: usize) {
        self.push(path, format!("Too long: may not be more than {max} bytes"));
    }

    pub(super) fn too_many(&mut self, path: &Path, count: usize, max: usize) {
        self.push(path, format!("Too many: {count}: must have at most {max} items"));
    }

    fn push(&mut self, path: &Path, message: String) {
        self.0.push(FieldError {
            field: path.0.clone(),
            message,
        });
    }
}

/// A value as messages show it: strings in quotes, numbers bare.
pub(super) struct Shown(String);

impl From<&str> for Shown {
    fn from(text: &str) -> Self {
        match text.char_indices().nth(SHOWN) {
            Some((end, _)) => Self(format!("{:?}…", text.get(..end).unwrap_or_default())),
            None => Self(format!("{text:?}")),
        }
    }
}

impl From<i32> for Shown {
    fn from(number: i32) -> Self {
        Self(number.to_string())
    }
}

/// Something that is no plain value, already rendered.
impl From<String> for Shown {
    fn from(rendered: String) -> Self {
        Self(rendered)
    }
}
