//! A step's root where no overlay can be mounted: a whole tree, and the difference that a step makes in it.
//!
//! The tree is made from the layers once; the next step on top takes it over as the last one has left it. What a step
//! has changed is found by looking at every file (not into it): the kernel moves the change time of whatever is
//! written, renamed, linked or given other attributes, and nobody can set it back. So that no change can share its time with
//! the look before it, the executor waits for the file system's clock to move before a step begins.
//!
//! The layer is what an overlay would have kept: what has changed, and the directories above it.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::beneath::open_file;
use super::changes::{Change, Listing, changes};
use super::entry::{Entry, Kind, LayerPath};
use super::forms::Layer;
use super::make::is_damage;
use super::ownership::Ownership;
use super::unpack::Unpacker;
use super::upper::{read_file_entry, walk_tree};
use crate::digest::LayerId;
use crate::directory::remove_tree;
use crate::error::StoreError;
use crate::store::Store;
use crate::temporary::TempDir;
use crate::tree::Tree;
use crate::view::View;

/// A directory with all that a step sees. Dropped without commit, it leaves nothing.
#[derive(Debug)]
pub struct CopiedRoot {
    store: Store,
    copy: Copy,
}

/// The tree without the store, which may hold it.
#[derive(Debug)]
struct Copy {
    scratch: TempDir,
    /// The layers that it was made from, lowest first.
    stack: Vec<LayerId>,
    /// What it looked like.
    before: Listing,
}

/// A tree that a step has left for the next one.
#[derive(Debug)]
pub(crate) struct Parked {
    copy: Copy,
    /// How many steps may still come for it.
    claims: usize,
}

/// The roots of a build that wait for their next steps; each is locked while it is copied.
pub(crate) type ParkedRoots = Mutex<Vec<(Vec<LayerId>, Arc<Mutex<Option<Parked>>>)>>;

impl CopiedRoot {
    /// The root of the tree.
    pub fn path(&self) -> PathBuf {
        self.copy.scratch.path().join("root")
    }

    /// An empty directory on the same file system, for whoever runs the step.
    pub fn aside(&self) -> PathBuf {
        self.copy.scratch.path().join("aside")
    }

    fn new(store: &Store) -> Result<Self, StoreError> {
        let root = Self {
            store: store.clone(),
            copy: Copy {
                scratch: store.temp_dir()?,
                stack: Vec::new(),
                before: Listing::default(),
            },
        };
        for directory in [root.path(), root.aside()] {
            make(&directory)?;
        }
        Ok(root)
    }

    /// Empties [`CopiedRoot::aside`] for the next step.
    fn clear_aside(&self) -> Result<(), StoreError> {
        let aside = self.aside();
        remove_tree(self.copy.scratch.directory().as_fd(), c"aside")
            .map_err(|error| StoreError::io("removing", &aside, error))?;
        make(&aside)
    }

    /// Puts the rest of `stack` on top.
    fn complete(&mut self, stack: &[LayerId]) -> Result<(), StoreError> {
        for id in stack.iter().skip(self.copy.stack.len()) {
            self.store.layer(id)?.unpack_onto(&self.path())?;
            self.copy.stack.push(id.clone());
        }
        Ok(())
    }

    fn look(&self) -> Result<Listing, StoreError> {
        let path = self.path();
        Listing::of(&path).map_err(|error| StoreError::io("reading", path, error))
    }

    /// A tree like this one. The bytes of files are shared where the file system can.
    fn copied(&self) -> Result<Self, StoreError> {
        let mut other = Self::new(&self.store)?;
        let ownership = self.store.ownership();
        let source = self.path();
        let copied = walk_tree(&source, ownership).and_then(|index| {
            let unpacker = Unpacker::new(&other.path(), ownership)?;
            unpacker.copy(&index, &fs::File::open(&source)?)
        });
        copied.map_err(|error| StoreError::io("copying", &source, error))?;
        other.copy.stack.clone_from(&self.copy.stack);
        other.copy.before = other.look()?;
        Ok(other)
    }

    /// Makes a layer of what has changed. `touched` are the paths, absolute in the tree, of which only the change time has
    /// moved. The tree is kept for as many further steps as `claims` says.
    pub fn commit(mut self, touched: &[String], claims: usize) -> Result<LayerId, StoreError> {
        let after = self.look()?;
        let touched: HashSet<LayerPath> = touched
            .iter()
            .map(|path| LayerPath::clean(path.as_bytes()))
            .collect();
        let base = self.base()?;
        let root = self.path();
        let ownership = self.store.ownership();
        let is_same = |path: &LayerPath| is_same(&base, &root, path, ownership);
        let found = changes(&self.copy.before, &after, &touched, is_same)
            .map_err(|error| StoreError::io("comparing", &root, error))?;
        let layer = self.write(&found, &after)?;
        let store = self.store.clone();
        store.forget_empty_root();
        if claims > 0 {
            self.clear_aside()?;
            self.copy.stack.push(layer.clone());
            self.copy.before = after;
            let key = self.copy.stack.clone();
            let parked = Parked {
                copy: self.copy,
                claims,
            };
            let mut roots = store
                .0
                .parked_roots
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            roots.push((key, Arc::new(Mutex::new(Some(parked)))));
        }
        Ok(layer)
    }

    fn base(&self) -> Result<View, StoreError> {
        let layers: Vec<Layer> = self
            .copy
            .stack
            .iter()
            .map(|id| self.store.layer(id))
            .collect::<Result<_, _>>()?;
        Ok(View::new(layers))
    }

    fn write(&self, changes: &[Change], after: &Listing) -> Result<LayerId, StoreError> {
        let root = self.path();
        let fail = |error| StoreError::io("reading", &root, error);
        let tree = fs::File::open(&root).map_err(fail)?;
        let mut builder = self.store.layer_builder()?;
        // The first name of every file of the layer.
        let mut names: HashMap<u64, LayerPath> = HashMap::new();
        for change in changes {
            let (path, opaque) = match change {
                Change::Gone(path) => {
                    builder.append(&Entry::whiteout(path.clone()), None)?;
                    continue;
                }
                Change::Here { path, opaque } => (path, *opaque),
            };
            let entry = read_file_entry(&tree, path, self.store.ownership()).map_err(fail)?;
            let Some(mut entry) = entry else { continue };
            if let Kind::Directory { opaque: is } = &mut entry.kind {
                *is = opaque;
            } else if let Some(inode) = after.linked_inode(path) {
                if let Some(target) = names.get(&inode) {
                    entry.kind = Kind::Hardlink {
                        target: target.clone(),
                    };
                } else {
                    names.insert(inode, path.clone());
                }
            }
            match entry.kind {
                Kind::File { .. } => {
                    let mut file = open_file(&tree, path).map_err(fail)?;
                    builder.append(&entry, Some(&mut file))?;
                }
                _ => {
                    builder.append(&entry, None)?;
                }
            }
        }
        builder.commit()
    }
}

fn make(directory: &Path) -> Result<(), StoreError> {
    let open_to_all = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::create_dir(directory)
        .and_then(|()| fs::set_permissions(directory, open_to_all))
        .map_err(|error| StoreError::io("creating", directory, error))
}

/// Whether the file at `path` of the tree is the one that the layers have, times, attributes and bytes included.
fn is_same(base: &View, root: &Path, path: &LayerPath, ownership: Ownership) -> io::Result<bool> {
    let tree = fs::File::open(root)?;
    let (Some(now), Some(then)) = (
        read_file_entry(&tree, path, ownership)?,
        base.lookup(path).map_err(io::Error::other)?,
    ) else {
        return Ok(false);
    };
    if now != then {
        return Ok(false);
    }
    if !matches!(now.kind, Kind::File { .. }) {
        return Ok(true);
    }
    let mut hasher = blake3::Hasher::new();
    io::copy(&mut open_file(&tree, path)?, &mut hasher)?;
    let digest = base.content_digest(&then).map_err(io::Error::other)?;
    Ok(*hasher.finalize().as_bytes() == digest.0)
}

impl Store {
    /// A tree of the layers `stack`, lowest first: the one that a step of this build has left, with what is missing on top, or a
    /// new one. Call it inside the user namespace.
    pub fn begin_copied(&self, stack: &[LayerId]) -> Result<CopiedRoot, StoreError> {
        let mut root = match self.parked_below(stack)? {
            Some(root) => root,
            None => CopiedRoot::new(self)?,
        };
        if root.copy.stack.len() == stack.len() && !stack.is_empty() {
            return Ok(root);
        }
        match root.complete(stack) {
            // The damaged form has been removed: once more, from another one.
            Err(error) if is_damage(&error) => {
                root = CopiedRoot::new(self)?;
                root.complete(stack)?;
            }
            result => result?,
        }
        root.copy.before = root.look()?;
        Ok(root)
    }

    /// As [`Store::begin_copied`], never one that another step waits for: a tree to show to a step, thrown away afterwards.
    pub fn copy_of(&self, stack: &[LayerId]) -> Result<CopiedRoot, StoreError> {
        let mut root = CopiedRoot::new(self)?;
        root.complete(stack)?;
        Ok(root)
    }

    /// The parked root that has most of `stack`.
    fn parked_below(&self, stack: &[LayerId]) -> Result<Option<CopiedRoot>, StoreError> {
        let best = {
            let roots = self.0.parked_roots.lock().unwrap_or_else(PoisonError::into_inner);
            let below = roots.iter().filter(|(known, _)| stack.starts_with(known));
            below
                .max_by_key(|(known, _)| known.len())
                .map(|(_, parked)| Arc::clone(parked))
        };
        let Some(best) = best else { return Ok(None) };
        let mut best = best.lock().unwrap_or_else(PoisonError::into_inner);
        let found = match best.take() {
            None => None,
            Some(Parked { copy, claims }) => {
                let store = self.clone();
                let root = CopiedRoot { store, copy };
                if claims <= 1 {
                    Some(root)
                } else {
                    let other = root.copied();
                    *best = Some(Parked {
                        copy: root.copy,
                        claims: claims - 1,
                    });
                    Some(other?)
                }
            }
        };
        drop(best);
        self.forget_empty_root();
        Ok(found)
    }

    /// Drops what is left of roots that were taken over.
    fn forget_empty_root(&self) {
        let mut roots = self.0.parked_roots.lock().unwrap_or_else(PoisonError::into_inner);
        // One that is locked is in use.
        roots.retain(|(_, parked)| parked.try_lock().map_or(true, |parked| parked.is_some()));
    }
}

#[cfg(test)]
mod tests;
