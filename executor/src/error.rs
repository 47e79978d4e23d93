//! What can go wrong between "run this" and the exit code of the command.

use std::io;

/// Why a command did not run, or not to its end.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The value of `--isolation` is unknown or not supported.
    #[error("{0}")]
    Isolation(String),
    /// Limits that contradict each other.
    #[error("{0}")]
    Limits(String),
    /// No isolation can be had on this machine; the text says which setting is in the way.
    #[error("entering the build sandbox: {reason}")]
    Unavailable {
        /// What was refused, and what to change.
        reason: String,
    },
    /// The root file system or the namespaces of a step could not be made.
    #[error("preparing the sandbox: {0}")]
    Setup(String),
    /// The command could not be started: no such user, no such program, a wrong format.
    #[error("{0}")]
    Start(String),
    /// The step was cancelled, and its processes are gone.
    #[error("cancelled")]
    Cancelled,
    /// The builder's own machinery failed.
    #[error("{doing}: {cause}")]
    Internal {
        /// What was being done.
        doing: String,
        /// The system's answer.
        cause: io::Error,
    },
}

impl Error {
    /// Wraps a system error with what was being done.
    pub(crate) fn internal(doing: impl Into<String>, cause: impl Into<io::Error>) -> Error {
        Error::Internal {
            doing: doing.into(),
            cause: cause.into(),
        }
    }
}
