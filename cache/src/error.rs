//! What can go wrong with bytes at rest. Every variant names what was being done and to which
//! path, digest or layer; remedies stand in the message where there is one.
//!
//! **Causes.** The text of an error holds its cause, and so `source` is empty: whoever prints a chain says it once. Who has to
//! know the system's answer asks [`io_cause`].
//!
//! **Full disks.** A [`Cause`] cannot be made without the place on the disk it is about, so that no error leaves the store
//! that does not say what is free there.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use crate::digest::Digest;
use crate::tree::TreeError;

/// Why the store could not do what it was asked for.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// A system call failed.
    #[error("{doing} {}: {cause}", path.display())]
    Io {
        /// What was being done, for example `"writing"`.
        doing: &'static str,
        /// To what.
        path: PathBuf,
        /// What the system said.
        cause: Cause,
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
    #[error("{doing} layer {layer}: {cause}")]
    Layer {
        /// What was being done, for example `"unpacking"`.
        doing: &'static str,
        /// Its name, or what will be its name.
        layer: String,
        /// What the system said.
        cause: Cause,
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
    /// `doing` something to `path` failed with `error`.
    pub(crate) fn io(doing: &'static str, path: impl AsRef<Path>, error: impl Into<io::Error>) -> Self {
        let path = path.as_ref();
        Self::Io {
            doing,
            path: path.to_owned(),
            cause: Cause::at(path, "there", error.into()),
        }
    }

    /// `doing` something to `layer`, which lies below `root`, failed with `error`.
    pub(crate) fn layer(
        doing: &'static str,
        layer: impl fmt::Display,
        root: &Path,
        error: io::Error,
    ) -> Self {
        Self::Layer {
            doing,
            layer: layer.to_string(),
            cause: Cause::at(root, format_args!("on the disk of {}", root.display()), error),
        }
    }

    /// The system's answer, where that is the cause.
    pub fn io_cause(&self) -> Option<&io::Error> {
        match self {
            Self::Io { cause, .. } | Self::Layer { cause, .. } => Some(&cause.error),
            _ => None,
        }
    }

    /// Whether the disk is full.
    pub(crate) fn is_about_space(&self) -> bool {
        self.io_cause().is_some_and(is_about_space)
    }
}

impl From<StoreError> for io::Error {
    /// For what is read and written as any other file. The kind stays.
    fn from(error: StoreError) -> Self {
        let kind = error.io_cause().map_or(io::ErrorKind::Other, io::Error::kind);
        Self::new(kind, error)
    }
}

/// What the system said, and what there is to add: of a full disk how much is free, and what helps.
#[derive(Debug)]
pub struct Cause {
    error: io::Error,
    free: Option<String>,
}

impl Cause {
    /// `error` came of something at `path`, which is called `place`.
    fn at(path: &Path, place: impl fmt::Display, error: io::Error) -> Self {
        let free = is_unexplained(&error).then(|| free_space(path)).flatten();
        let free = free.map(|free| format!("{free} {place}"));
        Self { error, free }
    }

    /// The system's answer.
    pub fn error(&self) -> &io::Error {
        &self.error
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.error)?;
        if let Some(free) = &self.free {
            write!(f, ": {free}")?;
        }
        f.write_str(remedy(&self.error))
    }
}

/// The system's answer in `error`, one of a chain.
pub fn io_cause<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a io::Error> {
    error
        .downcast_ref::<io::Error>()
        .or_else(|| error.downcast_ref::<StoreError>()?.io_cause())
        .or_else(|| error.downcast_ref::<TreeError>()?.io_cause())
}

/// What there is to say of a full disk that kept something outside of the store from being written to `path`: how much is
/// free there, and what helps. `None` when `errors` (an error and its causes) are not about that, or say it.
pub fn full_disk<'a>(
    errors: impl Iterator<Item = &'a (dyn std::error::Error + 'static)>,
    path: &Path,
) -> Option<String> {
    let mut answers = errors.filter_map(|error| error.downcast_ref::<io::Error>());
    answers
        .find(|error| is_about_space(error))
        .filter(|error| is_unexplained(error))?;
    let free = free_space(path)?;
    Some(format!(
        "{free} on the disk of {}; another destination may have more, rbuild prune gives back what the cache takes",
        path.display()
    ))
}

/// Whether `error` is about a full disk and no error of the store, which says how much is free.
fn is_unexplained(error: &io::Error) -> bool {
    is_about_space(error) && !is_of_store(error)
}

fn is_of_store(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<StoreError>())
}

/// What is free where `path` is or would be.
fn free_space(path: &Path) -> Option<String> {
    let disk = path.ancestors().find_map(|path| rustix::fs::statvfs(path).ok())?;
    let bytes = disk.f_bavail.saturating_mul(disk.f_frsize);
    let files = disk.f_favail;
    Some(format!("{bytes} bytes and {files} files are free"))
}

fn is_about_space(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

/// What helps against `error`, where that is always the same.
fn remedy(error: &io::Error) -> &'static str {
    if is_of_store(error) {
        return "";
    }
    if is_about_space(error) {
        return "; rbuild prune gives back what the cache takes, --root chooses another disk";
    }
    match error.raw_os_error().map(rustix::io::Errno::from_raw_os_error) {
        Some(rustix::io::Errno::MFILE) => "; ulimit -n says how many files may be open, 256 are enough",
        Some(rustix::io::Errno::FBIG) => "; ulimit -f says how large a file may become",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer::LayerPath;

    #[test]
    fn causes_are_said_once_and_found() {
        let denied = || io::Error::from(rustix::io::Errno::ACCESS);
        let path = Path::new("/a");
        let of_tree = TreeError::Io {
            path: LayerPath::clean(b"x"),
            cause: denied(),
        };
        let errors: [Box<dyn std::error::Error>; 5] = [
            Box::new(StoreError::io("writing", path, denied())),
            Box::new(StoreError::layer("reading", "l", path, denied())),
            Box::new(io::Error::from(StoreError::io("writing", path, denied()))),
            Box::new(StoreError::layer(
                "writing",
                "l",
                path,
                StoreError::io("writing", path, denied()).into(),
            )),
            Box::new(of_tree),
        ];
        for error in errors {
            assert_eq!(
                error.to_string().matches("Permission denied").count(),
                1,
                "{error}"
            );
            assert!(error.source().is_none(), "{error}");
            let cause = io_cause(&*error).unwrap();
            assert_eq!(cause.kind(), io::ErrorKind::PermissionDenied);
        }
        let damaged = StoreError::Damaged {
            what: "x".to_owned(),
            reason: "y".to_owned(),
        };
        assert!(io_cause(&damaged).is_none());
    }

    #[test]
    fn a_full_disk_is_explained_once() {
        let full = || io::Error::from(rustix::io::Errno::NOSPC);
        let written = || io::Error::from(StoreError::io("writing", "/tmp/x", full()));
        let layer = StoreError::layer("writing", "l", Path::new("/tmp"), written());
        let once = StoreError::layer("writing", "l", Path::new("/tmp"), full());
        for error in [&layer, &once] {
            let text = error.to_string();
            for part in ["No space left", "are free ", "rbuild prune"] {
                assert_eq!(text.matches(part).count(), 1, "{text}");
            }
            assert!(error.is_about_space());
            let chain: [&(dyn std::error::Error + 'static); 1] = [error];
            assert_eq!(full_disk(chain.into_iter(), path()), None);
        }
        let (full, written) = (full(), written());
        let chain = |error| -> [&(dyn std::error::Error + 'static); 1] { [error] };
        assert!(full_disk(chain(&full).into_iter(), path()).is_some());
        assert_eq!(full_disk(chain(&written).into_iter(), path()), None);
    }

    fn path() -> &'static Path {
        Path::new("/tmp")
    }
}
