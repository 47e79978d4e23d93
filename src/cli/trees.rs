//! What commands need that look at, or remove, all of the store.

use anyhow::Context as _;
use rbuild_cache::{Store, TempDir};
use rbuild_executor::{Executor, Isolation};

/// Layer trees of an ordinary user hold files of subordinate ids, which only the user namespace may look at and remove:
/// enters it if there is a tree. What comes back has to live as long as the store is used.
pub fn enter(store: &Store) -> anyhow::Result<Option<TempDir>> {
    if rustix::process::geteuid().is_root() || !has_trees(store)? {
        return Ok(None);
    }
    let scratch = store.temp_dir()?;
    Executor::enter(Isolation::Auto, scratch.path())
        .context("entering the user namespace to look at layers")?;
    Ok(Some(scratch))
}

fn has_trees(store: &Store) -> anyhow::Result<bool> {
    let mounts = store.root().join("mounts/v1");
    let mut mounts = mounts
        .read_dir()
        .with_context(|| format!("reading {}", mounts.display()))?;
    if mounts.next().is_some() {
        return Ok(true);
    }
    let layers = store.root().join("layers");
    for layer in layers
        .read_dir()
        .with_context(|| format!("reading {}", layers.display()))?
    {
        let layer = layer?.path();
        if ["fs", "fs.single"].iter().any(|tree| layer.join(tree).exists()) {
            return Ok(true);
        }
    }
    Ok(false)
}
