//! The entries of a layer to be, before any byte of a file is read.

use rbuild_cache::Key;
use rbuild_cache::layer::Timestamp;
use rbuild_cache::tree::Tree;

use super::EntrySink;

/// The entries of a layer in path order, and where the bytes of its files come from.
#[derive(Debug)]
pub struct LayerPlan {
    facts: Key,
}

impl LayerPlan {
    /// All that the plan took from its base: where the destination leads, what exists there and who owns it, the ids
    /// that names stand for. Bases that agree in it give the same layer for the same selection.
    pub fn facts_key(&self) -> Key {
        self.facts
    }

    /// Streams the entries into `out`. Directories that are created get the time `now`. Fails when a file of `source`
    /// no longer has the content that its selection was keyed with.
    pub fn write(
        &self,
        _source: Option<&dyn Tree>,
        _out: &mut dyn EntrySink,
        _now: Timestamp,
    ) -> anyhow::Result<()> {
        anyhow::bail!("copies are not there yet")
    }
}
