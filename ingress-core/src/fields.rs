//! The header fields of one message: as the lines of the head that they came in, and what was added since.
//!
//! A head that is only passed on is never taken apart: a look-up walks over places in its bytes, and so does writing it out again. Names are
//! compared without regard to case; the order of fields of one name is kept (RFC 9110, 5.3). What the lines say was judged by who read them.

use std::ops::Range;
use std::rc::Rc;

use http::header::{HeaderMap, HeaderName, HeaderValue};

/// Fields by name. Behaves as an [`http::HeaderMap`] does, but for the order of different names.
#[derive(Clone, Debug, Default)]
pub struct Fields {
    block: Block,
    lines: Vec<FieldLine>,
    /// What did not come in the block. Stands after the lines.
    added: Vec<(HeaderName, HeaderValue)>,
    /// A bit for the [`kind`] of each name that is or was there: most look-ups are for fields that aren't, and end here.
    kinds: u64,
}

/// The bytes of a head; cheap to share within a thread.
pub type Block = Rc<[u8]>;

/// A field's place in its block. Heads are far shorter than 4 GiB; what were not would be empty.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FieldLine {
    name: (u32, u32),
    value: (u32, u32),
    never_indexed: bool,
}

impl FieldLine {
    /// `value` without the blanks around it.
    pub fn new(name: Range<usize>, value: Range<usize>) -> Self {
        let pack = |range: Range<usize>| match (u32::try_from(range.start), u32::try_from(range.end)) {
            (Ok(start), Ok(end)) => (start, end),
            _ => (0, 0),
        };
        Self {
            name: pack(name),
            value: pack(value),
            never_indexed: false,
        }
    }

    /// The same, not to be kept in any HPACK table on its way (RFC 7541, 7.1.3).
    #[must_use]
    pub fn never_indexed(self, is: bool) -> Self {
        Self {
            never_indexed: is,
            ..self
        }
    }

    /// Where the name is in its block.
    pub fn name<'a>(&self, block: &'a [u8]) -> &'a [u8] {
        cut(block, self.name)
    }

    /// Where the value is in its block.
    pub fn value<'a>(&self, block: &'a [u8]) -> &'a [u8] {
        cut(block, self.value)
    }

    /// Whether it stands in its block exactly as it would be written: `name: value CRLF`.
    fn is_as_written(&self, block: &[u8]) -> bool {
        let (_, name_end) = self.name;
        let (value, end) = self.value;
        value == name_end.saturating_add(2)
            && cut(block, (name_end, value)) == b": "
            && cut(block, (end, end.saturating_add(2))) == b"\r\n"
    }
}

fn cut(block: &[u8], (start, end): (u32, u32)) -> &[u8] {
    match (usize::try_from(start), usize::try_from(end)) {
        (Ok(start), Ok(end)) => block.get(start..end).unwrap_or_default(),
        _ => &[],
    }
}

impl Fields {
    /// Of lines whose names are tokens and whose values are field values (RFC 9110, 5.6.2 and 5.5).
    pub fn of_lines(block: Block, lines: Vec<FieldLine>) -> Self {
        let kinds = lines
            .iter()
            .fold(0, |kinds, line| kinds | kind(line.name(&block)));
        Self {
            block,
            lines,
            added: Vec::new(),
            kinds,
        }
    }

    /// The first value of a name, in whatever case.
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        let name = name.as_bytes();
        if self.kinds & kind(name) == 0 {
            return None;
        }
        let is_line = |line: &&FieldLine| line.name(&self.block).eq_ignore_ascii_case(name);
        let is_added =
            |(added, _): &&(HeaderName, HeaderValue)| added.as_str().as_bytes().eq_ignore_ascii_case(name);
        match self.lines.iter().find(is_line) {
            Some(line) => Some(line.value(&self.block)),
            None => self
                .added
                .iter()
                .find(is_added)
                .map(|(_, value)| value.as_bytes()),
        }
    }

    /// The same as text; `None` where it is not all visible ASCII, blanks and tabs.
    pub fn text(&self, name: &str) -> Option<&str> {
        visible(self.get(name)?)
    }

    /// The same to keep; `None` where it is not all visible ASCII without blanks.
    pub fn shared_text(&self, name: &str) -> Option<HeadText> {
        let mut lines = self.lines.iter();
        match lines.find(|line| line.name(&self.block).eq_ignore_ascii_case(name.as_bytes())) {
            Some(line) => HeadText::of(&self.block, line.value),
            None => self.text(name).map(HeadText::copied),
        }
    }

    /// All values of a name, in their order.
    pub fn get_all<'a>(&'a self, name: &'a str) -> impl DoubleEndedIterator<Item = &'a [u8]> {
        let name = name.as_bytes();
        let there = self.kinds & kind(name) != 0;
        let lines = if there { self.lines.as_slice() } else { &[] };
        let added = if there { self.added.as_slice() } else { &[] };
        let lines = lines
            .iter()
            .filter(move |line| line.name(&self.block).eq_ignore_ascii_case(name))
            .map(|line| line.value(&self.block));
        let added = added
            .iter()
            .filter(move |(added, _)| added.as_str().as_bytes().eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_bytes());
        lines.chain(added)
    }

    pub fn contains(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// The members of the comma-separated list that all fields of a name make (RFC 9110, 5.6.1); some may be empty.
    pub fn members<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        let values = self.get_all(name);
        values
            .flat_map(|value| value.split(|byte| *byte == b','))
            .map(<[u8]>::trim_ascii)
    }

    /// Puts one value in place of all of this name.
    pub fn insert(&mut self, name: HeaderName, value: HeaderValue) {
        self.remove(name.as_str());
        self.append(name, value);
    }

    /// Adds a value to those of this name.
    pub fn append(&mut self, name: HeaderName, value: HeaderValue) {
        self.kinds |= kind(name.as_str().as_bytes());
        self.added.push((name, value));
    }

    pub fn remove(&mut self, name: &str) {
        let name = name.as_bytes();
        if self.kinds & kind(name) == 0 {
            return;
        }
        let block = &self.block;
        self.lines
            .retain(|line| !line.name(block).eq_ignore_ascii_case(name));
        self.added
            .retain(|(added, _)| !added.as_str().as_bytes().eq_ignore_ascii_case(name));
    }

    /// Takes out fields whose name is this one to a backend that reads `_` as `-`, as CGI and its successors do (RFC 3875, 4.1.18), but not those of
    /// the name itself.
    pub fn remove_look_alikes(&mut self, name: &str) {
        let name = name.as_bytes();
        if self.kinds & kind(name) == 0 {
            return;
        }
        let block = &self.block;
        self.lines.retain(|line| !is_look_alike(line.name(block), name));
        self.added
            .retain(|(added, _)| !is_look_alike(added.as_str().as_bytes(), name));
    }

    /// Takes out the fields of a name, and those that are taken for it so.
    pub fn remove_spellings(&mut self, name: &str) {
        let name = name.as_bytes();
        if self.kinds & kind(name) == 0 {
            return;
        }
        let block = &self.block;
        self.lines.retain(|line| !is_spelling(line.name(block), name));
        self.added
            .retain(|(added, _)| !is_spelling(added.as_str().as_bytes(), name));
    }

    /// Every field, its name as it was written.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.entries().map(|(name, value, _)| (name, value))
    }

    /// The same, each with whether no HPACK table on its way may keep it (RFC 7541, 7.1.3).
    pub fn entries(&self) -> impl Iterator<Item = (&[u8], &[u8], bool)> {
        let lines = self.lines.iter();
        let lines = lines.map(|line| {
            (
                line.name(&self.block),
                line.value(&self.block),
                line.never_indexed,
            )
        });
        let added = self.added.iter();
        lines.chain(
            added.map(|(name, value)| (name.as_str().as_bytes(), value.as_bytes(), value.is_sensitive())),
        )
    }

    /// How many fields there are.
    pub fn len(&self) -> usize {
        self.lines.len().saturating_add(self.added.len())
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Appends each field but those whose name `omit` says yes to, as `name: value CRLF`. Lines that stand together as they would be
    /// written are copied together.
    pub fn write(&self, out: &mut Vec<u8>, omit: impl Fn(&[u8]) -> bool) {
        let mut run = (0, 0);
        for line in &self.lines {
            let name = line.name(&self.block);
            if omit(name) {
                continue;
            }
            if !line.is_as_written(&self.block) {
                out.extend_from_slice(cut(&self.block, run));
                run = (0, 0);
                write_field(out, name, line.value(&self.block));
                continue;
            }
            let end = line.value.1.saturating_add(2);
            if run.1 != line.name.0 || run.1 == 0 {
                out.extend_from_slice(cut(&self.block, run));
                run.0 = line.name.0;
            }
            run.1 = end;
        }
        out.extend_from_slice(cut(&self.block, run));
        for (name, value) in &self.added {
            let name = name.as_str().as_bytes();
            if !omit(name) {
                write_field(out, name, value.as_bytes());
            }
        }
    }
}

/// Appends `name: value CRLF` (RFC 9112, 5).
pub fn write_field(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// Appends a number in decimal, as lengths are written in every head.
pub fn write_number(out: &mut Vec<u8>, mut number: u64) {
    // 2^64 has twenty digits.
    let mut digits = [b'0'; 20];
    let mut count = 0;
    for place in digits.iter_mut().rev() {
        *place = b'0' + u8::try_from(number % 10).unwrap_or_default();
        number /= 10;
        count += 1;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(digits.get(digits.len() - count..).unwrap_or_default());
}

/// Text that is all visible ASCII, blanks and tabs.
pub fn visible(value: &[u8]) -> Option<&str> {
    let is_visible = |byte: &u8| matches!(byte, b' '..=b'~' | b'\t');
    if !value.iter().all(is_visible) {
        return None;
    }
    std::str::from_utf8(value).ok()
}

/// Different names that are the same where `_` is read as `-`.
fn is_look_alike(one: &[u8], other: &[u8]) -> bool {
    is_spelling(one, other) && !one.eq_ignore_ascii_case(other)
}

/// Names that are the same where `_` is read as `-`.
fn is_spelling(one: &[u8], other: &[u8]) -> bool {
    let fold = |byte: &u8| match byte {
        b'_' => b'-',
        byte => byte.to_ascii_lowercase(),
    };
    one.len() == other.len() && one.iter().map(fold).eq(other.iter().map(fold))
}

/// One of 64 bits, the same for names that are the same without regard to case, or to `_` and `-`.
fn kind(name: &[u8]) -> u64 {
    let last = match name.last() {
        None => 0,
        Some(b'_') => usize::from(b'-'),
        Some(byte) => usize::from(*byte | 0x20),
    };
    1 << ((name.len() ^ (last << 2)) & 63)
}

impl PartialEq for Fields {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl From<HeaderMap> for Fields {
    fn from(map: HeaderMap) -> Self {
        let mut fields = Self::default();
        fields.added.reserve(map.len());
        let mut last = None;
        for (name, value) in map {
            // A name stands before the first of its values alone.
            last = name.or(last);
            if let Some(name) = &last {
                fields.append(name.clone(), value);
            }
        }
        fields
    }
}

impl From<&Fields> for HeaderMap {
    fn from(fields: &Fields) -> Self {
        let mut map = Self::with_capacity(fields.len());
        for line in &fields.lines {
            let name = HeaderName::from_bytes(line.name(&fields.block));
            let value = HeaderValue::from_bytes(line.value(&fields.block));
            if let (Ok(name), Ok(mut value)) = (name, value) {
                value.set_sensitive(line.never_indexed);
                map.append(name, value);
            }
        }
        for (name, value) in &fields.added {
            map.append(name, value.clone());
        }
        map
    }
}

/// A piece of a head as text that can be kept, without a copy.
#[derive(Clone, Debug)]
pub struct HeadText {
    block: Block,
    place: (u32, u32),
}

impl HeadText {
    /// `None` where it is not all visible ASCII without blanks.
    pub fn new(block: &Block, place: Range<usize>) -> Option<Self> {
        let place = (u32::try_from(place.start).ok()?, u32::try_from(place.end).ok()?);
        Self::of(block, place)
    }

    fn of(block: &Block, place: (u32, u32)) -> Option<Self> {
        let is_text = cut(block, place).iter().all(u8::is_ascii_graphic);
        is_text.then(|| Self {
            block: Rc::clone(block),
            place,
        })
    }

    /// Of text that came otherwise; it may hold anything.
    pub fn copied(text: &str) -> Self {
        Self {
            block: text.as_bytes().into(),
            place: (0, u32::try_from(text.len()).unwrap_or_default()),
        }
    }

    pub fn as_bytes(&self) -> &[u8] {
        cut(&self.block, self.place)
    }

    pub fn as_str(&self) -> &str {
        std::str::from_utf8(self.as_bytes()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests;
