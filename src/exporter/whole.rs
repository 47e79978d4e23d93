//! All that a name of the store leads to: one image, or an index with the images of all of its platforms and what is attested of
//! them. Read for `save` and `push`.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use rbuild_cache::layer::Layer;
use rbuild_cache::{Descriptor, Digest, Store};
use serde_json::Value;

use super::archive::{ArchiveImage, ArchiveIndex, Archived};
use super::attached::{self, REFERENCE_DIGEST};
use super::push::{Push, push, stored_blob};
use super::stored::StoredManifest;
use super::{BuiltImage, Codec, Encoding, image};
use crate::attestation;
use crate::registry::document::{MANIFEST_LIMIT, OCI_MANIFEST, Reading};
use crate::registry::{Document, PushBlob, Reference, Registry};

/// More than any statement.
const STATEMENT_LIMIT: u64 = 256 << 20;

/// What a name leads to.
#[derive(Debug, Clone)]
pub enum Whole {
    /// One image.
    Image(Box<StoredManifest>),
    /// Images of several platforms.
    Index(StoredIndex),
}

/// An index of the store, and what it names.
#[derive(Debug, Clone)]
pub struct StoredIndex {
    /// The index and its bytes.
    pub document: Document,
    members: Vec<Member>,
    /// Whether the store lacks something that it names.
    pub partial: bool,
}

#[derive(Debug, Clone)]
enum Member {
    Image(Box<StoredManifest>),
    /// A manifest of something else, and its blobs: an attestation.
    Other(Document, Vec<Descriptor>),
}

impl StoredIndex {
    /// The images that are here, in the order of the index.
    pub fn images(&self) -> impl Iterator<Item = &StoredManifest> {
        self.members.iter().filter_map(|member| match member {
            Member::Image(image) => Some(&**image),
            Member::Other(..) => None,
        })
    }
}

impl Whole {
    /// Reads what `descriptor` leads to.
    pub fn read(store: &Store, descriptor: &Descriptor) -> anyhow::Result<Self> {
        let document = document(store, descriptor)?;
        let reading = document.read().map_err(anyhow::Error::msg);
        let index = match reading.with_context(|| format!("reading {} of the store", descriptor.digest))? {
            Reading::Manifest(_) => {
                let image = StoredManifest::read(store, descriptor, None)?;
                return Ok(Self::Image(Box::new(image)));
            }
            Reading::Index(index) => index,
        };
        let mut members = Vec::new();
        let mut partial = false;
        for entry in &index.entries {
            let named = &entry.descriptor;
            if !store.has_blob(&named.digest) {
                partial = true;
                continue;
            }
            let child = self::document(store, named)?;
            match child.read() {
                Ok(Reading::Manifest(_)) => {
                    let image = StoredManifest::read(store, named, None)?;
                    members.push(Member::Image(Box::new(image)));
                }
                Ok(Reading::Index(_)) => bail!("the index {} names an index", descriptor.digest),
                Err(_) => {
                    let blobs = child.blobs().map_err(anyhow::Error::msg);
                    let blobs = blobs.with_context(|| format!("reading {} of the store", named.digest))?;
                    partial |= blobs.iter().any(|blob| !store.has_blob(&blob.digest));
                    members.push(Member::Other(child, blobs));
                }
            }
        }
        Ok(Self::Index(StoredIndex {
            document,
            members,
            partial,
        }))
    }

    /// What is kept beside its images.
    pub fn attached(&self, store: &Store) -> anyhow::Result<Vec<attached::Attached>> {
        let images: Vec<&StoredManifest> = match self {
            Self::Image(image) => vec![image],
            Self::Index(index) => index
                .members
                .iter()
                .filter_map(|member| match member {
                    Member::Image(image) => Some(&**image),
                    Member::Other(..) => None,
                })
                .collect(),
        };
        let of = |image: &StoredManifest| attached::kept(store, &image.descriptor.digest);
        let all = images.into_iter().map(of).collect::<anyhow::Result<Vec<_>>>()?;
        Ok(all.concat())
    }

    /// As an archive has it, under `names`. Fetches the layers that the store does not have.
    pub fn into_archive(self, store: &Store, names: Vec<Reference>) -> anyhow::Result<Archived> {
        let index = match self {
            Self::Image(image) => {
                image.ensure_layers(store)?;
                return Ok(Archived::Image(ArchiveImage::stored(*image, names)));
            }
            Self::Index(index) => index,
        };
        let mut images = Vec::new();
        let mut others = Vec::new();
        for member in index.members {
            match member {
                Member::Image(image) => {
                    image.ensure_layers(store)?;
                    images.push(ArchiveImage::stored(*image, Vec::new()));
                }
                Member::Other(document, blobs) => {
                    others.push(document.descriptor);
                    others.extend(blobs);
                }
            }
        }
        Ok(Archived::Index(ArchiveIndex {
            descriptor: index.document.descriptor,
            bytes: index.document.bytes,
            images,
            others,
            names,
            annotations: BTreeMap::new(),
        }))
    }

    /// Pushes all of it to `name`; layers that were made here are compressed as `encoding` says. `pushed` is told each layer that is there now.
    pub fn push(
        &self,
        registry: &Registry,
        store: &Store,
        name: &Reference,
        encoding: &Encoding,
        pushed: &dyn Fn(&Digest),
    ) -> anyhow::Result<Descriptor> {
        let index = match self {
            Self::Image(image) => {
                let sent = push_image(registry, store, name, image, encoding, pushed)?;
                push_attached(registry, store, name, image, &sent)?;
                return Ok(sent);
            }
            Self::Index(index) => index,
        };
        // Layers that were made here go out compressed, so that manifests and the index may become others.
        let mut renamed: BTreeMap<Digest, Descriptor> = BTreeMap::new();
        for member in &index.members {
            let Member::Image(image) = member else { continue };
            let by_digest = name.with_digest(image.descriptor.digest);
            let sent = push_image(registry, store, &by_digest, image, encoding, pushed)?;
            push_attached(registry, store, name, image, &sent)?;
            renamed.insert(image.descriptor.digest, sent);
        }
        for member in &index.members {
            let Member::Other(document, blobs) = member else {
                continue;
            };
            let (sent, blobs) = about_renamed(store, document, blobs, &renamed)?;
            let by_digest = name.with_digest(sent.descriptor.digest);
            push_other(registry, store, &by_digest, &sent, &blobs)?;
            renamed.insert(document.descriptor.digest, sent.descriptor);
        }
        let bytes = with_entries(&index.document.bytes, &renamed)?;
        // The index comes last: it may name only what is there.
        let media_type = &index.document.descriptor.media_type;
        let digest = registry
            .push_manifest(name, media_type, &bytes)
            .with_context(|| format!("pushing {}", name.familiar()))?;
        Ok(Descriptor {
            media_type: media_type.clone(),
            digest,
            size: bytes.len() as u64,
        })
    }
}

fn document(store: &Store, descriptor: &Descriptor) -> anyhow::Result<Document> {
    let bytes = store.read_blob(&descriptor.digest, MANIFEST_LIMIT)?;
    Document::new(bytes, Some(&descriptor.media_type))
        .map_err(anyhow::Error::msg)
        .with_context(|| format!("reading {} of the store", descriptor.digest))
}

/// A layer made here is a plain tar in the store and goes out compressed. One that was pulled goes out as it came, and then the
/// manifest is the one that was pulled, too.
fn push_image(
    registry: &Registry,
    store: &Store,
    name: &Reference,
    found: &StoredManifest,
    wanted: &Encoding,
    pushed: &dyn Fn(&Digest),
) -> anyhow::Result<Descriptor> {
    let layers = found.layers(store)?;
    let built = BuiltImage {
        config: found.config.clone(),
        layers: layers.iter().map(Layer::id).cloned().collect(),
        platform: found.facts.platform.clone(),
        attested: Arc::default(),
    };
    let oci_media_types = found.descriptor.media_type == OCI_MANIFEST;
    let wanted = match (oci_media_types, wanted.codec) {
        // Docker's media types know nothing better.
        (false, Some(Codec::Zstd)) => Encoding::default(),
        _ => wanted.clone(),
    };
    let encoding = Encoding {
        oci_media_types,
        ..wanted
    };
    let assembled = image::assemble(store, &built, &encoding, Some(Codec::Gzip))?;
    let digests = |layers: &[Descriptor]| layers.iter().map(|layer| layer.digest).collect::<Vec<_>>();
    let (manifest, blobs) = if digests(&assembled.layers) == digests(&found.manifest.layers) {
        (found.bytes.clone(), &found.manifest.layers)
    } else {
        (with_layers(&found.bytes, &assembled.layers)?, &assembled.layers)
    };
    // A name that asks for a digest gets what is sent.
    let sent = Digest::of(&manifest);
    let by_digest;
    let name = if name.digest().is_some() {
        by_digest = name.with_digest(sent);
        &by_digest
    } else {
        name
    };
    let digest = push(
        registry,
        store,
        name,
        &Push {
            media_type: &found.descriptor.media_type,
            manifest: &manifest,
            config: &found.manifest.config,
            layers: &layers,
            blobs,
        },
        &|_, _, _| {},
    )?;
    blobs.iter().for_each(|layer| pushed(&layer.digest));
    Ok(Descriptor {
        media_type: found.descriptor.media_type.clone(),
        digest,
        size: manifest.len() as u64,
    })
}

fn push_other(
    registry: &Registry,
    store: &Store,
    name: &Reference,
    document: &Document,
    blobs: &[Descriptor],
) -> anyhow::Result<()> {
    let blobs: Vec<PushBlob<'_>> = blobs.iter().map(|blob| stored_blob(store, blob)).collect();
    let media_type = &document.descriptor.media_type;
    registry
        .push_image(name, media_type, &document.bytes, &blobs, &|_, _, _| {})
        .with_context(|| format!("pushing {}", name.familiar()))?;
    Ok(())
}

/// The manifest with other blobs of the same layers; all else, annotations too, stays.
fn with_layers(manifest: &[u8], layers: &[Descriptor]) -> anyhow::Result<Vec<u8>> {
    let mut document: Value = serde_json::from_slice(manifest)?;
    document["layers"] = serde_json::to_value(layers)?;
    Ok(serde_json::to_vec(&document)?)
}

/// What is attested of an image, beside what was sent of it.
fn push_attached(
    registry: &Registry,
    store: &Store,
    name: &Reference,
    image: &StoredManifest,
    sent: &Descriptor,
) -> anyhow::Result<()> {
    let mut attached = attached::kept(store, &image.descriptor.digest)?;
    let renamed = BTreeMap::from([(image.descriptor.digest, sent.clone())]);
    for one in &mut attached {
        let document = document(store, &one.referrer.descriptor)?;
        let (document, blobs) = about_renamed(store, &document, &one.blobs, &renamed)?;
        store.put_blob(&document.bytes)?;
        one.referrer.descriptor = document.descriptor;
        one.blobs = blobs;
    }
    attached::push(registry, store, name, &sent.digest, &attached)
}

/// An attestation says of which image it is by its `subject`, and so do its statements. With other blobs of theirs,
/// which are put into the store.
fn about_renamed(
    store: &Store,
    document: &Document,
    blobs: &[Descriptor],
    renamed: &BTreeMap<Digest, Descriptor>,
) -> anyhow::Result<(Document, Vec<Descriptor>)> {
    let to = |digest: &Digest| renamed.get(digest).map(|sent| sent.digest);
    let mut moved = BTreeMap::new();
    let mut blobs = blobs.to_vec();
    for blob in blobs
        .iter_mut()
        .filter(|blob| blob.media_type == attestation::STATEMENT)
    {
        let statement = store.read_blob(&blob.digest, STATEMENT_LIMIT)?;
        if let Some(bytes) = attestation::moved(&statement, to) {
            let before = blob.digest;
            blob.digest = store.put_blob(&bytes)?;
            blob.size = bytes.len() as u64;
            moved.insert(before, blob.clone());
        }
    }
    let mut json: Value = serde_json::from_slice(&document.bytes)?;
    let mut changed = json
        .get_mut("subject")
        .is_some_and(|subject| rename(subject, renamed));
    for layer in json["layers"].as_array_mut().into_iter().flatten() {
        changed |= rename(layer, &moved);
    }
    if !changed {
        return Ok((document.clone(), blobs));
    }
    let bytes = serde_json::to_vec(&json)?;
    let document = Document::new(bytes, Some(&document.descriptor.media_type)).map_err(anyhow::Error::msg)?;
    Ok((document, blobs))
}

/// The index with other manifests of the same images; all else stays. When none is another, it is the same bytes.
fn with_entries(index: &[u8], renamed: &BTreeMap<Digest, Descriptor>) -> anyhow::Result<Vec<u8>> {
    if renamed.iter().all(|(before, after)| *before == after.digest) {
        return Ok(index.to_vec());
    }
    let mut document: Value = serde_json::from_slice(index)?;
    for entry in document["manifests"].as_array_mut().into_iter().flatten() {
        rename(entry, renamed);
        if let Some(reference) = entry.pointer_mut(&format!("/annotations/{REFERENCE_DIGEST}"))
            && let Some(sent) = sent_as(reference, renamed)
        {
            *reference = sent.digest.to_string().into();
        }
    }
    Ok(serde_json::to_vec(&document)?)
}

/// Lets the descriptor name what was sent. Whether that changed anything.
fn rename(descriptor: &mut Value, renamed: &BTreeMap<Digest, Descriptor>) -> bool {
    let Some(sent) = descriptor
        .get("digest")
        .and_then(|digest| sent_as(digest, renamed))
    else {
        return false;
    };
    let (digest, size) = (sent.digest.to_string(), sent.size);
    descriptor["digest"] = digest.into();
    descriptor["size"] = size.into();
    true
}

fn sent_as<'a>(digest: &Value, renamed: &'a BTreeMap<Digest, Descriptor>) -> Option<&'a Descriptor> {
    let digest: Digest = digest.as_str()?.parse().ok()?;
    renamed.get(&digest).filter(|sent| sent.digest != digest)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_index_names_what_was_sent() {
        let (before, after, other) = (Digest::of(b"1"), Digest::of(b"2"), Digest::of(b"3"));
        let sent = Descriptor {
            media_type: OCI_MANIFEST.to_owned(),
            digest: after,
            size: 7,
        };
        let index = json!({"annotations": {"a": "b"}, "manifests": [
            {"digest": before, "size": 1, "platform": {"os": "linux"}},
            {"digest": other, "size": 3, "annotations": {(REFERENCE_DIGEST): before}},
        ]});
        let bytes = serde_json::to_vec(&index).unwrap();
        let same = BTreeMap::from([(after, sent.clone())]);
        assert_eq!(with_entries(&bytes, &same).unwrap(), bytes);
        let renamed = with_entries(&bytes, &BTreeMap::from([(before, sent)])).unwrap();
        let renamed: Value = serde_json::from_slice(&renamed).unwrap();
        let wanted = json!({"annotations": {"a": "b"}, "manifests": [
            {"digest": after, "size": 7, "platform": {"os": "linux"}},
            {"digest": other, "size": 3, "annotations": {(REFERENCE_DIGEST): after}},
        ]});
        assert_eq!(renamed, wanted);
    }
}
