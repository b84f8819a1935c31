//! Path normalisation before matching (RFC 3986, 6.2.2), and the forms that are refused.
//!
//! One rule stands over all: the backend gets exactly the path that was matched, and no reader between here and there may
//! take it for another one. What could be taken for another one is refused, not mended.

use std::borrow::Cow;

/// Why a path is refused rather than guessed at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadPath(pub &'static str);

impl std::fmt::Display for BadPath {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0)
    }
}

/// The path that is matched and that the backend gets.
///
/// Percent-encoded unreserved characters are decoded, other escapes get upper-case digits, blanks and bytes beyond ASCII
/// are escaped, dot segments are removed (RFC 3986, 5.2.4). `//` stays. Normalising twice changes nothing.
pub fn normalise(path: &str) -> Result<Cow<'_, str>, BadPath> {
    if !path.starts_with('/') {
        return Err(BadPath("does not start with '/'"));
    }
    if is_plain(path.as_bytes()) {
        return Ok(Cow::Borrowed(path));
    }
    let escaped = normalise_escapes(path.as_bytes())?;
    check_segments(&escaped)?;
    let normal = remove_dot_segments(&escaped);
    Ok(if normal == path {
        Cow::Borrowed(path)
    } else {
        Cow::Owned(normal)
    })
}

/// What deny and auth rules compare as well: all escapes decoded, runs of slashes merged.
///
/// Takes a path that [`normalise`] has let pass.
pub fn deny_form(path: &str) -> Cow<'_, str> {
    if !path.contains('%') && !path.contains("//") {
        return Cow::Borrowed(path);
    }
    let mut decoded = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let [byte, after @ ..] = rest {
        let (byte, after) = match escape_at(rest) {
            Some(value) => (value, after.get(2..).unwrap_or_default()),
            None => (*byte, after),
        };
        if byte != b'/' || decoded.last() != Some(&b'/') {
            decoded.push(byte);
        }
        rest = after;
    }
    Cow::Owned(String::from_utf8_lossy(&decoded).into_owned())
}

/// The fast way out: nothing that any rule below could change or refuse.
fn is_plain(path: &[u8]) -> bool {
    let mut before = 0;
    for &byte in path {
        let harmless = matches!(byte, b'!'..=b'~') && !matches!(byte, b'%' | b'\\' | b'#' | b'?');
        if !harmless || (byte == b'.' && before == b'/') {
            return false;
        }
        before = byte;
    }
    true
}

fn normalise_escapes(path: &[u8]) -> Result<String, BadPath> {
    let mut out = String::with_capacity(path.len() + 8);
    let mut rest = path;
    let mut before = 0;
    while let [byte, after @ ..] = rest {
        match byte {
            b'%' => {
                let value = escape_at(rest).ok_or(BadPath("has a '%' without two hexadecimal digits"))?;
                check_escape(value, before)?;
                push_decoded(&mut out, value);
                rest = after.get(2..).unwrap_or_default();
                before = value;
                continue;
            }
            b'\\' => return Err(BadPath("has a backslash")),
            b'#' => return Err(BadPath("has a fragment")),
            b'?' => return Err(BadPath("has a query")),
            0..=0x1f | 0x7f => return Err(BadPath("has a control character")),
            b' ' | 0x80.. => push_escape(&mut out, *byte),
            _ => out.push(char::from(*byte)),
        }
        before = 0;
        rest = after;
    }
    Ok(out)
}

/// The value of the escape that `bytes` start with.
fn escape_at(bytes: &[u8]) -> Option<u8> {
    match bytes {
        [b'%', high, low, ..] => {
            let digit = |b: u8| char::from(b).to_digit(16).and_then(|d| u8::try_from(d).ok());
            Some(digit(*high)? << 4 | digit(*low)?)
        }
        _ => None,
    }
}

/// `before` is the value of the escape right before, or 0.
fn check_escape(value: u8, before: u8) -> Result<(), BadPath> {
    match (before, value) {
        (_, 0) => Err(BadPath("has an encoded NUL")),
        (_, b'\\') => Err(BadPath("has an encoded backslash")),
        // Never UTF-8; lenient decoders make '.', '/' and '\' of such pairs (RFC 3629, 10).
        (0xc0 | 0xc1, 0x80..=0xbf) => Err(BadPath("has an overlong UTF-8 sequence")),
        _ => Ok(()),
    }
}

fn push_decoded(out: &mut String, value: u8) {
    let unreserved = value.is_ascii_alphanumeric() || matches!(value, b'-' | b'.' | b'_' | b'~');
    match unreserved {
        true => out.push(char::from(value)),
        false => push_escape(out, value),
    }
}

fn push_escape(out: &mut String, value: u8) {
    const DIGITS: [char; 16] = [
        '0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'A', 'B', 'C', 'D', 'E', 'F',
    ];
    out.push('%');
    for digit in [value >> 4, value & 15] {
        out.extend(DIGITS.get(usize::from(digit)));
    }
}

/// Refuses dot segments that only some readers see: beside an encoded slash, or with parameters (`/..;x/`).
fn check_segments(escaped: &str) -> Result<(), BadPath> {
    for segment in escaped.split('/').filter(|segment| segment.contains('.')) {
        if segment.contains("%2F") && segment.split("%2F").any(is_dots) {
            return Err(BadPath("has a dot segment beside an encoded slash"));
        }
        let bare = segment.split([';']).next().unwrap_or_default();
        if bare.len() < segment.len() && is_dots(bare) {
            return Err(BadPath("has a dot segment with parameters"));
        }
    }
    Ok(())
}

fn is_dots(segment: &str) -> bool {
    matches!(segment, "." | "..")
}

/// RFC 3986, 5.2.4, for a path that starts with `/`.
fn remove_dot_segments(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    let mut segments = path.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        if segment == ".." {
            out.truncate(out.rfind('/').unwrap_or(0));
        }
        if !is_dots(segment) {
            out.push('/');
            out.push_str(segment);
        } else if segments.peek().is_none() {
            out.push('/');
        }
    }
    out
}

#[cfg(test)]
mod tests;
