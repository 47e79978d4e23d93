//! Which image does an argument mean? A name, a name with a digest, an image id or the beginning of one.

use std::collections::{BTreeMap, HashSet};

use rbuild_cache::{Descriptor, Digest, LayerId, Store, StoredImage};

use super::context::note;
use crate::exporter::stored::StoredManifest;
use crate::graph::Platform;
use crate::registry::Reference;

/// One image of the store with all its names.
#[derive(Debug, Clone)]
pub struct Listed {
    /// What its names lead to: a manifest or an index.
    pub descriptor: Descriptor,
    /// Its names, sorted.
    pub names: Vec<Reference>,
    /// When it was put into the store or tagged last, RFC 3339.
    pub tagged: Option<String>,
    /// The image itself.
    pub image: StoredManifest,
}

/// No image of the store is meant, or not one that can be used.
#[derive(Debug, thiserror::Error)]
pub enum LookupError {
    /// There is none of that name.
    #[error("No such image: {0}")]
    Missing(String),
    /// The beginning of an id fits several.
    #[error("multiple IDs found with provided prefix: {0}")]
    Ambiguous(String),
    /// The store has the name and not, or not whole, what it leads to.
    #[error("the image {0} of the store cannot be read")]
    Unreadable(String),
}

/// What an argument means.
#[derive(Debug, Clone)]
pub struct Found {
    /// Images of that name or id: one, but for an id whose config is in several manifests.
    pub images: Vec<Listed>,
    /// The name, when the argument was one.
    pub name: Option<Reference>,
}

impl Found {
    /// The image.
    pub fn first(&self) -> &Listed {
        &self.images[0]
    }
}

/// All images of the store, newest first. What cannot be read is told on standard error and left out.
pub fn list(store: &Store) -> anyhow::Result<Vec<Listed>> {
    let leave_out = |entry: &StoredImage, error: anyhow::Error| {
        let digest = entry.descriptor.digest.to_string();
        let name = entry.name.as_deref().unwrap_or(&digest);
        note(&format!("warning: leaving out {name}: {error:#}"));
        Ok(())
    };
    gather(store, store.images()?, leave_out)
}

/// The images that have a name which is `wanted`, with all their names, newest first. The others are not read, and one of
/// these that cannot be read is an error. `wanted` gets the digest that the name leads to as well.
pub fn list_named(
    store: &Store,
    wanted: impl Fn(&Reference, &Digest) -> bool,
) -> anyhow::Result<Vec<Listed>> {
    let mut entries = store.images()?;
    let found = entries
        .iter()
        .filter(|entry| name_of(entry).is_some_and(|name| wanted(&name, &entry.descriptor.digest)));
    let digests: HashSet<Digest> = found.map(|entry| entry.descriptor.digest).collect();
    entries.retain(|entry| digests.contains(&entry.descriptor.digest));
    gather(store, entries, refuse)
}

fn refuse(entry: &StoredImage, error: anyhow::Error) -> anyhow::Result<()> {
    let name = entry.name.clone().unwrap_or_default();
    Err(error.context(LookupError::Unreadable(name)))
}

/// A name that other tools wrote and that is none of ours still keeps its image.
fn name_of(entry: &StoredImage) -> Option<Reference> {
    Reference::parse(entry.name.as_deref()?).ok()
}

/// The images of `entries`; `unreadable` says whether one that cannot be read is an error.
fn gather(
    store: &Store,
    entries: Vec<StoredImage>,
    unreadable: impl Fn(&StoredImage, anyhow::Error) -> anyhow::Result<()>,
) -> anyhow::Result<Vec<Listed>> {
    let mut images: BTreeMap<Digest, Listed> = BTreeMap::new();
    let mut broken = HashSet::new();
    for entry in entries {
        let digest = entry.descriptor.digest;
        if broken.contains(&digest) {
            continue;
        }
        let name = name_of(&entry);
        if let Some(known) = images.get_mut(&digest) {
            known.names.extend(name);
            known.tagged = known.tagged.take().max(entry.created);
            continue;
        }
        match StoredManifest::read(store, &entry.descriptor, None) {
            Ok(image) => {
                let names = name.into_iter().collect();
                images.insert(
                    digest,
                    Listed {
                        descriptor: entry.descriptor,
                        names,
                        tagged: entry.created,
                        image,
                    },
                );
            }
            Err(error) => {
                unreadable(&entry, error)?;
                broken.insert(digest);
            }
        }
    }
    let mut images: Vec<Listed> = images.into_values().collect();
    for image in &mut images {
        image.names.sort();
    }
    images.sort_by_cached_key(|image| (std::cmp::Reverse(image.created_seconds()), image.names.clone()));
    Ok(images)
}

/// The image that `text` means.
pub fn find(store: &Store, text: &str) -> anyhow::Result<Found> {
    let name = Reference::parse(text).ok();
    if let Some(name) = &name
        && let Some(image) = named(store, name)?
    {
        return Ok(Found {
            images: vec![image],
            name: Some(name.clone()),
        });
    }
    let digits = text.strip_prefix("sha256:").unwrap_or(text);
    let hex = !digits.is_empty() && digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let fits = |image: &Listed| hex && image.image.id().hex().starts_with(digits);
    let images: Vec<Listed> = list(store)?.into_iter().filter(fits).collect();
    match images.first() {
        None => {
            Err(LookupError::Missing(name.map_or_else(|| text.to_owned(), |name| name.familiar())).into())
        }
        Some(first) if images.iter().any(|image| image.image.id() != first.image.id()) => {
            Err(LookupError::Ambiguous(text.to_owned()).into())
        }
        Some(_) => Ok(Found { images, name: None }),
    }
}

/// The image of that name.
fn named(store: &Store, name: &Reference) -> anyhow::Result<Option<Listed>> {
    let is_meant = |known: &Reference, leads_to: &Digest| match name.digest() {
        Some(digest) => leads_to == digest && known.name() == name.name(),
        None => known == name,
    };
    let digest = match name.digest() {
        Some(digest) => Some(*digest),
        None => store.image(&name.to_string())?.map(|known| known.digest),
    };
    // As this program writes names; what other tools wrote may be the same name in other words.
    if let Some(digest) = digest {
        let entries = store.images_of(&digest)?;
        let is_named = |entry| name_of(entry).is_some_and(|known| is_meant(&known, &digest));
        if entries.iter().any(is_named) {
            return Ok(gather(store, entries, refuse)?.into_iter().next());
        }
    }
    Ok(list_named(store, is_meant)?.into_iter().next())
}

/// The image that `text` means, for `platform` when one is given.
pub fn find_for(store: &Store, text: &str, platform: Option<&Platform>) -> anyhow::Result<Listed> {
    let mut listed = find(store, text)?.first().clone();
    if platform.is_some() {
        listed.image = StoredManifest::read(store, &listed.descriptor, platform)?;
    }
    Ok(listed)
}

impl Listed {
    /// The config, as far as it is JSON.
    pub fn config(&self) -> serde_json::Value {
        serde_json::from_slice(&self.image.config).unwrap_or_default()
    }

    /// The config's `created` as it is written.
    pub fn created(&self) -> Option<String> {
        self.config()["created"].as_str().map(str::to_owned)
    }

    /// The config's `created` in seconds.
    pub fn created_seconds(&self) -> Option<i64> {
        Some(self.created()?.parse::<jiff::Timestamp>().ok()?.as_second())
    }

    /// Bytes of its files. Of layers that were never fetched only the size of the compressed blob is known.
    pub fn size(&self, store: &Store) -> u64 {
        self.layer_sizes(store).iter().sum()
    }

    /// The same by layer, lowest first.
    pub fn layer_sizes(&self, store: &Store) -> Vec<u64> {
        let pairs = self.image.manifest.layers.iter().zip(&self.image.facts.diff_ids);
        pairs
            .map(|(blob, diff_id)| {
                let record = store
                    .layer(&LayerId::of_diff_id(diff_id))
                    .and_then(|layer| layer.record());
                let known = record.ok().and_then(|record| {
                    // A blob that has the diff id as its digest is the plain tar.
                    let plain = record.compressed.iter().find(|form| form.digest == diff_id.0);
                    let plain = plain.map(|form| form.size);
                    record.size.or(plain).or(record.tar.map(|tar| tar.size))
                });
                known.unwrap_or(blob.size)
            })
            .collect()
    }

    /// `repository@digest` for each repository that it has a name in.
    pub fn repo_digests(&self) -> Vec<String> {
        let mut names: Vec<String> = self
            .names
            .iter()
            .map(|n| format!("{}@{}", n.familiar_name(), self.descriptor.digest))
            .collect();
        names.dedup();
        names
    }

    /// Its names with tags, as docker shows them.
    pub fn repo_tags(&self) -> Vec<String> {
        self.names
            .iter()
            .filter(|n| n.tag().is_some())
            .map(Reference::familiar)
            .collect()
    }
}
