//! The root file system of a RUN: an overlay over the trees of its base, or a copy of them where no overlay can be mounted.

use std::collections::HashSet;
use std::path::PathBuf;

use rbuild_cache::layer::{CopiedRoot, Layer, Snapshot};
use rbuild_cache::{LayerId, Store};
use rbuild_executor::{Rootfs, Snapshots};

use crate::error::BuildError;

/// Where a step writes.
#[derive(Debug)]
pub(super) enum Root {
    /// Only what it changes.
    Overlay {
        /// The trees below, topmost first.
        lowers: Vec<PathBuf>,
        snapshot: Snapshot,
    },
    /// Everything.
    Copy(CopiedRoot),
}

impl Root {
    /// A root that looks as the layers `base`, with the snapshot `spare` if there is one.
    pub(super) fn begin(
        store: &Store,
        kind: Snapshots,
        base: &[LayerId],
        spare: Option<Snapshot>,
    ) -> Result<Root, BuildError> {
        match kind {
            Snapshots::Overlay => {
                let lowers = trees(store, base)?;
                let snapshot = match spare {
                    Some(spare) => spare,
                    None => store.begin_snapshot().map_err(BuildError::new)?,
                };
                Ok(Root::Overlay { lowers, snapshot })
            }
            Snapshots::Copy => store.begin_copied(base).map(Root::Copy).map_err(BuildError::new),
        }
    }

    /// As the executor takes it.
    pub(super) fn rootfs(&self) -> Rootfs {
        match self {
            Root::Overlay { lowers, snapshot } => Rootfs::Overlay {
                lowers: lowers.clone(),
                upper: snapshot.upper().to_owned(),
                work: snapshot.work().to_owned(),
            },
            Root::Copy(root) => Rootfs::Directory {
                path: root.path(),
                aside: root.aside(),
            },
        }
    }

    /// The directory in which all that the step wrote can be found.
    pub(super) fn written(&self) -> PathBuf {
        match self {
            Root::Overlay { snapshot, .. } => snapshot.upper().to_owned(),
            Root::Copy(root) => root.path(),
        }
    }

    /// The layer of what has changed; of the paths `touched`, the executor itself has moved the change times. A copy is kept for
    /// the `successors` that run on it.
    pub(super) fn commit(self, touched: &[String], successors: usize) -> Result<LayerId, BuildError> {
        match self {
            Root::Overlay { snapshot, .. } => snapshot.commit(),
            Root::Copy(root) => root.commit(touched, successors),
        }
        .map_err(BuildError::new)
    }
}

/// The trees of the base's layers, topmost first, made now where they are not there yet. A layer that lies in the stack
/// twice is there once, since no overlay takes it twice: where it lies higher it says the same again of all its paths.
pub(super) fn trees(store: &Store, base: &[LayerId]) -> Result<Vec<PathBuf>, BuildError> {
    let mut seen = HashSet::new();
    let mut trees = all_trees(store, base)?;
    trees.retain(|tree| seen.insert(tree.clone()));
    Ok(trees)
}

fn all_trees(store: &Store, base: &[LayerId]) -> Result<Vec<PathBuf>, BuildError> {
    // Those of earlier steps are known: a step does not get dearer with the number of layers below it.
    if let Some(trees) = base.iter().rev().map(|id| store.known_tree(id)).collect() {
        return Ok(trees);
    }
    let layers = base
        .iter()
        .rev()
        .map(|id| store.layer(id))
        .collect::<Result<Vec<Layer>, _>>()
        .map_err(BuildError::new)?;
    // The layers of a base are fetched and unpacked side by side.
    let trees: Vec<_> = std::thread::scope(|scope| {
        let absent: Vec<_> = layers
            .iter()
            .map(|layer| (!layer.has_tree_for_steps()).then(|| scope.spawn(|| layer.tree())))
            .collect();
        let pairs = layers.iter().zip(absent);
        pairs
            .map(|(layer, thread)| {
                thread
                    .and_then(|thread| thread.join().ok())
                    .unwrap_or_else(|| layer.tree())
            })
            .collect()
    });
    trees
        .into_iter()
        .collect::<Result<_, _>>()
        .map_err(BuildError::new)
}
