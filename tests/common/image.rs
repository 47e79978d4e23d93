//! Images for tests of transfers: their layers are any bytes, which no registry minds.

#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "each test binary uses its part, and a test that cannot be set up has failed"
)]

use std::io::Cursor;

use rbuild::registry::{PushBlob, Reference, Registry, RegistryError};
use rbuild_cache::Digest;

pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// An image by its bytes.
pub struct Image {
    pub config: Vec<u8>,
    pub layers: Vec<Vec<u8>>,
    pub manifest: Vec<u8>,
}

/// An image whose layers are so many bytes long.
pub fn image(architecture: &str, sizes: &[usize]) -> Image {
    let layers: Vec<Vec<u8>> = sizes
        .iter()
        .enumerate()
        .map(|(n, size)| (0..*size).map(|i| (i / 7 + n * 31) as u8).collect())
        .collect();
    let ids: Vec<String> = layers.iter().map(|layer| Digest::of(layer).to_string()).collect();
    let config = serde_json::json!({
        "os": "linux",
        "architecture": architecture,
        "rootfs": {"type": "layers", "diff_ids": ids},
    });
    let config = config.to_string().into_bytes();
    let manifest = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": descriptor(OCI_CONFIG, &config),
        "layers": layers.iter().map(|layer| descriptor(OCI_LAYER, layer)).collect::<Vec<_>>(),
    });
    Image {
        config,
        layers,
        manifest: manifest.to_string().into_bytes(),
    }
}

/// An index of `images` by architecture.
pub fn index(images: &[(&str, &Image)]) -> Vec<u8> {
    let entries: Vec<_> = images
        .iter()
        .map(|(architecture, image)| {
            let mut entry = descriptor(OCI_MANIFEST, &image.manifest);
            entry["platform"] = serde_json::json!({"os": "linux", "architecture": architecture});
            entry
        })
        .collect();
    serde_json::json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries})
        .to_string()
        .into_bytes()
}

/// Bytes as they are to be pushed.
pub fn blob(bytes: &[u8]) -> PushBlob<'_> {
    PushBlob {
        digest: Digest::of(bytes),
        size: bytes.len() as u64,
        open: Box::new(move || Ok(Box::new(Cursor::new(bytes.to_vec())))),
        mount_from: Vec::new(),
    }
}

/// Pushes a whole image.
pub fn push(registry: &Registry, to: &Reference, image: &Image) -> Result<Digest, RegistryError> {
    let blobs: Vec<PushBlob<'_>> = image
        .layers
        .iter()
        .chain([&image.config])
        .map(|bytes| blob(bytes))
        .collect();
    registry.push_image(to, OCI_MANIFEST, &image.manifest, &blobs, &|_, _, _| {})
}

fn descriptor(media_type: &str, bytes: &[u8]) -> serde_json::Value {
    serde_json::json!({"mediaType": media_type, "digest": Digest::of(bytes), "size": bytes.len()})
}
