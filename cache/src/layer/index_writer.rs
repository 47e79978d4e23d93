//! The index of a layer that is being written, as the bytes of its file: of a million files they take less than the
//! entries, and most of them lie in a file without a name.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt as _;

use rustix::fs::OFlags;

use super::entry::{Entry, Kind, LayerPath};
use super::index::{Encoder, header};
use crate::digest::ContentDigest;
use crate::error::StoreError;
use crate::store::Store;

/// Bytes that are kept in memory.
const MOST: usize = 4 << 20;
/// Bytes that are copied at once.
const PIECE: usize = 128 << 10;

/// Takes entries sorted by path, each path once.
#[derive(Debug)]
pub(super) struct IndexWriter {
    store: Store,
    /// What is not in the file yet.
    out: Encoder,
    file: Option<File>,
    /// Bytes in the file.
    written: u64,
    /// Where each entry begins.
    places: Vec<u64>,
    size: u64,
}

impl IndexWriter {
    pub fn new(store: &Store) -> Self {
        Self {
            store: store.clone(),
            out: Encoder::default(),
            file: None,
            written: 0,
            places: Vec::new(),
            size: 0,
        }
    }

    pub fn push(
        &mut self,
        entry: &Entry,
        data_offset: Option<u64>,
        digest: Option<ContentDigest>,
    ) -> Result<(), StoreError> {
        self.places.push(self.written + self.out.0.len() as u64);
        self.out.entry(entry, data_offset, digest);
        if let Kind::File { size } = entry.kind {
            self.size += size;
        }
        if self.out.0.len() < MOST {
            return Ok(());
        }
        let mut file = match self.file.take() {
            Some(file) => file,
            None => unnamed(&self.store)?,
        };
        file.write_all(&self.out.0)
            .map_err(|error| StoreError::io("writing an index below", self.store.root(), error))?;
        self.file = Some(file);
        self.written += self.out.0.len() as u64;
        self.out.0.clear();
        Ok(())
    }

    /// Whether there is an entry at `path`.
    pub fn has(&self, path: &LayerPath) -> io::Result<bool> {
        let (mut low, mut high) = (0, self.places.len());
        while low < high {
            let middle = low + (high - low) / 2;
            match self.path_at(self.places[middle])?.cmp(path) {
                std::cmp::Ordering::Equal => return Ok(true),
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
            }
        }
        Ok(false)
    }

    /// Sum of the sizes of the files.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Writes the file of the index.
    pub fn write_to(&self, out: &mut dyn Write) -> io::Result<()> {
        let mut hasher = blake3::Hasher::new();
        let mut piece = header(self.places.len());
        let mut place = 0;
        while place < self.written {
            hasher.update(&piece);
            out.write_all(&piece)?;
            let length = usize::try_from(self.written - place).map_or(PIECE, |left| left.min(PIECE));
            piece.resize(length, 0);
            self.read_at(&mut piece, place)?;
            place += length as u64;
        }
        piece.extend_from_slice(&self.out.0);
        hasher.update(&piece);
        piece.extend_from_slice(hasher.finalize().as_bytes());
        out.write_all(&piece)
    }

    /// The path of the entry that begins at `place`: behind two bytes and its length.
    fn path_at(&self, place: u64) -> io::Result<LayerPath> {
        let mut start = [0; 6];
        self.read_at(&mut start, place)?;
        let [_, _, length @ ..] = start;
        let mut path = vec![0; u32::from_le_bytes(length) as usize];
        self.read_at(&mut path, place + 6)?;
        Ok(LayerPath::clean(&path))
    }

    fn read_at(&self, buffer: &mut [u8], place: u64) -> io::Result<()> {
        let kept = place.checked_sub(self.written).map(usize::try_from);
        match (kept, &self.file) {
            (None, Some(file)) => file.read_exact_at(buffer, place),
            (Some(Ok(start)), _) => {
                let kept = self.out.0.get(start..).and_then(|rest| rest.get(..buffer.len()));
                buffer.copy_from_slice(kept.ok_or(io::ErrorKind::UnexpectedEof)?);
                Ok(())
            }
            _ => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

/// A file that goes with its descriptor.
fn unnamed(store: &Store) -> Result<File, StoreError> {
    let (scratch, name) = store.scratch_name()?;
    let directory = scratch.directory();
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL;
    let file = directory
        .file(&name, flags)
        .map_err(|error| StoreError::io("creating", directory.path_of(&name), error))?;
    directory.unlink(&name)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer::index::{IndexEntry, LayerIndex};

    #[test]
    fn the_file_is_that_of_the_entries() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("store")).unwrap();
        // The last has more than is kept in memory.
        for count in [0, 3, 60_000] {
            let mut writer = IndexWriter::new(&store);
            let mut entries = Vec::new();
            for number in 0..count {
                let entry = Entry {
                    path: LayerPath::clean(format!("directory/{number:06}").as_bytes()),
                    kind: Kind::File { size: number },
                    ..Entry::root()
                };
                let digest = Some(ContentDigest::of(&number.to_le_bytes()));
                writer.push(&entry, Some(number), digest).unwrap();
                entries.push(IndexEntry {
                    entry,
                    data_offset: Some(number),
                    digest,
                });
            }
            assert_eq!(writer.file.is_some(), count > 3);
            for found in entries.iter().step_by(997).chain(entries.last()) {
                let path = &found.entry.path;
                assert!(writer.has(path).unwrap() && !writer.has(&path.join(b"x")).unwrap());
            }
            let index = LayerIndex::from_sorted(entries);
            let mut bytes = Vec::new();
            writer.write_to(&mut bytes).unwrap();
            assert!(bytes == index.to_bytes(), "{count}");
            assert_eq!(writer.size(), index.size());
        }
    }
}
