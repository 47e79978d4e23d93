//! Images in archives: OCI image layouts, docker's archives of old (`<id>/layer.tar`) and new kind, and those of skopeo and
//! podman. Loading puts their blobs into the store.
//!
//! Nothing of an archive is believed: blobs have the digests that they are named by, layers the diff ids of their config and
//! a form that the strict tar reader takes. An archive that fails leaves no name behind, only blobs that nobody needs.

mod docker;

use std::collections::BTreeMap;
use std::io::{self, Read};

use anyhow::{Context as _, bail, ensure};
use rbuild_cache::layer::{Kind, LayerBlob, LayerPath, TarReader};
use rbuild_cache::{Descriptor, DiffId, Digest, LayerId, Referrer, Store};
use serde::Deserialize;

use super::compressed::decompressed;
use super::hash_reader::HashReader;
use crate::graph::Platform;
use crate::parallel::in_parallel;
use crate::registry::Reference;
use crate::registry::document::{
    CONFIG_LIMIT, Document, Index, MANIFEST_LIMIT, Manifest, Reading, read_config,
};

/// Members up to this size are kept in memory until it is known what they are ...
const SMALL: u64 = 4 << 20;
/// ... and no more than so many bytes of them.
const SMALL_TOTAL: u64 = 64 << 20;
/// How deep links of members and indexes of indexes may go.
const DEPTH: usize = 4;

/// An image that was loaded.
#[derive(Debug, Clone)]
pub struct LoadedImage {
    /// Digest of its config.
    pub id: Digest,
    /// What its names lead to.
    pub descriptor: Descriptor,
    /// Its names; they are given to it only by [`LoadedImage::tag`].
    pub names: Vec<Reference>,
}

impl LoadedImage {
    /// Gives the image its names; a nameless one is kept nameless.
    pub fn tag(&self, store: &Store) -> anyhow::Result<()> {
        let names: Vec<String> = self.names.iter().map(Reference::to_string).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        store
            .tag_all(&names, &self.descriptor)
            .context("naming the image")
    }
}

/// Reads an archive, plain or compressed, and puts the blobs of its images into `store`; of images of several platforms only the one
/// for `platform`, when that is given.
pub fn load<'a>(
    store: &'a Store,
    platform: Option<&'a Platform>,
    input: impl Read + 'a,
) -> anyhow::Result<Vec<LoadedImage>> {
    let input = decompressed(input, store.growth()).context("reading the archive")?;
    let mut archive = Archive {
        store,
        platform,
        members: BTreeMap::new(),
        small: 0,
    };
    archive.read(input).context("reading the archive")?;
    let images = if archive.has("index.json") {
        archive.oci()?
    } else if archive.has("manifest.json") {
        archive.docker()?
    } else {
        bail!("the archive holds no image: it has neither index.json nor manifest.json");
    };
    ensure!(!images.is_empty(), "the archive holds no image");
    Ok(images)
}

enum Member {
    Small(Vec<u8>),
    Blob { digest: Digest, size: u64 },
    Link(LayerPath),
}

struct Archive<'a> {
    store: &'a Store,
    /// Only this one is wanted.
    platform: Option<&'a Platform>,
    members: BTreeMap<LayerPath, Member>,
    small: u64,
}

/// The images that an entry of the archive leads to.
#[derive(Default)]
struct Found {
    images: Vec<FoundImage>,
    /// Whether the archive has all that is named on the way.
    complete: bool,
}

#[derive(Clone)]
struct FoundImage {
    id: Digest,
    descriptor: Descriptor,
    platform: Platform,
}

/// `index.json`: more of it than [`Reading`] keeps.
#[derive(Deserialize)]
struct Layout {
    manifests: Vec<LayoutEntry>,
}

#[derive(Deserialize)]
struct LayoutEntry {
    #[serde(flatten)]
    descriptor: Descriptor,
    #[serde(default, rename = "artifactType")]
    artifact_type: Option<String>,
    #[serde(default)]
    annotations: Option<BTreeMap<String, String>>,
}

/// What a manifest refers to.
#[derive(Deserialize)]
struct Refers {
    subject: Option<Descriptor>,
    annotations: Option<BTreeMap<String, String>>,
}

impl Archive<'_> {
    fn read(&mut self, input: impl Read) -> anyhow::Result<()> {
        let mut tar = TarReader::archive(input);
        while let Some(member) = tar.next_entry()? {
            let path = member.entry.path;
            let content = match member.entry.kind {
                Kind::Directory { .. } => continue,
                Kind::Symlink { target } => {
                    let parent = path.parent().unwrap_or_default();
                    Member::Link(LayerPath::clean(
                        &[parent.as_bytes(), b"/", target.as_slice()].concat(),
                    ))
                }
                Kind::Hardlink { target } => Member::Link(target),
                Kind::File { size } => {
                    let doing = || format!("reading its member {path}");
                    self.content(&path, size, &mut tar).with_context(doing)?
                }
                _ => bail!("its member {path} is neither a file nor a link"),
            };
            ensure!(
                self.members.insert(path.clone(), content).is_none(),
                "it has two members called {path}"
            );
        }
        Ok(())
    }

    fn content(&mut self, path: &LayerPath, size: u64, tar: &mut impl Read) -> anyhow::Result<Member> {
        let text = String::from_utf8_lossy(path.as_bytes());
        let named: Option<Digest> = match text.strip_prefix("blobs/sha256/") {
            Some(hex) => Some(format!("sha256:{hex}").parse().context("it is no blob")?),
            None => None,
        };
        if named.is_none() && size <= SMALL && self.small + size <= SMALL_TOTAL {
            self.small += size;
            let mut bytes = Vec::new();
            tar.take(size).read_to_end(&mut bytes)?;
            return Ok(Member::Small(bytes));
        }
        if let Some(digest) = named
            && self.store.blob_size(&digest) == Some(size)
        {
            // It is here; what the archive has under this name must be it nevertheless.
            let mut hasher = HashReader::new(tar);
            io::copy(&mut hasher, &mut io::sink())?;
            ensure!(
                hasher.digest() == digest,
                "expected {digest}, but the bytes are {}",
                hasher.digest()
            );
            return Ok(Member::Blob { digest, size });
        }
        let mut writer = self.store.blob_writer()?;
        io::copy(tar, &mut writer)?;
        let (digest, size) = writer.commit(named.as_ref())?;
        Ok(Member::Blob { digest, size })
    }

    fn has(&self, path: &str) -> bool {
        self.members.contains_key(&LayerPath::clean(path.as_bytes()))
    }

    fn member(&self, path: &str) -> anyhow::Result<&Member> {
        let mut path = LayerPath::strict(path.as_bytes())
            .with_context(|| format!("the archive names {path:?}, which leads out of it"))?;
        for _ in 0..DEPTH {
            match self.members.get(&path) {
                None => bail!("the archive has no {path}"),
                Some(Member::Link(target)) => path = target.clone(),
                Some(member) => return Ok(member),
            }
        }
        bail!("the archive has too many links at {path}")
    }

    fn bytes(&self, path: &str, limit: u64) -> anyhow::Result<Vec<u8>> {
        match self.member(path)? {
            Member::Small(bytes) if bytes.len() as u64 <= limit => Ok(bytes.clone()),
            Member::Blob { digest, .. } => Ok(self.store.read_blob(digest, limit)?),
            _ => bail!("the archive's {path} is too large"),
        }
    }

    /// The member as a blob of the store.
    fn blob(&self, path: &str) -> anyhow::Result<(Digest, u64)> {
        Ok(match self.member(path)? {
            Member::Small(bytes) => (self.store.put_blob(bytes)?, bytes.len() as u64),
            Member::Blob { digest, size } => (*digest, *size),
            Member::Link(_) => bail!("the archive has too many links at {path}"),
        })
    }

    /// The bytes of a blob that `descriptor` names.
    fn document(&self, descriptor: &Descriptor) -> anyhow::Result<Vec<u8>> {
        let Descriptor { digest, size, .. } = descriptor;
        ensure!(
            *size <= MANIFEST_LIMIT.max(CONFIG_LIMIT),
            "the blob {digest} is too large"
        );
        self.require(descriptor)?;
        Ok(self.store.read_blob(digest, *size)?)
    }

    /// Fails when the blob is not in the archive or does not have the size that is said.
    fn require(&self, descriptor: &Descriptor) -> anyhow::Result<()> {
        let Descriptor { digest, size, .. } = descriptor;
        let (_, found) = self.blob(&format!("blobs/sha256/{}", digest.hex()))?;
        ensure!(
            found == *size,
            "the blob {digest} has {found} bytes instead of {size}"
        );
        Ok(())
    }

    fn has_blob(&self, digest: &Digest) -> bool {
        self.has(&format!("blobs/sha256/{}", digest.hex()))
    }

    fn oci(&self) -> anyhow::Result<Vec<LoadedImage>> {
        let index = self.bytes("index.json", MANIFEST_LIMIT)?;
        let layout: Layout = serde_json::from_slice(&index).context("reading index.json of the archive")?;
        let mut images: Vec<LoadedImage> = Vec::new();
        let mut referrers = Vec::new();
        for entry in layout.manifests {
            if entry.artifact_type.is_some()
                && let Some(found) = self.referrer(&entry)?
            {
                referrers.push(found);
                continue;
            }
            let name = entry.annotations.as_ref().and_then(entry_name);
            let name = name.map(|name| Reference::parse(&name)).transpose()?;
            ensure!(
                name.as_ref().is_none_or(|n| n.tag().is_some()),
                "a name in the archive has no tag"
            );
            let same = |known: &&mut LoadedImage| known.descriptor.digest == entry.descriptor.digest;
            if let Some(known) = images.iter_mut().find(same) {
                known.names.extend(name);
                continue;
            }
            let mut found = Found {
                complete: true,
                ..Found::default()
            };
            self.images_of(&entry.descriptor, DEPTH, &mut found)?;
            if let Some(wanted) = self.platform {
                let offered: Vec<String> = found
                    .images
                    .iter()
                    .map(|image| image.platform.to_string())
                    .collect();
                found.images.retain(|image| wanted.accepts(&image.platform));
                ensure!(
                    !found.images.is_empty() || offered.is_empty(),
                    "the archive has no image for {wanted}: it has {}",
                    offered.join(", ")
                );
            }
            let Some(FoundImage { id, descriptor, .. }) = found.images.first().cloned() else {
                continue;
            };
            // An index of which only one image was put into the archive is that image.
            let descriptor = match found.images.len() {
                1 if self.platform.is_some() || !found.complete => descriptor,
                _ => entry.descriptor,
            };
            images.push(LoadedImage {
                id,
                descriptor,
                names: name.into_iter().collect(),
            });
        }
        for (subject, referrer) in referrers {
            self.store.refer(&subject, &[referrer])?;
        }
        Ok(images)
    }

    /// What refers to an image of the archive, and to which; `None` for what is an image itself.
    fn referrer(&self, entry: &LayoutEntry) -> anyhow::Result<Option<(Digest, Referrer)>> {
        let descriptor = &entry.descriptor;
        let doing = || format!("reading the manifest {} of the archive", descriptor.digest);
        let bytes = self.document(descriptor)?;
        let said: Refers = serde_json::from_slice(&bytes).with_context(doing)?;
        let document = Document::new(bytes, Some(&descriptor.media_type));
        let document = document.map_err(anyhow::Error::msg).with_context(doing)?;
        let Some(subject) = said.subject.filter(|_| document.read().is_err()) else {
            return Ok(None);
        };
        let blobs = document.blobs().map_err(anyhow::Error::msg).with_context(doing)?;
        blobs.iter().try_for_each(|blob| self.require(blob))?;
        let referrer = Referrer {
            descriptor: document.descriptor,
            artifact_type: entry.artifact_type.clone().unwrap_or_default(),
            annotations: said.annotations.unwrap_or_default(),
        };
        Ok(Some((subject.digest, referrer)))
    }

    /// Adds the images that `descriptor` leads to and that the archive has.
    fn images_of(&self, descriptor: &Descriptor, depth: usize, found: &mut Found) -> anyhow::Result<()> {
        ensure!(depth > 0, "the archive's indexes nest too deep");
        let digest = descriptor.digest;
        let document = Document::new(self.document(descriptor)?, Some(&descriptor.media_type))
            .and_then(|document| document.read().map(|reading| (document, reading)));
        let (document, reading) = document
            .map_err(anyhow::Error::msg)
            .with_context(|| format!("reading the manifest {digest} of the archive"))?;
        match reading {
            Reading::Manifest(manifest) => {
                let config = self.document(&manifest.config)?;
                manifest.layers.iter().try_for_each(|layer| self.require(layer))?;
                found.images.push(FoundImage {
                    id: manifest.config.digest,
                    platform: self.register(&manifest, &config)?,
                    descriptor: document.descriptor,
                });
            }
            Reading::Index(index) => {
                for entry in &index.entries {
                    // Platforms may have been left out of the archive, and what is attested of them.
                    if !self.has_blob(&entry.descriptor.digest) {
                        found.complete = false;
                    } else if Index::is_attestation(entry) {
                        found.complete &= self.has_attestation(&entry.descriptor)?;
                    } else {
                        self.images_of(&entry.descriptor, depth - 1, found)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Whether the archive has all blobs of an attestation.
    fn has_attestation(&self, descriptor: &Descriptor) -> anyhow::Result<bool> {
        let document = Document::new(self.document(descriptor)?, Some(&descriptor.media_type));
        let blobs = document
            .and_then(|document| document.blobs())
            .map_err(anyhow::Error::msg)
            .with_context(|| format!("reading the attestation {} of the archive", descriptor.digest))?;
        Ok(blobs.iter().all(|blob| self.has_blob(&blob.digest)))
    }

    /// Checks all layers and makes them known. The platform of the image.
    fn register(&self, manifest: &Manifest, config: &[u8]) -> anyhow::Result<Platform> {
        let facts = read_config(config, manifest.layers.len())
            .map_err(anyhow::Error::msg)
            .with_context(|| format!("reading the config {} of the archive", manifest.config.digest))?;
        in_parallel(
            manifest.layers.iter().zip(&facts.diff_ids).collect(),
            |(layer, diff_id)| {
                let blob = LayerBlob {
                    media_type: layer.media_type.clone(),
                    digest: layer.digest,
                    size: layer.size,
                };
                let id = LayerId::of_diff_id(diff_id);
                let record = self.store.layer(&id).and_then(|known| known.record());
                // Somebody has looked at these bytes before.
                if !record.is_ok_and(|record| record.blobs().any(|known| *known == layer.digest)) {
                    check_layer(self.store, &layer.digest, diff_id)
                        .with_context(|| format!("checking the layer {}", layer.digest))?;
                }
                self.store.register_layer(&blob, diff_id, &[])?;
                Ok(())
            },
        )?;
        Ok(facts.platform)
    }
}

/// The name that an entry of `index.json` gives its image. A bare tag is no name.
fn entry_name(annotations: &BTreeMap<String, String>) -> Option<String> {
    if let Some(name) = annotations.get("io.containerd.image.name") {
        return Some(name.clone());
    }
    let name = annotations.get("org.opencontainers.image.ref.name")?;
    name.contains([':', '/']).then(|| name.clone())
}

/// Reads a layer to its end: it is a tar that can be applied, and it has the diff id.
fn check_layer(store: &Store, digest: &Digest, diff_id: &DiffId) -> anyhow::Result<()> {
    let blob = decompressed(store.open_blob(digest)?, store.growth())?;
    let mut tar = TarReader::layer(HashReader::new(blob));
    while tar.next_entry()?.is_some() {}
    let mut hasher = tar.into_inner();
    io::copy(&mut hasher, &mut io::sink())?;
    let actual = hasher.digest();
    ensure!(
        actual == diff_id.0,
        "the config names the diff id {diff_id}, but it is {actual}"
    );
    Ok(())
}
