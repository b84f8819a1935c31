//! Huffman decoding of HPACK strings (RFC 7541, 5.2 and appendix B). Pure.
//!
//! The code is canonical: codes of one length follow each other in the order of their symbols, and the next length goes on where the
//! one before ended. So the lengths are all there is to know; every table is made of them at compile time.

/// How many bits each byte takes; the last one is the end-of-string symbol, which no string may hold.
#[rustfmt::skip]
const LENGTHS: [u8; SYMBOLS] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28,
    28, 28, 28, 28, 28, 28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5, 5,
    6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10, 13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7,
    7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6, 15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5,
    6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28, 20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23,
    23, 23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, 22, 21, 20,
    22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22,
    22, 23, 22, 22, 23, 26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26,
    27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27, 20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25,
    25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26, 30,
];

const SYMBOLS: usize = 257;
const END_OF_STRING: u16 = 256;
const LONGEST: usize = 30;

/// The codes of one length, and where their symbols begin in [`Tables::ordered`].
#[derive(Clone, Copy)]
struct Row {
    first: u32,
    count: u32,
    at: usize,
}

struct Tables {
    rows: [Row; LONGEST + 1],
    /// All symbols in the order of their codes.
    ordered: [u16; SYMBOLS],
    /// What the next eight bits begin with, where that is a whole code: its length and its symbol.
    short: [(u8, u8); 256],
}

static TABLES: Tables = tables();

#[expect(
    clippy::cast_possible_truncation,
    reason = "a symbol is below 257, a code of eight bits below 256"
)]
const fn tables() -> Tables {
    let mut rows = [Row {
        first: 0,
        count: 0,
        at: 0,
    }; LONGEST + 1];
    let mut ordered = [0; SYMBOLS];
    let mut short = [(0, 0); 256];
    let (mut code, mut placed, mut length) = (0u32, 0, 1);
    while length <= LONGEST {
        code <<= 1;
        rows[length] = Row {
            first: code,
            count: 0,
            at: placed,
        };
        let mut symbol = 0;
        while symbol < SYMBOLS {
            if LENGTHS[symbol] as usize == length {
                ordered[placed] = symbol as u16;
                if length <= 8 {
                    let spare = 8 - length;
                    let mut low = 0;
                    while low < 1 << spare {
                        short[((code as usize) << spare) | low] = (length as u8, symbol as u8);
                        low += 1;
                    }
                }
                placed += 1;
                code += 1;
                rows[length].count += 1;
            }
            symbol += 1;
        }
        length += 1;
    }
    Tables { rows, ordered, short }
}

/// Appends what `bytes` stand for; None when they are no string: an unknown code, or padding that isn't the beginning of the end symbol.
pub(super) fn decode(bytes: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let mut bytes = bytes.iter();
    let (mut bits, mut have) = (0u64, 0u32);
    loop {
        while have <= 56 {
            let Some(byte) = bytes.next() else { break };
            bits = bits << 8 | u64::from(*byte);
            have += 8;
        }
        if have == 0 {
            return Some(());
        }
        let (length, symbol) = short(bits, have);
        if length > 0 && length <= have {
            out.push(symbol);
            have -= length;
            continue;
        }
        match long(bits, have) {
            Some((length, symbol)) => {
                out.push(u8::try_from(symbol).ok().filter(|_| symbol != END_OF_STRING)?);
                have -= length;
            }
            None => return is_padding(bits, have).then_some(()),
        }
    }
}

/// The code that the next eight bits begin with. Missing bits count as ones: no code is then taken for another, since it is longer than what is there.
fn short(bits: u64, have: u32) -> (u32, u8) {
    let next = if have >= 8 {
        bits >> (have - 8)
    } else {
        bits << (8 - have) | (0xff >> have)
    };
    let (length, symbol) = usize::try_from(next & 0xff)
        .ok()
        .and_then(|index| TABLES.short.get(index).copied())
        .unwrap_or_default();
    (u32::from(length), symbol)
}

fn long(bits: u64, have: u32) -> Option<(u32, u16)> {
    (9u32..)
        .zip(TABLES.rows.iter().skip(9))
        .find_map(|(length, row)| {
            let left = have.checked_sub(length)?;
            let code = u32::try_from((bits >> left) & ((1 << length) - 1)).ok()?;
            let offset = code.checked_sub(row.first).filter(|offset| *offset < row.count)?;
            let at = row.at.saturating_add(usize::try_from(offset).ok()?);
            Some((length, *TABLES.ordered.get(at)?))
        })
}

/// Fewer than eight bits, all ones.
fn is_padding(bits: u64, have: u32) -> bool {
    let ones = (1 << have.min(8)) - 1;
    have < 8 && bits & ones == ones
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(bytes: &[u8]) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        decode(bytes, &mut out).map(|()| out)
    }

    /// One string encoded bit by bit.
    fn encode(text: &[u8]) -> Vec<u8> {
        let mut bits = Vec::new();
        for byte in text {
            let length = usize::from(LENGTHS[usize::from(*byte)]);
            let row = TABLES.rows[length];
            let index = TABLES.ordered[row.at..]
                .iter()
                .position(|s| *s == u16::from(*byte))
                .unwrap();
            let code = row.first + u32::try_from(index).unwrap();
            bits.extend((0..length).rev().map(|bit| code >> bit & 1));
        }
        while bits.len() % 8 != 0 {
            bits.push(1);
        }
        let byte = |bits: &[u32]| {
            bits.iter()
                .fold(0u8, |byte, bit| byte << 1 | u8::try_from(*bit).unwrap())
        };
        bits.chunks(8).map(byte).collect()
    }

    #[test]
    fn the_examples_of_rfc_7541_decode() {
        for (bytes, text) in [
            (
                &[
                    0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90, 0xf4, 0xff,
                ][..],
                "www.example.com",
            ),
            (&[0xa8, 0xeb, 0x10, 0x64, 0x9c, 0xbf], "no-cache"),
            (&[0x25, 0xa8, 0x49, 0xe9, 0x5b, 0xa9, 0x7d, 0x7f], "custom-key"),
            (&[0x64, 0x02], "302"),
        ] {
            assert_eq!(decoded(bytes).as_deref(), Some(text.as_bytes()));
            assert_eq!(encode(text.as_bytes()), bytes);
        }
    }

    #[test]
    fn every_byte_survives_in_every_place() {
        let all: Vec<u8> = (0..=255).chain((0..=255).rev()).collect();
        for from in 0..8 {
            assert_eq!(decoded(&encode(&all[from..])).as_deref(), Some(&all[from..]));
        }
    }

    #[test]
    fn padding_is_short_and_of_ones_and_the_end_symbol_is_none() {
        assert_eq!(decoded(&[]), Some(Vec::new()));
        for bad in [&[0xff][..], &[0x64, 0x02, 0xff], &[0x00], &[0xff; 4]] {
            assert_eq!(decoded(bad), None, "{bad:?}");
        }
    }
}
