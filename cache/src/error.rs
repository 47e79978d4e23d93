//! What can go wrong with bytes at rest. Every variant names what was being done and to which
//! path, digest or layer; remedies stand in the message where there is one.

use std::io;
use std::path::{Path, PathBuf};

use crate::digest::Digest;

/// Why the store could not do what it was asked for.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// A system call failed.
    #[error("{doing} {}: {source}{}", path.display(), remedy(source))]
    Io {
        /// What was being done, for example `"writing"`.
        doing: &'static str,
        /// To what.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The store directory must not be used as it is.
    #[error("refusing the store {}: {reason}", path.display())]
    Refused {
        /// The directory.
        path: PathBuf,
        /// What is wrong and what to do about it.
        reason: String,
    },
    /// The store has no such blob.
    #[error("the store has no blob {digest}")]
    MissingBlob {
        /// The blob that was asked for.
        digest: Digest,
    },
    /// Bytes at rest are not what they were. They have been removed: the next look is a miss.
    #[error("{what} was damaged and has been removed ({reason})")]
    Damaged {
        /// What was damaged.
        what: String,
        /// How it showed.
        reason: String,
    },
    /// Bytes that were being stored are not those that were announced.
    #[error("expected {expected}, but the bytes are {actual}")]
    DigestMismatch {
        /// The announced digest.
        expected: Digest,
        /// The digest of the bytes that came.
        actual: Digest,
    },
    /// A blob that is read as a whole is larger than its reader allows.
    #[error("blob {digest} has {size} bytes, more than the {limit} allowed for what it is read as")]
    TooLarge {
        /// The blob.
        digest: Digest,
        /// Its size.
        size: u64,
        /// The limit.
        limit: u64,
    },
    /// `index.json` cannot be understood, so nothing is known about tags.
    #[error(
        "{} is damaged ({reason}); to get back the tags as they were before the last change, run: \
         mv {1}.bak {1}; to start without tags, remove it", path.display(), path.display()
    )]
    Index {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A layer cannot be read, written or converted.
    #[error("{doing} layer {layer}: {source}{}", remedy(source))]
    Layer {
        /// What was being done, for example `"unpacking"`.
        doing: &'static str,
        /// Its name, or what will be its name.
        layer: String,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// Somebody holds a lock for longer than anybody needs it.
    #[error("locking {}: {others} and has held the lock for more than {seconds} s; if it hangs, end it", path.display())]
    Locked {
        /// The file.
        path: PathBuf,
        /// How long it was waited for.
        seconds: u64,
        /// Who they are, for example `"another rbuild process is using the store (pid 10)"`.
        others: String,
    },
}

impl StoreError {
    /// Whether the disk is full.
    pub(crate) fn is_about_space(&self) -> bool {
        match self {
            Self::Io { source, .. } | Self::Layer { source, .. } => is_about_space(source),
            _ => false,
        }
    }

    /// `doing` something to `path` failed with `source`.
    pub(crate) fn io(doing: &'static str, path: impl AsRef<Path>, source: impl Into<io::Error>) -> Self {
        let path = path.as_ref();
        Self::Io {
            doing,
            path: path.to_owned(),
            source: with_free_space(path, source.into()),
        }
    }
}

/// An error about a full disk says how much is free, as long as that is so.
pub(crate) fn with_free_space(path: &Path, error: io::Error) -> io::Error {
    match unexplained(&error).then(|| free_space(path)).flatten() {
        Some(free) => io::Error::new(error.kind(), format!("{error}: {free}")),
        None => error,
    }
}

/// What there is to say of a full disk that kept something outside of the store from being written to `path`: how much is
/// free there, and what helps. `None` when `errors` (an error and its causes) are not about that, or say it.
pub fn full_disk<'a>(
    mut errors: impl Iterator<Item = &'a (dyn std::error::Error + 'static)>,
    path: &Path,
) -> Option<String> {
    errors
        .find(|error| error.downcast_ref().is_some_and(is_about_space))
        .filter(|error| error.downcast_ref().is_some_and(unexplained))?;
    let free = free_space(path)?;
    Some(format!(
        "{free}; another destination may have more, rbuild prune gives back what the cache takes"
    ))
}

/// Whether `error` is about a full disk and does not say how much is free.
fn unexplained(error: &io::Error) -> bool {
    is_about_space(error) && !error.to_string().contains(FREE_THERE)
}

/// What is free where `path` is or would be.
fn free_space(path: &Path) -> Option<String> {
    let disk = path.ancestors().find_map(|path| rustix::fs::statvfs(path).ok())?;
    let bytes = disk.f_bavail.saturating_mul(disk.f_frsize);
    let files = disk.f_favail;
    let path = path.display();
    Some(format!("{bytes} bytes and {files} files {FREE_THERE} {path}"))
}

const FREE_THERE: &str = "are free on the disk of";

fn is_about_space(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

/// What helps against `error`, where that is always the same.
fn remedy(error: &io::Error) -> &'static str {
    if is_about_space(error) {
        return "; rbuild prune gives back what the cache takes, --root chooses another disk";
    }
    match error.raw_os_error().map(rustix::io::Errno::from_raw_os_error) {
        Some(rustix::io::Errno::MFILE) => "; ulimit -n says how many files may be open, 256 are enough",
        Some(rustix::io::Errno::FBIG) => "; ulimit -f says how large a file may become",
        _ => "",
    }
}
