//! `manifest.json` of docker's archives: an image is made of what it lists.

use std::io::Read as _;

use anyhow::{Context as _, bail, ensure};
use rbuild_cache::layer::{MEDIA_TYPE_GZIP, MEDIA_TYPE_TAR, MEDIA_TYPE_ZSTD};
use rbuild_cache::{Descriptor, Digest};
use serde::Deserialize;

use super::{Archive, LoadedImage};
use crate::registry::Reference;
use crate::registry::document::{CONFIG_LIMIT, MANIFEST_LIMIT, Manifest, OCI_MANIFEST};

/// An entry of docker's `manifest.json`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Option<Vec<String>>,
}

impl Archive<'_> {
    /// The images of the archive.
    pub(super) fn docker(&self) -> anyhow::Result<Vec<LoadedImage>> {
        let doing = || "reading manifest.json of the archive";
        let manifest = self.bytes("manifest.json", MANIFEST_LIMIT).with_context(doing)?;
        let entries: Vec<DockerImage> = serde_json::from_slice(&manifest).with_context(doing)?;
        entries
            .into_iter()
            .map(|entry| self.docker_image(&entry))
            .collect()
    }

    fn docker_image(&self, entry: &DockerImage) -> anyhow::Result<LoadedImage> {
        let tags = entry.repo_tags.iter().flatten().map(|tag| Reference::parse(tag));
        let names = tags.collect::<Result<Vec<_>, _>>()?;
        if let Some(name) = names.iter().find(|name| name.tag().is_none()) {
            bail!("invalid tag {name}: an image is named by a tag, not by a digest");
        }
        let config = self.bytes(&entry.config, CONFIG_LIMIT)?;
        let paths: Vec<&String> = entry.layers.iter().flatten().collect();
        let mut layers = Vec::with_capacity(paths.len());
        for path in &paths {
            let (digest, size) = self.blob(path)?;
            let media_type = self.media_type(&digest)?.to_owned();
            layers.push(Descriptor {
                media_type,
                digest,
                size,
            });
        }
        let config_descriptor = Descriptor {
            media_type: "application/vnd.oci.image.config.v1+json".to_owned(),
            digest: self.store.put_blob(&config)?,
            size: config.len() as u64,
        };
        let manifest = Manifest {
            config: config_descriptor,
            layers,
        };
        let platform = self.register(&manifest, &config)?;
        if let Some(wanted) = self.platform {
            ensure!(
                wanted.accepts(&platform),
                "the archive has no image for {wanted}: it has {platform}"
            );
        }
        let bytes = serde_json::to_vec(&serde_json::json!({
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": manifest.config,
            "layers": manifest.layers,
        }))?;
        let descriptor = Descriptor {
            media_type: OCI_MANIFEST.to_owned(),
            digest: self.store.put_blob(&bytes)?,
            size: bytes.len() as u64,
        };
        Ok(LoadedImage {
            id: manifest.config.digest,
            descriptor,
            names,
        })
    }

    fn media_type(&self, digest: &Digest) -> anyhow::Result<&'static str> {
        let mut start = Vec::new();
        std::fs::File::open(self.store.blob_path(digest))?
            .take(4)
            .read_to_end(&mut start)?;
        Ok(match start.as_slice() {
            [0x1f, 0x8b, ..] => MEDIA_TYPE_GZIP,
            [0x28, 0xb5, 0x2f, 0xfd] => MEDIA_TYPE_ZSTD,
            _ => MEDIA_TYPE_TAR,
        })
    }
}
