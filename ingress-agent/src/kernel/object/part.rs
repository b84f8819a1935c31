//! One hook's part of the object: the same ELF file, in which the other hooks' maps are symbols that are defined elsewhere.
//!
//! The loader makes a map of every symbol that a section of maps defines, and leaves a reference to an undefined one as it is. Pure.

use std::collections::BTreeSet;
use std::ops::Range;

/// Sections with maps; the second has maps that are described by the object's type information.
const PLAIN: &str = "maps";
const TYPED: &str = ".maps";
/// What describes typed maps, and is of no use without them.
const TYPES: [&str; 2] = [".BTF", ".BTF.ext"];

/// A copy with these maps alone. `None`: not a little-endian ELF64 file with symbols.
pub(super) fn with_maps(object: &[u8], maps: &[&str]) -> Option<Vec<u8>> {
    let sections = sections(object)?;
    let of_maps: BTreeSet<u16> = (0..)
        .zip(&sections)
        .filter(|(_, section)| [PLAIN, TYPED].contains(&section.name))
        .map(|(index, _)| index)
        .collect();
    let table = sections.iter().find(|section| section.kind == SYMBOLS)?;
    let names = &sections.get(table.link)?.bytes;
    let mut part = object.to_vec();
    let mut typed = false;
    for at in table.bytes.clone().step_by(SYMBOL) {
        let place = at.checked_add(6)?..at.checked_add(8)?;
        let section = u16(object, place.start)?;
        if !of_maps.contains(&section) {
            continue;
        }
        let name = text(object, names, u32(object, at)?)?;
        if !maps.contains(&name) {
            part.get_mut(place)?.fill(0);
        } else if sections.get(usize::from(section))?.name == TYPED {
            typed = true;
        }
    }
    // The loader takes all typed maps or none: they are one hook's.
    if !typed && sections.iter().any(|section| section.name == TYPED) {
        for section in &sections {
            if section.name == TYPED || TYPES.contains(&section.name) {
                let name = section.header..section.header.checked_add(4)?;
                part.get_mut(name)?.fill(0);
            }
        }
    }
    Some(part)
}

struct Section<'a> {
    name: &'a str,
    kind: u32,
    /// Another section's number; of a symbol table, where its names stand.
    link: usize,
    header: usize,
    bytes: Range<usize>,
}

/// Of a section: a table of symbols (SHT_SYMTAB).
const SYMBOLS: u32 = 2;
/// Bytes of a symbol in a 64-bit file.
const SYMBOL: usize = 24;

/// As the header of the file says (ELF-64 Object File Format, 1.5).
fn sections(object: &[u8]) -> Option<Vec<Section<'_>>> {
    if !object.starts_with(b"\x7fELF\x02\x01") {
        return None;
    }
    let (first, size) = (u64(object, 0x28)?, usize::from(u16(object, 0x3a)?));
    let (count, names) = (usize::from(u16(object, 0x3c)?), usize::from(u16(object, 0x3e)?));
    let header = |index: usize| first.checked_add(index.checked_mul(size)?);
    let names = bytes(object, header(names)?)?;
    let section = |index| {
        let header = header(index)?;
        Some(Section {
            name: text(object, &names, u32(object, header)?)?,
            kind: u32(object, header + 4)?,
            link: usize::try_from(u32(object, header + 0x28)?).ok()?,
            header,
            bytes: bytes(object, header)?,
        })
    };
    (0..count).map(section).collect()
}

/// Where a section's bytes are.
fn bytes(object: &[u8], header: usize) -> Option<Range<usize>> {
    let start = u64(object, header.checked_add(0x18)?)?;
    let end = start.checked_add(u64(object, header.checked_add(0x20)?)?)?;
    Some(start..end)
}

/// A name, from its place in a table of names to its zero byte.
fn text<'a>(object: &'a [u8], table: &Range<usize>, at: u32) -> Option<&'a str> {
    let from = object.get(table.start.checked_add(usize::try_from(at).ok()?)?..table.end)?;
    std::str::from_utf8(from.split(|byte| *byte == 0).next()?).ok()
}

fn u16(object: &[u8], at: usize) -> Option<u16> {
    object
        .get(at..)?
        .first_chunk()
        .map(|bytes| u16::from_le_bytes(*bytes))
}

fn u32(object: &[u8], at: usize) -> Option<u32> {
    object
        .get(at..)?
        .first_chunk()
        .map(|bytes| u32::from_le_bytes(*bytes))
}

fn u64(object: &[u8], at: usize) -> Option<usize> {
    let bytes = object.get(at..)?.first_chunk()?;
    usize::try_from(u64::from_le_bytes(*bytes)).ok()
}

#[cfg(test)]
mod tests {
    use super::super::OBJECT;
    use super::*;

    #[test]
    fn a_hooks_part_has_its_maps_and_no_others() {
        // The same length: offsets hold.
        let part = with_maps(OBJECT, &["SERVED", "NAMES"]).unwrap();
        assert_eq!(part.len(), OBJECT.len());
        let defined = |object: &[u8]| -> BTreeSet<String> {
            let sections = sections(object).unwrap();
            let table = sections.iter().find(|section| section.kind == SYMBOLS).unwrap();
            let names = &sections[table.link].bytes;
            let symbols = table.bytes.clone().step_by(SYMBOL);
            let of_maps = symbols.filter(|at| {
                let section = usize::from(u16(object, at + 6).unwrap());
                [PLAIN, TYPED].contains(&sections[section].name)
            });
            of_maps
                .map(|at| text(object, names, u32(object, at).unwrap()).unwrap().to_owned())
                .collect()
        };
        assert!(defined(OBJECT).len() > 10);
        assert_eq!(defined(&part), ["NAMES", "SERVED"].map(str::to_owned).into());
    }

    #[test]
    fn what_is_no_object_is_refused_wherever_it_is_cut() {
        assert!(with_maps(b"nonsense", &[]).is_none());
        for end in (0..OBJECT.len()).step_by(997) {
            let _ = with_maps(&OBJECT[..end], &["SERVED"]);
        }
    }
}
