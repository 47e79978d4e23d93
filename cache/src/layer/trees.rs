//! The trees of layers that this process can use: those whose owners it can read, found whole once.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use super::forms::Layer;
use super::ownership::Ownership;
use crate::digest::LayerId;
use crate::error::StoreError;
use crate::store::Store;
use crate::temporary::TempDir;

impl Layer {
    /// Whether the tree form is there.
    pub fn has_tree(&self) -> bool {
        self.readable_tree().is_some()
    }

    /// Whether [`Layer::tree`] has nothing to make.
    pub fn has_tree_for_steps(&self) -> bool {
        self.existing_tree().is_some()
    }

    /// The tree that steps of this process can stand on, or its twin's, if there is one and it is whole.
    pub(super) fn existing_tree(&self) -> Option<PathBuf> {
        self.tree_of(self.store().ownership())
    }

    /// A tree that this process can read, and how its owners are to be read.
    pub(crate) fn readable_tree(&self) -> Option<(PathBuf, Ownership)> {
        let usable = self.store().readable_trees();
        usable
            .iter()
            .find_map(|ownership| Some((self.tree_of(*ownership)?, *ownership)))
    }

    fn tree_of(&self, ownership: Ownership) -> Option<PathBuf> {
        self.own_tree(ownership).or_else(|| {
            let twin = self.record().ok()?.twin?;
            Self::named(self.store(), twin).own_tree(ownership)
        })
    }

    fn own_tree(&self, ownership: Ownership) -> Option<PathBuf> {
        let tree = self.directory().join(ownership.tree_name());
        if self.store().knows_tree(self.id(), ownership) {
            return Some(tree);
        }
        // One that cannot be looked at is as good as none.
        if !tree.is_dir() || !self.is_tree_whole(&tree, ownership).unwrap_or(false) {
            return None;
        }
        // What is only believed outside of the user namespace is looked at inside.
        if rustix::process::geteuid().is_root() {
            self.store().remember_tree(self.id(), ownership);
        }
        Some(tree)
    }

    pub(super) fn stage_tree(&self) -> Result<(TempDir, PathBuf), StoreError> {
        let staged = self.store().temp_dir()?;
        let tree = staged.path().join(self.store().ownership().tree_name());
        fs::create_dir(&tree).map_err(|error| StoreError::io("creating", &tree, error))?;
        Ok((staged, tree))
    }

    pub(super) fn place_tree(&self, staged: &Path) -> Result<(), StoreError> {
        let place = self.directory().join(self.store().ownership().tree_name());
        // Before the tree: a tree without its mark would be removed, a mark without its tree says nothing.
        self.mark_tree(self.store().ownership())?;
        fs::rename(staged, &place).map_err(|error| StoreError::io("renaming into place", place, error))?;
        self.store().remember_tree(self.id(), self.store().ownership());
        Ok(())
    }
}

impl Store {
    /// The tree of the layer `id`, if this process has found it whole before; nothing is looked at again.
    pub fn known_tree(&self, id: &LayerId) -> Option<PathBuf> {
        let ownership = self.ownership();
        self.knows_tree(id, ownership).then(|| {
            self.root()
                .join("layers")
                .join(id.as_str())
                .join(ownership.tree_name())
        })
    }

    fn knows_tree(&self, id: &LayerId, ownership: Ownership) -> bool {
        let trees = self.0.trees.lock().unwrap_or_else(PoisonError::into_inner);
        trees[ownership as usize].contains(id)
    }

    /// Says how trees have their owners from now on: as the namespaces that the process has entered allow.
    pub fn set_ownership(&self, ownership: Ownership) {
        let before = self.0.ownership.swap(ownership as u8, Ordering::Relaxed);
        if before != ownership as u8 {
            self.forget_trees();
        }
    }

    /// How trees that are made now have their owners.
    pub(crate) fn ownership(&self) -> Ownership {
        if self.0.ownership.load(Ordering::Relaxed) == Ownership::Emulated as u8 {
            Ownership::Emulated
        } else {
            Ownership::Real
        }
    }

    /// The trees that can be read, the best first. Where there is one id, owners of other trees are unknown; before that
    /// is decided every tree counts.
    pub(super) fn readable_trees(&self) -> &'static [Ownership] {
        match self.ownership() {
            Ownership::Real => &[Ownership::Real, Ownership::Emulated],
            Ownership::Emulated => &[Ownership::Emulated],
        }
    }

    pub(super) fn remember_tree(&self, id: &LayerId, ownership: Ownership) {
        let mut trees = self.0.trees.lock().unwrap_or_else(PoisonError::into_inner);
        trees[ownership as usize].insert(id.clone());
    }

    /// Looks at trees again before they are used.
    pub(crate) fn forget_trees(&self) {
        let mut trees = self.0.trees.lock().unwrap_or_else(PoisonError::into_inner);
        *trees = Default::default();
    }
}
