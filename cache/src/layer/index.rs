//! The index of a layer: all its entries, sorted, and where the bytes of its files lie.

use super::entry::{Entry, LayerPath};
use crate::digest::ContentDigest;

/// One entry, and where its bytes are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexEntry {
    /// The entry.
    pub entry: Entry,
    /// Offset of the bytes of a regular file in the uncompressed tar of the layer, when a tar was seen.
    pub data_offset: Option<u64>,
    /// Digest of the bytes of a regular file, when they were hashed.
    pub digest: Option<ContentDigest>,
}

/// The entries of a layer, sorted by path, each path once, every parent directory present.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LayerIndex {
    entries: Vec<IndexEntry>,
}

impl LayerIndex {
    /// All entries, sorted by path.
    pub fn entries(&self) -> &[IndexEntry] {
        &self.entries
    }

    /// The entry at `path`; the root has none.
    pub fn get(&self, path: &LayerPath) -> Option<&IndexEntry> {
        let position = self.entries.binary_search_by(|e| e.entry.path.cmp(path)).ok()?;
        Some(&self.entries[position])
    }
}
