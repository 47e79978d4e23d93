//! Where do the bytes of a layer come from that the store knows and does not have?
//!
//! Invariant: nothing here holds the store, which holds this as its [`BlobProvider`].

use std::fmt;
use std::io::{self, Read};
use std::sync::Arc;

use rbuild_cache::{BlobProvider, Digest};

use super::layout::Layout;
use crate::registry::{Reference, Registry};

/// Is told a blob's digest, bytes that came and bytes in all; from any thread.
pub type TransferProgress = Arc<dyn Fn(&Digest, u64, u64) + Send + Sync>;

/// Registries and OCI layouts that layers name as their origins.
#[derive(Clone)]
pub struct Origins {
    registry: Registry,
    progress: Option<TransferProgress>,
}

impl Origins {
    /// The registries that `registry` speaks to, and all layouts. `progress` is told about every layer that is fetched.
    pub fn new(registry: Registry, progress: Option<TransferProgress>) -> Self {
        Self { registry, progress }
    }

    fn open(&self, digest: &Digest, size: u64, origin: &str) -> io::Result<Box<dyn Read + Send>> {
        if let Some(path) = origin.strip_prefix(Layout::ORIGIN) {
            return Ok(Box::new(Layout::at(path.into()).blob(digest, size)?));
        }
        let reference = Reference::parse(origin).map_err(io::Error::other)?;
        let blob = self.registry.blob(&reference, digest, size);
        Ok(Box::new(blob.map_err(io::Error::other)?))
    }
}

impl fmt::Debug for Origins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Origins")
            .field("registry", &self.registry)
            .finish_non_exhaustive()
    }
}

impl BlobProvider for Origins {
    /// From the first origin that has it; directories are asked before registries.
    fn fetch(&self, digest: &Digest, size: u64, origins: &[String]) -> io::Result<Box<dyn Read + Send>> {
        let mut ordered: Vec<&String> = origins.iter().collect();
        ordered.sort_by_key(|origin| !origin.starts_with(Layout::ORIGIN));
        let mut failures = Vec::new();
        for origin in ordered {
            match self.open(digest, size, origin) {
                Ok(inner) => {
                    let reader = Counted {
                        inner,
                        digest: *digest,
                        done: 0,
                        size,
                        progress: self.progress.clone(),
                    };
                    return Ok(Box::new(reader));
                }
                Err(error) => failures.push(error.to_string()),
            }
        }
        if failures.is_empty() {
            failures.push(format!("nobody is known to have the blob {digest}"));
        }
        Err(io::Error::other(failures.join("; ")))
    }
}

/// Tells how far a transfer is.
struct Counted {
    inner: Box<dyn Read + Send>,
    digest: Digest,
    done: u64,
    size: u64,
    progress: Option<TransferProgress>,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.done += count as u64;
        if let Some(progress) = &self.progress {
            progress(&self.digest, self.done, self.size);
        }
        Ok(count)
    }
}
