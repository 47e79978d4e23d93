//! A directory of this machine as a tree: the build context and named contexts.

use std::path::{Path, PathBuf};

use rbuild_cache::tree::{Tree, TreeError};
use rbuild_cache::{
    ContentDigest,
    layer::{Entry, LayerPath},
};
use rbuild_parser::ignore::Matcher;

/// A directory, opened once, without what its ignore patterns leave out. Owners are shown as 0:0 (spec P12).
#[derive(Debug)]
pub struct LocalContext {}

impl LocalContext {
    /// Opens the directory.
    pub fn open(_path: &Path, _ignore: Option<Matcher>) -> Result<Self, TreeError> {
        Ok(Self {})
    }

    /// What was left out although it was asked for: sockets. One line each, sorted; given once.
    pub fn take_warnings(&self) -> Vec<String> {
        Vec::new()
    }
}

/// The ignore file that holds for a context: `<dockerfile>.dockerignore` beside the Dockerfile if there is one, even an
/// empty one, else `.dockerignore` at the root of the context (spec 6.1). Its path and its patterns.
pub fn load_ignore(
    _context: &Path,
    _dockerfile: Option<&Path>,
) -> anyhow::Result<Option<(PathBuf, Vec<String>)>> {
    Ok(None)
}

impl Tree for LocalContext {
    fn lookup(&self, _path: &LayerPath) -> Result<Option<Entry>, TreeError> {
        Ok(None)
    }
    fn read_dir(&self, _path: &LayerPath) -> Result<Vec<Entry>, TreeError> {
        Ok(Vec::new())
    }
    fn open(&self, path: &LayerPath) -> Result<Box<dyn std::io::Read + Send>, TreeError> {
        Err(TreeError::Store {
            path: path.clone(),
            reason: "not there".into(),
        })
    }
    fn content_digest(&self, entry: &Entry) -> Result<ContentDigest, TreeError> {
        Err(TreeError::Store {
            path: entry.path.clone(),
            reason: "not there".into(),
        })
    }
    fn link_group(&self, _entry: &Entry) -> Result<Option<u64>, TreeError> {
        Ok(None)
    }
}
