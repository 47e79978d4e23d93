//! Writing a layer from entries, without ever making a tree of it (design D3).

use std::io::{self, Read};

use super::clamp::clamped_entry;
use super::entry::{Entry, Kind, LayerPath, Timestamp};
use super::forms::Layer;
use super::index_writer::IndexWriter;
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
    index: IndexWriter,
    last: LayerPath,
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
        self.check(entry).map_err(|error| failed(&self.store, error))?;
        let clamped = clamped_entry(entry, self.latest);
        let entry = clamped.as_ref().unwrap_or(entry);
        let written = self.tar.append(entry, data);
        let written = written.map_err(|error| failed(&self.store, error))?;
        let digest = written.map(|written| written.digest);
        self.index
            .push(entry, written.map(|written| written.data_offset), digest)?;
        self.last = entry.path.clone();
        Ok(digest)
    }

    /// The layer, named after its diff id.
    pub fn commit(self) -> Result<LayerId, StoreError> {
        let written = self.tar.finish().and_then(|(writer, _)| writer.finish());
        let writer = written.map_err(|error| failed(&self.store, error))?;
        let (digest, size) = writer.commit(None)?;
        let diff_id = DiffId(digest);
        let files = self.index.size();
        let layer = Layer::named(&self.store, LayerId::of_diff_id(&diff_id));
        layer.establish(Some(&|out| self.index.write_to(out)), |record| {
            record.diff_id = Some(diff_id);
            record.tar = Some(TarForm { digest, size });
            record.size = Some(files);
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
        // Before the first entry it is the root, which comes before every path.
        if self.last >= entry.path {
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
            && !self.index.has(target)?
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
            index: IndexWriter::new(self),
            last: LayerPath::root(),
            open: Vec::new(),
            latest: None,
        })
    }
}

fn failed(store: &Store, error: io::Error) -> StoreError {
    StoreError::layer("writing", "being built", store.root(), error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_come_in_order_below_parents_and_links_after_targets() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("store")).unwrap();
        let entry = |path: &str, kind| Entry {
            path: LayerPath::clean(path.as_bytes()),
            kind,
            ..Entry::root()
        };
        let file = |path| entry(path, Kind::File { size: 1 });
        let link = |path, target: &str| {
            let target = LayerPath::clean(target.as_bytes());
            entry(path, Kind::Hardlink { target })
        };
        let append = |builder: &mut LayerBuilder, entry: &Entry| match entry.kind {
            Kind::File { .. } => builder.append(entry, Some(&mut &b"x"[..])),
            _ => builder.append(entry, None),
        };
        let good = [
            entry("d", Kind::Directory { opaque: false }),
            file("d/a"),
            link("d/b", "d/a"),
            file("d/c"),
            link("e", "d/c"),
        ];
        let built = |entries: &[Entry]| {
            let mut builder = store.layer_builder().unwrap();
            for entry in entries {
                append(&mut builder, entry).unwrap();
            }
            builder
        };
        for count in 0..good.len() {
            let again = good[count.saturating_sub(1)].clone();
            for bad in [link("f", "d/d"), link("g", "a"), file("f/a"), again] {
                let refused = append(&mut built(&good[..count]), &bad).is_err();
                assert!(refused || count == 0 && bad == good[0], "{}", bad.path);
            }
        }
        let builder = built(&good);
        let layer = store.layer(&builder.commit().unwrap()).unwrap();
        let index = layer.index().unwrap();
        let entries: Vec<&Entry> = index.entries().iter().map(|found| &found.entry).collect();
        assert_eq!(entries, good.iter().collect::<Vec<_>>());
        assert_eq!((index.size(), layer.record().unwrap().size), (2, Some(2)));
    }
}
