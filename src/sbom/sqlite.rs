//! As much of SQLite's file format as it takes to read the rows of a table: b-trees of tables, overflow pages, records.
//! <https://www.sqlite.org/fileformat2.html>

use std::cell::Cell;
use std::collections::HashSet;

use super::elf::{Parts, bytes_at};

const MAGIC: &[u8] = b"SQLite format 3\0";
/// A row of a package with many files is some hundred KiB.
const ROW_LIMIT: u64 = 64 << 20;

/// A database.
pub(super) struct Database<'a> {
    file: &'a dyn Parts,
    page: u64,
    /// Bytes of a page without those that are reserved.
    usable: u64,
    /// How many overflow pages may still be read: each belongs to one row.
    overflow: Cell<u64>,
}

/// A value of a row; numbers that are no integers are nothing here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Field {
    Nothing,
    Integer(i64),
    Bytes(Vec<u8>),
}

impl<'a> Database<'a> {
    pub(super) fn open(file: &'a dyn Parts) -> Result<Self, String> {
        let head = read(file, 0, 100)?;
        if head.len() < 100 || !head.starts_with(MAGIC) {
            return Err("it is no SQLite database".to_owned());
        }
        let page = match u64::from(u16::from_be_bytes([head[16], head[17]])) {
            1 => 65536,
            size if size >= 512 && size.is_power_of_two() => size,
            size => return Err(format!("its pages have {size} bytes")),
        };
        Ok(Self {
            file,
            page,
            usable: page - u64::from(head[20]),
            overflow: Cell::new(file.size() / page),
        })
    }

    /// The page on which the table `name` begins.
    pub(super) fn table(&self, name: &str) -> Result<u64, String> {
        let mut root = None;
        self.rows(1, &mut |cells| {
            if let [
                Field::Bytes(kind),
                Field::Bytes(found),
                _,
                Field::Integer(page),
                ..,
            ] = cells.as_slice()
                && kind == b"table"
                && found == name.as_bytes()
            {
                root = u64::try_from(*page).ok();
            }
        })?;
        root.ok_or_else(|| format!("it has no table {name}"))
    }

    /// Gives the rows of the table that begins on page `root`.
    pub(super) fn rows(&self, root: u64, give: &mut dyn FnMut(Vec<Field>)) -> Result<(), String> {
        let mut seen = HashSet::new();
        let mut pending = Vec::new();
        // Each page has one place in the tree.
        let mut visit = |number: u64, pending: &mut Vec<u64>| {
            pending.push(number);
            match number > 0 && seen.insert(number) {
                true => Ok(()),
                false => Err("its pages lead in circles".to_owned()),
            }
        };
        visit(root, &mut pending)?;
        while let Some(number) = pending.pop() {
            let page = read(self.file, (number - 1) * self.page, self.page)?;
            // The first page begins with the head of the file.
            let start = if number == 1 { 100 } else { 0 };
            let kind = byte(&page, start)?;
            let count = short(&page, start + 3)?;
            let cells = start + if kind == 5 { 12 } else { 8 };
            match kind {
                5 => {
                    visit(u64::from(long(&page, start + 8)?), &mut pending)?;
                    for cell in (0..count).rev() {
                        let place = short(&page, cells + 2 * cell)?;
                        visit(u64::from(long(&page, place)?), &mut pending)?;
                    }
                }
                13 => {
                    for cell in 0..count {
                        let place = short(&page, cells + 2 * cell)?;
                        let row = self.row(&page, place)?;
                        give(record(&row)?);
                    }
                }
                kind => return Err(format!("it has a page of kind {kind}")),
            }
        }
        Ok(())
    }

    /// The bytes of a row: those on its page and those that overflow.
    fn row(&self, page: &[u8], place: usize) -> Result<Vec<u8>, String> {
        let (size, place) = varint(page, place)?;
        let (_, place) = varint(page, place)?;
        if size > ROW_LIMIT {
            return Err(format!("it has a row of {size} bytes"));
        }
        let most = self.usable.saturating_sub(35);
        let here = if size <= most {
            size
        } else {
            let least = (self.usable.saturating_sub(12) * 32 / 255).saturating_sub(23);
            let rest = least + (size - least.min(size)) % self.usable.saturating_sub(4).max(1);
            if rest <= most { rest } else { least }
        };
        let end = place + usize::try_from(here).unwrap_or(usize::MAX - place);
        let mut bytes = page.get(place..end).ok_or_else(cut)?.to_vec();
        if here == size {
            return Ok(bytes);
        }
        let mut next = u64::from(long(page, end)?);
        while (bytes.len() as u64) < size {
            let left = self.overflow.get();
            if next == 0 || left == 0 {
                return Err(cut());
            }
            self.overflow.set(left - 1);
            let overflow = read(self.file, (next - 1) * self.page, self.page)?;
            next = u64::from(long(&overflow, 0)?);
            let wanted = (size - bytes.len() as u64).min(self.usable.saturating_sub(4));
            let end = 4 + usize::try_from(wanted).unwrap_or(0);
            bytes.extend_from_slice(
                overflow
                    .get(4..end)
                    .filter(|part| !part.is_empty())
                    .ok_or_else(cut)?,
            );
        }
        Ok(bytes)
    }
}

/// The values of a row.
fn record(bytes: &[u8]) -> Result<Vec<Field>, String> {
    let (head, mut at) = varint(bytes, 0)?;
    let head = usize::try_from(head).map_err(|_| cut())?;
    let mut data = head;
    let mut cells = Vec::new();
    while at < head {
        let (kind, next) = varint(bytes, at)?;
        at = next;
        let size = match kind {
            0 | 8 | 9 => 0,
            1..=4 => kind,
            5 => 6,
            6 | 7 => 8,
            10 | 11 => return Err("it has values of an unknown kind".to_owned()),
            kind => (kind - 12) / 2,
        };
        let end = usize::try_from(size)
            .ok()
            .and_then(|size| data.checked_add(size))
            .ok_or_else(cut)?;
        let value = bytes.get(data..end).ok_or_else(cut)?;
        data = end;
        cells.push(match kind {
            0 | 7 => Field::Nothing,
            8 => Field::Integer(0),
            9 => Field::Integer(1),
            1..=6 => {
                let negative = value.first().is_some_and(|byte| byte & 0x80 != 0);
                let start = if negative { -1 } else { 0 };
                Field::Integer(
                    value
                        .iter()
                        .fold(start, |sum: i64, byte| sum << 8 | i64::from(*byte)),
                )
            }
            _ => Field::Bytes(value.to_vec()),
        });
    }
    Ok(cells)
}

fn cut() -> String {
    "it is cut off".to_owned()
}

fn read(file: &dyn Parts, offset: u64, size: u64) -> Result<Vec<u8>, String> {
    bytes_at(file, offset, size).map_err(|error| format!("it could not be read: {error}"))
}

fn byte(bytes: &[u8], at: usize) -> Result<u8, String> {
    bytes.get(at).copied().ok_or_else(cut)
}

fn short(bytes: &[u8], at: usize) -> Result<usize, String> {
    Ok(usize::from(byte(bytes, at)?) << 8 | usize::from(byte(bytes, at + 1)?))
}

fn long(bytes: &[u8], at: usize) -> Result<u32, String> {
    let part = at
        .checked_add(4)
        .and_then(|end| bytes.get(at..end))
        .ok_or_else(cut)?;
    Ok(part.iter().fold(0, |sum, byte| sum << 8 | u32::from(*byte)))
}

/// A number of up to nine bytes, and what follows it.
fn varint(bytes: &[u8], at: usize) -> Result<(u64, usize), String> {
    let mut value: u64 = 0;
    for number in 0..9 {
        let byte = byte(bytes, at + number)?;
        if number == 8 {
            return Ok((value << 8 | u64::from(byte), at + 9));
        }
        value = value << 7 | u64::from(byte & 0x7f);
        if byte & 0x80 == 0 {
            return Ok((value, at + number + 1));
        }
    }
    Err(cut())
}
