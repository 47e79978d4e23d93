//! Images of several platforms as one: the index that names their manifests (spec 5.4).

use std::collections::BTreeMap;

use rbuild_cache::{Descriptor, Digest, Store};
use serde::Serialize;

use super::archive::{ArchiveIndex, Archived};
use super::image::{self, Assembled};
use super::{Annotation, AnnotationTarget, BuiltImage, Codec, Encoding};
use crate::graph::Platform;
use crate::registry::Reference;
use crate::registry::document::{DOCKER_LIST, OCI_INDEX};

/// An index and the images that it names, in order.
#[derive(Debug)]
pub struct AssembledIndex {
    /// The index.
    pub descriptor: Descriptor,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Its images.
    pub images: Vec<Assembled>,
    /// Annotations of the index's own descriptor.
    descriptor_annotations: BTreeMap<String, String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct IndexJson<'a> {
    schema_version: u32,
    media_type: &'a str,
    manifests: Vec<EntryJson<'a>>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    annotations: BTreeMap<String, String>,
}

#[derive(Serialize)]
struct EntryJson<'a> {
    #[serde(flatten)]
    descriptor: &'a Descriptor,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    annotations: &'a BTreeMap<String, String>,
    platform: &'a Platform,
}

/// The index of `images`; encoding as for [`image::assemble`].
pub fn assemble(
    store: &Store,
    images: &[BuiltImage],
    encoding: &Encoding,
    default: Option<Codec>,
) -> anyhow::Result<AssembledIndex> {
    let assembled = images
        .iter()
        .map(|built| image::assemble(store, built, encoding, default))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let oci = encoding.oci_media_types;
    let entries = assembled.iter().zip(images);
    let manifests = entries.map(|(assembled, built)| EntryJson {
        descriptor: &assembled.descriptor,
        annotations: &assembled.descriptor_annotations,
        platform: &built.platform,
    });
    let select = |target| Annotation::on_index(&encoding.annotations, target);
    let media_type = if oci { OCI_INDEX } else { DOCKER_LIST };
    let bytes = serde_json::to_vec(&IndexJson {
        schema_version: 2,
        media_type,
        manifests: manifests.collect(),
        // Docker's list has no annotations.
        annotations: if oci {
            select(AnnotationTarget::Index)
        } else {
            BTreeMap::new()
        },
    })?;
    Ok(AssembledIndex {
        descriptor: Descriptor {
            media_type: media_type.to_owned(),
            digest: Digest::of(&bytes),
            size: bytes.len() as u64,
        },
        bytes,
        images: assembled,
        descriptor_annotations: select(AnnotationTarget::IndexDescriptor),
    })
}

impl AssembledIndex {
    /// What of it goes into an archive.
    pub fn into_archive(self, images: &[BuiltImage], names: &[Reference]) -> Archived {
        let assembled = self.images.into_iter().zip(images);
        Archived::Index(ArchiveIndex {
            descriptor: self.descriptor,
            bytes: self.bytes,
            images: assembled
                .map(|(assembled, built)| assembled.into_archive(built, &[]))
                .collect(),
            others: Vec::new(),
            names: names.to_vec(),
            annotations: self.descriptor_annotations,
        })
    }
}
