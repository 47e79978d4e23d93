//! WORKDIR (spec 3.7): a directory and its missing parents.

use anyhow::bail;
use rbuild_cache::layer::LayerPath;
use rbuild_cache::tree::{self, Tree};

use super::dest::{Created, Destination};
use super::owner::Owner;
use super::plan::LayerPlan;
use crate::graph::MkdirOp;

/// What creating the directory does to `base`: nothing, an empty layer, when it exists. Symbolic links are followed
/// inside the base; all directories that are created belong to the user.
pub fn plan<'a>(op: &MkdirOp, base: &'a dyn Tree) -> anyhow::Result<LayerPlan<'a>> {
    let mut to = Destination::new(Some(base));
    let resolved = tree::resolve(&to, &LayerPath::clean(op.path.as_bytes()))?;
    match resolved.entry {
        Some(entry) if entry.is_dir() => return Ok(to.finish(Vec::new())),
        Some(_) => bail!("mkdir {}: not a directory", resolved.path),
        None => {}
    }
    // Only now: who owns nothing new need not exist.
    let owner = Owner::parse(&op.user, Some(base))?;
    to.fact(
        "owner",
        &[owner.uid.to_le_bytes(), owner.gid.to_le_bytes()].concat(),
    );
    to.make_directories(&resolved.path, Created { mode: 0o755, owner })?;
    Ok(to.finish(Vec::new()))
}
