//! The forms of a layer (design D3), each made when it is asked for and then kept.
//!
//! A form appears by one rename, made under the lock of the layer, so that processes that want the
//! same form at the same time make it once. A form that turns out damaged is made again from another
//! one; the diff id says whether that gave the same layer.

use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use super::compress::MEDIA_TYPE_TAR;
use super::index::LayerIndex;
use super::make::is_damage;
use super::record::{CompressedForm, LayerBlob, LayerRecord};
use crate::digest::{ContentDigest, DiffId, Digest, KeyBuilder, LayerId};
use crate::error::StoreError;
use crate::lock::KeyLock;
use crate::store::Store;

/// A layer of the store: a cheap handle, shared between threads. Its forms are made on demand, once, even when many
/// processes ask.
#[derive(Debug, Clone)]
pub struct Layer(Arc<Inner>);

/// Writes what a file is to hold.
pub(super) type Content<'a> = &'a dyn Fn(&mut dyn Write) -> io::Result<()>;

#[derive(Debug)]
struct Inner {
    store: Store,
    id: LayerId,
    index: Mutex<Option<Arc<LayerIndex>>>,
}

impl Layer {
    /// Its name.
    pub fn id(&self) -> &LayerId {
        &self.0.id
    }

    /// What is known about it.
    pub fn record(&self) -> Result<LayerRecord, StoreError> {
        LayerRecord::load(&self.directory(), self.id())?.ok_or_else(|| {
            let source = io::Error::new(io::ErrorKind::NotFound, "the store does not have it");
            self.failed("looking for", source)
        })
    }

    /// Its entries. Fetches the layer when nothing but its name is here.
    pub fn index(&self) -> Result<Arc<LayerIndex>, StoreError> {
        if let Some(index) = self.remembered() {
            return Ok(index);
        }
        if let Some(index) = self.stored_index()? {
            return Ok(self.remember(index));
        }
        let lock = self.lock()?;
        let index = match self.stored_index()? {
            Some(index) => index,
            None => self.make_index(&lock)?,
        };
        Ok(self.remember(index))
    }

    /// The directory that holds its tree, an overlay lower. Call it inside the user namespace.
    pub fn tree(&self) -> Result<PathBuf, StoreError> {
        if let Some(tree) = self.existing_tree() {
            return Ok(tree);
        }
        let lock = self.lock()?;
        if let Some(tree) = self.existing_tree() {
            return Ok(tree);
        }
        let record = self.record()?;
        let tar = match self.local_tar(&record) {
            // Its only tree has its owners in another way.
            None if !record.has_pulled() && self.has_tree() => Some(self.make_tar(&lock, &record)?),
            tar => tar,
        };
        let unpacked = match tar {
            Some(digest) => self.unpack_tar(&lock, &digest),
            None => self.receive(&lock, &record, true, false),
        };
        match unpacked {
            Err(error) if is_damage(&error) => self.receive(&lock, &self.record()?, true, false)?,
            result => result?,
        }
        self.existing_tree()
            .ok_or_else(|| self.failed("unpacking", io::ErrorKind::NotFound.into()))
    }

    /// Digest of the uncompressed tar. To find that of a snapshot, its tar is written, which whoever keeps the image
    /// needs next; [`Layer::compressed`] finds it too, without writing the tar.
    pub fn diff_id(&self) -> Result<DiffId, StoreError> {
        match self.record()?.diff_id {
            Some(diff_id) => Ok(diff_id),
            None => self.tar().map(DiffId),
        }
    }

    /// Makes sure that the uncompressed tar is a blob of the store.
    pub fn tar(&self) -> Result<Digest, StoreError> {
        if let Some(digest) = self.local_tar(&self.record()?) {
            return Ok(digest);
        }
        let lock = self.lock()?;
        let record = self.record()?;
        match self.local_tar(&record) {
            Some(digest) => Ok(digest),
            None => self.make_tar(&lock, &record),
        }
    }

    /// The blob to name in a manifest without converting anything: the pulled one, which may not be here yet
    /// ([`Layer::ensure_blob`]), else the uncompressed tar.
    pub fn blob(&self) -> Result<LayerBlob, StoreError> {
        let pulled = self
            .record()?
            .compressed
            .into_iter()
            .find(|form| form.encoder.is_none());
        match pulled {
            Some(form) => Ok(form.into_blob()),
            None => self.tar_blob(),
        }
    }

    /// Digest of all entries and of the bytes of all files, without times.
    pub fn content(&self) -> Result<ContentDigest, StoreError> {
        if let Some(content) = self.record()?.content {
            return Ok(content);
        }
        let mut index = self.index()?;
        if index.content().is_none() {
            let lock = self.lock()?;
            index = self.digest_files(&lock)?;
        }
        let content = index
            .content()
            .ok_or_else(|| self.failed("hashing", io::ErrorKind::InvalidData.into()))?;
        let _lock = self.lock()?;
        self.change_record(|record| record.content = Some(content))?;
        Ok(content)
    }

    /// The layer called `id`, whether it exists or not. If it does, no prune takes it while the store is open.
    pub(super) fn named(store: &Store, id: LayerId) -> Self {
        // What cannot be looked at now fails again when it is used.
        let _ = store.pin(&store.0.layers, id.as_str());
        Self(Arc::new(Inner {
            store: store.clone(),
            id,
            index: Mutex::new(None),
        }))
    }

    /// `layers/<id>`.
    pub(super) fn directory(&self) -> PathBuf {
        self.0.store.root().join("layers").join(self.id().as_str())
    }

    /// Makes the layer known, or adds to what is known about it. `index` writes the file of the index.
    pub(super) fn establish(
        &self,
        index: Option<Content<'_>>,
        change: impl FnOnce(&mut LayerRecord),
    ) -> Result<(), StoreError> {
        let mut lock = self.lock()?;
        if lock.is_for_key() && self.directory().is_dir() {
            // Another process made the layer while this one waited; now its directory is what is locked.
            drop(lock);
            lock = self.lock()?;
        }
        let _lock = lock;
        if self.directory().is_dir() {
            if let Some(index) = index {
                self.write_file("index", index)?;
            }
            return self.change_record(change);
        }
        let staged = self.0.store.temp_dir()?;
        let path_of = |name: &str| staged.path().join(name);
        let failed = |name: &str| {
            let path = path_of(name);
            |error| StoreError::io("writing", path, error)
        };
        let mut record = LayerRecord::new(self.id().clone());
        change(&mut record);
        fs::write(path_of("record.json"), record.to_bytes()).map_err(failed("record.json"))?;
        if let Some(index) = index {
            fs::File::create_new(path_of("index"))
                .and_then(|mut file| index(&mut file))
                .map_err(failed("index"))?;
        }
        staged.persist(&self.directory())
    }

    /// The blob of the uncompressed tar, if it is here.
    pub(crate) fn existing_tar(&self) -> Result<Option<PathBuf>, StoreError> {
        Ok(self
            .local_tar(&self.record()?)
            .map(|digest| self.0.store.blob_path(&digest)))
    }

    /// An index that knows the digests of all files, for which the tar must be here.
    pub(crate) fn verified_index(&self) -> Result<Arc<LayerIndex>, StoreError> {
        let lock = self.lock()?;
        self.digest_files(&lock)
    }

    /// Removes a tar that was found damaged.
    pub(crate) fn discard_tar(&self) -> Result<(), StoreError> {
        match self.local_tar(&self.record()?) {
            Some(digest) => self.0.store.discard_blob(&digest),
            None => Ok(()),
        }
    }

    /// The lock of the layer: that of its directory, or of its name as long as it has none.
    pub(super) fn lock(&self) -> Result<KeyLock, StoreError> {
        if let Some(lock) = self.0.store.lock_directory(&self.directory())? {
            return Ok(lock);
        }
        self.0.store.lock_key(
            &KeyBuilder::new("layer lock/1")
                .field("id", self.id().as_str().as_bytes())
                .finish(),
        )
    }

    pub(super) fn store(&self) -> &Store {
        &self.0.store
    }

    fn remembered(&self) -> Option<Arc<LayerIndex>> {
        self.0
            .index
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(super) fn remember(&self, index: LayerIndex) -> Arc<LayerIndex> {
        let index = Arc::new(index);
        *self.0.index.lock().unwrap_or_else(PoisonError::into_inner) = Some(index.clone());
        index
    }

    /// The index file; `None` when it is missing or damaged.
    pub(super) fn index_path(&self) -> PathBuf {
        self.directory().join("index")
    }

    pub(super) fn stored_index(&self) -> Result<Option<LayerIndex>, StoreError> {
        let path = self.index_path();
        match fs::read(&path) {
            Ok(bytes) => Ok(LayerIndex::from_bytes(&bytes).ok()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(StoreError::io("reading", path, error)),
        }
    }

    pub(super) fn write_index(&self, index: &LayerIndex) -> Result<(), StoreError> {
        self.write_file("index", &|file| file.write_all(&index.to_bytes()))?;
        if self.remembered().is_some() {
            self.remember(index.clone());
        }
        Ok(())
    }

    /// Call it with the lock held.
    pub(super) fn change_record(&self, change: impl FnOnce(&mut LayerRecord)) -> Result<(), StoreError> {
        let before = self.record()?;
        let mut record = before.clone();
        change(&mut record);
        if record == before {
            return Ok(());
        }
        let path = self.directory().join("record.json");
        record
            .append(&path)
            .map_err(|error| StoreError::io("writing", path, error))
    }

    pub(super) fn write_file(&self, name: &str, content: Content<'_>) -> Result<(), StoreError> {
        let (scratch, temporary) = self.0.store.scratch_name()?;
        let temporary = scratch.path().join(temporary);
        let place = self.directory().join(name);
        fs::File::create(&temporary)
            .and_then(|mut file| content(&mut file))
            .and_then(|()| fs::rename(&temporary, &place))
            .map_err(|error| {
                // What is left of it goes with the temporary directory.
                StoreError::io("writing", place, error)
            })
    }

    pub(super) fn local_tar(&self, record: &LayerRecord) -> Option<Digest> {
        let digest = record
            .tar
            .as_ref()
            .map(|tar| tar.digest)
            .or(record.diff_id.map(|diff_id| diff_id.0))?;
        self.0.store.has_blob(&digest).then_some(digest)
    }

    pub(super) fn tar_blob(&self) -> Result<LayerBlob, StoreError> {
        let digest = self.tar()?;
        let size = self
            .0
            .store
            .blob_size(&digest)
            .ok_or(StoreError::MissingBlob { digest })?;
        Ok(LayerBlob {
            media_type: MEDIA_TYPE_TAR.to_owned(),
            digest,
            size,
        })
    }

    pub(super) fn no_form(&self) -> StoreError {
        self.failed(
            "reading",
            io::Error::new(io::ErrorKind::NotFound, "the store has lost its bytes"),
        )
    }

    pub(super) fn failed(&self, doing: &'static str, error: io::Error) -> StoreError {
        StoreError::layer(doing, self.id(), self.0.store.root(), error)
    }
}

impl CompressedForm {
    pub(super) fn into_blob(self) -> LayerBlob {
        LayerBlob {
            media_type: self.media_type,
            digest: self.digest,
            size: self.size,
        }
    }
}

impl Store {
    /// The layer called `id`, which must exist.
    pub fn layer(&self, id: &LayerId) -> Result<Layer, StoreError> {
        let layer = Layer::named(self, id.clone());
        layer.record()?;
        Ok(layer)
    }

    /// Whether the layer is here in some form, or can be fetched.
    pub fn layer_exists(&self, id: &LayerId) -> bool {
        let layer = Layer::named(self, id.clone());
        let Ok(record) = layer.record() else { return false };
        layer.has_tree()
            || layer.local_tar(&record).is_some()
            || record.compressed.iter().any(|form| self.has_blob(&form.digest))
            || record.has_pulled() && !record.origins.is_empty()
    }

    /// Makes a layer of a manifest known, by its blob, its diff id and the repositories
    /// (`registry.example/repository`) that have the blob. Nothing is fetched.
    pub fn register_layer(
        &self,
        blob: &LayerBlob,
        diff_id: &DiffId,
        origins: &[String],
    ) -> Result<LayerId, StoreError> {
        let layer = Layer::named(self, LayerId::of_diff_id(diff_id));
        layer.establish(None, |record| {
            record.diff_id = Some(*diff_id);
            if !record.compressed.iter().any(|form| form.digest == blob.digest) {
                let pulled = record
                    .compressed
                    .iter()
                    .filter(|form| form.encoder.is_none())
                    .count();
                let LayerBlob {
                    media_type,
                    digest,
                    size,
                } = blob.clone();
                record.compressed.insert(
                    pulled,
                    CompressedForm {
                        digest,
                        size,
                        media_type,
                        encoder: None,
                    },
                );
            }
            for origin in origins {
                if !record.origins.contains(origin) {
                    record.origins.push(origin.clone());
                }
            }
        })?;
        Ok(layer.id().clone())
    }
}
