//! The compressed forms of a layer: taken where there is one, else made.

use std::sync::Arc;

use super::ahead::read_ahead;
use super::compress::{Compression, Compressor};
use super::forms::Layer;
use super::make::is_damage;
use super::pace::{self, Pace};
use super::pipe::{Both, HashWriter, ThreadWriter};
use super::record::{CompressedForm, LayerBlob, TarForm};
use crate::digest::{DiffId, Digest, KeyBuilder};
use crate::error::StoreError;

impl Layer {
    /// A blob compressed as asked. A pulled or already made blob of the same media type is taken as it is, unless
    /// `force` asks for exactly what `compression` says.
    pub fn compressed(&self, compression: &Compression, force: bool) -> Result<LayerBlob, StoreError> {
        self.compressed_at(compression, force, None)
    }

    /// As [`Layer::compressed`], beside other work that it does not hold up; with the tar, if there is none. It may fail just
    /// because it is not done when that work is, or somebody else is at it.
    pub fn compressed_beside(
        &self,
        compression: &Compression,
        force: bool,
        pace: &Arc<Pace>,
    ) -> Result<LayerBlob, StoreError> {
        let work = || {
            if matches!(compression, Compression::Zstd(_)) {
                // Its threads are as weak as who starts them.
                pace::step_back();
            }
            self.compressed_at(compression, force, Some(pace))
        };
        let done = std::thread::scope(|scope| scope.spawn(work).join());
        done.unwrap_or_else(|_| Err(self.failed("compressing", pace::given_up())))
    }

    fn compressed_at(
        &self,
        compression: &Compression,
        force: bool,
        pace: Option<&Arc<Pace>>,
    ) -> Result<LayerBlob, StoreError> {
        let record = self.record()?;
        let store = self.store();
        let made = |form: &&CompressedForm| form.encoder.as_ref() == Some(&compression.encoder());
        if let Some(form) = record
            .compressed
            .iter()
            .find(made)
            .filter(|form| store.has_blob(&form.digest))
        {
            return Ok(form.clone().into_blob());
        }
        let same_kind =
            |form: &&CompressedForm| kind_of(&form.media_type) == kind_of(compression.media_type());
        if !force && let Some(form) = record.compressed.iter().find(same_kind) {
            self.ensure_blob(&form.digest)?;
            return Ok(form.clone().into_blob());
        }
        if *compression == Compression::Uncompressed {
            return self.tar_blob();
        }
        // Not the lock of the layer, which others want for a moment while this takes long.
        let key = KeyBuilder::new("layer form/1")
            .field("id", self.id().as_str().as_bytes())
            .field("encoder", compression.encoder().as_bytes())
            .finish();
        let over = || pace.is_some_and(|pace| !pace.is_beside());
        let _form = match pace {
            None => store.lock_key(&key)?,
            Some(_) => store
                .lock_key_unless(&key, &over)?
                .ok_or_else(|| self.failed("compressing", pace::given_up()))?,
        };
        if let Some(form) = self
            .record()?
            .compressed
            .iter()
            .find(made)
            .filter(|form| store.has_blob(&form.digest))
        {
            return Ok(form.clone().into_blob());
        }
        match self.compress(*compression, pace) {
            // The tar was damaged and is gone now: once more from another form.
            Err(error) if is_damage(&error) => self.compress(*compression, pace),
            result => result,
        }
    }

    /// Makes sure that the store holds the blob `digest`, one of this layer's: fetched from its origin, or made again.
    pub fn ensure_blob(&self, digest: &Digest) -> Result<(), StoreError> {
        let store = self.store();
        if store.has_blob(digest) {
            return Ok(());
        }
        let record = self.record()?;
        let form = record.compressed.iter().find(|form| form.digest == *digest);
        let remade = match form.map(|form| &form.encoder) {
            Some(None) => {
                let lock = self.lock()?;
                if !store.has_blob(digest) {
                    self.fetch(&lock, &record, digest)?;
                }
                return Ok(());
            }
            Some(Some(encoder)) => match Compression::of_encoder(encoder) {
                Some(compression) => self.compressed(&compression, true)?.digest,
                None => return Err(StoreError::MissingBlob { digest: *digest }),
            },
            None => self.tar()?,
        };
        if remade == *digest {
            Ok(())
        } else {
            Err(StoreError::MissingBlob { digest: *digest })
        }
    }

    /// Compresses the tar, or the tree if there is no tar. The lock of the layer is taken only for what is noted.
    fn compress(&self, compression: Compression, pace: Option<&Arc<Pace>>) -> Result<LayerBlob, StoreError> {
        let fail = |error| self.failed("compressing", error);
        let record = self.record()?;
        let blob = self.store().blob_writer()?;
        let out = match pace {
            None => Compressor::new(blob, compression),
            Some(pace) => Compressor::beside(blob, compression, pace),
        };
        let mut out = out.map_err(fail)?;
        let pulled = record.has_pulled();
        let tar = match self.local_tar(&record) {
            None if pulled || self.readable_tree().is_none() => Some(self.tar()?),
            tar => tar,
        };
        if let Some(digest) = tar {
            let source = self.store().open_blob(&digest)?;
            read_ahead(source, |tar| tar.write_to(&mut out)).map_err(fail)?;
        } else if pace.is_some() {
            // In one pass, because whoever has more steps to run has an image to make.
            let writer = ThreadWriter::new(self.store().blob_writer()?);
            let (both, index) = self.write_tree_as_tar(Both(out, writer))?;
            let Both(compressor, writer) = both;
            out = compressor;
            let expected = record.diff_id.map(|diff_id| diff_id.0);
            let (digest, size) = writer.finish().map_err(fail)?.commit(expected.as_ref())?;
            let lock = self.lock()?;
            self.note_tar_of_tree(&lock, &index, DiffId(digest), Some(TarForm { digest, size }))?;
        } else {
            let (sink, index) = self.write_tree_as_tar(HashWriter::new(out))?;
            let (compressor, digest, _) = sink.finish();
            out = compressor;
            self.note_tar_of_tree(&self.lock()?, &index, DiffId(digest), None)?;
        }
        let (digest, size) = out.finish().map_err(fail)?.commit(None)?;
        let form = CompressedForm {
            digest,
            size,
            media_type: compression.media_type().to_owned(),
            encoder: Some(compression.encoder()),
        };
        let _lock = self.lock()?;
        self.change_record(|record| {
            record
                .compressed
                .retain(|other| other.encoder != form.encoder || other.digest == form.digest);
            if !record.compressed.contains(&form) {
                record.compressed.push(form.clone());
            }
        })?;
        Ok(form.into_blob())
    }
}

/// The compression that a media type names; OCI and Docker types alike.
fn kind_of(media_type: &str) -> &str {
    if media_type.ends_with("gzip") {
        "gzip"
    } else if media_type.ends_with("zstd") {
        "zstd"
    } else {
        "tar"
    }
}
