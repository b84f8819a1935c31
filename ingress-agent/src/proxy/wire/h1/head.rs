//! The request head, line by line, resumable at any byte.

use std::ops::Range;

use ingress_core::fields::FieldLine;
use ingress_core::reason::Reason;

use super::bytes::{method_run, path_run, query_run, token_run, trim, value_run};
use super::facts::Facts;
use super::target::check_target;
use super::{HeadInfo, Version};
use crate::proxy::wire::{Limits, Refusal};

/// Longer than any registered method (RFC 9110 16.1); RFC 9112 3 asks for 501 beyond what is implemented.
const LONGEST_METHOD: usize = 32;

/// Up to here an incomplete line is judged at each read.
const LONG_LINE: usize = 1024;

/// Judges one head that has to be there as a whole.
pub fn check_head(head: &[u8], limits: &Limits) -> Result<HeadInfo, Refusal> {
    HeadReader::default()
        .advance(head, limits)?
        .ok_or(Refusal::bad("the request head ends early"))
}

/// The same characters for h2, where method and path come one by one.
pub fn check_method_and_target(method: &str, target: &str) -> Result<(), Refusal> {
    // RFC 9113, 8.3.1.
    if !matches!(target.as_bytes(), [b'/', ..] | b"*") {
        return Err(Refusal::bad("the path does not begin with a slash"));
    }
    if !is_target(target.as_bytes()) {
        return Err(Refusal::bad(
            "the path has a byte that RFC 3986 does not allow there",
        ));
    }
    if method_run(method.as_bytes()) != method.len() {
        return Err(Refusal::bad("the method is not a word of upper-case letters"));
    }
    Ok(())
}

/// A path and perhaps a query, or `*`, without a byte that RFC 3986 does not allow there.
pub(in crate::proxy) fn is_target(target: &[u8]) -> bool {
    let path = path_run(target);
    let query = target.get(path..).unwrap_or_default();
    let clean = match query {
        [] => true,
        [b'?', query @ ..] => query_run(query) == query.len(),
        _ => false,
    };
    clean && matches!(target, [b'/', ..] | b"*")
}

/// Judges a head that may arrive in pieces. Lines that were judged are not read again.
#[derive(Clone, Debug, Default)]
pub struct HeadReader {
    /// The start of the line that is not yet complete.
    at: usize,
    /// How far the incomplete line was looked at.
    scanned: usize,
    part: Part,
    lines: HeadLines,
    facts: Facts,
}

/// Where the parts of a judged head stand in its bytes, so that nobody has to look for them again.
#[derive(Clone, Debug, Default)]
pub struct HeadLines {
    pub method: Range<usize>,
    pub target: Range<usize>,
    pub fields: Vec<FieldLine>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Part {
    /// One empty line may stand before a request line (RFC 9112 2.2).
    #[default]
    Start,
    RequestLine,
    Fields,
}

/// One line of a block of fields.
pub enum Field<'a> {
    /// Name and value, with the blanks around it.
    Pair(&'a [u8], &'a [u8]),
    /// The empty line that ends the head.
    End,
}

struct RequestLine<'a> {
    method: &'a [u8],
    target: &'a [u8],
    version: Version,
}

impl HeadReader {
    /// `head` holds all bytes from the head's first on; it only grows between calls. None while the head is incomplete.
    pub fn advance(&mut self, head: &[u8], limits: &Limits) -> Result<Option<HeadInfo>, Refusal> {
        if self.nothing_new(head, limits) {
            self.scanned = head.len();
            return Ok(None);
        }
        loop {
            let going_on = match self.part {
                Part::Start => self.start(head),
                Part::RequestLine => self.request_line(head, limits)?,
                Part::Fields => match self.field(head, limits)? {
                    Some(Field::End) => return self.facts.conclude(self.at).map(Some),
                    Some(Field::Pair(..)) => true,
                    None => false,
                },
            };
            if !going_on {
                self.scanned = head.len();
                return Ok(None);
            }
        }
    }

    /// True before the first byte that belongs to a request.
    pub fn untouched(&self) -> bool {
        self.part != Part::Fields && self.scanned <= self.at
    }

    /// A long line that grows byte by byte is looked at again only when it ends or passes its bound: no quadratic work.
    fn nothing_new(&self, head: &[u8], limits: &Limits) -> bool {
        let Some(new) = head.get(self.scanned..) else {
            return false;
        };
        self.scanned.saturating_sub(self.at) > LONG_LINE
            && !new.contains(&b'\n')
            && head.len().saturating_sub(self.at) < limits.request_line.min(limits.field_line)
            && head.len() < limits.head_bytes
    }

    fn start(&mut self, head: &[u8]) -> bool {
        match head {
            [] | [b'\r'] => return false,
            [b'\r', b'\n', ..] => self.at = 2,
            _ => {}
        }
        self.part = Part::RequestLine;
        true
    }

    fn request_line(&mut self, head: &[u8], limits: &Limits) -> Result<bool, Refusal> {
        let (window, full) = self.window(head, limits.request_line, limits);
        match request_line(window)? {
            Some((line, used)) => {
                check_target(line.method, line.target)?;
                self.facts.method_and_version(line.method, line.version);
                self.lines.method = self.at..self.at.saturating_add(line.method.len());
                let target = self.lines.method.end.saturating_add(1);
                self.lines.target = target..target.saturating_add(line.target.len());
                self.at = self.at.saturating_add(used);
                self.part = Part::Fields;
                Ok(true)
            }
            None if !full => Ok(false),
            None => Err(Refusal::new(
                Reason::UriTooLong,
                "the request line is longer than allowed",
            )),
        }
    }

    fn field<'a>(&mut self, head: &'a [u8], limits: &Limits) -> Result<Option<Field<'a>>, Refusal> {
        let (window, full) = self.window(head, limits.field_line, limits);
        if self.lines.fields.len() >= limits.head_fields && window.first().is_some_and(|b| *b != b'\r') {
            return Err(too_large("more header fields than allowed"));
        }
        match field(window)? {
            Some((field, used)) => {
                if let Field::Pair(name, value) = &field {
                    let trimmed = trim(value);
                    self.facts.note(name, trimmed)?;
                    if self.lines.fields.is_empty() {
                        self.lines.fields.reserve(16);
                    }
                    self.lines.fields.push(place(self.at, (name, value, trimmed)));
                }
                self.at = self.at.saturating_add(used);
                Ok(Some(field))
            }
            None if !full => Ok(None),
            None => Err(too_large("the request head is larger than allowed")),
        }
    }

    /// Where the parts of the head are, once it has been judged.
    pub fn into_lines(self) -> HeadLines {
        self.lines
    }

    /// The current line as far as its bounds allow, and whether they leave no room for more.
    fn window<'a>(&self, head: &'a [u8], line: usize, limits: &Limits) -> (&'a [u8], bool) {
        let rest = head.get(self.at..).unwrap_or_default();
        let bound = line.min(limits.head_bytes.saturating_sub(self.at));
        (rest.get(..bound).unwrap_or(rest), rest.len() >= bound)
    }
}

/// Where name and trimmed value of a line that begins at `start` are.
pub fn place(start: usize, (name, value, trimmed): (&[u8], &[u8], &[u8])) -> FieldLine {
    let name = start..start.saturating_add(name.len());
    let before = value.iter().take_while(|b| matches!(b, b' ' | b'\t')).count();
    let begin = name.end.saturating_add(1).saturating_add(before);
    FieldLine::new(name, begin..begin.saturating_add(trimmed.len()))
}

fn too_large(detail: &'static str) -> Refusal {
    Refusal::new(Reason::HeadersTooLarge, detail)
}

/// `METHOD SP target SP HTTP/1.x CRLF` with exactly one space each (RFC 9112 3), and its length. None while it has no end.
fn request_line(line: &[u8]) -> Result<Option<(RequestLine<'_>, usize)>, Refusal> {
    let Some((method, rest)) = method(line)? else {
        return Ok(None);
    };
    let Some((target, rest)) = target(rest)? else {
        return Ok(None);
    };
    let Some(version) = version(rest)? else {
        return Ok(None);
    };
    let used = method.len() + 1 + target.len() + 1 + VERSION_AND_END.len();
    Ok(Some((
        RequestLine {
            method,
            target,
            version,
        },
        used,
    )))
}

/// One word, and what follows its space.
type Cut<'a> = (&'a [u8], &'a [u8]);

/// The method, and what follows its space.
fn method(line: &[u8]) -> Result<Option<Cut<'_>>, Refusal> {
    let length = method_run(line.get(..=LONGEST_METHOD).unwrap_or(line));
    if length > LONGEST_METHOD {
        return Err(Refusal::new(
            Reason::NotImplemented,
            "the method is longer than any known one",
        ));
    }
    let (method, rest) = line.split_at_checked(length).unwrap_or((line, &[]));
    match rest {
        [] => Ok(None),
        [b' ', rest @ ..] if !method.is_empty() => match method {
            b"CONNECT" | b"TRACE" => Err(Refusal::new(
                Reason::NotImplemented,
                "CONNECT and TRACE are not served",
            )),
            _ => Ok(Some((method, rest))),
        },
        _ => Err(Refusal::bad(
            "the method is not a word of upper-case letters and one space",
        )),
    }
}

/// The target, and what follows its space.
fn target(rest: &[u8]) -> Result<Option<Cut<'_>>, Refusal> {
    let mut length = path_run(rest);
    if rest.get(length) == Some(&b'?') {
        length += 1;
        length += query_run(rest.get(length..).unwrap_or_default());
    }
    let (target, rest) = rest.split_at_checked(length).unwrap_or((rest, &[]));
    match rest {
        [] => Ok(None),
        [b' ', rest @ ..] if !target.is_empty() => Ok(Some((target, rest))),
        [b'#', ..] => Err(Refusal::bad("the target has a fragment")),
        _ => Err(Refusal::bad(
            "the target has a byte that RFC 3986 does not allow there",
        )),
    }
}

const VERSION_AND_END: &[u8] = b"HTTP/1.1\r\n";

fn version(rest: &[u8]) -> Result<Option<Version>, Refusal> {
    let mut version = Version::Http11;
    for (at, expected) in VERSION_AND_END.iter().enumerate() {
        match rest.get(at) {
            None => return Ok(None),
            Some(b'0') if at == 7 => version = Version::Http10,
            Some(byte) if byte == expected => {}
            Some(_) => {
                return Err(Refusal::bad(
                    "the request line does not end in HTTP/1.1 or HTTP/1.0 and CRLF",
                ));
            }
        }
    }
    Ok(Some(version))
}

/// `name ":" value CRLF`, or the empty line (RFC 9112 5), and its length. None while it has no end.
pub fn field(line: &[u8]) -> Result<Option<(Field<'_>, usize)>, Refusal> {
    let (name, rest) = line.split_at_checked(token_run(line)).unwrap_or((line, &[]));
    let value = match (name, rest) {
        (_, []) | ([], [b'\r']) => return Ok(None),
        ([], [b'\r', b'\n', ..]) => return Ok(Some((Field::End, 2))),
        ([], [b' ' | b'\t', ..]) => {
            return Err(Refusal::bad("a header line begins with whitespace (obs-fold)"));
        }
        ([], [b':', ..]) => return Err(Refusal::bad("a header field has no name")),
        ([_, ..], [b':', value @ ..]) => value,
        ([_, ..], [b' ' | b'\t', ..]) => {
            return Err(Refusal::bad("whitespace between a field name and its colon"));
        }
        _ => {
            return Err(Refusal::bad(
                "a byte that is not allowed in a field name or line end",
            ));
        }
    };
    let (value, end) = value.split_at_checked(value_run(value)).unwrap_or((value, &[]));
    match end {
        [] | [b'\r'] => Ok(None),
        [b'\r', b'\n', ..] => Ok(Some((Field::Pair(name, value), name.len() + 1 + value.len() + 2))),
        [b'\r', ..] => Err(Refusal::bad("a bare CR in a header line")),
        [b'\n', ..] => Err(Refusal::bad("a header line ends in a bare LF")),
        _ => Err(Refusal::bad("a control character in a field value")),
    }
}
