//! What may a manifest, an index and an image config say? Parsing of documents that came from
//! outside, strict where looseness has been a hole (CVE-2021-41190, CVE-2024-3727, CVE-2020-15157):
//! one document is never both manifest and index, digests are sha256, sizes are there, layers have
//! no foreign addresses, and a config lists as many diff ids as the manifest has layers.
//!
//! Invariant: bytes are kept as they came; a [`Manifest`] or [`Index`] is a reading of them.

use rbuild_cache::Digest;
use serde::{Deserialize, Serialize};

/// OCI image manifest.
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// OCI image index.
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// Docker image manifest, version 2 schema 2.
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// Docker manifest list.
pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
/// What a client that wants images accepts.
pub const MANIFEST_TYPES: [&str; 4] = [OCI_INDEX, OCI_MANIFEST, DOCKER_LIST, DOCKER_MANIFEST];
/// More than this is no manifest (distribution-spec asks registries for 4 MiB).
pub const MANIFEST_LIMIT: u64 = 4 << 20;
/// More than this is no image config.
pub const CONFIG_LIMIT: u64 = 8 << 20;

/// Media type, digest and size of a blob (OCI image-spec, descriptor).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// Media type.
    pub media_type: String,
    /// Digest.
    pub digest: Digest,
    /// Bytes.
    pub size: u64,
}

/// A manifest or index as it came: verified bytes with their digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// Its descriptor; the media type is what the registry and the document say.
    pub descriptor: Descriptor,
    /// The bytes.
    pub bytes: Vec<u8>,
}

/// A reading of an image manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// The image config.
    pub config: Descriptor,
    /// Layers, lowest first.
    pub layers: Vec<Descriptor>,
}
