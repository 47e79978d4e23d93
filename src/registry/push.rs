//! How does an image get into a registry? Blobs first, in parallel: what is there is not sent, what
//! lies in another repository of the same registry is mounted, the rest is sent. Then the
//! manifest, byte for byte: an interrupted push leaves no tag behind.

use std::fmt;
use std::io::{self, Read};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use rbuild_cache::Digest;
use reqwest::Method;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderValue};

use super::client::Registry;
use super::error::RegistryError;
use super::reference::Reference;
use super::transport::Call;
use super::upload::Upload;
use super::words::refused;

/// Blobs on their way at once.
const PARALLEL: usize = 4;

/// What a registry answers with that keeps a list of what refers to a manifest.
const SUBJECT_HEADER: &str = "oci-subject";

/// A manifest that was stored.
pub(super) struct Put {
    pub(super) digest: Digest,
    /// Whether the registry lists it as referring to its subject.
    pub(super) refers: bool,
}

/// Opens a blob to be sent; called again after a network error.
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

impl fmt::Debug for PushBlob<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
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
        self.send_blob(to, blob, false, progress)
    }

    /// [`Self::push_blob`]; with `unasked` it is sent whatever the registry says of it.
    fn send_blob(
        &self,
        to: &Reference,
        blob: &PushBlob<'_>,
        unasked: bool,
        progress: &dyn Fn(u64),
    ) -> Result<Transferred, RegistryError> {
        let doing = format!("pushing {} to {}", blob.digest, to.name());
        // A registry that is blocked gets nothing either.
        self.places(to, &doing)?;
        // On the same registry and not the target itself.
        let from = blob.mount_from.iter().find_map(|origin| {
            let repository = origin.strip_prefix(to.domain())?.strip_prefix('/')?;
            (repository != to.repository()).then(|| repository.to_owned())
        });
        let upload = Upload {
            to: to.clone(),
            digest: blob.digest,
            doing,
            unasked,
        };
        self.upload(&upload, from.as_deref(), blob, progress)
    }

    /// Stores a manifest or index under the tag of `to`, or under its digest when `to` has no tag.
    pub fn push_manifest(
        &self,
        to: &Reference,
        media_type: &str,
        manifest: &[u8],
    ) -> Result<Digest, RegistryError> {
        Ok(self.put_manifest(to, media_type, manifest)?.digest)
    }

    /// [`Registry::push_manifest`], and whether the registry took note of what the manifest refers to.
    pub(super) fn put_manifest(
        &self,
        to: &Reference,
        media_type: &str,
        manifest: &[u8],
    ) -> Result<Put, RegistryError> {
        let doing = format!("pushing the manifest of {to}");
        let digest = Digest::of(manifest);
        let (to, body) = (to.clone(), Bytes::copy_from_slice(manifest));
        let media_type = HeaderValue::from_str(media_type).map_err(|e| refused(&doing, e.to_string()))?;
        self.run(async move |exchange| {
            let version = to.tag().map_or_else(|| digest.to_string(), str::to_owned);
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_TYPE, media_type);
            let call = Call {
                doing: &doing,
                method: Method::PUT,
                target: &format!("/v2/{}/manifests/{version}", to.repository()),
                repository: to.repository(),
                scopes: vec![push_scope(to.repository())],
                headers,
                body,
            };
            let host = exchange.session.host(to.domain());
            let response = exchange.call(&host, &call).await?;
            let said = response
                .headers()
                .get("docker-content-digest")
                .and_then(|value| value.to_str().ok());
            let refers = response.headers().contains_key(SUBJECT_HEADER);
            match said.and_then(|text| text.parse::<Digest>().ok()) {
                Some(actual) if actual != digest => Err(RegistryError::Digest {
                    doing,
                    host: host.address.clone(),
                    expected: digest,
                    actual,
                }),
                _ => Ok(Put { digest, refers }),
            }
        })
    }

    /// Sends `blobs` in parallel, then the manifest. Blobs that the registry said it had, and then has not, are sent once more.
    /// `progress` is told a blob's digest, bytes done and its size.
    pub fn push_image(
        &self,
        to: &Reference,
        media_type: &str,
        manifest: &[u8],
        blobs: &[PushBlob<'_>],
        progress: &(dyn Fn(&Digest, u64, u64) + Sync),
    ) -> Result<Digest, RegistryError> {
        self.push_blobs(to, blobs, progress)?;
        let lost = match self.push_manifest(to, media_type, manifest) {
            Err(RegistryError::LostBlobs { blobs, .. }) => blobs,
            result => return result,
        };
        let is_lost = |blob: &&PushBlob<'_>| lost.is_empty() || lost.contains(&blob.digest);
        self.send_blobs(to, blobs.iter().filter(is_lost), true, progress)?;
        self.push_manifest(to, media_type, manifest)
    }

    /// Sends `blobs` in parallel.
    pub(super) fn push_blobs(
        &self,
        to: &Reference,
        blobs: &[PushBlob<'_>],
        progress: &(dyn Fn(&Digest, u64, u64) + Sync),
    ) -> Result<(), RegistryError> {
        self.send_blobs(to, blobs.iter(), false, progress)
    }

    /// [`Self::push_blobs`]; `unasked` as [`Self::send_blob`] has it.
    fn send_blobs<'a, 'b: 'a>(
        &self,
        to: &Reference,
        blobs: impl Iterator<Item = &'a PushBlob<'b>>,
        unasked: bool,
        progress: &(dyn Fn(&Digest, u64, u64) + Sync),
    ) -> Result<(), RegistryError> {
        // One layer may be in an image more than once.
        let mut seen = std::collections::BTreeSet::new();
        let blobs: Vec<&PushBlob<'_>> = blobs.filter(|blob| seen.insert(blob.digest)).collect();
        let next = AtomicUsize::new(0);
        let failed: Mutex<Option<RegistryError>> = Mutex::new(None);
        let work = || {
            while let Some(blob) = blobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                match self.send_blob(to, blob, unasked, &|sent| progress(&blob.digest, sent, blob.size)) {
                    Ok(_) => progress(&blob.digest, blob.size, blob.size),
                    Err(error) => {
                        // The others end with what they are at.
                        next.store(blobs.len(), Ordering::Relaxed);
                        failed
                            .lock()
                            .unwrap_or_else(PoisonError::into_inner)
                            .get_or_insert(error);
                    }
                }
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..PARALLEL.min(blobs.len()) {
                scope.spawn(work);
            }
            work();
        });
        match failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }
}

pub(super) fn push_scope(repository: &str) -> String {
    format!("repository:{repository}:pull,push")
}
