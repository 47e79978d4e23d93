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
    /// What standard input, or an address, was found to be.
    Text(Arc<[u8]>),
    /// A file of a context that is no directory.
    Named {
        /// Its bytes.
        bytes: Arc<[u8]>,
        /// As messages name it.
        shown: Arc<str>,
    },
    /// In what has not been received yet.
    Pending,
}

impl DockerfileSource {
    /// A file of this machine.
    pub fn of_path(path: PathBuf) -> Self {
        let shown = path
            .file_name()
            .map_or_else(|| path.to_string_lossy(), |name| name.to_string_lossy());
        let shown = Arc::from(&*shown);
        Self::File { path, shown }
    }

    /// The bytes.
    pub fn read(&self) -> anyhow::Result<Vec<u8>> {
        match self {
            Self::File { path, .. } => std::fs::read(path)
                .with_context(|| format!("failed to read dockerfile: open {}", path.display())),
            Self::Text(bytes) | Self::Named { bytes, .. } => Ok(bytes.to_vec()),
            Self::Pending => anyhow::bail!("the Dockerfile was not received"),
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
            _ => None,
        }
    }

    /// How messages name it.
    pub fn shown(&self) -> Arc<str> {
        match self {
            Self::File { shown, .. } | Self::Named { shown, .. } => shown.clone(),
            _ => Arc::from("Dockerfile"),
        }
    }
}
