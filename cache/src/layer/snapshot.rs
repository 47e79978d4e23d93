//! A directory that a process writes into through overlayfs, and that then is a layer.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::PoisonError;

use super::forms::Layer;
use super::record::LayerRecord;
use super::survival::mark_new;
use crate::digest::LayerId;
use crate::error::StoreError;
use crate::store::Store;
use crate::temporary::TempDir;

/// The upper and work directory of an overlay. Dropped without commit, it leaves nothing.
#[derive(Debug)]
pub struct Snapshot {
    store: Store,
    scratch: TempDir,
    upper: PathBuf,
    work: PathBuf,
}

impl Snapshot {
    fn at(store: &Store, scratch: TempDir) -> Self {
        Self {
            store: store.clone(),
            upper: scratch.path().join(store.ownership().tree_name()),
            work: scratch.path().join("work"),
            scratch,
        }
    }

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
        self.store.park_work(&work)?;
        let record = scratch.path().join("record.json");
        // Not truncated, for it is new or empty: ext4 writes a file that was truncated to the disk as soon as it is closed.
        fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(&record)
            .and_then(|mut file| file.write_all(&LayerRecord::new(layer.id().clone()).to_bytes()))
            .map_err(|error| StoreError::io("writing", &record, error))?;
        mark_new(&self.store, scratch.path())?;
        // The temporary directory is the layer from now on.
        scratch.persist(&layer.directory())?;
        self.store.remember_tree(layer.id(), self.store.ownership());
        Ok(layer.id().clone())
    }
}

impl Store {
    /// An empty snapshot. Call it inside the user namespace.
    pub fn begin_snapshot(&self) -> Result<Snapshot, StoreError> {
        let parked = self
            .0
            .parked_work
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop();
        if let Some(work) = parked
            && let Ok(snapshot) = self.recycle(&work)
        {
            return Ok(snapshot);
        }
        let snapshot = Snapshot::at(self, self.temp_dir()?);
        for directory in [&snapshot.upper, &snapshot.work] {
            fs::create_dir(directory)
                .and_then(|()| open_to_all(directory))
                .map_err(|error| StoreError::io("creating", directory, error))?;
        }
        Ok(snapshot)
    }

    /// Takes the work directory of a finished overlay aside.
    fn park_work(&self, work: &Path) -> Result<(), StoreError> {
        let (scratch, name) = self.scratch_name()?;
        let place = scratch.path().join(name);
        fs::rename(work, &place).map_err(|error| StoreError::io("renaming", work, error))?;
        let mut parked = self.0.parked_work.lock().unwrap_or_else(PoisonError::into_inner);
        parked.push(place);
        Ok(())
    }

    /// A snapshot of what overlayfs left in `work`: `work/incompat/volatile/dirty`, two empty directories and an
    /// empty file. Making inodes right after removing others is what ext4 is slowest at, and every step
    /// would do it four times. What cannot be used stays in the scratch directory and goes with it.
    fn recycle(&self, work: &Path) -> Result<Snapshot, StoreError> {
        let fail = |error| StoreError::io("using again", work, error);
        let snapshot = Snapshot::at(self, self.adopt_temp_dir(&work.join("work/incompat"))?);
        let record = snapshot.scratch.path().join("record.json");
        let moves = || -> io::Result<()> {
            fs::rename(snapshot.scratch.path().join("volatile"), &snapshot.upper)?;
            fs::rename(snapshot.upper.join("dirty"), &record)?;
            fs::set_permissions(&record, fs::Permissions::from_mode(0o644))?;
            open_to_all(&snapshot.upper)?;
            fs::rename(work, &snapshot.work)
        };
        moves().map_err(fail)?;
        Ok(snapshot)
    }
}

/// Whatever the umask and the parent say: this becomes the root of an image.
fn open_to_all(directory: &Path) -> io::Result<()> {
    fs::set_permissions(directory, fs::Permissions::from_mode(0o755))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a volatile overlay leaves in its work directory.
    fn leave_as_overlay(work: &Path) {
        fs::create_dir_all(work.join("work/incompat/volatile")).unwrap();
        fs::write(work.join("work/incompat/volatile/dirty"), "").unwrap();
        for path in [
            "work/incompat/volatile/dirty",
            "work/incompat/volatile",
            "work/incompat",
        ] {
            fs::set_permissions(work.join(path), fs::Permissions::from_mode(0o000)).unwrap();
        }
    }

    #[test]
    fn what_an_overlay_leaves_is_used_again() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: snapshots are made by root or inside a user namespace");
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("store")).unwrap();
        let mut before = None;
        for step in 0..5 {
            let snapshot = store.begin_snapshot().unwrap();
            assert_eq!(fs::read_dir(snapshot.upper()).unwrap().count(), 0);
            let mode = snapshot.upper().metadata().unwrap().permissions().mode();
            assert_eq!(mode & 0o7777, 0o755);
            let inode = |path: &Path| std::os::unix::fs::MetadataExt::ino(&path.metadata().unwrap());
            if let Some(before) = before {
                assert_eq!(inode(snapshot.upper()), before);
            }
            // A step that was not run leaves nothing to use again.
            before = (step != 2).then(|| {
                leave_as_overlay(snapshot.work());
                inode(&snapshot.work().join("work/incompat/volatile"))
            });
            fs::write(snapshot.upper().join("file"), [step]).unwrap();
            let id = snapshot.commit().unwrap();
            let directory = store.layer(&id).unwrap().directory();
            let mut names: Vec<_> = fs::read_dir(&directory)
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect();
            names.sort();
            assert_eq!(names, ["boot", "fs", "record.json"]);
            assert_eq!(
                fs::read(store.layer(&id).unwrap().tree().unwrap().join("file")).unwrap(),
                [step]
            );
            assert_eq!(store.layer(&id).unwrap().record().unwrap(), LayerRecord::new(id));
        }
        drop(store);
        assert_eq!(fs::read_dir(folder.path().join("store/tmp")).unwrap().count(), 0);
    }
}
