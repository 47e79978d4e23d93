//! One entry of a layer: what a tar header says, without the tar.

use std::fmt;
use std::sync::Arc;

/// A time as a file system keeps it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp {
    /// Seconds since 1970-01-01 UTC; negative before it.
    pub seconds: i64,
    /// Nanoseconds to add, below 1,000,000,000.
    pub nanoseconds: u32,
}

/// Path below a root: components joined by `/`, none of them empty, `.`, `..` or holding a NUL;
/// no leading and no trailing slash; bytes, not text. The root itself is the empty path.
///
/// Ordered by components, so that a directory is followed at once by all that lies in it. The bytes are shared by
/// all clones: contexts have a million files, and each path is in several lists.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct LayerPath(Arc<[u8]>);

impl LayerPath {
    /// The root.
    pub fn root() -> Self {
        Self::default()
    }

    /// `bytes` cleaned lexically as Go's `path.Clean("/" + bytes)`: `.` and empty components are
    /// dropped, `..` goes up and stops at the root. Right for operands of COPY, wrong for names in
    /// archives: see [`LayerPath::strict`].
    pub fn clean(bytes: &[u8]) -> Self {
        // Most paths are clean already, and paths are made by the ten thousand.
        if bytes
            .split(|b| *b == b'/')
            .all(|component| !matches!(component, b"" | b"." | b".."))
        {
            return Self(bytes.into());
        }
        let mut path = Self::root();
        for component in bytes.split(|b| *b == b'/') {
            match component {
                b"" | b"." => {}
                b".." => path = path.parent().unwrap_or_default(),
                name => path = path.join(name),
            }
        }
        path
    }

    /// `bytes` as the name of an archive member: leading `/` and `./` and a trailing `/` are
    /// dropped; `None` if any component is `..` or holds a NUL.
    pub fn strict(bytes: &[u8]) -> Option<Self> {
        let bad = |component: &[u8]| component == b".." || component.contains(&0);
        if bytes.split(|b| *b == b'/').any(bad) {
            return None;
        }
        Some(Self::clean(bytes))
    }

    /// This path and one more component, which must be a plain name.
    pub fn join(&self, name: &[u8]) -> Self {
        debug_assert!(!name.is_empty() && !name.contains(&b'/'));
        if self.is_root() {
            return Self(name.into());
        }
        self.and(name)
    }

    /// This path followed by all components of `rest`.
    pub fn append(&self, rest: &LayerPath) -> Self {
        if self.is_root() || rest.is_root() {
            return if self.is_root() {
                rest.clone()
            } else {
                self.clone()
            };
        }
        self.and(rest.as_bytes())
    }

    /// This path, which is not the root, and `rest`.
    fn and(&self, rest: &[u8]) -> Self {
        let length = self.0.len() + 1 + rest.len();
        // Put together on the stack, most paths are one allocation.
        let mut short = [0; 256];
        let mut long = Vec::new();
        let bytes = short.get_mut(..length).unwrap_or_else(|| {
            long.resize(length, 0);
            &mut long
        });
        let (start, end) = bytes.split_at_mut(self.0.len());
        start.copy_from_slice(&self.0);
        end[0] = b'/';
        end[1..].copy_from_slice(rest);
        Self((&*bytes).into())
    }

    /// The directory that holds it; `None` for the root.
    pub fn parent(&self) -> Option<Self> {
        if self.is_root() {
            return None;
        }
        let end = self.0.iter().rposition(|b| *b == b'/').unwrap_or(0);
        Some(Self(self.0[..end].into()))
    }

    /// The last component; empty for the root.
    pub fn name(&self) -> &[u8] {
        let start = self
            .0
            .iter()
            .rposition(|b| *b == b'/')
            .map_or(0, |slash| slash + 1);
        &self.0[start..]
    }

    /// The components, outermost first.
    pub fn components(&self) -> impl DoubleEndedIterator<Item = &[u8]> {
        self.0.split(|b| *b == b'/').filter(|c| !c.is_empty())
    }

    /// The path relative to `ancestor`; `None` if it does not lie at or below it.
    pub fn strip_prefix(&self, ancestor: &LayerPath) -> Option<Self> {
        if ancestor.is_root() {
            return Some(self.clone());
        }
        match self.0.strip_prefix(&*ancestor.0)? {
            b"" => Some(Self::root()),
            rest => rest.strip_prefix(b"/").map(|rest| Self(rest.into())),
        }
    }

    /// Whether it is `ancestor` or lies below it.
    pub fn lies_in(&self, ancestor: &LayerPath) -> bool {
        match self.0.strip_prefix(&*ancestor.0) {
            Some(rest) => ancestor.is_root() || matches!(rest.first(), None | Some(b'/')),
            None => false,
        }
    }

    /// Whether it is the root.
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// The bytes, without a leading slash.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl Ord for LayerPath {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        // A slash sorts below every other byte, which equals the order by components.
        let key = |b: &u8| if *b == b'/' { 0u16 } else { u16::from(*b) + 1 };
        match self.0.iter().zip(&*other.0).find(|(a, b)| a != b) {
            Some((a, b)) => key(a).cmp(&key(b)),
            None => self.0.len().cmp(&other.0.len()),
        }
    }
}

impl PartialOrd for LayerPath {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for LayerPath {
    /// With a leading slash; bytes that are not UTF-8 are replaced.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/{}", String::from_utf8_lossy(&self.0))
    }
}

impl fmt::Debug for LayerPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A directory. `opaque` hides all that lower layers have in it (`.wh..wh..opq` in a tar).
    Directory {
        /// Whether lower layers are hidden.
        opaque: bool,
    },
    /// A regular file of `size` bytes.
    File {
        /// Bytes.
        size: u64,
    },
    /// A symbolic link with this target, as it stands.
    Symlink {
        /// Target, not resolved.
        target: Vec<u8>,
    },
    /// One more name of the regular file (or special file) `target` of the same layer; mode, owner, times and
    /// xattrs of the entry repeat those of the target.
    Hardlink {
        /// The first name, which sorts before this one.
        target: LayerPath,
    },
    /// A named pipe.
    Fifo,
    /// A character device.
    CharDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A block device.
    BlockDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// The path does not exist any more (`.wh.<name>` in a tar, a 0:0 device in an overlay). Mode, owner, time
    /// and xattrs are zero and empty.
    Whiteout,
}

impl Kind {
    /// Whether it is a device or stands for one on the disk.
    pub(super) fn is_special(&self) -> bool {
        matches!(
            self,
            Kind::CharDevice { .. } | Kind::BlockDevice { .. } | Kind::Whiteout
        )
    }
}

/// One entry of a layer or of a [`crate::tree::Tree`]. Owner ids are those inside the image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Where it lies.
    pub path: LayerPath,
    /// What it is.
    pub kind: Kind,
    /// Permission bits with setuid, setgid and sticky: at most `0o7777`.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Time of the last change of its content.
    pub mtime: Timestamp,
    /// Extended attributes, sorted by name, full names (`security.capability`, `user.x`). Never those of overlayfs.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Entry {
    /// The root of every image: layers say nothing about it.
    pub fn root() -> Self {
        Self {
            path: LayerPath::root(),
            kind: Kind::Directory { opaque: false },
            mode: 0o755,
            uid: 0,
            gid: 0,
            mtime: Timestamp::default(),
            xattrs: Vec::new(),
        }
    }

    /// Says that there is nothing at `path` any more.
    pub fn whiteout(path: LayerPath) -> Self {
        Self {
            path,
            kind: Kind::Whiteout,
            mode: 0,
            uid: 0,
            gid: 0,
            mtime: Timestamp::default(),
            xattrs: Vec::new(),
        }
    }

    /// Whether it is a directory.
    pub fn is_dir(&self) -> bool {
        matches!(self.kind, Kind::Directory { .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_cleaned_and_ordered_by_components() {
        for (given, cleaned) in [
            ("../../a", "a"),
            ("/a/./b//c/", "a/b/c"),
            ("a/../..", ""),
            ("", ""),
            (".", ""),
        ] {
            assert_eq!(
                LayerPath::clean(given.as_bytes()).as_bytes(),
                cleaned.as_bytes(),
                "{given}"
            );
        }
        assert!(LayerPath::strict(b"a/../b").is_none());
        assert_eq!(LayerPath::strict(b"./a/").unwrap().as_bytes(), b"a");
        let mut paths: Vec<LayerPath> = ["a-b", "a/c", "a", "a.d", "b"]
            .iter()
            .map(|p| LayerPath::clean(p.as_bytes()))
            .collect();
        paths.sort();
        let sorted: Vec<&[u8]> = paths.iter().map(LayerPath::as_bytes).collect();
        assert_eq!(sorted, [&b"a"[..], b"a/c", b"a-b", b"a.d", b"b"]);
    }

    #[test]
    fn prefixes_end_at_components() {
        let path = LayerPath::clean(b"a/b/c");
        assert_eq!(
            path.strip_prefix(&LayerPath::clean(b"a")).unwrap().as_bytes(),
            b"b/c"
        );
        assert!(
            LayerPath::clean(b"ab")
                .strip_prefix(&LayerPath::clean(b"a"))
                .is_none()
        );
        let (long, short) = (LayerPath::root().join(&[b'l'; 250]), LayerPath::root().join(b"s"));
        for (path, length) in [
            (long.join(b"12345"), 256),
            (long.append(&path), 256),
            (long.join(&[b'm'; 300]), 551),
        ] {
            assert_eq!(
                (path.as_bytes().len(), path.parent().unwrap().lies_in(&long)),
                (length, true)
            );
        }
        assert_eq!(short.append(&path).as_bytes(), b"s/a/b/c");
        for (ancestor, lies) in [
            ("", true),
            ("a", true),
            ("a/b/c", true),
            ("a/bc", false),
            ("a/b/c/d", false),
        ] {
            let ancestor = LayerPath::clean(ancestor.as_bytes());
            assert_eq!(path.lies_in(&ancestor), lies, "{ancestor}");
            assert_eq!(path.strip_prefix(&ancestor).is_some(), lies, "{ancestor}");
        }
        assert_eq!(path.parent().unwrap().as_bytes(), b"a/b");
        assert_eq!(path.name(), b"c");
    }
}
