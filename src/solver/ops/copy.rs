//! COPY and ADD of files that are there (spec 3.8, rules P1 to P32 and D1 to D3).

use rbuild_cache::tree::Tree;

use super::plan::LayerPlan;
pub use super::select::{Selection, selection};
use crate::graph::CopyOp;

/// What copying `selection` does to `base`. With `--link` the base is not looked at. `source` is the tree that was
/// selected from: archives of ADD are read here.
pub fn plan(
    _op: &CopyOp,
    _selection: &Selection,
    _source: Option<&dyn Tree>,
    _base: &dyn Tree,
) -> anyhow::Result<LayerPlan> {
    anyhow::bail!("copies are not there yet")
}
