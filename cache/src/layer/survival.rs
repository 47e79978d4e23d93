//! May a tree be used that another process made, or one before the machine was last started?
//!
//! Blobs, indexes and records are verified whenever they are read, so they need no sync: what a
//! power loss spoilt is a miss. Nobody verifies a tree when overlayfs reads it, and syncing it when
//! it is made would cost more than most steps. So each tree has beside it, in `boot`, the id of the
//! boot that made it. In another boot its first reader looks at its files: journalling
//! file systems write the data of a file before they let its size grow, so files that are as long as
//! the index says are whole. A tree that is not whole, or has no index ([`Layer::seal`]), is removed;
//! it is made again from another form, or its step is run again.
//!
//! In the same boot a tree is looked at too, since somebody may have written to it: a small one by every process that
//! uses it, a large one once a day, because a step must not cost more on a larger image. The look sees what is missing, and
//! what has another size or was changed later; a bit that the disk itself lost it does not see. Readers of single files
//! compare digests ([`crate::View`]), and so does whoever makes a tar.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use rustix::fs::AtFlags;

use super::entry::{Entry, Kind};
use super::forms::Layer;
use super::index::{IndexEntry, LayerIndex};
use super::ownership::Ownership;
use crate::error::StoreError;
use crate::store::Store;

/// Trees with a larger index are looked at [`LARGE_TREES_EVERY`], as they have about a thousand files or more.
const SMALL_INDEX: u64 = 128 << 10;
const LARGE_TREES_EVERY: Duration = Duration::from_secs(24 * 60 * 60);

/// Id of the running boot; empty where the kernel does not tell, and then all trees are trusted.
pub(super) fn this_boot() -> &'static str {
    static BOOT: OnceLock<String> = OnceLock::new();
    BOOT.get_or_init(|| {
        let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        id.trim_end().to_owned()
    })
}

/// Says of the layer in `directory`, which has no mark yet, that its tree was made in this boot.
pub(super) fn mark_new(store: &Store, directory: &Path) -> Result<(), StoreError> {
    // One file of many names: a name costs a fraction of a file.
    let name = store.ownership().mark_name();
    let place = directory.join(name);
    let (scratch, _) = store.scratch_name()?;
    let common = scratch.path().join(name);
    if fs::hard_link(&common, &place).is_ok() {
        return Ok(());
    }
    fs::write(&place, this_boot()).map_err(|error| StoreError::io("writing", &place, error))?;
    // When that fails, every mark is a file of its own.
    let _ = fs::hard_link(&place, &common);
    Ok(())
}

impl Layer {
    /// Makes sure that a tree without another form can still be used after the machine was started again: its index
    /// is written. Call it inside the user namespace, when the build has time.
    pub fn seal(&self) -> Result<(), StoreError> {
        let record = self.record()?;
        let lone_tree = record.tar.is_none() && record.compressed.is_empty();
        if lone_tree && self.stored_index()?.is_none() {
            self.index()?;
        }
        Ok(())
    }

    /// Whether the tree is as it was made. One that is not is removed, where this process may do so.
    pub(super) fn is_tree_whole(&self, tree: &Path, ownership: Ownership) -> Result<bool, StoreError> {
        let mark = self.directory().join(ownership.mark_name());
        let trusted =
            this_boot().is_empty() || fs::read(&mark).is_ok_and(|boot| boot == this_boot().as_bytes());
        let inside = rustix::process::geteuid().is_root();
        if trusted && (!inside || !self.wants_a_look(&mark)) {
            return Ok(true);
        }
        let index = self.stored_index()?;
        if !inside {
            // Its files can only be looked at inside the user namespace, where its reader will do so.
            return Ok(index.is_some());
        }
        let failed = |error| StoreError::io("checking", tree, error);
        let whole = match index {
            Some(index) => difference(tree, &index, marked(&mark)).map_err(failed)?.is_none(),
            // A build that was killed has not come to write it.
            None => trusted,
        };
        if !whole {
            self.discard_tree(tree)?;
        } else if !trusted || self.is_large() {
            self.mark_tree(ownership)?;
        }
        Ok(whole)
    }

    /// Removes a tree that was found damaged.
    pub(crate) fn discard_tree(&self, tree: &Path) -> Result<(), StoreError> {
        let staged = self.store().temp_dir()?;
        match fs::rename(tree, staged.path().join("fs")) {
            // Another process was faster.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            moved => moved.map_err(|error| StoreError::io("removing", tree, error))?,
        }
        self.store().forget_trees();
        Ok(())
    }

    /// Whether the files of a tree of this boot are looked at before it is used.
    fn wants_a_look(&self, mark: &Path) -> bool {
        let old = |mark: SystemTime| mark.elapsed().is_ok_and(|age| age > LARGE_TREES_EVERY);
        !self.is_large() || marked(mark).is_none_or(old)
    }

    fn is_large(&self) -> bool {
        fs::metadata(self.directory().join("index")).is_ok_and(|index| index.len() > SMALL_INDEX)
    }

    /// Says that the tree was made, or found whole, in this boot.
    pub(super) fn mark_tree(&self, ownership: Ownership) -> Result<(), StoreError> {
        self.write_file(ownership.mark_name(), &|file| {
            file.write_all(this_boot().as_bytes())
        })
    }
}

/// When the tree was made or last found whole: nothing in it was changed later.
pub(super) fn marked(mark: &Path) -> Option<SystemTime> {
    fs::metadata(mark).and_then(|mark| mark.modified()).ok()
}

/// The first file of the tree that is not what the index says, as far as can be seen without reading it. A file whose time
/// is another one counts when it was changed after the tree was `marked`: not every file system keeps every time.
pub(super) fn difference(
    tree: &Path,
    index: &LayerIndex,
    marked: Option<SystemTime>,
) -> io::Result<Option<(Entry, &'static str)>> {
    let root = fs::File::open(tree)?;
    let marked = marked
        .and_then(|time| time.duration_since(SystemTime::UNIX_EPOCH).ok())
        .unwrap_or_default();
    for IndexEntry { entry, .. } in index.entries() {
        let differs = |why| Ok(Some((entry.clone(), why)));
        // Who has no right to make a device has left it out.
        if entry.kind.is_special() {
            continue;
        }
        let stat = match rustix::fs::statat(&root, entry.path.as_bytes(), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => return differs("is missing"),
            Err(errno) => return Err(errno.into()),
        };
        let Kind::File { size } = entry.kind else { continue };
        if u64::try_from(stat.st_size) != Ok(size) {
            return differs("has another size");
        }
        let same_time =
            (stat.st_mtime, stat.st_mtime_nsec) == (entry.mtime.seconds, entry.mtime.nanoseconds.into());
        let changed = Duration::new(
            u64::try_from(stat.st_ctime).unwrap_or(0),
            u32::try_from(stat.st_ctime_nsec).unwrap_or(0),
        );
        if !same_time && changed > marked {
            return differs("was changed");
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MARK: &str = "boot";

    /// A store with one layer that is only a tree, as an earlier boot left it.
    fn earlier_boot(sealed: bool) -> (tempfile::TempDir, Store, crate::LayerId) {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("store")).unwrap();
        let snapshot = store.begin_snapshot().unwrap();
        fs::write(snapshot.upper().join("file"), "bytes").unwrap();
        let id = snapshot.commit().unwrap();
        let layer = store.layer(&id).unwrap();
        assert!(layer.has_tree());
        if sealed {
            layer.seal().unwrap();
        }
        fs::write(layer.directory().join(MARK), "another boot").unwrap();
        (folder, opened_later(&store), id)
    }

    /// The store as another process sees it: what one process has seen of a tree it knows to its end.
    fn opened_later(store: &Store) -> Store {
        Store::open(store.root()).unwrap()
    }

    #[test]
    fn a_whole_tree_of_an_earlier_boot_is_used() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: trees are read by root or inside a user namespace");
            return;
        }
        let (_folder, store, id) = earlier_boot(true);
        assert!(store.layer_exists(&id));
        let layer = store.layer(&id).unwrap();
        assert!(layer.tree().is_ok());
        assert_eq!(
            fs::read(layer.directory().join(MARK)).unwrap(),
            this_boot().as_bytes()
        );
    }

    #[test]
    fn a_tree_that_lost_bytes_is_a_miss() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: trees are read by root or inside a user namespace");
            return;
        }
        for sealed in [true, false] {
            let (_folder, store, id) = earlier_boot(sealed);
            let file = store.root().join("layers").join(id.as_str()).join("fs/file");
            fs::File::options()
                .write(true)
                .open(file)
                .unwrap()
                .set_len(0)
                .unwrap();
            assert!(!store.layer_exists(&id), "sealed: {sealed}");
            assert!(!store.layer(&id).unwrap().directory().join("fs").exists());
        }
    }

    #[test]
    fn a_lost_tree_is_made_again_from_the_tar() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: trees are read by root or inside a user namespace");
            return;
        }
        let (_folder, store, id) = earlier_boot(true);
        let layer = store.layer(&id).unwrap();
        fs::write(layer.directory().join(MARK), this_boot()).unwrap();
        layer.tar().unwrap();
        fs::write(layer.directory().join(MARK), "another boot").unwrap();
        fs::write(layer.directory().join("fs/file"), "").unwrap();
        let tree = opened_later(&store).layer(&id).unwrap().tree().unwrap();
        assert_eq!(fs::read(tree.join("file")).unwrap(), b"bytes");
    }
}
