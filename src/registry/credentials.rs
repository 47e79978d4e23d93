//! Which password belongs to which host? Docker's config.json, containers' auth.json and their
//! credential helpers, read and never written.
//!
//! Invariant: an entry serves exactly the host that it names. A helper or a file that is broken is
//! an error: nothing falls back to another entry (CVE-2021-41092). No secret is in `Debug` or in an
//! error.

use std::path::PathBuf;

/// Credentials could not be read.
#[derive(Debug, thiserror::Error)]
pub enum CredentialError {
    /// A file cannot be read.
    #[error("reading credentials from {path}: {cause}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        cause: std::io::Error,
    },
    /// A file is not what it should be.
    #[error("reading credentials from {path}: {reason}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong, without its contents.
        reason: String,
    },
    /// A helper failed.
    #[error("asking credential helper {helper} for {host}: {reason}")]
    Helper {
        /// Name of the program.
        helper: String,
        /// For which host.
        host: String,
        /// What happened, without its output.
        reason: String,
    },
}
