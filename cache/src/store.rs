//! The store directory: who may use it, where things lie in it, and how files in it are replaced.
//!
//! ```text
//! oci-layout, index.json, blobs/sha256/   an OCI image layout; index.json holds the tags
//! index.seen                              what was looked for in a long index.json, and found
//! layers/<id>/                            the forms of a layer (trees: fs, or fs.single where the disk knows one owner)
//! keys/v1/<key>, ops/v1/<op>              cache records, and which keys one operation has
//! files/v1/<hash>                         digests of local files
//! mounts/v1/<key>/                         directories that steps keep between builds
//! git/<key>                               clones of repositories
//! builds/v1/<name>, lists/v1/<digest>      what builds were given, for the question why a step is built again
//! evictions                               which records were removed, and by which rule
//! locks/<key>, index.lock, gc.lock, sessions/<n>   locks between processes
//! tmp/<random>/                           what is being written
//! ```
//!
//! Everything is written below `tmp/` and renamed, so a reader never sees half of anything, and a
//! killed process leaves only directories in `tmp/` whose lock nobody holds.
//!
//! **Power loss.** Only `index.json` is synced: its loss would lose all tags. A blob or record that loses
//! bytes is found out by its digest or checksum when it is read, and counts as missing from then on. That keeps
//! the sync, which takes longer than a whole step, off the path of every step.
//!
//! **Descriptors.** The subdirectories are held open from the start. Files are moved between them by descriptor, or
//! between two paths, and never from one to the other: after the process has moved to another mount
//! namespace, the two lie on different mounts.

use std::collections::HashSet;
use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};
use std::{fs, io};

use rustix::fs::OFlags;

use crate::blob::{BlobProvider, WrittenBlobs};
use crate::check::{LAYOUT, LAYOUT_TEXT};
use crate::digest::LayerId;
use crate::directory::{Directory, write_new};
use crate::error::StoreError;
use crate::layer::{Growth, Ownership, ParkedRoots};
use crate::session::{Gate, Session};
use crate::temporary::{TempDir, keep_apart};

/// A store: cheap to clone, shared between threads and, by locks, between processes.
#[derive(Clone)]
pub struct Store(pub(crate) Arc<Inner>);

/// The open directories of a store.
pub(crate) struct Inner {
    pub(crate) root: Directory,
    pub(crate) blobs: Directory,
    pub(crate) layers: Directory,
    pub(crate) keys: Directory,
    pub(crate) ops: Directory,
    pub(crate) files: Directory,
    pub(crate) locks: Directory,
    pub(crate) referrers: Directory,
    pub(crate) mounts: Directory,
    pub(crate) tmp: Arc<Directory>,
    pub(crate) sessions: Directory,
    pub(crate) session: Session,
    pub(crate) gate: Gate,
    scratch: Mutex<Option<Arc<TempDir>>>,
    scratch_names: AtomicU64,
    provider: RwLock<Option<Arc<dyn BlobProvider>>>,
    /// Who is told that something waits for another process.
    pub(crate) waiting: RwLock<Option<Arc<Tell>>>,
    /// A [`crate::layer::Ownership`].
    pub(crate) ownership: AtomicU8,
    growth: OnceLock<Growth>,
    /// Layers whose trees were found whole, by [`crate::layer::Ownership`].
    pub(crate) trees: Mutex<[HashSet<LayerId>; 2]>,
    /// Work directories of overlays that are unmounted, in the scratch directory.
    pub(crate) parked_work: Mutex<Vec<PathBuf>>,
    /// Copied roots that wait for the steps on top of them.
    pub(crate) parked_roots: ParkedRoots,
    pub(crate) written: WrittenBlobs,
}

/// Takes a line for the user.
pub(crate) type Tell = dyn Fn(&str) + Send + Sync;

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Store").field(&self.root()).finish()
    }
}

impl Store {
    /// Opens the store at `root`, which is created when there is none. What is used from now on is not pruned until the
    /// store is dropped.
    pub fn open(root: &Path) -> Result<Store, StoreError> {
        let root = open_root(root)?;
        check_access(&root)?;
        let versioned = |name: &str| root.ensure_child(name)?.ensure_child("v1");
        let gate = root
            .file("gc.lock", OFlags::RDWR | OFlags::CREATE)
            .map_err(|error| StoreError::io("opening", root.path_of("gc.lock"), error))?;
        let gate = Gate::new(gate, root.path_of("gc.lock"));
        let sessions = root.ensure_child("sessions")?;
        let session = Session::begin(&sessions)?;
        let tmp = root.ensure_child("tmp")?;
        keep_apart(&tmp);
        let store = Self(Arc::new(Inner {
            blobs: root.ensure_child("blobs")?.ensure_child("sha256")?,
            layers: root.ensure_child("layers")?,
            keys: versioned("keys")?,
            ops: versioned("ops")?,
            files: versioned("files")?,
            referrers: versioned("referrers")?,
            locks: root.ensure_child("locks")?,
            mounts: versioned("mounts")?,
            tmp: Arc::new(tmp),
            root,
            sessions,
            session,
            gate,
            scratch: Mutex::new(None),
            scratch_names: AtomicU64::new(0),
            provider: RwLock::new(None),
            waiting: RwLock::new(None),
            ownership: AtomicU8::new(Ownership::Real as u8),
            growth: OnceLock::new(),
            trees: Mutex::default(),
            parked_work: Mutex::default(),
            parked_roots: Mutex::default(),
            written: WrittenBlobs::default(),
        }));
        if store.0.root.stat(LAYOUT)?.is_none() {
            store.replace_file(&store.0.root, LAYOUT, LAYOUT_TEXT.as_bytes(), false)?;
        }
        Ok(store)
    }

    /// The directory, absolute and without symbolic links.
    pub fn root(&self) -> &Path {
        self.0.root.path()
    }

    /// Where missing blobs are fetched from.
    pub fn set_provider(&self, provider: Arc<dyn BlobProvider>) {
        *self.0.provider.write().unwrap_or_else(PoisonError::into_inner) = Some(provider);
    }

    /// The provider of missing blobs, if there is one.
    pub fn provider(&self) -> Option<Arc<dyn BlobProvider>> {
        self.0
            .provider
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Says, before anything is read, how large archives and layers may become when they are decompressed.
    pub fn set_growth(&self, growth: Growth) {
        // Whoever says it a second time has opened the store a second time.
        let _ = self.0.growth.set(growth);
    }

    /// How large archives and layers may become.
    pub fn growth(&self) -> Growth {
        self.0.growth.get().copied().unwrap_or_default()
    }

    /// Replaces the file `name` in `directory` by one with these bytes, in one step.
    pub(crate) fn replace_file(
        &self,
        directory: &Directory,
        name: &str,
        bytes: &[u8],
        sync: bool,
    ) -> Result<(), StoreError> {
        self.replace_file_by(directory, name, |file| file.write_all(bytes), sync)
    }

    /// The same with what `content` writes.
    pub(crate) fn replace_file_by(
        &self,
        directory: &Directory,
        name: &str,
        content: impl FnOnce(&mut File) -> io::Result<()>,
        sync: bool,
    ) -> Result<(), StoreError> {
        let (scratch, temporary) = self.scratch_name()?;
        write_new(scratch.directory(), &temporary, content, sync)?;
        scratch
            .directory()
            .rename(&temporary, directory, name)
            .inspect_err(|_| {
                let _ = scratch.directory().unlink(&temporary);
            })?;
        if sync { directory.sync() } else { Ok(()) }
    }

    /// As [`Store::replace_file`], for what may be lost with the power. The file that was there lies in the temporary directory
    /// until that goes: to put a file over another, ext4 writes it to the disk at once and removes the other one, which
    /// takes longer than all else.
    pub(crate) fn exchange_file(
        &self,
        directory: &Directory,
        name: &str,
        bytes: &[u8],
    ) -> Result<(), StoreError> {
        let (scratch, temporary) = self.scratch_name()?;
        write_new(
            scratch.directory(),
            &temporary,
            |file| file.write_all(bytes),
            false,
        )?;
        if scratch.directory().exchange(&temporary, directory, name) {
            return Ok(());
        }
        scratch
            .directory()
            .rename(&temporary, directory, name)
            .inspect_err(|_| {
                let _ = scratch.directory().unlink(&temporary);
            })
    }

    /// A file name that nobody else uses, in a temporary directory of this process.
    pub(crate) fn scratch_name(&self) -> Result<(Arc<TempDir>, String), StoreError> {
        let mut scratch = self.0.scratch.lock().unwrap_or_else(PoisonError::into_inner);
        let scratch = match &*scratch {
            Some(scratch) => Arc::clone(scratch),
            None => Arc::clone(scratch.insert(Arc::new(self.temp_dir()?))),
        };
        Ok((
            scratch,
            self.0.scratch_names.fetch_add(1, Ordering::Relaxed).to_string(),
        ))
    }
}

/// Opens `path`, creating it readable by its owner only.
fn open_root(path: &Path) -> Result<Directory, StoreError> {
    let refused = |reason: &str| StoreError::Refused {
        path: path.to_owned(),
        reason: reason.to_owned(),
    };
    let canonical = match fs::canonicalize(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let created = fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
            created.and_then(|()| fs::canonicalize(path))
        }
        other => other,
    };
    let opened = canonical.and_then(|path| Directory::open(&path));
    opened.map_err(|error| match error.kind() {
        io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists => {
            refused("it, or something above it, is not a directory; move that away or choose another place with --root")
        }
        _ => StoreError::io("opening the store", path, error),
    })
}

/// Whoever can write to the store decides what later builds contain, so nobody else may.
fn check_access(root: &Directory) -> Result<(), StoreError> {
    let stat = rustix::fs::fstat(root).map_err(|errno| StoreError::io("looking at", root.path(), errno))?;
    let refused = |reason| {
        Err(StoreError::Refused {
            path: root.path().to_owned(),
            reason,
        })
    };
    let me = rustix::process::geteuid().as_raw();
    if stat.st_uid != me {
        let owner = stat.st_uid;
        return refused(format!(
            "it belongs to user {owner} and this process runs as user {me}; choose another place with --root"
        ));
    }
    if stat.st_mode & 0o022 != 0 {
        let path = root.path().display();
        return refused(format!(
            "other users can write to it; if nobody did, run: chmod go-w {path}"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    #[test]
    fn opens_what_it_made() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a/b/store");
        let store = Store::open(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!(
            fs::read_to_string(path.join("oci-layout")).unwrap(),
            r#"{"imageLayoutVersion":"1.0.0"}"#
        );
        let digest = store.put_blob(b"x").unwrap();
        assert!(Store::open(&path).unwrap().has_blob(&digest));
        // The user may place the store behind a link.
        symlink(&path, directory.path().join("link")).unwrap();
        let linked = Store::open(&directory.path().join("link")).unwrap();
        assert_eq!(linked.root(), path.canonicalize().unwrap());
        let start = std::time::Instant::now();
        for _ in 0..100 {
            Store::open(&path).unwrap();
        }
        println!("opened in {:?}", start.elapsed() / 100);
    }

    #[test]
    fn refuses_what_others_can_change() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("store");
        fs::create_dir(&path).unwrap();
        for (mode, fine) in [
            (0o700, true),
            (0o755, true),
            (0o775, false),
            (0o1777, false),
            (0o702, false),
        ] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let opened = Store::open(&path);
            assert_eq!(opened.is_ok(), fine, "{mode:o}");
            if let Err(error) = opened {
                assert!(error.to_string().contains("chmod go-w"), "{error}");
            }
        }
        if rustix::process::geteuid().is_root() {
            let foreign = directory.path().join("foreign");
            fs::create_dir(&foreign).unwrap();
            std::os::unix::fs::chown(&foreign, Some(12345), None).unwrap();
            let error = Store::open(&foreign).unwrap_err().to_string();
            assert!(
                error.contains("belongs to user 12345") && error.contains("--root"),
                "{error}"
            );
        }
    }

    #[test]
    fn things_in_the_way_are_named() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        fs::write(&file, b"").unwrap();
        for path in [file.clone(), file.join("below")] {
            let error = Store::open(&path).unwrap_err().to_string();
            assert!(
                error.contains("is not a directory") && error.contains("file"),
                "{error}"
            );
        }
        // A link planted inside is not followed.
        for name in ["blobs", "tmp", "keys", "locks"] {
            let store = directory.path().join(format!("store-{name}"));
            let outside = directory.path().join(format!("outside-{name}"));
            fs::create_dir(&store).unwrap();
            fs::create_dir(&outside).unwrap();
            symlink(&outside, store.join(name)).unwrap();
            let error = Store::open(&store).unwrap_err().to_string();
            assert!(error.contains(name), "{error}");
            assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
        }
    }

    #[test]
    fn a_full_disk_is_an_error_and_leaves_the_old_file() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("store")).unwrap();
        store.replace_file(&store.0.files, "name", b"old", true).unwrap();
        // A directory cannot be replaced by a file, whoever asks.
        fs::create_dir(store.root().join("files/v1/directory")).unwrap();
        let error = store
            .replace_file(&store.0.files, "directory", b"new", false)
            .unwrap_err();
        assert!(error.to_string().contains("files/v1/directory"), "{error}");
        let (scratch, name) = store.scratch_name().unwrap();
        symlink("/dev/full", scratch.path().join(&name)).unwrap();
        assert!(write_new(scratch.directory(), &name, |file| file.write_all(b"new"), false).is_err());
        assert_eq!(fs::read(store.root().join("files/v1/name")).unwrap(), b"old");
    }
}
