//! A stack of layers as one tree, whiteouts and opaque directories applied, without a mount.
//!
//! Only indexes are read, and those from the top down only as far as needed: a layer below the one that
//! answers is not even fetched. Bytes come from the tree form of a layer if there is one, else out of its tar.

mod parts;

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use crate::digest::ContentDigest;
use crate::error::StoreError;
use crate::layer::{Entry, IndexEntry, Kind, Layer, LayerIndex, LayerPath, open_file};
use crate::tree::{Tree, TreeError};

pub use parts::FileParts;

/// What a stack of layers looks like when they lie on each other.
#[derive(Debug, Clone)]
pub struct View {
    layers: Vec<Layer>,
}

/// What one layer says about a path.
enum Said<'a> {
    /// It has an entry there.
    Entry(&'a IndexEntry),
    /// Nothing is there, and what lower layers have does not count.
    Hidden,
    /// Nothing: ask below.
    Nothing,
}

/// A regular file, found.
struct Found {
    layer: usize,
    index: Arc<LayerIndex>,
    path: LayerPath,
}

impl View {
    /// The stack `layers`, lowest first. Nothing is read yet.
    pub fn new(layers: Vec<Layer>) -> Self {
        Self { layers }
    }

    /// The topmost entry at `path` and the number of its layer.
    fn find(&self, path: &LayerPath) -> Result<Option<(usize, Entry)>, TreeError> {
        for (number, layer) in self.layers.iter().enumerate().rev() {
            let index = layer.index().map_err(|error| store_error(path, &error))?;
            match say(&index, path) {
                Said::Entry(found) => return Ok(Some((number, shown(&index, found)))),
                Said::Hidden => return Ok(None),
                Said::Nothing => {}
            }
        }
        Ok(None)
    }

    /// The file at `path`, by the name that carries its bytes.
    fn find_file(&self, path: &LayerPath) -> Result<Found, TreeError> {
        let missing = |kind: io::ErrorKind| TreeError::Io {
            path: path.clone(),
            cause: kind.into(),
        };
        let (layer, entry) = self.find(path)?.ok_or_else(|| missing(io::ErrorKind::NotFound))?;
        if !matches!(entry.kind, Kind::File { .. }) {
            return Err(missing(io::ErrorKind::InvalidInput));
        }
        let index = self.layers[layer]
            .index()
            .map_err(|error| store_error(path, &error))?;
        let inode = index.get(path).map(|entry| index.inode(entry).entry.path.clone());
        Ok(Found {
            layer,
            path: inode.unwrap_or_else(|| path.clone()),
            index,
        })
    }
    /// Where the bytes of a file lie in the tar of its layer, which is made if there is none: the tar, place, size, digest.
    fn in_tar(
        &self,
        found: &mut Found,
        path: &LayerPath,
    ) -> Result<(PathBuf, u64, u64, ContentDigest), TreeError> {
        let layer = &self.layers[found.layer];
        let io_error = |kind: io::ErrorKind| TreeError::Io {
            path: path.clone(),
            cause: kind.into(),
        };
        let failed = |error: StoreError| store_error(path, &error);
        let tar = match layer.existing_tar().map_err(failed)? {
            Some(tar) => tar,
            None => {
                layer.tar().map_err(failed)?;
                layer
                    .existing_tar()
                    .map_err(failed)?
                    .ok_or_else(|| io_error(io::ErrorKind::NotFound))?
            }
        };
        let place = |index: &LayerIndex| {
            let IndexEntry {
                entry,
                data_offset,
                digest,
            } = index.get(&found.path)?;
            let Kind::File { size } = entry.kind else {
                return None;
            };
            Some(((*data_offset)?, size, (*digest)?))
        };
        let place = match place(&found.index) {
            Some(place) => Some(place),
            None => {
                // The layer was indexed before it had a tar, or by a pass that hashed no files.
                let index = layer.verified_index().map_err(failed)?;
                let place = place(&index);
                found.index = index;
                place
            }
        };
        let (offset, size, digest) = place.ok_or_else(|| io_error(io::ErrorKind::InvalidData))?;
        Ok((tar, offset, size, digest))
    }
}

impl Tree for View {
    fn lookup(&self, path: &LayerPath) -> Result<Option<Entry>, TreeError> {
        if path.is_root() {
            return Ok(Some(Entry::root()));
        }
        Ok(self.find(path)?.map(|(_, entry)| entry))
    }

    fn read_dir(&self, path: &LayerPath) -> Result<Vec<Entry>, TreeError> {
        // `None` for names that a higher layer has removed.
        let mut children: std::collections::BTreeMap<Vec<u8>, Option<Entry>> =
            std::collections::BTreeMap::new();
        let mut is_dir = path.is_root();
        for layer in self.layers.iter().rev() {
            let index = layer.index().map_err(|error| store_error(path, &error))?;
            let mut opaque = false;
            if !path.is_root() {
                match say(&index, path) {
                    Said::Entry(IndexEntry {
                        entry:
                            Entry {
                                kind: Kind::Directory { opaque: is },
                                ..
                            },
                        ..
                    }) => {
                        is_dir = true;
                        opaque = *is || hides_parents(&index, path);
                    }
                    // A file below a directory is hidden by it, and so is all below the file.
                    Said::Entry(_) | Said::Hidden => break,
                    Said::Nothing => continue,
                }
            }
            for child in index.children(path) {
                children
                    .entry(child.entry.path.name().to_vec())
                    .or_insert_with(|| (child.entry.kind != Kind::Whiteout).then(|| shown(&index, child)));
            }
            if opaque {
                break;
            }
        }
        if !is_dir {
            let kind = match self.find(path)? {
                Some(_) => io::ErrorKind::NotADirectory,
                None => io::ErrorKind::NotFound,
            };
            return Err(TreeError::Io {
                path: path.clone(),
                cause: kind.into(),
            });
        }
        Ok(children.into_values().flatten().collect())
    }

    fn open(&self, path: &LayerPath) -> Result<Box<dyn Read + Send>, TreeError> {
        let mut found = self.find_file(path)?;
        let layer = &self.layers[found.layer];
        let io_error = |cause| TreeError::Io {
            path: path.clone(),
            cause,
        };
        let failed = |error: StoreError| store_error(path, &error);
        if let Some((tree, _)) = layer.readable_tree() {
            match File::open(&tree).and_then(|root| open_file(&root, &found.path)) {
                Ok(file) => match found.index.get(&found.path) {
                    Some(IndexEntry {
                        entry:
                            Entry {
                                kind: Kind::File { size },
                                ..
                            },
                        digest: Some(digest),
                        ..
                    }) => {
                        return Ok(Box::new(StoredFile {
                            bytes: file,
                            form: Form::Tree(tree),
                            layer: layer.clone(),
                            offset: 0,
                            remaining: *size,
                            hasher: Some(blake3::Hasher::new()),
                            digest: *digest,
                        }));
                    }
                    // Nobody has read it yet: there is nothing to compare it with.
                    _ => return Ok(Box::new(file)),
                },
                // Owned by an id of the user namespace, which this process did not enter: the tar has it too.
                Err(error)
                    if error.kind() == io::ErrorKind::PermissionDenied
                        && layer.existing_tar().map_err(failed)?.is_some() => {}
                Err(error) => return Err(io_error(error)),
            }
        }
        let (tar, offset, size, digest) = self.in_tar(&mut found, path)?;
        Ok(Box::new(StoredFile {
            bytes: File::open(tar).map_err(io_error)?,
            form: Form::Tar,
            layer: layer.clone(),
            offset,
            remaining: size,
            hasher: Some(blake3::Hasher::new()),
            digest,
        }))
    }

    fn content_digest(&self, entry: &Entry) -> Result<ContentDigest, TreeError> {
        let found = self.find_file(&entry.path)?;
        if let Some(digest) = found.index.get(&found.path).and_then(|entry| entry.digest) {
            return Ok(digest);
        }
        let mut source = self.open(&entry.path)?;
        let mut hasher = blake3::Hasher::new();
        io::copy(&mut source, &mut hasher).map_err(|cause| TreeError::Io {
            path: entry.path.clone(),
            cause,
        })?;
        Ok(ContentDigest(*hasher.finalize().as_bytes()))
    }

    fn link_group(&self, entry: &Entry) -> Result<Option<u64>, TreeError> {
        let Found { layer, index, path } = self.find_file(&entry.path)?;
        let group = index.get(&path).and_then(|inode| index.link_group(inode));
        // Links never go from one layer to another.
        Ok(group.map(|group| (layer as u64) << 40 | group as u64))
    }
}

/// What the layer of `index` says about `path`, which is not the root.
fn say<'a>(index: &'a LayerIndex, path: &LayerPath) -> Said<'a> {
    match index.get(path) {
        Some(IndexEntry {
            entry: Entry {
                kind: Kind::Whiteout, ..
            },
            ..
        }) => return Said::Hidden,
        Some(entry) => return Said::Entry(entry),
        None => {}
    }
    if hides_parents(index, path) {
        Said::Hidden
    } else {
        Said::Nothing
    }
}

/// Whether the layer hides what lower layers have at `path` by what it says about a directory above it: makes it
/// opaque, removes it or puts something else there.
fn hides_parents(index: &LayerIndex, path: &LayerPath) -> bool {
    let mut ancestor = path.parent();
    while let Some(directory) = ancestor.filter(|directory| !directory.is_root()) {
        match index.get(&directory).map(|entry| &entry.entry.kind) {
            Some(Kind::Directory { opaque: false }) | None => {}
            Some(_) => return true,
        }
        ancestor = directory.parent();
    }
    false
}

/// An entry as the tree shows it: directories without a mark, names of linked files as the file.
pub(crate) fn shown(index: &LayerIndex, found: &IndexEntry) -> Entry {
    let inode = &index.inode(found).entry;
    let kind = match &inode.kind {
        Kind::Directory { .. } => Kind::Directory { opaque: false },
        kind => kind.clone(),
    };
    Entry {
        path: found.entry.path.clone(),
        kind,
        ..inode.clone()
    }
}

/// A file in the tar or the tree of its layer. Its end is only given out when the digest is right.
struct StoredFile {
    bytes: File,
    form: Form,
    layer: Layer,
    offset: u64,
    remaining: u64,
    /// Taken when the digest was found right.
    hasher: Option<blake3::Hasher>,
    digest: ContentDigest,
}

/// Where the bytes of a file lie.
enum Form {
    Tar,
    Tree(PathBuf),
}

impl Form {
    fn name(&self) -> &'static str {
        match self {
            Form::Tar => "tar",
            Form::Tree(_) => "tree",
        }
    }
}

impl Read for StoredFile {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.remaining > 0 && !out.is_empty() {
            let wanted = out
                .len()
                .min(usize::try_from(self.remaining).unwrap_or(usize::MAX));
            let length = self.bytes.read_at(&mut out[..wanted], self.offset)?;
            if length > 0 {
                if let Some(hasher) = &mut self.hasher {
                    hasher.update(&out[..length]);
                }
                self.offset += length as u64;
                self.remaining -= length as u64;
                return Ok(length);
            }
        } else if self.remaining > 0 {
            return Ok(0);
        }
        match &self.hasher {
            Some(hasher) if self.remaining > 0 || *hasher.finalize().as_bytes() != self.digest.0 => {
                // The next one who asks gets it made again, or learns that it is lost.
                let _ = match &self.form {
                    Form::Tar => self.layer.discard_tar(),
                    Form::Tree(tree) => self.layer.discard_tree(tree),
                };
                let message = format!(
                    "the {} of layer {} was damaged and has been removed; build again",
                    self.form.name(),
                    self.layer.id()
                );
                Err(io::Error::new(io::ErrorKind::InvalidData, message))
            }
            _ => {
                self.hasher = None;
                Ok(0)
            }
        }
    }
}

fn store_error(path: &LayerPath, error: &StoreError) -> TreeError {
    TreeError::Store {
        path: path.clone(),
        reason: error.to_string(),
    }
}
