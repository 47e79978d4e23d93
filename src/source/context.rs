//! Build contexts as trees: directories of this machine, and what was received and lies in the store.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use rbuild_cache::layer::{Entry, Kind, LayerPath, Timestamp};
use rbuild_cache::tree::{Listed, Tree, TreeError};
use rbuild_cache::{ContentDigest, StoreError, View};
use rbuild_parser::ignore::Matcher;

use super::local::{ContextMode, LocalContext};

/// What a build may copy from.
#[derive(Debug)]
pub enum BuildContext {
    /// A directory.
    Directory(Box<LocalContext>),
    /// What was received.
    Stored(StoredContext),
}

impl BuildContext {
    /// Writes what was found out to the store, for the next time.
    pub fn save(&self) -> Result<(), StoreError> {
        match self {
            Self::Directory(local) => local.save(),
            Self::Stored(_) => Ok(()),
        }
    }

    /// What was left out although it was asked for, one line each; each is given once.
    pub fn take_warnings(&self) -> Vec<String> {
        match self {
            Self::Directory(local) => local.take_warnings(),
            Self::Stored(_) => Vec::new(),
        }
    }

    /// For the end of a build, and so of the process: see [`LocalContext::abandon`].
    pub fn abandon(self) {
        if let Self::Directory(local) = self {
            local.abandon();
        }
    }

    fn tree(&self) -> &dyn Tree {
        match self {
            Self::Directory(local) => &**local,
            Self::Stored(stored) => stored,
        }
    }
}

impl Tree for BuildContext {
    fn lookup(&self, path: &LayerPath) -> Result<Option<Entry>, TreeError> {
        self.tree().lookup(path)
    }

    fn read_dir(&self, path: &LayerPath) -> Result<Vec<Entry>, TreeError> {
        self.tree().read_dir(path)
    }

    fn list(&self, path: &LayerPath) -> Result<Vec<Listed>, TreeError> {
        self.tree().list(path)
    }

    fn open(&self, path: &LayerPath) -> Result<Box<dyn Read + Send>, TreeError> {
        self.tree().open(path)
    }

    fn content_digest(&self, entry: &Entry) -> Result<ContentDigest, TreeError> {
        self.tree().content_digest(entry)
    }

    fn link_group(&self, entry: &Entry) -> Result<Option<u64>, TreeError> {
        self.tree().link_group(entry)
    }

    fn prefetch(
        &self,
        path: &LayerPath,
        enter: &(dyn Fn(&LayerPath) -> bool + Sync),
    ) -> Result<(), TreeError> {
        self.tree().prefetch(path, enter)
    }
}

/// A context in the store, without what its ignore patterns leave out.
#[derive(Debug)]
pub struct StoredContext {
    view: View,
    ignore: Option<Matcher>,
    mode: ContextMode,
}

impl StoredContext {
    /// The files of `view`.
    pub fn new(view: View, ignore: Option<Matcher>, mode: ContextMode) -> Self {
        let ignore = ignore.filter(|matcher| !matcher.is_empty());
        Self { view, ignore, mode }
    }

    /// Whether there is such a thing; a directory that is left out may be there to hold what is not.
    fn shows(&self, entry: &Entry) -> Result<bool, TreeError> {
        let Some(matcher) = &self.ignore else {
            return Ok(true);
        };
        // Not recursive: the depth of a tree is its maker's choice.
        let mut open = vec![entry.clone()];
        while let Some(entry) = open.pop() {
            let path = entry.path.as_bytes();
            if entry.path.is_root() || !matcher.excludes(path) {
                return Ok(true);
            }
            if entry.is_dir() && matcher.has_negations() && matcher.may_include_below(path) {
                open.extend(self.view.read_dir(&entry.path)?);
            }
        }
        Ok(false)
    }
}

impl Tree for StoredContext {
    fn lookup(&self, path: &LayerPath) -> Result<Option<Entry>, TreeError> {
        match self.view.lookup(path)? {
            Some(entry) if self.shows(&entry)? => Ok(Some(self.mode.shown(entry))),
            _ => Ok(None),
        }
    }

    fn read_dir(&self, path: &LayerPath) -> Result<Vec<Entry>, TreeError> {
        let mut shown = Vec::new();
        for entry in self.view.read_dir(path)? {
            if self.shows(&entry)? {
                shown.push(self.mode.shown(entry));
            }
        }
        Ok(shown)
    }

    fn open(&self, path: &LayerPath) -> Result<Box<dyn Read + Send>, TreeError> {
        self.view.open(path)
    }

    fn content_digest(&self, entry: &Entry) -> Result<ContentDigest, TreeError> {
        self.view.content_digest(entry)
    }

    fn link_group(&self, entry: &Entry) -> Result<Option<u64>, TreeError> {
        match self.mode {
            ContextMode::Raw => self.view.link_group(entry),
            ContextMode::Git { .. } => Ok(None),
        }
    }
}

/// A tree of one file that is in no store.
#[derive(Debug)]
pub struct LoneFile {
    file: Arc<File>,
    entry: Entry,
}

impl LoneFile {
    /// Calls a file `name`, which is a plain name.
    pub fn new(file: File, name: &str) -> io::Result<Self> {
        let size = file.metadata()?.len();
        let entry = Entry {
            path: LayerPath::clean(name.as_bytes()),
            kind: Kind::File { size },
            mode: 0o600,
            uid: 0,
            gid: 0,
            mtime: Timestamp::default(),
            xattrs: Vec::new(),
        };
        Ok(Self {
            file: Arc::new(file),
            entry,
        })
    }
}

impl Tree for LoneFile {
    fn lookup(&self, path: &LayerPath) -> Result<Option<Entry>, TreeError> {
        let root = Entry {
            path: LayerPath::root(),
            kind: Kind::Directory { opaque: false },
            mode: 0o755,
            ..self.entry.clone()
        };
        Ok([root, self.entry.clone()]
            .into_iter()
            .find(|entry| entry.path == *path))
    }

    fn read_dir(&self, path: &LayerPath) -> Result<Vec<Entry>, TreeError> {
        let entries = path.is_root().then(|| self.entry.clone());
        Ok(entries.into_iter().collect())
    }

    fn open(&self, _path: &LayerPath) -> Result<Box<dyn Read + Send>, TreeError> {
        Ok(Box::new(FromStart {
            file: Arc::clone(&self.file),
            offset: 0,
        }))
    }

    fn content_digest(&self, entry: &Entry) -> Result<ContentDigest, TreeError> {
        let mut hasher = blake3::Hasher::new();
        let copied = io::copy(&mut self.open(&entry.path)?, &mut hasher);
        copied.map_err(|cause| TreeError::Io {
            path: entry.path.clone(),
            cause,
        })?;
        Ok(ContentDigest(*hasher.finalize().as_bytes()))
    }

    fn link_group(&self, _entry: &Entry) -> Result<Option<u64>, TreeError> {
        Ok(None)
    }
}

/// Reads a file that others read too.
struct FromStart {
    file: Arc<File>,
    offset: u64,
}

impl Read for FromStart {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read_at(buffer, self.offset)?;
        self.offset += count as u64;
        Ok(count)
    }
}
