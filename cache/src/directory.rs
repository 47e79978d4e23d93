//! One directory of the store, held open. Names are single components looked up in the descriptor and never through a
//! symbolic link, so nothing that somebody plants in the store leads out of it.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags, RenameFlags, Stat};
use rustix::io::Errno;

use crate::error::StoreError;

/// A directory and, for messages and for those who need a path, where it is.
#[derive(Debug)]
pub(crate) struct Directory {
    fd: OwnedFd,
    path: PathBuf,
}

const OPEN_DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

impl Directory {
    /// Opens `path`, following symbolic links: only for the root, whose place the user chooses.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        Ok(Self {
            fd: rustix::fs::open(path, OPEN_DIRECTORY, Mode::empty())?,
            path: path.to_owned(),
        })
    }

    /// Opens the directory `name` in this one.
    pub(crate) fn child(&self, name: &str) -> io::Result<Self> {
        let fd = rustix::fs::openat(&self.fd, name, OPEN_DIRECTORY | OFlags::NOFOLLOW, Mode::empty())?;
        Ok(Self {
            fd,
            path: self.path_of(name),
        })
    }

    /// Opens the directory `name`, which is made when there is none.
    pub(crate) fn ensure_child(&self, name: &str) -> Result<Self, StoreError> {
        let opened = match self.child(name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                match rustix::fs::mkdirat(&self.fd, name, Mode::from_raw_mode(0o755)) {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(errno) => return Err(StoreError::io("creating", self.path_of(name), errno)),
                }
                self.child(name)
            }
            other => other,
        };
        opened.map_err(|error| match Errno::from_io_error(&error) {
            Some(Errno::NOTDIR | Errno::LOOP) => StoreError::Refused {
                path: self.path.clone(),
                reason: format!("{name} in it is not a directory; move it away"),
            },
            _ => StoreError::io("opening", self.path_of(name), error),
        })
    }

    /// Opens the file `name` for reading; `None` when there is none.
    pub(crate) fn open_file(&self, name: &str) -> Result<Option<File>, StoreError> {
        // Non-blocking, so that a planted FIFO does not make us wait for its writer.
        match self.file(name, OFlags::RDONLY | OFlags::NONBLOCK) {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(StoreError::io("opening", self.path_of(name), error)),
        }
    }

    /// Opens the file `name` with `flags`; new files are readable by all who may enter the store.
    pub(crate) fn file(&self, name: &str, flags: OFlags) -> io::Result<File> {
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(File::from(rustix::fs::openat(
            &self.fd,
            name,
            flags,
            Mode::from_raw_mode(0o644),
        )?))
    }

    /// What `name` is, not following it; `None` when there is nothing.
    pub(crate) fn stat(&self, name: &str) -> Result<Option<Stat>, StoreError> {
        match rustix::fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(StoreError::io("looking at", self.path_of(name), errno)),
        }
    }

    /// Removes the file `name`; that there is none is fine.
    pub(crate) fn unlink(&self, name: &str) -> Result<(), StoreError> {
        match rustix::fs::unlinkat(&self.fd, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(StoreError::io("removing", self.path_of(name), errno)),
        }
    }

    /// Moves `name` to `target` in `directory`, replacing a file there.
    pub(crate) fn rename(&self, name: &str, directory: &Directory, target: &str) -> Result<(), StoreError> {
        rustix::fs::renameat(&self.fd, name, &directory.fd, target)
            .map_err(|errno| StoreError::io("renaming into place", directory.path_of(target), errno))
    }

    /// Lets `name` and `target` in `directory` change places. Not every file system can, and `target` may be gone.
    pub(crate) fn exchange(&self, name: &str, directory: &Directory, target: &str) -> bool {
        rustix::fs::renameat_with(&self.fd, name, &directory.fd, target, RenameFlags::EXCHANGE).is_ok()
    }

    /// Makes renames in this directory survive a power loss.
    pub(crate) fn sync(&self) -> Result<(), StoreError> {
        rustix::fs::fsync(&self.fd).map_err(|errno| StoreError::io("syncing", &self.path, errno))
    }

    /// The names in it, in no order, without `.` and `..`.
    pub(crate) fn names(&self) -> Result<Vec<CString>, StoreError> {
        names(self.fd.as_fd()).map_err(|error| StoreError::io("listing", &self.path, error))
    }

    /// The names in it that are text.
    pub(crate) fn text_names(&self) -> Result<Vec<String>, StoreError> {
        Ok(self
            .names()?
            .into_iter()
            .filter_map(|name| name.into_string().ok())
            .collect())
    }

    /// Where `name` lies.
    pub(crate) fn path_of(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl AsFd for Directory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Writes `content` to the new file `name` in `directory`, all or nothing.
pub(crate) fn write_new(
    directory: &Directory,
    name: &str,
    content: impl FnOnce(&mut File) -> io::Result<()>,
    sync: bool,
) -> Result<(), StoreError> {
    let write = || -> io::Result<()> {
        let mut file = directory.file(name, OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL)?;
        content(&mut file)?;
        if sync { file.sync_all() } else { Ok(()) }
    };
    write().map_err(|error| {
        let _ = directory.unlink(name);
        StoreError::io("writing", directory.path_of(name), error)
    })
}

fn names(fd: BorrowedFd<'_>) -> io::Result<Vec<CString>> {
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(fd)? {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            names.push(entry.file_name().to_owned());
        }
    }
    Ok(names)
}

/// Deeper directories are moved up before they are emptied, so that neither descriptors nor memory grow with the depth.
const MAX_OPEN: usize = 64;

struct Level {
    fd: OwnedFd,
    name: CString,
    names: Vec<CString>,
}

/// Removes `name` in `parent` and all below it, and returns how many bytes of disk that gave back. Symbolic links are
/// removed, not followed, whatever somebody does to the tree at the same time; directories that forbid it are opened up first.
pub(crate) fn remove_tree(parent: BorrowedFd<'_>, name: &std::ffi::CStr) -> io::Result<u64> {
    let mut freed = 0;
    let mut moved = 0_u64;
    let mut retries = 0;
    let mut levels: Vec<Level> = Vec::new();
    if let Some(level) = remove_or_enter(parent, name.to_owned(), &mut freed)? {
        levels.push(level);
    }
    while let Some(level) = levels.last_mut() {
        let Some(name) = level.names.pop() else {
            let Some(done) = levels.pop() else { break };
            let above = levels.last().map_or(parent, |level| level.fd.as_fd());
            let blocks = rustix::fs::fstat(&done.fd)?.st_blocks;
            match rustix::fs::unlinkat(above, &done.name, AtFlags::REMOVEDIR) {
                Ok(()) => freed += disk_bytes(blocks),
                Err(Errno::NOENT) => {}
                Err(Errno::NOTEMPTY | Errno::EXIST) if retries < 100 => {
                    // Somebody put something into it meanwhile.
                    retries += 1;
                    let names = names(done.fd.as_fd())?;
                    levels.push(Level { names, ..done });
                }
                Err(errno) => return Err(errno.into()),
            }
            continue;
        };
        let depth = levels.len();
        if depth < MAX_OPEN {
            let fd = levels[depth - 1].fd.as_fd();
            if let Some(level) = remove_or_enter(fd, name, &mut freed)? {
                levels.push(level);
            }
            continue;
        }
        let (top, deep) = levels.split_at_mut(1);
        let Some(deep) = deep.last() else { continue };
        if !is_directory(deep.fd.as_fd(), &name)? {
            remove_or_enter(deep.fd.as_fd(), name, &mut freed)?;
            continue;
        }
        loop {
            moved += 1;
            let target = CString::new(format!(".moved-{moved}"))?;
            let flags = rustix::fs::RenameFlags::NOREPLACE;
            match rustix::fs::renameat_with(&deep.fd, &name, &top[0].fd, &target, flags) {
                Ok(()) => {
                    top[0].names.push(target);
                    break;
                }
                Err(Errno::EXIST) => {}
                Err(Errno::NOENT) => break,
                Err(Errno::ACCESS | Errno::PERM) if open_up(deep.fd.as_fd(), &name).is_ok() => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }
    Ok(freed)
}

/// Removes `name`, or opens it when it is a directory.
fn remove_or_enter(parent: BorrowedFd<'_>, name: CString, freed: &mut u64) -> io::Result<Option<Level>> {
    let stat = match rustix::fs::statat(parent, &name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => stat,
        Err(Errno::NOENT) => return Ok(None),
        Err(errno) => return Err(errno.into()),
    };
    if rustix::fs::FileType::from_raw_mode(stat.st_mode) != rustix::fs::FileType::Directory {
        match rustix::fs::unlinkat(parent, &name, AtFlags::empty()) {
            Ok(()) if stat.st_nlink == 1 => *freed += disk_bytes(stat.st_blocks),
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno.into()),
        }
        return Ok(None);
    }
    if stat.st_mode & 0o700 != 0o700 {
        // Fails for another's directory; root may enter it all the same.
        let _ = open_up(parent, &name);
    }
    let fd = rustix::fs::openat(parent, &name, OPEN_DIRECTORY | OFlags::NOFOLLOW, Mode::empty())?;
    let names = names(fd.as_fd())?;
    Ok(Some(Level { fd, name, names }))
}

fn is_directory(parent: BorrowedFd<'_>, name: &CString) -> io::Result<bool> {
    match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::Directory),
        Err(Errno::NOENT) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

/// Gives the owner all rights to the directory `name`. Through a descriptor, since `fchmodat` follows links.
fn open_up(parent: BorrowedFd<'_>, name: &CString) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(parent, name, flags, Mode::empty())?;
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    Ok(rustix::fs::chmod(path, Mode::from_raw_mode(0o700))?)
}

/// Bytes of disk that `name` in `parent` and all below it takes; a file with several names counts once per `seen`.
pub(crate) fn disk_usage(
    parent: BorrowedFd<'_>,
    name: &std::ffi::CStr,
    seen: &mut std::collections::HashSet<(u64, u64)>,
) -> io::Result<u64> {
    let stat = match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => stat,
        Err(Errno::NOENT) => return Ok(0),
        Err(errno) => return Err(errno.into()),
    };
    let mut bytes = disk_bytes(stat.st_blocks);
    if rustix::fs::FileType::from_raw_mode(stat.st_mode) != rustix::fs::FileType::Directory {
        return Ok(if stat.st_nlink > 1 && !seen.insert((stat.st_dev, stat.st_ino)) {
            0
        } else {
            bytes
        });
    }
    // A tree as deep as this is nobody's layer: its lower part is not worth a descriptor each.
    let mut stack = vec![(
        rustix::fs::openat(parent, name, OPEN_DIRECTORY | OFlags::NOFOLLOW, Mode::empty()),
        0,
    )];
    while let Some((opened, depth)) = stack.pop() {
        let fd = match opened {
            Ok(fd) => fd,
            Err(Errno::ACCESS | Errno::NOENT) => continue,
            Err(errno) => return Err(errno.into()),
        };
        for name in names(fd.as_fd())? {
            let Ok(stat) = rustix::fs::statat(&fd, &name, AtFlags::SYMLINK_NOFOLLOW) else {
                continue;
            };
            let directory =
                rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::Directory;
            if directory || stat.st_nlink == 1 || seen.insert((stat.st_dev, stat.st_ino)) {
                bytes += disk_bytes(stat.st_blocks);
            }
            if directory && depth < MAX_OPEN {
                let child = rustix::fs::openat(&fd, &name, OPEN_DIRECTORY | OFlags::NOFOLLOW, Mode::empty());
                stack.push((child, depth + 1));
            }
        }
    }
    Ok(bytes)
}

/// `stat` counts blocks of 512 bytes, whatever the file system's are.
pub(crate) fn disk_bytes(blocks: i64) -> u64 {
    u64::try_from(blocks).unwrap_or(0).saturating_mul(512)
}

/// The file name `path` ends in, for system calls.
pub(crate) fn c_name(path: &Path) -> io::Result<CString> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    Ok(CString::new(name.as_bytes())?)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn remove(directory: &Path, name: &str) -> io::Result<u64> {
        let parent = Directory::open(directory)?;
        remove_tree(parent.as_fd(), &CString::new(name)?)
    }

    #[test]
    fn whole_trees_go_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let outside = directory.path().join("outside");
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("precious"), b"x").unwrap();
        let tree = directory.path().join("tree");
        fs::create_dir_all(tree.join("a/b/c")).unwrap();
        fs::write(tree.join("a/file"), [1; 10_000]).unwrap();
        fs::hard_link(outside.join("precious"), tree.join("a/hard")).unwrap();
        symlink(&outside, tree.join("a/b/link")).unwrap();
        symlink("..", tree.join("up")).unwrap();
        for closed in ["a/b/c", "a/b"] {
            fs::set_permissions(tree.join(closed), fs::Permissions::from_mode(0o000)).unwrap();
        }
        let mut seen = std::collections::HashSet::new();
        let parent = Directory::open(directory.path()).unwrap();
        assert!(disk_usage(parent.as_fd(), c"tree", &mut seen).unwrap() >= 10_000);
        assert!(remove(directory.path(), "tree").unwrap() >= 10_000);
        assert!(!tree.exists());
        assert_eq!(fs::read(outside.join("precious")).unwrap(), b"x");
        assert_eq!(remove(directory.path(), "tree").unwrap(), 0);
        symlink(&outside, directory.path().join("link")).unwrap();
        remove(directory.path(), "link").unwrap();
        assert!(outside.join("precious").exists());
    }

    #[test]
    fn depth_costs_no_descriptors() {
        let directory = tempfile::tempdir().unwrap();
        let top = Directory::open(directory.path()).unwrap();
        top.ensure_child("tree").unwrap();
        let mut inner = top.child("tree").unwrap();
        for level in 0..1500 {
            fs::write(
                format!(
                    "/proc/self/fd/{}/file",
                    std::os::fd::AsRawFd::as_raw_fd(&inner.fd)
                ),
                b"x",
            )
            .unwrap();
            rustix::fs::mkdirat(&inner.fd, "sub", Mode::from_raw_mode(0o755)).unwrap();
            inner = inner
                .child("sub")
                .unwrap_or_else(|error| panic!("{level}: {error}"));
            inner.path = PathBuf::new();
        }
        remove(directory.path(), "tree").unwrap();
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_tree_that_is_swapped_meanwhile_leads_nowhere() {
        let directory = tempfile::tempdir().unwrap();
        let outside = directory.path().join("outside");
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("precious"), b"x").unwrap();
        let done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let swapped = directory.path().join("tree/swapped");
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    let _ = fs::create_dir_all(&swapped);
                    let _ = fs::remove_dir(&swapped);
                    let _ = symlink(&outside, &swapped);
                    let _ = fs::remove_file(&swapped);
                }
            });
            for _ in 0..500 {
                let _ = remove(directory.path(), "tree");
            }
            done.store(true, std::sync::atomic::Ordering::Relaxed);
        });
        assert!(outside.join("precious").exists());
    }
}
