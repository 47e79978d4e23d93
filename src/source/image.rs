//! What is in a base image? Names are resolved here: first in the store, then at the registry or in an
//! OCI layout. Manifest and config become blobs of the store and the name a tag; the layers are only
//! registered, with the place that has them, and fetched when one of their forms is needed.
//!
//! Invariant: an [`ImageMeta`] is complete: its layers are known to the store, as many as the config
//! has diff ids. A name that a registry answered leads to the same bytes until somebody asks again
//! ([`PullPolicy::Always`], `pull`), so an unchanged build needs no network. One source asks once what a
//! name means, however many platforms and stages begin with it.

mod gather;
mod named;

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context as _, bail};
use rbuild_cache::layer::LayerBlob;
use rbuild_cache::{BlobProvider, Descriptor, Digest, Store, StoreError};

use super::layout::Layout;
use super::origins::{Origins, TransferProgress};
use crate::frontend::{ImageMeta, MetaResolver};
use crate::graph::op::ImageLayer;
use crate::graph::{ImageOp, Platform};
use crate::registry::document::{CONFIG_LIMIT, Document, MANIFEST_LIMIT, read_config};
use crate::registry::manifests::select_platform;
use crate::registry::{Reference, Registry, Resolved};

pub use gather::{Gathered, GatheredImage};
use named::{Named, Names};

/// Prefix of references into a directory.
pub const LAYOUT_PREFIX: &str = "oci-layout://";
/// Layers on their way at once.
const PARALLEL: usize = 4;

/// When the registry is asked although the store has the name.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum PullPolicy {
    /// Only for names that the store does not have.
    #[default]
    Missing,
    /// For every name (`--pull`); what did not change is not fetched again.
    Always,
}

/// Images of the store, of registries and of OCI layouts.
#[derive(Clone)]
pub struct ImageSource {
    store: Store,
    registry: Registry,
    policy: PullPolicy,
    origins: Origins,
    names: Names,
}

/// What [`ImageSource::pull`] did.
#[derive(Debug, Clone)]
pub struct Pulled {
    /// What the name leads to: an index or a manifest.
    pub descriptor: Descriptor,
    /// Whether the name led elsewhere before, or a layer had to be fetched.
    pub changed: bool,
    /// The image of the platform.
    pub meta: ImageMeta,
}

/// Where documents and blobs of one image come from.
enum Origin<'a> {
    Registry(&'a Reference),
    Layout(&'a Layout),
    /// The store, under this name: whether a registry has it too is only a guess.
    Store(&'a Reference),
}

impl ImageSource {
    /// Images of `store` and of the registries that `registry` speaks to.
    pub fn new(store: Store, registry: Registry, policy: PullPolicy) -> Self {
        Self {
            store,
            origins: Origins::new(registry.clone(), None),
            registry,
            policy,
            names: Names::default(),
        }
    }

    /// Tells `progress` about every layer that is fetched.
    #[must_use]
    pub fn with_progress(self, progress: TransferProgress) -> Self {
        Self {
            origins: Origins::new(self.registry.clone(), Some(progress)),
            ..self
        }
    }

    /// The file of another program that gives this name another meaning than docker's.
    pub fn renamed_by(&self, reference: &str) -> anyhow::Result<Option<&Path>> {
        match reference.starts_with(LAYOUT_PREFIX) {
            true => Ok(None),
            false => Ok(self.registry.renamed_by(reference)?),
        }
    }

    /// What fetches the layers of these images.
    pub fn origins(&self) -> &Origins {
        &self.origins
    }

    /// Resolves one name for one platform. Fetches no layer.
    pub fn resolve(
        &self,
        reference: &Reference,
        platform: &Platform,
        policy: PullPolicy,
    ) -> anyhow::Result<ImageMeta> {
        let (named, meta) = self.look(reference, platform, policy)?;
        self.name(reference, &named)?;
        Ok(meta)
    }

    /// Gives the name what was found, unless somebody else has given it something since.
    fn name(&self, reference: &Reference, named: &Named) -> anyhow::Result<()> {
        let name = reference.to_string();
        if !named.is_known() && self.store.image(&name)? == named.before {
            self.store.tag(&name, &named.descriptor)?;
        }
        Ok(())
    }

    /// What `reference` means at its registry or in its layout now, and its image for `platform`. The store's names stay as
    /// they are.
    pub fn look_up(&self, reference: &str, platform: &Platform) -> anyhow::Result<(Digest, ImageMeta)> {
        if let Some(location) = reference.strip_prefix(LAYOUT_PREFIX) {
            let (named, meta) = self.look_in_layout(location, platform)?;
            return Ok((named.digest, meta));
        }
        let (named, meta) = self.look(&self.registry.parse(reference)?, platform, PullPolicy::Always)?;
        Ok((named.descriptor.digest, meta))
    }

    /// The name of an image of a registry as it is written in full: short names are the registry client's business.
    pub fn full_name(&self, reference: &str) -> anyhow::Result<Reference> {
        Ok(self.registry.parse(reference)?)
    }

    /// Resolves a name of a registry again and fetches the layers that are not here, several at once.
    /// Nothing is unpacked. The name moves when all of them are here.
    pub fn pull(&self, reference: &Reference, platform: &Platform) -> anyhow::Result<Pulled> {
        let before = self.store.image(&reference.to_string())?;
        let (named, meta) = self.look(reference, platform, PullPolicy::Always)?;
        let fetched = self.fetch_layers(&meta.op, &Origin::Registry(reference))?;
        self.name(reference, &named)?;
        Ok(Pulled {
            changed: fetched > 0 || before.as_ref() != Some(&named.descriptor),
            descriptor: named.descriptor,
            meta,
        })
    }

    /// Resolves `DIR[:TAG|@DIGEST]`, what follows `oci-layout://`. The name is not tagged.
    pub fn resolve_layout(&self, location: &str, platform: &Platform) -> anyhow::Result<ImageMeta> {
        Ok(self.look_in_layout(location, platform)?.1)
    }

    fn look_in_layout(&self, location: &str, platform: &Platform) -> anyhow::Result<(Descriptor, ImageMeta)> {
        let (layout, selector) = Layout::open(location)?;
        let name = format!("{LAYOUT_PREFIX}{location}");
        let document = layout
            .document(&selector)
            .with_context(|| format!("resolving {name}"))?;
        let named = document.descriptor.clone();
        let fetch = |entry: &Descriptor| layout.entry(entry);
        let resolved = select_platform(&name, document, platform, &fetch)?;
        let meta = self.keep(&name, &Origin::Layout(&layout), &resolved, platform)?;
        Ok((named, meta))
    }

    /// The image as the store knows it; `None` when a part of that is missing or damaged and nobody
    /// but the registry can have it.
    fn stored(
        &self,
        reference: &Reference,
        known: &Descriptor,
        platform: &Platform,
    ) -> anyhow::Result<Option<ImageMeta>> {
        let Some(document) = self.stored_document(known)? else {
            return Ok(None);
        };
        // An index is stored whole, its images one by one as they are used.
        let fetch = |entry: &Descriptor| -> anyhow::Result<Document> {
            match self.stored_document(entry)? {
                Some(document) => Ok(document),
                None => Ok(self.registry.manifest(&reference.with_digest(entry.digest))?),
            }
        };
        let resolved = select_platform(&reference.to_string(), document, platform, &fetch)?;
        self.keep(
            &reference.to_string(),
            &Origin::Store(reference),
            &resolved,
            platform,
        )
        .map(Some)
    }

    fn stored_document(&self, descriptor: &Descriptor) -> anyhow::Result<Option<Document>> {
        match self.store.read_blob(&descriptor.digest, MANIFEST_LIMIT) {
            Ok(bytes) => Document::new(bytes, Some(&descriptor.media_type))
                .map(Some)
                .map_err(anyhow::Error::msg)
                .with_context(|| format!("reading {} of the store", descriptor.digest)),
            Err(StoreError::MissingBlob { .. } | StoreError::Damaged { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Stores the documents of an image and registers its layers.
    fn keep(
        &self,
        name: &str,
        origin: &Origin<'_>,
        resolved: &Resolved,
        wanted: &Platform,
    ) -> anyhow::Result<ImageMeta> {
        let manifest = resolved.manifest.manifest(name)?;
        let config = self.config(origin, &manifest.config)?;
        let facts = read_config(&config, manifest.layers.len())
            .map_err(anyhow::Error::msg)
            .with_context(|| format!("reading the config of {name}"))?;
        for document in resolved.index.iter().chain([&resolved.manifest]) {
            if !self.store.has_blob(&document.descriptor.digest) {
                self.store.put_blob(&document.bytes)?;
            }
        }
        let mut layers = Vec::with_capacity(manifest.layers.len());
        for (blob, diff_id) in manifest.layers.into_iter().zip(facts.diff_ids) {
            let layer = ImageLayer {
                media_type: blob.media_type,
                digest: blob.digest,
                size: blob.size,
                diff_id,
            };
            let blob = LayerBlob {
                media_type: layer.media_type.clone(),
                digest: layer.digest,
                size: layer.size,
            };
            // What was built here and is whole needs no origin, and its name's registry may never have seen it.
            let local = matches!(origin, Origin::Store(_)) && self.store.has_blob(&layer.digest);
            let origins = if local { Vec::new() } else { vec![origin.name()] };
            self.store.register_layer(&blob, &diff_id, &origins)?;
            layers.push(layer);
        }
        // An index may say more of a variant than a config does.
        let platform = if wanted.accepts(&facts.platform) {
            wanted.clone()
        } else {
            facts.platform
        };
        let op = ImageOp {
            reference: name.to_owned(),
            manifest: resolved.manifest.descriptor.digest,
            platform,
            layers,
        };
        Ok(ImageMeta { op, config })
    }

    fn config(&self, origin: &Origin<'_>, descriptor: &Descriptor) -> anyhow::Result<Vec<u8>> {
        match self.store.read_blob(&descriptor.digest, CONFIG_LIMIT) {
            Ok(config) if config.len() as u64 == descriptor.size => return Ok(config),
            Ok(config) => bail!(
                "the config {} has {} bytes, its manifest says {}",
                descriptor.digest,
                config.len(),
                descriptor.size
            ),
            Err(StoreError::MissingBlob { .. } | StoreError::Damaged { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        let config = match origin {
            Origin::Registry(reference) | Origin::Store(reference) => {
                self.registry.small_blob(reference, descriptor, CONFIG_LIMIT)?
            }
            Origin::Layout(layout) => layout.small_blob(descriptor, CONFIG_LIMIT)?,
        };
        self.store.put_blob(&config)?;
        Ok(config)
    }

    /// Fetches what the store lacks; how many that were.
    fn fetch_layers(&self, op: &ImageOp, origin: &Origin<'_>) -> anyhow::Result<usize> {
        let mut missing: Vec<&ImageLayer> = op
            .layers
            .iter()
            .filter(|layer| !self.store.has_blob(&layer.digest))
            .collect();
        missing.sort_by_key(|layer| layer.digest);
        missing.dedup_by_key(|layer| layer.digest);
        // The largest takes longest.
        missing.sort_by_key(|layer| std::cmp::Reverse(layer.size));
        let origins = [origin.name()];
        let next = AtomicUsize::new(0);
        let failed: Mutex<Option<anyhow::Error>> = Mutex::new(None);
        let work = || {
            while let Some(layer) = missing.get(next.fetch_add(1, Ordering::Relaxed)) {
                if let Err(error) = self.fetch_layer(layer, &origins) {
                    // The others end with what they are at.
                    next.store(missing.len(), Ordering::Relaxed);
                    failed
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .get_or_insert(error);
                }
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..PARALLEL.min(missing.len()) {
                scope.spawn(work);
            }
            work();
        });
        match failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some(error) => Err(error),
            None => Ok(missing.len()),
        }
    }

    /// Bytes that were damaged on the way come once more.
    fn fetch_layer(&self, layer: &ImageLayer, origins: &[String]) -> anyhow::Result<()> {
        match self.fetch_layer_once(layer, origins) {
            Err(error) if is_damage(&error) => self.fetch_layer_once(layer, origins),
            result => result,
        }
    }

    fn fetch_layer_once(&self, layer: &ImageLayer, origins: &[String]) -> anyhow::Result<()> {
        let mut writer = self.store.blob_writer()?;
        let mut reader = self.origins.fetch(&layer.digest, layer.size, origins)?;
        let count =
            io::copy(&mut reader, &mut writer).with_context(|| format!("fetching layer {}", layer.digest))?;
        if count != layer.size {
            bail!(
                "fetching layer {}: {count} bytes came, its manifest says {}",
                layer.digest,
                layer.size
            );
        }
        writer.commit(Some(&layer.digest))?;
        Ok(())
    }
}

/// Whether other bytes came than were asked for.
fn is_damage(error: &anyhow::Error) -> bool {
    let cause = error.chain().find_map(rbuild_cache::error::io_cause);
    cause.is_some_and(|cause| cause.kind() == io::ErrorKind::InvalidData)
}

impl fmt::Debug for ImageSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ImageSource")
            .field("store", &self.store)
            .field("registry", &self.registry)
            .field("policy", &self.policy)
            .finish_non_exhaustive()
    }
}

impl MetaResolver for ImageSource {
    fn resolve_image(&self, reference: &str, platform: &Platform) -> anyhow::Result<ImageMeta> {
        match reference.strip_prefix(LAYOUT_PREFIX) {
            Some(location) => self.resolve_layout(location, platform),
            None => self.resolve(&self.registry.parse(reference)?, platform, self.policy),
        }
    }
}

impl Origin<'_> {
    /// As layers name it.
    fn name(&self) -> String {
        match self {
            Self::Registry(reference) | Self::Store(reference) => reference.name(),
            Self::Layout(layout) => layout.origin(),
        }
    }
}
