//! WORKDIR (spec 3.7): a directory and its missing parents.

use rbuild_cache::tree::Tree;

use super::plan::LayerPlan;
use crate::graph::MkdirOp;

/// What creating the directory does to `base`: nothing, an empty layer, when it exists.
pub fn plan(_op: &MkdirOp, _base: &dyn Tree) -> anyhow::Result<LayerPlan> {
    anyhow::bail!("WORKDIR is not there yet")
}
