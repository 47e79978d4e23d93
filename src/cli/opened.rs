//! Files of images, looked at outside of a build.

use anyhow::Context as _;
use rbuild_cache::layer::{Layer, Ownership};
use rbuild_cache::{Store, TempDir, View};
use rbuild_executor::{Executor, Isolation};

use super::{Context, leaving};
use crate::exporter::stored::StoredManifest;

/// The root file systems of images of the store.
#[derive(Debug)]
pub struct Opened {
    /// Those of the images asked for, in their order.
    pub views: Vec<View>,
    /// Has to stay while they are read.
    _scratch: Option<TempDir>,
}

/// Opens the root file systems of `images`. Where layers lie as trees with files of subordinate ids, the process moves into the
/// user namespace that can read them: it must still have one thread. From here on signals end the program in order.
pub fn open(context: &Context, store: &Store, images: &[&StoredManifest]) -> anyhow::Result<Opened> {
    let mut stacks = Vec::new();
    for image in images {
        stacks.push(image.layers(store)?);
    }
    let scratch = match stacks.iter().flatten().any(Layer::has_tree) {
        true => enter(store)?,
        false => None,
    };
    leaving::end_in_order()?;
    // Layers that were never needed come from their registry.
    context.source(store, &context.registry());
    Ok(Opened {
        views: stacks.into_iter().map(View::new).collect(),
        _scratch: scratch,
    })
}

/// Moves an ordinary user's process into the user namespace, where files of subordinate ids can be read. What comes back has
/// to live as long as that is done. The process must still have one thread.
pub(super) fn enter(store: &Store) -> anyhow::Result<Option<TempDir>> {
    if rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    let scratch = store.temp_dir()?;
    let executor = Executor::enter(Isolation::Auto, scratch.path())
        .context("entering the user namespace to read layers")?;
    own(store, &executor);
    Ok(Some(scratch))
}

/// Lets the store read and write owners as they lie on the disk where `executor` works.
pub(super) fn own(store: &Store, executor: &Executor) {
    store.set_ownership(match executor.ownership() {
        rbuild_executor::Ownership::Real => Ownership::Real,
        rbuild_executor::Ownership::Emulated => Ownership::Emulated,
    });
}
