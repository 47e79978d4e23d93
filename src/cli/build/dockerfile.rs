//! Where a Dockerfile's text comes from.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;

/// Where the Dockerfile is.
#[derive(Debug, Clone)]
pub enum DockerfileSource {
    /// A file.
    File {
        /// As it is opened.
        path: PathBuf,
        /// As messages name it.
        shown: Arc<str>,
    },
    /// `-f -`.
    Stdin,
    /// What standard input was found to be.
    Text(Arc<[u8]>),
}

impl DockerfileSource {
    /// The bytes.
    pub fn read(&self) -> anyhow::Result<Vec<u8>> {
        match self {
            Self::File { path, .. } => std::fs::read(path)
                .with_context(|| format!("failed to read dockerfile: open {}", path.display())),
            Self::Text(bytes) => Ok(bytes.to_vec()),
            Self::Stdin => {
                let mut bytes = Vec::new();
                std::io::stdin()
                    .read_to_end(&mut bytes)
                    .context("reading the Dockerfile from standard input")?;
                Ok(bytes)
            }
        }
    }

    /// The file, if it is one.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::File { path, .. } => Some(path),
            Self::Stdin | Self::Text(_) => None,
        }
    }

    /// How messages name it.
    pub fn shown(&self) -> Arc<str> {
        match self {
            Self::File { shown, .. } => shown.clone(),
            Self::Stdin | Self::Text(_) => Arc::from("Dockerfile"),
        }
    }
}
