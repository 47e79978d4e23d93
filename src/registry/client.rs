//! What does a registry have? Blocking operations over HTTP that any thread may call at once.
//!
//! Invariant: what is returned as having a digest has it; a stream is checked when it ends.

use std::io::Read;

use rbuild_cache::Digest;

use super::document::{Descriptor, Document};
use super::error::RegistryError;
use super::reference::Reference;
use crate::graph::Platform;

/// How to talk to registries.
#[derive(Debug, Clone, Default)]
pub struct RegistryOptions {
    /// `host[:port]` that may be spoken to without TLS, or with a certificate that nobody vouches for.
    pub insecure: Vec<String>,
}

/// A client of all registries. Cheap to clone; made without I/O.
#[derive(Debug, Clone)]
pub struct Registry(RegistryOptions);

/// A platform's manifest, and the index that named it.
#[derive(Debug, Clone)]
pub struct Resolved {
    /// The index, when the reference named one.
    pub index: Option<Document>,
    /// The manifest of the platform.
    pub manifest: Document,
}

impl Registry {
    /// A client; nothing is connected, read or started.
    pub fn new(options: RegistryOptions) -> Self {
        Self(options)
    }

    /// Ends all connections and joins all threads of this client: afterwards the process has no thread of it.
    /// A later operation starts again. Transfers that are running fail.
    pub fn quiesce(&self) {}

    /// What `reference` names now, without fetching it (HEAD). `None` when the registry does not say.
    pub fn head_manifest(&self, reference: &Reference) -> Result<Option<Descriptor>, RegistryError> {
        self.not_yet(reference)
    }

    /// The manifest or index that `reference` names; its digest wins over its tag and is verified.
    pub fn manifest(&self, reference: &Reference) -> Result<Document, RegistryError> {
        self.not_yet(reference)
    }

    /// The manifest of `reference` for `platform` (spec F9): an index must have a match, a single
    /// manifest is taken whatever its platform.
    pub fn resolve(&self, reference: &Reference, platform: &Platform) -> Result<Resolved, RegistryError> {
        let _ = platform;
        self.not_yet(reference)
    }

    /// A small blob in memory, verified.
    pub fn small_blob(
        &self,
        reference: &Reference,
        blob: &Descriptor,
        limit: u64,
    ) -> Result<Vec<u8>, RegistryError> {
        let _ = (blob, limit);
        self.not_yet(reference)
    }

    /// A blob of the repository of `reference` as a stream.
    pub fn blob(
        &self,
        reference: &Reference,
        digest: &Digest,
        size: u64,
    ) -> Result<BlobReader, RegistryError> {
        let _ = (digest, size);
        self.not_yet(reference)
    }

    fn not_yet<T>(&self, reference: &Reference) -> Result<T, RegistryError> {
        Err(RegistryError::Start(format!(
            "{reference}: not possible yet {:?}",
            self.0
        )))
    }
}

/// Bytes of a blob as they arrive; resumed after network errors. At its end size and digest are
/// checked: `InvalidData` when they are wrong.
#[derive(Debug)]
pub struct BlobReader(());

impl Read for BlobReader {
    fn read(&mut self, _buffer: &mut [u8]) -> std::io::Result<usize> {
        Ok(0)
    }
}
