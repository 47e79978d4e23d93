//! Writing a layer from entries, without ever making a tree of it (design D3).

use std::io::{self, Read};

use super::clamp::clamped_entry;
use super::entry::{Entry, Kind, LayerPath, Timestamp};
use super::forms::Layer;
use super::index::{IndexEntry, LayerIndex};
use super::pipe::ThreadWriter;
use super::record::TarForm;
use super::tar_write::TarWriter;
use crate::blob::BlobWriter;
use crate::digest::{ContentDigest, DiffId, LayerId};
use crate::error::StoreError;
use crate::store::Store;

/// Writes the tar of a new layer into the store; hashing and writing go on beside reading. Dropped without
/// commit, it leaves nothing.
#[derive(Debug)]
pub struct LayerBuilder {
    store: Store,
    tar: TarWriter<ThreadWriter<BlobWriter>>,
    entries: Vec<IndexEntry>,
    /// The directories that hold the last entry, and the last entry if it is one.
    open: Vec<LayerPath>,
    latest: Option<Timestamp>,
}

impl LayerBuilder {
    /// From now on later times are written as `latest`, seconds since 1970.
    pub fn clamp(&mut self, latest: i64) {
        self.latest = Some(Timestamp {
            seconds: latest,
            nanoseconds: 0,
        });
    }

    /// Adds an entry. Entries come sorted by path, each path once, directories before what lies in them and never
    /// left out (the root is); the target of a hard link has come before. `data` gives the bytes of a regular file,
    /// exactly as many as `entry` says; their digest is returned. The root is passed over.
    pub fn append(
        &mut self,
        entry: &Entry,
        data: Option<&mut dyn Read>,
    ) -> Result<Option<ContentDigest>, StoreError> {
        if entry.path.is_root() {
            return Ok(None);
        }
        self.check(entry).map_err(failed)?;
        let clamped = clamped_entry(entry, self.latest);
        let entry = clamped.as_ref().unwrap_or(entry);
        let written = self.tar.append(entry, data).map_err(failed)?;
        self.entries.push(IndexEntry {
            entry: entry.clone(),
            data_offset: written.map(|written| written.data_offset),
            digest: written.map(|written| written.digest),
        });
        Ok(written.map(|written| written.digest))
    }

    /// The layer, named after its diff id.
    pub fn commit(self) -> Result<LayerId, StoreError> {
        let (writer, _) = self.tar.finish().map_err(failed)?;
        let (digest, size) = writer.finish().map_err(failed)?.commit(None)?;
        let diff_id = DiffId(digest);
        let index = LayerIndex::from_sorted(self.entries);
        let layer = Layer::named(&self.store, LayerId::of_diff_id(&diff_id));
        layer.establish(Some(&index), |record| {
            record.diff_id = Some(diff_id);
            record.tar = Some(TarForm { digest, size });
            record.size = Some(index.size());
        })?;
        Ok(layer.id().clone())
    }

    /// The order makes the tar a function of the set of entries, and the parents make it independent of what an
    /// unpacker takes for a directory that is not in it.
    fn check(&mut self, entry: &Entry) -> io::Result<()> {
        let fail = |what: &str| {
            Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("{} {what}", entry.path),
            ))
        };
        if self
            .entries
            .last()
            .is_some_and(|last| last.entry.path >= entry.path)
        {
            return fail("does not come in the order of paths");
        }
        while self
            .open
            .last()
            .is_some_and(|directory| !entry.path.lies_in(directory))
        {
            self.open.pop();
        }
        let parent = entry.path.parent().unwrap_or_default();
        if *self.open.last().unwrap_or(&LayerPath::root()) != parent {
            return fail("comes without its parent directory");
        }
        if let Kind::Hardlink { target } = &entry.kind
            && self
                .entries
                .binary_search_by(|e| e.entry.path.cmp(target))
                .is_err()
        {
            return fail("is a hard link to something that is not there");
        }
        if entry.is_dir() {
            self.open.push(entry.path.clone());
        }
        Ok(())
    }
}

impl Store {
    /// Begins a layer.
    pub fn layer_builder(&self) -> Result<LayerBuilder, StoreError> {
        let writer = ThreadWriter::new(self.blob_writer()?);
        Ok(LayerBuilder {
            store: self.clone(),
            tar: TarWriter::new(writer),
            entries: Vec::new(),
            open: Vec::new(),
            latest: None,
        })
    }
}

fn failed(source: io::Error) -> StoreError {
    StoreError::Layer {
        doing: "writing",
        layer: "being built".to_owned(),
        source,
    }
}
