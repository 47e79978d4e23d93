//! How does an image get into a registry? Blobs first, in parallel: what is there is not sent, what
//! lies in another repository of the same registry is mounted, the rest is streamed. Then the
//! manifest, byte for byte: an interrupted push leaves no tag behind.

use std::io::{self, Read};

use rbuild_cache::Digest;

use super::client::Registry;
use super::error::RegistryError;
use super::reference::Reference;

/// Opens a blob to be sent; may be called again after a network error.
pub type OpenBlob<'a> = Box<dyn Fn() -> io::Result<Box<dyn Read + Send>> + Send + Sync + 'a>;

/// A blob that a manifest names.
pub struct PushBlob<'a> {
    /// Digest.
    pub digest: Digest,
    /// Bytes.
    pub size: u64,
    /// Its bytes.
    pub open: OpenBlob<'a>,
    /// Where it may be already, `host/repository`; those on other hosts are ignored.
    pub mount_from: Vec<String>,
}

/// What became of a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transferred {
    /// It was there.
    Present,
    /// It was mounted from another repository.
    Mounted,
    /// It was sent.
    Sent,
}

impl std::fmt::Debug for PushBlob<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PushBlob")
            .field("digest", &self.digest)
            .field("size", &self.size)
            .finish_non_exhaustive()
    }
}

impl Registry {
    /// Makes a blob present in the repository of `to`. `progress` is told bytes sent so far.
    pub fn push_blob(
        &self,
        to: &Reference,
        blob: &PushBlob<'_>,
        progress: &dyn Fn(u64),
    ) -> Result<Transferred, RegistryError> {
        let _ = (to, blob, progress);
        Err(RegistryError::Start("not possible yet".to_owned()))
    }

    /// Stores a manifest or index under the tag of `to`, or under its digest when `to` has no tag.
    pub fn push_manifest(
        &self,
        to: &Reference,
        media_type: &str,
        manifest: &[u8],
    ) -> Result<Digest, RegistryError> {
        let _ = (to, media_type, manifest);
        Err(RegistryError::Start("not possible yet".to_owned()))
    }

    /// Sends `blobs` in parallel, then the manifest. `progress` is told a blob's digest, bytes done and its size.
    pub fn push_image(
        &self,
        to: &Reference,
        media_type: &str,
        manifest: &[u8],
        blobs: &[PushBlob<'_>],
        progress: &(dyn Fn(&Digest, u64, u64) + Sync),
    ) -> Result<Digest, RegistryError> {
        let _ = (to, media_type, manifest, blobs, progress);
        Err(RegistryError::Start("not possible yet".to_owned()))
    }
}
