//! What has changed in a tree, found without looking into any file.

use std::collections::HashSet;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Statx, StatxFlags};

use super::entry::LayerPath;

/// All that lies in a tree at one moment, sorted by path.
#[derive(Debug, Default)]
pub(super) struct Listing(Vec<Seen>);

/// A time, in nanoseconds since 1970.
type Time = i128;

/// What identifies a file and tells its changes.
#[derive(Debug, Clone)]
struct Seen {
    path: LayerPath,
    inode: u64,
    /// When it was made, where the file system knows: numbers of inodes are used again.
    born: Time,
    changed: Time,
    modified: Time,
    size: u64,
    links: u32,
    mode: u32,
    uid: u32,
    gid: u32,
}

/// One difference.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// New, changed, or a directory in which something is.
    Here {
        path: LayerPath,
        /// Whether it is a directory that has nothing to do with what was there before.
        opaque: bool,
    },
    /// There is nothing any more.
    Gone(LayerPath),
}

impl Change {
    fn path(&self) -> &LayerPath {
        match self {
            Change::Here { path, .. } | Change::Gone(path) => path,
        }
    }

    fn present(&self) -> Option<&LayerPath> {
        match self {
            Change::Here { path, .. } => Some(path),
            Change::Gone(_) => None,
        }
    }
}

impl Listing {
    /// Looks at everything below `root`.
    pub(super) fn of(root: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let root = rustix::fs::open(root, flags, Mode::empty())?;
        let mut listing = Self::default();
        listing.directory(root, &LayerPath::root())?;
        Ok(listing)
    }

    fn directory(&mut self, directory: OwnedFd, path: &LayerPath) -> io::Result<()> {
        let mut names: Vec<CString> = Vec::new();
        for child in rustix::fs::Dir::read_from(&directory)? {
            let child = child?;
            if !matches!(child.file_name().to_bytes(), b"." | b"..") {
                names.push(child.file_name().to_owned());
            }
        }
        names.sort_unstable();
        for name in names {
            let wanted = StatxFlags::BASIC_STATS | StatxFlags::BTIME;
            let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
            let stat = rustix::fs::statx(&directory, &name, flags, wanted)?;
            let seen = Seen::new(path.join(name.to_bytes()), &stat);
            // No tar can hold the one, and the other says that there is nothing.
            if seen.file_type() == FileType::Socket || seen.is_whiteout(&stat) {
                continue;
            }
            let below = seen.is_dir().then(|| seen.path.clone());
            self.0.push(seen);
            if let Some(below) = below {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let child = rustix::fs::openat(directory.as_fd(), &name, flags, Mode::empty())?;
                self.directory(child, &below)?;
            }
        }
        Ok(())
    }

    /// The number of the inode at `path` if it has other names too.
    pub(super) fn linked_inode(&self, path: &LayerPath) -> Option<u64> {
        let seen = self.get(path)?;
        seen.has_other_names().then_some(seen.inode)
    }

    fn get(&self, path: &LayerPath) -> Option<&Seen> {
        let position = self.0.binary_search_by(|seen| seen.path.cmp(path)).ok()?;
        self.0.get(position)
    }
}

impl Seen {
    fn new(path: LayerPath, stat: &Statx) -> Self {
        let time = |time: rustix::fs::StatxTimestamp| {
            Time::from(time.tv_sec) * 1_000_000_000 + Time::from(time.tv_nsec)
        };
        let has_birth = StatxFlags::from_bits_retain(stat.stx_mask).contains(StatxFlags::BTIME);
        Self {
            path,
            inode: stat.stx_ino,
            born: if has_birth { time(stat.stx_btime) } else { 0 },
            changed: time(stat.stx_ctime),
            modified: time(stat.stx_mtime),
            size: stat.stx_size,
            links: stat.stx_nlink,
            mode: stat.stx_mode.into(),
            uid: stat.stx_uid,
            gid: stat.stx_gid,
        }
    }

    fn file_type(&self) -> FileType {
        FileType::from_raw_mode(self.mode)
    }

    fn is_dir(&self) -> bool {
        self.file_type() == FileType::Directory
    }

    fn has_other_names(&self) -> bool {
        self.links > 1 && !self.is_dir()
    }

    fn is_whiteout(&self, stat: &Statx) -> bool {
        self.file_type() == FileType::CharacterDevice && stat.stx_rdev_major == 0 && stat.stx_rdev_minor == 0
    }

    /// Whether it is the same file, changed or not.
    fn is(&self, other: &Seen) -> bool {
        (self.inode, self.born, self.file_type()) == (other.inode, other.born, other.file_type())
    }

    /// Whether all that can be set is the same.
    fn looks_like(&self, other: &Seen) -> bool {
        let facts = |seen: &Seen| (seen.mode, seen.uid, seen.gid, seen.size, seen.modified);
        facts(self) == facts(other)
    }
}

/// The differences, sorted by path, each with the directories above it. What `touched` names counts as changed only if it looks
/// different; `is_same` decides by content about a file of which only the number of names has become less.
pub(super) fn changes(
    before: &Listing,
    after: &Listing,
    touched: &HashSet<LayerPath>,
    is_same: impl Fn(&LayerPath) -> io::Result<bool>,
) -> io::Result<Vec<Change>> {
    let is_changed = |old: &Seen, new: &Seen| {
        if old.changed == new.changed {
            return Ok(false);
        }
        if touched.contains(&new.path) {
            return Ok(!old.looks_like(new));
        }
        if !new.is_dir() && new.links < old.links && old.looks_like(new) {
            return is_same(&new.path).map(|same| !same);
        }
        Ok::<bool, io::Error>(true)
    };
    let mut found = Vec::new();
    let (mut old, mut new) = (before.0.as_slice(), after.0.as_slice());
    loop {
        match (old.first(), new.first()) {
            (None, None) => break,
            (Some(was), is) if is.is_none_or(|is| was.path < is.path) => {
                found.push(Change::Gone(was.path.clone()));
                old = beyond(old);
            }
            (Some(was), Some(is)) if was.path == is.path => {
                if !was.is(is) {
                    let path = is.path.clone();
                    found.push(Change::Here {
                        path,
                        opaque: is.is_dir(),
                    });
                    old = beyond(old);
                    // All below is new, whatever was there.
                    let (inside, rest) = new.split_at(new.len() - beyond(new).len());
                    found.extend(inside.iter().skip(1).map(here));
                    new = rest;
                } else {
                    if is_changed(was, is)? {
                        found.push(here(is));
                    }
                    (old, new) = (&old[1..], &new[1..]);
                }
            }
            (_, Some(is)) => {
                found.push(here(is));
                new = &new[1..];
            }
            (Some(_), None) => break,
        }
    }
    Ok(with_parents(with_other_names(found, after)))
}

/// A new name of a file that has others which have not changed needs those in the layer too: it would be another file.
fn with_other_names(mut found: Vec<Change>, after: &Listing) -> Vec<Change> {
    let here: HashSet<&LayerPath> = found.iter().filter_map(Change::present).collect();
    let linked: HashSet<u64> = here.iter().filter_map(|path| after.linked_inode(path)).collect();
    if linked.is_empty() {
        return found;
    }
    let others = after
        .0
        .iter()
        .filter(|seen| seen.has_other_names() && linked.contains(&seen.inode) && !here.contains(&seen.path));
    let others: Vec<Change> = others.map(self::here).collect();
    found.extend(others);
    found.sort_by(|one, other| one.path().cmp(other.path()));
    found
}

fn here(seen: &Seen) -> Change {
    Change::Here {
        path: seen.path.clone(),
        opaque: false,
    }
}

/// What follows the first of `seen` and all that lies below it.
fn beyond(seen: &[Seen]) -> &[Seen] {
    let Some((first, rest)) = seen.split_first() else {
        return seen;
    };
    let inside = if first.is_dir() {
        rest.partition_point(|other| other.path.lies_in(&first.path))
    } else {
        0
    };
    &rest[inside..]
}

fn with_parents(found: Vec<Change>) -> Vec<Change> {
    let mut all: Vec<Change> = Vec::with_capacity(found.len());
    // The directories that hold the last change, and that are there already.
    let mut open: Vec<LayerPath> = Vec::new();
    for change in found {
        while open
            .last()
            .is_some_and(|directory| !change.path().lies_in(directory))
        {
            open.pop();
        }
        let mut missing = Vec::new();
        let mut parent = change.path().parent();
        while let Some(directory) = parent.filter(|directory| !directory.is_root()) {
            if open.last() == Some(&directory) {
                break;
            }
            parent = directory.parent();
            missing.push(directory);
        }
        for path in missing.into_iter().rev() {
            open.push(path.clone());
            all.push(Change::Here { path, opaque: false });
        }
        if let Change::Here { path, .. } = &change {
            open.push(path.clone());
        }
        all.push(change);
    }
    all
}
