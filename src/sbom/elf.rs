//! Sections of ELF files, found by name. Only the headers are read, wherever they lie.

use std::io;

use rbuild_cache::FileParts;

/// No ELF file is smaller.
pub(super) const LEAST: u64 = 52;
/// More than any compiler makes.
const MOST_SECTIONS: u64 = 4096;
const NAMES_LIMIT: u64 = 1 << 20;

/// Bytes that can be read at any place.
pub(super) trait Parts {
    /// How many there are.
    fn size(&self) -> u64;

    /// Reads at `offset` until `buffer` is full or there is no more; how many bytes that were.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
}

impl Parts for FileParts {
    fn size(&self) -> u64 {
        FileParts::size(self)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        FileParts::read_at(self, buffer, offset)
    }
}

impl Parts for &[u8] {
    fn size(&self) -> u64 {
        self.len() as u64
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(self.len());
        let count = buffer.len().min(self.len() - start);
        buffer[..count].copy_from_slice(&self[start..start + count]);
        Ok(count)
    }
}

/// Up to `size` bytes at `offset`; fewer where the file ends.
pub(super) fn bytes_at(file: &dyn Parts, offset: u64, size: u64) -> io::Result<Vec<u8>> {
    let size = size.min(file.size().saturating_sub(offset));
    let mut bytes = vec![0; usize::try_from(size).unwrap_or(0)];
    let count = file.read_at(&mut bytes, offset)?;
    bytes.truncate(count);
    Ok(bytes)
}

/// Where a section lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Section {
    pub(super) offset: u64,
    pub(super) size: u64,
}

/// Numbers of a file of either word size and byte order.
struct Words {
    wide: bool,
    big: bool,
}

impl Words {
    fn number(&self, bytes: &[u8], at: usize, size: usize) -> Option<u64> {
        let bytes = bytes.get(at..at.checked_add(size)?)?;
        let add = |sum: u64, byte: &u8| sum << 8 | u64::from(*byte);
        Some(if self.big {
            bytes.iter().fold(0, add)
        } else {
            bytes.iter().rev().fold(0, add)
        })
    }

    /// A number whose place and size differ between the word sizes: `(place of 32 bits, place of 64 bits)`.
    fn word(&self, bytes: &[u8], places: (usize, usize)) -> Option<u64> {
        match self.wide {
            true => self.number(bytes, places.1, 8),
            false => self.number(bytes, places.0, 4),
        }
    }
}

/// The sections of these names, as far as the file has them; none of what is no ELF file.
pub(super) fn sections<const N: usize>(
    file: &dyn Parts,
    names: [&str; N],
) -> io::Result<[Option<Section>; N]> {
    let mut found = [None; N];
    // Most files are told apart by their first bytes.
    let head = bytes_at(file, 0, 64)?;
    if !head.starts_with(b"\x7fELF") {
        return Ok(found);
    }
    let words = Words {
        wide: head.get(4) == Some(&2),
        big: head.get(5) == Some(&2),
    };
    let (entry_size, count, names_number) = match words.wide {
        true => (58, 60, 62),
        false => (46, 48, 50),
    };
    let number = |at| words.number(&head, at, 2);
    let (Some(offset), Some(entry_size), Some(count), Some(names_number)) = (
        words.word(&head, (32, 40)),
        number(entry_size),
        number(count),
        number(names_number),
    ) else {
        return Ok(found);
    };
    if entry_size < if words.wide { 64 } else { 40 } || count == 0 || count > MOST_SECTIONS {
        return Ok(found);
    }
    let table = bytes_at(file, offset, entry_size * count)?;
    let section = |number: u64| {
        let at = usize::try_from(number * entry_size).ok()?;
        let entry = table.get(at..)?;
        Some((
            words.number(entry, 0, 4)?,
            Section {
                offset: words.word(entry, (16, 24))?,
                size: words.word(entry, (20, 32))?,
            },
        ))
    };
    let Some((_, place)) = section(names_number) else {
        return Ok(found);
    };
    let texts = bytes_at(file, place.offset, place.size.min(NAMES_LIMIT))?;
    for (name, section) in (0..count).filter_map(section) {
        let text = usize::try_from(name)
            .ok()
            .and_then(|at| texts.get(at..))
            .unwrap_or_default();
        let text = text.split(|byte| *byte == 0).next().unwrap_or_default();
        if let Some(number) = names.iter().position(|wanted| wanted.as_bytes() == text) {
            found[number].get_or_insert(section);
        }
    }
    Ok(found)
}
