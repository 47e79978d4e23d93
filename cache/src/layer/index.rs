//! The index of a layer: all its entries, sorted, and where the bytes of its files lie.
//!
//! On disk it is checksummed; an index that does not check is made again from the bytes of the
//! layer, never believed.

use super::entry::{Entry, Kind, LayerPath, Timestamp};
use crate::digest::{ContentDigest, KeyBuilder};

/// Begins an index file: name and version of the format.
const MAGIC: &[u8; 8] = b"rbidx\0\0\x01";
const CHECKSUM: usize = 32;

/// One entry, and where its bytes are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexEntry {
    /// The entry.
    pub entry: Entry,
    /// Offset of the bytes of a regular file in the uncompressed tar of the layer, when a tar was seen.
    pub data_offset: Option<u64>,
    /// Digest of the bytes of a regular file, when they were hashed.
    pub digest: Option<ContentDigest>,
}

/// The entries of a layer, sorted by path, each path once, every parent directory present.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LayerIndex {
    entries: Vec<IndexEntry>,
    /// Positions of files with more than one name, sorted.
    linked: Vec<usize>,
}

/// An index file that is not what was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the index of a layer is damaged")]
pub struct IndexDamaged;

impl LayerIndex {
    /// An index of `entries`, which are sorted by path and hold each path once.
    pub(super) fn from_sorted(entries: Vec<IndexEntry>) -> Self {
        debug_assert!(entries.is_sorted_by(|a, b| a.entry.path < b.entry.path));
        let mut index = Self {
            entries,
            linked: Vec::new(),
        };
        let mut linked: Vec<usize> = index
            .entries
            .iter()
            .filter_map(|e| match &e.entry.kind {
                Kind::Hardlink { target } => index.position(target),
                _ => None,
            })
            .collect();
        linked.sort_unstable();
        linked.dedup();
        index.linked = linked;
        index
    }

    /// All entries, sorted by path.
    pub fn entries(&self) -> &[IndexEntry] {
        &self.entries
    }

    /// The entry at `path`; the root has none.
    pub fn get(&self, path: &LayerPath) -> Option<&IndexEntry> {
        self.position(path).map(|position| &self.entries[position])
    }

    /// The entry that a hard link names; any other entry itself.
    pub fn inode<'a>(&'a self, entry: &'a IndexEntry) -> &'a IndexEntry {
        match &entry.entry.kind {
            Kind::Hardlink { target } => self.get(target).unwrap_or(entry),
            _ => entry,
        }
    }

    /// A number for the file `inode` if it has more than one name in this layer.
    pub fn link_group(&self, inode: &IndexEntry) -> Option<usize> {
        let position = self.position(&inode.entry.path)?;
        self.linked.binary_search(&position).ok().map(|_| position)
    }

    /// The entries directly in the directory `path`, sorted by name.
    pub fn children<'a>(&'a self, path: &LayerPath) -> Children<'a> {
        let start = if path.is_root() {
            0
        } else {
            self.entries.partition_point(|e| e.entry.path <= *path)
        };
        let end = start + self.entries[start..].partition_point(|e| e.entry.path.lies_in(path));
        Children {
            rest: &self.entries[start..end],
        }
    }

    /// Sum of the sizes of the files.
    pub fn size(&self) -> u64 {
        self.entries
            .iter()
            .map(|e| {
                if let Kind::File { size } = e.entry.kind {
                    size
                } else {
                    0
                }
            })
            .sum()
    }

    /// Digest of all entries and of the bytes of all files, without times; `None` when the digest of a file is not known.
    pub fn content(&self) -> Option<ContentDigest> {
        let mut key = KeyBuilder::new("layer content/1");
        for IndexEntry { entry, digest, .. } in &self.entries {
            let mut fixed = Vec::new();
            for number in [entry.mode, entry.uid, entry.gid] {
                fixed.extend_from_slice(&number.to_le_bytes());
            }
            key.field("path", entry.path.as_bytes()).field("owner", &fixed);
            match &entry.kind {
                Kind::File { .. } => key.field("file", &(*digest)?.0),
                Kind::Directory { opaque } => key.field("directory", &[u8::from(*opaque)]),
                Kind::Symlink { target } => key.field("symlink", target),
                Kind::Hardlink { target } => key.field("hardlink", target.as_bytes()),
                Kind::Fifo => key.field("fifo", b""),
                Kind::CharDevice { major, minor } => {
                    key.list("char", [major.to_le_bytes(), minor.to_le_bytes()])
                }
                Kind::BlockDevice { major, minor } => {
                    key.list("block", [major.to_le_bytes(), minor.to_le_bytes()])
                }
                Kind::Whiteout => key.field("whiteout", b""),
            };
            key.list(
                "xattrs",
                entry.xattrs.iter().flat_map(|(name, value)| [name, value]),
            );
        }
        Some(ContentDigest(key.finish().0))
    }

    /// As a file.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Encoder(Vec::with_capacity(self.entries.len() * 96 + 64));
        out.0.extend_from_slice(&header(self.entries.len()));
        for found in &self.entries {
            out.entry(&found.entry, found.data_offset, found.digest);
        }
        let checksum = blake3::hash(&out.0);
        out.0.extend_from_slice(checksum.as_bytes());
        out.0
    }

    /// From a file.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, IndexDamaged> {
        let input = Self::read(bytes)?;
        // An entry takes more than 16 bytes, so that no count can ask for more memory than the file has.
        let mut entries = Vec::with_capacity(input.left.min(bytes.len() / 16));
        for entry in input {
            entries.push(entry?);
        }
        if !entries.is_sorted_by(|a: &IndexEntry, b| a.entry.path < b.entry.path) {
            return Err(IndexDamaged);
        }
        Ok(Self::from_sorted(entries))
    }

    /// The entries of a file, one after the other.
    pub(super) fn read(bytes: &[u8]) -> Result<Stored<'_>, IndexDamaged> {
        let (body, checksum) = bytes
            .split_at_checked(bytes.len().wrapping_sub(CHECKSUM))
            .ok_or(IndexDamaged)?;
        if blake3::hash(body).as_bytes() != checksum {
            return Err(IndexDamaged);
        }
        let mut input = Decoder(body.strip_prefix(MAGIC).ok_or(IndexDamaged)?);
        let left = usize::try_from(input.u64()?).map_err(|_| IndexDamaged)?;
        Ok(Stored { input, left })
    }

    fn position(&self, path: &LayerPath) -> Option<usize> {
        self.entries.binary_search_by(|e| e.entry.path.cmp(path)).ok()
    }
}

/// How the file of an index with so many entries begins.
pub(super) fn header(entries: usize) -> Vec<u8> {
    [&MAGIC[..], &(entries as u64).to_le_bytes()].concat()
}

/// The entries directly in one directory.
#[derive(Debug, Clone)]
pub struct Children<'a> {
    rest: &'a [IndexEntry],
}

impl<'a> Iterator for Children<'a> {
    type Item = &'a IndexEntry;

    fn next(&mut self) -> Option<&'a IndexEntry> {
        let (child, rest) = self.rest.split_first()?;
        let below = |e: &IndexEntry| e.entry.path.lies_in(&child.entry.path);
        // All that lies below the child follows it.
        let skip = if child.entry.is_dir() {
            rest.partition_point(below)
        } else {
            0
        };
        self.rest = &rest[skip..];
        Some(child)
    }
}

/// Entries as their bytes in a file.
#[derive(Debug, Default)]
pub(super) struct Encoder(pub Vec<u8>);

impl Encoder {
    fn u32(&mut self, value: u32) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    fn u64(&mut self, value: u64) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    fn bytes(&mut self, bytes: &[u8]) {
        // Names and attributes are far below 4 GiB: the kernel and the tar reader see to it.
        self.u32(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
        self.0.extend_from_slice(bytes);
    }

    pub fn entry(&mut self, entry: &Entry, data_offset: Option<u64>, digest: Option<ContentDigest>) {
        let present = u8::from(data_offset.is_some()) | u8::from(digest.is_some()) << 1;
        let kind = match entry.kind {
            Kind::Directory { opaque } => u8::from(opaque),
            Kind::File { .. } => 2,
            Kind::Symlink { .. } => 3,
            Kind::Hardlink { .. } => 4,
            Kind::Fifo => 5,
            Kind::CharDevice { .. } => 6,
            Kind::BlockDevice { .. } => 7,
            Kind::Whiteout => 8,
        };
        // [`super::index_writer`] reads this much of it again.
        self.0.extend_from_slice(&[kind, present]);
        self.bytes(entry.path.as_bytes());
        for number in [entry.mode, entry.uid, entry.gid, entry.mtime.nanoseconds] {
            self.u32(number);
        }
        self.u64(entry.mtime.seconds.cast_unsigned());
        match &entry.kind {
            Kind::File { size } => self.u64(*size),
            Kind::Symlink { target } => self.bytes(target),
            Kind::Hardlink { target } => self.bytes(target.as_bytes()),
            Kind::CharDevice { major, minor } | Kind::BlockDevice { major, minor } => {
                self.u32(*major);
                self.u32(*minor);
            }
            Kind::Directory { .. } | Kind::Fifo | Kind::Whiteout => {}
        }
        if let Some(offset) = data_offset {
            self.u64(offset);
        }
        if let Some(digest) = digest {
            self.0.extend_from_slice(&digest.0);
        }
        self.u32(u32::try_from(entry.xattrs.len()).unwrap_or(u32::MAX));
        for (name, value) in &entry.xattrs {
            self.bytes(name);
            self.bytes(value);
        }
    }
}

/// The entries of an index file. It ends with the first that is damaged, or with one that is there too much.
pub(super) struct Stored<'a> {
    input: Decoder<'a>,
    left: usize,
}

impl Iterator for Stored<'_> {
    type Item = Result<IndexEntry, IndexDamaged>;

    fn next(&mut self) -> Option<Self::Item> {
        let Some(left) = self.left.checked_sub(1) else {
            let rest = std::mem::take(&mut self.input.0);
            return (!rest.is_empty()).then_some(Err(IndexDamaged));
        };
        let entry = self.input.entry();
        self.left = if entry.is_ok() { left } else { 0 };
        if entry.is_err() {
            self.input.0 = &[];
        }
        Some(entry)
    }
}

struct Decoder<'a>(&'a [u8]);

impl<'a> Decoder<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], IndexDamaged> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(IndexDamaged)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], IndexDamaged> {
        self.take(N)?.try_into().map_err(|_| IndexDamaged)
    }

    fn u32(&mut self) -> Result<u32, IndexDamaged> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, IndexDamaged> {
        self.array().map(u64::from_le_bytes)
    }

    fn bytes(&mut self) -> Result<&'a [u8], IndexDamaged> {
        let length = self.u32()?;
        self.take(length as usize)
    }

    fn path(&mut self) -> Result<LayerPath, IndexDamaged> {
        LayerPath::strict(self.bytes()?)
            .filter(|path| !path.is_root())
            .ok_or(IndexDamaged)
    }

    fn entry(&mut self) -> Result<IndexEntry, IndexDamaged> {
        let [kind, present] = self.array()?;
        let path = self.path()?;
        let (mode, uid, gid, nanoseconds) = (self.u32()?, self.u32()?, self.u32()?, self.u32()?);
        let seconds = self.u64()?.cast_signed();
        let kind = match kind {
            0 | 1 => Kind::Directory { opaque: kind == 1 },
            2 => Kind::File { size: self.u64()? },
            3 => Kind::Symlink {
                target: self.bytes()?.to_vec(),
            },
            4 => Kind::Hardlink { target: self.path()? },
            5 => Kind::Fifo,
            6 => Kind::CharDevice {
                major: self.u32()?,
                minor: self.u32()?,
            },
            7 => Kind::BlockDevice {
                major: self.u32()?,
                minor: self.u32()?,
            },
            8 => Kind::Whiteout,
            _ => return Err(IndexDamaged),
        };
        let data_offset = if present & 1 == 0 { None } else { Some(self.u64()?) };
        let digest = if present & 2 == 0 {
            None
        } else {
            Some(ContentDigest(self.array()?))
        };
        let count = self.u32()?;
        let xattrs = (0..count)
            .map(|_| Ok((self.bytes()?.to_vec(), self.bytes()?.to_vec())))
            .collect::<Result<_, _>>()?;
        let entry = Entry {
            path,
            kind,
            mode,
            uid,
            gid,
            mtime: Timestamp { seconds, nanoseconds },
            xattrs,
        };
        Ok(IndexEntry {
            entry,
            data_offset,
            digest,
        })
    }
}
