//! An image that is in the store: its manifest, its config and where its layers are. Read for `save`, `push`, `inspect`.

use anyhow::{Context as _, bail};
use rbuild_cache::layer::{Layer, LayerBlob};
use rbuild_cache::{Descriptor, Store};

use crate::graph::Platform;
use crate::registry::document::{
    CONFIG_LIMIT, ConfigFacts, Document, MANIFEST_LIMIT, Manifest, Reading, read_config,
};

/// One image of one platform. Bytes are kept as they are stored: nothing is written again from what was read.
#[derive(Debug, Clone)]
pub struct StoredManifest {
    /// Its manifest.
    pub descriptor: Descriptor,
    /// The manifest's bytes.
    pub bytes: Vec<u8>,
    /// What they say.
    pub manifest: Manifest,
    /// The config's bytes.
    pub config: Vec<u8>,
    /// Platform and diff ids of the config.
    pub facts: ConfigFacts,
}

impl StoredManifest {
    /// Reads what `descriptor` leads to. Of an index it is the image for `platform`, for this machine's without.
    pub fn read(store: &Store, descriptor: &Descriptor, platform: Option<&Platform>) -> anyhow::Result<Self> {
        let mut descriptor = descriptor.clone();
        let host = Platform::host();
        let wanted = platform.unwrap_or(&host);
        // An index may name an index; more than two of them is nobody's image.
        for _ in 0..3 {
            let bytes = store.read_blob(&descriptor.digest, MANIFEST_LIMIT)?;
            let document = Document::new(bytes, Some(&descriptor.media_type))
                .and_then(|document| document.read().map(|reading| (document, reading)));
            let digest = descriptor.digest;
            let (document, reading) = document
                .map_err(anyhow::Error::msg)
                .with_context(|| format!("reading the manifest {digest} of the store"))?;
            match reading {
                Reading::Manifest(manifest) => {
                    let config = store.read_blob(&manifest.config.digest, CONFIG_LIMIT)?;
                    let facts = read_config(&config, manifest.layers.len())
                        .map_err(anyhow::Error::msg)
                        .with_context(|| format!("reading the config of the image {digest}"))?;
                    if let Some(wanted) = platform
                        && !wanted.accepts(&facts.platform)
                    {
                        bail!("the image is for {}, not for {wanted}", facts.platform);
                    }
                    return Ok(Self {
                        descriptor,
                        bytes: document.bytes,
                        manifest,
                        config,
                        facts,
                    });
                }
                Reading::Index(index) => {
                    let stored = |d: &Descriptor| store.has_blob(&d.digest);
                    let here = index.entries.iter().filter(|entry| stored(&entry.descriptor));
                    let entry = match (index.select(wanted), platform) {
                        (Some(entry), _) if stored(&entry.descriptor) => Some(entry),
                        // Nobody asked for a platform: what was pulled is meant.
                        (_, None) => here.max_by_key(|entry| entry.platform.is_some()),
                        _ => None,
                    };
                    let Some(entry) = entry else {
                        bail!(
                            "the image has no {wanted} in this store: it has {}",
                            index.offered()
                        );
                    };
                    descriptor = entry.descriptor.clone();
                }
            }
        }
        bail!("the image's indexes nest too deep")
    }

    /// The image id.
    pub fn id(&self) -> rbuild_cache::Digest {
        self.manifest.config.digest
    }

    /// Its layers, lowest first, known to the store. Nothing is fetched.
    pub fn layers(&self, store: &Store) -> anyhow::Result<Vec<Layer>> {
        let pairs = self.manifest.layers.iter().zip(&self.facts.diff_ids);
        pairs
            .map(|(descriptor, diff_id)| {
                let blob = LayerBlob {
                    media_type: descriptor.media_type.clone(),
                    digest: descriptor.digest,
                    size: descriptor.size,
                };
                let id = store.register_layer(&blob, diff_id, &[])?;
                Ok(store.layer(&id)?)
            })
            .collect()
    }

    /// Makes sure that the blobs of all layers are in the store: those that were never needed are fetched now.
    pub fn ensure_layers(&self, store: &Store) -> anyhow::Result<()> {
        if self
            .manifest
            .layers
            .iter()
            .all(|layer| store.has_blob(&layer.digest))
        {
            return Ok(());
        }
        let layers = self.layers(store)?;
        crate::parallel::in_parallel(
            layers.iter().zip(&self.manifest.layers).collect(),
            |(layer, descriptor)| layer.ensure_blob(&descriptor.digest).map_err(Into::into),
        )?;
        Ok(())
    }
}
