//! All images that a name leads to, whatever their platforms, and what is attested of them: for lists that are put together, and for
//! `pull --all-platforms`. No layer is fetched, and nothing gets a name.

use anyhow::{Context as _, ensure};
use rbuild_cache::Descriptor;
use serde_json::{Value, json};

use super::{ImageSource, Origin};
use crate::frontend::ImageMeta;
use crate::graph::Platform;
use crate::registry::document::{Index, Reading};
use crate::registry::{Document, Reference, Resolved};
use crate::source::layout::Layout;

/// The largest blob of an attestation: a list of packages may be long.
const ATTESTATION_LIMIT: u64 = 256 << 20;

/// What a name leads to.
#[derive(Debug, Clone)]
pub struct Gathered {
    /// The index, or the manifest of the only image.
    pub document: Document,
    /// Entries of an index, one for each image.
    pub members: Vec<GatheredImage>,
}

/// An image, or an attestation.
#[derive(Debug, Clone)]
pub struct GatheredImage {
    /// The entry of an index that leads to it.
    pub entry: Value,
    /// The image; `None` for an attestation.
    pub meta: Option<ImageMeta>,
}

impl ImageSource {
    /// What a registry has under `reference`.
    pub fn gather(&self, reference: &Reference) -> anyhow::Result<Gathered> {
        let document = self.registry.manifest(reference)?;
        let fetch = |named: &Descriptor| -> anyhow::Result<Document> {
            Ok(self.registry.manifest(&reference.with_digest(named.digest))?)
        };
        self.gather_from(
            &reference.to_string(),
            &Origin::Registry(reference),
            document,
            &fetch,
        )
    }

    /// What an OCI layout has at `DIR[:TAG|@DIGEST]`.
    pub fn gather_layout(&self, location: &str) -> anyhow::Result<Gathered> {
        let (layout, selector) = Layout::open(location)?;
        let document = layout.document(&selector)?;
        self.gather_from(location, &Origin::Layout(&layout), document, &|named| {
            layout.entry(named)
        })
    }

    /// All images of an index; their layers are here afterwards.
    pub fn pull_all(&self, reference: &Reference) -> anyhow::Result<(Descriptor, bool)> {
        let gathered = self.gather(reference)?;
        let name = reference.to_string();
        let origin = Origin::Registry(reference);
        let mut fetched = 0;
        for meta in gathered.members.iter().filter_map(|member| member.meta.as_ref()) {
            fetched += self.fetch_layers(&meta.op, &origin)?;
        }
        let before = self.store.image(&name)?;
        let descriptor = gathered.document.descriptor;
        self.store.tag(&name, &descriptor)?;
        let changed = fetched > 0 || before.as_ref() != Some(&descriptor);
        Ok((descriptor, changed))
    }

    fn gather_from(
        &self,
        name: &str,
        origin: &Origin<'_>,
        document: Document,
        fetch: &dyn Fn(&Descriptor) -> anyhow::Result<Document>,
    ) -> anyhow::Result<Gathered> {
        let reading = document.read().map_err(anyhow::Error::msg);
        let reading = reading.with_context(|| format!("reading the manifest of {name}"))?;
        self.store.put_blob(&document.bytes)?;
        let mut members = Vec::new();
        match reading {
            Reading::Manifest(_) => members.push(self.gather_image(name, origin, document.clone(), None)?),
            Reading::Index(index) => {
                let json: Value = serde_json::from_slice(&document.bytes)?;
                for (number, entry) in index.entries.iter().enumerate() {
                    let child = fetch(&entry.descriptor)?;
                    ensure!(
                        child.descriptor == entry.descriptor,
                        "the index of {name} does not say what its entry {} is",
                        entry.descriptor.digest
                    );
                    let said = Some(json["manifests"][number].clone());
                    members.push(if Index::is_attestation(entry) {
                        self.gather_attestation(name, origin, &child, said)?
                    } else {
                        self.gather_image(name, origin, child, said)?
                    });
                }
            }
        }
        Ok(Gathered { document, members })
    }

    fn gather_image(
        &self,
        name: &str,
        origin: &Origin<'_>,
        manifest: Document,
        said: Option<Value>,
    ) -> anyhow::Result<GatheredImage> {
        let descriptor = manifest.descriptor.clone();
        let resolved = Resolved {
            index: None,
            manifest,
        };
        let meta = self.keep(name, origin, &resolved, &Platform::host())?;
        let entry = said.unwrap_or_else(|| {
            json!({
                "mediaType": descriptor.media_type,
                "digest": descriptor.digest,
                "size": descriptor.size,
                "platform": meta.op.platform,
            })
        });
        Ok(GatheredImage {
            entry,
            meta: Some(meta),
        })
    }

    fn gather_attestation(
        &self,
        name: &str,
        origin: &Origin<'_>,
        manifest: &Document,
        said: Option<Value>,
    ) -> anyhow::Result<GatheredImage> {
        let blobs = manifest.blobs().map_err(anyhow::Error::msg);
        for blob in blobs.with_context(|| format!("reading an attestation of {name}"))? {
            if !self.store.has_blob(&blob.digest) {
                let bytes = match origin {
                    Origin::Registry(reference) | Origin::Store(reference) => {
                        self.registry.small_blob(reference, &blob, ATTESTATION_LIMIT)?
                    }
                    Origin::Layout(layout) => layout.small_blob(&blob, ATTESTATION_LIMIT)?,
                };
                self.store.put_blob(&bytes)?;
            }
        }
        self.store.put_blob(&manifest.bytes)?;
        Ok(GatheredImage {
            entry: said.unwrap_or_default(),
            meta: None,
        })
    }
}
