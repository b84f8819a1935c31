//! Hostile bytes into a quoted string, so that no request can end a line, a string or an escape sequence of a terminal.

use std::fmt;

/// The inside of a JSON string (RFC 8259, 7). Bytes that are not UTF-8 appear as the four characters `\xHH`.
pub(super) fn json(out: &mut Vec<u8>, bytes: &[u8]) {
    for chunk in bytes.utf8_chunks() {
        run(out, chunk.valid(), json_char);
        for byte in chunk.invalid() {
            out.extend_from_slice(b"\\\\x");
            hex(out, u32::from(*byte), 2);
        }
    }
}

/// The inside of a quoted string of the text form: `\"`, `\\`, `\xHH` for bytes, `\u{H}` for other characters.
pub(super) fn text(out: &mut Vec<u8>, bytes: &[u8]) {
    for chunk in bytes.utf8_chunks() {
        run(out, chunk.valid(), text_char);
        for byte in chunk.invalid() {
            out.extend_from_slice(b"\\x");
            hex(out, u32::from(*byte), 2);
        }
    }
}

/// What is displayed, escaped on its way.
pub(super) struct Escaped<'a> {
    pub(super) out: &'a mut Vec<u8>,
    pub(super) escape: fn(&mut Vec<u8>, &[u8]),
}

impl fmt::Write for Escaped<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        (self.escape)(self.out, text.as_bytes());
        Ok(())
    }
}

/// Copies what is plain in one go; most strings are plain from end to end.
fn run(out: &mut Vec<u8>, valid: &str, special: fn(&mut Vec<u8>, char)) {
    let mut rest = valid;
    while let Some((at, found)) = rest.char_indices().find(|(_, c)| !is_plain(*c)) {
        let (plain, tail) = rest.split_at(at);
        out.extend_from_slice(plain.as_bytes());
        special(out, found);
        rest = tail.strip_prefix(found).unwrap_or("");
    }
    out.extend_from_slice(rest.as_bytes());
}

/// Not plain: quotes, backslashes, control characters, the line separators that some viewers obey, and what changes the direction of
/// text, so that a line looks on a screen as it was sent.
fn is_plain(c: char) -> bool {
    match c {
        '"' | '\\' => false,
        ' '..='~' => true,
        '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}' => false,
        _ => !c.is_control(),
    }
}

fn json_char(out: &mut Vec<u8>, c: char) {
    match c {
        '"' => out.extend_from_slice(b"\\\""),
        '\\' => out.extend_from_slice(b"\\\\"),
        '\n' => out.extend_from_slice(b"\\n"),
        '\r' => out.extend_from_slice(b"\\r"),
        '\t' => out.extend_from_slice(b"\\t"),
        // Everything that is not plain lies in the basic plane: one unit is enough.
        _ => {
            out.extend_from_slice(b"\\u");
            hex(out, u32::from(c), 4);
        }
    }
}

fn text_char(out: &mut Vec<u8>, c: char) {
    match c {
        '"' => out.extend_from_slice(b"\\\""),
        '\\' => out.extend_from_slice(b"\\\\"),
        c if c.is_ascii() => {
            out.extend_from_slice(b"\\x");
            hex(out, u32::from(c), 2);
        }
        _ => {
            out.extend_from_slice(b"\\u{");
            hex(out, u32::from(c), 4);
            out.push(b'}');
        }
    }
}

fn hex(out: &mut Vec<u8>, value: u32, digits: u32) {
    for place in (0..digits).rev() {
        let digit = char::from_digit((value >> (4 * place)) & 0xf, 16).unwrap_or('0');
        out.extend_from_slice(digit.encode_utf8(&mut [0; 4]).as_bytes());
    }
}
