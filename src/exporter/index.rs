//! Images of several platforms as one: the index that names their manifests (spec 5.4).

use std::collections::BTreeMap;

use anyhow::ensure;
use rbuild_cache::{Descriptor, Digest, Store};
use serde::Serialize;
use serde_json::Value;

use super::archive::{ArchiveIndex, Archived};
use super::attached::{self, Attached};
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
    /// What is said of them inside of the index.
    pub inside: Vec<Attached>,
    /// Annotations of the index's own descriptor.
    descriptor_annotations: BTreeMap<String, String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct IndexJson<'a> {
    schema_version: u32,
    media_type: &'a str,
    manifests: Vec<Value>,
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

/// The index of `images`, which have `names`; encoding as for [`image::assemble`].
pub fn assemble(
    store: &Store,
    images: &[BuiltImage],
    names: &[Reference],
    encoding: &Encoding,
    default: Option<Codec>,
) -> anyhow::Result<AssembledIndex> {
    let assembled = images
        .iter()
        .map(|built| image::assemble(store, built, encoding, default))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let oci = encoding.oci_media_types;
    let entries = assembled.iter().zip(images);
    let mut manifests = Vec::with_capacity(images.len());
    let mut inside = Vec::new();
    for (assembled, built) in entries {
        manifests.push(serde_json::to_value(EntryJson {
            descriptor: &assembled.descriptor,
            annotations: &assembled.descriptor_annotations,
            platform: &built.platform,
        })?);
        if let Some(attached) = attached::inside(store, built, &assembled.descriptor, names)? {
            ensure!(
                oci,
                "attestations in the index need media types of OCI: drop oci-mediatypes=false or inline=true"
            );
            inside.push((attached, assembled.descriptor.digest));
        }
    }
    // What is said comes after all of which it is said.
    manifests.extend(
        inside
            .iter()
            .map(|(attached, subject)| attached.entry_in_index(subject)),
    );
    let inside = inside.into_iter().map(|(attached, _)| attached).collect();
    let select = |target| Annotation::on_index(&encoding.annotations, target);
    let media_type = if oci { OCI_INDEX } else { DOCKER_LIST };
    let bytes = serde_json::to_vec(&IndexJson {
        schema_version: 2,
        media_type,
        manifests,
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
        inside,
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
            others: self.inside.into_iter().flat_map(Attached::into_blobs).collect(),
            names: names.to_vec(),
            annotations: self.descriptor_annotations,
        })
    }
}
