//! From the store to a registry. Layers that the registry has are neither read nor fetched; config and manifest come
//! from the store as they are.

use anyhow::Context as _;
use rbuild_cache::layer::Layer;
use rbuild_cache::{Descriptor, Digest, Store};

use crate::registry::{PushBlob, Reference, Registry};

/// An image to be pushed. Its config is a blob of the store.
#[derive(Debug, Clone, Copy)]
pub struct Push<'a> {
    /// Media type of the manifest.
    pub media_type: &'a str,
    /// The manifest's bytes.
    pub manifest: &'a [u8],
    /// The config.
    pub config: &'a Descriptor,
    /// Layers, lowest first, and how the manifest names them.
    pub layers: &'a [Layer],
    /// Their blobs.
    pub blobs: &'a [Descriptor],
}

/// Pushes to `name`. `progress` is told a blob's digest, bytes done and its size.
pub fn push(
    registry: &Registry,
    store: &Store,
    name: &Reference,
    image: &Push<'_>,
    progress: &(dyn Fn(&Digest, u64, u64) + Sync),
) -> anyhow::Result<Digest> {
    let mut blobs: Vec<PushBlob<'_>> = Vec::with_capacity(image.blobs.len() + 1);
    blobs.push(stored_blob(store, image.config));
    for (layer, blob) in image.layers.iter().zip(image.blobs) {
        // One blob may be several layers of an image.
        if blobs.iter().any(|known| known.digest == blob.digest) {
            continue;
        }
        let digest = blob.digest;
        blobs.push(PushBlob {
            digest,
            size: blob.size,
            open: Box::new(move || {
                layer.ensure_blob(&digest)?;
                Ok(Box::new(store.open_blob(&digest)?))
            }),
            mount_from: layer.record().map(|record| record.origins).unwrap_or_default(),
        });
    }
    registry
        .push_image(name, image.media_type, image.manifest, &blobs, progress)
        .with_context(|| format!("pushing {}", name.familiar()))
}

/// A blob of the store that is no layer.
pub(super) fn stored_blob<'a>(store: &'a Store, blob: &Descriptor) -> PushBlob<'a> {
    let digest = blob.digest;
    PushBlob {
        digest,
        size: blob.size,
        open: Box::new(move || Ok(Box::new(store.open_blob(&digest)?))),
        mount_from: Vec::new(),
    }
}
