//! A read-only tree of files, wherever its bytes lie: a local directory, a stack of layers. COPY
//! reads its sources through it and looks its destination up in it, so that no layer has to be
//! unpacked and nothing has to be mounted for it.

use std::io::Read;
use std::sync::Arc;

use crate::digest::ContentDigest;
use crate::layer::{Entry, LayerPath};

/// A tree that can be looked at without being changed. Paths are lexical: nothing here follows
/// symbolic links except [`resolve`]. Hard links of a stack of layers are shown as the file that
/// they name (`Kind::File`); [`Tree::link_group`] tells which belong together.
pub trait Tree: Send + Sync {
    /// The entry at `path`, not following a symbolic link at its end; `None` when there is none
    /// or when a parent is no directory. The root always exists.
    fn lookup(&self, path: &LayerPath) -> Result<Option<Entry>, TreeError>;

    /// The entries of the directory at `path`, sorted by name, whiteouts applied.
    fn read_dir(&self, path: &LayerPath) -> Result<Vec<Entry>, TreeError>;

    /// The bytes of the regular file at `path`.
    fn open(&self, path: &LayerPath) -> Result<Box<dyn Read + Send>, TreeError>;

    /// blake3 of the bytes of the regular file `entry` of this tree, remembered where that is cheap.
    fn content_digest(&self, entry: &Entry) -> Result<ContentDigest, TreeError>;

    /// A number shared by the regular files that are hard links of each other, `None` for a file
    /// with one name.
    fn link_group(&self, entry: &Entry) -> Result<Option<u64>, TreeError>;

    /// The same as [`Tree::read_dir`], with what the tree knows of the regular files without reading them: for trees that
    /// know it while they list.
    fn list(&self, path: &LayerPath) -> Result<Vec<Listed>, TreeError> {
        let entries = self.read_dir(path)?.into_iter();
        let listed = |entry| Listed {
            entry: Arc::new(entry),
            known: None,
        };
        Ok(entries.map(listed).collect())
    }

    /// Says that the whole of the directory at `path` will be asked for, except below directories for which `enter` is
    /// false: a tree that has to wait for its answers can find them all at once.
    fn prefetch(
        &self,
        _path: &LayerPath,
        _enter: &(dyn Fn(&LayerPath) -> bool + Sync),
    ) -> Result<(), TreeError> {
        Ok(())
    }
}

/// An entry of a directory.
#[derive(Debug, Clone)]
pub struct Listed {
    /// The entry. A tree that keeps its entries shares them.
    pub entry: Arc<Entry>,
    /// For a regular file what [`Tree::content_digest`] and [`Tree::link_group`] would say, if that is known already.
    pub known: Option<Known>,
}

/// What is known of a regular file beside its entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Known {
    /// Digest of its bytes.
    pub digest: ContentDigest,
    /// Its group of hard links.
    pub link: Option<u64>,
}

/// Why a tree could not be read.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    /// Reading failed.
    #[error("{path}: {cause}")]
    Io {
        /// Where.
        path: LayerPath,
        /// The cause.
        cause: std::io::Error,
    },
    /// More than 255 symbolic links on the way (Go's and Linux' limit is lower; BuildKit's is 255).
    #[error("{path}: too many levels of symbolic links")]
    Loop {
        /// Where it began.
        path: LayerPath,
    },
    /// The store cannot give the bytes.
    #[error("{path}: {reason}")]
    Store {
        /// Where.
        path: LayerPath,
        /// What is wrong.
        reason: String,
    },
}

impl TreeError {
    /// The system's answer, where that is the cause.
    pub fn io_cause(&self) -> Option<&std::io::Error> {
        match self {
            Self::Io { cause, .. } => Some(cause),
            _ => None,
        }
    }
}

/// A path after symbolic links were followed inside the root, as [`resolve`] gives it.
#[derive(Debug, Clone)]
pub struct Resolved {
    /// The path without symbolic links. Its last part need not exist.
    pub path: LayerPath,
    /// The entry there, if there is one; never a symbolic link.
    pub entry: Option<Entry>,
}

/// Follows every symbolic link of `path`, the last component's too, as a process with `tree` as
/// its root would: absolute targets start at the root and `..` stops there. Components that do
/// not exist are kept as they are.
pub fn resolve(tree: &dyn Tree, path: &LayerPath) -> Result<Resolved, TreeError> {
    walk(tree, path, true)
}

/// As [`resolve`], but a symbolic link at the end is not followed.
pub fn resolve_parent(tree: &dyn Tree, path: &LayerPath) -> Result<Resolved, TreeError> {
    walk(tree, path, false)
}

fn walk(tree: &dyn Tree, path: &LayerPath, follow_last: bool) -> Result<Resolved, TreeError> {
    use crate::layer::Kind;

    let mut pending: Vec<Vec<u8>> = path.components().rev().map(<[u8]>::to_vec).collect();
    let mut done = LayerPath::root();
    let mut entry = tree.lookup(&done)?;
    let mut links = 0;
    while let Some(component) = pending.pop() {
        match component.as_slice() {
            b"" | b"." => continue,
            b".." => {
                done = done.parent().unwrap_or_default();
                entry = tree.lookup(&done)?;
                continue;
            }
            _ => {}
        }
        let next = done.join(&component);
        // Below something that does not exist nothing exists.
        let found = if entry.is_some() {
            tree.lookup(&next)?
        } else {
            None
        };
        if let Some(Entry {
            kind: Kind::Symlink { target },
            ..
        }) = &found
            && (follow_last || !pending.is_empty())
        {
            links += 1;
            if links > 255 {
                return Err(TreeError::Loop { path: path.clone() });
            }
            if target.first() == Some(&b'/') {
                done = LayerPath::root();
                entry = tree.lookup(&done)?;
            }
            pending.extend(target.split(|b| *b == b'/').rev().map(<[u8]>::to_vec));
            continue;
        }
        done = next;
        entry = found;
    }
    Ok(Resolved { path: done, entry })
}
