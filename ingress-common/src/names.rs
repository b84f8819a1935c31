//! Host names as the kernel's tables know them: by hash. A collision makes an unknown name look known, never the reverse.

use crate::window::Window;

/// RFC 1035, 2.3.4, in text.
pub const MAX_NAME: u32 = 253;

/// What the table of known names is asked for.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NameKey(pub u64);

const _: () = assert!(size_of::<NameKey>() == 8);

/// FNV-1a, 64 bits: collisions can be made on purpose, and then let a stranger through to user space, which decides.
const BASIS: u64 = 0xcbf2_9ce4_8422_2325;
const PRIME: u64 = 0x0000_0100_0000_01b3;
/// So that `example.com` and `*.example.com` are two entries.
const WILDCARD_BASIS: u64 = BASIS ^ 0x2a2e;

#[inline(always)]
fn add(hash: u64, byte: u8) -> u64 {
    (hash ^ byte as u64).wrapping_mul(PRIME)
}

impl NameKey {
    /// A whole name, in lower case.
    pub fn exact(name: &[u8]) -> Self {
        Self(name.iter().fold(BASIS, |hash, byte| add(hash, *byte)))
    }

    /// What follows `*.`, in lower case.
    pub fn wildcard(suffix: &[u8]) -> Self {
        Self(suffix.iter().fold(WILDCARD_BASIS, |hash, byte| add(hash, *byte)))
    }
}

/// What a byte of a name is: in lower case, with [`LETTER`] where it is no digit; 0 where no name has it. A table, because every branch
/// in [`Walk::take`] is one that the verifier takes for every byte.
static KIND: [u16; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        #[allow(clippy::cast_possible_truncation, reason = "below 256")]
        let letter = byte as u8;
        table[byte] = match letter {
            b'0'..=b'9' | b'.' => letter as u16,
            b'A'..=b'Z' => LETTER | letter.to_ascii_lowercase() as u16,
            b'a'..=b'z' | b'-' | b'_' => LETTER | letter as u16,
            _ => 0,
        };
        byte += 1;
    }
    table
};

const LETTER: u16 = 0x100;

/// Reads a name byte by byte. Lives in map memory in the kernel, where its values don't multiply the verifier's states.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Walk {
    whole: u64,
    suffix: u64,
    len: u32,
    /// Of the label that is being read.
    label: u32,
    /// That label has something other than a digit.
    letters: u32,
    dots: u32,
}

const _: () = assert!(size_of::<Walk>() == 32);

impl Walk {
    #[inline(always)]
    pub fn begin(&mut self) {
        *self = Self {
            whole: BASIS,
            suffix: WILDCARD_BASIS,
            len: 0,
            label: 0,
            letters: 0,
            dots: 0,
        };
    }

    /// Takes the next byte; false when no host name that is judged here has it.
    #[inline(always)]
    pub fn take(&mut self, byte: u8) -> bool {
        let kind = KIND[byte as usize];
        if self.len >= MAX_NAME || kind == 0 {
            return false;
        }
        self.len += 1;
        #[allow(clippy::cast_possible_truncation, reason = "the lower byte is meant")]
        let lower = kind as u8;
        self.whole = add(self.whole, lower);
        if self.dots > 0 {
            self.suffix = add(self.suffix, lower);
        }
        if lower == b'.' {
            let label = self.label;
            self.dots += 1;
            self.label = 0;
            self.letters = 0;
            return label > 0;
        }
        self.label += 1;
        self.letters |= u32::from(kind >> 8) & 1;
        true
    }

    /// Whether what was read is a name that may be judged: no trailing dot, and not an address (no top-level domain is a number).
    #[inline(always)]
    pub fn is_name(&self) -> bool {
        self.label > 0 && self.letters > 0
    }

    #[inline(always)]
    pub fn exact(&self) -> NameKey {
        NameKey(self.whole)
    }

    /// The wildcard that would cover it: everything after the first label (Ingress v1). Of a name without a dot, one that no table has.
    #[inline(always)]
    pub fn wildcard(&self) -> NameKey {
        NameKey(self.suffix)
    }

    /// Bytes read.
    #[inline(always)]
    pub fn len(&self) -> u32 {
        self.len
    }

    #[inline(always)]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

/// Reads the name at `at`; false when it is none that is judged here.
#[inline(always)]
pub(crate) fn read<const N: usize>(window: &Window<'_, N>, at: u32, len: u32, walk: &mut Walk) -> bool {
    let mut walk = walk;
    walk.begin();
    if len > MAX_NAME {
        return false;
    }
    let mut i = 0;
    while i < MAX_NAME {
        // Keeps the values in memory (see `Walk`), and `i` the only thing that the verifier counts.
        walk = core::hint::black_box(walk);
        if i >= len {
            break;
        }
        match window.u8(at + i) {
            Some(byte) if walk.take(byte) => {}
            _ => return false,
        }
        i += 1;
    }
    walk.is_name()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn walk(name: &str) -> Option<Walk> {
        let mut walk = Walk::default();
        walk.begin();
        (name.bytes().all(|byte| walk.take(byte)) && walk.is_name()).then_some(walk)
    }

    #[test]
    fn a_name_is_found_in_any_case_under_itself_and_under_its_wildcard() {
        let read = walk("Shop.EXAMPLE.com").unwrap();
        assert_eq!(read.exact(), NameKey::exact(b"shop.example.com"));
        assert_eq!(read.wildcard(), NameKey::wildcard(b"example.com"));
        assert_ne!(NameKey::exact(b"example.com"), NameKey::wildcard(b"example.com"));
        assert_eq!(walk("localhost").unwrap().wildcard(), NameKey::wildcard(b""));
    }

    #[test]
    fn what_is_no_plain_host_name_is_not_judged() {
        for name in [
            "", ".", "a.", ".a", "a..b", "10.0.0.1", "1", "[::1]", "a b", "a\0", "a:1", "\u{e4}", "a.1",
            "*.a",
        ] {
            assert_eq!(walk(name), None, "{name:?}");
        }
        assert!(walk(&"a".repeat(253)).is_some() && walk(&"a".repeat(254)).is_none());
        assert!(walk("_dmarc.a-b.c1").is_some());
    }
}
