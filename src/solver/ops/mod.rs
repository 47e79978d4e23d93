//! What operations do to a file system when no process has to run for it: copies and WORKDIR.
//! Each works in three steps: what would be read ([`select::Selection`]), what it would do to the
//! base ([`plan::LayerPlan`]), and the entries of the layer, streamed in path order into an
//! [`EntrySink`]. The first two are cheap and give keys; a cached step never gets to the third.

pub mod add;
pub mod chmod;
pub mod copy;
pub mod dest;
pub mod mkdir;
pub mod owner;
pub mod plan;
pub mod select;
mod stream;

use std::io::Read;

use rbuild_cache::ContentDigest;
use rbuild_cache::layer::{Entry, LayerBuilder};

/// Takes the entries of a new layer in path order.
pub trait EntrySink {
    /// Adds an entry; `data` is there for a regular file and gives exactly its size in bytes. The digest of these bytes
    /// is returned.
    fn append(&mut self, entry: &Entry, data: Option<&mut dyn Read>)
    -> anyhow::Result<Option<ContentDigest>>;
}

impl EntrySink for LayerBuilder {
    fn append(
        &mut self,
        entry: &Entry,
        data: Option<&mut dyn Read>,
    ) -> anyhow::Result<Option<ContentDigest>> {
        Ok(LayerBuilder::append(self, entry, data)?)
    }
}

#[cfg(test)]
mod tests;
