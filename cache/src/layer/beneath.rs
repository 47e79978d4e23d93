//! Paths in the trees of images, walked by descriptor: whatever symbolic links a tree holds, nothing
//! outside it is reached.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::entry::LayerPath;

/// Cleared when the kernel, or a seccomp filter above us, has no openat2.
static HAS_OPENAT2: AtomicBool = AtomicBool::new(true);

/// Opens `path` below `root`; a symbolic link anywhere in it is an error.
pub(super) fn open_beneath(root: BorrowedFd<'_>, path: &LayerPath, flags: OFlags) -> io::Result<OwnedFd> {
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let bytes: &[u8] = if path.is_root() { b"." } else { path.as_bytes() };
    if HAS_OPENAT2.load(Ordering::Relaxed) {
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        match rustix::fs::openat2(root, bytes, flags, Mode::empty(), resolve) {
            Err(Errno::NOSYS | Errno::PERM) => HAS_OPENAT2.store(false, Ordering::Relaxed),
            // A rename elsewhere may make the kernel give up; going by components does not.
            Err(Errno::AGAIN) => {}
            result => return Ok(result?),
        }
    }
    let parent = match path.parent() {
        Some(parent) => open_directory(root, &parent)?,
        None => return Ok(rustix::fs::openat(root, ".", flags, Mode::empty())?),
    };
    Ok(rustix::fs::openat(parent, path.name(), flags, Mode::empty())?)
}

/// Opens a regular file of a tree; never waits, whatever lies there.
pub(crate) fn open_file(root: &File, path: &LayerPath) -> io::Result<File> {
    let file = File::from(open_beneath(
        root.as_fd(),
        path,
        OFlags::RDONLY | OFlags::NONBLOCK,
    )?);
    if file.metadata()?.is_file() {
        return Ok(file);
    }
    Err(io::Error::new(
        io::ErrorKind::InvalidInput,
        format!("{path} is no regular file"),
    ))
}

/// Opens the directory `path` below `root` component by component, only to be a starting point.
fn open_directory(root: BorrowedFd<'_>, path: &LayerPath) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut directory = rustix::fs::openat(root, ".", flags, Mode::empty())?;
    for name in path.components() {
        directory = rustix::fs::openat(&directory, name, flags, Mode::empty())?;
    }
    Ok(directory)
}

/// Descriptors of the directories from the root of a tree to where work was done last: work goes on next to it.
#[derive(Debug)]
pub(super) struct DirectoryCursor {
    root: OwnedFd,
    open: Vec<(Vec<u8>, OwnedFd)>,
    /// Whether something else than a directory makes room where one is wanted.
    replaces: bool,
}

impl DirectoryCursor {
    pub fn new(root: OwnedFd) -> Self {
        Self {
            root,
            open: Vec::new(),
            replaces: false,
        }
    }

    /// From now on a file or link where a directory is to be made is replaced by one.
    pub fn replace_links(&mut self) {
        self.replaces = true;
    }

    pub fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// The directory `path`. With `make`, missing ones are made.
    pub fn enter(&mut self, path: &LayerPath, make: bool) -> io::Result<BorrowedFd<'_>> {
        let mut components = path.components();
        let mut depth = 0;
        let mut next = components.next();
        while let (Some(name), Some((open, _))) = (next, self.open.get(depth)) {
            if name != open {
                break;
            }
            depth += 1;
            next = components.next();
        }
        self.open.truncate(depth);
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        while let Some(name) = next {
            let parent = self.current();
            let opened = match rustix::fs::openat(parent, name, flags, Mode::empty()) {
                Err(Errno::NOENT) if make => {
                    rustix::fs::mkdirat(parent, name, Mode::RWXU)?;
                    rustix::fs::openat(parent, name, flags, Mode::empty())
                }
                Err(Errno::NOTDIR | Errno::LOOP) if make && self.replaces => {
                    rustix::fs::unlinkat(parent, name, AtFlags::empty())?;
                    rustix::fs::mkdirat(parent, name, Mode::RWXU)?;
                    rustix::fs::openat(parent, name, flags, Mode::empty())
                }
                other => other,
            }?;
            self.open.push((name.to_vec(), opened));
            next = components.next();
        }
        Ok(self.current())
    }

    /// Forgets descriptors at and below `path`, which is about to be removed.
    pub fn forget(&mut self, path: &LayerPath) {
        let depth = path.components().count();
        let inside = path
            .components()
            .zip(&self.open)
            .filter(|(name, (open, _))| name == open)
            .count()
            == depth;
        if inside && depth <= self.open.len() {
            self.open.truncate(depth.saturating_sub(1));
        }
    }

    fn current(&self) -> BorrowedFd<'_> {
        self.open.last().map_or(self.root.as_fd(), |(_, fd)| fd.as_fd())
    }
}

/// A path of `name` in the directory for calls that take no descriptor: `/proc/self/fd/<n>/<name>`. The
/// directory is named by its descriptor, and the calls do not follow a link at the end.
pub(super) fn proc_path(directory: BorrowedFd<'_>, name: &[u8]) -> Vec<u8> {
    use std::os::fd::AsRawFd;
    let mut path = format!("/proc/self/fd/{}/", directory.as_raw_fd()).into_bytes();
    path.extend_from_slice(name);
    path
}
