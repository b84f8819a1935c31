//! Path normalisation against a reader that works element by element.

use ingress_core::path::{deny_form, normalise};

use super::{Target, outcome};

pub static PATH: Target = Target {
    name: "path",
    executions: 200_000,
    longest: 512,
    words: &[
        b"/",
        b"//",
        b"/./",
        b"/../",
        b"..",
        b"%2e",
        b"%2E%2e",
        b"%2f",
        b"%2F",
        b"%5c",
        b"%5C",
        b"\\",
        b"%00",
        b"%25",
        b"%252e",
        b"%c0%af",
        b"%c0%ae",
        b"%e0%80%af",
        b";",
        b"..;",
        b"%3b",
        b"?",
        b"#",
        b"%",
        b"%7E",
        b"%7e",
        b"%41",
        b"\xc3\xa4",
        b" ",
        b"a",
    ],
    check,
};

fn check(input: &[u8]) -> u64 {
    let text = String::from_utf8_lossy(input);
    let _ = deny_form(&text);
    let normal = match normalise(&text) {
        Ok(normal) => normal,
        Err(bad) => return outcome(bad.0),
    };
    assert_normal(&normal);
    assert_eq!(normalise(&normal).as_deref(), Ok(&*normal), "normal is normal");
    assert_eq!(elements(&text), elements(&normal), "nothing but its form changed");
    let deny = deny_form(&normal);
    assert!(deny.starts_with('/') && !deny.contains("//"), "{deny:?}");
    assert!(
        !deny.split('/').any(is_dots),
        "decoding shows no dot segment: {deny:?}"
    );
    let (same, length) = (normal == text, normal.split('/').count().min(4));
    outcome((
        same,
        length,
        deny == normal,
        normal.contains("//"),
        normal.contains('%'),
    ))
}

fn assert_normal(path: &str) {
    assert!(path.starts_with('/'), "{path:?}");
    assert!(path.bytes().all(|b| b.is_ascii_graphic()), "{path:?}");
    assert!(!path.contains(['\\', '#', '?']), "{path:?}");
    assert!(!path.split('/').any(is_dots), "{path:?}");
    for after in path.split('%').skip(1) {
        let digits = after.get(..2).unwrap_or_default();
        let value = u8::from_str_radix(digits, 16);
        let needed = value.is_ok_and(|b| b != 0 && b != b'\\' && !is_unreserved(b));
        assert!(
            needed && digits == digits.to_ascii_uppercase(),
            "%{digits} in {path:?}"
        );
    }
}

fn is_dots(element: &str) -> bool {
    matches!(element, "." | "..")
}

/// RFC 3986, 2.3.
fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~".contains(&byte)
}

/// The decoded elements that are left when each `..` has taken the one before it: what a path names, whatever its form.
fn elements(path: &str) -> Vec<Vec<u8>> {
    let decoded: Vec<Vec<u8>> = path.split('/').skip(1).map(decode).collect();
    let mut left: Vec<Vec<u8>> = Vec::new();
    for (at, element) in decoded.iter().enumerate() {
        let dots = matches!(&**element, b"." | b"..");
        if &**element == b".." {
            left.pop();
        }
        if !dots {
            left.push(element.clone());
        } else if at + 1 == decoded.len() {
            left.push(Vec::new());
        }
    }
    left
}

fn decode(element: &str) -> Vec<u8> {
    let mut pieces = element.split('%');
    let mut bytes = pieces.next().unwrap_or_default().as_bytes().to_vec();
    for piece in pieces {
        let (digits, rest) = piece.split_at_checked(2).unwrap_or((piece, ""));
        bytes.extend(u8::from_str_radix(digits, 16).ok());
        bytes.extend_from_slice(rest.as_bytes());
    }
    bytes
}
