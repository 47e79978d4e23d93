//! What the headers of one member of an archive say together: GNU's long names, PAX records and the header itself, by
//! Go's rules which of them counts.

use super::entry::{Entry, Kind, LayerPath, Timestamp};
use super::ownership::RESERVED;
use super::tar_header::{Header, Record, decimal, flag, pax_time};
use super::tar_read::TarError;

/// Longest name, link target and GNU long name.
pub(super) const MAX_PATH: usize = 4096;

/// Prefix of the names that say in a layer what does not exist any more.
pub(super) const WHITEOUT_PREFIX: &[u8] = b".wh.";
/// Name of the marker that hides the lower layers' content of its directory.
pub(super) const OPAQUE_MARKER: &[u8] = b".wh..wh..opq";

/// How names that begin with `.wh.` are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    Layer,
    Archive,
}

/// What headers before the member's own one said about it.
#[derive(Debug, Default)]
pub(super) struct Extended {
    pub(super) pax: Option<Vec<Record>>,
    pub(super) long_name: Option<Vec<u8>>,
    pub(super) long_link: Option<Vec<u8>>,
}

impl Extended {
    pub(super) fn is_empty(&self) -> bool {
        self.pax.is_none() && self.long_name.is_none() && self.long_link.is_none()
    }
}

/// Everything that may be said twice about a member, after the rules which of the two counts.
#[derive(Debug)]
pub(super) struct Facts {
    name: Vec<u8>,
    link: Vec<u8>,
    pub(super) size: u64,
    uid: u32,
    gid: u32,
    mtime: Timestamp,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Facts {
    pub(super) fn of(header: &Header<'_>, extended: &Extended) -> Result<Self, TarError> {
        let (mut name, mut link) = (header.name(), header.link_name());
        let (mut uid, mut gid, mut size) = (header.uid()?, header.gid()?, header.size()?);
        let mut mtime = Timestamp {
            seconds: header.mtime()?,
            nanoseconds: 0,
        };
        let mut xattrs: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
        if let Some(long) = &extended.long_name {
            name.clone_from(long);
        }
        if let Some(long) = &extended.long_link {
            link.clone_from(long);
        }
        for (key, value) in extended.pax.iter().flatten() {
            if is_sparse(key) {
                return Err(unsupported(&name, "sparse files"));
            }
            if let Some(xattr) = key.strip_prefix(b"SCHILY.xattr.") {
                if xattr.is_empty() {
                    return Err(TarError::Pax("an extended attribute has no name"));
                }
                xattrs.retain(|(name, _)| name != xattr);
                // Those would take effect in the tree form of the layer.
                if !is_tree_xattr(xattr) {
                    xattrs.push((xattr.to_vec(), value.clone()));
                }
                continue;
            }
            // An empty value takes the record back: the header counts.
            if value.is_empty() {
                continue;
            }
            let number = |field| {
                decimal(value)
                    .and_then(|v| i64::try_from(v).ok())
                    .ok_or(TarError::Number { field })
            };
            match key.as_slice() {
                b"path" if extended.long_name.is_some() => {
                    return Err(TarError::Pax("a path and a GNU long name"));
                }
                b"linkpath" if extended.long_link.is_some() => {
                    return Err(TarError::Pax("a linkpath and a GNU long link target"));
                }
                b"path" => name.clone_from(value),
                b"linkpath" => link.clone_from(value),
                b"size" => size = number("size")?,
                b"uid" => uid = number("uid")?,
                b"gid" => gid = number("gid")?,
                b"mtime" => {
                    let (seconds, nanoseconds) =
                        pax_time(value).ok_or(TarError::Number { field: "mtime" })?;
                    mtime = Timestamp { seconds, nanoseconds };
                }
                b"hdrcharset" if value != b"BINARY" && value != b"ISO-IR 10646 2000 UTF-8" => {
                    return Err(TarError::Pax("unknown hdrcharset"));
                }
                // Others (atime, comment, names of owners, vendors' notes) do not say what a layer keeps.
                _ => {}
            }
        }
        for (name, what) in [
            (&name, "the name is longer than 4096 bytes"),
            (&link, "the link target is longer than 4096 bytes"),
        ] {
            if name.len() > MAX_PATH {
                return Err(bad_name(&name[..MAX_PATH], what));
            }
        }
        xattrs.sort();
        Ok(Self {
            name,
            link,
            size: size_of(size)?,
            uid: id(uid, "uid")?,
            gid: id(gid, "gid")?,
            mtime,
            xattrs,
        })
    }

    /// As in Go's archive/tar, the size of all others counts no bytes.
    pub(super) fn has_data(&self, typeflag: u8) -> bool {
        match typeflag {
            flag::FILE | flag::CONTIGUOUS => true,
            flag::FILE_OLD => self.name.last() != Some(&b'/'),
            _ => false,
        }
    }

    pub(super) fn entry(&self, header: &Header<'_>, mode: Mode) -> Result<(Entry, bool), TarError> {
        let path = LayerPath::strict(&self.name)
            .ok_or_else(|| bad_name(&self.name, "it has a .. component or a NUL"))?;
        let trailing_slash = self.name.last() == Some(&b'/');
        let kind = match header.typeflag() {
            // Before there was a flag for them, directories were files with a slash behind the name.
            flag::FILE_OLD if trailing_slash => Kind::Directory { opaque: false },
            flag::FILE | flag::FILE_OLD | flag::CONTIGUOUS => Kind::File { size: self.size },
            flag::DIRECTORY => Kind::Directory { opaque: false },
            flag::SYMLINK => {
                if self.link.is_empty() || self.link.contains(&0) {
                    return Err(bad_name(&self.name, "its link target is empty or holds a NUL"));
                }
                Kind::Symlink {
                    target: self.link.clone(),
                }
            }
            flag::HARDLINK => {
                let target = LayerPath::strict(&self.link)
                    .filter(|target| !target.is_root())
                    .ok_or_else(|| bad_name(&self.link, "no hard link can point there"))?;
                Kind::Hardlink { target }
            }
            flag::FIFO => Kind::Fifo,
            flag::CHAR | flag::BLOCK => {
                let (major, minor) = header.device()?;
                match (header.typeflag(), major, minor, mode) {
                    // In a tree this is how overlayfs says that a name is gone.
                    (flag::CHAR, 0, 0, Mode::Layer) => Kind::Whiteout,
                    (flag::CHAR, 0, 0, Mode::Archive) => {
                        return Err(unsupported(
                            &self.name,
                            "a character device 0:0 would delete a file",
                        ));
                    }
                    (flag::CHAR, ..) => Kind::CharDevice { major, minor },
                    _ => Kind::BlockDevice { major, minor },
                }
            }
            other => {
                return Err(unsupported(&self.name, &format!("type {:?}", char::from(other))));
            }
        };
        if path.is_root() && !matches!(kind, Kind::Directory { .. }) {
            return Err(bad_name(&self.name, "the root can only be a directory"));
        }
        if path.components().any(|name| name.starts_with(WHITEOUT_PREFIX)) {
            return self.whiteout(&path, &kind, mode);
        }
        if kind == Kind::Whiteout {
            return Ok((whiteout_entry(path, Kind::Whiteout), false));
        }
        let entry = Entry {
            path,
            kind,
            mode: header.mode()?,
            uid: self.uid,
            gid: self.gid,
            mtime: self.mtime,
            xattrs: self.xattrs.clone(),
        };
        Ok((entry, false))
    }

    /// A name with a component that begins with `.wh.`.
    fn whiteout(&self, path: &LayerPath, kind: &Kind, mode: Mode) -> Result<(Entry, bool), TarError> {
        let parent = path.parent().unwrap_or_default();
        if mode == Mode::Archive {
            return Err(bad_name(
                &self.name,
                "names beginning with .wh. are whiteouts, which only layers may hold",
            ));
        }
        if parent.components().any(|name| name.starts_with(WHITEOUT_PREFIX)) {
            return Err(bad_name(&self.name, "it lies below a whiteout"));
        }
        if !matches!(kind, Kind::File { .. } | Kind::Hardlink { .. }) {
            return Err(bad_name(&self.name, "a whiteout is a regular file"));
        }
        if path.name() == OPAQUE_MARKER {
            // Overlayfs knows no opaque root, and no builder writes one.
            if parent.is_root() {
                return Err(bad_name(&self.name, "the root cannot be opaque"));
            }
            return Ok((whiteout_entry(parent, Kind::Directory { opaque: true }), true));
        }
        match &path.name()[WHITEOUT_PREFIX.len()..] {
            b"" | b"." | b".." => Err(bad_name(&self.name, "it is no whiteout of a file")),
            // aufs kept its own files under such names.
            name if name.starts_with(WHITEOUT_PREFIX) => {
                Err(bad_name(&self.name, "unknown kind of whiteout"))
            }
            name => Ok((whiteout_entry(parent.join(name), Kind::Whiteout), false)),
        }
    }
}

fn whiteout_entry(path: LayerPath, kind: Kind) -> Entry {
    Entry {
        path,
        kind,
        mode: 0,
        uid: 0,
        gid: 0,
        mtime: Timestamp::default(),
        xattrs: Vec::new(),
    }
}

fn size_of(size: i64) -> Result<u64, TarError> {
    // A margin, so that offsets cannot overflow.
    u64::try_from(size)
        .ok()
        .filter(|size| *size < 1 << 60)
        .ok_or(TarError::Number { field: "size" })
}

fn id(value: i64, field: &'static str) -> Result<u32, TarError> {
    // chown takes the highest one as "leave it".
    u32::try_from(value)
        .ok()
        .filter(|id| *id != u32::MAX)
        .ok_or(TarError::Number { field })
}

fn is_sparse(key: &[u8]) -> bool {
    key.starts_with(b"GNU.sparse.") || key == b"SCHILY.realsize" || key == b"SCHILY.filetype"
}

pub(super) fn changes_members(key: &[u8]) -> bool {
    let plain: [&[u8]; 7] = [
        b"path",
        b"linkpath",
        b"size",
        b"uid",
        b"gid",
        b"mtime",
        b"hdrcharset",
    ];
    plain.contains(&key) || key.starts_with(b"SCHILY.xattr.") || is_sparse(key)
}

/// Whether overlayfs, or a tree whose owners are notes, would take the attribute as its own.
pub(super) fn is_tree_xattr(name: &[u8]) -> bool {
    [b"user.overlay.".as_slice(), b"trusted.overlay.", RESERVED]
        .iter()
        .any(|prefix| name.starts_with(prefix))
}

fn shown(name: &[u8]) -> String {
    String::from_utf8_lossy(&name[..name.len().min(200)]).into_owned()
}

pub(super) fn bad_name(name: &[u8], reason: &'static str) -> TarError {
    TarError::Name {
        name: shown(name),
        reason,
    }
}

pub(super) fn unsupported(name: &[u8], what: &str) -> TarError {
    TarError::Unsupported {
        name: shown(name),
        what: what.to_owned(),
    }
}
