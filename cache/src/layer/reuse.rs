//! Files of a new layer that an earlier one has too: they are read out of its tar, which is one file, instead of
//! opening each of them where it comes from.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::{AtomicBool, Ordering};

use super::entry::{Kind, LayerPath};
use super::forms::Layer;
use super::index::{IndexEntry, LayerIndex};
use crate::digest::ContentDigest;
use crate::error::StoreError;

/// A file that the new layer is to have.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// Where, in the layer.
    pub path: &'a LayerPath,
    /// Its length.
    pub size: u64,
    /// Its content.
    pub digest: &'a ContentDigest,
}

/// The tar of an earlier layer, and where in it files are that a new layer wants. The bytes are **not** verified:
/// whoever copies them hashes them anyway, and says so when they are wrong ([`Reuse::spoil`]).
#[derive(Debug)]
pub struct Reuse {
    layer: Layer,
    tar: File,
    places: Vec<Option<u64>>,
    spoiled: AtomicBool,
}

impl Layer {
    /// Which of the files `wanted`, sorted by path, the layer has under the same name with the same content. `None` when
    /// it has none of them, or no tar.
    pub fn reuse<'a>(&self, wanted: impl Iterator<Item = Wanted<'a>>) -> Result<Option<Reuse>, StoreError> {
        let Some(tar) = self.existing_tar()? else {
            return Ok(None);
        };
        let (Ok(tar), Ok(bytes)) = (File::open(tar), fs::read(self.index_path())) else {
            return Ok(None);
        };
        let places = LayerIndex::read(&bytes).and_then(|entries| places(entries, wanted));
        // A damaged index, or none, is no more than nothing to reuse.
        Ok(places
            .ok()
            .filter(|places| places.iter().any(Option::is_some))
            .map(|places| Reuse {
                layer: self.clone(),
                tar,
                places,
                spoiled: AtomicBool::new(false),
            }))
    }
}

/// Where each of `wanted` is, in one pass over both.
fn places<'a, E>(
    entries: impl Iterator<Item = Result<IndexEntry, E>>,
    wanted: impl Iterator<Item = Wanted<'a>>,
) -> Result<Vec<Option<u64>>, E> {
    let mut places = Vec::new();
    let mut wanted = wanted.peekable();
    for entry in entries {
        let entry = entry?;
        while wanted.next_if(|file| *file.path < entry.entry.path).is_some() {
            places.push(None);
        }
        if let Some(file) = wanted.next_if(|file| *file.path == entry.entry.path) {
            let same =
                entry.entry.kind == (Kind::File { size: file.size }) && entry.digest == Some(*file.digest);
            places.push(entry.data_offset.filter(|_| same));
        }
    }
    places.extend(wanted.map(|_| None));
    Ok(places)
}

impl Reuse {
    /// Where the file `number` of those that were wanted is.
    pub fn place(&self, number: usize) -> Option<u64> {
        self.places.get(number).copied().flatten()
    }

    /// Reads from the tar.
    pub fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.tar.read_at(buffer, offset)
    }

    /// Says that the tar gave other bytes than it should. It is removed: whoever asks for it next gets it made again, or
    /// learns that it is lost.
    pub fn spoil(&self) {
        if !self.spoiled.swap(true, Ordering::Relaxed) {
            let _ = self.layer.discard_tar();
        }
    }

    /// Whether the tar gave wrong bytes.
    pub fn is_spoiled(&self) -> bool {
        self.spoiled.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer::Entry;
    use crate::store::Store;

    #[test]
    fn files_are_found_by_name_and_content() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("store")).unwrap();
        let files = [("a", "one"), ("c", "two"), ("d", "same"), ("f", "last")];
        let mut builder = store.layer_builder().unwrap();
        for (name, text) in files {
            let entry = Entry {
                path: LayerPath::clean(name.as_bytes()),
                kind: Kind::File {
                    size: text.len() as u64,
                },
                mode: 0o644,
                ..Entry::root()
            };
            builder.append(&entry, Some(&mut text.as_bytes())).unwrap();
        }
        let layer = store.layer(&builder.commit().unwrap()).unwrap();

        let wanted = [
            ("a", "one"),
            ("b", "one"),
            ("c", "tow"),
            ("d", "same"),
            ("g", "last"),
        ];
        let paths = wanted.map(|(name, _)| LayerPath::clean(name.as_bytes()));
        let digests = wanted.map(|(_, text)| ContentDigest::of(text.as_bytes()));
        let wanted: Vec<Wanted<'_>> = (0..wanted.len())
            .map(|n| Wanted {
                path: &paths[n],
                size: wanted[n].1.len() as u64,
                digest: &digests[n],
            })
            .collect();
        let reuse = layer.reuse(wanted.iter().copied()).unwrap().unwrap();
        let read = |n: usize| {
            let mut buffer = vec![0; usize::try_from(wanted[n].size).unwrap()];
            reuse.read_at(&mut buffer, reuse.place(n)?).unwrap();
            Some(String::from_utf8(buffer).unwrap())
        };
        let found: Vec<Option<String>> = (0..wanted.len()).map(read).collect();
        assert_eq!(
            found,
            [Some("one".to_owned()), None, None, Some("same".to_owned()), None]
        );
        assert!(layer.reuse(wanted[1..3].iter().copied()).unwrap().is_none());

        assert!(!reuse.is_spoiled());
        reuse.spoil();
        assert!(reuse.is_spoiled() && layer.existing_tar().unwrap().is_none());
        assert!(layer.reuse(wanted.iter().copied()).unwrap().is_none());
    }
}
