//! From layers and a config to a manifest: media types, annotations, and the blobs that it names.

use std::collections::BTreeMap;

use anyhow::{Context as _, bail, ensure};
use rbuild_cache::layer::{Compression, Layer, LayerBlob};
use rbuild_cache::{Descriptor, Digest, Store};
use serde::Serialize;

use super::archive::ArchiveImage;
use super::push::Push;
use super::{Annotation, AnnotationTarget, BuiltImage, Codec, Encoding};
use crate::parallel::in_parallel;
use crate::registry::Reference;
use crate::registry::document::{DOCKER_MANIFEST, OCI_MANIFEST, read_config};

const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";

/// A manifest and what it names.
#[derive(Debug, Clone)]
pub struct Assembled {
    /// The manifest.
    pub descriptor: Descriptor,
    /// Its bytes.
    pub manifest: Vec<u8>,
    /// The config; its bytes are those of the [`BuiltImage`].
    pub config: Descriptor,
    /// Layers as the manifest names them, lowest first.
    pub layers: Vec<Descriptor>,
    /// Annotations of the manifest's descriptor.
    pub descriptor_annotations: BTreeMap<String, String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ManifestJson<'a> {
    schema_version: u32,
    media_type: &'a str,
    config: &'a Descriptor,
    layers: &'a [Descriptor],
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    annotations: BTreeMap<String, String>,
}

/// The manifest of `image`. `default` is the compression of layers when `encoding` names none; with neither, each layer
/// is named in the form that it has. Blobs that are named by it may not be here yet ([`Layer::ensure_blob`]).
pub fn assemble(
    store: &Store,
    image: &BuiltImage,
    encoding: &Encoding,
    default: Option<Codec>,
) -> anyhow::Result<Assembled> {
    let select = |target| Annotation::select(&encoding.annotations, target, &image.platform);
    let facts = read_config(&image.config, image.layers.len())
        .map_err(anyhow::Error::msg)
        .context("reading the config of the built image")?;
    let compression = encoding.compression(default);
    let layers = image
        .layers
        .iter()
        .map(|id| store.layer(id))
        .collect::<Result<Vec<_>, _>>()?;
    let blobs = in_parallel(layers, |layer| form(&layer, compression.as_ref(), encoding.force))?;
    for ((blob, diff_id), layer) in blobs.iter().zip(&facts.diff_ids).zip(&image.layers) {
        // A plain tar's digest is its diff id: a config that says otherwise would make an image nobody can load.
        if blob.media_type.ends_with(".tar") && blob.digest != diff_id.0 {
            bail!(
                "the config names the diff id {diff_id} for layer {layer}, which is {}",
                blob.digest
            );
        }
    }
    let oci = encoding.oci_media_types;
    let layers: Vec<Descriptor> = blobs
        .into_iter()
        .map(|blob| layer_descriptor(blob, oci))
        .collect::<anyhow::Result<_>>()?;
    let config = Descriptor {
        media_type: if oci { OCI_CONFIG } else { DOCKER_CONFIG }.to_owned(),
        digest: Digest::of(&image.config),
        size: image.config.len() as u64,
    };
    let media_type = if oci { OCI_MANIFEST } else { DOCKER_MANIFEST };
    // Docker's manifest has no annotations.
    let annotations = if oci {
        select(AnnotationTarget::Manifest)
    } else {
        BTreeMap::new()
    };
    let json = ManifestJson {
        schema_version: 2,
        media_type,
        config: &config,
        layers: &layers,
        annotations,
    };
    let manifest = serde_json::to_vec(&json)?;
    let descriptor = Descriptor {
        media_type: media_type.to_owned(),
        digest: Digest::of(&manifest),
        size: manifest.len() as u64,
    };
    let descriptor_annotations = select(AnnotationTarget::ManifestDescriptor);
    Ok(Assembled {
        descriptor,
        manifest,
        config,
        layers,
        descriptor_annotations,
    })
}

/// Fails when annotations are given that only an image of several platforms can bear.
pub fn refuse_index_annotations(encoding: &Encoding, image: &BuiltImage) -> anyhow::Result<()> {
    for (target, name) in [
        (AnnotationTarget::Index, "index"),
        (AnnotationTarget::IndexDescriptor, "index-descriptor"),
    ] {
        ensure!(
            Annotation::on_index(&encoding.annotations, target).is_empty(),
            "{name} annotations need an image of several platforms: this one has only {}",
            image.platform
        );
    }
    Ok(())
}

/// Puts manifest and config of `image` into the store; its layers are there already.
pub fn put(store: &Store, image: &BuiltImage, assembled: &Assembled) -> anyhow::Result<()> {
    store.put_blob(&image.config)?;
    store.put_blob(&assembled.manifest)?;
    Ok(())
}

/// Gives `descriptor` all of `names` at once; without a name it is kept nameless.
pub fn tag(store: &Store, descriptor: &Descriptor, names: &[Reference]) -> anyhow::Result<()> {
    let names: Vec<String> = names.iter().map(Reference::to_string).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    store.tag_all(&names, descriptor).context("naming the image")
}

/// Makes sure that the store holds the blobs of all layers.
pub fn ensure_blobs(store: &Store, image: &BuiltImage, assembled: &Assembled) -> anyhow::Result<()> {
    let pairs = image
        .layers
        .iter()
        .zip(&assembled.layers)
        .filter(|(_, blob)| !store.has_blob(&blob.digest));
    in_parallel(pairs.collect(), |(id, blob)| {
        let layer = store.layer(id)?;
        layer
            .ensure_blob(&blob.digest)
            .with_context(|| format!("exporting layer {id}"))
    })?;
    Ok(())
}

impl Assembled {
    /// What of it goes to a registry.
    pub fn to_push<'a>(&'a self, layers: &'a [Layer]) -> Push<'a> {
        Push {
            media_type: &self.descriptor.media_type,
            manifest: &self.manifest,
            config: &self.config,
            layers,
            blobs: &self.layers,
        }
    }

    /// What of it goes into an archive.
    pub fn into_archive(self, image: &BuiltImage, names: &[Reference]) -> ArchiveImage {
        ArchiveImage {
            manifest: self.descriptor,
            manifest_bytes: self.manifest,
            config: self.config,
            config_bytes: image.config.clone(),
            layers: self.layers,
            platform: image.platform.clone(),
            names: names.to_vec(),
            annotations: self.descriptor_annotations,
        }
    }
}

fn form(layer: &Layer, compression: Option<&Compression>, force: bool) -> anyhow::Result<LayerBlob> {
    let blob = match compression {
        Some(compression) => layer.compressed(compression, force),
        None => layer.blob(),
    };
    blob.with_context(|| format!("exporting layer {}", layer.id()))
}

/// A layer's descriptor with the media type of the manifest's family, whatever family the blob was pulled with.
fn layer_descriptor(blob: LayerBlob, oci: bool) -> anyhow::Result<Descriptor> {
    let media_type = &blob.media_type;
    let (plain, gzip, zstd) = (
        media_type.ends_with(".tar"),
        media_type.ends_with("gzip"),
        media_type.ends_with("zstd"),
    );
    let media_type = match (plain, gzip, zstd) {
        (true, ..) if oci => "application/vnd.oci.image.layer.v1.tar",
        (_, true, _) if oci => "application/vnd.oci.image.layer.v1.tar+gzip",
        (.., true) if oci => "application/vnd.oci.image.layer.v1.tar+zstd",
        (true, ..) => "application/vnd.docker.image.rootfs.diff.tar",
        (_, true, _) => "application/vnd.docker.image.rootfs.diff.tar.gzip",
        (.., true) => bail!(
            "a zstd layer needs media types of OCI: drop oci-mediatypes=false or add force-compression=true"
        ),
        _ => bail!(
            "the layer {} has the media type {media_type:?}, which has no place in an image",
            blob.digest
        ),
    };
    Ok(Descriptor {
        media_type: media_type.to_owned(),
        digest: blob.digest,
        size: blob.size,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn media_types_follow_the_family() {
        let blob = |media_type: &str| LayerBlob {
            media_type: media_type.to_owned(),
            digest: Digest::of(b""),
            size: 0,
        };
        for (given, oci, wanted) in [
            (
                "application/vnd.docker.image.rootfs.diff.tar.gzip",
                true,
                "application/vnd.oci.image.layer.v1.tar+gzip",
            ),
            (
                "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
                true,
                "application/vnd.oci.image.layer.v1.tar+gzip",
            ),
            (
                "application/vnd.oci.image.layer.v1.tar",
                false,
                "application/vnd.docker.image.rootfs.diff.tar",
            ),
            (
                "application/vnd.oci.image.layer.v1.tar+zstd",
                true,
                "application/vnd.oci.image.layer.v1.tar+zstd",
            ),
        ] {
            assert_eq!(
                layer_descriptor(blob(given), oci).unwrap().media_type,
                wanted,
                "{given}"
            );
        }
        assert!(layer_descriptor(blob("application/vnd.oci.image.layer.v1.tar+zstd"), false).is_err());
        assert!(layer_descriptor(blob("text/plain"), true).is_err());
    }
}
