//! Which image does an argument mean? A name, a name with a digest, an image id or the beginning of one.

use std::cell::OnceCell;
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

/// What the arguments of one command mean. Which image an id or the beginning of one is of is told by all images, which are read
/// once, when the first id comes.
#[derive(Debug)]
pub struct Lookup<'a> {
    store: &'a Store,
    all: OnceCell<Vec<Listed>>,
}

impl<'a> Lookup<'a> {
    /// Nothing is read yet.
    pub fn new(store: &'a Store) -> Self {
        Self {
            store,
            all: OnceCell::new(),
        }
    }

    /// The image that `text` means.
    pub fn find(&self, text: &str) -> anyhow::Result<Found> {
        let name = Reference::parse(text).ok();
        let digits = text.strip_prefix("sha256:").unwrap_or(text);
        let is_hex = !digits.is_empty() && digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if let Some(name) = &name
            && let Some(image) = self.named(name, is_hex)?
        {
            return Ok(Found {
                images: vec![image],
                name: Some(name.clone()),
            });
        }
        let missing =
            || LookupError::Missing(name.as_ref().map_or_else(|| text.to_owned(), Reference::familiar));
        if !is_hex {
            return Err(missing().into());
        }
        let fits = |image: &&Listed| image.image.id().hex().starts_with(digits);
        let images: Vec<Listed> = self.all()?.iter().filter(fits).cloned().collect();
        match images.first() {
            None => Err(missing().into()),
            Some(first) if images.iter().any(|image| image.image.id() != first.image.id()) => {
                Err(LookupError::Ambiguous(text.to_owned()).into())
            }
            Some(_) => Ok(Found { images, name: None }),
        }
    }

    /// The image that `text` means, for `platform` when one is given.
    pub fn find_for(&self, text: &str, platform: Option<&Platform>) -> anyhow::Result<Listed> {
        let mut listed = self.find(text)?.first().clone();
        if platform.is_some() {
            listed.image = StoredManifest::read(self.store, &listed.descriptor, platform)?;
        }
        Ok(listed)
    }

    /// To be told when `name` was taken from an image that has others.
    pub fn untagged(&mut self, name: &Reference) {
        for image in self.all.get_mut().into_iter().flatten() {
            image.names.retain(|known| known != name);
        }
    }

    /// To be told when an image was removed.
    pub fn removed(&mut self, digest: &Digest) {
        if let Some(all) = self.all.get_mut() {
            all.retain(|image| image.descriptor.digest != *digest);
        }
    }

    /// The image of that name; all are read anyway if it `may_be_an_id` and is not found as this program writes names.
    fn named(&self, name: &Reference, may_be_an_id: bool) -> anyhow::Result<Option<Listed>> {
        let is_meant = |known: &Reference, leads_to: &Digest| match name.digest() {
            Some(digest) => leads_to == digest && known.name() == name.name(),
            None => known == name,
        };
        let digest = match name.digest() {
            Some(digest) => Some(*digest),
            None => self.store.image(&name.to_string())?.map(|known| known.digest),
        };
        if let Some(digest) = digest {
            let entries = self.store.images_of(&digest)?;
            let is_named = |entry| name_of(entry).is_some_and(|known| is_meant(&known, &digest));
            if entries.iter().any(is_named) {
                return Ok(gather(self.store, entries, refuse)?.into_iter().next());
            }
        }
        // What other tools wrote may be the same name in other words.
        if may_be_an_id {
            let has_name = |image: &&Listed| {
                let mut names = image.names.iter();
                names.any(|known| is_meant(known, &image.descriptor.digest))
            };
            return Ok(self.all()?.iter().find(has_name).cloned());
        }
        Ok(list_named(self.store, is_meant)?.into_iter().next())
    }

    fn all(&self) -> anyhow::Result<&[Listed]> {
        if self.all.get().is_none() {
            let _ = self.all.set(list(self.store)?);
        }
        Ok(self.all.get().map_or(&[], Vec::as_slice))
    }
}

/// The image that `text` means.
pub fn find(store: &Store, text: &str) -> anyhow::Result<Found> {
    Lookup::new(store).find(text)
}

/// The image that `text` means, for `platform` when one is given.
pub fn find_for(store: &Store, text: &str, platform: Option<&Platform>) -> anyhow::Result<Listed> {
    Lookup::new(store).find_for(text, platform)
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
