//! A directory that a process writes into through overlayfs, and that then is a layer.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::forms::Layer;
use super::record::LayerRecord;
use super::survival::{MARK, this_boot};
use crate::digest::LayerId;
use crate::error::StoreError;
use crate::store::{Store, TempDir};

/// The upper and work directory of an overlay. Dropped without commit, it leaves nothing.
#[derive(Debug)]
pub struct Snapshot {
    store: Store,
    scratch: TempDir,
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
        let mut random = [0; 16];
        let mut filled = 0;
        while filled < random.len() {
            let flags = rustix::rand::GetRandomFlags::empty();
            filled += rustix::rand::getrandom(&mut random[filled..], flags)
                .map_err(|errno| StoreError::io("naming a layer in", self.store.root(), errno))?;
        }
        let layer = Layer::named(&self.store, LayerId::from_random(random));
        let Self { scratch, work, .. } = self;
        fs::remove_dir_all(&work).map_err(|error| StoreError::io("removing", &work, error))?;
        let record = LayerRecord::new(layer.id().clone()).to_bytes();
        for (name, bytes) in [("record.json", record.as_slice()), (MARK, this_boot().as_bytes())] {
            let path = scratch.path().join(name);
            fs::write(&path, bytes).map_err(|error| StoreError::io("writing", path, error))?;
        }
        // The temporary directory is the layer from now on.
        scratch.persist(&layer.directory())?;
        Ok(layer.id().clone())
    }
}

impl Store {
    /// An empty snapshot. Call it inside the user namespace.
    pub fn begin_snapshot(&self) -> Result<Snapshot, StoreError> {
        let scratch = self.temp_dir()?;
        let (upper, work) = (scratch.path().join("fs"), scratch.path().join("work"));
        for directory in [&upper, &work] {
            fs::create_dir(directory)
                // Whatever the umask and the parent say: this becomes the root of an image.
                .and_then(|()| fs::set_permissions(directory, fs::Permissions::from_mode(0o755)))
                .map_err(|error| StoreError::io("creating", directory, error))?;
        }
        Ok(Snapshot {
            store: self.clone(),
            scratch,
            upper,
            work,
        })
    }
}
