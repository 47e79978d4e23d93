//! A directory of the machine as the root file system of an image: what it has and the layers below do not becomes a layer.
//!
//! Everything is looked up in the descriptor of the directory and never through a symbolic link. Times do not count: a copy
//! without them is no change.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use super::beneath::open_file;
use super::entry::{Entry, Kind, LayerPath};
use super::forms::Layer;
use super::index::{IndexEntry, LayerIndex};
use super::upper::walk_one_device;
use crate::difference::{Change, ChangeKind, Times, difference};
use crate::digest::{ContentDigest, LayerId};
use crate::error::StoreError;
use crate::store::Store;
use crate::tree::{Tree, TreeError};
use crate::view::{View, shown};

/// Whose the files of the directory are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owners {
    /// Theirs.
    Real,
    /// One who may not give files away has written them. Files of this user and group belong to whom they belong in the
    /// layers below, new ones to root; capabilities that files have there, and devices, which he cannot make, stay.
    Unprivileged {
        /// The user.
        uid: u32,
        /// His group.
        gid: u32,
    },
}

impl Store {
    /// The layer that makes `directory` of the layers `base`, lowest first; `None` when they are the same. Call it inside the
    /// user namespace if the files have subordinate ids.
    pub fn commit_directory(
        &self,
        base: Vec<Layer>,
        directory: &Path,
        owners: Owners,
    ) -> Result<Option<LayerId>, StoreError> {
        let fail = |error| StoreError::io("reading", directory, error);
        let base = View::new(base);
        let root = RootDirectory::open(directory, &base, owners).map_err(fail)?;
        let mut changes =
            difference(&base, &root, Times::Ignored).map_err(|error| fail(io::Error::other(error)))?;
        if owners != Owners::Real {
            let is_device = |kind: &Kind| matches!(kind, Kind::CharDevice { .. } | Kind::BlockDevice { .. });
            changes.retain(|change| change.kind != ChangeKind::Deleted || !is_device(&change.entry.kind));
        }
        let changes = worth_saying(changes, &base).map_err(|error| fail(io::Error::other(error)))?;
        if changes.is_empty() {
            return Ok(None);
        }
        let mut builder = self.layer_builder()?;
        let mut names: HashMap<u64, LayerPath> = HashMap::new();
        for change in changes {
            let mut entry = change.entry;
            if change.kind == ChangeKind::Deleted {
                builder.append(&Entry::whiteout(entry.path), None)?;
                continue;
            }
            let group = root
                .link_group(&entry)
                .map_err(|error| fail(io::Error::other(error)))?;
            if let Some(group) = group {
                match names.get(&group) {
                    Some(target) => {
                        entry.kind = Kind::Hardlink {
                            target: target.clone(),
                        }
                    }
                    None => drop(names.insert(group, entry.path.clone())),
                }
            }
            match entry.kind {
                Kind::File { .. } => {
                    let mut file = open_file(&root.root, &entry.path).map_err(fail)?;
                    builder.append(&entry, Some(&mut file))?;
                }
                _ => drop(builder.append(&entry, None)?),
            }
        }
        builder.commit().map(Some)
    }
}

/// Without directories in which nothing is left to be said.
fn worth_saying(changes: Vec<Change>, base: &View) -> Result<Vec<Change>, TreeError> {
    let mut kept: Vec<Change> = Vec::with_capacity(changes.len());
    for change in changes.into_iter().rev() {
        let Change { kind, entry } = &change;
        let holds = kept
            .last()
            .is_some_and(|last| last.entry.path.lies_in(&entry.path));
        if !holds && *kind == ChangeKind::Changed && entry.is_dir() {
            let attributes = |entry: &Entry| (entry.is_dir(), entry.mode, entry.uid, entry.gid);
            let was = base.lookup(&entry.path)?;
            let same = |was: &Entry| attributes(was) == attributes(entry) && was.xattrs == entry.xattrs;
            if was.as_ref().is_some_and(same) {
                continue;
            }
        }
        kept.push(change);
    }
    kept.reverse();
    Ok(kept)
}

/// The tree in the directory.
struct RootDirectory {
    index: LayerIndex,
    root: File,
}

impl RootDirectory {
    fn open(path: &Path, base: &View, owners: Owners) -> io::Result<Self> {
        let root = File::open(path)?;
        let index = walk_one_device(path)?;
        let mut entries = index.entries().to_vec();
        for IndexEntry { entry, .. } in &mut entries {
            if entry.kind == Kind::Whiteout {
                let text = format!(
                    "{} is a device 0:0, which would mean that there is nothing",
                    entry.path
                );
                return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
            }
            if entry.path.name().starts_with(b".wh.") {
                let text = format!(
                    "{} has a name by which layers say that something is gone",
                    entry.path
                );
                return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
            }
            if let Owners::Unprivileged { uid, gid } = owners {
                restore_owner(entry, base, &root, (uid, gid))?;
            }
        }
        Ok(Self {
            index: LayerIndex::from_sorted(entries),
            root,
        })
    }
}

/// See [`Owners::Unprivileged`].
fn restore_owner(entry: &mut Entry, base: &View, root: &File, own: (u32, u32)) -> io::Result<()> {
    if entry.uid != own.0 && entry.gid != own.1 {
        return Ok(());
    }
    let was = base.lookup(&entry.path).map_err(io::Error::other)?;
    let owner = was.as_ref().map_or((0, 0), |was| (was.uid, was.gid));
    if entry.uid == own.0 {
        entry.uid = owner.0;
    }
    if entry.gid == own.1 {
        entry.gid = owner.1;
    }
    let Some(was) = was else { return Ok(()) };
    let capability = |found: &Entry| {
        let name: &[u8] = b"security.capability";
        found.xattrs.iter().find(|(other, _)| other == name).cloned()
    };
    // Writing to a file takes its capabilities away, so only the same bytes have them still.
    if let (None, Some(kept)) = (capability(entry), capability(&was))
        && was.kind == entry.kind
        && base.content_digest(&was).map_err(io::Error::other)? == digest(root, &entry.path)?
    {
        entry.xattrs.push(kept);
        entry.xattrs.sort();
    }
    Ok(())
}

fn digest(root: &File, path: &LayerPath) -> io::Result<ContentDigest> {
    let mut hasher = blake3::Hasher::new();
    io::copy(&mut open_file(root, path)?, &mut hasher)?;
    Ok(ContentDigest(*hasher.finalize().as_bytes()))
}

impl Tree for RootDirectory {
    fn lookup(&self, path: &LayerPath) -> Result<Option<Entry>, TreeError> {
        if path.is_root() {
            return Ok(Some(Entry::root()));
        }
        Ok(self.index.get(path).map(|found| shown(&self.index, found)))
    }

    fn read_dir(&self, path: &LayerPath) -> Result<Vec<Entry>, TreeError> {
        Ok(self
            .index
            .children(path)
            .map(|found| shown(&self.index, found))
            .collect())
    }

    fn open(&self, path: &LayerPath) -> Result<Box<dyn Read + Send>, TreeError> {
        match open_file(&self.root, path) {
            Ok(file) => Ok(Box::new(file)),
            Err(source) => Err(TreeError::Io {
                path: path.clone(),
                cause: source,
            }),
        }
    }

    fn content_digest(&self, entry: &Entry) -> Result<ContentDigest, TreeError> {
        digest(&self.root, &entry.path).map_err(|source| TreeError::Io {
            path: entry.path.clone(),
            cause: source,
        })
    }

    fn link_group(&self, entry: &Entry) -> Result<Option<u64>, TreeError> {
        let found = self.index.get(&entry.path).map(|found| self.index.inode(found));
        let group = found.and_then(|inode| self.index.link_group(inode));
        Ok(group.map(|group| group as u64))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// What the layer says, one line each.
    fn said(store: &Store, base: &[LayerId], directory: &Path, owners: Owners) -> Vec<String> {
        let layers = base.iter().map(|id| store.layer(id).unwrap()).collect();
        let Some(layer) = store.commit_directory(layers, directory, owners).unwrap() else {
            return vec!["nothing".to_owned()];
        };
        let index = store.layer(&layer).unwrap().index().unwrap();
        let line = |found: &IndexEntry| {
            let Entry {
                path,
                kind,
                uid,
                gid,
                mode,
                ..
            } = &found.entry;
            let kind = match kind {
                Kind::Directory { .. } => "dir".to_owned(),
                Kind::File { size } => format!("file {size}"),
                Kind::Symlink { .. } => "link".to_owned(),
                Kind::Hardlink { target } => format!("= {target}"),
                Kind::Whiteout => return format!("{path} gone"),
                other => format!("{other:?}"),
            };
            format!("{path} {kind} {mode:o} {uid}:{gid}")
        };
        index.entries().iter().map(line).collect()
    }

    fn base(store: &Store) -> LayerId {
        let entry = |path: &str, kind, uid| Entry {
            path: LayerPath::clean(path.as_bytes()),
            kind,
            mode: 0o644,
            uid,
            gid: uid,
            ..Entry::root()
        };
        let directory = |path| Entry {
            mode: 0o755,
            ..entry(path, Kind::Directory { opaque: false }, 0)
        };
        let file = |path, uid| entry(path, Kind::File { size: 1 }, uid);
        let mut builder = store.layer_builder().unwrap();
        for entry in [
            directory("d"),
            file("d/gone", 7),
            file("d/mine", 7),
            file("d/same", 7),
            entry("null", Kind::CharDevice { major: 1, minor: 3 }, 0),
        ] {
            let mut bytes = &b"x"[..];
            let data: Option<&mut dyn Read> = match entry.kind {
                Kind::File { .. } => Some(&mut bytes),
                _ => None,
            };
            builder.append(&entry, data).unwrap();
        }
        builder.commit().unwrap()
    }

    #[test]
    fn what_changed_becomes_a_layer() {
        let here = tempfile::tempdir().unwrap();
        let store = Store::open(&here.path().join("store")).unwrap();
        let base = base(&store);
        let root = here.path().join("root");
        fs::create_dir_all(root.join("d")).unwrap();
        for (path, text) in [("d/mine", "other"), ("d/same", "x"), ("new", "1")] {
            fs::write(root.join(path), text).unwrap();
            fs::set_permissions(root.join(path), PermissionsExt::from_mode(0o644)).unwrap();
        }
        fs::set_permissions(root.join("d"), PermissionsExt::from_mode(0o755)).unwrap();
        fs::hard_link(root.join("new"), root.join("newer")).unwrap();
        let (uid, gid) = (
            rustix::process::geteuid().as_raw(),
            rustix::process::getegid().as_raw(),
        );
        // Owners come back where one who may not chown wrote the files, and so do devices.
        assert_eq!(
            said(
                &store,
                std::slice::from_ref(&base),
                &root,
                Owners::Unprivileged { uid, gid }
            ),
            [
                "/d dir 755 0:0",
                "/d/gone gone",
                "/d/mine file 5 644 7:7",
                "/new file 1 644 0:0",
                "/newer = /new 644 0:0"
            ]
        );
        if uid == 0 {
            assert_eq!(
                said(&store, std::slice::from_ref(&base), &root, Owners::Real),
                [
                    "/d dir 755 0:0",
                    "/d/gone gone",
                    "/d/mine file 5 644 0:0",
                    "/d/same file 1 644 0:0",
                    "/new file 1 644 0:0",
                    "/newer = /new 644 0:0",
                    "/null gone"
                ]
            );
        }
        for name in ["new", "newer"] {
            fs::remove_file(root.join(name)).unwrap();
        }
        for name in ["d/gone", "d/mine"] {
            fs::write(root.join(name), "x").unwrap();
            fs::set_permissions(root.join(name), PermissionsExt::from_mode(0o644)).unwrap();
        }
        assert_eq!(
            said(&store, &[base], &root, Owners::Unprivileged { uid, gid }),
            ["nothing"]
        );
    }

    #[test]
    fn what_no_layer_can_say_is_refused() {
        let here = tempfile::tempdir().unwrap();
        let store = Store::open(&here.path().join("store")).unwrap();
        let root = here.path().join("root");
        fs::create_dir(&root).unwrap();
        fs::write(root.join(".wh.x"), "").unwrap();
        let refused = store
            .commit_directory(Vec::new(), &root, Owners::Real)
            .unwrap_err();
        assert!(
            format!("{:#}", anyhow_chain(&refused)).contains("/.wh.x has a name"),
            "{refused:?}"
        );
        let link = here.path().join("link");
        std::os::unix::fs::symlink("root", &link).unwrap();
        assert!(store.commit_directory(Vec::new(), &link, Owners::Real).is_err());
    }

    fn anyhow_chain(error: &dyn std::error::Error) -> String {
        let mut text = error.to_string();
        let mut source = error.source();
        while let Some(error) = source {
            text.push_str(&format!(": {error}"));
            source = error.source();
        }
        text
    }
}
