//! One form of a layer out of another: the work behind [`super::Layer`]. Everything here is called
//! with the lock of the layer held, and leaves either the whole new form or nothing.

use std::fs;
use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::Arc;

use super::beneath::open_file;
use super::compress::{MEDIA_TYPE_TAR, MEDIA_TYPE_ZSTD};
use super::entry::Kind;
use super::forms::Layer;
use super::index::{IndexEntry, LayerIndex};
use super::pipe::{HashWriter, ThreadWriter};
use super::receive::{Pass, Passed, index_of};
use super::record::{CompressedForm, LayerRecord, TarForm};
use super::tar_read::TarReader;
use super::tar_write::TarWriter;
use super::unpack::Unpacker;
use super::upper::walk_tree;
use crate::digest::{DiffId, Digest, LayerId};
use crate::error::StoreError;
use crate::lock::KeyLock;

impl Layer {
    pub(super) fn make_index(&self, lock: &KeyLock) -> Result<LayerIndex, StoreError> {
        let record = self.record()?;
        if let Some(digest) = self.local_tar(&record) {
            let made = self.store().open_blob(&digest).and_then(|source| {
                index_of(TarReader::layer(source), None, true).map_err(|error| self.failed("reading", error))
            });
            match made {
                // Only when there is another form to turn to.
                Err(error) if is_damage(&error) && (record.has_pulled() || self.has_tree()) => {}
                made => {
                    let index = made?;
                    self.write_index(&index)?;
                    return Ok(index);
                }
            }
        }
        if record.has_pulled() {
            self.receive(lock, &record, false, false)?;
            return self
                .stored_index()?
                .ok_or_else(|| self.failed("reading", io::ErrorKind::InvalidData.into()));
        }
        let index = self.walk()?;
        self.write_index(&index)?;
        Ok(index)
    }

    /// The entries of the tree form.
    pub(super) fn walk(&self) -> Result<LayerIndex, StoreError> {
        let (tree, ownership) = self.readable_tree().ok_or_else(|| self.no_form())?;
        // Outside of the user namespace in which it was written, its owners are others.
        if !rustix::process::geteuid().is_root() {
            let source = io::Error::new(
                io::ErrorKind::PermissionDenied,
                "its tree can only be read inside the user namespace",
            );
            return Err(self.failed("reading", source));
        }
        walk_tree(&tree, ownership).map_err(|error| self.failed("reading", error))
    }

    /// The tar of the tree form, into `sink`.
    pub(super) fn write_tree_as_tar<W: Write>(&self, sink: W) -> Result<(W, LayerIndex), StoreError> {
        let (tree, _) = self.readable_tree().ok_or_else(|| self.no_form())?;
        let index = self.walk()?;
        let known = self.stored_index()?.unwrap_or_default();
        let fail = |error| self.failed("reading", error);
        let root = fs::File::open(&tree).map_err(fail)?;
        let mut tar = TarWriter::new(sink);
        let mut entries = Vec::with_capacity(index.entries().len());
        for IndexEntry { entry, .. } in index.entries() {
            let written = if let Kind::File { .. } = entry.kind {
                let mut file = open_file(&root, &entry.path).map_err(fail)?;
                let written = tar.append(entry, Some(&mut file)).map_err(fail)?;
                let expected = known.get(&entry.path).and_then(|known| known.digest);
                if expected.is_some() && expected != written.map(|written| written.digest) {
                    self.discard_tree(&tree)?;
                    let message = format!(
                        "{} was damaged; the tree has been removed, build again",
                        entry.path
                    );
                    return Err(fail(io::Error::new(io::ErrorKind::InvalidData, message)));
                }
                written
            } else {
                tar.append(entry, None).map_err(fail)?
            };
            entries.push(IndexEntry {
                entry: entry.clone(),
                data_offset: written.map(|written| written.data_offset),
                digest: written.map(|written| written.digest),
            });
        }
        let (sink, _) = tar.finish().map_err(fail)?;
        Ok((sink, LayerIndex::from_sorted(entries)))
    }

    pub(super) fn note_tar_of_tree(
        &self,
        _lock: &KeyLock,
        index: &LayerIndex,
        diff_id: DiffId,
        tar: Option<TarForm>,
    ) -> Result<(), StoreError> {
        if let Some(expected) = self.record()?.diff_id
            && expected != diff_id
        {
            let message = format!("its tree gives {diff_id} and not {expected}");
            return Err(self.failed("reading", io::Error::new(io::ErrorKind::InvalidData, message)));
        }
        self.write_index(index)?;
        self.change_record(|record| {
            record.diff_id = Some(diff_id);
            record.size = Some(index.size());
            record.tar = tar.or_else(|| record.tar.take());
        })?;
        // Images name layers by diff id: an image built on this one finds the tree and need not unpack the tar.
        let by_name = Self::named(self.store(), LayerId::of_diff_id(&diff_id));
        if by_name.id() == self.id() || by_name.has_tree() {
            return Ok(());
        }
        by_name.establish(Some(&|out| out.write_all(&index.to_bytes())), |record| {
            record.size = Some(index.size());
            record.twin = Some(self.id().clone());
        })
    }

    pub(super) fn make_tar(&self, lock: &KeyLock, record: &LayerRecord) -> Result<Digest, StoreError> {
        if record.has_pulled() || self.readable_tree().is_none() {
            self.receive(lock, record, false, true)?;
        } else {
            let writer = self.store().blob_writer()?;
            let sink = ThreadWriter::new(writer);
            let (sink, index) = self.write_tree_as_tar(sink)?;
            let writer = sink.finish().map_err(|e| self.failed("writing", e))?;
            let expected = record.diff_id.map(|diff_id| diff_id.0);
            let (digest, size) = writer.commit(expected.as_ref())?;
            self.note_tar_of_tree(lock, &index, DiffId(digest), Some(TarForm { digest, size }))?;
        }
        let record = self.record()?;
        self.local_tar(&record)
            .ok_or_else(|| self.failed("writing", io::ErrorKind::NotFound.into()))
    }

    /// Unpacks the layer into an empty directory, to be changed there; nothing of it is noted. Call it inside the user
    /// namespace.
    pub fn unpack_to(&self, directory: &std::path::Path) -> Result<(), StoreError> {
        let source = self.store().open_blob(&self.tar()?)?;
        Unpacker::new(directory, self.store().ownership())
            .and_then(|unpacker| index_of(TarReader::layer(source), Some(unpacker), false))
            .map_err(|error| self.failed("unpacking", error))?;
        Ok(())
    }

    pub(super) fn unpack_tar(&self, _lock: &KeyLock, digest: &Digest) -> Result<(), StoreError> {
        let source = self.store().open_blob(digest)?;
        let (staged, tree) = self.stage_tree()?;
        let index = Unpacker::new(&tree, self.store().ownership())
            .and_then(|unpacker| index_of(TarReader::layer(source), Some(unpacker), false))
            .map_err(|error| self.failed("unpacking", error))?;
        if self.stored_index()?.is_none() {
            self.write_index(&index)?;
        }
        self.place_tree(&tree)?;
        drop(staged);
        Ok(())
    }

    /// Index and, as wanted, tree and tar of a pulled layer, from its blob or, when that is not here, its origin.
    pub(super) fn receive(
        &self,
        _lock: &KeyLock,
        record: &LayerRecord,
        want_tree: bool,
        want_tar: bool,
    ) -> Result<(), StoreError> {
        let store = &self.store();
        let pulled = record.compressed.iter().filter(|form| form.encoder.is_none());
        // One that is here before those that must be fetched.
        let mut forms: Vec<&CompressedForm> = pulled.collect();
        forms.sort_by_key(|form| !store.has_blob(&form.digest));
        let Some(form) = forms.first() else {
            return Err(self.no_form());
        };
        let pass = || {
            if !want_tree {
                return self.pass(record, form, None, want_tar);
            }
            let (staged, tree) = self.stage_tree()?;
            let unpacker =
                Unpacker::new(&tree, store.ownership()).map_err(|error| self.failed("unpacking", error))?;
            self.pass(record, form, Some(unpacker), want_tar)?;
            if self.existing_tree().is_none() {
                self.place_tree(&tree)?;
            }
            drop(staged);
            Ok(())
        };
        match pass() {
            // The blob was damaged and has been removed: the origin has another.
            Err(error)
                if is_damage(&error) && !store.has_blob(&form.digest) && store.provider().is_some() =>
            {
                pass()
            }
            result => result,
        }
    }

    /// Unpacks the layer onto a root that has all layers below it, without keeping a tree of it. After an error the root is
    /// of no use.
    pub(super) fn unpack_onto(&self, root: &Path) -> Result<(), StoreError> {
        let store = self.store();
        let fail = |error| self.failed("unpacking", error);
        let unpacker = Unpacker::onto(root, store.ownership()).map_err(fail)?;
        if let Some((tree, _)) = self.readable_tree() {
            let index = self.index()?;
            let tree = fs::File::open(tree).map_err(fail)?;
            return unpacker.copy(&index, &tree).map_err(fail);
        }
        let record = self.record()?;
        let Some(digest) = self.local_tar(&record) else {
            let lock = self.lock()?;
            let pulled = record.compressed.iter().filter(|form| form.encoder.is_none());
            let form = pulled.min_by_key(|form| !store.has_blob(&form.digest));
            let form = form.ok_or_else(|| self.no_form())?;
            self.pass(&record, form, Some(unpacker), false)?;
            drop(lock);
            return Ok(());
        };
        let source = store.open_blob(&digest)?;
        let index = index_of(TarReader::layer(source), Some(unpacker), false).map_err(fail)?;
        if self.stored_index()?.is_none() {
            let _lock = self.lock()?;
            self.write_index(&index)?;
        }
        Ok(())
    }

    pub(super) fn pass(
        &self,
        record: &LayerRecord,
        form: &CompressedForm,
        tree: Option<Unpacker>,
        want_tar: bool,
    ) -> Result<(), StoreError> {
        let store = &self.store();
        check_media_type(&form.media_type).map_err(|error| self.failed("reading", error))?;
        let here = store.has_blob(&form.digest);
        let source: Box<dyn Read + Send> = if here {
            Box::new(store.open_blob(&form.digest)?)
        } else {
            self.origin(record, form)?
        };
        let diff_id = record.diff_id.as_ref();
        // A pulled blob that is not compressed is the tar already.
        let is_tar = diff_id.is_some_and(|diff_id| diff_id.0 == form.digest);
        let pass = Pass {
            source,
            size: form.size,
            growth: store.growth(),
            blob: if here { None } else { Some(store.blob_writer()?) },
            tar: if want_tar && !is_tar {
                Some(store.blob_writer()?)
            } else {
                None
            },
            tree,
            diff_id,
        };
        let Passed { index, blob, tar } = pass.run().map_err(|error| self.failed("reading", error))?;
        let tar = match tar {
            Some(tar) => Some(tar.commit(diff_id.map(|diff_id| &diff_id.0))?),
            None => is_tar.then_some((form.digest, form.size)),
        };
        if let Some(blob) = blob {
            blob.commit(Some(&form.digest))?;
        }
        if want_tar || self.stored_index()?.is_none() {
            self.write_index(&index)?;
        }
        self.change_record(|record| {
            record.size = Some(index.size());
            if let Some((digest, size)) = tar {
                record.diff_id = Some(DiffId(digest));
                record.tar = Some(TarForm { digest, size });
            }
        })
    }

    /// Fetches a blob only to have it.
    pub(super) fn fetch(
        &self,
        _lock: &KeyLock,
        record: &LayerRecord,
        digest: &Digest,
    ) -> Result<(), StoreError> {
        let Some(form) = record.compressed.iter().find(|form| form.digest == *digest) else {
            return Err(StoreError::MissingBlob { digest: *digest });
        };
        let attempt = || {
            let mut blob = self.store().blob_writer()?;
            let source = self.origin(record, form)?;
            copy(&mut source.take(form.size.saturating_add(1)), &mut blob)
                .map_err(|e| self.failed("fetching", e))?;
            blob.commit(Some(digest)).map(drop)
        };
        match attempt() {
            // Damaged on the way: the origin has another.
            Err(error) if is_damage(&error) => attempt(),
            result => result,
        }
    }

    pub(super) fn origin(
        &self,
        record: &LayerRecord,
        form: &CompressedForm,
    ) -> Result<Box<dyn Read + Send>, StoreError> {
        let provider = self
            .store()
            .provider()
            .ok_or(StoreError::MissingBlob { digest: form.digest })?;
        provider
            .fetch(&form.digest, form.size, &record.origins)
            .map_err(|error| self.failed("fetching", error))
    }

    /// The index with the digests of all files, read where they lie.
    pub(super) fn digest_files(&self, lock: &KeyLock) -> Result<Arc<LayerIndex>, StoreError> {
        if let Some(index) = self.stored_index()?
            && index
                .entries()
                .iter()
                .all(|e| e.digest.is_some() || !matches!(e.entry.kind, Kind::File { .. }))
        {
            return Ok(self.remember(index));
        }
        let record = self.record()?;
        if let Some(digest) = self.local_tar(&record) {
            let source = self.store().open_blob(&digest)?;
            let index = index_of(TarReader::layer(source), None, true)
                .map_err(|error| self.failed("hashing", error))?;
            self.write_index(&index)?;
            return Ok(self.remember(index));
        }
        if record.diff_id.is_none() {
            let (sink, index) = self.write_tree_as_tar(HashWriter::new(io::sink()))?;
            self.note_tar_of_tree(lock, &index, DiffId(sink.finish().1), None)?;
            return Ok(self.remember(index));
        }
        self.make_tar(lock, &record)?;
        match self.stored_index()? {
            Some(index) => Ok(self.remember(index)),
            None => Err(self.failed("hashing", io::ErrorKind::InvalidData.into())),
        }
    }
}

/// Whether the bytes were wrong, as opposed to everything else that can go wrong.
pub(super) fn is_damage(error: &StoreError) -> bool {
    match error {
        StoreError::Damaged { .. } | StoreError::MissingBlob { .. } | StoreError::DigestMismatch { .. } => {
            true
        }
        error => error
            .io_cause()
            .is_some_and(|cause| cause.kind() == io::ErrorKind::InvalidData),
    }
}

/// Refuses blobs that are no layers, encrypted ones for example. Which compression it is, the bytes say.
fn check_media_type(media_type: &str) -> io::Result<()> {
    let known = [
        MEDIA_TYPE_TAR,
        MEDIA_TYPE_ZSTD,
        "application/vnd.oci.image.layer.v1.tar+gzip",
        "application/vnd.oci.image.layer.nondistributable.v1.tar",
        "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
        "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
        "application/vnd.docker.image.rootfs.diff.tar",
        "application/vnd.docker.image.rootfs.diff.tar.gzip",
        "application/vnd.docker.image.rootfs.diff.tar.zstd",
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
    ];
    if known.contains(&media_type) {
        return Ok(());
    }
    Err(io::Error::new(
        io::ErrorKind::Unsupported,
        format!("unsupported media type {media_type:?} of a layer"),
    ))
}

fn copy(source: &mut dyn Read, out: &mut dyn Write) -> io::Result<()> {
    let mut buffer = vec![0; super::pipe::PIECE];
    loop {
        match source.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(length) => out.write_all(&buffer[..length])?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
