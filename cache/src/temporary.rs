//! Temporary directories of a store: each is locked as long as its process has it, which is what tells it from garbage.

use std::ffi::CString;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::{fs, io};

use rustix::fs::{FlockOperation, IFlags, ioctl_getflags, ioctl_setflags};
use rustix::io::Errno;

use crate::directory::{Directory, c_name, remove_tree};
use crate::error::StoreError;
use crate::store::Store;

/// A temporary directory of the store, removed with all that is in it when dropped. It lies on the file
/// system of the store, so that things in it can be renamed into place.
#[derive(Debug)]
pub struct TempDir {
    /// Locked: that is what tells the directory of a living process from garbage.
    directory: Directory,
    parent: Arc<Directory>,
    persisted: bool,
}

/// The temporary directories that this process has.
static LIVING: Mutex<Vec<(Arc<Directory>, CString)>> = Mutex::new(Vec::new());

/// Removes the temporary directories of all stores of this process, although they are in use: for a program that ends
/// before its threads do.
pub fn abandon_temporary() {
    let mut guard = living();
    let all = std::mem::take(&mut *guard);
    // Nobody makes another one until the end.
    std::mem::forget(guard);
    for (parent, name) in all {
        // A thread that still writes may put a file into a directory that has just been emptied.
        for _ in 0..100 {
            match remove_tree(rustix::fd::AsFd::as_fd(&*parent), &name) {
                Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {}
                _ => break,
            }
        }
    }
}

/// Asks the file system to keep what lies in different directories of `directory` apart. ext4 does not reuse inodes for a while after they
/// were removed and passes over each of them when it makes another one near by; so a build makes its own away from those that the
/// last builds removed.
pub(crate) fn keep_apart(directory: &Directory) {
    // A wish that not every file system knows.
    if let Ok(flags) = ioctl_getflags(directory)
        && !flags.contains(IFlags::TOPDIR)
    {
        let _ = ioctl_setflags(directory, flags | IFlags::TOPDIR);
    }
}

fn living() -> MutexGuard<'static, Vec<(Arc<Directory>, CString)>> {
    LIVING.lock().unwrap_or_else(PoisonError::into_inner)
}

impl TempDir {
    fn new(parent: Arc<Directory>) -> Result<Self, StoreError> {
        let mut living = living();
        loop {
            let name = temporary_name(&parent)?;
            match rustix::fs::mkdirat(&*parent, name.as_str(), rustix::fs::Mode::from_raw_mode(0o700)) {
                Ok(()) => {}
                Err(Errno::EXIST) => continue,
                Err(errno) => return Err(StoreError::io("creating", parent.path_of(&name), errno)),
            }
            if let Some(directory) = hold(&parent, &name)? {
                return Ok(Self::held(parent, directory, &mut living));
            }
        }
    }

    fn held(
        parent: Arc<Directory>,
        directory: Directory,
        living: &mut Vec<(Arc<Directory>, CString)>,
    ) -> Self {
        if let Ok(name) = c_name(directory.path()) {
            living.push((Arc::clone(&parent), name));
        }
        Self {
            directory,
            parent,
            persisted: false,
        }
    }

    /// Moves the directory `from` here.
    fn adopt(parent: Arc<Directory>, from: &Path) -> Result<Self, StoreError> {
        let name = temporary_name(&parent)?;
        let fail = |error: io::Error| StoreError::io("renaming", from, error);
        fs::set_permissions(from, fs::Permissions::from_mode(0o700)).map_err(fail)?;
        let flags = rustix::fs::RenameFlags::NOREPLACE;
        let (cwd, place) = (rustix::fs::CWD, parent.path_of(&name));
        rustix::fs::renameat_with(cwd, from, cwd, &place, flags).map_err(|errno| fail(errno.into()))?;
        match hold(&parent, &name)? {
            Some(directory) => Ok(Self::held(parent, directory, &mut living())),
            None => Err(fail(io::ErrorKind::NotFound.into())),
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Renames the directory itself to `to`, which must be inside the store and not exist (or be an empty directory).
    pub fn persist(mut self, to: &Path) -> Result<(), StoreError> {
        fs::rename(self.path(), to).map_err(|error| StoreError::io("renaming into place", to, error))?;
        self.persisted = true;
        Ok(())
    }

    pub(crate) fn directory(&self) -> &Directory {
        &self.directory
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let Ok(name) = c_name(self.directory.path()) else {
            return;
        };
        if !self.persisted {
            // What remains is swept later: the lock goes with the descriptor.
            let _ = remove_tree(rustix::fd::AsFd::as_fd(&*self.parent), &name);
        }
        // Only now: an end that comes in between goes on with the removal.
        living().retain(|(parent, living)| *living != name || !Arc::ptr_eq(parent, &self.parent));
    }
}

fn temporary_name(parent: &Directory) -> Result<String, StoreError> {
    Ok(format!("{:016x}", u64::from_le_bytes(random(parent)?)))
}

/// Opens and locks the new directory `name`; `None` when a sweep that came between has taken it.
fn hold(parent: &Directory, name: &str) -> Result<Option<Directory>, StoreError> {
    let directory = match parent.child(name) {
        Ok(directory) => directory,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(StoreError::io("opening", parent.path_of(name), error)),
    };
    match rustix::fs::flock(&directory, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK | Errno::INTR) => return Ok(None),
        Err(errno) => return Err(StoreError::io("locking", directory.path(), errno)),
    }
    let there = rustix::fs::fstat(&directory).is_ok_and(|stat| stat.st_nlink > 0);
    Ok(there.then_some(directory))
}

impl Store {
    /// A new directory below `tmp/` that nobody sweeps while it is held.
    pub fn temp_dir(&self) -> Result<TempDir, StoreError> {
        TempDir::new(Arc::clone(&self.0.tmp))
    }

    /// As [`Store::temp_dir`], of the directory `from` of the store.
    pub(crate) fn adopt_temp_dir(&self, from: &Path) -> Result<TempDir, StoreError> {
        TempDir::adopt(Arc::clone(&self.0.tmp), from)
    }

    /// Removes what killed processes left in `tmp/`. Call it inside the user namespace. What cannot be
    /// removed stays for the next time: garbage is no reason to fail a build.
    pub fn sweep_temporary(&self) -> Result<(), StoreError> {
        let tmp = &self.0.tmp;
        for name in tmp.text_names()? {
            let Ok(directory) = tmp.child(&name) else {
                let _ = tmp.unlink(&name);
                continue;
            };
            if rustix::fs::flock(&directory, FlockOperation::NonBlockingLockExclusive).is_ok()
                && let Ok(name) = c_name(directory.path())
            {
                // The lock is held until everything is gone: whoever has just made the directory sees that afterwards.
                let _ = remove_tree(rustix::fd::AsFd::as_fd(&**tmp), &name);
            }
        }
        Ok(())
    }
}

pub(crate) fn random<const N: usize>(parent: &Directory) -> Result<[u8; N], StoreError> {
    let mut bytes = [0; N];
    let mut filled = 0;
    while filled < N {
        match rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty()) {
            Ok(count) => filled += count,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(StoreError::io("naming a file in", parent.path(), errno)),
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::*;

    #[test]
    fn garbage_is_swept_and_what_is_held_stays() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("store")).unwrap();
        let held = store.temp_dir().unwrap();
        fs::write(held.path().join("file"), b"x").unwrap();
        let mut writer = store.blob_writer().unwrap();
        let garbage = store.root().join("tmp/0123456789abcdef");
        fs::create_dir_all(garbage.join("work/work")).unwrap();
        fs::set_permissions(garbage.join("work/work"), fs::Permissions::from_mode(0o000)).unwrap();
        fs::write(store.root().join("tmp/file"), b"x").unwrap();
        store.sweep_temporary().unwrap();
        Store::open(store.root()).unwrap().sweep_temporary().unwrap();
        assert!(!garbage.exists() && !store.root().join("tmp/file").exists());
        io::Write::write_all(&mut writer, b"x").unwrap();
        writer.commit(None).unwrap();

        let path = held.path().to_owned();
        assert!(path.join("file").exists());
        held.persist(&store.root().join("layers/x")).unwrap();
        assert!(!path.exists() && store.root().join("layers/x/file").exists());
        let dropped = store.temp_dir().unwrap();
        let path = dropped.path().to_owned();
        drop(dropped);
        assert!(!path.exists());
        drop(store);
        assert_eq!(
            fs::read_dir(directory.path().join("store/tmp")).unwrap().count(),
            0
        );
    }

    #[test]
    fn sweeps_and_new_directories_do_not_meet() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("store")).unwrap();
        let done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    store.sweep_temporary().unwrap();
                }
            });
            for _ in 0..300 {
                let temporary = store.temp_dir().unwrap();
                fs::write(temporary.path().join("x"), b"x").unwrap();
                assert!(temporary.path().join("x").exists());
            }
            done.store(true, Ordering::Relaxed);
        });
    }
}
