//! The entries of a tree form: an overlay upper directory after a step, or an unpacked layer.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::beneath::{open_beneath, proc_path};
use super::entry::{Entry, Kind, LayerPath, Timestamp};
use super::index::{IndexEntry, LayerIndex};
use super::ownership::{Note, OWNER, Ownership, take_note};
use super::tar_member::is_tree_xattr;
use super::unpack::OPAQUE_XATTR;

/// Walks the tree at `root`, which has its owners as `ownership` says. Sockets are passed over, because no tar can hold them.
pub fn walk_tree(root: &Path, ownership: Ownership) -> io::Result<LayerIndex> {
    walk(root, ownership, false)
}

/// As [`walk_tree`], of a tree that is no layer's: what is mounted in it is an error.
pub(super) fn walk_one_device(root: &Path) -> io::Result<LayerIndex> {
    walk(root, Ownership::Real, true)
}

fn walk(root: &Path, ownership: Ownership, one_device: bool) -> io::Result<LayerIndex> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let root = rustix::fs::open(root, flags, Mode::empty())?;
    let mut walk = Walk {
        entries: Vec::new(),
        links: HashMap::new(),
        ownership,
        device: one_device
            .then(|| rustix::fs::fstat(&root))
            .transpose()?
            .map(|stat| stat.st_dev),
    };
    walk.directory(root, &LayerPath::root())?;
    Ok(LayerIndex::from_sorted(walk.entries))
}

struct Walk {
    entries: Vec<IndexEntry>,
    /// First name of every file that has several, by device and inode.
    links: HashMap<(u64, u64), LayerPath>,
    ownership: Ownership,
    /// Where all directories have to be.
    device: Option<u64>,
}

impl Walk {
    fn directory(&mut self, directory: OwnedFd, path: &LayerPath) -> io::Result<()> {
        let mut names = Vec::new();
        for child in rustix::fs::Dir::read_from(&directory).map_err(|error| at(path, error))? {
            let child = child.map_err(|error| at(path, error))?;
            let name = child.file_name().to_bytes();
            if name != b"." && name != b".." {
                names.push(name.to_vec());
            }
        }
        // Names sorted within each directory, each directory before the next name: the order of paths.
        names.sort_unstable();
        for name in names {
            let path = path.join(&name);
            self.entry(directory.as_fd(), &name, path.clone())
                .map_err(|error| at(&path, error))?;
        }
        Ok(())
    }

    fn entry(&mut self, directory: BorrowedFd<'_>, name: &[u8], path: LayerPath) -> io::Result<()> {
        let stat = rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)?;
        let Some(mut entry) = read_entry(directory, name, path.clone(), &stat, self.ownership)? else {
            return Ok(());
        };
        let is_dir = entry.is_dir();
        if is_dir && self.device.is_some_and(|device| device != stat.st_dev) {
            let text = format!("{path} is a mount: unmount it first");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        if !is_dir
            && entry.kind != Kind::Whiteout
            && stat.st_nlink > 1
            && let Some(target) = self.first_name(&stat, &path)
        {
            entry.kind = Kind::Hardlink { target };
        }
        self.entries.push(IndexEntry {
            entry,
            data_offset: None,
            digest: None,
        });
        if is_dir {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            self.directory(rustix::fs::openat(directory, name, flags, Mode::empty())?, &path)?;
        }
        Ok(())
    }

    /// The name under which the file was seen before; otherwise `path` is its first.
    fn first_name(&mut self, stat: &Stat, path: &LayerPath) -> Option<LayerPath> {
        let inode = (stat.st_dev, stat.st_ino);
        let seen = self.links.get(&inode).cloned();
        if seen.is_none() {
            self.links.insert(inode, path.clone());
        }
        seen
    }
}

/// As [`read_entry`], for the file at `path` below `root`.
pub(super) fn read_file_entry(
    root: &File,
    path: &LayerPath,
    ownership: Ownership,
) -> io::Result<Option<Entry>> {
    let flags = OFlags::PATH | OFlags::DIRECTORY;
    let directory = open_beneath(root.as_fd(), &path.parent().unwrap_or_default(), flags)?;
    let stat = rustix::fs::statat(&directory, path.name(), AtFlags::SYMLINK_NOFOLLOW)?;
    read_entry(directory.as_fd(), path.name(), path.clone(), &stat, ownership)
}

/// What lies at `name` in `directory`, as an entry at `path`; `None` for what no tar can hold. A file with several names is
/// told as a file each time.
pub(super) fn read_entry(
    directory: BorrowedFd<'_>,
    name: &[u8],
    path: LayerPath,
    stat: &Stat,
    ownership: Ownership,
) -> io::Result<Option<Entry>> {
    let file_type = FileType::from_raw_mode(stat.st_mode);
    let (major, minor) = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
    let mut kind = match file_type {
        FileType::RegularFile => Kind::File {
            size: u64::try_from(stat.st_size).unwrap_or(0),
        },
        FileType::Directory => Kind::Directory { opaque: false },
        FileType::Symlink => Kind::Symlink {
            target: rustix::fs::readlinkat(directory, name, Vec::new())?.into_bytes(),
        },
        FileType::Fifo => Kind::Fifo,
        FileType::CharacterDevice if (major, minor) == (0, 0) => Kind::Whiteout,
        FileType::CharacterDevice => Kind::CharDevice { major, minor },
        FileType::BlockDevice => Kind::BlockDevice { major, minor },
        FileType::Socket | FileType::Unknown => return Ok(None),
    };
    if kind == Kind::Whiteout {
        return Ok(Some(Entry::whiteout(path)));
    }
    let (mut xattrs, is_opaque) = xattrs(&proc_path(directory, name), ownership)?;
    let owner = match ownership {
        Ownership::Real => Note {
            uid: stat.st_uid,
            gid: stat.st_gid,
            device: None,
        },
        Ownership::Emulated => take_note(file_type, &mut xattrs)?,
    };
    if let Some(device) = owner.device {
        kind = device.kind();
    }
    if let Kind::Directory { opaque } = &mut kind {
        *opaque = is_opaque;
    }
    Ok(Some(Entry {
        path,
        kind,
        mode: stat.st_mode & 0o7777,
        uid: owner.uid,
        gid: owner.gid,
        mtime: Timestamp {
            seconds: stat.st_mtime,
            nanoseconds: u32::try_from(stat.st_mtime_nsec).unwrap_or(0),
        },
        xattrs,
    }))
}

type Xattrs = Vec<(Vec<u8>, Vec<u8>)>;

/// The attributes that belong to the file, sorted, and whether it is an opaque directory. The note of its owner is
/// among them where the tree has notes.
fn xattrs(path: &[u8], ownership: Ownership) -> io::Result<(Xattrs, bool)> {
    let note: &[u8] = match ownership {
        Ownership::Real => b"",
        Ownership::Emulated => OWNER.as_bytes(),
    };
    let mut names = [0u8; 1024];
    let names = match rustix::fs::llistxattr(path, &mut names[..]) {
        Ok(0) | Err(Errno::OPNOTSUPP) => return Ok((Vec::new(), false)),
        Ok(length) => names[..length].to_vec(),
        Err(Errno::RANGE) => {
            let mut names = vec![0; 64 << 10];
            let length = rustix::fs::llistxattr(path, names.as_mut_slice())?;
            names.truncate(length);
            names
        }
        Err(error) => return Err(error.into()),
    };
    let (mut found, mut opaque) = (Vec::new(), false);
    for name in names.split(|b| *b == 0).filter(|name| !name.is_empty()) {
        if name == OPAQUE_XATTR.as_bytes() {
            opaque = value(path, name)? == b"y";
        } else if name.starts_with(b"security.selinux") || is_tree_xattr(name) && name != note {
            // Labels belong to this host, overlayfs' own notes to this tree.
        } else {
            found.push((name.to_vec(), value(path, name)?));
        }
    }
    found.sort();
    Ok((found, opaque))
}

fn value(path: &[u8], name: &[u8]) -> io::Result<Vec<u8>> {
    // XATTR_SIZE_MAX
    let mut value = vec![0; 64 << 10];
    let length = rustix::fs::lgetxattr(path, name, value.as_mut_slice())?;
    value.truncate(length);
    Ok(value)
}

fn at(path: &LayerPath, error: impl Into<io::Error>) -> io::Error {
    let error = error.into();
    if error.get_ref().is_some() {
        return error;
    }
    io::Error::new(error.kind(), format!("reading {path}: {error}"))
}
