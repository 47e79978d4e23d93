//! The root file system that a copy or WORKDIR changes: what the base has and what was planned on
//! top of it. Everything that is taken from the base is a fact and goes into a key; its times and
//! the contents of its files are none.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::bail;
use rbuild_cache::layer::{Entry, Kind, LayerPath, Timestamp};
use rbuild_cache::tree::{Tree, TreeError};
use rbuild_cache::{ContentDigest, KeyBuilder};

use super::owner::Owner;
use super::plan::{Data, LayerPlan, Planned};

/// A base and what is planned to lie on it.
pub(super) struct Destination<'a> {
    /// `None` for an empty one.
    base: Option<&'a dyn Tree>,
    facts: Mutex<KeyBuilder>,
    planned: Vec<Planned<'a>>,
    index: HashMap<LayerPath, usize>,
}

/// Mode and owner of directories that are created on the way.
#[derive(Debug, Clone, Copy)]
pub(super) struct Created {
    pub mode: u32,
    pub owner: Owner,
}

impl<'a> Destination<'a> {
    pub fn new(base: Option<&'a dyn Tree>) -> Self {
        let facts = Mutex::new(KeyBuilder::new("facts/1"));
        Self {
            base,
            facts,
            planned: Vec::new(),
            index: HashMap::new(),
        }
    }

    /// Notes something else that the plan depends on.
    pub fn fact(&self, name: &str, value: &[u8]) {
        self.facts
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .field(name, value);
    }

    /// What is planned at `path`.
    pub fn planned(&self, path: &LayerPath) -> Option<&Planned<'a>> {
        self.index.get(path).map(|index| &self.planned[*index])
    }

    pub fn planned_mut(&mut self, path: &LayerPath) -> Option<&mut Planned<'a>> {
        self.index.get(path).map(|index| &mut self.planned[*index])
    }

    /// What is at `path` once the plan is carried out so far.
    pub fn look(&self, path: &LayerPath) -> Result<Option<Entry>, TreeError> {
        if path.is_root() {
            return Ok(Some(Entry::root()));
        }
        if let Some(planned) = self.planned(path) {
            return Ok(Some(planned.entry().into_owned()));
        }
        let above = path.parent().and_then(|parent| self.planned(&parent));
        if above.is_some_and(|parent| parent.fresh) {
            return Ok(None);
        }
        self.look_below(path)
    }

    /// What the base has at `path`.
    fn look_below(&self, path: &LayerPath) -> Result<Option<Entry>, TreeError> {
        let Some(base) = self.base else { return Ok(None) };
        let found = base.lookup(path)?;
        let mut fact = Vec::new();
        match &found {
            None => fact.push(b'-'),
            Some(Entry {
                kind: Kind::Directory { .. },
                mode,
                uid,
                gid,
                xattrs,
                ..
            }) => {
                fact.push(b'd');
                for number in [mode, uid, gid] {
                    fact.extend_from_slice(&number.to_le_bytes());
                }
                for part in xattrs.iter().flat_map(|(name, value)| [name, value]) {
                    fact.extend_from_slice(&(part.len() as u64).to_le_bytes());
                    fact.extend_from_slice(part);
                }
            }
            Some(Entry {
                kind: Kind::Symlink { target },
                ..
            }) => {
                fact.push(b'l');
                fact.extend_from_slice(target);
            }
            Some(_) => fact.push(b'o'),
        }
        let mut facts = self.facts.lock().unwrap_or_else(PoisonError::into_inner);
        facts.field("path", path.as_bytes()).field("found", &fact);
        Ok(found)
    }

    /// Makes sure that `path`, which has no symbolic links in it, is a directory, and that it and all above it are in
    /// the layer: an overlay would show a directory that was made up in the place of the real one.
    pub fn make_directories(&mut self, path: &LayerPath, created: Created) -> anyhow::Result<()> {
        // Most of the time the last one made is asked for again.
        if self.planned(path).is_some_and(|planned| planned.like.is_dir()) {
            return Ok(());
        }
        let mut current = LayerPath::root();
        for name in path.components() {
            current = current.join(name);
            let found = self.look(&current)?;
            match found {
                Some(entry) if entry.is_dir() => {
                    if self.planned(&current).is_none() {
                        let entry = Entry {
                            kind: Kind::Directory { opaque: false },
                            ..entry
                        };
                        self.put(Planned {
                            fresh: false,
                            ..Planned::new(entry, Data::None)
                        });
                    }
                }
                Some(_) => bail!("cannot copy to non-directory: {current}"),
                None => {
                    let entry = Entry {
                        path: current.clone(),
                        kind: Kind::Directory { opaque: false },
                        mode: created.mode,
                        uid: created.owner.uid,
                        gid: created.owner.gid,
                        mtime: Timestamp::default(),
                        xattrs: Vec::new(),
                    };
                    self.put(Planned {
                        created: true,
                        ..Planned::new(entry, Data::None)
                    });
                }
            }
        }
        Ok(())
    }

    /// Plans a directory with metadata of its own; one that exists there gets this metadata (spec P5).
    pub fn put_directory(&mut self, mut entry: Entry) -> anyhow::Result<()> {
        let fresh = match self.look(&entry.path)? {
            None => true,
            Some(existing) if existing.is_dir() => {
                let missing =
                    |(name, _): &(Vec<u8>, Vec<u8>)| !entry.xattrs.iter().any(|(has, _)| has == name);
                let kept: Vec<_> = existing.xattrs.into_iter().filter(missing).collect();
                entry.xattrs.extend(kept);
                entry.xattrs.sort();
                self.planned(&entry.path).is_some_and(|planned| planned.fresh)
            }
            Some(_) => bail!("cannot copy to non-directory: {}", entry.path),
        };
        let planned = self.planned(&entry.path);
        let opaque = planned.is_some_and(|planned| planned.like.kind == Kind::Directory { opaque: true });
        entry.kind = Kind::Directory { opaque };
        self.put(Planned {
            fresh,
            ..Planned::new(entry, Data::None)
        });
        Ok(())
    }

    /// Plans anything else. A file that is there is replaced, a directory is not.
    pub fn put_file(&mut self, planned: Planned<'a>) -> anyhow::Result<()> {
        if self
            .look(&planned.path)?
            .is_some_and(|existing| existing.is_dir())
        {
            bail!("cannot replace to directory {} with file", planned.path);
        }
        self.put(planned);
        Ok(())
    }

    /// Plans an entry of an archive, which replaces whatever is there; only directories are merged.
    pub fn replace(&mut self, planned: Planned<'a>) -> anyhow::Result<()> {
        let path = planned.path.clone();
        let existing = self.look(&path)?;
        let was_directory = existing.as_ref().is_some_and(Entry::is_dir);
        if planned.like.is_dir() {
            if existing.is_none() || was_directory {
                return self.put_directory(planned.entry().into_owned());
            }
            // What the planned entry hid of the base must stay hidden.
            let hidden =
                self.planned(&path).is_some() && self.look_below(&path)?.is_some_and(|below| below.is_dir());
            let mut like = planned.like;
            Arc::make_mut(&mut like).kind = Kind::Directory { opaque: hidden };
            self.put(Planned {
                like,
                fresh: true,
                ..planned
            });
            return Ok(());
        }
        if was_directory {
            self.planned
                .retain(|other| other.path == path || !other.path.lies_in(&path));
            let paths = self.planned.iter().map(|planned| planned.path.clone());
            self.index = paths.enumerate().map(|(index, path)| (path, index)).collect();
        }
        self.put(planned);
        Ok(())
    }

    /// The plan, and the files that its archives were unpacked to.
    pub fn finish(self, archives: Vec<File>) -> LayerPlan<'a> {
        let facts = self
            .facts
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner)
            .finish();
        LayerPlan::new(facts, self.planned, archives)
    }

    fn put(&mut self, planned: Planned<'a>) {
        match self.index.get(&planned.path) {
            Some(index) => self.planned[*index] = planned,
            None => {
                self.index.insert(planned.path.clone(), self.planned.len());
                self.planned.push(planned);
            }
        }
    }
}

/// Only what resolving a path needs: nothing of a plan can be read.
impl Tree for Destination<'_> {
    fn lookup(&self, path: &LayerPath) -> Result<Option<Entry>, TreeError> {
        self.look(path)
    }

    fn read_dir(&self, path: &LayerPath) -> Result<Vec<Entry>, TreeError> {
        Err(only_planned(path))
    }

    fn open(&self, path: &LayerPath) -> Result<Box<dyn Read + Send>, TreeError> {
        Err(only_planned(path))
    }

    fn content_digest(&self, entry: &Entry) -> Result<ContentDigest, TreeError> {
        Err(only_planned(&entry.path))
    }

    fn link_group(&self, entry: &Entry) -> Result<Option<u64>, TreeError> {
        Err(only_planned(&entry.path))
    }
}

/// A destination seen with one of its directories as the root, as by a process that has done chroot(2) there.
pub(super) struct Below<'a> {
    pub to: &'a Destination<'a>,
    pub root: &'a LayerPath,
}

impl Tree for Below<'_> {
    fn lookup(&self, path: &LayerPath) -> Result<Option<Entry>, TreeError> {
        self.to.look(&self.root.append(path))
    }

    fn read_dir(&self, path: &LayerPath) -> Result<Vec<Entry>, TreeError> {
        Err(only_planned(path))
    }

    fn open(&self, path: &LayerPath) -> Result<Box<dyn Read + Send>, TreeError> {
        Err(only_planned(path))
    }

    fn content_digest(&self, entry: &Entry) -> Result<ContentDigest, TreeError> {
        Err(only_planned(&entry.path))
    }

    fn link_group(&self, entry: &Entry) -> Result<Option<u64>, TreeError> {
        Err(only_planned(&entry.path))
    }
}

fn only_planned(path: &LayerPath) -> TreeError {
    TreeError::Store {
        path: path.clone(),
        reason: "it is only planned".to_owned(),
    }
}
