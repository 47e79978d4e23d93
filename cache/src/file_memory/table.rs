//! The file of a memory and how it is searched.
//!
//! `files/v1/<hash of the context's path>` is read as a whole and searched in place, without building a map:
//!
//! ```text
//! "rbuild files 1\n\0", count: u64       numbers are little-endian
//! count records, sorted by path          path offset u64, path length u32, age u32,
//!                                        dev ino size u64, mtime ctime (i64 s, u32 ns), digest [32]
//! paths
//! blake3 of all that                     [32]
//! ```

use std::io::{self, Write};
use std::ops::Range;

use super::FileStat;
use crate::digest::ContentDigest;
use crate::layer::Timestamp;

const MAGIC: &[u8; 16] = b"rbuild files 1\n\0";
const HEADER: usize = 24;
const RECORD: usize = 96;
const CHECKSUM: usize = 32;

/// What the table knows of one file.
pub(super) struct Row<'a> {
    pub(super) path: &'a [u8],
    /// How often the memory was written since somebody asked for the file.
    pub(super) age: u32,
    pub(super) stat: FileStat,
    pub(super) digest: ContentDigest,
}

/// Writes the file of `count` rows, which `rows` gives as often as it is asked.
pub(super) fn encode<'a, I: Iterator<Item = Row<'a>>>(
    count: usize,
    rows: impl Fn() -> I,
    out: &mut impl Write,
) -> io::Result<()> {
    let mut bytes = Pieces {
        out,
        piece: Vec::new(),
        hasher: blake3::Hasher::new(),
    };
    bytes.put(MAGIC)?;
    bytes.put(&(count as u64).to_le_bytes())?;
    let mut offset = (HEADER + count * RECORD) as u64;
    for row in rows() {
        bytes.put(&offset.to_le_bytes())?;
        // Paths are those of the kernel: far below 4 GiB.
        bytes.put(&(row.path.len() as u32).to_le_bytes())?;
        bytes.put(&row.age.to_le_bytes())?;
        for number in [row.stat.dev, row.stat.ino, row.stat.size] {
            bytes.put(&number.to_le_bytes())?;
        }
        for time in [row.stat.mtime, row.stat.ctime] {
            bytes.put(&time.seconds.to_le_bytes())?;
            bytes.put(&time.nanoseconds.to_le_bytes())?;
        }
        bytes.put(&row.digest.0)?;
        offset += row.path.len() as u64;
    }
    for row in rows() {
        bytes.put(row.path)?;
    }
    bytes.write_out()?;
    let checksum = bytes.hasher.finalize();
    out.write_all(checksum.as_bytes())
}

/// Writes and hashes many small things in large pieces.
struct Pieces<'a, W> {
    out: &'a mut W,
    piece: Vec<u8>,
    hasher: blake3::Hasher,
}

impl<W: Write> Pieces<'_, W> {
    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        const PIECE: usize = 128 << 10;
        self.piece.extend_from_slice(bytes);
        if self.piece.len() < PIECE {
            return Ok(());
        }
        self.write_out()
    }

    fn write_out(&mut self) -> io::Result<()> {
        self.hasher.update(&self.piece);
        self.out.write_all(&self.piece)?;
        self.piece.clear();
        Ok(())
    }
}

/// The file in memory. Every access is checked: what does not fit is as if it were not there.
#[derive(Default)]
pub(super) struct Table {
    bytes: Vec<u8>,
    pub(super) count: usize,
}

impl Table {
    /// `None` if the file is damaged.
    pub(super) fn parse(bytes: Vec<u8>) -> Option<Self> {
        let (content, checksum) = bytes.split_at_checked(bytes.len().checked_sub(CHECKSUM)?)?;
        if !content.starts_with(MAGIC) || blake3::hash(content).as_bytes() != checksum {
            return None;
        }
        let count = usize::try_from(u64::from_le_bytes(array(content, MAGIC.len())?)).ok()?;
        (count.checked_mul(RECORD)?.checked_add(HEADER)? <= content.len()).then_some(Self { bytes, count })
    }

    /// The first record in `range` whose path is not before `path`.
    pub(super) fn first_from(&self, path: &[u8], range: Range<usize>) -> usize {
        let (mut low, mut high) = (range.start, range.end);
        while low < high {
            let middle = low + (high - low) / 2;
            if self.path(middle).is_some_and(|found| found < path) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }

    /// The record of `path`, which is looked for in `range`.
    pub(super) fn find(&self, path: &[u8], range: Range<usize>) -> Option<usize> {
        let end = range.end;
        let position = self.first_from(path, range);
        (position < end && self.path(position)? == path).then_some(position)
    }

    pub(super) fn path(&self, position: usize) -> Option<&[u8]> {
        let start = HEADER + position * RECORD;
        let offset = usize::try_from(u64::from_le_bytes(array(&self.bytes, start)?)).ok()?;
        let length = u32::from_le_bytes(array(&self.bytes, start + 8)?) as usize;
        self.bytes.get(offset..offset.checked_add(length)?)
    }

    pub(super) fn age(&self, position: usize) -> u32 {
        array(&self.bytes, HEADER + position * RECORD + 12).map_or(0, u32::from_le_bytes)
    }

    pub(super) fn record(&self, position: usize) -> Option<(FileStat, ContentDigest)> {
        let record = self.bytes.get(HEADER + position * RECORD..)?.get(..RECORD)?;
        let number = |at| array(record, at).map(u64::from_le_bytes);
        let time = |at| {
            let seconds = i64::from_le_bytes(array(record, at)?);
            Some(Timestamp {
                seconds,
                nanoseconds: u32::from_le_bytes(array(record, at + 8)?),
            })
        };
        let stat = FileStat {
            dev: number(16)?,
            ino: number(24)?,
            size: number(32)?,
            mtime: time(40)?,
            ctime: time(52)?,
        };
        Some((stat, ContentDigest(array(record, 64)?)))
    }
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}
