//! Where a Dockerfile's text comes from.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, ensure};
use rustix::io::Errno;

use crate::source::ignore_file::beneath;

/// No Dockerfile is that large.
pub(super) const DOCKERFILE_LIMIT: u64 = 16 << 20;

/// Where the Dockerfile is.
#[derive(Debug, Clone)]
pub enum DockerfileSource {
    /// A file.
    File {
        /// As it is opened.
        path: PathBuf,
        /// As messages name it.
        shown: Arc<str>,
        /// The context that it must not lead out of; `None` for a file that the user named.
        context: Option<PathBuf>,
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
        Self::File {
            path,
            shown,
            context: None,
        }
    }

    /// The file of this name of a context that is a directory.
    pub fn of_context(directory: &Path, name: &str) -> Self {
        Self::File {
            path: directory.join(name),
            shown: Arc::from(name),
            context: Some(directory.to_owned()),
        }
    }

    /// The bytes.
    pub fn read(&self) -> anyhow::Result<Vec<u8>> {
        match self {
            Self::File { path, shown, context } => {
                let doing = || format!("failed to read dockerfile: open {}", path.display());
                let file = match context {
                    None => File::open(path).with_context(doing)?,
                    Some(context) => {
                        let file = File::from(
                            beneath(context, shown)
                                .map_err(|errno| outside(errno, path))
                                .with_context(doing)?,
                        );
                        // A pipe or a device of the context would be waited for.
                        ensure!(
                            file.metadata().with_context(doing)?.is_file(),
                            "{}: it is no regular file",
                            doing()
                        );
                        file
                    }
                };
                limited(file).with_context(doing)
            }
            Self::Text(bytes) | Self::Named { bytes, .. } => Ok(bytes.to_vec()),
            Self::Pending => anyhow::bail!("the Dockerfile was not received"),
            Self::Stdin => {
                limited(std::io::stdin().lock()).context("reading the Dockerfile from standard input")
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

/// All of it, if that is not too much.
fn limited(file: impl Read) -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(DOCKERFILE_LIMIT + 1).read_to_end(&mut bytes)?;
    ensure!(
        bytes.len() as u64 <= DOCKERFILE_LIMIT,
        "it has more than {DOCKERFILE_LIMIT} bytes"
    );
    Ok(bytes)
}

/// Why a Dockerfile of the context cannot be opened.
fn outside(errno: Errno, path: &Path) -> io::Error {
    match errno {
        Errno::XDEV | Errno::LOOP => io::Error::other(format!(
            "it is a symbolic link that leads out of the context: name what it leads to with -f {}",
            std::fs::canonicalize(path)
                .unwrap_or_else(|_| path.to_owned())
                .display()
        )),
        errno => errno.into(),
    }
}
