//! The tree form of a layer: a directory that overlayfs takes as a lower layer.
//!
//! Files, links and nodes are made in the order of the tar; what depends on all members together
//! (whiteouts, opaque directories, times and modes of directories) is made from the index at the end.
//! Everything goes by descriptors of directories of this tree; nothing is followed.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use super::beneath::{DirectoryCursor, open_file, proc_path};
use super::entry::{Entry, Kind, LayerPath, Timestamp};
use super::index::{IndexEntry, LayerIndex};
use super::ownership::{Note, Ownership, is_note, set_note, set_note_of_open};
use super::tar_read::{TarError, TarReader};

/// Says in a tree that lower layers do not shine through a directory.
pub(super) const OPAQUE_XATTR: &str = "user.overlay.opaque";

/// Fills an empty directory with a layer.
#[derive(Debug)]
pub struct Unpacker {
    cursor: DirectoryCursor,
    /// Owner that new files have by themselves.
    uid: u32,
    gid: u32,
    ownership: Ownership,
    /// Device nodes that must not be made here; the index keeps them.
    skipped: HashSet<LayerPath>,
    /// Whether the root has the layers below: then they are replaced, and whiteouts remove.
    onto: bool,
}

impl Unpacker {
    /// Unpacks onto `root`, which looks as the layers below do when they lie on each other.
    pub(super) fn onto(root: &Path, ownership: Ownership) -> io::Result<Self> {
        let mut unpacker = Self::new(root, ownership)?;
        unpacker.onto = true;
        unpacker.cursor.replace_links();
        Ok(unpacker)
    }

    /// Makes all entries of `index`, whose files lie in `tree`. Where the file system can, they share their bytes.
    pub(super) fn copy(mut self, index: &LayerIndex, tree: &File) -> io::Result<()> {
        for entry in index.entries().iter().map(|e| &e.entry) {
            match entry.kind {
                Kind::File { .. } => {
                    open_file(tree, &entry.path).and_then(|source| self.copied(entry, &source))
                }
                _ => self.other(entry),
            }
            .map_err(|error| at(&entry.path, error))?;
        }
        self.finish(index)
    }

    /// Unpacks into `root`, an empty directory, with owners as `ownership` says.
    pub fn new(root: &Path, ownership: Ownership) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let root = rustix::fs::open(root, flags, Mode::empty())?;
        rustix::fs::fchmod(&root, Mode::from_raw_mode(0o755))?;
        let stat = rustix::fs::fstat(&root)?;
        let uid = rustix::process::geteuid().as_raw();
        // A directory that hands its group down would give it to every file.
        let gid = rustix::process::getegid().as_raw();
        let gid = if stat.st_gid == gid { gid } else { u32::MAX };
        Ok(Self {
            cursor: DirectoryCursor::new(root),
            uid,
            gid,
            ownership,
            skipped: HashSet::new(),
            onto: false,
        })
    }

    /// Makes one member, which the index has accepted; `data` are the bytes of a regular file.
    pub fn member<R: Read>(&mut self, entry: &Entry, data: &mut TarReader<R>) -> io::Result<()> {
        if entry.path.is_root() {
            return Ok(());
        }
        match &entry.kind {
            Kind::File { .. } => self.file(entry, data),
            _ => self.other(entry),
        }
        .map_err(|error| at(&entry.path, error))
    }

    /// Makes anything but a regular file.
    fn other(&mut self, entry: &Entry) -> io::Result<()> {
        match &entry.kind {
            Kind::Directory { .. } => self.directory(&entry.path),
            Kind::Symlink { target } => self
                .node(entry, |parent, name| {
                    rustix::fs::symlinkat(target.as_slice(), parent, name)
                })
                .map(|_| ()),
            Kind::Hardlink { target } => self.hardlink(&entry.path, target),
            Kind::Fifo => self.special(entry, FileType::Fifo, 0),
            Kind::CharDevice { major, minor } => self.special(
                entry,
                FileType::CharacterDevice,
                rustix::fs::makedev(*major, *minor),
            ),
            Kind::BlockDevice { major, minor } => {
                self.special(entry, FileType::BlockDevice, rustix::fs::makedev(*major, *minor))
            }
            Kind::Whiteout | Kind::File { .. } => Ok(()),
        }
    }

    /// Makes what `index` says about the layer as a whole.
    pub fn finish(mut self, index: &LayerIndex) -> io::Result<()> {
        for entry in index
            .entries()
            .iter()
            .map(|e| &e.entry)
            .filter(|e| e.kind == Kind::Whiteout)
        {
            let made = if self.onto {
                self.remove(&entry.path)
            } else {
                self.whiteout(&entry.path)
            };
            made.map_err(|error| at(&entry.path, error))?;
        }
        if self.onto {
            let opaque = |e: &&IndexEntry| matches!(e.entry.kind, Kind::Directory { opaque: true });
            for entry in index.entries().iter().filter(opaque) {
                self.empty_but(&entry.entry.path, index)
                    .map_err(|error| at(&entry.entry.path, error))?;
            }
        }
        // A hard link brings its own mode and owner, and they are those of the file from then on.
        let linked: HashSet<&LayerPath> = index
            .entries()
            .iter()
            .filter_map(|e| match &e.entry.kind {
                Kind::Hardlink { target } => Some(target),
                _ => None,
            })
            .collect();
        for entry in index.entries().iter().map(|e| &e.entry) {
            if linked.contains(&entry.path) && !self.skipped.contains(&entry.path) {
                self.linked_metadata(entry)
                    .map_err(|error| at(&entry.path, error))?;
            }
        }
        // What lies in a directory comes after it: going backwards, its time is set when nothing changes it any more.
        for entry in index.entries().iter().rev().map(|e| &e.entry) {
            if let Kind::Directory { opaque } = entry.kind {
                self.directory_metadata(entry, opaque)
                    .map_err(|error| at(&entry.path, error))?;
            }
        }
        Ok(())
    }

    /// Removes what lies in the directory `path` and below it without being in the layer: it shone through from below.
    fn empty_but(&mut self, path: &LayerPath, index: &LayerIndex) -> io::Result<()> {
        let directory = self.cursor.enter(path, false)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::openat(directory, ".", flags, Mode::empty())?;
        let mut names = Vec::new();
        for child in rustix::fs::Dir::read_from(&directory)? {
            let child = child?;
            let name = child.file_name().to_bytes();
            if name != b"." && name != b".." {
                names.push(name.to_vec());
            }
        }
        drop(directory);
        for name in names {
            let child = path.join(&name);
            match index.get(&child) {
                None => self.remove(&child)?,
                Some(found) if found.entry.is_dir() => self.empty_but(&child, index)?,
                Some(_) => {}
            }
        }
        Ok(())
    }

    fn new_file(&mut self, entry: &Entry) -> io::Result<File> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::RUSR | Mode::WUSR;
        let file: OwnedFd = self.make(&entry.path, |parent, name| {
            rustix::fs::openat(parent, name, flags, mode)
        })?;
        Ok(File::from(file))
    }

    fn copied(&mut self, entry: &Entry, source: &File) -> io::Result<()> {
        let file = self.new_file(entry)?;
        if rustix::fs::ioctl_ficlone(&file, source).is_err() {
            let (mut from, mut to) = (source, &file);
            io::copy(&mut from, &mut to)?;
        }
        self.finish_file(&file, entry)
    }

    fn file<R: Read>(&mut self, entry: &Entry, data: &mut TarReader<R>) -> io::Result<()> {
        let file = self.new_file(entry)?;
        loop {
            let piece = data.data()?;
            if piece.is_empty() {
                break;
            }
            let length = rustix::io::write(&file, piece)?;
            if length == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            data.consume_data(length);
        }
        self.finish_file(&file, entry)
    }

    fn finish_file(&self, file: &File, entry: &Entry) -> io::Result<()> {
        self.own_open(file.as_fd(), entry)?;
        rustix::fs::fchmod(file, Mode::from_raw_mode(entry.mode))?;
        rustix::fs::futimens(file, &times(entry.mtime))?;
        Ok(())
    }

    fn directory(&mut self, path: &LayerPath) -> io::Result<()> {
        match self
            .enter_parent(path)
            .and_then(|parent| Ok(rustix::fs::mkdirat(parent, path.name(), Mode::RWXU)?))
        {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            result => return result,
        }
        let parent = self.enter_parent(path)?;
        let stat = rustix::fs::statat(parent, path.name(), AtFlags::SYMLINK_NOFOLLOW)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
            rustix::fs::unlinkat(parent, path.name(), AtFlags::empty())?;
            rustix::fs::mkdirat(parent, path.name(), Mode::RWXU)?;
        }
        Ok(())
    }

    fn hardlink(&mut self, path: &LayerPath, target: &LayerPath) -> io::Result<()> {
        if self.skipped.contains(target) {
            self.remove(path)?;
            self.skipped.insert(path.clone());
            return Ok(());
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let target_parent =
            super::beneath::open_beneath(self.cursor.root(), &target.parent().unwrap_or_default(), flags)?;
        self.make(path, |parent, name| {
            rustix::fs::linkat(&target_parent, target.name(), parent, name, AtFlags::empty())
        })
    }

    fn special(&mut self, entry: &Entry, kind: FileType, device: u64) -> io::Result<()> {
        let mode = Mode::RUSR | Mode::WUSR;
        let (kind, device) = match self.ownership {
            // It stands for the device, which its note names.
            Ownership::Emulated if kind != FileType::Fifo => (FileType::RegularFile, 0),
            _ => (kind, device),
        };
        let made = self.node(entry, |parent, name| {
            rustix::fs::mknodat(parent, name, kind, mode, device)
        });
        match made {
            Ok(()) => {
                let parent = self.enter_parent(&entry.path)?;
                // Not a link: it was just made, and nobody else works in this tree.
                rustix::fs::chmodat(
                    parent,
                    entry.path.name(),
                    Mode::from_raw_mode(entry.mode),
                    AtFlags::empty(),
                )?;
                self.node_times(entry)
            }
            // Devices cannot be made inside a user namespace.
            Err(error)
                if error.raw_os_error() == Some(Errno::PERM.raw_os_error()) && kind != FileType::Fifo =>
            {
                self.skipped.insert(entry.path.clone());
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Makes something that is not opened, with owner, attributes and time.
    fn node(
        &mut self,
        entry: &Entry,
        make: impl Fn(BorrowedFd<'_>, &[u8]) -> Result<(), Errno>,
    ) -> io::Result<()> {
        self.make(&entry.path, make)?;
        let (uid, gid, ownership) = (self.uid, self.gid, self.ownership);
        let parent = self.enter_parent(&entry.path)?;
        let name = entry.path.name();
        match ownership {
            Ownership::Emulated if Note::of(entry) == Note::default() => {}
            Ownership::Emulated => set_note(parent, name, entry)?,
            Ownership::Real => fix_owner(entry, uid, gid, |uid, gid| {
                rustix::fs::chownat(parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
            })?,
        }
        set_xattrs(ownership, parent, entry)?;
        self.node_times(entry)
    }

    /// Gives a file of several names what the last of them said, where that differs from what it has.
    fn linked_metadata(&mut self, entry: &Entry) -> io::Result<()> {
        let ownership = self.ownership;
        let parent = self.enter_parent(&entry.path)?;
        let name = entry.path.name();
        let stat = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
        let is_symlink = matches!(entry.kind, Kind::Symlink { .. });
        let mode = stat.st_mode & 0o7777;
        let owned = ownership == Ownership::Emulated || (stat.st_uid, stat.st_gid) == (entry.uid, entry.gid);
        if ownership == Ownership::Emulated {
            set_note(parent, name, entry)?;
        } else if !owned {
            let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
            rustix::fs::chownat(parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
        }
        // A change of owner takes set-id bits and capabilities away.
        set_xattrs(ownership, parent, entry)?;
        if !is_symlink && (!owned || mode != entry.mode) {
            // Not a link, and nobody else works in this tree.
            rustix::fs::chmodat(parent, name, Mode::from_raw_mode(entry.mode), AtFlags::empty())?;
        }
        self.node_times(entry)
    }

    fn node_times(&mut self, entry: &Entry) -> io::Result<()> {
        let parent = self.enter_parent(&entry.path)?;
        let times = times(entry.mtime);
        Ok(rustix::fs::utimensat(
            parent,
            entry.path.name(),
            &times,
            AtFlags::SYMLINK_NOFOLLOW,
        )?)
    }

    fn whiteout(&mut self, path: &LayerPath) -> io::Result<()> {
        let device = rustix::fs::makedev(0, 0);
        self.make(path, |parent, name| {
            rustix::fs::mknodat(parent, name, FileType::CharacterDevice, Mode::empty(), device)
        })
    }

    fn directory_metadata(&mut self, entry: &Entry, opaque: bool) -> io::Result<()> {
        self.cursor.enter(&entry.path, true)?;
        let parent = self
            .cursor
            .enter(&entry.path.parent().unwrap_or_default(), false)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let directory = rustix::fs::openat(parent, entry.path.name(), flags, Mode::empty())?;
        if self.onto {
            self.forget_attributes(directory.as_fd())?;
        } else if opaque {
            rustix::fs::fsetxattr(&directory, OPAQUE_XATTR, b"y", XattrFlags::empty())?;
        }
        self.own_open(directory.as_fd(), entry)?;
        rustix::fs::fchmod(&directory, Mode::from_raw_mode(entry.mode))?;
        rustix::fs::futimens(&directory, &times(entry.mtime))?;
        Ok(())
    }

    /// Takes away what a directory of a lower layer had: the layer on top says all about it.
    fn forget_attributes(&self, directory: BorrowedFd<'_>) -> io::Result<()> {
        let mut names = vec![0u8; 64 << 10];
        let length = match rustix::fs::flistxattr(directory, names.as_mut_slice()) {
            Ok(length) => length,
            Err(Errno::OPNOTSUPP) => 0,
            Err(errno) => return Err(errno.into()),
        };
        for name in names[..length].split(|b| *b == 0).filter(|name| !name.is_empty()) {
            match rustix::fs::fremovexattr(directory, name) {
                // What the host has put there.
                Err(_) if name.starts_with(b"security.") => {}
                result => result?,
            }
        }
        Ok(())
    }

    /// Makes something new at `path`; what an earlier member left there goes.
    fn make<T>(
        &mut self,
        path: &LayerPath,
        make: impl Fn(BorrowedFd<'_>, &[u8]) -> Result<T, Errno>,
    ) -> io::Result<T> {
        match make(self.enter_parent(path)?, path.name()) {
            Err(Errno::EXIST) => {
                self.remove(path)?;
                Ok(make(self.enter_parent(path)?, path.name())?)
            }
            result => Ok(result?),
        }
    }

    fn remove(&mut self, path: &LayerPath) -> io::Result<()> {
        self.cursor.forget(path);
        let parent = self.enter_parent(path)?;
        match rustix::fs::unlinkat(parent, path.name(), AtFlags::empty()) {
            Err(Errno::ISDIR) => remove_directory(parent, path.name()),
            Err(Errno::NOENT) => Ok(()),
            result => Ok(result?),
        }
    }

    fn enter_parent(&mut self, path: &LayerPath) -> io::Result<BorrowedFd<'_>> {
        self.cursor.enter(&path.parent().unwrap_or_default(), true)
    }

    /// Owner and attributes of a new file or directory that is open.
    fn own_open(&self, file: BorrowedFd<'_>, entry: &Entry) -> io::Result<()> {
        match self.ownership {
            Ownership::Emulated => set_note_of_open(file, entry)?,
            Ownership::Real => fix_owner(entry, self.uid, self.gid, |uid, gid| {
                rustix::fs::fchown(file, Some(uid), Some(gid))
            })?,
        }
        for (name, value) in &entry.xattrs {
            if !is_note(self.ownership, entry, name) {
                let set = rustix::fs::fsetxattr(file, name.as_slice(), value, XattrFlags::empty());
                check_xattr(name, set)?;
            }
        }
        Ok(())
    }
}

/// Attributes of something in `parent` that is not opened.
fn set_xattrs(ownership: Ownership, parent: BorrowedFd<'_>, entry: &Entry) -> io::Result<()> {
    for (key, value) in &entry.xattrs {
        if !is_note(ownership, entry, key) {
            let path = proc_path(parent, entry.path.name());
            let set = rustix::fs::lsetxattr(path, key.as_slice(), value, XattrFlags::empty());
            check_xattr(key, set)?;
        }
    }
    Ok(())
}

/// Gives a new file its owner unless it has it by itself.
fn fix_owner(
    entry: &Entry,
    uid: u32,
    gid: u32,
    chown: impl FnOnce(Uid, Gid) -> Result<(), Errno>,
) -> io::Result<()> {
    if entry.uid == uid && entry.gid == gid {
        return Ok(());
    }
    match chown(Uid::from_raw(entry.uid), Gid::from_raw(entry.gid)) {
        Err(Errno::INVAL) => Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!(
                "its owner {}:{} lies outside the ids of this user namespace: a larger range in /etc/subuid and /etc/subgid is needed",
                entry.uid, entry.gid
            ),
        )),
        result => Ok(result?),
    }
}

/// Attributes that only a privileged process may set are left to the index; all others must succeed.
fn check_xattr(name: &[u8], result: Result<(), Errno>) -> io::Result<()> {
    let privileged =
        name.starts_with(b"trusted.") || name.starts_with(b"security.") && name != b"security.capability";
    match result {
        Err(Errno::PERM | Errno::OPNOTSUPP | Errno::INVAL) if privileged => Ok(()),
        result => Ok(result?),
    }
}

fn remove_directory(parent: BorrowedFd<'_>, name: &[u8]) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = rustix::fs::openat(parent, name, flags, Mode::empty())?;
    for child in rustix::fs::Dir::read_from(&directory)? {
        let child = child?;
        let child = child.file_name().to_bytes();
        if child == b"." || child == b".." {
            continue;
        }
        match rustix::fs::unlinkat(&directory, child, AtFlags::empty()) {
            Err(Errno::ISDIR) => remove_directory(directory.as_fd(), child)?,
            result => result?,
        }
    }
    Ok(rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR)?)
}

fn times(mtime: Timestamp) -> Timestamps {
    let time = Timespec {
        tv_sec: mtime.seconds,
        tv_nsec: i64::from(mtime.nanoseconds),
    };
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}

/// Says which member an error is about.
fn at(path: &LayerPath, error: io::Error) -> io::Error {
    // What the archive itself got wrong already says so.
    if error.get_ref().is_some_and(|inner| inner.is::<TarError>()) {
        return error;
    }
    io::Error::new(error.kind(), format!("unpacking {path}: {error}"))
}
