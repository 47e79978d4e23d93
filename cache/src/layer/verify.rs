//! Is a layer in the store what it was? For `store check`, which looks at everything and changes nothing by it.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::beneath::open_file;
use super::compress::Decompressor;
use super::entry::{Entry, Kind};
use super::forms::Layer;
use super::index::{IndexEntry, LayerIndex};
use super::receive::index_of;
use super::record::LayerRecord;
use super::tar_read::TarReader;
use super::upper::walk_tree;
use crate::digest::{ContentDigest, Digest};
use crate::error::StoreError;

/// What was found of one tree.
#[derive(Debug)]
pub(crate) struct TreeChecked {
    pub(crate) tree: PathBuf,
    /// The first path that is not what it was, and why.
    pub(crate) found: Option<(String, String)>,
    pub(crate) bytes_read: u64,
}

impl Layer {
    /// Whether the index file is there and sound.
    pub(crate) fn has_whole_index(&self) -> Result<bool, StoreError> {
        Ok(self.stored_index()?.is_some())
    }

    /// Whether the blob can be made from another form that is here.
    pub(crate) fn can_make(&self, digest: &Digest) -> bool {
        self.readable_tree().is_some()
            || self.record().is_ok_and(|facts| {
                facts
                    .blobs()
                    .any(|other| other != digest && self.store().has_blob(other))
            })
    }

    /// Takes a blob that was lost from what is known about the layer: it is made again when somebody wants it.
    pub(crate) fn forget_blob(&self, digest: &Digest) -> Result<(), StoreError> {
        let _lock = self.lock()?;
        self.change_record(|record| {
            record.tar = record.tar.take().filter(|tar| tar.digest != *digest);
            record
                .compressed
                .retain(|form| form.digest != *digest || form.encoder.is_none());
        })
    }

    /// Compares the trees that this process can read with what is known about the layer; with `data` also their bytes. `spoilt`
    /// are blobs that are not to be believed.
    pub(crate) fn check_trees(&self, data: bool, spoilt: &[Digest]) -> Result<Vec<TreeChecked>, StoreError> {
        let mut checked = Vec::new();
        for ownership in self.store().readable_trees() {
            let tree = self.directory().join(ownership.tree_name());
            if !tree.is_dir() {
                continue;
            }
            let Some(known) = self.known_entries(data, spoilt)? else {
                continue;
            };
            let fail = |error| StoreError::io("checking", &tree, error);
            let mut bytes_read = 0;
            let found = match walk_tree(&tree, *ownership) {
                Ok(walked) => match first_difference(&known, &walked) {
                    None if data => first_other_bytes(&tree, &known, &mut bytes_read).map_err(fail)?,
                    found => found,
                },
                // What cannot be walked is no tree, unless it went meanwhile.
                Err(_) if !tree.exists() => None,
                Err(error) => Some((String::new(), error.to_string())),
            };
            checked.push(TreeChecked {
                tree,
                found,
                bytes_read,
            });
        }
        Ok(checked)
    }

    /// The entries by the index or, when that does not know the bytes of files and they are asked for, by a blob.
    fn known_entries(&self, data: bool, spoilt: &[Digest]) -> Result<Option<LayerIndex>, StoreError> {
        let index = self.stored_index()?;
        let knows = |index: &LayerIndex| {
            index
                .entries()
                .iter()
                .all(|e| e.digest.is_some() || !matches!(e.entry.kind, Kind::File { .. }))
        };
        if index.as_ref().is_some_and(|index| !data || knows(index)) {
            return Ok(index);
        }
        let record = self.record()?;
        for digest in record
            .diff_id
            .iter()
            .map(|diff_id| &diff_id.0)
            .chain(record.blobs())
        {
            if !self.store().has_blob(digest) || spoilt.contains(digest) {
                continue;
            }
            let source = fs::File::open(self.store().blob_path(digest))
                .map_err(|error| StoreError::io("reading", self.store().blob_path(digest), error))?;
            let read =
                Decompressor::new(source).and_then(|source| index_of(TarReader::layer(source), None, true));
            match read {
                Ok(index) => return Ok(Some(index)),
                // A blob that cannot be read is found by its digest.
                Err(_) => continue,
            }
        }
        Ok(index)
    }
}

/// The first path at which two trees differ in what can be seen without reading files. Directories change
/// their times with what is in them.
fn first_difference(known: &LayerIndex, walked: &LayerIndex) -> Option<(String, String)> {
    let differs = |entry: &Entry, why: &str| Some((entry.path.to_string(), why.to_owned()));
    // Who has no right to make a device has left it out.
    let made =
        |entry: &&IndexEntry| !entry.entry.kind.is_special() || walked.get(&entry.entry.path).is_some();
    let mut known = known.entries().iter().filter(made).peekable();
    let mut walked = walked.entries().iter().peekable();
    loop {
        let (one, other) = match (known.peek(), walked.peek()) {
            (None, None) => return None,
            (Some(one), None) => return differs(&one.entry, "is missing"),
            (None, Some(other)) => return differs(&other.entry, "was added"),
            (Some(one), Some(other)) => (&one.entry, &other.entry),
        };
        if one.path != other.path {
            let (first, why) = if one.path < other.path {
                (one, "is missing")
            } else {
                (other, "was added")
            };
            return differs(first, why);
        }
        let why = if one.kind != other.kind {
            "is something else, or has another size"
        } else if one.mode != other.mode {
            "has another mode"
        } else if (one.uid, one.gid) != (other.uid, other.gid) {
            "has another owner"
        } else if one.xattrs != other.xattrs {
            "has other extended attributes"
        } else if one.mtime != other.mtime && matches!(one.kind, Kind::File { .. }) {
            "was changed"
        } else {
            known.next();
            walked.next();
            continue;
        };
        return differs(one, why);
    }
}

/// The first file whose bytes have another digest.
fn first_other_bytes(
    tree: &Path,
    known: &LayerIndex,
    bytes_read: &mut u64,
) -> io::Result<Option<(String, String)>> {
    let root = fs::File::open(tree)?;
    let mut buffer = vec![0; 128 << 10];
    for IndexEntry { entry, digest, .. } in known.entries() {
        let (Kind::File { .. }, Some(digest)) = (&entry.kind, digest) else {
            continue;
        };
        let mut file = open_file(&root, &entry.path)?;
        let mut hasher = blake3::Hasher::new();
        loop {
            let length = match file.read(&mut buffer) {
                Ok(0) => break,
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            hasher.update(&buffer[..length]);
            *bytes_read += length as u64;
        }
        if ContentDigest(*hasher.finalize().as_bytes()) != *digest {
            return Ok(Some((
                entry.path.to_string(),
                "its bytes have another digest".to_owned(),
            )));
        }
    }
    Ok(None)
}

/// How much of a record file is sound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Soundness {
    /// All of it.
    Sound,
    /// There is none.
    Missing,
    /// Not all of it.
    Damaged,
}

impl LayerRecord {
    /// Whether all states in the record file in `directory` are what was written.
    pub(crate) fn soundness(directory: &Path, id: &crate::digest::LayerId) -> Result<Soundness, StoreError> {
        let path = directory.join("record.json");
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Soundness::Missing),
            Err(error) => return Err(StoreError::io("reading", path, error)),
        };
        let mut lines = bytes
            .split(|b| *b == b'\n')
            .filter(|line| !line.is_empty())
            .peekable();
        let sound = lines.peek().is_some() && lines.all(|line| Self::is_sound(line, id));
        Ok(if sound {
            Soundness::Sound
        } else {
            Soundness::Damaged
        })
    }
}
