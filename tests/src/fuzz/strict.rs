//! A reader of HTTP/1.1 requests, from RFC 9112 and with nothing shared with the product: what is not in its grammar is refused.
//!
//! It knows no limits and serves every method; so it may take what the gate refuses, and must take what the gate lets pass.

/// One request, as far as it says where it ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Message<'a> {
    pub(super) method: &'a [u8],
    pub(super) target: &'a [u8],
    pub(super) fields: Vec<(&'a [u8], &'a [u8])>,
    /// Bytes of the head, with the empty line that may stand before it.
    pub(super) head: usize,
    /// Bytes of the body as sent, with chunk sizes and trailers.
    pub(super) raw_body: usize,
    /// Bytes of the body's content.
    pub(super) content: usize,
}

/// The requests from the start on that are whole and in the grammar.
pub(super) fn read(mut stream: &[u8]) -> Vec<Message<'_>> {
    let mut messages = Vec::new();
    while let Some(message) = message(stream) {
        let used = message.head + message.raw_body;
        stream = stream.get(used..).unwrap_or_default();
        messages.push(message);
    }
    messages
}

fn message(stream: &[u8]) -> Option<Message<'_>> {
    // RFC 9112 2.2: at least one empty line before the request line is to be ignored.
    let start = stream.strip_prefix(b"\r\n").unwrap_or(stream);
    let (line, mut rest) = line(start)?;
    let words: Vec<&[u8]> = line.split(|b| *b == b' ').collect();
    let [method, target, version] = *words.as_slice() else {
        return None;
    };
    let minor = match version {
        b"HTTP/1.1" => 1,
        b"HTTP/1.0" => 0,
        _ => return None,
    };
    let fits =
        is_token(method) && !target.is_empty() && target.iter().all(|b| b.is_ascii_graphic() && *b != b'#');
    let (fields, after) = fields(rest)?;
    rest = after;
    if !fits || !is_host_fine(&fields, minor) {
        return None;
    }
    let head = stream.len() - rest.len();
    let (raw_body, content) = body(&fields, minor, rest)?;
    Some(Message {
        method,
        target,
        fields,
        head,
        raw_body,
        content,
    })
}

/// Up to CRLF, with no CR or LF in it (RFC 9112 2.2: a bare CR is invalid).
fn line(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = bytes.windows(2).position(|pair| pair == b"\r\n")?;
    let (line, rest) = bytes.split_at_checked(end)?;
    (!line.contains(&b'\r') && !line.contains(&b'\n')).then_some((line, rest.get(2..)?))
}

/// Name and value of each, and what follows them.
type Fields<'a> = (Vec<(&'a [u8], &'a [u8])>, &'a [u8]);

/// Field lines up to and with the empty one (RFC 9112 5).
fn fields(mut bytes: &[u8]) -> Option<Fields<'_>> {
    let mut fields = Vec::new();
    loop {
        let (text, rest) = line(bytes)?;
        bytes = rest;
        if text.is_empty() {
            return Some((fields, bytes));
        }
        let colon = text.iter().position(|b| *b == b':')?;
        let (name, value) = (text.get(..colon)?, text.get(colon + 1..)?);
        // RFC 9110 5.5: visible, blank, tab, and obs-text.
        let fits = |b: &u8| matches!(*b, b'\t' | b' '..=b'~' | 0x80..);
        if !is_token(name) || !value.iter().all(fits) {
            return None;
        }
        fields.push((name, value.trim_ascii()));
    }
}

/// RFC 9110 5.6.2.
fn is_token(bytes: &[u8]) -> bool {
    let separators = b"\"(),/:;<=>?@[\\]{}";
    !bytes.is_empty()
        && bytes
            .iter()
            .all(|b| b.is_ascii_graphic() && !separators.contains(b))
}

fn values<'a>(fields: &[(&[u8], &'a [u8])], name: &str) -> Vec<&'a [u8]> {
    let named = fields
        .iter()
        .filter(|(n, _)| n.eq_ignore_ascii_case(name.as_bytes()));
    named.map(|(_, value)| *value).collect()
}

/// RFC 9112 3.2: exactly one, with a valid value; none is fine in HTTP/1.0 alone.
fn is_host_fine(fields: &[(&[u8], &[u8])], minor: u8) -> bool {
    match values(fields, "host").as_slice() {
        [host] => {
            !host.is_empty()
                && host
                    .iter()
                    .all(|b| b.is_ascii_graphic() && !b"/?#@,\"<>\\^`{|}".contains(b))
        }
        [] => minor == 0,
        _ => false,
    }
}

/// RFC 9112 6.3, without its leniency for repeated lengths. The bytes as sent, and those of the content.
fn body(fields: &[(&[u8], &[u8])], minor: u8, rest: &[u8]) -> Option<(usize, usize)> {
    let (codings, lengths) = (
        values(fields, "transfer-encoding"),
        values(fields, "content-length"),
    );
    match (codings.as_slice(), lengths.as_slice()) {
        ([], []) => Some((0, 0)),
        ([], [length]) => {
            let digits = length.iter().all(u8::is_ascii_digit);
            let length: usize = std::str::from_utf8(length)
                .ok()
                .filter(|_| digits)?
                .parse()
                .ok()?;
            (length <= rest.len()).then_some((length, length))
        }
        ([coding], []) if coding.eq_ignore_ascii_case(b"chunked") && minor == 1 => chunked(rest),
        _ => None,
    }
}

/// RFC 9112 7.1.
fn chunked(bytes: &[u8]) -> Option<(usize, usize)> {
    let (mut rest, mut content) = (bytes, 0_usize);
    loop {
        let (size, after) = line(rest)?;
        let digits = size.iter().take_while(|b| b.is_ascii_hexdigit()).count();
        let (digits, extension) = size.split_at_checked(digits)?;
        let extension = extension.trim_ascii_start();
        let fits = |b: &u8| matches!(*b, b'\t' | b' '..=b'~' | 0x80..);
        // Whitespace alone after the size is in no grammar, though it ends the line in the same place.
        if !(size.len() == digits.len() || extension.starts_with(b";")) || !extension.iter().all(fits) {
            return None;
        }
        let length = usize::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
        if length == 0 {
            let (trailers, rest) = fields(after)?;
            // RFC 9110 6.5.1: not where the message ends or goes.
            let framing = ["host", "content-length", "transfer-encoding"];
            let none = framing.iter().all(|name| values(&trailers, name).is_empty());
            return none.then_some((bytes.len() - rest.len(), content));
        }
        content = content.checked_add(length)?;
        rest = after.get(length..)?.strip_prefix(b"\r\n")?;
    }
}
