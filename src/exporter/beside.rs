//! A tree with a few more files in its root: what is said of it, where it is exported as files.

use std::fmt;
use std::io::{Cursor, Read};
use std::time::SystemTime;

use rbuild_cache::ContentDigest;
use rbuild_cache::layer::{Entry, Kind, LayerPath, Timestamp};
use rbuild_cache::tree::{Tree, TreeError};

/// The tree and the files; a file stands before one of the tree with its name.
pub(super) struct Beside<'a> {
    tree: &'a dyn Tree,
    files: Vec<(Entry, Vec<u8>)>,
}

impl<'a> Beside<'a> {
    /// The files bear the time `epoch`, or that of now.
    pub(super) fn new(tree: &'a dyn Tree, files: Vec<(String, Vec<u8>)>, epoch: Option<i64>) -> Self {
        let now = || {
            let since = SystemTime::now()
                .duration_since(SystemTime::UNIX_EPOCH)
                .unwrap_or_default();
            i64::try_from(since.as_secs()).unwrap_or(0)
        };
        let mtime = Timestamp {
            seconds: epoch.unwrap_or_else(now),
            nanoseconds: 0,
        };
        let entry = |(name, bytes): (String, Vec<u8>)| {
            let entry = Entry {
                path: LayerPath::root().join(name.as_bytes()),
                kind: Kind::File {
                    size: bytes.len() as u64,
                },
                mode: 0o644,
                uid: 0,
                gid: 0,
                mtime,
                xattrs: Vec::new(),
            };
            (entry, bytes)
        };
        Self {
            tree,
            files: files.into_iter().map(entry).collect(),
        }
    }

    fn file(&self, path: &LayerPath) -> Option<&(Entry, Vec<u8>)> {
        self.files.iter().find(|(entry, _)| entry.path == *path)
    }
}

impl fmt::Debug for Beside<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Beside")
            .field("files", &self.files.len())
            .finish_non_exhaustive()
    }
}

impl Tree for Beside<'_> {
    fn lookup(&self, path: &LayerPath) -> Result<Option<Entry>, TreeError> {
        match self.file(path) {
            Some((entry, _)) => Ok(Some(entry.clone())),
            None => self.tree.lookup(path),
        }
    }

    fn read_dir(&self, path: &LayerPath) -> Result<Vec<Entry>, TreeError> {
        let mut entries = self.tree.read_dir(path)?;
        if path.is_root() && !self.files.is_empty() {
            entries.retain(|entry| self.file(&entry.path).is_none());
            entries.extend(self.files.iter().map(|(entry, _)| entry.clone()));
            entries.sort_by(|one, other| one.path.name().cmp(other.path.name()));
        }
        Ok(entries)
    }

    fn open(&self, path: &LayerPath) -> Result<Box<dyn Read + Send>, TreeError> {
        match self.file(path) {
            Some((_, bytes)) => Ok(Box::new(Cursor::new(bytes.clone()))),
            None => self.tree.open(path),
        }
    }

    fn content_digest(&self, entry: &Entry) -> Result<ContentDigest, TreeError> {
        match self.file(&entry.path) {
            Some((_, bytes)) => Ok(ContentDigest::of(bytes)),
            None => self.tree.content_digest(entry),
        }
    }

    fn link_group(&self, entry: &Entry) -> Result<Option<u64>, TreeError> {
        match self.file(&entry.path) {
            Some(_) => Ok(None),
            None => self.tree.link_group(entry),
        }
    }
}
