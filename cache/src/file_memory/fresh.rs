//! Digests that this process found out and has not saved yet, and how they are merged with those of the file.

use std::iter::Peekable;
use std::slice;

use super::FileStat;
use super::table::{Row, Table};
use crate::digest::ContentDigest;
use crate::layer::LayerPath;

/// The rows that are not saved yet. A plain list, which takes half of what a map would: of a new
/// context with a million files all are here.
#[derive(Default)]
pub(super) struct Fresh {
    rows: Vec<FreshRow>,
    /// So many of them are sorted by path.
    sorted: usize,
}

struct FreshRow {
    path: LayerPath,
    stat: FileStat,
    digest: ContentDigest,
}

impl Fresh {
    /// Rows that are looked through one after the other before they are sorted in.
    const TAIL: usize = 64;

    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    pub(super) fn push(&mut self, path: &LayerPath, stat: &FileStat, digest: ContentDigest) {
        self.rows.push(FreshRow {
            path: path.clone(),
            stat: *stat,
            digest,
        });
    }

    /// The digest of the file at `path`, if it is known in the version `stat`.
    pub(super) fn digest(&mut self, path: &[u8], stat: &FileStat) -> Option<ContentDigest> {
        let found = self.get(path).filter(|row| row.stat == *stat);
        found.map(|row| row.digest)
    }

    /// Whether a file at `path` is known in any version.
    pub(super) fn has(&mut self, path: &[u8]) -> bool {
        self.get(path).is_some()
    }

    /// Puts the rows into the order of their paths, each path once.
    pub(super) fn sort(&mut self) {
        if self.sorted == self.rows.len() {
            return;
        }
        // Of what was found twice the later version stays.
        let key = |row: &FreshRow| (row.stat.ctime, row.stat.mtime);
        self.rows.sort_unstable_by(|a, b| {
            let order = a.path.as_bytes().cmp(b.path.as_bytes());
            order.then_with(|| key(b).cmp(&key(a)))
        });
        self.rows.dedup_by(|a, b| a.path == b.path);
        self.sorted = self.rows.len();
    }

    fn get(&mut self, path: &[u8]) -> Option<&FreshRow> {
        if self.rows.len() - self.sorted > Self::TAIL {
            self.sort();
        }
        let (sorted, tail) = self.rows.split_at(self.sorted);
        if let Some(row) = tail.iter().rev().find(|row| row.path.as_bytes() == path) {
            return Some(row);
        }
        let found = sorted.binary_search_by(|row| row.path.as_bytes().cmp(path));
        found.ok().map(|index| &sorted[index])
    }

    /// These rows and those at the positions `kept` of `known`, which have other paths, sorted. Call [`Fresh::sort`] before.
    pub(super) fn merged<'a>(&'a self, known: &'a Table, kept: &'a [(usize, u32)]) -> Merged<'a> {
        Merged {
            known,
            kept: kept.iter().peekable(),
            fresh: self.rows.iter().peekable(),
        }
    }
}

/// Old rows, with their new ages, and new ones, sorted by path.
pub(super) struct Merged<'a> {
    known: &'a Table,
    kept: Peekable<slice::Iter<'a, (usize, u32)>>,
    fresh: Peekable<slice::Iter<'a, FreshRow>>,
}

impl<'a> Iterator for Merged<'a> {
    type Item = Row<'a>;

    fn next(&mut self) -> Option<Row<'a>> {
        let known = self
            .kept
            .peek()
            .and_then(|(position, _)| self.known.path(*position));
        let fresh = self.fresh.peek().map(|row| row.path.as_bytes());
        if let Some(path) = known
            && fresh.is_none_or(|fresh| path < fresh)
        {
            let (position, age) = self.kept.next()?;
            let (stat, digest) = self.known.record(*position)?;
            let age = *age;
            return Some(Row {
                path,
                age,
                stat,
                digest,
            });
        }
        let row = self.fresh.next()?;
        Some(Row {
            path: row.path.as_bytes(),
            age: 0,
            stat: row.stat,
            digest: row.digest,
        })
    }
}
