//! System calls of a local context: opening below a descriptor and listing one directory.
//!
//! Nothing here follows a symbolic link and nothing leaves the root, whatever another process does
//! to the tree meanwhile (design D8). Special files are looked at, never opened.

use std::ffi::CStr;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use rbuild_cache::layer::{Entry, Kind, LayerPath, Timestamp};
use rbuild_cache::{ContentDigest, FileStat, Scope};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawDir, ResolveFlags, Statx, StatxFlags, StatxTimestamp};
use rustix::io::Errno;

/// A name in a directory as it was found.
#[derive(Debug, Clone)]
pub(super) struct Node {
    /// As the tree shows it, shared with whoever lists it.
    pub entry: Arc<Entry>,
    /// With the entry, what identifies the content of a regular file, as long as it is asked for: its digest is not known,
    /// or other names lead to the same inode. Boxed, because of a million files most do without.
    inode: Option<Box<Inode>>,
    /// Whether other names lead to the same inode.
    pub linked: bool,
    /// Whether it is a directory: for whoever looks for these among a million files, without their entries.
    pub directory: bool,
    /// It is excluded and exists only if something below it is included again.
    pub held: bool,
    /// Digest of its content, once it is known.
    pub digest: OnceLock<ContentDigest>,
}

/// What a [`FileStat`] has and an entry does not, in half the memory.
#[derive(Debug, Clone)]
struct Inode {
    number: u64,
    changed_seconds: i64,
    changed_nanoseconds: u32,
    /// The kernel gives device numbers no more bits.
    device: u32,
}

impl Node {
    /// What identifies the content of the file.
    pub fn stat(&self) -> Option<FileStat> {
        let (inode, Kind::File { size }) = (self.inode.as_ref()?, &self.entry.kind) else {
            return None;
        };
        Some(FileStat {
            dev: inode.device.into(),
            ino: inode.number,
            size: *size,
            mtime: self.entry.mtime,
            ctime: Timestamp {
                seconds: inode.changed_seconds,
                nanoseconds: inode.changed_nanoseconds,
            },
        })
    }
}

impl Inode {
    fn of(stat: &FileStat) -> Option<Box<Self>> {
        Some(Box::new(Self {
            number: stat.ino,
            changed_seconds: stat.ctime.seconds,
            changed_nanoseconds: stat.ctime.nanoseconds,
            device: u32::try_from(stat.dev).ok()?,
        }))
    }
}

/// What an ignore file says of one name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Included,
    /// Excluded, but something below it may be included.
    Held,
    Excluded,
}

/// One directory, sorted by name.
#[derive(Debug, Default)]
pub(super) struct Listing {
    pub nodes: Vec<Node>,
    /// Names that were left out because they are sockets.
    pub sockets: Vec<LayerPath>,
    /// Attributes of the directory itself.
    pub xattrs: Xattrs,
}

/// Names and values, sorted.
pub(super) type Xattrs = Vec<(Vec<u8>, Vec<u8>)>;

/// What is looked up for each name.
pub(super) trait Lookup {
    /// What the ignore file says; asked before anything is done with the name.
    fn judge(&self, path: &LayerPath) -> Verdict;
    /// Where files of the directory `path` are remembered.
    fn scope(&self, path: &LayerPath) -> Scope;
    /// The digest of a file that surely has the content that it had, and no attributes. Who asks for the names of a directory in
    /// their order gets the quickest answers.
    fn recall(&self, scope: &mut Scope, path: &LayerPath, stat: &FileStat) -> Option<ContentDigest>;
}

/// Opens `path` below `root`; a symbolic link anywhere in it is an error (`ELOOP`).
pub(super) fn open_beneath(root: BorrowedFd<'_>, path: &LayerPath, flags: OFlags) -> io::Result<OwnedFd> {
    static NO_OPENAT2: AtomicBool = AtomicBool::new(false);
    let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let name = if path.is_root() {
        &b"."[..]
    } else {
        path.as_bytes()
    };
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    while !NO_OPENAT2.load(Ordering::Relaxed) {
        match rustix::fs::openat2(root, name, flags, Mode::empty(), resolve) {
            // A rename somewhere in the system came between.
            Err(Errno::AGAIN | Errno::INTR) => {}
            // An old kernel, or a seccomp profile that does not know the call.
            Err(Errno::NOSYS | Errno::PERM) => NO_OPENAT2.store(true, Ordering::Relaxed),
            result => return Ok(result?),
        }
    }
    let Some(parent) = path.parent() else {
        return Ok(rustix::fs::openat(root, ".", flags, Mode::empty())?);
    };
    let mut directory = rustix::fs::openat(root, ".", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    for component in parent.components() {
        let through = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        directory = rustix::fs::openat(&directory, component, through, Mode::empty())?;
    }
    Ok(rustix::fs::openat(&directory, path.name(), flags, Mode::empty())?)
}

/// Whether an error of [`open_beneath`] says that there is nothing at the path.
pub(super) fn is_absent(error: &io::Error) -> bool {
    let absent = [Errno::NOENT, Errno::NOTDIR, Errno::LOOP];
    Errno::from_io_error(error).is_some_and(|errno| absent.contains(&errno))
}

/// The node called `name` in `directory`; `None` if it is not there or is a socket.
pub(super) fn look(
    directory: BorrowedFd<'_>,
    name: &CStr,
    path: LayerPath,
    lookup: &dyn Lookup,
) -> io::Result<Option<Node>> {
    match stat(directory, name) {
        Ok(found) => {
            let mut scope = lookup.scope(&path.parent().unwrap_or_default());
            let mut node = node(directory, name, path, &found, (lookup, &mut scope))?;
            if let Some(Node { entry, .. }) = &mut node
                && entry.is_dir()
            {
                Arc::make_mut(entry).xattrs = xattrs_at(directory, name);
            }
            Ok(node)
        }
        Err(error) if is_absent(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Lists the directory `path` below `root`. Attributes of directories are given with their own listing, where they cost
/// one call.
pub(super) fn list(root: BorrowedFd<'_>, path: &LayerPath, lookup: &dyn Lookup) -> io::Result<Listing> {
    let directory = open_beneath(root, path, OFlags::RDONLY | OFlags::DIRECTORY)?;
    let mut listing = Listing {
        xattrs: xattrs_of(directory.as_fd()),
        ..Listing::default()
    };
    let mut scope = lookup.scope(path);
    let names = Names::of(directory.as_fd())?;
    for name in names.iter() {
        let (name, kind) = name?;
        let child = path.join(name.to_bytes());
        let verdict = lookup.judge(&child);
        // What is excluded is not even looked at.
        let may_be_directory = matches!(kind, FileType::Directory | FileType::Unknown);
        if verdict == Verdict::Excluded || (verdict == Verdict::Held && !may_be_directory) {
            continue;
        }
        let found = match stat(directory.as_fd(), name) {
            Ok(found) => found,
            // Removed since the directory was read.
            Err(error) if is_absent(&error) => continue,
            Err(error) => return Err(error),
        };
        match node(directory.as_fd(), name, child, &found, (lookup, &mut scope))? {
            Some(node) if verdict == Verdict::Held && !node.directory => {}
            Some(node) => listing.nodes.push(Node {
                held: verdict == Verdict::Held,
                ..node
            }),
            None if verdict == Verdict::Included => listing.sockets.push(path.join(name.to_bytes())),
            None => {}
        }
    }
    listing.nodes.shrink_to_fit();
    Ok(listing)
}

/// The names in a directory, sorted before anything is done with them: what is found out then lies in memory, as mostly on
/// the disk, in the order in which it is used.
struct Names {
    /// One after the other, each with a NUL behind it, which also sorts them right.
    bytes: Vec<u8>,
    found: Vec<(Range<usize>, FileType)>,
}

impl Names {
    fn of(directory: BorrowedFd<'_>) -> io::Result<Self> {
        let (mut bytes, mut found) = (Vec::new(), Vec::new());
        let mut buffer = Vec::with_capacity(32 << 10);
        let mut names = RawDir::new(directory, buffer.spare_capacity_mut());
        while let Some(name) = names.next() {
            let name = name?;
            let text = name.file_name().to_bytes_with_nul();
            if !matches!(text, b".\0" | b"..\0") {
                found.push((bytes.len()..bytes.len() + text.len(), name.file_type()));
                bytes.extend_from_slice(text);
            }
        }
        found.sort_unstable_by(|(a, _), (b, _)| bytes[a.clone()].cmp(&bytes[b.clone()]));
        Ok(Self { bytes, found })
    }

    fn iter(&self) -> impl Iterator<Item = io::Result<(&CStr, FileType)>> {
        self.found.iter().map(|(range, kind)| {
            let name = CStr::from_bytes_with_nul(&self.bytes[range.clone()]);
            Ok((name.map_err(io::Error::other)?, *kind))
        })
    }
}

/// The root.
pub(super) fn look_at_root(root: BorrowedFd<'_>) -> io::Result<Entry> {
    let found = rustix::fs::statx(root, c"", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS)?;
    Ok(Entry {
        path: LayerPath::root(),
        kind: Kind::Directory { opaque: false },
        mode: u32::from(found.stx_mode) & 0o7777,
        uid: 0,
        gid: 0,
        mtime: timestamp(&found.stx_mtime),
        xattrs: xattrs_of(root),
    })
}

/// What identifies the content of an open file; `None` if it is no regular file.
pub(super) fn file_stat(file: BorrowedFd<'_>) -> io::Result<Option<FileStat>> {
    let found = rustix::fs::statx(file, c"", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS)?;
    let regular = FileType::from_raw_mode(found.stx_mode.into()) == FileType::RegularFile;
    Ok(regular.then(|| identity(&found)))
}

fn stat(directory: BorrowedFd<'_>, name: &CStr) -> io::Result<Statx> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    Ok(rustix::fs::statx(
        directory,
        name,
        flags,
        StatxFlags::BASIC_STATS,
    )?)
}

fn node(
    directory: BorrowedFd<'_>,
    name: &CStr,
    path: LayerPath,
    found: &Statx,
    (lookup, scope): (&dyn Lookup, &mut Scope),
) -> io::Result<Option<Node>> {
    let kind = match FileType::from_raw_mode(found.stx_mode.into()) {
        FileType::Directory => Kind::Directory { opaque: false },
        FileType::RegularFile => Kind::File { size: found.stx_size },
        FileType::Symlink => {
            let target = rustix::fs::readlinkat(directory, name, Vec::new())?;
            Kind::Symlink {
                target: target.into_bytes(),
            }
        }
        FileType::Fifo => Kind::Fifo,
        FileType::CharacterDevice => Kind::CharDevice {
            major: found.stx_rdev_major,
            minor: found.stx_rdev_minor,
        },
        FileType::BlockDevice => Kind::BlockDevice {
            major: found.stx_rdev_major,
            minor: found.stx_rdev_minor,
        },
        _ => return Ok(None),
    };
    let stat = identity(found);
    let file = matches!(kind, Kind::File { .. });
    let is_directory = matches!(kind, Kind::Directory { .. });
    let digest = if file {
        lookup.recall(scope, &path, &stat)
    } else {
        None
    };
    // A change of attributes is a change of ctime: what is recalled has none still.
    let xattrs = if file && digest.is_none() {
        xattrs_at(directory, name)
    } else {
        Vec::new()
    };
    let linked = found.stx_nlink > 1 && file;
    let mode = u32::from(found.stx_mode) & 0o7777;
    let entry = Entry {
        path,
        kind,
        mode,
        uid: 0,
        gid: 0,
        mtime: stat.mtime,
        xattrs,
    };
    let asked = linked || (file && digest.is_none());
    Ok(Some(Node {
        entry: Arc::new(entry),
        inode: if asked { Inode::of(&stat) } else { None },
        linked,
        directory: is_directory,
        held: false,
        digest: digest.map_or_else(OnceLock::new, OnceLock::from),
    }))
}

fn identity(found: &Statx) -> FileStat {
    FileStat {
        dev: rustix::fs::makedev(found.stx_dev_major, found.stx_dev_minor),
        ino: found.stx_ino,
        size: found.stx_size,
        mtime: timestamp(&found.stx_mtime),
        ctime: timestamp(&found.stx_ctime),
    }
}

fn timestamp(time: &StatxTimestamp) -> Timestamp {
    Timestamp {
        seconds: time.tv_sec,
        nanoseconds: time.tv_nsec,
    }
}

/// Attributes of `name` in `directory`.
pub(super) fn xattrs_at(directory: BorrowedFd<'_>, name: &CStr) -> Xattrs {
    // There is no call that takes a descriptor and a name before Linux 6.13: the name is looked up below the
    // descriptor's link in /proc, its last component is not followed.
    let mut path = format!("/proc/self/fd/{}/", directory.as_raw_fd()).into_bytes();
    path.extend_from_slice(name.to_bytes());
    xattrs(
        &|space| rustix::fs::llistxattr(path.as_slice(), space),
        &|name, space| rustix::fs::lgetxattr(path.as_slice(), name, space),
    )
}

fn xattrs_of(directory: BorrowedFd<'_>) -> Xattrs {
    xattrs(
        &|space| rustix::fs::flistxattr(directory, space),
        &|name, space| rustix::fs::fgetxattr(directory, name, space),
    )
}

type List<'a> = &'a dyn Fn(&mut [u8]) -> rustix::io::Result<usize>;
type Get<'a> = &'a dyn Fn(&[u8], &mut [u8]) -> rustix::io::Result<usize>;

/// Attributes that mean something outside this machine: capabilities and those of users. Kept where the file system
/// gives them (spec P15); labels of security modules and attributes of overlayfs belong to the machine.
fn xattrs(list: List<'_>, get: Get<'_>) -> Xattrs {
    /// No attribute and no list of them is longer (xattr(7)).
    const LONGEST: usize = 64 << 10;

    let mut space = [0; 512];
    let names = match list(&mut space) {
        Ok(0) | Err(Errno::OPNOTSUPP) => return Vec::new(),
        Ok(length) => space[..length].to_vec(),
        Err(_) => {
            let mut names = vec![0; LONGEST];
            let Ok(length) = list(&mut names) else {
                return Vec::new();
            };
            names.truncate(length);
            names
        }
    };
    let kept = |name: &&[u8]| {
        *name == b"security.capability" || (name.starts_with(b"user.") && !name.starts_with(b"user.overlay."))
    };
    let mut found = Vec::new();
    for name in names.split(|b| *b == 0).filter(kept) {
        let mut value = vec![0; LONGEST];
        if let Ok(length) = get(name, &mut value) {
            value.truncate(length);
            value.shrink_to_fit();
            found.push((name.to_vec(), value));
        }
    }
    found.sort();
    found
}
