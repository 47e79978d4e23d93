//! A part of a tree as a tree of its own, so that it is written as a whole one is.

use std::fmt;
use std::io::Read;

use rbuild_cache::ContentDigest;
use rbuild_cache::layer::{Entry, LayerPath};
use rbuild_cache::tree::{Tree, TreeError};

/// What is at one path of a tree: under a name of its own, or what is in it.
pub struct Part<'a> {
    tree: &'a dyn Tree,
    from: LayerPath,
    name: Option<Vec<u8>>,
}

impl<'a> Part<'a> {
    /// What is in the directory `from`.
    pub fn inside(tree: &'a dyn Tree, from: LayerPath) -> Self {
        Self {
            tree,
            from,
            name: None,
        }
    }

    /// What is at `from`, as the only entry `name`.
    pub fn named(tree: &'a dyn Tree, from: LayerPath, name: &[u8]) -> Self {
        Self {
            tree,
            from,
            name: Some(name.to_vec()),
        }
    }

    /// Where `path` is in the whole tree; the root of a named part is nowhere there.
    fn outer(&self, path: &LayerPath) -> Option<LayerPath> {
        match &self.name {
            None => Some(self.from.append(path)),
            Some(name) => {
                let rest = path.strip_prefix(&LayerPath::root().join(name))?;
                Some(self.from.append(&rest))
            }
        }
    }

    fn inner(&self, mut entry: Entry) -> Entry {
        let rest = entry.path.strip_prefix(&self.from).unwrap_or_default();
        entry.path = match &self.name {
            None => rest,
            Some(name) => LayerPath::root().join(name).append(&rest),
        };
        entry
    }

    fn with_outer(&self, entry: &Entry) -> Entry {
        Entry {
            path: self.outer(&entry.path).unwrap_or_default(),
            ..entry.clone()
        }
    }
}

impl fmt::Debug for Part<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Part")
            .field("from", &self.from)
            .finish_non_exhaustive()
    }
}

impl Tree for Part<'_> {
    fn lookup(&self, path: &LayerPath) -> Result<Option<Entry>, TreeError> {
        match self.outer(path) {
            _ if path.is_root() => Ok(Some(Entry::root())),
            None => Ok(None),
            Some(outer) => Ok(self.tree.lookup(&outer)?.map(|entry| self.inner(entry))),
        }
    }

    fn read_dir(&self, path: &LayerPath) -> Result<Vec<Entry>, TreeError> {
        let entries = match self.outer(path) {
            None => self.tree.lookup(&self.from)?.into_iter().collect(),
            Some(outer) => self.tree.read_dir(&outer)?,
        };
        Ok(entries.into_iter().map(|entry| self.inner(entry)).collect())
    }

    fn open(&self, path: &LayerPath) -> Result<Box<dyn Read + Send>, TreeError> {
        self.tree.open(&self.outer(path).unwrap_or_default())
    }

    fn content_digest(&self, entry: &Entry) -> Result<ContentDigest, TreeError> {
        self.tree.content_digest(&self.with_outer(entry))
    }

    fn link_group(&self, entry: &Entry) -> Result<Option<u64>, TreeError> {
        self.tree.link_group(&self.with_outer(entry))
    }
}
