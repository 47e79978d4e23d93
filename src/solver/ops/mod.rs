//! What operations do to a file system when no process has to run for it: copies and WORKDIR.
//! Each works in three steps: what would be read ([`select::Selection`]), what it would do to the
//! base ([`plan::LayerPlan`]), and the entries of the layer, streamed in path order into an
//! [`EntrySink`]. The first two are cheap and give keys; a cached step never gets to the third.

pub mod add;
pub mod chmod;
pub mod copy;
pub mod dest;
pub mod extract;
pub mod facts;
pub mod mkdir;
pub mod owner;
pub mod plan;
pub mod select;
mod stream;

use std::io::Read;

use anyhow::Context as _;
use rbuild_cache::ContentDigest;
use rbuild_cache::layer::{Entry, Growth, LayerBuilder};
use rbuild_cache::tree::Tree;

/// The trees that a copy reads.
#[derive(Clone, Copy, Default)]
pub struct Sources<'a> {
    /// The context, a stage or an image.
    pub main: Option<&'a dyn Tree>,
    /// Remote sources, as `RemotePath::source` counts them.
    pub remotes: &'a [&'a dyn Tree],
    /// How large archives in them may become.
    pub growth: Growth,
}

/// Number of a tree: 0 is the main one.
pub(super) type SourceNumber = usize;

impl<'a> Sources<'a> {
    /// Nothing but this tree.
    pub fn of(main: &'a dyn Tree) -> Self {
        Self {
            main: Some(main),
            remotes: &[],
            growth: Growth::default(),
        }
    }

    fn get(&self, number: SourceNumber) -> anyhow::Result<&'a dyn Tree> {
        let found = match number.checked_sub(1) {
            None => self.main,
            Some(remote) => self.remotes.get(remote).copied(),
        };
        found.context("the copy has no source")
    }
}

impl std::fmt::Debug for Sources<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sources")
            .field("main", &self.main.is_some())
            .field("remotes", &self.remotes.len())
            .finish()
    }
}

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
