//! The index of a tar that anybody may have written: members in any order, twice, below
//! directories that have none.
//!
//! It behaves as a file system into which the members are unpacked one after another, so that the
//! index says what the tree form will hold: the last member of a name wins, names of one file share
//! mode and owner, which are those of the last name (containerd and docker unpack so), a directory that is a member again keeps what is in it.

use std::collections::HashMap;

use super::entry::{Entry, Kind, LayerPath, Timestamp};
use super::index::{IndexEntry, LayerIndex};
use super::tar_read::TarEntry;
use crate::digest::ContentDigest;

/// Why the members of a tar make no layer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AssembleError {
    /// A member lies below something that is no directory.
    #[error("{path} lies below {parent}, which the same layer makes no directory")]
    Parent {
        /// The member.
        path: LayerPath,
        /// What it lies below.
        parent: LayerPath,
    },
    /// A hard link to something that cannot be linked.
    #[error("{path} is a hard link to {target}, which is no file of the same layer")]
    Link {
        /// The member.
        path: LayerPath,
        /// What it names.
        target: LayerPath,
    },
}

/// Builds a [`LayerIndex`] from members in the order of the tar.
#[derive(Debug, Default)]
pub struct IndexAssembler {
    names: HashMap<LayerPath, usize>,
    inodes: Vec<IndexEntry>,
    /// A directory known to be there with all its parents: members mostly come directory by directory.
    known: Option<LayerPath>,
}

impl IndexAssembler {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the next member; gives its number for [`IndexAssembler::set_digest`].
    pub fn push(&mut self, member: TarEntry) -> Result<Option<usize>, AssembleError> {
        let TarEntry {
            entry,
            data_offset,
            opaque_marker,
        } = member;
        if entry.path.is_root() {
            return Ok(None);
        }
        if opaque_marker {
            self.make_opaque(&entry.path)?;
            return Ok(None);
        }
        self.make_parents(&entry.path)?;
        let existing = self.names.get(&entry.path).copied();
        match (&entry.kind, existing.map(|inode| &self.inodes[inode].entry.kind)) {
            // Whiteouts are about lower layers; what this layer puts there comes on top of them.
            (Kind::Whiteout, Some(Kind::Directory { .. })) => {
                let path = entry.path.clone();
                self.make_opaque(&path)?;
                return Ok(None);
            }
            (Kind::Whiteout, Some(_)) => return Ok(None),
            (Kind::Directory { .. }, Some(Kind::Directory { opaque })) => {
                let opaque = *opaque;
                self.replace_metadata(entry, opaque, existing);
                return Ok(None);
            }
            (Kind::Directory { .. }, Some(Kind::Whiteout)) => {
                self.insert(
                    Entry {
                        kind: Kind::Directory { opaque: true },
                        ..entry
                    },
                    None,
                );
                return Ok(None);
            }
            (Kind::Hardlink { target }, _) => {
                self.link(&entry, target)?;
                return Ok(None);
            }
            (_, Some(Kind::Directory { .. })) => self.remove_below(&entry.path),
            _ => {}
        }
        let offset = matches!(entry.kind, Kind::File { .. }).then_some(data_offset);
        Ok(Some(self.insert(entry, offset)))
    }

    /// Notes the digest of the bytes of the member that [`IndexAssembler::push`] numbered so.
    pub fn set_digest(&mut self, number: usize, digest: ContentDigest) {
        if let Some(inode) = self.inodes.get_mut(number) {
            inode.digest = Some(digest);
        }
    }

    /// The index. The first name of a file, in the order of paths, carries it; the others link to that one.
    pub fn finish(self) -> LayerIndex {
        let mut names: Vec<(LayerPath, usize)> = self.names.into_iter().collect();
        names.sort_unstable();
        let mut inodes = self.inodes;
        let mut first_names: Vec<Option<LayerPath>> = vec![None; inodes.len()];
        let mut entries = Vec::with_capacity(names.len());
        for (path, number) in names {
            let inode = &mut inodes[number];
            if let Some(target) = &first_names[number] {
                let entry = Entry {
                    path,
                    kind: Kind::Hardlink {
                        target: target.clone(),
                    },
                    ..inode.entry.clone()
                };
                entries.push(IndexEntry {
                    entry,
                    data_offset: None,
                    digest: None,
                });
            } else {
                first_names[number] = Some(path.clone());
                inode.entry.path = path;
                entries.push(inode.clone());
            }
        }
        LayerIndex::from_sorted(entries)
    }

    fn insert(&mut self, entry: Entry, data_offset: Option<u64>) -> usize {
        let number = self.inodes.len();
        self.names.insert(entry.path.clone(), number);
        self.inodes.push(IndexEntry {
            entry,
            data_offset,
            digest: None,
        });
        number
    }

    fn replace_metadata(&mut self, entry: Entry, opaque: bool, existing: Option<usize>) {
        if let Some(inode) = existing.and_then(|number| self.inodes.get_mut(number)) {
            inode.entry = Entry {
                kind: Kind::Directory { opaque },
                ..entry
            };
        }
    }

    fn link(&mut self, link: &Entry, target: &LayerPath) -> Result<(), AssembleError> {
        let path = &link.path;
        let bad = || AssembleError::Link {
            path: path.clone(),
            target: target.clone(),
        };
        let number = *self.names.get(target).ok_or_else(bad)?;
        if path == target
            || matches!(
                self.inodes[number].entry.kind,
                Kind::Directory { .. } | Kind::Whiteout
            )
        {
            return Err(bad());
        }
        if self.is_directory(path) {
            if target.lies_in(path) {
                return Err(bad());
            }
            self.remove_below(path);
        }
        let file = &mut self.inodes[number].entry;
        if !matches!(file.kind, Kind::Symlink { .. }) {
            file.mode = link.mode;
        }
        (file.uid, file.gid, file.mtime) = (link.uid, link.gid, link.mtime);
        for (name, value) in &link.xattrs {
            match file.xattrs.binary_search_by(|(known, _)| known.cmp(name)) {
                Ok(known) => file.xattrs[known].1.clone_from(value),
                Err(place) => file.xattrs.insert(place, (name.clone(), value.clone())),
            }
        }
        self.names.insert(path.clone(), number);
        Ok(())
    }

    fn make_opaque(&mut self, path: &LayerPath) -> Result<(), AssembleError> {
        self.make_parents(path)?;
        match self
            .names
            .get(path)
            .map(|number| &mut self.inodes[*number].entry.kind)
        {
            Some(Kind::Directory { opaque }) => *opaque = true,
            Some(Kind::Whiteout) | None => {
                self.insert(implied(path, true), None);
            }
            Some(_) => {
                return Err(AssembleError::Parent {
                    path: path.join(b".wh..wh..opq"),
                    parent: path.clone(),
                });
            }
        }
        Ok(())
    }

    /// Makes the directories above `path` that have no member so far.
    fn make_parents(&mut self, path: &LayerPath) -> Result<(), AssembleError> {
        let Some(parent) = path.parent().filter(|parent| !parent.is_root()) else {
            return Ok(());
        };
        if self.known.as_ref() == Some(&parent) {
            return Ok(());
        }
        let mut missing = Vec::new();
        let mut ancestor = Some(parent.clone());
        while let Some(directory) = ancestor.filter(|directory| !directory.is_root()) {
            match self
                .names
                .get(&directory)
                .map(|number| &self.inodes[*number].entry.kind)
            {
                Some(Kind::Directory { .. }) => break,
                // The name was removed from the lower layers, and something new is there: nothing old shines through.
                Some(Kind::Whiteout) => missing.push((directory.clone(), true)),
                None => missing.push((directory.clone(), false)),
                Some(_) => {
                    return Err(AssembleError::Parent {
                        path: path.clone(),
                        parent: directory,
                    });
                }
            }
            ancestor = directory.parent();
        }
        for (directory, opaque) in missing {
            self.insert(implied(&directory, opaque), None);
        }
        self.known = Some(parent);
        Ok(())
    }

    fn is_directory(&self, path: &LayerPath) -> bool {
        self.names
            .get(path)
            .is_some_and(|number| self.inodes[*number].entry.is_dir())
    }

    fn remove_below(&mut self, path: &LayerPath) {
        self.known = None;
        self.names.retain(|name, _| name == path || !name.lies_in(path));
    }
}

/// A directory that has no member: as every unpacker makes it.
fn implied(path: &LayerPath, opaque: bool) -> Entry {
    Entry {
        path: path.clone(),
        kind: Kind::Directory { opaque },
        mode: 0o755,
        uid: 0,
        gid: 0,
        mtime: Timestamp::default(),
        xattrs: Vec::new(),
    }
}
